//! Conversions that are killed, split into tasks, and joined.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::media;

fn convert(data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tubelet"));
    command.arg("convert").arg(data).arg("-o").arg(out).args(["--shard-size", "24KiB"]).args(more);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[track_caller]
fn whole(data: &Path, out: &Path, more: &[&str]) {
    let output = convert(data, out, more).stderr(Stdio::piped()).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{more:?}: {said}");
}

/// All files below a folder, with their bytes.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("below").display().to_string();
                files.insert(name, std::fs::read(&path).expect("readable"));
            }
        }
    }
    files
}

#[track_caller]
fn same(a: &Path, b: &Path) {
    let (a, b) = (tree(a), tree(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(*bytes == b[name], "{name} differs");
    }
}

/// Ten conversions in each format, each killed at another moment and started again until one ends.
#[test]
fn killed_and_resumed_is_byte_identical() {
    killed_in_every_format(media::kinetics(14).path(), &["--video", "train", "--stride", "2"]);
}

/// The same with smaller encodings beside each picture.
#[test]
fn pyramids_are_killed_and_resumed_too() {
    let options = ["--images", "train", "--short-side", "64", "--pyramid", "24,40"];
    killed_in_every_format(media::imagenet(4, 24).path(), &options);
}

#[track_caller]
fn killed_in_every_format(data: &Path, options: &[&str]) {
    let work = tempfile::tempdir().expect("temporary folder");
    for format in ["parquet", "webdataset", "folder"] {
        let options = [options, &["--format", format, "--workers", "2"]].concat();
        let reference = work.path().join(format!("{format}-whole"));
        let started = Instant::now();
        whole(data, &reference, &options);
        let duration = started.elapsed();
        let killed = work.path().join(format!("{format}-killed"));
        let mut kills = 0;
        for n in 1..=10u32 {
            let mut child = convert(data, &killed, &options).spawn().expect("runs");
            std::thread::sleep(duration * (n * 37 % 100) / 100 + Duration::from_millis(1));
            kills += u32::from(child.try_wait().expect("known").is_none());
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
        assert!(kills > 0, "nothing was killed in time");
        whole(data, &killed, &options);
        same(&reference, &killed);
    }
}

/// Tasks that end at the same moment disturb neither each other nor files of somebody else.
#[test]
fn runs_at_once_end_alike_and_leave_foreign_files() {
    let root = media::imagenet(3, 8);
    let work = tempfile::tempdir().expect("temporary folder");
    let (reference, out) = (work.path().join("reference"), work.path().join("out"));
    whole(root.path(), &reference, &[]);
    std::fs::create_dir_all(out.join("notes")).expect("folder");
    for name in ["mine.tmp", "notes/a.tmp", "train-00000.parquet.7.tmp"] {
        media::write(&out.join(name), b"mine");
        std::fs::create_dir_all(reference.join("notes")).expect("folder");
        media::write(&reference.join(name), b"mine");
    }
    for _ in 0..8 {
        let run = |_| convert(root.path(), &out, &[]).stderr(Stdio::piped()).spawn().expect("runs");
        let children: Vec<_> = (0..8).map(run).collect();
        for child in children {
            let output = child.wait_with_output().expect("ended");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
        }
        same(&reference, &out);
    }
}

/// What is begun is said; nothing written, or an output that is the data set, is no success.
#[test]
fn what_is_listed_is_said_and_nothing_written_is_a_failure() {
    let root = media::imagenet(2, 3);
    let out = root.path().join("out");
    let run = |out: &Path, more: &[&str]| {
        let output = convert(root.path(), out, more).stderr(Stdio::piped()).output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&out, &["--min-side", "5000"]);
    assert_eq!(code, Some(1), "{said}");
    let line = "layout imagenet, split train: 6 samples, 2 classes, 0 without label";
    assert!(said.contains(line) && said.contains("nothing was written"), "{said}");
    assert!(said.contains("6 listed = 0 written + 0 missing + 0 broken + 6 filtered"), "{said}");
    let (code, said) = run(root.path(), &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("holds the data set itself"), "{said}");
    let nowhere = convert(&root.path().join("nowhere"), &out, &[]).output().expect("runs");
    assert_eq!(nowhere.status.code(), Some(2));
}

/// The same straight from a compressed archive, which has no random access: nothing is unpacked.
#[test]
fn a_compressed_archive_is_killed_and_resumed_too() {
    let root = media::kinetics(14);
    let train = root.path().join("train");
    let names = std::fs::read_dir(&train).expect("folder").filter_map(Result::ok);
    let mut names: Vec<_> = names.map(|e| e.file_name()).collect();
    names.sort();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&train).arg("-czf").arg(train.join("part_0.tar.gz")).args(&names);
    assert!(tar.status().expect("runs").success());
    names.iter().for_each(|name| std::fs::remove_file(train.join(name)).expect("removed"));
    let work = tempfile::tempdir().expect("temporary folder");
    let options = ["--video", "train", "--workers", "2"];
    let (reference, killed) = (work.path().join("whole"), work.path().join("killed"));
    let started = Instant::now();
    whole(root.path(), &reference, &options);
    let duration = started.elapsed();
    for n in 1..=5u32 {
        let mut child = convert(root.path(), &killed, &options).spawn().expect("runs");
        std::thread::sleep(duration * (n * 37 % 100) / 100 + Duration::from_millis(1));
        child.kill().expect("killed");
        child.wait().expect("ended");
    }
    whole(root.path(), &killed, &options);
    same(&reference, &killed);
    let beside = tree(&train.join(".tubelet"));
    let bytes: usize = beside.values().map(Vec::len).sum();
    assert!(bytes < 20_000, "{:?}", beside.keys());
}

#[test]
fn tasks_in_any_place_join_to_the_same_bytes_and_gaps_are_refused() {
    let root = media::kinetics(9);
    let work = tempfile::tempdir().expect("temporary folder");
    let at = |name: &str| work.path().join(name);
    whole(root.path(), &at("whole"), &[]);
    for (task, out) in [("0/3", "shared"), ("2/3", "shared"), ("1/3", "elsewhere")] {
        whole(root.path(), &at(out), &["--task", task, "--workers", "1"]);
    }
    let merge = |folders: &[&str]| {
        let folders = folders.iter().map(|f| at(f));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tubelet"));
        command.arg("merge").args(folders).output().expect("runs")
    };
    let gap = merge(&["shared"]);
    let said = String::from_utf8_lossy(&gap.stderr).into_owned();
    assert_eq!(gap.status.code(), Some(1), "{said}");
    assert!(said.contains("train-00001-of-") && said.contains("run their tasks again"), "{said}");
    assert!(merge(&["shared", "elsewhere"]).status.success());
    same(&at("whole"), &at("shared"));
    let other = media::kinetics(8);
    whole(other.path(), &at("other"), &[]);
    assert_eq!(merge(&["shared", "other"]).status.code(), Some(2));
}

#[test]
fn the_summary_adds_up() {
    let root = media::kinetics(6);
    let clip = |n: u32| root.path().join(format!("train/idtrain{n:04}_000003_000013.mp4"));
    std::fs::remove_file(clip(1)).expect("removed");
    media::write(&clip(2), b"not a video");
    let out = root.path().join("out");
    let mut command = convert(root.path(), &out, &["--min-frames", "22", "--video", "train"]);
    let output = command.stderr(Stdio::piped()).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let line = "6 listed = 3 written + 1 missing + 1 broken + 1 filtered";
    assert!(output.status.success() && said.contains(line), "{said}");
    let text = std::fs::read_to_string(out.join("manifest.json")).expect("written");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(manifest["counts"]["listed"], 6);
    assert!(manifest["quality"]["psnr_db"].as_f64().is_some_and(|db| db > 25.0), "{manifest}");
    assert!(manifest["quality"]["ssim"].as_f64().is_some_and(|s| s > 0.8 && s < 1.0), "{manifest}");
    let quarantine = std::fs::read_to_string(out.join("quarantine.tsv")).expect("written");
    assert!(quarantine.starts_with("train/idtrain0002") && quarantine.contains("not a video"));
}
