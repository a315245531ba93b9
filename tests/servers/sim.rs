// ---- the server

struct Conn { stream: TcpStream, buf: [u8; 64] }

fn serve(lp: &mut Loop, listener: Box<Completion<TcpListener>>) {
    lp.submit(listener, |l| l.accept(), |lp, listener, accepted| match accepted {
        Ok(stream) => {
            let conn = Box::new(Completion::new(Conn { stream, buf: [0; 64] }));
            lp.submit(conn, |c| c.stream.recv(&mut c.buf), on_recv);
            serve(lp, listener);
        }
        Err(_) => {
            // No descriptors left, perhaps: trying again at once would spin.
            let pause = Duration::from_millis(100);
            lp.submit(listener, |_| Timer::after(pause), |lp, listener, _| serve(lp, listener));
        }
    });
}

fn on_recv(lp: &mut Loop, conn: Box<Completion<Conn>>, received: io::Result<usize>) {
    if let Ok(n @ 1..) = received {
        lp.submit(conn, |c| c.stream.send_all(&c.buf[..n]), |lp, conn, sent| {
            if sent.is_ok() {
                lp.submit(conn, |c| c.stream.recv(&mut c.buf), on_recv);
            }
        });
    }
}
