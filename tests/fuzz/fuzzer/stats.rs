//! How often everything happened: so that it is known that something did.

use std::collections::BTreeMap;
use std::fmt;

#[derive(Clone, Debug, Default)]
pub(crate) struct Stats(BTreeMap<(&'static str, &'static str), u64>);

impl Stats {
    pub(crate) fn count(&mut self, what: &'static str, how: &'static str) {
        self.add(what, how, 1);
    }

    pub(crate) fn add(&mut self, what: &'static str, how: &'static str, count: u64) {
        *self.0.entry((what, how)).or_default() += count;
    }

    pub(crate) fn merge(&mut self, other: &Stats) {
        for (&(what, how), &count) in &other.0 {
            self.add(what, how, count);
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        for (&(what, how), count) in &self.0 {
            if what != last {
                write!(f, "{}{what:>22}:", if last.is_empty() { "" } else { "\n" })?;
                last = what;
            }
            write!(f, "  {how} {count}")?;
        }
        Ok(())
    }
}
