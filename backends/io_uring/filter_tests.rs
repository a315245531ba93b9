//! Operations that the ring refuses, as a filter of a sandbox does, go another way. The filter is the ring's own
//! (`IORING_REGISTER_RESTRICTIONS`, Linux 5.10); what it lists must be known to the kernel, here to Linux 6.1.

use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;

use ::io_uring::register::Restriction;
use ::io_uring::{Builder, IoUring, opcode};

use crate::{File, IoVecs, Kind, Loop, Metadata, Op, OpenOptions, Output, RunMode};

thread_local! {
    /// What the rings of this thread refuse.
    static REFUSED: Cell<&'static [u8]> = const { Cell::new(&[]) };
}

pub(super) fn prepare(builder: &mut Builder) {
    if !REFUSED.get().is_empty() {
        builder.setup_r_disabled();
    }
}

pub(super) fn restrict(ring: &IoUring) {
    let refused = REFUSED.get();
    if refused.is_empty() {
        return;
    }
    let every_flag = Restriction::sqe_flags_allowed(u8::MAX);
    let operations = (0..48).filter(|code| !refused.contains(code)).map(Restriction::sqe_op);
    let registrations = (0..26).map(Restriction::register_op);
    let mut all: Vec<_> = operations.chain(registrations).chain([every_flag]).collect();
    ring.submitter().register_restrictions(&mut all).unwrap();
    ring.submitter().register_enable_rings().unwrap();
}

const FILES: [u8; 8] = [
    opcode::OpenAt::CODE,
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Statx::CODE,
    opcode::Close::CODE,
];

/// A loop whose ring refuses all that is for files, where there is io_uring.
fn filtered() -> Option<Box<Loop>> {
    REFUSED.set(&FILES);
    let built = Loop::builder().backend(Kind::IoUring).entries(8).build();
    REFUSED.set(&[]);
    built.inspect_err(|error| eprintln!("not run: there is no io_uring here: {error}")).ok()
}

fn complete<S: 'static, R: Output + 'static>(
    lp: &mut Loop,
    state: S,
    prepare: impl for<'a> FnOnce(&'a mut S) -> Op<'a, R>,
) -> (S, io::Result<R>) {
    let done = std::rc::Rc::new(Cell::new(None));
    let out = std::rc::Rc::clone(&done);
    lp.submit_with(state, prepare, move |_, state, result| out.set(Some((state, result))));
    lp.run(RunMode::UntilDone).unwrap();
    done.take().unwrap()
}

#[test]
fn files_do_without_the_operations_that_a_filter_refuses() {
    let Some(mut lp) = filtered() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = CString::new(folder.path().join("file").as_os_str().as_bytes()).unwrap();
    let options = OpenOptions::new().read(true).write(true).create_new(true);
    let (_, file) = complete(&mut lp, path, |path| File::open(path, &options));
    // Longer than a part, and at the position of the file.
    let bytes: Vec<u8> = (0..3 << 20).map(|number: u32| (number >> 3) as u8).collect();
    let ((file, bytes), written) =
        complete(&mut lp, (file.unwrap(), bytes), |(file, bytes)| file.write_all(bytes));
    assert_eq!(written.unwrap(), bytes.len());
    let (file, synced) = complete(&mut lp, file, |file| file.sync_all());
    synced.unwrap();
    let ((file, metadata), filled) =
        complete(&mut lp, (file, Metadata::default()), |(file, metadata)| file.metadata(metadata));
    filled.unwrap();
    assert_eq!(metadata.len(), bytes.len() as u64);
    let ((file, read), count) =
        complete(&mut lp, (file, vec![0; bytes.len()]), |(file, read)| file.read_exact_at(read, 0));
    assert_eq!((count.unwrap(), read == bytes), (bytes.len(), true));
    let vectors = IoVecs::<2>::new();
    let state = (file, vectors, [[0; 5]; 2]);
    let ((file, _, halves), count) = complete(&mut lp, state, |(file, vectors, [one, two])| {
        file.read_vectored_at(vectors.scatter([&mut one[..], &mut two[..]]), 7)
    });
    assert_eq!((count.unwrap(), halves.concat() == bytes[7..17]), (10, true));
    drop(file);
}

#[test]
fn the_answer_of_a_file_is_its_own_and_a_close_is_not_tried_twice() {
    let Some(mut lp) = filtered() else { return };
    let options = OpenOptions::new().read(true);
    let (_, missing) = complete(&mut lp, (), |()| File::open(c"/nowhere/at/all", &options));
    assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    let (_, file) = complete(&mut lp, (), |()| File::open(c"/proc/self/comm", &options));
    let (file, denied) = complete(&mut lp, file.unwrap(), |file| file.sync_all());
    assert_eq!(denied.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    let (_, closed) = complete(&mut lp, file, |file| file.close());
    assert_eq!(closed.unwrap_err().raw_os_error(), Some(libc::EACCES));
}
