//! What this kernel's io_uring can do: asked, never assumed from its version.

use std::io;

use ::io_uring::{IoUring, Probe, opcode, squeue};

/// What the loop does differently from kernel to kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    /// One submission accepts again and again (5.19).
    pub(super) multishot_accept: bool,
    /// One submission receives again and again (6.0).
    pub(super) multishot_recv: bool,
    /// Rings of provided buffers (5.19), and every pool has one: the last may have been refused for want of memory.
    pub(super) buffer_rings: bool,
    /// `IORING_OP_SEND_ZC` (6.0).
    pub(super) zero_copy_send: bool,
    /// Set on entries whose success is not reported (5.17).
    pub(super) skip_success: squeue::Flags,
}

impl Features {
    /// Without these the backend does not work: Linux 5.11 has them all; older kernels than 5.15 are not
    /// tested.
    const NEEDED: [u8; 18] = [
        opcode::Nop::CODE,
        opcode::PollAdd::CODE,
        opcode::AsyncCancel::CODE,
        opcode::Accept::CODE,
        opcode::Connect::CODE,
        opcode::Recv::CODE,
        opcode::Send::CODE,
        opcode::RecvMsg::CODE,
        opcode::SendMsg::CODE,
        opcode::Shutdown::CODE,
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Readv::CODE,
        opcode::Writev::CODE,
        opcode::OpenAt::CODE,
        opcode::Close::CODE,
        opcode::Fsync::CODE,
        opcode::Statx::CODE,
    ];

    /// Asks the kernel. `baseline`: as if it were Linux 5.15.
    pub(super) fn probe(ring: &IoUring, baseline: bool) -> io::Result<Features> {
        let params = ring.params();
        let mut probe = Probe::new();
        // EINVAL: a kernel that cannot be asked (before 5.6) lacks what is asked for.
        ring.submitter().register_probe(&mut probe).map_err(too_old)?;
        let needed = params.is_feature_nodrop()
            && params.is_feature_submit_stable()
            && params.is_feature_rw_cur_pos()
            && params.is_feature_fast_poll()
            && params.is_feature_ext_arg()
            && Features::NEEDED.iter().all(|&code| probe.is_supported(code));
        if !needed {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        // A few features cannot be asked for; they came with an operation that can.
        let linux_5_19 = !baseline && probe.is_supported(opcode::Socket::CODE);
        let linux_6_0 = !baseline && probe.is_supported(opcode::SendZc::CODE);
        let skips = !baseline && params.is_feature_skip_cqe_on_success();
        Ok(Features {
            multishot_accept: linux_5_19,
            multishot_recv: linux_6_0,
            buffer_rings: linux_5_19,
            zero_copy_send: linux_6_0,
            skip_success: if skips { squeue::Flags::SKIP_SUCCESS } else { squeue::Flags::empty() },
        })
    }
}

/// A kernel that does not know a request is one that does not have io_uring as it is needed.
pub(super) fn too_old(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::EINVAL) {
        io::Error::from_raw_os_error(libc::ENOSYS)
    } else {
        error
    }
}
