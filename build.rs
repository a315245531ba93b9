//! Names what is compiled in for this target, so that no other file has to work it out. For each backend of [`BACKENDS`]
//! there is the cfg `backend_NAME`; beside them there are `system_bsd`, `backend_any`, `backend_all` (of those that are made for the
//! system), `backend_readiness` (one that stands on `backends/readiness`) and `backend_custom` (a driver of the program's
//! own can be had), and `shows_descriptor` (a loop has a descriptor that a program can poll).

use std::env;

/// A backend that is made for some systems.
struct Backend {
    /// Also that of its cargo feature.
    name: &'static str,
    systems: &'static [&'static str],
    /// It is a selector under `backends/readiness`.
    is_selector: bool,
}

const BACKENDS: &[Backend] = &[
    Backend { name: "io_uring", systems: &["linux"], is_selector: false },
    Backend { name: "epoll", systems: &["linux"], is_selector: true },
    Backend { name: "kqueue", systems: &BSD, is_selector: true },
    Backend { name: "poll", systems: &UNIX, is_selector: true },
    Backend { name: "wasi", systems: &["wasi"], is_selector: true },
];

/// macOS and the BSDs: the cfg `system_bsd`.
const BSD: [&str; 6] = ["macos", "ios", "freebsd", "openbsd", "netbsd", "dragonfly"];

/// Every Unix that has a floor.
const UNIX: [&str; 8] = ["linux", "android", "macos", "ios", "freebsd", "openbsd", "netbsd", "dragonfly"];

/// The architectures for which the crate `io-uring` brings the kernel's structures with it. As there, the cfg
/// `io_uring_skip_arch_check` takes them for another one's, too.
const IO_URING_ARCHITECTURES: [&str; 5] = ["x86_64", "aarch64", "riscv64", "loongarch64", "powerpc64"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let compiled = || BACKENDS.iter().filter(|backend| backend.is_compiled());
    for backend in BACKENDS {
        set(&format!("backend_{}", backend.name), backend.is_compiled());
    }
    set("shows_descriptor", target("OS") != "wasi");
    set("system_bsd", BSD.contains(&target("OS").as_str()));
    set("backend_any", compiled().count() > 0);
    set("backend_all", BACKENDS.iter().all(|backend| backend.is_compiled() || !backend.is_for_system()));
    set("backend_readiness", compiled().any(|backend| backend.is_selector));
    set("backend_custom", is_set("CARGO_FEATURE_BACKEND_API") || is_for_models());
}

/// Makes a cfg known, and sets it.
fn set(cfg: &str, is_true: bool) {
    println!("cargo::rustc-check-cfg=cfg({cfg})");
    if is_true {
        println!("cargo::rustc-cfg={cfg}");
    }
}

impl Backend {
    fn is_compiled(&self) -> bool {
        let has_structures = self.name != "io_uring" || has_io_uring_structures();
        let feature = format!("CARGO_FEATURE_{}", self.name.to_uppercase());
        self.is_for_system() && has_structures && is_set(&feature) && !is_for_models()
    }

    fn is_for_system(&self) -> bool {
        // The tests of kqueue run on Linux, too, over an emulation of it.
        let is_emulated = self.name == "kqueue" && is_set("CARGO_CFG_KQUEUE_EMULATION");
        is_emulated || self.systems.contains(&target("OS").as_str())
    }
}

/// Models have no kernel, and a driver of their own.
fn is_for_models() -> bool {
    is_set("CARGO_CFG_LOOM")
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
