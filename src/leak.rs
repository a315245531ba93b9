//! What a loop says, on standard error, of operations that did not end when it was dropped: their memory is
//! leaked, and this tells who has it.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::time::Duration;

use crate::in_flight::InFlightOp;
use crate::op::OpKind;

/// Who may keep an operation from ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Kernel,
    ThreadPool,
}

impl Holder {
    /// Who has an operation on a backend whose own are held by `of_backend`.
    fn of(kind: OpKind, of_backend: Holder) -> Holder {
        if kind == OpKind::Offload { Holder::ThreadPool } else { of_backend }
    }
}

/// Reports the operations that are left. Dropping a loop must not fail, so an error of writing is ignored.
pub(crate) fn report(left: impl Iterator<Item = InFlightOp> + Clone, of_backend: Holder, waited: Duration) {
    let mut line = Line { bytes: [0; LINE_BYTES], len: 0 };
    let _ = write_line(&mut line, left, of_backend, waited);
    // A model does that a thousand times.
    if !cfg!(loom) {
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

fn write_line(
    line: &mut Line,
    left: impl Iterator<Item = InFlightOp> + Clone,
    of_backend: Holder,
    waited: Duration,
) -> fmt::Result {
    /// More are counted, and not named.
    const NAMED_MAX: usize = 8;
    let count = left.clone().count();
    write!(
        line,
        "oxev: the memory of {count} operation{} is leaked, which did not end within ",
        plural(count)
    )?;
    write!(line, "{waited:?} when the loop was dropped")?;
    for (holder, name) in [(Holder::Kernel, "the kernel"), (Holder::ThreadPool, "a thread pool")] {
        let its = || left.clone().filter(move |op| Holder::of(op.kind, of_backend) == holder);
        let count = its().count();
        for (number, op) in its().take(NAMED_MAX).enumerate() {
            let before = if number == 0 { format_args!("; {name} has ") } else { format_args!(", ") };
            write!(line, "{before}{}", op.kind)?;
            if let Some(fd) = op.fd {
                write!(line, " on descriptor {fd}")?;
            }
        }
        if count > NAMED_MAX {
            write!(line, " and {} more", count - NAMED_MAX)?;
        }
    }
    writeln!(line)
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

const LINE_BYTES: usize = 1024;

/// A line that is written at once, so that others do not come between, and without an allocation.
struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Line {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let place = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{OpId, Token};

    fn line(left: &[(OpKind, Option<i32>)]) -> String {
        let id = OpId { token: Token::NONE, loop_id: 0 };
        let ops = left.iter().map(|&(kind, fd)| InFlightOp { id, kind, fd, age: Duration::ZERO });
        let mut line = Line { bytes: [0; LINE_BYTES], len: 0 };
        write_line(&mut line, ops, Holder::Kernel, Duration::from_millis(200)).unwrap();
        String::from_utf8(line.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_report_names_who_has_what() {
        assert_eq!(
            line(&[(OpKind::Read, Some(5)), (OpKind::Offload, None), (OpKind::Nop, None)]),
            "oxev: the memory of 3 operations is leaked, which did not end within 200ms when the loop was \
             dropped; the kernel has Read on descriptor 5, Nop; a thread pool has Offload\n"
        );
    }

    #[test]
    fn what_is_too_many_is_counted() {
        let many = line(&vec![(OpKind::SendVectored, Some(i32::MAX)); 1000]);
        assert!(many.contains("of 1000 operations") && many.ends_with(" and 992 more\n"), "{many}");
    }
}
