//! So could a socket, and its number belong to another one then.

use oxev::{Completion, Loop, TcpStream};

fn receive(lp: &mut Loop, stream: &TcpStream) {
    lp.submit(Box::new(Completion::new([0; 64])), |buffer| stream.recv(&mut buffer[..]), |_, _, _| ());
}

fn main() {}
