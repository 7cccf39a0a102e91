//! NVRTC from its Python package, and the folder for a GPU machine without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Failure, Outcome, announce, apt, cargo, root, run, target_dir};

/// The Python package with NVRTC's library, and its version.
const NVRTC: (&str, &str) = ("nvidia-cuda-nvrtc-cu12", "12.9.86");
/// Libraries that come with the system everywhere and must be that system's own.
const SYSTEM_LIBRARIES: &[&str] =
    &["ld-linux", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libresolv.so"];
/// Clips of the data in a bundle, and how little is trained to make them.
const DEMO: &[&str] = &[
    "--train",
    "16",
    "--val",
    "8",
    "--set",
    "pretrain.train.epochs=1",
    "--set",
    "finetune.train.epochs=1",
    "--set",
    "pretrain.train.warmup_epochs=0",
    "--set",
    "finetune.train.warmup_epochs=0",
    "--set",
    "pretrain.batch_size=8",
    "--set",
    "finetune.batch_size=8",
];

/// What runs the bundle on the other machine.
const RUN_SCRIPT: &str = r#"#!/usr/bin/env bash
# Device tests, then benches; what they print is kept in results/.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export TUBELET_NVRTC="$here/nvrtc" TUBELET_REQUIRE_NVRTC=1 TUBELET_REQUIRE_GPU=1
export TUBELET_KERNEL_CACHE="$here/kernel-cache" RUST_BACKTRACE=1
mkdir -p "$here/results"
cd "$here"
./gpu-bench --device | tee results/device.txt
if command -v nvidia-smi >/dev/null; then
    nvidia-smi | tee -a results/device.txt
fi
./gpu-tests --test-threads=1 2>&1 | tee results/tests.txt
./gpu-bench 2>&1 | tee results/bench.txt
./tubelet bench data/train --recipe videomae-tiny --batch 8 --seconds 5 2>&1 | tee results/loader.txt
./tubelet bench data/train --recipe videomae-tiny --batch 8 --seconds 5 --stage device 2>&1 |
    tee results/device-stage.txt
if python3 -c 'import torch' 2>/dev/null; then
    python3 hog_torch.py 2>&1 | tee results/hog_torch.txt
fi
"#;

/// Fetches NVRTC once and tells the folder of its library.
pub(crate) fn fetch_nvrtc(install: bool) -> Result<PathBuf, Failure> {
    let (package, version) = NVRTC;
    let home = target_dir().join(format!("nvrtc-{version}"));
    let library = home.join("nvidia/cuda_nvrtc/lib");
    if library.join("libnvrtc.so.12").exists() {
        return Ok(library);
    }
    need_pip(install)?;
    let wheels = home.join("wheel");
    let exact = format!("{package}=={version}");
    run(python()
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"])
        .args([wheels.as_os_str(), exact.as_ref()]))?;
    let wheel = files_in(&wheels)?
        .into_iter()
        .find(|f| f.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| Failure::new(format!("pip left no wheel in `{}`", wheels.display())))?;
    run(python().args(["-m", "zipfile", "-e"]).args([&wheel, &home]))?;
    fs::remove_dir_all(&wheels).map_err(|e| io(&wheels, &e))?;
    Ok(library)
}

/// Installs pip where it is missing.
fn need_pip(install: bool) -> Outcome {
    let works = |mut c: Command| c.output().is_ok_and(|out| out.status.success());
    let mut pip = python();
    pip.args(["-m", "pip", "--version"]);
    if works(pip) {
        return Ok(());
    }
    if !install {
        return Err(Failure::usage("fetching NVRTC needs `python3 -m pip` (package python3-pip)"));
    }
    apt(&["update"])?;
    apt(&["install", "-y", "--no-install-recommends", "python3", "python3-pip"])
}

fn python() -> Command {
    Command::new("python3")
}

/// Makes the folder.
pub(crate) fn bundle(arguments: &[String], install: bool) -> Outcome {
    let (out, build) = match arguments {
        [flag, out, build @ ..] if flag == "--out" => (PathBuf::from(out), build),
        [flag] if flag == "--out" => return Err(Failure::usage("--out: a folder is missing")),
        build => (target_dir().join("gpu-bundle"), build),
    };
    if out.exists() {
        let what = format!("`{}` exists: remove it or name another with --out", out.display());
        return Err(Failure::usage(what));
    }
    let nvrtc = fetch_nvrtc(install)?;
    run(cargo("build").args(["--release", "--bin", "tubelet"]).args(build))?;
    let programs = test_programs()?;
    let binary = target_dir().join("release/tubelet");
    for folder in ["lib", "nvrtc", "kernels"] {
        let folder = out.join(folder);
        fs::create_dir_all(&folder).map_err(|e| io(&folder, &e))?;
    }
    copy(&binary, &out.join("tubelet"))?;
    for (name, path) in &programs {
        copy(path, &out.join(name))?;
    }
    copy_libraries(&binary, &out.join("lib"))?;
    copy_where(&nvrtc, &out.join("nvrtc"), |name| name.contains(".so") && !name.contains(".alt."))?;
    let sources = root().join("gpu/src/kernels");
    copy_where(&sources, &out.join("kernels"), |name| name.contains(".cu"))?;
    copy(&root().join("gpu/README.md"), &out.join("README.md"))?;
    copy(&root().join("gpu/scripts/hog_torch.py"), &out.join("hog_torch.py"))?;
    write_script(&out.join("run.sh"))?;
    make_data(&binary, &out)?;
    eprintln!("`{}`: copy it to the GPU machine and start run.sh there", out.display());
    Ok(())
}

/// Builds tests and bench of `gpu`; name in the bundle and path of each.
fn test_programs() -> Result<[(&'static str, PathBuf); 2], Failure> {
    let mut command = cargo("test");
    command.args(["--release", "-p", "tubelet-gpu", "--lib", "--bench", "gpu", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    announce(&command);
    let output = command.output().map_err(|e| Failure::new(format!("cannot run cargo: {e}")))?;
    if !output.status.success() {
        return Err(Failure::new(String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let find = |kind: &str| {
        let none = || Failure::new(format!("cargo names no program for {kind}"));
        program_of(&text, kind).ok_or_else(none)
    };
    Ok([
        (
            "gpu-tests",
            find("\"kind\":[\"lib\"],\"crate_types\":[\"lib\"],\"name\":\"tubelet_gpu\"")?,
        ),
        ("gpu-bench", find("\"kind\":[\"bench\"]")?),
    ])
}

/// The first program in cargo's JSON whose line holds `kind`. The library that the programs share is
/// named as well, without a program.
fn program_of(text: &str, kind: &str) -> Option<PathBuf> {
    text.lines().filter(|line| line.contains(kind)).find_map(executable_of)
}

/// The program that a line of cargo's JSON names.
fn executable_of(line: &str) -> Option<PathBuf> {
    let (_, rest) = line.split_once("\"executable\":\"")?;
    rest.split_once('"').map(|(path, _)| PathBuf::from(path))
}

/// Copies every library that `binary` loads and not every system has.
fn copy_libraries(binary: &Path, to: &Path) -> Outcome {
    let mut command = Command::new("ldd");
    command.arg(binary);
    announce(&command);
    let output = command.output().map_err(|e| Failure::new(format!("cannot run ldd: {e}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `libavcodec.so.59 => /usr/lib/x86_64-linux-gnu/libavcodec.so.59 (0x00007f…)`
    for line in text.lines() {
        let Some((name, place)) = line.trim().split_once(" => ") else { continue };
        if place.starts_with("not found") {
            return Err(Failure::new(format!("ldd does not find {name}")));
        }
        let system = SYSTEM_LIBRARIES.iter().any(|s| name.starts_with(s));
        if let (false, Some(path)) = (system, place.split_whitespace().next()) {
            copy(Path::new(path), &to.join(name))?;
        }
    }
    Ok(())
}

/// A few clips in Parquet shards, made by the demo.
fn make_data(binary: &Path, out: &Path) -> Outcome {
    let demo = target_dir().join("gpu-bundle-demo");
    run(Command::new(binary).arg("demo").arg("--out").arg(&demo).args(DEMO))?;
    for split in ["train", "val"] {
        let (from, to) = (demo.join("shards").join(split), out.join("data").join(split));
        fs::create_dir_all(&to).map_err(|e| io(&to, &e))?;
        copy_where(&from, &to, |_| true)?;
    }
    fs::remove_dir_all(&demo).map_err(|e| io(&demo, &e))
}

fn write_script(path: &Path) -> Outcome {
    fs::write(path, RUN_SCRIPT).map_err(|e| io(path, &e))?;
    run(Command::new("chmod").arg("+x").arg(path))
}

/// Copies the files of `from` whose name `wanted` likes.
fn copy_where(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> Outcome {
    for file in files_in(from)? {
        if let Some(name) = file.file_name()
            && file.is_file()
            && wanted(&name.to_string_lossy())
        {
            copy(&file, &to.join(name))?;
        }
    }
    Ok(())
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(|e| io(folder, &e))?;
    Ok(entries.filter_map(Result::ok).map(|e| e.path()).collect())
}

fn copy(from: &Path, to: &Path) -> Outcome {
    fs::copy(from, to).map(drop).map_err(|e| io(from, &e))
}

fn io(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("`{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_without_a_program_is_passed_over() {
        let lib = r#""kind":["lib"],"name":"tubelet_gpu""#;
        let text = format!(
            "{{{lib},\"executable\":null}}\n{{{lib},\"executable\":\"/a/gpu-1\"}}\n\
             {{\"kind\":[\"bench\"],\"executable\":\"/a/bench-2\"}}\n"
        );
        assert_eq!(program_of(&text, lib), Some(PathBuf::from("/a/gpu-1")));
        assert_eq!(program_of(&text, "\"kind\":[\"bench\"]"), Some(PathBuf::from("/a/bench-2")));
        assert_eq!(program_of(&text, "\"kind\":[\"bin\"]"), None);
    }
}
