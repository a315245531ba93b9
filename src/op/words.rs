//! The words of an operation: 32 bytes, of which each kind has a view of its own, with names for what lies there.
//! [`Facts::words`](super::Facts::words) tells which.
//!
//! A view is plain data that fills the words to the last byte, so each may be read at any time (S17). To read the view
//! of another kind is still a mistake, and fails in a debug build.

#![allow(unsafe_code)]

use std::ffi::c_char;
use std::fmt;
use std::mem::offset_of;

use super::RawOp;
use crate::sys::metadata::RawMetadata;

/// The bytes of the words, on every width of pointers.
pub(crate) const WORDS_BYTES: usize = 32;

/// Expands to the structures, to [`View`], to the union of them, and to what reads and writes them in a [`RawOp`]. A line
/// is *the structure, its place in the union, the methods that read and write it*, and whose views it may be read for. Those
/// that are `own` are the view of some kind; those that are `shared` are what several have in common, or one at times.
macro_rules! views {
    (
        own: $($(#[doc = $own_doc:literal])+ $view:ident: $own:ident, $own_place:ident, $own_read:ident, $own_write:ident,
            for $($own_for:ident)|+ { $($own_fields:tt)* })+
        shared: $($(#[doc = $doc:literal])+ $words:ident, $place:ident, $read:ident, $write:ident,
            for $($for:ident)|+ { $($fields:tt)* })+
    ) => {
        /// A view of the words of an operation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum View {
            $(#[doc = concat!("[`", stringify!($own), "`].")] $view,)+
        }

        $(structure! { $(#[doc = $own_doc])+ $own { $($own_fields)* } })+
        $(structure! { $(#[doc = $doc])+ $words { $($fields)* } })+

        /// The words, as each kind has them.
        #[derive(Clone, Copy)]
        #[repr(C)]
        pub(super) union Words {
            pub(super) zero: [u64; WORDS_BYTES / size_of::<u64>()],
            $(pub(super) $own_place: $own,)+
            $(pub(super) $place: $words,)+
        }

        const _: () = assert!(size_of::<Words>() == WORDS_BYTES);

        impl RawOp {
            $(accessors! { $own, $own_place, $own_read, $own_write, $($own_for)|+ })+
            $(accessors! { $words, $place, $read, $write, $($for)|+ })+
        }

        impl fmt::Debug for RawOp {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let words: &dyn fmt::Debug = match self.kind.facts().words {
                    $(View::$view => self.$own_read(),)+
                };
                f.debug_struct("RawOp")
                    .field("kind", &self.kind)
                    .field("flags", &self.flags)
                    .field("backend_state", &self.backend_state)
                    .field("fd", &self.fd)
                    .field("words", words)
                    .finish()
            }
        }
    };
}

/// One structure: its fields, and the rest of the words.
macro_rules! structure {
    ($(#[doc = $doc:literal])+ $words:ident {
        $($(#[doc = $field_doc:literal])* $visibility:vis $field:ident: $type:ty,)*
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy)]
        #[repr(C)]
        pub struct $words {
            $($(#[doc = $field_doc])* $visibility $field: $type,)*
            rest: [u32; (WORDS_BYTES - (0 $(+ size_of::<$type>())*)) / size_of::<u32>()],
        }

        // No byte is padding: the fields have the size of the whole.
        const _: () = assert!(
            size_of::<$words>() == WORDS_BYTES
                && size_of::<$words>() == 0 $(+ size_of::<$type>())*
                    + (WORDS_BYTES - offset_of!($words, rest)) / size_of::<u32>() * size_of::<u32>()
        );

        impl fmt::Debug for $words {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($words))$(.field(stringify!($field), &self.$field))*.finish()
            }
        }
    };
}

/// The methods of [`RawOp`] for one structure.
macro_rules! accessors {
    ($words:ident, $place:ident, $read:ident, $write:ident, $($for:ident)|+) => {
        #[doc = concat!("Its words as [`", stringify!($words), "`].")]
        #[must_use]
        #[inline(always)]
        pub const fn $read(&self) -> &$words {
            debug_assert!(matches!(self.kind.facts().words, $(View::$for)|+), "these are not its words");
            // SAFETY: S17: every view is plain data, and all of the words are initialised.
            unsafe { &self.words.$place }
        }

        #[doc = concat!("Its words as [`", stringify!($words), "`], to be written.")]
        #[inline(always)]
        pub const fn $write(&mut self) -> &mut $words {
            debug_assert!(matches!(self.kind.facts().words, $(View::$for)|+), "these are not its words");
            // SAFETY: S17: as above; a view leaves no byte uninitialised.
            unsafe { &mut self.words.$place }
        }
    };
}

views! {
    own:
        /// Nothing is told but by the kind and the descriptor.
        Nothing: NoWords, nothing, as_nothing, as_nothing_mut, for Nothing {}

        /// A result that is known before the operation begins ([`RawOp::immediate`]).
        Immediate: ImmediateWords, immediate, as_immediate, as_immediate_mut, for Immediate {
            /// A count, or a negative error code.
            pub(super) result: i32,
        }

        /// A transfer between a buffer and a descriptor.
        Transfer: TransferWords, transfer, as_transfer, as_transfer_mut, for Transfer | ZeroCopy {
            /// What is left of the buffer.
            pub buf: *mut u8,
            /// The bytes that are left to move.
            pub len: usize,
            /// Where in the file, in bytes; ignored where there are no offsets, and with [`RawOp::CURSOR`].
            pub offset: u64,
            /// The bytes that earlier parts of the operation have moved.
            pub done: u64,
        }

        /// A send from the buffer itself: as [`TransferWords`], but what has no offset keeps its result there.
        ZeroCopy: ZeroCopyWords, zero_copy, as_zero_copy, as_zero_copy_mut, for ZeroCopy {
            /// As [`TransferWords::buf`].
            pub buf: *mut u8,
            /// As [`TransferWords::len`].
            pub len: usize,
            /// The result, once it is known, while the kernel has the buffer.
            pub result: i64,
            /// As [`TransferWords::done`].
            pub done: u64,
        }

        /// A transfer between a list of buffers and a descriptor.
        Vectored: VectoredWords, vectored, as_vectored, as_vectored_mut, for Vectored {
            /// The system's message (`struct msghdr`), whose list is what is left of the buffers.
            pub message: *mut (),
            /// As [`TransferWords::len`], of all buffers of the list.
            pub len: usize,
            /// As [`TransferWords::offset`].
            pub offset: u64,
            /// As [`TransferWords::done`].
            pub done: u64,
        }

        /// A receive into a buffer of a pool.
        Pooled: PooledWords, pooled, as_pooled, as_pooled_mut, for Pooled {
            pub(crate) buffers: *const (),
        }

        /// The address of a peer, as the system has it: to be connected to, or where an accept puts it.
        Address: AddressWords, address, as_address, as_address_mut, for Address {
            /// `struct sockaddr`, of which `sockaddr_in6` is the largest.
            pub sockaddr: [u8; RawOp::ADDRESS_BYTES],
            /// The bytes of it.
            pub len: u32,
        }

        /// A timer.
        Timer: TimerWords, timer, as_timer, as_timer_mut, for Timer {
            /// The delay until it fires first, or with [`RawOp::ABSOLUTE`] the time.
            pub first_ns: u64,
            /// The period of one that repeats ([`RawOp::MULTI`]).
            pub period_ns: u64,
            /// The time at which one that repeats ends; the loop writes it.
            pub(crate) end_ns: u64,
        }

        /// A wait for a notification.
        Notifier: NotifierWords, notifier, as_notifier, as_notifier_mut, for Notifier {
            /// What the notifier shares with those who notify it.
            pub(crate) shared: *const (),
        }

        /// Work on a thread pool.
        Work: WorkWords, work, as_work, as_work_mut, for Work {
            /// The job that does it.
            pub(crate) job: u32,
        }

        /// A wait for poll events.
        Poll: PollWords, poll, as_poll, as_poll_mut, for Poll {
            /// The events that are waited for, as `poll(2)` has them.
            pub events: u32,
        }

        /// The end of a connection's directions.
        Shutdown: ShutdownWords, shutdown, as_shutdown, as_shutdown_mut, for Shutdown {
            /// As `shutdown(2)` has it.
            pub how: i32,
        }

        /// A file to be opened.
        Open: OpenWords, open, as_open, as_open_mut, for Open {
            /// The path, which ends in a zero byte.
            pub path: *const c_char,
            /// As `open(2)` has them.
            pub flags: i32,
            /// The permissions of a file that is made.
            pub mode: u32,
        }

        /// What is asked of a file.
        Metadata: MetadataWords, metadata, as_metadata, as_metadata_mut, for Metadata {
            /// What the system fills.
            pub record: *mut RawMetadata,
        }

    shared:
        /// What transfers have in common, whatever their memory is.
        ProgressWords, progress, as_progress, as_progress_mut, for Transfer | ZeroCopy | Vectored {
            memory: *mut (),
            /// As [`TransferWords::len`].
            pub len: usize,
            /// As [`TransferWords::offset`].
            pub offset: u64,
            /// As [`TransferWords::done`].
            pub done: u64,
        }

        /// Addresses to be connected to in order (a list).
        AddressListWords, address_list, as_address_list, as_address_list_mut, for Address {
            pub(crate) list: *mut (),
        }
}

/// What views have in common lies at the same place in each.
const _: () = {
    assert!(offset_of!(TransferWords, len) == offset_of!(ProgressWords, len));
    assert!(offset_of!(ZeroCopyWords, len) == offset_of!(ProgressWords, len));
    assert!(offset_of!(VectoredWords, len) == offset_of!(ProgressWords, len));
    assert!(offset_of!(TransferWords, offset) == offset_of!(ProgressWords, offset));
    assert!(offset_of!(VectoredWords, offset) == offset_of!(ProgressWords, offset));
    assert!(offset_of!(TransferWords, done) == offset_of!(ProgressWords, done));
    assert!(offset_of!(ZeroCopyWords, done) == offset_of!(ProgressWords, done));
    assert!(offset_of!(VectoredWords, done) == offset_of!(ProgressWords, done));
};

#[cfg(test)]
mod tests {
    use super::super::OpKind;
    use super::*;

    #[test]
    fn every_kind_shows_words_that_are_its_own() {
        for kind in OpKind::ALL {
            let shown = format!("{:?}", RawOp::new(*kind, -1));
            assert!(shown.contains(kind.name()) && shown.contains("Words"), "{shown}");
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "these are not its words")]
    fn a_debug_build_sees_that_the_words_of_another_kind_are_read() {
        let _ = RawOp::new(OpKind::Timer, -1).as_transfer();
    }

    #[test]
    fn transfers_over_every_kind_of_memory_count_their_progress_alike() {
        for kind in [OpKind::Recv, OpKind::SendZeroCopy, OpKind::WriteVectored] {
            let mut op = RawOp::new(kind, 3);
            (op.as_progress_mut().len, op.as_progress_mut().done) = (40, 60);
            // SAFETY: it is valid, and nothing writes to it.
            let left = unsafe { RawOp::len_left(&raw const op) };
            assert_eq!((left, op.done()), (40, 60));
        }
        let mut op = RawOp::with_buffer(OpKind::Read, 3, std::ptr::null_mut(), 100);
        op.advance(60);
        assert_eq!((op.as_progress().len, op.as_progress().offset, op.done()), (40, 60, 60));
    }
}
