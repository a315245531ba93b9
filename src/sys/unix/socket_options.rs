//! Options and addresses of sockets, as the crate `socket2` has them.

pub(crate) use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
