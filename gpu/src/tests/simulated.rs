//! The device's side of this crate on the simulated driver: the tests of `stage` and others run once more.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use super::simulation::{self, expect_passed};

/// Set where the simulated nvJPEG is one without regions.
pub(super) const NO_REGIONS: &str = "TUBELET_SIMULATED_NO_REGIONS";

/// Builds the simulation in `folder`, and an nvJPEG without regions in `folder/old`.
fn build(folder: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels/host");
    simulation::build(&sources, folder);
    let old = folder.join("old");
    std::fs::create_dir(&old).expect("a folder");
    simulation::compile(&sources, OsStr::new("-DNO_REGIONS"), &old.join("libnvjpeg.so.12"));
}

/// Runs the tests whose name has `filter` with the simulation in `folder`; the call `failure` fails.
fn run(folder: &Path, filter: &str, failure: &str) -> Output {
    command(folder, filter, failure).output().expect("runs")
}

fn command(folder: &Path, filter: &str, failure: &str) -> Command {
    let mut command = simulation::command(folder, filter);
    command.env("TUBELET_SIMULATED_FAILURE", failure);
    command
}

#[test]
fn the_stage_keeps_its_order_on_streams_that_dawdle() {
    if std::env::var(crate::REQUIRE_GPU).is_ok() {
        return; // A real device, or the simulation itself.
    }
    let folder = tempfile::tempdir().expect("a folder");
    build(folder.path());
    for _ in 0..3 {
        expect_passed(&run(folder.path(), "tests::stage", ""), 6);
    }
    // Kernels come from the disk in the second run and the third.
    let kept = std::fs::read_dir(folder.path().join("cache")).expect("a cache").count();
    assert_eq!(kept, crate::kernels::Program::ALL.len());
    // JPEG files by the engines and without them, and when the engines fail.
    for failure in ["", "nvjpegHardware", "nvjpegDecodeBatchedEx"] {
        expect_passed(&run(folder.path(), "tests::nvjpeg", failure), 2);
    }
    let mut old = command(folder.path(), "tests::nvjpeg", "");
    old.env("TUBELET_NVJPEG", folder.path().join("old")).env(NO_REGIONS, "1");
    expect_passed(&old.output().expect("runs"), 2);
    // Batches in a consumer's memory: the context waits, cannot, is of an old driver; no copy at all.
    for failure in ["", "cuCtxWaitEvent", "oldDriver", "cuMemcpyDtoDAsync"] {
        expect_passed(&run(folder.path(), "tests::hand_over", failure), 1);
    }
    // Frames that are kept, cut, and copied back.
    expect_passed(&run(folder.path(), "tests::crop::", ""), 1);
    expect_passed(&run(folder.path(), "tests::crop::", "cuLaunchKernel"), 1);
    // A kernel of each kind through `Kernels::run`.
    expect_passed(&run(folder.path(), "flat_", ""), 2);
    expect_failures(folder.path());
}

/// Calls that fail become errors, or a way round, and never a panic in between.
fn expect_failures(folder: &Path) {
    expect_passed(&run(folder, "failing_stage", "cuLaunchKernel"), 1);
    expect_passed(&run(folder, "failing_stage", "cuStreamWaitEvent"), 1);
    expect_passed(&run(folder, "failing_stage", "cuMemAllocFromPoolAsync"), 1);
    expect_passed(&run(folder, "there_is_memory", "cuMemHostAlloc"), 1);
    for (failure, reason) in
        [("cuDeviceGetCount", "the driver sees 0"), ("cuDriverGetVersion", "CUDA 11.4")]
    {
        let output = run(folder, "batches_become", failure);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(reason), "{errors}");
    }
}
