//! Names what is compiled in for this target, so that no other file has to work it out: the cfg `backend_NAME` for
//! each backend of [`BACKENDS`].

use std::env;

/// The backends that are made for some systems: the name, which is also that of the cargo feature, and the systems.
const BACKENDS: [(&str, &[&str]); 3] =
    [("io_uring", &["linux"]), ("epoll", &["linux"]), ("poll", &["linux", "android"])];

/// The architectures for which the crate `io-uring` brings the kernel's structures with it. As there, the cfg
/// `io_uring_skip_arch_check` takes them for another one's, too.
const IO_URING_ARCHITECTURES: [&str; 5] = ["x86_64", "aarch64", "riscv64", "loongarch64", "powerpc64"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for (name, systems) in BACKENDS {
        println!("cargo::rustc-check-cfg=cfg(backend_{name})");
        let has_feature = is_set(&format!("CARGO_FEATURE_{}", name.to_uppercase()));
        let has_architecture = name != "io_uring" || has_io_uring_structures();
        if has_feature && has_architecture && systems.contains(&target("OS").as_str()) {
            println!("cargo::rustc-cfg=backend_{name}");
        }
    }
}

fn has_io_uring_structures() -> bool {
    IO_URING_ARCHITECTURES.contains(&target("ARCH").as_str()) || is_set("CARGO_CFG_IO_URING_SKIP_ARCH_CHECK")
}

fn target(what: &str) -> String {
    env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default()
}

fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some()
}
