use oxev::{Completion, Loop, RunMode, TcpListener, TcpStream, Timer};
use std::{io, time::Duration};

struct Server { listener: TcpListener }
struct Conn   { stream: TcpStream, buf: [u8; 4096] }

fn main() -> io::Result<()> {
    let mut lp = Loop::new()?;
    let server = Server { listener: TcpListener::bind("127.0.0.1:7000")? };
    accept(&mut lp, Box::new(Completion::new(server)));
    lp.run(RunMode::UntilDone)
}

fn accept(lp: &mut Loop, server: Box<Completion<Server>>) {
    lp.submit(server, |s| s.listener.accept(), on_accept);
}

fn on_accept(lp: &mut Loop, server: Box<Completion<Server>>, accepted: io::Result<TcpStream>) {
    match accepted {
        Ok(stream) => {
            let conn = Box::new(Completion::new(Conn { stream, buf: [0; 4096] }));
            lp.submit(conn, |c| c.stream.recv(&mut c.buf), on_recv);
            accept(lp, server);
        }
        Err(error) if oxev::is_canceled(&error) => {}        // the program stops the server: it is dropped here
        Err(_) => {                          // no descriptors left, perhaps: trying again at once would spin
            let pause = Duration::from_millis(100);
            lp.submit(server, |_| Timer::after(pause), |lp, server, _| accept(lp, server));
        }
    }
}

fn on_recv(lp: &mut Loop, conn: Box<Completion<Conn>>, received: io::Result<usize>) {
    match received {
        Ok(n @ 1..) => { lp.submit(conn, |c| c.stream.send_all(&c.buf[..n]), on_sent); }
        _ => drop(conn),                     // closes the socket, frees the memory
    }
}

fn on_sent(lp: &mut Loop, conn: Box<Completion<Conn>>, sent: io::Result<usize>) {
    if sent.is_ok() { lp.submit(conn, |c| c.stream.recv(&mut c.buf), on_recv); }
}
