//! The floor: what a platform must provide. It is listed here, module by module, and given by the siblings
//! below; a platform that leaves something out does not compile. What is above this folder is the same on all
//! platforms and names none, but for the backends that are made for one.
//!
//! * `portable/`: what can be had everywhere, by the standard library, for platforms that have nothing better.
//! * `unix/`: what all Unix systems have (POSIX).
//! * `linux/`: what Linux adds to that, or does in another way.
//! * `wasi/`: WASI, preview 1.
//! * `bsd/`: the same of macOS and the BSDs.

#![allow(unused_imports, reason = "every backend uses a part of the floor")]

#[cfg(system_bsd)]
mod bsd;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod linux;
#[cfg(any(loom, target_os = "wasi", system_bsd))]
mod portable;
#[cfg(unix)]
mod unix;

#[cfg(target_os = "wasi")]
pub(crate) mod wasi;

#[cfg(any(target_os = "linux", target_os = "android"))]
use linux as platform;
#[cfg(target_os = "wasi")]
use wasi as platform;

#[cfg(system_bsd)]
use bsd as platform;

/// The operating system's number for an open file or socket. Everywhere it has 32 bits: handles of Windows have
/// as many that count.
pub type RawDescriptor = i32;

/// Addresses in the system's form, which kernels read and write in place.
pub(crate) mod address {
    /// The bytes of the largest address of IP. Those of other families are longer.
    pub(crate) use super::platform::address::IP_BYTES_MAX;

    /// The family of an address, the IP address in a place, and an IP address into a place.
    pub(crate) use super::platform::address::{family, get, put};
}

/// The system's error codes, under the names that POSIX has for them.
pub(crate) mod errno {
    pub(crate) use super::platform::errno::{
        EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EBADF, ECANCELED, ECONNABORTED,
        ECONNREFUSED, ECONNRESET, EDEADLK, EEXIST, EFBIG, EINPROGRESS, EINTR, EINVAL, EIO, EISDIR, EMFILE,
        EMSGSIZE, ENAMETOOLONG, ENOBUFS, ENOENT, ENOMEM, ENOSPC, ENOSYS, ENOTCONN, ENOTDIR, ENOTSOCK,
        EOPNOTSUPP, EPERM, EPIPE, ESHUTDOWN, ESPIPE, ETIMEDOUT,
    };

    /// What the last call of this thread failed with.
    pub(crate) use super::platform::errno::last;

    /// A result without the codes that a kernel has for itself.
    pub(crate) use super::platform::errno::published;

    /// The error that a code stands for, of the kind that the standard library gives it.
    pub(crate) fn error(code: i32) -> std::io::Error {
        std::io::Error::from_raw_os_error(code)
    }
}

/// Binding threads to cores.
pub(crate) mod affinity {
    /// Whether a core can be named to the system at all.
    pub(crate) use super::platform::affinity::is_valid;

    /// Binds the calling thread to one core, if the system allows it.
    pub(crate) use super::platform::affinity::bind_to;
}

/// Descriptors of every kind.
pub(crate) mod descriptor {
    /// How many descriptors this process can ever have.
    pub(crate) use super::platform::descriptor::count_max;

    pub(crate) use super::platform::descriptor::{is_blocking, is_terminal};
}

/// Files. Unless it says otherwise, a call may block, and gives a count, a descriptor or a negative error code.
pub(crate) mod file {
    /// A path in the system's form. `EINVAL`: it cannot be one.
    pub(crate) use super::platform::file::c_path;

    /// Opens a file, with flags in the system's form and the permissions that a new one gets.
    pub(crate) use super::platform::file::{open, open_flags};

    /// What such flags ask for, as far as [`Opening`] can say it: for the simulator.
    #[cfg(feature = "sim")]
    pub(crate) use super::platform::file::opening;

    /// Closes a descriptor that the caller owns. Whatever that gives, it is closed then.
    pub(crate) use super::platform::file::close;

    /// Make all of a file durable, or its data and what it takes to read them.
    pub(crate) use super::platform::file::{sync_all, sync_data};

    /// Move bytes at an offset, or if that is -1 at the file's own position.
    pub(crate) use super::platform::file::{read, write};

    /// The same without blocking. `EOPNOTSUPP`: that cannot be asked for here.
    pub(crate) use super::platform::file::{read_nowait, write_nowait};

    /// What a descriptor is. The error is a code.
    pub(crate) use super::platform::file::file_type;

    /// The longest path that a call takes, with the zero byte at its end.
    pub(crate) use super::platform::file::PATH_BYTES_MAX;

    /// Which file a descriptor names. The error is a code.
    pub(crate) use super::platform::file::identity;

    /// Whether two descriptors of one file have one position. They may have one if the system does not say.
    pub(crate) use super::platform::file::share_position;

    /// Whether every write to an open file goes to its end.
    pub(crate) use super::platform::file::appends;

    /// The position of a file, if it has one.
    pub(crate) use super::platform::file::position;

    /// Puts the position where a transfer that ended there leaves it: at `end`, or at the end of the file if it was
    /// written to a file to which is only appended.
    pub(crate) use super::platform::file::put_position;

    /// The bytes for which a pipe that is ready for writing is sure to have room.
    pub(crate) use super::platform::file::PIPE_BUF;

    /// How to open a file.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Opening {
        pub(crate) read: bool,
        pub(crate) write: bool,
        pub(crate) append: bool,
        pub(crate) truncate: bool,
        pub(crate) create: bool,
        pub(crate) create_new: bool,
        /// Further flags in the system's form.
        pub(crate) custom: i32,
    }

    impl Opening {
        pub(crate) const NONE: Opening = Opening {
            read: false,
            write: false,
            append: false,
            truncate: false,
            create: false,
            create_new: false,
            custom: 0,
        };
    }

    /// A file, whatever its name.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Identity {
        pub(crate) device: u64,
        pub(crate) inode: u64,
        /// It is a file on a disk, or a disk: where reads and writes begin can be told.
        pub(crate) has_position: bool,
    }

    /// What can be behind a descriptor.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum FileType {
        /// It is always ready, and may block nevertheless. `is_cached`: what was read or written is kept
        /// in memory.
        OnDisk {
            is_cached: bool,
        },
        CharacterDevice,
        /// A socket, a pipe, ….
        Other,
    }
}

/// Sleeping on a 32-bit word while it has a value, and waking those that do.
pub(crate) mod futex {
    #[cfg(not(loom))]
    pub(crate) use super::platform::futex::Futex;
    #[cfg(loom)]
    pub(crate) use super::portable::futex::Futex;
}

/// Gather lists in the system's form.
pub(crate) mod io_vec {
    /// A run of bytes.
    pub(crate) use super::platform::io_vec::IoVec;

    /// A list of them, and where it goes to or comes from.
    pub(crate) use super::platform::io_vec::Message;
}

/// What the file system knows of a file.
pub(crate) mod metadata {
    /// The system's record, which a kernel fills in place.
    pub(crate) use super::platform::metadata::Record;

    /// The kinds of files that the simulator has.
    #[cfg(feature = "sim")]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) enum FileKind {
        #[default]
        Regular,
        Directory,
        Pipe,
        Socket,
    }

    /// What the simulator knows of a file: `Record::of` makes a record of it.
    #[cfg(feature = "sim")]
    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct Stat {
        pub(crate) kind: FileKind,
        pub(crate) permissions: u32,
        pub(crate) inode: u64,
        pub(crate) size: u64,
        pub(crate) modified_ns: u64,
    }

    /// The same, as the C library has it.
    pub use super::platform::metadata::RawMetadata;
}

/// Memory in whole pages, zero until it is used.
pub(crate) mod pages {
    pub(crate) use super::platform::pages::Pages;
}

/// The events of `poll(2)`, which of them a descriptor has now, and waits for them.
pub(crate) mod poll {
    pub(crate) use super::platform::poll::{
        POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRBAND, POLLWRNORM,
    };

    /// A set of events or a negative error code.
    pub(crate) use super::platform::poll::poll;

    /// A descriptor, the events that are waited for there, and those that there are. A negative one is passed over.
    pub(crate) use super::platform::poll::PollFd;

    /// Wait until there is an event, or for so long; negative milliseconds are without end. The number of descriptors
    /// that have one, or a negative error code: `ENOSYS` if the system takes no nanoseconds.
    pub(crate) use super::platform::poll::{wait_ms, wait_ns};
}

/// Calls on sockets, none of which blocks. Unless it says otherwise, a call gives a count, a descriptor or a
/// negative error code.
pub(crate) mod socket {
    /// Makes a stream socket of a family: not inherited, and not blocking. It, or the error's code.
    pub(crate) use super::platform::socket::open_stream;

    /// Takes a connection that is there, as such a socket. If `address` is not null, the peer's goes there, and
    /// its length to `len`, which says before how much room there is.
    pub(crate) use super::platform::socket::accept;

    /// Begin to connect, and look how it went: `EINPROGRESS` if it goes on.
    pub(crate) use super::platform::socket::{connect, connected};

    /// Move what can be moved now. A peer that is gone is an error, never a signal.
    pub(crate) use super::platform::socket::{recv, recv_message, send, send_message};

    /// Shuts a direction down, which has a number of the system's.
    pub(crate) use super::platform::socket::{direction, shutdown};

    /// The direction that has a number: for the simulator.
    #[cfg(feature = "sim")]
    pub(crate) use super::platform::socket::shutdown_of;

    /// Lets a socket that is about to be closed send what is unsent in the background, as it would when the time
    /// has passed for which it lingers. A linger of none stays: it asks for a reset. What is no socket is left
    /// alone.
    pub(crate) use super::platform::socket::linger_in_background;

    /// Has urgent data received as bytes of the stream, on a socket and on those that it accepts. A byte that is
    /// skipped wakes a receiver in vain, as often as the peer likes; io_uring then has a thread wait.
    pub(crate) use super::platform::socket::take_urgent_data_in_line;

    /// What a descriptor is.
    pub(crate) use super::platform::socket::{is_socket, is_tcp};

    /// How many connections wait to be accepted on a TCP listener, where the system tells.
    pub(crate) use super::platform::socket::connections_waiting;
}

/// Options and addresses of sockets, by what the crate `socket2` has for them.
pub(crate) mod socket_options {
    pub(crate) use super::platform::socket_options::{
        Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type,
    };
}

/// What ends a wait in the kernel, from any thread.
pub(crate) mod wake_up {
    /// A bit that a selector can wait for: it is `set`, by as many threads as like to, stays so until `clear`,
    /// which says whether it was, and every `set` is an edge. `wait` blocks until it is set.
    pub(crate) use super::platform::wake_up::WakeUp;

    /// What has a descriptor that a program can poll: that of the standard library; anything, where there are no such
    /// descriptors (the cfg `shows_descriptor` is not set then).
    pub(crate) use super::platform::wake_up::AsFd;
}
