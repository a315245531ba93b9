//! A buffer on the stack could be gone before the kernel is done with it.

use oxev::{Completion, Loop, TcpStream};

fn receive(lp: &mut Loop, stream: TcpStream) {
    let mut buffer = [0; 64];
    lp.submit(Box::new(Completion::new(stream)), |stream| stream.recv(&mut buffer), |_, _, _| ());
}

fn main() {}
