//! The kernels in NVRTC's hands.

use crate::GpuError;
use crate::kernels::Program;
use crate::nvrtc::{Nvrtc, Target, compile_cached};

use super::skip::or_skip;

/// Set to 1, a missing NVRTC is a failure.
const REQUIRE_NVRTC: &str = "TUBELET_REQUIRE_NVRTC";

fn nvrtc() -> Option<Nvrtc> {
    or_skip("NVRTC", REQUIRE_NVRTC, Nvrtc::find())
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let Some(nvrtc) = nvrtc() else { return };
    eprintln!("NVRTC {:?}", nvrtc.version());
    for program in Program::ALL {
        for arch in [80, 90, 100] {
            let code = nvrtc.compile(program, Target::Machine(arch));
            let code = code.unwrap_or_else(|e| panic!("{e}"));
            assert!(code.starts_with(b"\x7fELF"), "{} for sm_{arch}", program.name());
            for kernel in program.kernels() {
                let found = code.windows(kernel.len()).any(|w| w == kernel.as_bytes());
                assert!(found, "{kernel} is not in {} for sm_{arch}", program.name());
            }
        }
        let text = nvrtc.compile(program, Target::Portable(80)).unwrap_or_else(|e| panic!("{e}"));
        assert!(String::from_utf8_lossy(&text).contains(".target sm_80"));
    }
}

/// Parameter blocks that are indexed may end up as a copy in each thread's own memory.
#[test]
fn no_kernel_copies_its_parameters() {
    let Some(nvrtc) = nvrtc() else { return };
    for program in Program::ALL {
        let text = nvrtc.compile(program, Target::Portable(80)).unwrap_or_else(|e| panic!("{e}"));
        let text = String::from_utf8_lossy(&text);
        // `.local .align 8 .b8 __local_depot3[40];`
        let depots = text.split("__local_depot").skip(1).filter_map(|rest| {
            let (_, bytes) = rest.split(';').next()?.split_once('[')?;
            bytes.strip_suffix(']')?.parse::<u32>().ok()
        });
        let largest = depots.max().unwrap_or(0);
        assert!(largest <= 64, "{}: {largest} bytes of a thread's own memory", program.name());
    }
}

#[test]
fn a_compiler_newer_than_the_driver_is_not_used() {
    let Some(found) = nvrtc() else { return };
    let (major, _) = found.version();
    assert!(Nvrtc::find_up_to(major).is_ok());
    match Nvrtc::find_up_to(major - 1) {
        // Another one may be installed.
        Ok(older) => assert!(older.version().0 < major),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("too new") || text.contains("up to"), "{text}");
        }
    }
}

#[test]
fn an_unknown_architecture_is_an_error_with_a_log() {
    let Some(nvrtc) = nvrtc() else { return };
    let error = nvrtc.compile(Program::Mix, Target::Machine(1)).expect_err("no such architecture");
    assert!(matches!(error, GpuError::Compile { .. }), "{error}");
    assert!(error.to_string().contains("sm_1"), "{error}");
}

#[test]
fn the_second_compilation_comes_from_the_disk() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let target = Target::Machine(90);
    let compile = || compile_cached(&nvrtc, Program::Mix, target, Some(folder.path()));
    let first = compile().expect("compiles");
    let files = || std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(files(), 1);
    assert_eq!(compile().expect("is there"), first);
    assert_eq!(files(), 1);
    // A folder that cannot be made costs the cache, not the run.
    let file = folder.path().join("file");
    std::fs::write(&file, b"").expect("writes");
    assert!(compile_cached(&nvrtc, Program::Mix, target, Some(&file)).is_ok());
}

#[test]
fn a_device_gets_the_best_code_that_the_compiler_knows() {
    let known = [75, 80, 90, 100];
    assert_eq!(Target::of_device(90, &known), Some(Target::Machine(90)));
    assert_eq!(Target::of_device(89, &known), Some(Target::Portable(80)));
    assert_eq!(Target::of_device(120, &known), Some(Target::Portable(100)));
    assert_eq!(Target::of_device(70, &known), None);
}

#[test]
fn a_folder_without_the_library_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = Nvrtc::in_folder(folder.path()).err().expect("nothing there").to_string();
    assert!(error.contains(&folder.path().display().to_string()), "{error}");
}
