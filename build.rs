//! Names what is compiled in for this target, so that no other file has to work it out: `backend_io_uring`,
//! `backend_epoll`.

use std::env;

/// The architectures for which the crate `io-uring` brings the kernel's structures with it. As there, the cfg
/// `io_uring_skip_arch_check` takes them for another one's, too.
const IO_URING_ARCHITECTURES: [&str; 5] = ["x86_64", "aarch64", "riscv64", "loongarch64", "powerpc64"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(backend_io_uring, backend_epoll)");
    let is_set = |name: &str| env::var_os(name).is_some();
    let target = |what: &str| env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    let is_linux = target("OS") == "linux";
    let has_io_uring = IO_URING_ARCHITECTURES.contains(&target("ARCH").as_str())
        || is_set("CARGO_CFG_IO_URING_SKIP_ARCH_CHECK");
    if is_linux && has_io_uring && is_set("CARGO_FEATURE_IO_URING") {
        println!("cargo::rustc-cfg=backend_io_uring");
    }
    if is_linux && is_set("CARGO_FEATURE_EPOLL") {
        println!("cargo::rustc-cfg=backend_epoll");
    }
}
