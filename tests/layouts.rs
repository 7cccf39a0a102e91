//! The same samples from other layouts give the same batches.

use std::path::Path;
use std::process::Command;

use tubelet_core::Size;

use crate::media;

#[track_caller]
fn ok(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tubelet")).args(arguments).output();
    let output = output.expect("runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &errors
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// What the trainer would get of the first samples.
#[track_caller]
fn dump(data: &Path, recipe: &str, out: &Path) -> Vec<u8> {
    let samples = ["--recipe", recipe, "--samples", "3,0,1,2", "-o", text(out)];
    ok(&[&["dump", text(data)][..], &samples[..]].concat());
    std::fs::read(out).expect("written")
}

/// From files, from tar shards made of them, and from Parquet shards made of these.
#[test]
fn tar_shards_are_read_like_the_files_they_were_made_of() {
    for (root, recipe) in
        [(media::imagenet(2, 3), "mae-tiny"), (media::kinetics(5), "videomae-tiny")]
    {
        let work = tempfile::tempdir().expect("temporary folder");
        let at = |name: &str| work.path().join(name);
        let convert = ["--format", "webdataset", "--shard-size", "24KiB"];
        let (tars, parquet) = (at("tars"), at("parquet"));
        ok(&[&["convert", text(root.path()), "-o", text(&tars)][..], &convert[..]].concat());
        ok(&["convert", text(&tars), "-o", text(&parquet)]);
        let plain = dump(root.path(), recipe, &at("a"));
        assert!(plain == dump(&tars, recipe, &at("b")), "{recipe}: tar shards");
        assert!(plain == dump(&parquet, recipe, &at("c")), "{recipe}: Parquet made of them");
        // Media facts are stored for members of archives too.
        ok(&["index", text(&tars)]);
        let seen = ok(&["inspect", text(&tars)]);
        let line = seen.lines().find(|l| l.contains("with stored media facts")).expect("a line");
        assert!(!line.contains(" 0 "), "{line}");
        assert!(plain == dump(&tars, recipe, &at("d")), "{recipe}: with an index");
        assert!(ok(&["inspect", text(&tars), "--sample", "1"]).contains(".tar/000000001."));
    }
}

#[test]
fn folders_of_frames_are_videos_for_every_command() {
    let root = tempfile::tempdir().expect("temporary folder");
    let work = tempfile::tempdir().expect("temporary folder");
    let mut list = String::new();
    for n in 0..4u32 {
        let name = format!("{}/v{n}", ["archery", "zumba"][n as usize % 2]);
        let folder = root.path().join(&name);
        std::fs::create_dir_all(&folder).expect("folder");
        for t in 0..20 {
            let picture = media::picture(Size::new(64, 48), n, t);
            let file = tubelet_formats::encode::encode_jpeg(&picture, Size::new(64, 48), 90);
            media::write(&folder.join(format!("img_{:05}.jpg", t + 1)), &file.expect("encodes"));
        }
        list += &format!("{name} 20 {}\n", n % 2);
    }
    let at = |name: &str| work.path().join(name);
    let plain = dump(root.path(), "videomae-tiny", &at("a"));
    assert!(ok(&["index", text(root.path())]).contains("4 of 4 samples indexed"));
    assert!(plain == dump(root.path(), "videomae-tiny", &at("b")), "with an index");
    let (keep, train) = (at("keep"), at("train"));
    ok(&["convert", text(root.path()), "-o", text(&keep)]);
    assert!(plain == dump(&keep, "videomae-tiny", &at("c")), "as they are in Parquet");
    let made = ok(&["convert", text(root.path()), "-o", text(&train), "--video", "train"]);
    assert!(made.contains("4 listed = 4 written"), "{made}");
    assert!(ok(&["inspect", text(&train), "--sample", "0"]).contains("h264"));
    assert!(ok(&["verify", text(&keep)]).contains("0 problems"));

    // A list counts in its own order: two of archery, two of zumba, turn by turn.
    let file = root.path().join("list.txt");
    media::write(&file, list.as_bytes());
    let seen = ok(&["inspect", text(&file), "--sample", "1"]);
    assert!(seen.contains("zumba/v1") && seen.contains("20"), "{seen}");
}
