//! Peers that do not read, have said their last word, or send urgent data: operations wait for them, and none
//! of them makes the kernel start a thread.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use oxev::{IoVecs, Lease, Loop, Op, RunMode, TcpListener, TcpStream};

use crate::support::crowds::crowd;
use crate::support::sockets::{Peer, small_sender};
use crate::support::surroundings::background;
use crate::support::{HOUR, Log, MS, Started, complete, is_canceled, pattern, run_until, start, start_multi};
use crate::variants::Variant;

conformance! {
    sends_to_sixty_half_closed_peers_wait_without_a_thread,
    a_send_whose_peer_closes_its_half_meanwhile_waits_without_a_thread,
    a_waiting_send_to_a_half_closed_peer_is_cancelled_and_keeps_its_deadline,
    a_loop_is_dropped_with_sends_to_half_closed_peers,
    a_half_closed_peer_that_resets_or_closes_ends_a_waiting_send,
    a_waiting_send_does_not_keep_the_connection_open_once_it_is_over,
    a_send_in_hundreds_of_parts_needs_no_thread,
    #[needs_kernel = "urgent data"]
    urgent_data_costs_a_waiting_send_no_thread,
    #[needs_kernel = "urgent data"]
    urgent_data_costs_a_waiting_receive_no_thread,
    #[needs_kernel = "sockets of the standard library"]
    time_limits_of_the_standard_library_do_not_end_an_operation,
}

/// The threads that the kernel has started for the loops of this thread.
fn kernel_threads() -> usize {
    let thread = nix::unistd::gettid();
    let name = format!("iou-wrk-{thread}\n");
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter(|task| fs::read(task.as_ref().unwrap().path().join("comm")).ok() == Some(name.clone().into()))
        .count()
}

/// Time enough for the kernel to find out that waiting is in vain.
fn let_it_wait(lp: &mut Loop) {
    lp.run_for(20 * MS).unwrap();
}

/// More than the buffers of a connection hold.
const BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Send,
    SendAll,
    Vectored,
    AllVectored,
    ZeroCopy,
}

const FORMS: [Form; 5] = [Form::Send, Form::SendAll, Form::Vectored, Form::AllVectored, Form::ZeroCopy];

struct Sender {
    stream: TcpStream,
    bytes: Vec<u8>,
    vecs: IoVecs<2>,
    form: Form,
    ignores_urgent_data: bool,
}

impl Form {
    fn sends_all(self) -> bool {
        !matches!(self, Form::Send | Form::Vectored)
    }

    /// A send waits; one that is content with a part may have found room for it.
    fn assert_waits(self, sending: &Sending) {
        assert!(!sending.is_done() || !self.sends_all(), "{self:?}");
    }
}

impl Sender {
    fn send(&mut self) -> Op<'_, usize> {
        let parts = [&self.bytes[..BYTES / 2], &self.bytes[BYTES / 2..]];
        match self.form {
            Form::Send => self.stream.send(&self.bytes),
            Form::SendAll => self.stream.send_all(&self.bytes),
            Form::Vectored => self.stream.send_vectored(self.vecs.gather(parts)),
            Form::AllVectored => self.stream.send_all_vectored(self.vecs.gather(parts)),
            Form::ZeroCopy => self.stream.send_all_zero_copy(&self.bytes),
        }
    }
}

/// A connection whose peer reads nothing; if the send is not to send all, it is full.
fn sender(lp: &mut Loop, form: Form) -> (Sender, Peer) {
    let (stream, peer) = small_sender();
    let mut sender =
        Sender { stream, bytes: pattern(BYTES), vecs: IoVecs::new(), form, ignores_urgent_data: false };
    // The peer's kernel takes a little more after a while.
    let mut found_no_room = 0;
    while !form.sends_all() && found_no_room < 3 {
        let (back, sent) = complete(lp, sender, |s| s.stream.send(&s.bytes).timeout(20 * MS));
        sender = back;
        found_no_room = if sent.is_err() { found_no_room + 1 } else { 0 };
    }
    (sender, peer)
}

type Sending = Started<Sender, usize>;

/// The peer reads at last, and gets everything.
fn is_sent_whole(lp: &mut Loop, sending: Sending, mut peer: Peer) {
    let reader = background(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        assert!(all.len() > 1 && (all.len() != BYTES || all == pattern(BYTES)));
    });
    let (sender, sent) = sending.wait(lp);
    let sent = sent.unwrap();
    assert!(if sender.form.sends_all() { sent == BYTES } else { sent > 0 }, "{:?}: {sent}", sender.form);
    let urgent = sender.ignores_urgent_data.then(|| {
        // Closing would reset the connection.
        socket2::SockRef::from(&sender.stream).shutdown(Shutdown::Write).unwrap();
        sender
    });
    reader.join();
    drop(urgent);
}

fn sends_to_sixty_half_closed_peers_wait_without_a_thread(v: Variant) {
    let Some(_crowd) = crowd() else { return };
    let mut lp = v.new_loop();
    let mut all = Vec::new();
    for form in [Form::SendAll, Form::AllVectored, Form::ZeroCopy].into_iter().cycle().take(60) {
        let (sender, peer) = sender(&mut lp, form);
        peer.shutdown(Shutdown::Write).unwrap();
        all.push((start(&mut lp, sender, Sender::send), peer));
    }
    let_it_wait(&mut lp);
    assert_eq!(kernel_threads(), 0);
    assert!(all.iter().all(|(sending, _)| !sending.is_done()));
    for (number, (sending, peer)) in all.into_iter().enumerate() {
        if number % 10 < 3 {
            is_sent_whole(&mut lp, sending, peer);
        } else {
            drop(peer);
            sending.wait(&mut lp).1.unwrap_err();
        }
    }
    assert_eq!(kernel_threads(), 0);
}

fn a_send_whose_peer_closes_its_half_meanwhile_waits_without_a_thread(v: Variant) {
    let mut lp = v.new_loop();
    for form in FORMS {
        let (sender, peer) = sender(&mut lp, form);
        let sending = start(&mut lp, sender, Sender::send);
        let_it_wait(&mut lp);
        peer.shutdown(Shutdown::Write).unwrap();
        let_it_wait(&mut lp);
        form.assert_waits(&sending);
        assert_eq!(kernel_threads(), 0, "{form:?}");
        is_sent_whole(&mut lp, sending, peer);
    }
}

fn a_waiting_send_to_a_half_closed_peer_is_cancelled_and_keeps_its_deadline(v: Variant) {
    let mut lp = v.new_loop();
    for form in FORMS {
        let (cancelled, peer) = sender(&mut lp, form);
        peer.shutdown(Shutdown::Write).unwrap();
        let sending = start(&mut lp, cancelled, Sender::send);
        let_it_wait(&mut lp);
        form.assert_waits(&sending);
        let is_canceled_now = lp.cancel(sending.id);
        // A zero-copy send is over when the kernel lets go of what it has sent.
        drop(peer);
        let (_, sent) = sending.wait(&mut lp);
        assert_eq!(is_canceled(&sent), is_canceled_now, "{form:?}: {sent:?}");

        let (late, peer) = sender(&mut lp, form);
        peer.shutdown(Shutdown::Write).unwrap();
        let sending = start(&mut lp, late, |s| s.send().timeout(20 * MS));
        lp.run_for(25 * MS).unwrap();
        drop(peer);
        let (_, sent) = sending.wait(&mut lp);
        assert!(sent.map_or_else(|error| oxev::is_deadline(&error), |_| !form.sends_all()), "{form:?}");
    }
    assert_eq!(kernel_threads(), 0);
}

fn a_loop_is_dropped_with_sends_to_half_closed_peers(v: Variant) {
    for form in FORMS {
        let mut lp = v.new_loop();
        let (sender, mut peer) = sender(&mut lp, form);
        peer.shutdown(Shutdown::Write).unwrap();
        start(&mut lp, sender, Sender::send);
        let_it_wait(&mut lp);
        // For a zero-copy send the drop waits until the peer has what was sent.
        let reader = background(move || drop(peer.read_to_end(&mut Vec::new())));
        drop(lp);
        reader.join();
    }
}

fn a_half_closed_peer_that_resets_or_closes_ends_a_waiting_send(v: Variant) {
    let mut lp = v.new_loop();
    for (form, resets) in FORMS.into_iter().flat_map(|form| [(form, false), (form, true)]) {
        let (sender, peer) = sender(&mut lp, form);
        peer.shutdown(Shutdown::Write).unwrap();
        let sending = start(&mut lp, sender, Sender::send);
        let_it_wait(&mut lp);
        if resets {
            peer.reset()
        } else {
            drop(peer)
        }
        let error = sending.wait(&mut lp).1.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
            "{form:?}: {error}"
        );
    }
}

/// What waited for room held the file open.
fn a_waiting_send_does_not_keep_the_connection_open_once_it_is_over(v: Variant) {
    let mut lp = v.new_loop();
    for form in FORMS.into_iter().filter(|form| *form != Form::ZeroCopy) {
        let (sender, mut peer) = sender(&mut lp, form);
        peer.shutdown(Shutdown::Write).unwrap();
        let sending = start(&mut lp, sender, Sender::send);
        let_it_wait(&mut lp);
        lp.cancel(sending.id);
        drop(sending.wait(&mut lp));
        // The end of the stream comes, though the loop does nothing.
        peer.read_to_end(&mut Vec::new()).unwrap();
    }
}

fn a_send_in_hundreds_of_parts_needs_no_thread(v: Variant) {
    const LEN: usize = 2 << 20;
    let mut lp = v.new_loop();
    let (ours, mut peer) = small_sender();
    let sending = start(&mut lp, (ours, pattern(LEN)), |(s, b)| s.send_all(b));
    let reader = background(move || {
        let mut all = vec![0; LEN];
        peer.read_exact(&mut all).unwrap();
        assert!(all == pattern(LEN));
    });
    assert_eq!(sending.wait(&mut lp).1.unwrap(), LEN);
    assert_eq!(kernel_threads(), 0);
    reader.join();
}

// ---- urgent data

/// Sends bytes of urgent data, each at once.
fn send_urgently(peer: &Peer, bytes: &[u8]) {
    peer.options().set_tcp_nodelay(true).unwrap();
    for byte in bytes {
        while peer.options().send_out_of_band(&[*byte]).is_err() {}
    }
}

fn urgent_data_costs_a_waiting_send_no_thread(v: Variant) {
    let mut lp = v.new_loop();
    for form in FORMS {
        let (mut sender, peer) = sender(&mut lp, form);
        sender.ignores_urgent_data = true;
        let sending = start(&mut lp, sender, Sender::send);
        send_urgently(&peer, b"!");
        let_it_wait(&mut lp);
        send_urgently(&peer, b"!");
        let_it_wait(&mut lp);
        form.assert_waits(&sending);
        assert_eq!(kernel_threads(), 0, "{form:?}");
        is_sent_whole(&mut lp, sending, peer);
    }
}

/// Each byte wakes the receive, and is a byte of the stream as any other: skipped, it would wake it in vain,
/// until the kernel has a thread wait.
fn urgent_data_costs_a_waiting_receive_no_thread(v: Variant) {
    const WAKES: usize = 400;
    let mut lp = v.new_loop();
    for taken_over in [false, true] {
        for (ours, peer) in urgent_pairs(&mut lp, taken_over) {
            let recv = start(&mut lp, (ours, [0; WAKES + 1]), |(s, b)| s.recv_exact(b));
            for _ in 0..WAKES {
                lp.run(RunMode::NoWait).unwrap();
                send_urgently(&peer, b"!");
            }
            let_it_wait(&mut lp);
            assert_eq!(kernel_threads(), 0);
            assert!(!recv.is_done());
            peer.options().send(b".").unwrap();
            let ((_, bytes), received) = recv.wait(&mut lp);
            assert_eq!(received.unwrap(), WAKES + 1);
            assert!(bytes[..WAKES].iter().all(|&byte| byte == b'!') && bytes[WAKES] == b'.');
        }
    }
    let pool = lp.buf_pool(4, 64).unwrap();
    let (ours, peer) = small_sender();
    let recv = start_multi(&mut lp, (ours, pool), usize::MAX, |(s, p)| s.recv_multi(p));
    let leases: &Log<Lease> = &recv.items;
    let mut count = 0;
    while count < WAKES {
        send_urgently(&peer, b"!");
        run_until(&mut lp, || !leases.is_empty());
        count += leases.take().iter().map(|lease| lease.len()).sum::<usize>();
    }
    assert_eq!(kernel_threads(), 0);
    drop(peer);
    recv.wait(&mut lp).unwrap();
}

/// Connections that were accepted and connected, or taken over from the standard library.
fn urgent_pairs(lp: &mut Loop, taken_over: bool) -> Vec<(TcpStream, Peer)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    if taken_over {
        let ours = TcpStream::from_std(std::net::TcpStream::connect(address).unwrap()).unwrap();
        return vec![(ours, Peer::new(listener.accept().unwrap().0))];
    }
    let connected = complete(lp, (), |()| TcpStream::connect(address)).1.unwrap();
    let its_peer = Peer::new(listener.accept().unwrap().0);
    let (listener, address) = crate::support::sockets::listener();
    let peer = Peer::new(std::net::TcpStream::connect(address).unwrap());
    let accepted = complete(lp, listener, |l: &mut TcpListener| l.accept()).1.unwrap();
    vec![(connected, its_peer), (accepted, peer)]
}

// ---- time limits

fn time_limits_of_the_standard_library_do_not_end_an_operation(v: Variant) {
    let mut lp = v.new_loop();
    for form in FORMS {
        let (sender, peer) = sender(&mut lp, form);
        let socket = socket2::SockRef::from(&sender.stream);
        socket.set_write_timeout(Some(MS)).unwrap();
        socket.set_read_timeout(Some(MS)).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let sending = start(&mut lp, sender, Sender::send);
        let_it_wait(&mut lp);
        form.assert_waits(&sending);
        is_sent_whole(&mut lp, sending, peer);
    }
    let (ours, mut peer) = small_sender();
    socket2::SockRef::from(&ours).set_read_timeout(Some(MS)).unwrap();
    let recv = start(&mut lp, (ours, [0; 4]), |(s, b)| s.recv_exact(b).timeout(HOUR));
    let_it_wait(&mut lp);
    peer.write_all(b"late").unwrap();
    assert_eq!(recv.wait(&mut lp).1.unwrap(), 4);
    assert_eq!(kernel_threads(), 0);
}
