//! An operation borrows from the state that it was made of, and cannot be kept for another submission.

use oxev::{Completion, Loop, Op, TcpStream};

fn receive(lp: &mut Loop, stream: TcpStream) {
    let mut kept: Option<Op<'_, usize>> = None;
    lp.submit(
        Box::new(Completion::new((stream, [0; 64]))),
        |(stream, buffer)| {
            kept = Some(stream.recv(buffer));
            oxev::nop()
        },
        |_, _, _| (),
    );
}

fn main() {}
