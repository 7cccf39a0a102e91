//! `tubelet plan`: what it prints is run, by a stand-in for Slurm.

#![cfg(unix)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::media;

fn plan(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tubelet"));
    command.arg("plan").args(arguments).output().expect("runs")
}

#[track_caller]
fn fails(arguments: &[&str]) -> String {
    let output = plan(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?}: a plan is printed");
    said
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Writes a program into `folder`.
fn program(folder: &Path, name: &str, script: &str) {
    let path = folder.join(name);
    media::write(&path, script.as_bytes());
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, mode).expect("made executable");
}

/// Runs the script that arrives as an array of its tasks, or alone; refuses a job that waits for
/// another one than was submitted.
const SBATCH: &str = r##"#!/bin/bash
set -euo pipefail
script=$(cat)
echo "sbatch $*" >> "$LOG"
case "$*" in
  *--parsable*) echo "41;cluster" ;;
  *--dependency=afterok:41*) ;;
  *) echo "no such job" >&2; exit 1 ;;
esac
last=$(sed -n 's/^#SBATCH --array=0-//p' <<< "$script")
for id in $(seq 0 "${last:-0}"); do
  if [ -n "$last" ]; then export SLURM_ARRAY_TASK_ID=$id; fi
  bash <<< "$script" >> "$LOG" 2>&1
done
"##;

#[test]
fn the_script_for_slurm_converts_and_joins() {
    let root = media::imagenet(3, 6);
    let work = tempfile::tempdir().expect("temporary folder");
    let (out, bin) = (work.path().join("out put"), work.path().join("bin"));
    std::fs::create_dir_all(&bin).expect("folder");
    program(&bin, "sbatch", SBATCH);
    program(&bin, "srun", "#!/bin/bash\nexec \"$@\"\n");
    let convert = ["--", text(root.path()), "-o", text(&out), "--shard-size", "8KiB"];
    let printed =
        plan(&[&["--for", "slurm", "--tasks", "3", "--cores", "1"], &convert[..]].concat());
    assert!(printed.status.success());
    let script = work.path().join("submit.sh");
    media::write(&script, &printed.stdout);
    let tubelet = Path::new(env!("CARGO_BIN_EXE_tubelet")).parent().expect("in a folder");
    let path = format!("{}:{}:/usr/bin:/bin", text(&bin), text(tubelet));
    let log = work.path().join("log");
    let run = Command::new("bash").arg(&script).env("PATH", path).env("LOG", &log).output();
    let run = run.expect("runs");
    let log = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(run.status.success(), "{}{log}", String::from_utf8_lossy(&run.stderr));
    assert!(log.contains("18 listed = 18 written") && log.contains("afterok:41"), "{log}");
    assert!(out.join("manifest.json").is_file());
}

#[test]
fn what_a_task_would_refuse_is_refused_now() {
    let root = media::imagenet(1, 1);
    let data = text(root.path());
    let slurm = ["--for", "slurm", "--tasks", "2", "--"];
    let of = |more: &[&str]| fails(&[&slurm[..], more].concat());
    assert!(of(&["/no/where", "-o", "out"]).contains("/no/where: there is no such file"));
    assert!(of(&[data, "-o", "out", "--stride", "4"]).contains("--video train"));
    assert!(of(&[data, "-o", "out", "--images", "train", "--quality", "101"]).contains("101"));
    let pods = ["--for", "kubernetes", "--tasks", "2", "--image", "x", "--"];
    let relative = fails(&[&pods[..], &[data, "-o", "out"]].concat());
    assert!(relative.contains("out: a pod"), "{relative}");
    let stored = ["s3://a/in", "-o", "s3://a/out", "--endpoint", "http://minio:9000"];
    let printed = plan(&[&pods[..], &stored[..]].concat());
    let said = String::from_utf8_lossy(&printed.stderr).into_owned();
    assert!(printed.status.success(), "{said}");
    assert!(said.contains("tubelet merge --endpoint http://minio:9000 s3://a/out"), "{said}");
}
