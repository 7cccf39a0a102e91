//! Set-up, checks and the demo of tubelet, from a machine that has only Rust.

#![expect(clippy::print_stdout, reason = "the test report goes where test runners write it")]

mod gpu;
mod wheels;

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

const USAGE: &str = "\
Usage: cargo xtask <command> [--no-install] [arguments]

  setup   install the system packages that the build needs
  demo    set up, build, run `tubelet demo`; further arguments go to it
  test    set up, then format check, clippy, tests and documentation;
          --gpu-compile fetches NVRTC and has it compile every kernel for sm_80, sm_90, sm_100,
          and checks training on CUDA
  gpu-bundle [--out DIR] [--without cuda,ffmpeg] [build arguments]
          a folder with all that a GPU machine without a network needs, see gpu/README.md;
          without cuda: NVRTC, nvJPEG and headers are that machine's; without ffmpeg: device tests
          and bench alone; build arguments, such as --features cuda, go to `cargo build`

  --no-install   install nothing: say what is missing and stop with exit code 2";

/// Debian and Ubuntu packages that building tubelet needs, and what for.
const PACKAGES: &[(&str, &str)] = &[
    ("libavcodec-dev", "FFmpeg: codecs"),
    ("libavformat-dev", "FFmpeg: containers"),
    ("libavutil-dev", "FFmpeg: common parts"),
    ("libavfilter-dev", "FFmpeg: filters"),
    ("libswscale-dev", "FFmpeg: pixel formats"),
    ("libclang-dev", "bindings to FFmpeg"),
    ("clang", "bindings to FFmpeg"),
    ("pkg-config", "finds FFmpeg"),
    ("cmake", "builds libjpeg-turbo"),
    ("nasm", "assembles libjpeg-turbo"),
    ("make", "builds libjpeg-turbo"),
    ("g++", "links, compiles the GPU kernels for tests on the host"),
];

type Outcome = Result<(), Failure>;

/// Why the command stops, and with which exit code.
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }
}

fn main() -> ExitCode {
    let mut args: Vec<String> = env::args().skip(1).collect();
    let install = !args.iter().any(|a| a == "--no-install");
    args.retain(|a| a != "--no-install");
    let rest = args.get(1..).unwrap_or_default();
    let outcome = match args.first().map(String::as_str) {
        Some("setup") => setup(install),
        Some("demo") => setup(install).and_then(|()| demo(rest)),
        Some("test") => setup(install).and_then(|()| test(rest, install)),
        Some("gpu-bundle") => setup(install).and_then(|()| gpu::bundle(rest, install)),
        Some("help" | "--help" | "-h") => {
            eprintln!("{USAGE}");
            Ok(())
        }
        _ => Err(Failure::usage(USAGE)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Installs missing system packages, after saying which.
fn setup(install: bool) -> Outcome {
    if !Path::new("/etc/debian_version").exists() {
        eprintln!(
            "not Debian or Ubuntu: please make sure that FFmpeg 5 or later with headers, clang, \
             cmake and nasm are installed"
        );
        return Ok(());
    }
    let missing: Vec<_> = PACKAGES.iter().filter(|(name, _)| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("missing system packages:");
    for (name, purpose) in &missing {
        eprintln!("  {name:<18} {purpose}");
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let line = format!("apt-get install -y --no-install-recommends {}", names.join(" "));
    if !install {
        return Err(Failure::usage(format!("install them with:\n  sudo {line}")));
    }
    eprintln!("installing them: {line}");
    apt(&["update"])?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(names);
    apt(&arguments)
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .output()
        .is_ok_and(|out| out.stdout.ends_with(b"ok installed"))
}

/// Runs apt-get, through sudo for anyone but root.
fn apt(arguments: &[&str]) -> Outcome {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout == b"0\n");
    let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
    if !is_root {
        command.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    }
    run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Builds the binary and runs the demo.
fn demo(arguments: &[String]) -> Outcome {
    run(cargo("build").args(["--release", "--bin", "tubelet"]))?;
    run(Command::new(target_dir().join("release/tubelet")).arg("demo").args(arguments))
}

/// Everything a commit has to pass.
fn test(arguments: &[String], install: bool) -> Outcome {
    let nvrtc = match arguments {
        [] => None,
        [one] if one == "--gpu-compile" => Some(wheels::NVRTC.fetch(install)?),
        _ => {
            let given = arguments.join(" ");
            return Err(Failure::usage(format!("`test {given}`: only --gpu-compile is known")));
        }
    };
    run(cargo("fmt").args(["--all", "--check"]))?;
    let clippy = ["--release", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    run(cargo("clippy").args(clippy))?;
    if nvrtc.is_some() {
        let cuda = ["--release", "-p", "tubelet-trainer", "--features", "cuda", "--all-targets"];
        run(cargo("clippy").args(cuda).args(["--quiet", "--", "-D", "warnings"]))?;
    }
    run(cargo("doc")
        .args(["--release", "--workspace", "--no-deps", "--quiet", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings"))?;
    run_tests(nvrtc.as_deref())
}

/// Runs the tests, with NVRTC from a folder where there is one, and closes with one line that adds
/// up all test binaries.
fn run_tests(nvrtc: Option<&Path>) -> Outcome {
    let mut command = cargo("test");
    if let Some(folder) = nvrtc {
        command.env("TUBELET_NVRTC", folder).env("TUBELET_REQUIRE_NVRTC", "1");
    }
    command.args(["--release", "--workspace", "--no-fail-fast"]).stdout(Stdio::piped());
    announce(&command);
    let failed_start = |e: std::io::Error| Failure::new(format!("cannot run the tests: {e}"));
    let mut child = command.spawn().map_err(failed_start)?;
    let mut totals = [0u64; 3];
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            println!("{line}");
            add_result(&line, &mut totals);
        }
    }
    let status = child.wait().map_err(failed_start)?;
    let [passed, failed, ignored] = totals;
    println!("\n{passed} passed, {failed} failed, {ignored} skipped");
    if status.success() { Ok(()) } else { Err(Failure::new("tests failed")) }
}

/// Adds the numbers of a `test result: ok. 3 passed; 0 failed; 1 ignored; …` line.
fn add_result(line: &str, totals: &mut [u64; 3]) {
    let Some(result) = line.strip_prefix("test result: ") else { return };
    let words: Vec<&str> = result.split_whitespace().collect();
    for pair in words.windows(2) {
        let index = match pair[1].trim_end_matches(';') {
            "passed" => 0,
            "failed" => 1,
            "ignored" => 2,
            _ => continue,
        };
        totals[index] += pair[0].parse::<u64>().unwrap_or(0);
    }
}

fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(root());
    command
}

fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(Path::to_owned).unwrap_or(manifest)
}

fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn announce(command: &Command) {
    let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    eprintln!("$ {} {}", program.to_string_lossy(), words.join(" "));
}

fn run(command: &mut Command) -> Outcome {
    announce(command);
    let program = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure {
            message: format!("{program}: {status}"),
            code: status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1),
        }),
        Err(error) => Err(Failure::new(format!("cannot run {program}: {error}"))),
    }
}
