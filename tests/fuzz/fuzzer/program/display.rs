//! How a program is printed.

use std::fmt;

use super::{Aside, Memory, Program, Step, Then};

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:?}", self.setting)?;
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {index:>3}  {step}")?;
        }
        write!(f, "  end  {:?}", self.ending)
    }
}

impl fmt::Display for Step {
    /// What is not said is not so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, is_background) = match *self {
            Step::Submit { on, work, limit_us, background, memory, prepare, drop, then } => {
                write!(f, "Submit on {on}: {work:?}")?;
                if memory != Memory::Box {
                    write!(f, ", in a {memory:?}")?;
                }
                if prepare != Aside::Nothing {
                    write!(f, ", in prepare {prepare:?}")?;
                }
                if drop != Aside::Nothing {
                    write!(f, ", when dropped {drop:?}")?;
                }
                if then != Then::Nothing {
                    write!(f, ", then {then:?}")?;
                }
                (limit_us, background)
            }
            Step::SubmitSeries { on, series, items, limit_us, background, item, drop, then } => {
                write!(f, "SubmitSeries on {on}: {series:?}, up to {items} items")?;
                if item != Then::Nothing {
                    write!(f, ", at items {item:?}")?;
                }
                if drop != Aside::Nothing {
                    write!(f, ", when dropped {drop:?}")?;
                }
                if then != Then::Nothing {
                    write!(f, ", then {then:?}")?;
                }
                (limit_us, background)
            }
            _ => return fmt::Debug::fmt(self, f),
        };
        if let Some(limit) = limit {
            write!(f, ", within {limit} µs")?;
        }
        if is_background {
            write!(f, ", in the background")?;
        }
        Ok(())
    }
}
