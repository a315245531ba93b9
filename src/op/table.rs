//! The table of operations: each is described once, in a row here. From the rows come [`OpKind`], its names,
//! what the loop and the backends ask of a kind ([`Facts`]), and the tables in the documents.
//!
//! A row is *name { who serves it, what it works on, which way bytes move, the shape of its memory, its view of the
//! words }*, then the calls of the safe interface that make it, then what each backend makes of it.

use std::fmt;

use super::words::View;

/// Who brings an operation to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Server {
    /// The loop itself: it never reaches a backend.
    EventLoop,
    /// The backend.
    Backend,
    /// A thread pool, where the loop sends it by itself.
    Workers,
}

/// What an operation works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// No descriptor.
    Nothing,
    /// A connected socket, or one that will be.
    Socket,
    /// A listening socket.
    ListeningSocket,
    /// A file, which may be a stream: a pipe, a terminal.
    OpenFile,
    /// A path in the file system.
    Name,
    /// Any descriptor.
    Descriptor,
}

/// Which way bytes move, and so what an operation waits for where the kernel tells readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the descriptor; it waits until that can be read.
    In,
    /// To the descriptor; it waits until that can be written.
    Out,
    /// Nowhere.
    Neither,
}

impl Direction {
    /// Every direction; each has its place here as its number.
    pub const ALL: [Direction; 3] = [Direction::In, Direction::Out, Direction::Neither];
}

/// What an operation needs of the caller's memory while it is in flight, beside its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Memory {
    /// Nothing.
    Nothing,
    /// One run of bytes.
    Buffer,
    /// A list of runs ([`IoVecs`](crate::IoVecs)).
    BufferList,
    /// A pool of buffers ([`BufPool`](crate::BufPool)).
    BufferPool,
    /// A path that ends in a zero byte.
    Name,
    /// A record that the kernel fills.
    Record,
    /// What other threads notify ([`Notifier`](crate::Notifier)).
    NotifierState,
}

/// What is true of every operation of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// Who brings it to its end.
    pub server: Server,
    /// What it works on.
    pub target: Target,
    /// Which way bytes move.
    pub direction: Direction,
    /// What it needs of the caller's memory.
    pub memory: Memory,
    /// What its [words](crate::words) are.
    pub words: View,
    /// The calls of the safe interface that make it, in Markdown. So are the next three.
    pub made_by: &'static str,
    /// What the io_uring backend makes of it.
    pub io_uring: &'static str,
    /// What the backends make of it that are told readiness.
    pub readiness: &'static str,
    /// What the simulator makes of it.
    pub sim: &'static str,
}

/// Expands to the enum, and to everything that is asked of it.
macro_rules! operations {
    ($(
        $(#[doc = $doc:literal])+
        $kind:ident { $server:ident, $target:ident, $direction:ident, $memory:ident, $words:ident }
        $made_by:literal
        io_uring: $io_uring:literal,
        readiness: $readiness:literal,
        sim: $sim:literal;
    )+) => {
        /// What an operation does; each backend maps it to its own kernel interface.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum OpKind {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl OpKind {
            /// Every kind, in the order of the table.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$kind),+];

            /// What is true of every operation of this kind.
            #[must_use]
            #[inline(always)]
            pub const fn facts(self) -> Facts {
                match self {
                    $(OpKind::$kind => Facts {
                        server: Server::$server,
                        target: Target::$target,
                        direction: Direction::$direction,
                        memory: Memory::$memory,
                        words: View::$words,
                        made_by: $made_by,
                        io_uring: $io_uring,
                        readiness: $readiness,
                        sim: $sim,
                    },)+
                }
            }

            /// Its name, as in the source.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(OpKind::$kind => stringify!($kind),)+
                }
            }
        }
    };
}

operations! {
    /// Completes at once, through the kernel where there is one to ask.
    Nop { Backend, Nothing, Neither, Nothing, Immediate }
        "`nop`"
        io_uring: "`NOP`",
        readiness: "done at once",
        sim: "done in the next poll";

    /// Completes when its time has come, once or again and again.
    Timer { EventLoop, Nothing, Neither, Nothing, Timer }
        "`Timer::after`, `at`, `every`, `every_after`"
        io_uring: "the loop's own wheel",
        readiness: "the loop's own wheel",
        sim: "the loop's own wheel, on virtual time";

    /// Completes when its notifier is notified.
    Notify { EventLoop, Nothing, Neither, NotifierState, Notifier }
        "`Notifier::wait`, `wait_multi`"
        io_uring: "the loop's own queue",
        readiness: "the loop's own queue",
        sim: "the loop's own queue";

    /// Works on a thread pool. A backend never sees it.
    Offload { Workers, Nothing, Neither, Nothing, Work }
        "`Loop::offload`"
        io_uring: "the loop's own way to the pool",
        readiness: "the loop's own way to the pool",
        sim: "done at once, on the loop's thread";

    /// Waits for poll events on a descriptor.
    Poll { Backend, Descriptor, Neither, Nothing, Poll }
        "`raw::submit`"
        io_uring: "`POLL_ADD`",
        readiness: "`poll(2)`, again at each edge",
        sim: "`poll(2)` of the virtual object";

    /// Takes a connection from a listening socket; it may fill the address words.
    Accept { Backend, ListeningSocket, In, Nothing, Address }
        "`TcpListener::accept`, `accept_with_addr`, `accept_multi`"
        io_uring: "`ACCEPT`; repeated: multishot (5.19), else again by the loop",
        readiness: "`accept4`; repeated: stays in its queue, up to 16 at each edge or poll",
        sim: "from the virtual backlog; repeated: natively or by the loop, as the seed has it";

    /// Makes a socket and connects it to the address in its words. `fd` is the new socket once the backend
    /// has made it.
    Connect { Backend, Socket, Out, Nothing, Address }
        "`TcpStream::connect`"
        io_uring: "`CONNECT`",
        readiness: "`connect`; when writable `SO_ERROR` and `getpeername`",
        sim: "a request that takes its time, and an answer that does; again and again for two minutes if the backlog is full";

    /// Receives into a buffer.
    Recv { Backend, Socket, In, Buffer, Transfer }
        "`TcpStream::recv`, `recv_exact`"
        io_uring: "`RECV`",
        readiness: "`recv`",
        sim: "what has arrived";

    /// Receives into a buffer of a pool.
    RecvPooled { Backend, Socket, In, BufferPool, Pooled }
        "`TcpStream::recv_pooled`, `recv_multi`"
        io_uring: "`RECV` with a buffer ring (5.19), repeated: multishot (6.0); else `POLL_ADD` and `recv`",
        readiness: "`recv`, into a free buffer that is taken for the call",
        sim: "what has arrived, into a free buffer; repeated: as `accept_multi`";

    /// Receives into a list of buffers.
    RecvVectored { Backend, Socket, In, BufferList, Vectored }
        "`TcpStream::recv_vectored`, `recv_exact_vectored`"
        io_uring: "`RECVMSG`",
        readiness: "`recvmsg`",
        sim: "as `recv`";

    /// Sends a buffer.
    Send { Backend, Socket, Out, Buffer, Transfer }
        "`TcpStream::send`, `send_all`"
        io_uring: "`SEND`; without room `POLL_ADD`, then again",
        readiness: "`send`",
        sim: "as much as the peer has room for";

    /// Sends a buffer, without copying it where the backend can.
    SendZeroCopy { Backend, Socket, Out, Buffer, ZeroCopy }
        "`TcpStream::send_all_zero_copy`"
        io_uring: "`SEND_ZC` (6.0), else as `send_all`",
        readiness: "`send`",
        sim: "as `send`";

    /// Sends a list of buffers.
    SendVectored { Backend, Socket, Out, BufferList, Vectored }
        "`TcpStream::send_vectored`, `send_all_vectored`"
        io_uring: "`SENDMSG`",
        readiness: "`sendmsg`",
        sim: "as `send`";

    /// Shuts one direction of a socket down, or both.
    Shutdown { Backend, Socket, Neither, Nothing, Shutdown }
        "`TcpStream::shutdown`"
        io_uring: "`shutdown` at once",
        readiness: "`shutdown` at once",
        sim: "in the next poll";

    /// Reads from a file into a buffer.
    Read { Backend, OpenFile, In, Buffer, Transfer }
        "`File::read`, `read_at`, `read_exact_at`"
        io_uring: "`READ`; at the file's position one after another",
        readiness: "file: `preadv2(RWF_NOWAIT)`, what is not cached by the pool, at its position one after another; else `readv` when ready",
        sim: "virtual file, after its latency; pipe or socket: as `recv`";

    /// Reads from a file into a list of buffers.
    ReadVectored { Backend, OpenFile, In, BufferList, Vectored }
        "`File::read_vectored_at`"
        io_uring: "`READV`",
        readiness: "as `File::read_at`",
        sim: "as `File::read_at`";

    /// Writes a buffer to a file.
    Write { Backend, OpenFile, Out, Buffer, Transfer }
        "`File::write`, `write_all`, `write_at`, `write_all_at`"
        io_uring: "`WRITE`; at the file's position one after another",
        readiness: "file: the pool, at its position one after another; else `writev` when ready, no more than `PIPE_BUF` if it might block",
        sim: "virtual file, after its latency; pipe or socket: as `send`";

    /// Writes a list of buffers to a file.
    WriteVectored { Backend, OpenFile, Out, BufferList, Vectored }
        "`File::write_vectored_at`, `write_all_vectored_at`"
        io_uring: "`WRITEV`",
        readiness: "as `File::write_at`",
        sim: "as `File::write_at`";

    /// Opens a file.
    Open { Backend, Name, Neither, Name, Open }
        "`File::open`"
        io_uring: "`OPENAT`",
        readiness: "the pool",
        sim: "virtual file system";

    /// Closes a descriptor, which the operation owns.
    Close { Backend, Descriptor, Neither, Nothing, Nothing }
        "`close` of everything"
        io_uring: "`CLOSE`",
        readiness: "file: the pool; else `close` at once",
        sim: "in the next poll";

    /// Makes data and metadata of a file durable.
    SyncAll { Backend, OpenFile, Neither, Nothing, Nothing }
        "`File::sync_all`"
        io_uring: "`FSYNC`",
        readiness: "the pool",
        sim: "makes the file durable";

    /// Makes the data of a file durable.
    SyncData { Backend, OpenFile, Neither, Nothing, Nothing }
        "`File::sync_data`"
        io_uring: "`FSYNC` with `DATASYNC`",
        readiness: "the pool",
        sim: "makes the data durable";

    /// Fills a record with a file's kind, size, times, ….
    Metadata { Backend, OpenFile, Neither, Record, Metadata }
        "`File::metadata`"
        io_uring: "`STATX`",
        readiness: "the pool",
        sim: "kind, size, mode, inode, time of change";
}

impl OpKind {
    /// Equality, where only constants are.
    #[inline(always)]
    pub(crate) const fn is(self, other: OpKind) -> bool {
        self as u8 == other as u8
    }

    /// Whether it reads bytes into the caller's memory, or writes them from there.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn moves_bytes(self) -> bool {
        matches!(self.facts().memory, Memory::Buffer | Memory::BufferList | Memory::BufferPool)
    }

    /// Whether it sends bytes to a socket.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn is_send(self) -> bool {
        let facts = self.facts();
        matches!((facts.target, facts.direction), (Target::Socket, Direction::Out)) && self.moves_bytes()
    }

    /// Whether it takes what has arrived at a socket: bytes, or a connection.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn takes_from_socket(self) -> bool {
        let facts = self.facts();
        matches!(facts.target, Target::Socket | Target::ListeningSocket)
            && matches!(facts.direction, Direction::In)
    }

    /// Whether it receives into a buffer of a pool.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn takes_pooled_buffer(self) -> bool {
        matches!(self.facts().memory, Memory::BufferPool)
    }

    /// Whether its memory is a list of buffers.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn is_vectored(self) -> bool {
        matches!(self.facts().memory, Memory::BufferList)
    }

    /// Whether it reads or writes a file, by its position or at an offset.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn is_file_transfer(self) -> bool {
        matches!(self.facts().target, Target::OpenFile) && self.moves_bytes()
    }
}

impl fmt::Display for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
