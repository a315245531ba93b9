//! State outlives every frame: a loop can be forgotten, and the kernel goes on.

use oxev::{Completion, Loop, TcpStream};

fn receive(lp: &mut Loop, stream: &TcpStream) {
    let mut buffer = [0; 64];
    let owner = Box::new(Completion::new((stream, &mut buffer)));
    lp.submit(owner, |(stream, buffer)| stream.recv(&mut buffer[..]), |_, _, _| ());
}

fn main() {}
