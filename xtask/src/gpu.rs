//! The folder for a GPU machine without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::wheels::{self, copy_tree};
use crate::{Failure, Outcome, announce, cargo, root, run, target_dir};

/// Libraries that come with the system everywhere and must be that system's own.
const SYSTEM_LIBRARIES: &[&str] =
    &["ld-linux", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libresolv.so"];
/// Clips of the data in a bundle, 320x256, and how little is trained to make them.
const DEMO: &[&str] = &[
    "--train",
    "128",
    "--val",
    "8",
    "--scale",
    "4",
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

/// What runs the bundle on the other machine, and what compares with PyTorch there.
const SCRIPTS: [&str; 3] = ["run.sh", "hog_torch.py", "step_torch.py"];

/// What goes into the folder.
#[derive(Debug, PartialEq)]
struct Wanted {
    out: PathBuf,
    /// Libraries that the other machine has: without NVRTC, nvJPEG and CUDA's headers.
    cuda: bool,
    /// The program and what it needs: FFmpeg's libraries, data.
    program: bool,
    /// Arguments of `cargo build`.
    build: Vec<String>,
}

impl Wanted {
    fn of(arguments: &[String]) -> Result<Self, Failure> {
        let out = target_dir().join("gpu-bundle");
        let mut wanted = Self { out, cuda: true, program: true, build: Vec::new() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = |what: &str| {
                let missing = || Failure::usage(format!("{argument}: {what} is missing"));
                arguments.next().cloned().ok_or_else(missing)
            };
            match argument.as_str() {
                "--out" => wanted.out = value("a folder")?.into(),
                "--without" => {
                    for part in value("a list")?.split(',') {
                        match part {
                            "cuda" => wanted.cuda = false,
                            "ffmpeg" => wanted.program = false,
                            _ => {
                                let what = format!("--without {part}: `cuda` and `ffmpeg` are");
                                return Err(Failure::usage(what));
                            }
                        }
                    }
                }
                _ => wanted.build.push(argument.clone()),
            }
        }
        Ok(wanted)
    }

    /// Whether the program trains on CUDA.
    fn trains(&self) -> bool {
        self.program && self.build.iter().any(|argument| argument.contains("cuda"))
    }
}

/// Makes the folder.
pub(crate) fn bundle(arguments: &[String], install: bool) -> Outcome {
    let wanted = Wanted::of(arguments)?;
    let out = &wanted.out;
    if out.exists() {
        let what = format!("`{}` exists: remove it or name another with --out", out.display());
        return Err(Failure::usage(what));
    }
    fs::create_dir_all(out).map_err(|e| io(out, &e))?;
    if wanted.cuda {
        copy_cuda(&wanted, install)?;
    }
    let test = &["--lib", "--bench", "gpu"];
    let built = test_programs("tubelet-gpu", test)?;
    copy_stripped(&find(&built, TESTS_OF_GPU)?, &out.join("gpu-tests"))?;
    copy_stripped(&find(&built, "\"kind\":[\"bench\"]")?, &out.join("gpu-bench"))?;
    let sources = root().join("gpu/src/kernels");
    copy_where(&sources, &out.join("kernels"), |name| name.contains(".cu"))?;
    copy(&root().join("gpu/README.md"), &out.join("README.md"))?;
    for script in SCRIPTS {
        copy(&root().join("gpu/scripts").join(script), &out.join(script))?;
    }
    if wanted.program {
        copy_program(&wanted)?;
    }
    eprintln!("`{}`: copy it to the GPU machine and start run.sh there", out.display());
    Ok(())
}

/// NVRTC, nvJPEG and, where the program trains, the headers that Burn's kernels include.
fn copy_cuda(wanted: &Wanted, install: bool) -> Outcome {
    let library = |name: &str| name.contains(".so") && !name.contains(".alt.");
    copy_where(&wheels::NVRTC.fetch(install)?, &wanted.out.join("nvrtc"), library)?;
    copy_where(&wheels::NVJPEG.fetch(install)?, &wanted.out.join("nvjpeg"), library)?;
    if wanted.trains() {
        let include = wanted.out.join("cuda/include");
        for wheel in wheels::HEADERS {
            copy_tree(&wheel.fetch(install)?, &include)?;
        }
        // Large, and included by nothing here.
        for folder in ["cub", "thrust"].map(|name| include.join(name)) {
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(|e| io(&folder, &e))?;
            }
        }
    }
    Ok(())
}

/// The program, its libraries and a few clips; the trainer's tests where it trains.
fn copy_program(wanted: &Wanted) -> Outcome {
    let out = &wanted.out;
    run(cargo("build").args(["--release", "--bin", "tubelet"]).args(&wanted.build))?;
    let binary = target_dir().join("release/tubelet");
    copy_stripped(&binary, &out.join("tubelet"))?;
    copy_libraries(&binary, &out.join("lib"))?;
    let features = wanted.build.iter().map(String::as_str);
    let which: Vec<&str> = ["--bin", "tubelet"].into_iter().chain(features).collect();
    let built = test_programs("tubelet", &which)?;
    copy_stripped(&find(&built, TESTS_OF_PROGRAM)?, &out.join("decode-tests"))?;
    if wanted.trains() {
        let built = test_programs("tubelet-trainer", &["--lib", "--features", "cuda"])?;
        copy_stripped(&find(&built, TESTS_OF_TRAINER)?, &out.join("trainer-tests"))?;
    }
    make_data(&binary, out)
}

/// What names the programs with the unit tests in cargo's JSON.
const TESTS_OF_GPU: &str = "\"kind\":[\"lib\"],\"crate_types\":[\"lib\"],\"name\":\"tubelet_gpu\"";
const TESTS_OF_PROGRAM: &str = "\"kind\":[\"bin\"],\"crate_types\":[\"bin\"],\"name\":\"tubelet\"";
const TESTS_OF_TRAINER: &str =
    "\"kind\":[\"lib\"],\"crate_types\":[\"lib\"],\"name\":\"tubelet_trainer\"";

/// Builds programs of `package` that test or measure; cargo's JSON about it.
fn test_programs(package: &str, which: &[&str]) -> Result<String, Failure> {
    let mut command = cargo("test");
    command.args(["--release", "-p", package, "--no-run"]).args(which);
    command.args(["--message-format", "json-render-diagnostics"]);
    announce(&command);
    let output = command.output().map_err(|e| Failure::new(format!("cannot run cargo: {e}")))?;
    if !output.status.success() {
        return Err(Failure::new(String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn find(built: &str, kind: &str) -> Result<PathBuf, Failure> {
    let none = || Failure::new(format!("cargo names no program for {kind}"));
    program_of(built, kind).ok_or_else(none)
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

/// Copies a program without what only debuggers read.
fn copy_stripped(from: &Path, to: &Path) -> Outcome {
    run(Command::new("strip").arg("--strip-debug").arg("-o").args([to, from]))
}

/// Copies every library that `binary` loads and not every system has.
fn copy_libraries(binary: &Path, to: &Path) -> Outcome {
    fs::create_dir_all(to).map_err(|e| io(to, &e))?;
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
        copy_where(&from, &to, |_| true)?;
    }
    fs::remove_dir_all(&demo).map_err(|e| io(&demo, &e))
}

/// Copies the files of `from` whose name `wanted` likes.
fn copy_where(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> Outcome {
    fs::create_dir_all(to).map_err(|e| io(to, &e))?;
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

pub(crate) fn files_in(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(|e| io(folder, &e))?;
    Ok(entries.filter_map(Result::ok).map(|e| e.path()).collect())
}

fn copy(from: &Path, to: &Path) -> Outcome {
    fs::copy(from, to).map(drop).map_err(|e| io(from, &e))
}

pub(crate) fn io(path: &Path, error: &std::io::Error) -> Failure {
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

    #[test]
    fn arguments_say_what_goes_into_the_folder() {
        let of = |text: &str| {
            let arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            Wanted::of(&arguments)
        };
        let all = of("--out x --features cuda").unwrap_or_else(|e| panic!("{}", e.message));
        assert_eq!(all.out, PathBuf::from("x"));
        assert_eq!(all.build, ["--features", "cuda"]);
        assert!(all.cuda && all.program && all.trains());
        let small = of("--without cuda,ffmpeg").unwrap_or_else(|e| panic!("{}", e.message));
        assert!(!small.cuda && !small.program && !small.trains());
        assert!(of("--out").is_err() && of("--without nothing").is_err());
    }
}
