//! The loop has the owner until the callback.

use oxev::{Completion, Loop, TcpStream};

fn receive(lp: &mut Loop, stream: TcpStream) {
    let mut conn = Box::new(Completion::new((stream, [0u8; 64])));
    lp.submit(conn, |(stream, buffer)| stream.recv(buffer), |_, _, _| ());
    conn.1[0] = 1;
}

fn main() {}
