//! What a kernel, and its administrator, promise about io_uring. Only who knows the kernel can tell which of
//! it must hold: `.ci/kernels` does.

/// Linux 5.15 or later, and io_uring may be used.
mod granted {
    use std::fs;

    use oxev::{Kind, Loop};

    /// Major and minor number.
    fn version() -> (u32, u32) {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split('.').map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    #[test]
    #[ignore = "run by .ci/kernels"]
    fn io_uring_is_what_a_loop_takes_by_itself() {
        assert_eq!(Loop::new().unwrap().backend(), Kind::IoUring);
    }

    #[test]
    #[ignore = "run by .ci/kernels"]
    fn every_feature_of_this_version_is_used_and_none_of_a_later_one() {
        let has = Loop::new().unwrap().capabilities();
        let since = |major, minor| version() >= (major, minor);
        assert_eq!(has.registered_ring, since(5, 18), "registered ring: {has:?}");
        assert_eq!(has.multishot_accept, since(5, 19), "multishot accept: {has:?}");
        assert_eq!(has.buffer_rings, since(5, 19), "buffer rings: {has:?}");
        assert_eq!(has.multishot_recv, since(6, 0), "multishot receive: {has:?}");
        assert_eq!(has.zero_copy_send, since(6, 0), "zero-copy send: {has:?}");
        assert_eq!(has.no_iowait, since(6, 15), "no iowait: {has:?}");
        assert!(has.io_workers.is_some(), "limits of workers: {has:?}");
        assert_eq!(has.deferred_task_run, since(6, 1), "deferred task work: {has:?}");
    }
}

/// `kernel.io_uring_disabled` is 2: no process may use io_uring.
mod refused {
    use oxev::{Kind, Loop};

    fn is_refusal(error: std::io::Error) -> bool {
        error.raw_os_error() == Some(libc::EPERM)
    }

    #[test]
    #[ignore = "run by .ci/kernels"]
    fn asking_for_io_uring_is_an_error() {
        assert!(Loop::builder().backend(Kind::IoUring).build().is_err_and(is_refusal));
        assert!(Loop::builder().backend(Kind::IoUring).baseline(true).build().is_err_and(is_refusal));
    }

    #[test]
    #[ignore = "run by .ci/kernels"]
    fn a_loop_takes_epoll_and_tells_why() {
        let lp = Loop::new().unwrap();
        assert_eq!(lp.backend(), Kind::Epoll);
        assert_eq!(lp.capabilities().refusals.errno(Kind::IoUring), Some(libc::EPERM));
    }
}
