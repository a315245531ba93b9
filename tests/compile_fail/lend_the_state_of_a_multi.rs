//! What an operation with several results borrows is out of its item callback's reach.

use oxev::{Action, Completion, Lease, Loop, Multi, TcpStream};

fn receive(lp: &mut Loop, stream: TcpStream, pool: oxev::BufPool) {
    lp.submit_multi(
        Box::new(Completion::new(Multi::new((), (stream, pool)))),
        |both| both.state.0.recv_multi(&both.state.1),
        |_, _: &mut (TcpStream, oxev::BufPool), _: Lease| Action::Rearm,
        |_, _, _| (),
    );
}

fn main() {}
