//! Sockets: descriptors in, operations out.

pub(crate) mod socket;
mod tcp_listener;
mod tcp_stream;

pub use tcp_listener::{ListenOptions, TcpListener};
pub use tcp_stream::TcpStream;
