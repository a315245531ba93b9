//! Sockets and names: [`TcpListener`] and [`TcpStream`] make operations of descriptors, [`resolve`] has a
//! [`Lookup`] done by a thread pool, as the system's resolver blocks.

mod resolve;
pub(crate) mod socket;
mod tcp_listener;
mod tcp_stream;

pub use resolve::{Lookup, resolve};
pub use tcp_listener::{ListenOptions, TcpListener};
pub use tcp_stream::TcpStream;
