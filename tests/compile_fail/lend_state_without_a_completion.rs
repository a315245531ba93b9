//! The message says what to do: state goes into a completion.

use oxev::{Loop, TcpStream};

struct Conn {
    stream: TcpStream,
    buffer: [u8; 64],
}

fn receive(lp: &mut Loop, conn: Conn) {
    lp.submit(Box::new(conn), |conn| conn.stream.recv(&mut conn.buffer), |_, _, _| ());
}

fn main() {}
