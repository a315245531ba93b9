//! Which backend a loop takes where the kernel refuses io_uring, or epoll, too: asked under seccomp filters, as in
//! a container.

#![cfg(all(target_os = "linux", feature = "io_uring", feature = "epoll", feature = "poll"))]
#![allow(unsafe_code)]

use std::io;

use oxev::{Completion, File, Kind, Loop, RunMode, Timer};

/// A system call that is refused with an errno.
#[derive(Clone, Copy)]
struct Refusal {
    call: libc::c_long,
    /// Only if the second argument is this.
    argument: Option<u32>,
    errno: i32,
}

/// `IORING_REGISTER_PROBE`.
const REGISTER_PROBE: u32 = 8;

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Goes on with the next statement if the accumulator is `k`, else skips `otherwise` of them.
fn unless_equal(k: u32, otherwise: u8) -> libc::sock_filter {
    let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    libc::sock_filter { code, jt: 0, jf: otherwise, k }
}

/// Has a system call refused to this thread, for good.
fn refuse(Refusal { call, argument, errno }: Refusal) {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let (number_at, second_argument_at) = (0, 16 + 8);
    let give = |what| statement(libc::BPF_RET | libc::BPF_K, what);
    let mut filter = vec![statement(load, number_at)];
    match argument {
        None => filter.push(unless_equal(call as u32, 1)),
        Some(argument) => {
            filter.push(unless_equal(call as u32, 3));
            filter.push(statement(load, second_argument_at));
            filter.push(unless_equal(argument, 1));
        }
    }
    filter.push(give(libc::SECCOMP_RET_ERRNO | errno as u32));
    filter.push(give(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program is valid for the length of the call.
    let status = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    assert_eq!(status, 0, "{}", io::Error::last_os_error());
}

/// Runs a body on a thread of its own, where a call is refused. Not where io_uring is refused already: that
/// decides.
fn with(refusal: Refusal, body: fn(i32)) {
    if let Err(error) = Loop::builder().backend(Kind::IoUring).build() {
        return eprintln!("not run: there is no io_uring here: {error}");
    }
    let thread = std::thread::spawn(move || {
        refuse(refusal);
        body(refusal.errno);
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn setup(errno: i32) -> Refusal {
    Refusal { call: libc::SYS_io_uring_setup, argument: None, errno }
}

fn assert_works(mut lp: Box<Loop>) {
    let timer = Box::new(Completion::new(()));
    lp.submit(timer, |()| Timer::after(std::time::Duration::from_micros(1)), |_, _, fired| fired.unwrap());
    lp.run(RunMode::UntilDone).unwrap();
}

fn falls_back(errno: i32) {
    let lp = Loop::new().unwrap();
    assert_eq!(lp.backend(), Kind::Epoll);
    assert_eq!(lp.capabilities().refusals.errno(Kind::IoUring), Some(errno));
    assert_works(lp);
}

fn fails(errno: i32) {
    assert_eq!(Loop::new().unwrap_err().raw_os_error(), Some(errno));
}

#[test]
fn a_kernel_that_refuses_io_uring_gets_epoll() {
    for errno in [libc::EPERM, libc::ENOSYS, libc::EACCES] {
        with(setup(errno), falls_back);
    }
}

#[test]
fn an_io_uring_that_cannot_be_asked_or_lacks_something_gets_epoll() {
    let probe = |errno| Refusal { call: libc::SYS_io_uring_register, argument: Some(REGISTER_PROBE), errno };
    // Before Linux 5.6 there is no such request, nor this flag of the set-up.
    with(probe(libc::EINVAL), |_| falls_back(libc::ENOSYS));
    with(setup(libc::EINVAL), |_| falls_back(libc::ENOSYS));
    with(probe(libc::EPERM), falls_back);
}

#[test]
fn a_lack_of_descriptors_is_an_error_and_not_a_reason_for_epoll() {
    for errno in [libc::EMFILE, libc::ENFILE] {
        with(setup(errno), fails);
    }
}

#[test]
fn a_lack_of_memory_for_the_smallest_ring_is_a_reason_for_epoll_unless_the_size_was_named() {
    with(setup(libc::ENOMEM), |errno| {
        falls_back(errno);
        let named = Loop::builder().entries(64).build();
        assert_eq!(named.unwrap_err().raw_os_error(), Some(errno));
        let forced = Loop::builder().backend(Kind::IoUring).build();
        assert_eq!(forced.unwrap_err().raw_os_error(), Some(errno));
    });
}

#[test]
fn a_forced_choice_never_falls_back() {
    with(setup(libc::EPERM), |errno| {
        let forced = Loop::builder().backend(Kind::IoUring).build();
        assert_eq!(forced.unwrap_err().raw_os_error(), Some(errno));
        let lp = Loop::builder().backend(Kind::Epoll).build().unwrap();
        assert_eq!((lp.backend(), lp.capabilities().refusals.is_empty()), (Kind::Epoll, true));
        assert_works(lp);
    });
}

#[test]
fn a_sandbox_that_forbids_epoll_too_gets_poll() {
    for errno in [libc::EPERM, libc::ENOSYS, libc::EACCES] {
        with(setup(errno), |errno| {
            refuse(Refusal { call: libc::SYS_epoll_create1, argument: None, errno });
            let lp = Loop::new().unwrap();
            assert_eq!(lp.backend(), Kind::Poll);
            let refusals: Vec<_> = lp.capabilities().refusals.iter().copied().collect();
            assert_eq!(refusals, [(Kind::IoUring, errno), (Kind::Epoll, errno)]);
            assert_works(lp);
        });
    }
}

#[test]
fn a_sandbox_that_is_older_than_nanosecond_waits_gets_rounded_ones() {
    let pwait2 = |errno| Refusal { call: libc::SYS_epoll_pwait2, argument: None, errno };
    for errno in [libc::ENOSYS, libc::EPERM] {
        with(pwait2(errno), |errno| {
            refuse(Refusal { call: libc::SYS_ppoll, argument: None, errno });
            for kind in [Kind::Epoll, Kind::Poll] {
                assert_works(Loop::builder().backend(kind).build().unwrap());
            }
        });
    }
}

#[test]
fn a_pipe_that_blocks_does_not_block_the_loop_where_the_kernel_cannot_be_asked_not_to() {
    let refusal = Refusal { call: libc::SYS_pwritev2, argument: None, errno: libc::EOPNOTSUPP };
    with(refusal, |errno| {
        refuse(Refusal { call: libc::SYS_preadv2, argument: None, errno });
        let mut lp = Loop::builder().backend(Kind::Epoll).build().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let file = File::from_std(std::os::fd::OwnedFd::from(writer).into());
        let write = Box::new(Completion::new((file, vec![7u8; 1 << 20])));
        lp.submit(write, |(f, b)| f.write_all(b), |_, _, written| assert_eq!(written.unwrap(), 1 << 20));
        for _ in 0..10 {
            lp.run(RunMode::NoWait).unwrap(); // it would hang here
        }
        assert_eq!(lp.len(), 1);
        let drain = std::thread::spawn(move || io::Read::read_to_end(&mut reader, &mut Vec::new()));
        lp.run(RunMode::UntilDone).unwrap();
        assert_eq!(drain.join().unwrap().unwrap(), 1 << 20);

        let (reader, mut writer) = io::pipe().unwrap();
        let file = File::from_std(std::os::fd::OwnedFd::from(reader).into());
        let read = Box::new(Completion::new((file, [0u8; 16])));
        lp.submit(read, |(f, b)| f.read(b), |_, _, read| assert_eq!(read.unwrap(), 5));
        for _ in 0..10 {
            lp.run(RunMode::NoWait).unwrap();
        }
        io::Write::write_all(&mut writer, b"hello").unwrap();
        lp.run(RunMode::UntilDone).unwrap();
    });
}

#[test]
fn where_io_uring_works_it_is_taken() {
    match Loop::builder().backend(Kind::IoUring).build() {
        Ok(_) => {
            let lp = Loop::new().unwrap();
            assert_eq!((lp.backend(), lp.capabilities().refusals.is_empty()), (Kind::IoUring, true));
        }
        Err(error) => eprintln!("not run: there is no io_uring here: {error}"),
    }
}
