//! The program as a person runs it.

use std::path::Path;
use std::process::{Command, Output};

use crate::media;

fn tubelet(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tubelet")).args(arguments).output().expect("runs")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

#[track_caller]
fn ok(arguments: &[&str]) -> String {
    let output = tubelet(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &errors
}

#[track_caller]
fn fails(code: i32, arguments: &[&str]) -> String {
    let output = tubelet(arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    errors
}

#[test]
fn mistakes_exit_with_2_and_say_what_would_be_right() {
    assert!(fails(2, &["recipes", "mae-vit-x"]).contains("mae-vit-b"));
    assert!(fails(2, &["recipes", "mae-vit-b", "--set", "pretrain.flip=2"]).contains("0 to 1"));
    for (set, says) in [
        ("pretrain.train.epocs=1", "epocs"),
        ("model.family=foo", "expected one of `mae`"),
        ("method=simmim", "simmim"),
        ("pretrain.mask={policy=\"block\", ratio=0.4}", "random, tube"),
    ] {
        let error = fails(2, &["recipes", "mae-tiny", "--set", set]);
        assert!(error.contains(says), "{set}: {error}");
    }
    let root = media::imagenet(1, 2);
    let data = path(root.path());
    assert!(fails(2, &["inspect", data, "--sample", "9"]).contains("2"));
    assert!(fails(2, &["dump", data, "--recipe", "mae-tiny", "-o", "x"]).contains("--samples"));
    if let Err(reason) = tubelet_gpu::Gpu::probe() {
        let device = fails(2, &["bench", data, "--recipe", "mae-tiny", "--stage", "device"]);
        assert!(device.contains(&reason.to_string()), "{device}");
        let bench = ["bench", data, "--recipe", "mae-tiny", "--decode", "gpu"];
        let decode = fails(2, &bench);
        let want = format!("--decode gpu: {reason}");
        assert!(decode.contains(&want), "{decode}");
        let gone = path(root.path()).to_owned() + "/gone";
        let run = ["pretrain", "--recipe", "mae-tiny", "--data", data, "--out", &gone];
        assert!(fails(2, &[&run[..], &["--decode", "gpu"]].concat()).contains(&want));
        assert!(!Path::new(&gone).exists(), "nothing is begun");
        let eval = ["eval", "--run", &gone, "--data", data, "--decode", "gpu"];
        assert!(fails(2, &eval).contains(&want));
    }
    let never = root.path().join("never");
    let convert = ["convert", data, "-o", path(&never)];
    assert!(fails(2, &[&convert[..], &["--stride", "4"]].concat()).contains("--video train"));
    assert!(fails(2, &[&convert[..], &["--video", "train"]].concat()).contains("pictures"));
    assert!(fails(2, &[&convert[..], &["--task", "auto"]].concat()).contains("i/n"));
}

#[test]
fn convert_then_verify_then_inspect() {
    let root = media::kinetics(5);
    let out = tempfile::tempdir().expect("temporary folder");
    let shards = path(out.path());
    assert!(ok(&["convert", path(root.path()), "-o", shards]).contains("5 listed = 5 written"));
    assert!(ok(&["verify", shards]).contains("0 problems"));
    let seen = ok(&["inspect", shards]);
    assert!(seen.contains("air drumming") && seen.contains("zumba"), "{seen}");

    let shard = std::fs::read_dir(out.path())
        .expect("folder")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("train-")))
        .expect("a shard");
    let mut bytes = std::fs::read(&shard).expect("readable");
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x40;
    media::write(&shard, &bytes);
    fails(1, &["verify", shards]);
}

#[test]
fn dumps_are_the_same_bytes_from_files_and_shards_and_any_workers() {
    let root = media::kinetics(6);
    let out = tempfile::tempdir().expect("temporary folder");
    let shards = out.path().join("shards");
    ok(&["convert", path(root.path()), "-o", path(&shards)]);
    let dump = |data: &Path, workers: &str, name: &str| {
        let file = out.path().join(name);
        let samples = ["--samples", "5,0,3", "--workers", workers, "-o", path(&file)];
        let recipe = ["dump", path(data), "--recipe", "videomae-tiny", "--epoch", "3"];
        ok(&[&recipe[..], &samples[..]].concat());
        std::fs::read(&file).expect("written")
    };
    let one = dump(root.path(), "1", "a");
    assert!(one == dump(root.path(), "2", "b"), "two workers give other bytes");
    assert!(one == dump(&shards, "5", "c"), "shards and five workers give other bytes");
}

/// The smaller encodings serve only where the recipe asks for them, the same way whatever the workers.
#[test]
fn pyramids_are_used_when_the_recipe_says_so() {
    let root = media::imagenet(2, 3);
    let out = tempfile::tempdir().expect("temporary folder");
    let shards = out.path().join("shards");
    ok(&["convert", path(root.path()), "-o", path(&shards), "--pyramid", "64,48"]);
    assert!(ok(&["verify", path(&shards)]).contains("0 problems"));
    let dump = |data: &Path, pyramid: &str, workers: &str| {
        let (file, set) = (out.path().join("dump"), format!("pretrain.pyramid={pyramid}"));
        let how = ["--samples", "0,1,2,3,4,5", "--workers", workers, "-o", path(&file)];
        let recipe = ["--recipe", "mae-tiny", "--set", "pretrain.crop.size=32", "--set", &set];
        ok(&[&["dump", path(data)][..], &recipe[..], &how[..]].concat());
        std::fs::read(&file).expect("written")
    };
    let plain = dump(root.path(), "false", "1");
    assert!(plain == dump(&shards, "false", "2"), "unused levels change the batch");
    assert!(plain == dump(root.path(), "true", "2"), "without levels nothing changes");
    let small = dump(&shards, "true", "1");
    assert!(small != plain, "no level is used");
    assert!(small == dump(&shards, "true", "5"), "five workers give other bytes");
    let set = [
        "--set",
        "pretrain.pyramid=true",
        "--set",
        "pretrain.crop.size=32",
        "--batch",
        "2",
        "--seconds",
        "0.2",
        "--json",
    ];
    let bench = ["bench", path(&shards), "--recipe", "mae-tiny"];
    let text = ok(&[&bench[..], &set[..]].concat());
    let report: serde_json::Value = serde_json::from_str(text.trim()).expect("one JSON object");
    assert!(report["level_samples"].as_u64().is_some_and(|n| n > 0), "{report}");
    assert!(
        fails(2, &["convert", path(root.path()), "-o", "x", "--pyramid", "0"])
            .contains("at least 1")
    );
}

#[test]
fn preview_and_bench_run() {
    let root = media::imagenet(2, 3);
    let out = tempfile::tempdir().expect("temporary folder");
    for recipe in ["mae-tiny", "maskfeat-tiny"] {
        let file = out.path().join(format!("{recipe}.png"));
        ok(&["preview", path(root.path()), "--recipe", recipe, "-o", path(&file)]);
        let picture = image::open(&file).expect("a picture");
        assert!(picture.width() > 100 && picture.height() > 300);
    }
    let set = ["--batch", "2", "--seconds", "0.2", "--json"];
    let text = ok(&[&["bench", path(root.path()), "--recipe", "mae-tiny"][..], &set[..]].concat());
    let report: serde_json::Value = serde_json::from_str(text.trim()).expect("one JSON object");
    assert!(report["samples_per_s"].as_f64().is_some_and(|r| r > 0.0), "{report}");
    assert!(report["stages"]["decode"].is_number() && report["limiting_stage"].is_string());
    assert_eq!(report["settings"]["decode"], "cpu");
}

/// Whether clips were decoded of spaced references alone is told, also where none was.
#[test]
fn bench_tells_which_clips_used_the_spacing_of_references() {
    let root = media::kinetics(6);
    let out = tempfile::tempdir().expect("temporary folder");
    let convert = ["convert", path(root.path()), "-o", path(out.path()), "--video", "train"];
    ok(&[&convert[..], &["--stride", "2"]].concat());
    let clips = |data: &Path, step: &str| {
        let clip = format!("pretrain.clip={{ rule = \"videomae\", frames = 4, step = {step} }}");
        let set = ["--recipe", "videomae-tiny", "--set", &clip, "--batch", "2", "--json"];
        let text = ok(&[&["bench", path(data), "--seconds", "0.2"][..], &set[..]].concat());
        let report: serde_json::Value = serde_json::from_str(text.trim()).expect("one JSON object");
        let number = |name: &str| report["clips"][name].as_u64().expect("a number");
        (number("by_references"), number("exact"))
    };
    let (by, exact) = clips(out.path(), "2");
    assert!(by > 0 && exact == 0, "{by} and {exact}");
    let (by, exact) = clips(out.path(), "3");
    assert!(exact > 0, "{by} and {exact}");
    assert_eq!(clips(root.path(), "2").0, 0);
}

/// All rows of a sample, other shapes and mixed rows are drawn: more of them make a larger picture.
#[test]
fn preview_draws_all_rows_and_shapes() {
    let root = media::kinetics(2);
    let out = tempfile::tempdir().expect("temporary folder");
    let size = |recipe: &str, more: &[&str]| {
        let file = out.path().join("preview.png");
        let preview = ["preview", path(root.path()), "--recipe", recipe, "--frames", "2"];
        ok(&[&preview[..], more, &["-o", path(&file)]].concat());
        let picture = image::open(&file).expect("a picture");
        (picture.width(), picture.height())
    };
    let eval = |rules: &[&str]| {
        let set: Vec<&str> = rules.iter().flat_map(|rule| ["--set", rule]).collect();
        size("videomae-tiny", &[&["--for", "eval", "--samples", "1"], &set[..]].concat()).1
    };
    let (one, three) = ("eval.crop.crops=1", "eval.crop.crops=3");
    let (few, all) = (
        eval(&[one, "eval.clip.clips=1"]),
        eval(&[three, "eval.clip.clips=2", "eval.batch_size=6"]),
    );
    assert!(all > 3 * few, "{few} {all}");

    let repeats = |set: &str| size("videomae-tiny", &["--samples", "1", "--set", set]).1;
    let (once, twice) = (repeats("pretrain.repeats=1"), repeats("pretrain.repeats=2"));
    assert!(twice > once * 3 / 2, "{once} {twice}");

    let finetune = |set: &[&str]| {
        size("videomae-tiny", &[&["--for", "finetune", "--samples", "2"], set].concat()).1
    };
    let mixed = finetune(&["--set", "finetune.augment.mixup=0.8"]);
    assert!(mixed > finetune(&[]));

    let phases = "pretrain.phases=[{from=0, shapes=[{}]}, {from=1, shapes=[{}, {size=256}]}]";
    let shape = |epoch: &str, batch: &str| {
        let at = ["--samples", "1", "--set", phases, "--epoch", epoch, "--batch", batch];
        size("videomae-tiny", &at)
    };
    assert_eq!(shape("0", "1"), shape("1", "2"));
    assert!(shape("1", "1").0 > shape("1", "0").0);
}

/// `--decode auto` says in one line where it decodes, and why, and goes on.
#[test]
fn auto_goes_on_without_a_gpu() {
    let Err(reason) = tubelet_gpu::Gpu::probe() else { return };
    let root = media::imagenet(1, 2);
    let bench = ["bench", path(root.path()), "--recipe", "mae-tiny", "--decode", "auto"];
    let output = tubelet(&[&bench[..], &["--batch", "2", "--seconds", "0.1"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors.trim(), format!("decode: on the CPU ({reason})"));
}

/// `tubelet … | head`: no panic, no message.
#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let root = media::imagenet(1, 2);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tubelet"));
    let output = command.args(["inspect", path(root.path())]).stdout(writer).output();
    let output = output.expect("runs");
    assert!(!output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
