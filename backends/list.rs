//! What the list of backends makes of each of its lines, and what a backend brings to be in it.

use std::io;
use std::time::Duration;

use super::Options;
use crate::leak::Holder;
use crate::sim_hooks::{SimContext, VirtualTime};
#[cfg(backend_custom)]
use crate::sys::errno;
use crate::waker::Waker;

/// What the loop wants of a backend of the list beside the contract ([`Driver`](super::Driver)). What has an answer here
/// is answered so by most.
pub(super) trait Listed: Sized {
    /// A program that polls the loop polls another event than the one that ends the backend's waits.
    const SHOWS_EVENT: bool = false;

    /// Makes one with room for `capacity` operations, if that can be done here.
    fn new(options: &Options, capacity: usize, waker: &Waker) -> io::Result<Self>;

    /// The time that its loop lives in.
    fn time(&self) -> VirtualTime {
        VirtualTime::default()
    }

    /// The world that its loop's callbacks run in.
    fn sim_context(&self) -> Option<SimContext> {
        None
    }

    /// When something happens next that does not show in the descriptor.
    fn next_event_ns(&self) -> Option<u64> {
        None
    }

    /// Who has the operations that it was asked in vain to end.
    fn holder(&self) -> Holder {
        Holder::Kernel
    }

    /// Whether its operations are worked on by this process, so that a forked child has them half done.
    fn works_in_process(&self) -> bool {
        false
    }

    /// This process is a forked child: what the parent shares with its kernel is not touched, from here on and in the
    /// drop.
    fn leave_to_parent(&mut self) {}

    /// Parts with the thread pool, and waits no longer than this for its threads if this was the last handle.
    fn release_pool(&mut self, _limit: Duration) {}
}

#[cfg(backend_custom)]
impl Listed for Box<dyn super::Driver> {
    fn new(options: &Options, capacity: usize, waker: &Waker) -> io::Result<Self> {
        let make = options.driver.ok_or_else(|| errno::error(errno::EINVAL))?;
        make(capacity, waker.clone())
    }

    fn works_in_process(&self) -> bool {
        true
    }
}

/// Makes a backend, and the waker that reaches it.
pub(super) fn make<B: Listed>(options: &Options, capacity: usize) -> io::Result<(B, Waker)> {
    let waker = Waker::new(B::SHOWS_EVENT)?;
    Ok((B::new(options, capacity, &waker)?, waker))
}

/// Expands to [`Kind`](super::Kind), to the enum of the backends that are compiled in, and to `forward!`, which passes a
/// call on to the one that there is. A line is the name of the variant, the name that a program gives it, and its type.
macro_rules! backends {
    // A dollar sign, for `forward!`.
    (($d:tt)
        chosen: $($(#[doc = $chosen_doc:literal])+ #[cfg($chosen_cfg:meta)] $chosen:ident = $chosen_name:literal, $chosen_type:ty;)+
        asked_for: $($(#[doc = $asked_doc:literal])+ #[cfg($asked_cfg:meta)] $asked:ident = $asked_name:literal, $asked_type:ty;)+
    ) => {
        impl Kind {
            /// The backends that are compiled in and that a loop chooses among, best first.
            pub const COMPILED: &'static [Kind] = &[$(#[cfg($chosen_cfg)] Kind::$chosen,)+];
        }

        $crate::backends::list::backends! { @all ($d)
            $($(#[doc = $chosen_doc])+ #[cfg($chosen_cfg)] $chosen = $chosen_name, $chosen_type;)+
            $($(#[doc = $asked_doc])+ #[cfg($asked_cfg)] $asked = $asked_name, $asked_type;)+
        }
    };

    (@all ($d:tt) $($(#[doc = $doc:literal])+ #[cfg($cfg:meta)] $kind:ident = $name:literal, $type:ty;)+) => {
        #[cfg(not(any($($cfg),+)))]
        compile_error!("no backend: on Linux, at least one of the features `io_uring`, `epoll`, `poll` and `sim` is needed");

        /// The kinds of backends.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Kind {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $(Kind::$kind => $name,)+
                })
            }
        }

        /// The compiled-in backends behind one type, so that [`Loop`](crate::Loop) is not generic.
        #[allow(clippy::large_enum_variant, reason = "a loop has one, in its own allocation")]
        #[cfg_attr(any($($cfg),+), repr(u8))]
        enum Compiled {
            $(#[cfg($cfg)] $kind($type),)+
        }

        impl Compiled {
            /// Makes this backend, if it is compiled in and works here.
            fn new(kind: Kind, options: &Options, capacity: usize) -> io::Result<(Compiled, Waker)> {
                match kind {
                    $(
                        #[cfg($cfg)]
                        Kind::$kind => {
                            let (backend, waker) = list::make::<$type>(options, capacity)?;
                            Ok((Compiled::$kind(backend), waker))
                        }
                        #[cfg(not($cfg))]
                        Kind::$kind => Err(errno::error(errno::ENOSYS)),
                    )+
                }
            }

            fn kind(&self) -> Kind {
                match self {
                    $(#[cfg($cfg)] Compiled::$kind(_) => Kind::$kind,)+
                    // Nothing is built then, and the one error is that there is no backend.
                    #[cfg(not(any($($cfg),+)))]
                    _ => unreachable!(),
                }
            }
        }

        /// Passes a call on to whichever backend there is.
        macro_rules! forward {
            ($d self:expr, $d backend:ident => $d call:expr) => {
                match $d self {
                    $(#[cfg($cfg)] Compiled::$kind($d backend) => $d call,)+
                    #[cfg(not(any($($cfg),+)))]
                    _ => unreachable!(),
                }
            };
        }
    };
}

pub(super) use backends;
