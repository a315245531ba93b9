//! Files: opening, the cursor, offsets, and what can be wrong with each.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use oxev::{Completion, File, IoVecs, Loop, Metadata, OpenOptions, RunMode, TcpListener, TcpStream};

use crate::support::hanging::pipe;
use crate::support::sockets::connect;
use crate::support::surroundings::{Dir, Named, background, current};
use crate::support::{MS, Started, complete, errno, is_canceled, pattern, start};
use crate::variants::Variant;

conformance! {
    a_file_is_created_written_read_and_closed,
    open_modes_are_those_of_the_standard_library,
    open_with_contradictory_options_is_refused,
    a_file_that_is_missing_is_an_error,
    a_file_that_exists_is_an_error_for_create_new,
    a_new_file_has_the_mode_that_was_asked_for,
    an_opened_file_is_not_inherited,
    the_cursor_moves_with_reads_and_writes,
    positional_operations_leave_the_cursor_alone,
    a_list_that_is_longer_than_a_kernel_takes_is_moved_whole,
    a_list_of_thousands_of_buffers_is_sent_and_received,
    a_long_read_is_short_at_the_end_of_the_file_alone,
    a_long_write_is_whole_and_so_is_one_that_is_appended,
    #[needs_kernel = "a simulated read takes no time of the thread"]
    a_long_read_does_not_hold_the_loop,
    writes_that_are_queued_at_the_position_keep_their_order,
    reads_that_are_queued_at_the_position_keep_their_order,
    reads_and_writes_at_one_position_take_turns,
    an_operation_that_waits_for_its_turn_can_be_cancelled,
    an_operation_that_waits_for_its_turn_has_its_deadline,
    a_loop_is_dropped_while_operations_wait_for_their_turn,
    exact_writes_to_a_pipe_are_not_mixed,
    #[needs_kernel = "copies of descriptors"]
    copies_of_a_descriptor_share_the_position,
    #[needs_kernel = "files of the standard library"]
    the_position_after_appending_is_the_end,
    reading_past_the_end_gives_what_there_is,
    an_exact_read_past_the_end_is_an_unexpected_end,
    an_exact_read_of_all_there_is_succeeds,
    write_all_writes_all,
    vectored_reads_and_writes_keep_the_order,
    too_many_buffers_are_refused,
    an_empty_buffer_is_done_at_once,
    offsets_past_four_gibibytes,
    offsets_beyond_the_signed_range_are_refused,
    append_writes_at_the_end,
    truncate_empties_the_file,
    metadata_tells_size_kind_mode_and_time,
    sync_succeeds_on_a_file_and_fails_on_a_pipe,
    close_reports_and_the_file_is_gone,
    reading_a_file_that_is_not_open_for_reading_is_an_error,
    reading_a_directory_is_an_error,
    many_reads_and_writes_are_in_flight_at_once,
    a_megabyte_is_copied_in_pieces,
    reads_around_the_page_cache,
    a_pipe_is_a_file,
    a_pipe_without_readers_is_an_error_and_no_signal_kills,
    #[needs_kernel = "files of the standard library"]
    files_of_the_standard_library_are_taken_over,
    #[needs_kernel = "a FIFO"]
    an_open_of_a_fifo_waits_for_the_other_end,
    #[needs_kernel = "a FIFO"]
    an_open_of_a_fifo_whose_other_end_is_open_does_not_wait,
    #[needs_kernel = "a FIFO"]
    an_open_of_a_fifo_that_waits_is_cancelled_and_keeps_its_deadline,
    #[needs_kernel = "a FIFO"]
    an_open_of_a_fifo_that_waits_is_dropped_with_its_loop,
    #[needs_kernel = "a FIFO"]
    an_open_of_a_fifo_that_must_not_block_never_waits,
    open_blocking_opens,
    no_more_descriptors_is_an_error_in_the_callback,
}

/// A file with this content, open for reading and writing.
fn file_with(content: &[u8]) -> (File, Named) {
    let named = Named::new(content);
    (named.open(), named)
}

fn a_file_is_created_written_read_and_closed(v: Variant) {
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    let options = OpenOptions::new().read(true).write(true).create(true);
    let (_, file) = complete(&mut lp, dir.path("new"), |path| File::open(path, &options));
    let state = (file.unwrap(), *b"some bytes", [0; 16]);
    let (state, written) = complete(&mut lp, state, |(f, b, _)| f.write_at(b, 0));
    assert_eq!(written.unwrap(), 10);
    let ((file, _, buffer), read) = complete(&mut lp, state, |(f, _, b)| f.read_at(b, 5));
    assert_eq!(&buffer[..read.unwrap()], b"bytes");
    complete(&mut lp, file, |f| f.close()).1.unwrap();
    assert_eq!(dir.read("new").unwrap(), b"some bytes");
}

fn open_modes_are_those_of_the_standard_library(v: Variant) {
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    dir.write("there", b"content");
    let there = tempfile::NamedTempFile::new().unwrap();
    let mut path = dir.path("there");
    for bits in 0..64_u8 {
        let is = |bit: u8| bits & 1 << bit != 0;
        let ours = OpenOptions::new().read(is(0)).write(is(1)).append(is(2)).truncate(is(3));
        let ours = ours.create(is(4)).create_new(is(5));
        let mut theirs = std::fs::OpenOptions::new();
        theirs.read(is(0)).write(is(1)).append(is(2)).truncate(is(3)).create(is(4)).create_new(is(5));
        let expected = theirs.open(there.path()).map(drop);
        let (back, opened) = complete(&mut lp, path, |path| File::open(path, &ours));
        path = back;
        let kinds = (opened.err().map(|e| e.kind()), expected.err().map(|e| e.kind()));
        assert_eq!(kinds.0, kinds.1, "{ours:?}");
    }
}

fn open_with_contradictory_options_is_refused(v: Variant) {
    let mut lp = v.new_loop();
    let (_, opened) = complete(&mut lp, (), |()| File::open(c"/dev/null", &OpenOptions::new()));
    assert_eq!(errno(opened), Some(libc::EINVAL));
}

fn a_file_that_is_missing_is_an_error(v: Variant) {
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    let options = OpenOptions::new().read(true);
    let (_, opened) = complete(&mut lp, dir.path("missing"), |path| File::open(path, &options));
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::NotFound);
}

fn a_file_that_exists_is_an_error_for_create_new(v: Variant) {
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    let options = OpenOptions::new().write(true).create_new(true);
    let (path, first) = complete(&mut lp, dir.path("new"), |path| File::open(path, &options));
    first.unwrap();
    let (_, second) = complete(&mut lp, path, |path| File::open(path, &options));
    assert_eq!(second.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

fn a_new_file_has_the_mode_that_was_asked_for(v: Variant) {
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    let options = OpenOptions::new().write(true).create_new(true).mode(0o600);
    let (_, file) = complete(&mut lp, dir.path("new"), |path| File::open(path, &options));
    let ((_, metadata), done) = complete(&mut lp, (file.unwrap(), Metadata::new()), |(f, m)| f.metadata(m));
    done.unwrap();
    assert_eq!(metadata.mode(), 0o600);
}

fn an_opened_file_is_not_inherited(v: Variant) {
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    dir.write("file", b"");
    let options = OpenOptions::new().read(true);
    let file = complete(&mut lp, dir.path("file"), |path| File::open(path, &options)).1.unwrap();
    let flags = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_ne!(flags & libc::FD_CLOEXEC, 0);
}

fn the_cursor_moves_with_reads_and_writes(v: Variant) {
    let mut lp = v.new_loop();
    let (file, named) = file_with(b"abcdefgh");
    let mut state = (file, [0; 3]);
    for expected in [&b"abc"[..], b"def", b"gh", b""] {
        let (back, read) = complete(&mut lp, state, |(f, b)| f.read(b));
        assert_eq!(&back.1[..read.unwrap()], expected);
        state = back;
    }
    state.1 = *b"xyz";
    let (state, written) = complete(&mut lp, state, |(f, b)| f.write(b));
    assert_eq!(written.unwrap(), 3);
    complete(&mut lp, state, |(f, b)| f.write_all(b)).1.unwrap();
    assert_eq!(named.content(), b"abcdefghxyzxyz");
}

fn positional_operations_leave_the_cursor_alone(v: Variant) {
    let mut lp = v.new_loop();
    let (file, _named) = file_with(b"abcdefgh");
    let (state, read) = complete(&mut lp, (file, [0; 2]), |(f, b)| f.read_at(b, 6));
    assert_eq!((read.unwrap(), &state.1), (2, b"gh"));
    let (state, read) = complete(&mut lp, state, |(f, b)| f.read(b));
    assert_eq!((read.unwrap(), &state.1), (2, b"ab"));
}

/// Starts a write of this many bytes at the position for each index, and says of what.
fn start_writes(lp: &mut Loop, file: &Rc<File>, count: u8, len: usize) -> Vec<Started<Written, usize>> {
    let write = |index| {
        // Exact or not, and over a buffer that is only its own.
        let state = (Rc::clone(file), vec![index; len]);
        start(lp, state, |(f, b)| if index % 2 == 0 { f.write_all(b) } else { f.write(b) })
    };
    (0..count).map(write).collect()
}

type Written = (Rc<File>, Vec<u8>);

fn writes_that_are_queued_at_the_position_keep_their_order(v: Variant) {
    let mut lp = v.new_loop();
    let (file, named) = file_with(b"");
    let writes = start_writes(&mut lp, &Rc::new(file), 100, 5000);
    lp.run(RunMode::UntilDone).unwrap();
    let mut expected = Vec::new();
    for (index, write) in (0..).zip(writes) {
        // A plain write may be short, and the next one begins where it ended.
        expected.resize(expected.len() + write.result().unwrap(), index);
    }
    assert!(named.content() == expected);
}

fn reads_that_are_queued_at_the_position_keep_their_order(v: Variant) {
    let mut lp = v.new_loop();
    let (file, _named) = file_with(&pattern(200_000));
    let file = Rc::new(file);
    let reads: Vec<_> =
        (0..50).map(|_| start(&mut lp, (Rc::clone(&file), vec![0; 4000]), |(f, b)| f.read(b))).collect();
    lp.run(RunMode::UntilDone).unwrap();
    let mut all = Vec::new();
    for read in reads {
        let ((_, buffer), count) = read.take();
        all.extend_from_slice(&buffer[..count.unwrap()]);
    }
    assert!(all == pattern(200_000)[..all.len()]);
}

fn reads_and_writes_at_one_position_take_turns(v: Variant) {
    let mut lp = v.new_loop();
    let (file, named) = file_with(&[b'.'; 400]);
    let file = Rc::new(file);
    let mut started = Vec::new();
    for index in 0..100 {
        started.push(start(&mut lp, (Rc::clone(&file), [b'x'; 2]), |(f, b)| {
            if index % 2 == 0 { f.read(&mut b[..1]) } else { f.write_all(b) }
        }));
    }
    lp.run(RunMode::UntilDone).unwrap();
    for (index, one) in started.into_iter().enumerate() {
        let ((_, buffer), count) = one.take();
        assert_eq!((count.unwrap(), buffer), if index % 2 == 0 { (1, *b".x") } else { (2, *b"xx") });
    }
    assert_eq!(named.content()[..150], *b".xx".repeat(50));
}

fn an_operation_that_waits_for_its_turn_can_be_cancelled(v: Variant) {
    let mut lp = v.new_loop();
    let (file, named) = file_with(b"");
    let writes = start_writes(&mut lp, &Rc::new(file), 60, 3000);
    let cancelled: Vec<bool> =
        writes.iter().enumerate().map(|(index, write)| index % 3 != 1 && lp.cancel(write.id)).collect();
    lp.run(RunMode::UntilDone).unwrap();
    let mut expected = Vec::new();
    for ((index, write), cancelled) in (0..).zip(writes).zip(cancelled) {
        let moved = write.moved.get();
        let result = write.result();
        assert!(result.is_ok() || cancelled && is_canceled(&result), "{result:?}");
        expected.resize(expected.len() + moved as usize, index);
    }
    assert!(named.content() == expected);
}

fn an_operation_that_waits_for_its_turn_has_its_deadline(v: Variant) {
    let mut lp = v.new_loop();
    let ((file, mut end), _) = (current().pipe().0, ());
    let file = Rc::new(file);
    // No byte comes, so the first one waits, and the others wait for it.
    let first = start(&mut lp, (Rc::clone(&file), [0; 4]), |(f, b)| f.read(b));
    let second = start(&mut lp, (Rc::clone(&file), [0; 4]), |(f, b)| f.read(b).timeout(MS));
    let third = start(&mut lp, (Rc::clone(&file), [0; 4]), |(f, b)| f.read(b));
    let (_, result) = second.wait(&mut lp);
    assert!(oxev::is_deadline(&result.unwrap_err()));
    assert!(!first.is_done() && !third.is_done());
    end.write_all(b"abcd").unwrap();
    assert_eq!(&first.wait(&mut lp).0.1, b"abcd");
    end.write_all(b"efgh").unwrap();
    assert_eq!(&third.wait(&mut lp).0.1, b"efgh");
}

fn a_loop_is_dropped_while_operations_wait_for_their_turn(v: Variant) {
    let mut lp = v.new_loop();
    let (file, _named) = file_with(b"");
    let file = Rc::new(file);
    let writes = start_writes(&mut lp, &file, 50, 100_000);
    lp.flush().unwrap();
    drop(lp);
    assert!(writes.iter().all(|write| !write.is_done()));
    assert_eq!(Rc::strong_count(&file), 1, "every owner was dropped");
}

fn exact_writes_to_a_pipe_are_not_mixed(v: Variant) {
    const LEN: usize = 300_000;
    let mut lp = v.new_loop();
    let (file, mut end) = current().pipe().1;
    let file = Rc::new(file);
    let writes: Vec<_> = (0..3)
        .map(|index| start(&mut lp, (Rc::clone(&file), vec![index; LEN]), |(f, b)| f.write_all(b)))
        .collect();
    let reader = background(move || {
        let mut all = vec![0; 3 * LEN];
        end.read_exact(&mut all).map(|()| all)
    });
    lp.run(RunMode::UntilDone).unwrap();
    assert!(writes.into_iter().all(|write| write.result().unwrap() == LEN));
    let all = reader.join().unwrap();
    assert!(all.is_sorted(), "the writes are mixed");
}

fn copies_of_a_descriptor_share_the_position(v: Variant) {
    let mut lp = v.new_loop();
    let named = Named::new(b"");
    let file = std::fs::File::options().write(true).open(&named.path).unwrap();
    let copies: Vec<_> = (0..8).map(|_| Rc::new(File::from_std(file.try_clone().unwrap()))).collect();
    let mut writes = Vec::new();
    for index in 0..80_u8 {
        let state = (Rc::clone(&copies[usize::from(index) % copies.len()]), vec![index; 3000]);
        writes.push(start(&mut lp, state, |(f, b)| f.write_all(b)));
    }
    lp.run(RunMode::UntilDone).unwrap();
    assert!(writes.into_iter().all(|write| write.result().unwrap() == 3000));
    let content = named.content();
    assert!(content.len() == 80 * 3000 && content.is_sorted());
}

fn the_position_after_appending_is_the_end(v: Variant) {
    let mut lp = v.new_loop();
    let named = Named::new(b"0123456789");
    let file = std::fs::File::options().read(true).append(true).open(&named.path).unwrap();
    let mut twin = file.try_clone().unwrap();
    let file = Rc::new(File::from_std(file));
    let state = (Rc::clone(&file), [0; 4]);
    complete(&mut lp, state, |(f, b)| f.read(b)).1.unwrap();
    assert_eq!(twin.stream_position().unwrap(), 4);
    start_writes(&mut lp, &file, 7, 3)
        .into_iter()
        .for_each(|write| assert_eq!(write.wait(&mut lp).1.unwrap(), 3));
    assert_eq!(twin.stream_position().unwrap(), 31);
    assert_eq!(named.content().len(), 31);
}

/// Buffers in a list: more than twice as many as a kernel takes at once.
const MANY: usize = 2500;

fn a_list_that_is_longer_than_a_kernel_takes_is_moved_whole(v: Variant) {
    let mut lp = v.new_loop();
    let (file, named) = file_with(b"");
    let state = (file, pattern(3 * MANY), Box::new(IoVecs::<MANY>::new()));
    let (state, written) =
        complete(&mut lp, state, |(f, b, v)| f.write_all_vectored_at(v.gather(b.chunks(3)), 1));
    assert_eq!((written.unwrap(), lp.moved()), (3 * MANY, 3 * MANY as u64));
    assert!(named.content()[1..] == state.1);
    let (mut state, written) =
        complete(&mut lp, state, |(f, b, v)| f.write_vectored_at(v.gather(b.chunks(3)), 0));
    // It may be short, but not because of the list.
    let count = written.unwrap();
    assert!(count > 0 && named.content()[..count] == state.1[..count]);
    state.1.fill(0);
    let (mut state, read) =
        complete(&mut lp, state, |(f, b, v)| f.read_vectored_at(v.scatter(b.chunks_mut(3)), 0));
    let count = read.unwrap();
    assert!(count > 0 && state.1[..count] == named.content()[..count]);
    state.1.truncate(0);
}

fn a_list_of_thousands_of_buffers_is_sent_and_received(v: Variant) {
    let mut lp = v.new_loop();
    let (one, other) = crate::support::sockets::loop_pair();
    let sent = start(&mut lp, (one, pattern(MANY), Box::new(IoVecs::<MANY>::new())), |(s, b, v)| {
        s.send_all_vectored(v.gather(b.chunks(1)))
    });
    let received = start(&mut lp, (other, vec![0; MANY], Box::new(IoVecs::<MANY>::new())), |(s, b, v)| {
        s.recv_exact_vectored(v.scatter(b.chunks_mut(1)))
    });
    lp.run(RunMode::UntilDone).unwrap();
    assert_eq!(sent.result().unwrap(), MANY);
    let ((_, buffer, _), count) = received.take();
    assert!(count.unwrap() == MANY && buffer == pattern(MANY));
}

/// More than what is moved at once.
const LONG: usize = 3_333_333;

fn a_long_read_is_short_at_the_end_of_the_file_alone(v: Variant) {
    let mut lp = v.new_loop();
    let (file, _named) = file_with(&pattern(LONG));
    let (state, read) = complete(&mut lp, (file, vec![0; 2 * LONG]), |(f, b)| f.read_at(b, 0));
    let count = read.unwrap();
    assert!(count == LONG || v.name() == "sim_faulty", "{count}");
    assert!(state.1[..count] == pattern(LONG)[..count]);
    let (state, read) = complete(&mut lp, state, |(f, b)| f.read(b));
    let first = read.unwrap();
    assert!(first == LONG || v.name() == "sim_faulty");
    let (_, read) = complete(&mut lp, state, |(f, b)| f.read(b));
    assert!(first + read.unwrap() <= LONG);
}

fn a_long_write_is_whole_and_so_is_one_that_is_appended(v: Variant) {
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    let options = OpenOptions::new().append(true).create(true);
    let (_, file) = complete(&mut lp, dir.path("file"), |path| File::open(path, &options));
    let (state, written) = complete(&mut lp, (file.unwrap(), pattern(LONG)), |(f, b)| f.write_all(b));
    assert_eq!((written.unwrap(), lp.moved()), (LONG, LONG as u64));
    assert!(dir.read("file").unwrap() == state.1);
    let (file, named) = file_with(b"");
    let (state, written) = complete(&mut lp, (file, state.1), |(f, b)| f.write_at(b, 3));
    let count = written.unwrap();
    assert!(count == LONG || v.name() == "sim_faulty", "{count}");
    assert!(named.content()[3..] == state.1[..count]);
}

fn a_long_read_does_not_hold_the_loop(v: Variant) {
    fn turn(lp: &mut Loop, turns: Box<Completion<Rc<Cell<usize>>>>) {
        lp.submit(
            turns,
            |_| oxev::nop().background(),
            |lp, turns, _| {
                turns.set(turns.get() + 1);
                turn(lp, turns);
            },
        );
    }

    let mut lp = v.new_loop();
    let named = Named::new(b"");
    std::fs::File::options().write(true).open(&named.path).unwrap().set_len(64 << 20).unwrap();
    let turns = Rc::new(Cell::new(0));
    turn(&mut lp, Box::new(Completion::new(Rc::clone(&turns))));
    let (_, read) = complete(&mut lp, (named.open(), vec![1; 64 << 20]), |(f, b)| f.read_at(b, 0));
    assert_eq!(read.unwrap(), 64 << 20);
    assert!(turns.get() >= 16, "the loop had {} turns meanwhile", turns.get());
}

fn reading_past_the_end_gives_what_there_is(v: Variant) {
    let mut lp = v.new_loop();
    let (file, _named) = file_with(b"abc");
    let (state, read) = complete(&mut lp, (file, [0; 8]), |(f, b)| f.read_at(b, 1));
    assert_eq!(&state.1[..read.unwrap()], b"bc");
    let (state, read) = complete(&mut lp, state, |(f, b)| f.read_at(b, 3));
    assert_eq!(read.unwrap(), 0);
    assert_eq!(complete(&mut lp, state, |(f, b)| f.read_at(b, 1 << 40)).1.unwrap(), 0);
}

fn an_exact_read_past_the_end_is_an_unexpected_end(v: Variant) {
    let mut lp = v.new_loop();
    let (file, _named) = file_with(b"abc");
    let mut state = (file, [0; 8]);
    for offset in [0, 2, 3, 1000] {
        let (back, read) = complete(&mut lp, state, |(f, b)| f.read_exact_at(b, offset));
        assert_eq!(read.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        state = back;
    }
}

fn an_exact_read_of_all_there_is_succeeds(v: Variant) {
    let mut lp = v.new_loop();
    let (file, _named) = file_with(&pattern(1 << 20));
    let ((_, buffer), read) = complete(&mut lp, (file, vec![0; 1 << 20]), |(f, b)| f.read_exact_at(b, 0));
    assert_eq!(read.unwrap(), 1 << 20);
    assert!(buffer == pattern(1 << 20));
}

fn write_all_writes_all(v: Variant) {
    let mut lp = v.new_loop();
    let (file, named) = file_with(b"");
    let (_, written) = complete(&mut lp, (file, pattern(1 << 20)), |(f, b)| f.write_all_at(b, 7));
    assert_eq!(written.unwrap(), 1 << 20);
    let content = named.content();
    assert!(content[..7] == [0; 7] && content[7..] == pattern(1 << 20));
}

fn vectored_reads_and_writes_keep_the_order(v: Variant) {
    let mut lp = v.new_loop();
    let (file, named) = file_with(b"");
    let state = (file, IoVecs::<4>::new());
    let (state, written) =
        complete(&mut lp, state, |(f, v)| f.write_vectored_at(v.gather([&b"ab"[..], b"", b"cde"]), 1));
    assert_eq!(written.unwrap(), 5);
    let ((file, vecs), written) = complete(&mut lp, state, |(f, v)| {
        f.write_all_vectored_at(v.gather([&b"f"[..], b"gh", b"", b"i"]), 6)
    });
    assert_eq!(written.unwrap(), 4);
    assert_eq!(named.content(), b"\0abcdefghi");
    let state = (file, vecs, [0; 4], [0; 0], [0; 16]);
    let ((_, _, one, _, two), read) = complete(&mut lp, state, |(f, v, one, none, two)| {
        f.read_vectored_at(v.scatter([&mut one[..], &mut none[..], &mut two[..]]), 1)
    });
    assert_eq!((read.unwrap(), &one, &two[..5]), (9, b"abcd", &b"efghi"[..]));
}

fn too_many_buffers_are_refused(v: Variant) {
    let mut lp = v.new_loop();
    let (file, named) = file_with(b"");
    let (_, written) = complete(&mut lp, (file, IoVecs::<1>::new()), |(f, v)| {
        f.write_vectored_at(v.gather([&b"a"[..], b"b"]), 0)
    });
    assert_eq!(errno(written), Some(libc::EMSGSIZE));
    assert_eq!(named.content(), b"");
}

fn an_empty_buffer_is_done_at_once(v: Variant) {
    let mut lp = v.new_loop();
    let (file, _named) = file_with(b"abc");
    let file = Rc::new(file);
    let state = || (Rc::clone(&file), [], IoVecs::<1>::new());
    assert_eq!(complete(&mut lp, state(), |(f, b, _)| f.read(b)).1.unwrap(), 0);
    assert_eq!(complete(&mut lp, state(), |(f, b, _)| f.read_exact_at(b, 99)).1.unwrap(), 0);
    assert_eq!(complete(&mut lp, state(), |(f, b, _)| f.write_all(b)).1.unwrap(), 0);
    assert_eq!(complete(&mut lp, state(), |(f, _, v)| f.write_vectored_at(v.gather([]), 0)).1.unwrap(), 0);
}

fn offsets_past_four_gibibytes(v: Variant) {
    const FAR: u64 = (5 << 30) + 3;
    let mut lp = v.new_loop();
    let (file, _named) = file_with(b"near");
    let state = (file, *b"far!", [0; 4], Metadata::new());
    let (state, written) = complete(&mut lp, state, |(f, b, ..)| f.write_all_at(b, FAR));
    assert_eq!(written.unwrap(), 4);
    let (state, read) = complete(&mut lp, state, |(f, _, b, _)| f.read_exact_at(b, FAR));
    assert_eq!((read.unwrap(), &state.2), (4, b"far!"));
    let (state, read) = complete(&mut lp, state, |(f, _, b, _)| f.read_at(b, FAR & 0xffff_ffff));
    assert_eq!((read.unwrap(), &state.2), (4, &[0; 4]), "the offset is not cut to 32 bits");
    let ((.., metadata), done) = complete(&mut lp, state, |(f, .., m)| f.metadata(m));
    done.unwrap();
    assert_eq!(metadata.len(), FAR + 4);
}

fn offsets_beyond_the_signed_range_are_refused(v: Variant) {
    let mut lp = v.new_loop();
    let (file, _named) = file_with(b"abc");
    let mut state = (file, [0; 4]);
    for offset in [1 << 63, u64::MAX, u64::MAX - 1] {
        let (back, read) = complete(&mut lp, state, |(f, b)| f.read_at(b, offset));
        assert_eq!(errno(read), Some(libc::EINVAL));
        let (back, written) = complete(&mut lp, back, |(f, b)| f.write_all_at(b, offset));
        assert_eq!(errno(written), Some(libc::EINVAL));
        state = back;
    }
    let (state, read) = complete(&mut lp, state, |(f, b)| f.read(b));
    assert_eq!((read.unwrap(), &state.1[..3]), (3, &b"abc"[..]), "nothing moved the cursor");
}

fn append_writes_at_the_end(v: Variant) {
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    dir.write("log", b"one ");
    let options = OpenOptions::new().append(true);
    let (_, file) = complete(&mut lp, dir.path("log"), |path| File::open(path, &options));
    let (state, written) = complete(&mut lp, (file.unwrap(), *b"two "), |(f, b)| f.write_all(b));
    written.unwrap();
    complete(&mut lp, state, |(f, b)| f.write_all(b)).1.unwrap();
    assert_eq!(dir.read("log").unwrap(), b"one two two ");
}

fn truncate_empties_the_file(v: Variant) {
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    dir.write("file", b"old");
    let options = OpenOptions::new().write(true).truncate(true);
    complete(&mut lp, dir.path("file"), |path| File::open(path, &options)).1.unwrap();
    assert_eq!(dir.read("file").unwrap(), b"");
}

fn metadata_tells_size_kind_mode_and_time(v: Variant) {
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    let (file, named) = file_with(b"12345");
    let ((_, file_is), done) = complete(&mut lp, (file, Metadata::new()), |(f, m)| f.metadata(m));
    done.unwrap();
    assert_eq!((file_is.len(), file_is.is_file(), file_is.is_dir()), (5, true, false));
    if let Some(facts) = named.facts() {
        assert_eq!((file_is.modified(), file_is.as_raw().stx_ino), facts);
    }
    let ((_, again), done) = complete(&mut lp, (named.open(), Metadata::new()), |(f, m)| f.metadata(m));
    done.unwrap();
    assert_eq!(again.as_raw().stx_ino, file_is.as_raw().stx_ino);
    let options = OpenOptions::new().read(true);
    dir.write("file", b"");
    let (_, dir) = complete(&mut lp, dir.path("."), |path| File::open(path, &options));
    let ((_, dir_is), done) = complete(&mut lp, (dir.unwrap(), Metadata::new()), |(f, m)| f.metadata(m));
    done.unwrap();
    assert!(dir_is.is_dir() && !dir_is.is_file());
}

fn sync_succeeds_on_a_file_and_fails_on_a_pipe(v: Variant) {
    let mut lp = v.new_loop();
    let (file, _named) = file_with(b"abc");
    let (file, synced) = complete(&mut lp, file, |f| f.sync_all());
    synced.unwrap();
    complete(&mut lp, file, |f| f.sync_data()).1.unwrap();
    let (pipe, _end) = pipe();
    assert_eq!(errno(complete(&mut lp, pipe, |f| f.sync_all()).1), Some(libc::EINVAL));
}

fn close_reports_and_the_file_is_gone(v: Variant) {
    let mut lp = v.new_loop();
    let (file, _named) = file_with(b"abc");
    let (file, closed) = complete(&mut lp, file, |f| f.close());
    closed.unwrap();
    assert_eq!(file.as_raw_fd(), -1);
    let bad = Some(libc::EBADF);
    let ((file, _), read) = complete(&mut lp, (file, [0; 4]), |(f, b)| f.read(b));
    assert_eq!(errno(read), bad);
    let ((file, _), read) = complete(&mut lp, (file, [0; 4]), |(f, b)| f.write_all_at(b, 0));
    assert_eq!(errno(read), bad);
    let (file, synced) = complete(&mut lp, file, |f| f.sync_all());
    assert_eq!(errno(synced), bad);
    let ((file, _), done) = complete(&mut lp, (file, Metadata::new()), |(f, m)| f.metadata(m));
    assert_eq!(errno(done), bad);
    assert_eq!(errno(complete(&mut lp, file, |f| f.close()).1), bad);
}

fn reading_a_file_that_is_not_open_for_reading_is_an_error(v: Variant) {
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    let options = OpenOptions::new().write(true).create(true);
    let (_, file) = complete(&mut lp, dir.path("file"), |path| File::open(path, &options));
    assert_eq!(errno(complete(&mut lp, (file.unwrap(), [0; 4]), |(f, b)| f.read(b)).1), Some(libc::EBADF));
}

fn reading_a_directory_is_an_error(v: Variant) {
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    let options = OpenOptions::new().read(true);
    dir.write("file", b"");
    let (_, opened) = complete(&mut lp, dir.path("."), |path| File::open(path, &options));
    let dir = opened.unwrap();
    assert_eq!(errno(complete(&mut lp, (dir, [0; 4]), |(f, b)| f.read_at(b, 0)).1), Some(libc::EISDIR));
}

fn many_reads_and_writes_are_in_flight_at_once(v: Variant) {
    const BLOCK: usize = 4096;
    let mut lp = v.builder().entries(8).build().unwrap();
    let (file, named) = file_with(b"");
    let file = Rc::new(file);
    let whole = pattern(64 * BLOCK);
    let writes: Vec<_> = whole
        .chunks(BLOCK)
        .enumerate()
        .map(|(i, block)| {
            let state = (Rc::clone(&file), block.to_vec());
            start(&mut lp, state, |(f, b)| f.write_all_at(b, (i * BLOCK) as u64))
        })
        .collect();
    lp.run(RunMode::UntilDone).unwrap();
    assert!(writes.into_iter().all(|write| write.result().unwrap() == BLOCK));
    assert!(named.content() == whole);
    let reads: Vec<_> = (0..64)
        .rev()
        .map(|i| {
            let state = (Rc::clone(&file), vec![0; BLOCK]);
            (i, start(&mut lp, state, |(f, b)| f.read_exact_at(b, (i * BLOCK) as u64)))
        })
        .collect();
    lp.run(RunMode::UntilDone).unwrap();
    for (i, read) in reads {
        let ((_, buffer), result) = read.take();
        result.unwrap();
        assert!(buffer == whole[i * BLOCK..][..BLOCK]);
    }
}

fn a_megabyte_is_copied_in_pieces(v: Variant) {
    let mut lp = v.new_loop();
    let ((from, _named), (to, copy)) = (file_with(&pattern(1 << 20)), file_with(b""));
    let mut state = (from, to, vec![0; 10_000]);
    loop {
        let (back, read) = complete(&mut lp, state, |(from, _, b)| from.read(b));
        let n = read.unwrap();
        if n == 0 {
            break;
        }
        let (back, written) = complete(&mut lp, back, |(_, to, b)| to.write_all(&b[..n]));
        assert_eq!(written.unwrap(), n);
        state = back;
    }
    assert!(copy.content() == pattern(1 << 20));
}

fn reads_around_the_page_cache(v: Variant) {
    #[repr(align(4096))]
    struct Block([u8; 4096]);
    let mut lp = v.new_loop();
    let dir = Dir::new();
    dir.write("file", &pattern(64 << 10));
    let options = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT);
    let (_, file) = complete(&mut lp, dir.path("file"), |path| File::open(path, &options));
    let Ok(file) = file else { return eprintln!("not run: this file system has no O_DIRECT") };
    let file = Rc::new(file);
    let reads: Vec<_> = (0..16)
        .map(|i| {
            let state = (Rc::clone(&file), Box::new(Block([0; 4096])));
            start(&mut lp, state, |(f, b)| f.read_exact_at(&mut b.0, i * 4096))
        })
        .collect();
    lp.run(RunMode::UntilDone).unwrap();
    for (i, read) in reads.into_iter().enumerate() {
        let ((_, block), result) = read.take();
        assert_eq!(result.unwrap(), 4096);
        assert!(block.0 == pattern(64 << 10)[i * 4096..][..4096]);
    }
}

fn a_pipe_is_a_file(v: Variant) {
    let mut lp = v.new_loop();
    let (pipe, mut end) = pipe();
    let read = start(&mut lp, (pipe, [0; 8]), |(f, b)| f.read(b));
    lp.run(RunMode::NoWait).unwrap();
    end.write_all(b"through").unwrap();
    let (state, result) = read.wait(&mut lp);
    assert_eq!(&state.1[..result.unwrap()], b"through");
    drop(end);
    assert_eq!(complete(&mut lp, state, |(f, b)| f.read(b)).1.unwrap(), 0, "the end of the pipe");
}

fn a_pipe_without_readers_is_an_error_and_no_signal_kills(v: Variant) {
    let mut lp = v.new_loop();
    let (writer, reader) = current().pipe().1;
    drop(reader);
    let (_, written) = complete(&mut lp, (writer, *b"x"), |(f, b)| f.write(b));
    assert_eq!(written.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

fn files_of_the_standard_library_are_taken_over(v: Variant) {
    let mut lp = v.new_loop();
    let named = tempfile::NamedTempFile::new().unwrap();
    let file = File::from(named.reopen().unwrap());
    let ((file, _), written) = complete(&mut lp, (file, *b"abc"), |(f, b)| f.write_all(b));
    written.unwrap();
    let mut file: std::fs::File = std::os::fd::OwnedFd::from(file).into();
    file.write_all(b"def").unwrap();
    assert_eq!(std::fs::read(named.path()).unwrap(), b"abcdef");
}

/// A FIFO in a folder of its own.
struct Fifo(tempfile::TempDir);

impl Fifo {
    fn new() -> Fifo {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        Fifo(dir)
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("fifo")
    }

    fn c_path(&self) -> std::ffi::CString {
        std::ffi::CString::new(self.path().into_os_string().into_encoded_bytes()).unwrap()
    }

    /// Opens both ends: threads of a pool that wait for either go on.
    fn let_go(&self) {
        std::fs::OpenOptions::new().read(true).write(true).open(self.path()).unwrap();
    }
}

fn reading() -> OpenOptions {
    OpenOptions::new().read(true)
}

fn writing() -> OpenOptions {
    OpenOptions::new().write(true)
}

fn an_open_of_a_fifo_waits_for_the_other_end(v: Variant) {
    for reads in [true, false] {
        let (mut lp, fifo) = (v.new_loop(), Fifo::new());
        let options = if reads { reading() } else { writing() };
        let opened = start(&mut lp, fifo.c_path(), |path| File::open(path, &options));
        // More steps than a try takes.
        for _ in 0..10 {
            lp.run_for(MS).unwrap();
        }
        assert!(!opened.is_done(), "there is no other end (reads: {reads})");
        let path = fifo.path();
        let other = std::thread::spawn(move || match reads {
            true => std::fs::write(path, b"at last").unwrap(),
            false => assert_eq!(std::fs::read(path).unwrap(), b"at last"),
        });
        let file = opened.wait(&mut lp).1.unwrap();
        if reads {
            let ((_, buf), read) = complete(&mut lp, (file, [0; 16]), |(f, b)| f.read(b));
            assert_eq!(&buf[..read.unwrap()], b"at last");
        } else {
            complete(&mut lp, file, |f| f.write_all(b"at last")).1.unwrap();
        }
        other.join().unwrap();
    }
}

fn an_open_of_a_fifo_whose_other_end_is_open_does_not_wait(v: Variant) {
    for reads in [true, false] {
        let (mut lp, fifo) = (v.new_loop(), Fifo::new());
        // Both ends, so that this open does not wait.
        let both = std::fs::OpenOptions::new().read(true).write(true).open(fifo.path()).unwrap();
        let options = if reads { reading() } else { writing() };
        complete(&mut lp, fifo.c_path(), |path| File::open(path, &options)).1.unwrap();
        drop(both);
    }
}

fn an_open_of_a_fifo_that_waits_is_cancelled_and_keeps_its_deadline(v: Variant) {
    // The last one is for a worker from the start.
    let truncating = writing().create(true).truncate(true);
    for options in [reading(), writing(), truncating] {
        let (mut lp, fifo) = (v.new_loop(), Fifo::new());
        let late = start(&mut lp, fifo.c_path(), |path| File::open(path, &options).timeout(MS * 20));
        let cancelled = start(&mut lp, fifo.c_path(), |path| File::open(path, &options));
        lp.run_for(MS * 5).unwrap();
        assert!(lp.cancel(cancelled.id));
        assert!(is_canceled(&cancelled.wait(&mut lp).1.map(drop)));
        assert!(oxev::is_deadline(&late.wait(&mut lp).1.unwrap_err()));
        fifo.let_go();
    }
}

fn an_open_of_a_fifo_that_waits_is_dropped_with_its_loop(v: Variant) {
    for options in [reading(), writing()] {
        let (mut lp, fifo, owner) = (v.new_loop(), Fifo::new(), Rc::new(()));
        let state = (fifo.c_path(), Rc::clone(&owner));
        let opened = start(&mut lp, state, |(path, _)| File::open(path, &options));
        lp.run_for(MS * 5).unwrap();
        drop(lp);
        assert!(!opened.is_done());
        assert_eq!(Rc::strong_count(&owner), 1, "it is not leaked");
        fifo.let_go();
    }
}

fn an_open_of_a_fifo_that_must_not_block_never_waits(v: Variant) {
    let (mut lp, fifo) = (v.new_loop(), Fifo::new());
    let mut open = |options: OpenOptions| {
        let options = options.custom_flags(libc::O_NONBLOCK);
        complete(&mut lp, fifo.c_path(), |path| File::open(path, &options)).1
    };
    assert_eq!(errno(open(writing())), Some(libc::ENXIO));
    open(reading()).unwrap();
}

fn open_blocking_opens(v: Variant) {
    let mut lp = v.new_loop();
    let named = Named::new(b"");
    let file = OpenOptions::new().write(true).open_blocking(&named.path).unwrap();
    complete(&mut lp, (file, *b"abc"), |(f, b)| f.write_all(b)).1.unwrap();
    assert_eq!(named.content(), b"abc");
    OpenOptions::new().read(true).open_blocking(named.path.join("below a file")).unwrap_err();
}

/// In a process of its own: other tests need descriptors at the same time.
fn no_more_descriptors_is_an_error_in_the_callback(v: Variant) {
    const CHILD: &str = "OXEV_TEST_WITHOUT_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let name = format!("file::{}::no_more_descriptors_is_an_error_in_the_callback", v.name());
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([&name, "--exact", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && output.contains("1 passed"), "{child:?}");
        return;
    }
    let (mut lp, dir) = (v.new_loop(), Dir::new());
    dir.write("file", b"");
    let (path, options) = (dir.path("file"), OpenOptions::new().read(true));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = connect(address);
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let full = client.options().as_raw_fd() as libc::rlim_t + 1;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, full, hard).unwrap();

    let none_left = Some(libc::EMFILE);
    let (listener, accepted) = complete(&mut lp, listener, |l| l.accept());
    assert_eq!(errno(accepted), none_left);
    let (path, opened) = complete(&mut lp, path, |path| File::open(path, &options));
    assert_eq!(errno(opened), none_left);
    let (_, connected) = complete(&mut lp, (), |()| TcpStream::connect(address));
    assert_eq!(errno(connected), none_left);
    assert_eq!(errno(v.builder().build()), none_left, "nor does it fall back");
    let multi = crate::support::start_multi(&mut lp, listener, 9, |l| l.accept_multi());
    assert_eq!(errno(multi.wait(&mut lp)), none_left);

    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    complete(&mut lp, path, |path| File::open(path, &options)).1.unwrap();
}
