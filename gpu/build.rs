//! Compiles the kernels with the host's C++ compiler, for the tests: see `src/kernels/host`.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=src/kernels");
    println!("cargo:rustc-check-cfg=cfg(host_kernels)");
    // The fibres that stand for a block's threads come from glibc.
    let is = |key: &str, value: &str| env::var(key).is_ok_and(|v| v == value);
    if !is("CARGO_CFG_TARGET_OS", "linux") || !is("CARGO_CFG_TARGET_ENV", "gnu") {
        return;
    }
    println!("cargo:rustc-cfg=host_kernels");
    cc::Build::new()
        .cpp(true)
        .cpp_link_stdlib(None)
        .file("src/kernels/host/host.cpp")
        .std("c++17")
        // Products and sums are rounded one by one, as on the device (`--fmad=false`).
        .flag("-ffp-contract=off")
        .flag("-fno-exceptions")
        .flag("-fno-rtti")
        .flag_if_supported("-Wno-unknown-pragmas")
        .compile("tubelet_host_kernels");
}
