//! A simulated driver for tests: streams are threads that dawdle, kernels run on the host
//! (`kernels/host/driver.cpp`). A test runs once more in a process that finds the simulation where it
//! looks for CUDA. The tests of other crates take this file too.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

/// Set where the simulation runs.
pub(crate) const SIMULATED: &str = "TUBELET_SIMULATED";

/// Builds the simulation of `sources` in `folder` under the names of the driver, of NVRTC and of nvJPEG.
pub(crate) fn build(sources: &Path, folder: &Path) {
    let driver = folder.join("libcuda.so.1");
    compile(sources, sources.join("host.cpp").as_os_str(), &driver);
    for name in ["libnvrtc.so.12", "libnvjpeg.so.12"] {
        std::fs::copy(&driver, folder.join(name)).expect("a copy");
    }
}

/// Builds `library` of the driver's source and one more argument.
pub(crate) fn compile(sources: &Path, extra: &OsStr, library: &Path) {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut command = Command::new(compiler);
    command.args(["-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", "-ffp-contract=off", "-w"]);
    command.arg(sources.join("driver.cpp")).arg(extra).arg("-o").arg(library);
    let output = command.output().expect("a C++ compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// This program's tests whose name has `filter`, on the simulation in `folder`.
pub(crate) fn command(folder: &Path, filter: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([filter, "--nocapture", "--test-threads", "1"]);
    command.env("LD_LIBRARY_PATH", folder).env(SIMULATED, "1");
    command.env("TUBELET_NVRTC", folder).env("TUBELET_NVJPEG", folder);
    command.env("TUBELET_KERNEL_CACHE", folder.join("cache")).env("TUBELET_REQUIRE_GPU", "1");
    command
}

/// So many tests ran, and passed.
#[track_caller]
pub(crate) fn expect_passed(output: &Output, tests: usize) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let passed = format!("test result: ok. {tests} passed");
    assert!(output.status.success() && text.contains(&passed), "{text}{errors}");
}
