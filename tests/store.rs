//! Object stores from the command line: a server on loopback that speaks S3's dialect and fails.

mod server;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;
use tubelet_core::Size;

use self::server::{Fault, Server};
use crate::media;

/// What may go wrong without a wait of half a minute.
const FAULTS: [Fault; 6] = [
    Fault::Status(503),
    Fault::Status(500),
    Fault::Truncate,
    Fault::WrongRange,
    Fault::Short,
    Fault::Reset,
];

/// `tubelet` with credentials and a user's cache folder of its own.
fn tubelet(server: &Server, home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tubelet"));
    command.args(arguments).env("XDG_CACHE_HOME", home);
    command.env("AWS_ACCESS_KEY_ID", "someone").env("AWS_SECRET_ACCESS_KEY", "secret");
    command.env("AWS_ENDPOINT_URL", server.url()).env_remove("RUST_LOG");
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn ok(server: &Server, home: &Path, arguments: &[&str]) -> String {
    let output = tubelet(server, home, arguments).output().expect("runs");
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// Exit code and message of a command that must fail.
#[track_caller]
fn fails(server: &Server, home: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = tubelet(server, home, arguments).output().expect("runs");
    assert!(!output.status.success(), "{arguments:?}: {}", said(&output));
    (output.status.code(), said(&output))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// The files of a folder and its folders, by their names.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let server = Server::start();
    server.put_tree("x", folder);
    server.tree("x")
}

#[track_caller]
fn same(local: &Path, remote: &BTreeMap<String, Vec<u8>>) {
    let local = tree(local);
    assert_eq!(local.keys().collect::<Vec<_>>(), remote.keys().collect::<Vec<_>>());
    for (name, bytes) in &local {
        assert!(*bytes == remote[name], "{name} differs");
    }
}

/// A place for a test: data as files, a server, and folders.
struct Place {
    data: TempDir,
    work: TempDir,
    server: Server,
}

impl Place {
    fn new(data: TempDir) -> Self {
        let work = tempfile::tempdir().expect("temporary folder");
        Self { data, work, server: Server::start() }
    }

    fn ok(&self, arguments: &[&str]) -> String {
        ok(&self.server, &self.work.path().join("home"), arguments)
    }

    fn fails(&self, arguments: &[&str]) -> (Option<i32>, String) {
        fails(&self.server, &self.work.path().join("home"), arguments)
    }

    fn at(&self, name: &str) -> String {
        text(&self.work.path().join(name)).to_owned()
    }

    /// Shards of the data in a local folder.
    fn shards(&self, format: &str) -> String {
        let out = self.at(format);
        let data = text(self.data.path());
        self.ok(&["convert", data, "-o", &out, "--format", format, "--shard-size", "24KiB"]);
        out
    }

    /// Three batches of a training, in its order.
    fn batches(&self, data: &str, recipe: &str, more: &[&str]) -> Vec<u8> {
        let out = self.at("batches");
        let set = "pretrain.batch_size=4";
        let base = ["dump", data, "--recipe", recipe, "--set", set, "--batches", "3", "-o", &out];
        self.ok(&[&base[..], more].concat());
        std::fs::read(out).expect("written")
    }
}

/// The same bytes in a bucket as in a folder, whatever fails meanwhile; a second run writes nothing;
/// tasks join; what is there is read back and verified.
#[test]
fn conversions_into_a_bucket_equal_those_into_a_folder() {
    for format in ["parquet", "webdataset"] {
        let place = Place::new(media::kinetics(9));
        let data = text(place.data.path());
        let local = place.shards(format);
        let arguments = ["--format", format, "--shard-size", "24KiB", "--workers", "3"];
        let into = |url: &'static str| [&["convert", data, "-o", url][..], &arguments[..]].concat();
        place.server.fail(1, 0.2, &FAULTS);
        let said = place.ok(&into("s3://bucket/some/out"));
        assert!(said.contains("9 listed = 9 written") && said.contains("in s3://"), "{said}");
        same(Path::new(&local), &place.server.tree("bucket/some/out"));
        place.server.seen();
        place.ok(&into("s3://bucket/some/out/"));
        place.server.heal();
        let shard =
            |key: &str| key.ends_with(".tar") || key.contains("of-") && !key.contains(".tubelet");
        let seen = place.server.seen();
        assert!(!seen.iter().any(|s| s.method == "PUT" && shard(&s.key)), "written twice");
        for task in ["0/2", "1/2"] {
            place.ok(&[&into("s3://bucket/tasks")[..], &["--task", task]].concat());
        }
        place.ok(&["merge", "s3://bucket/tasks"]);
        same(Path::new(&local), &place.server.tree("bucket/tasks"));
        let joined = place.at("joined");
        place.ok(&[&["convert", data, "-o", &joined][..], &arguments, &["--task", "0/2"]].concat());
        place.ok(&["merge", &joined, "s3://bucket/tasks"]);
        same(Path::new(&local), &tree(Path::new(&joined)));

        let other = ["convert", data, "-o", "s3://bucket/tasks", "--shard-size", "9KiB"];
        let (code, said) = place.fails(&other);
        assert!(code == Some(2) && said.contains("another conversion"), "{said}");
        if format == "parquet" {
            assert!(place.ok(&["verify", "s3://bucket/tasks"]).contains(" 9 samples, 0 problems"));
            // Shards in a folder of their own, of which no manifest tells.
            for (name, bytes) in place.server.tree("bucket/tasks") {
                if name.starts_with("train-") {
                    place.server.put(&format!("bucket/bare/data/{name}"), bytes);
                }
            }
            let (code, said) = place.fails(&["verify", "s3://bucket/bare"]);
            assert!(code == Some(1) && said.contains(" 9 samples, 1 problems"), "{said}");
            let mut names = place.server.tree("bucket/tasks").into_keys();
            let name = names.find(|n| n.starts_with("train-")).expect("a shard");
            let shard = place.server.tree("bucket/tasks")[&name].clone();
            let key = format!("bucket/tasks/{name}");
            place.server.put(&key, shard[..shard.len() - 1].to_vec());
            let missing = place.fails(&["merge", "s3://bucket/tasks"]).1;
            assert!(missing.contains("1 of") || missing.contains("damaged"), "{missing}");
        }
    }
}

/// Objects of more than one part, and a format that is not for stores.
#[test]
fn large_shards_are_sent_in_parts() {
    let data = tempfile::tempdir().expect("temporary folder");
    for name in ["a", "b"] {
        let size = Size::new(2400, 2000);
        let mut bitmap = b"BM".to_vec();
        let bytes = size.area() as u32 * 3;
        for value in
            [bytes + 54, 0, 54, 40, size.width, size.height, 1 | 24 << 16, 0, bytes, 0, 0, 0, 0]
        {
            bitmap.extend(value.to_le_bytes());
        }
        bitmap.extend((0..bytes).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
        std::fs::create_dir_all(data.path().join("train/c")).expect("folder");
        media::write(&data.path().join(format!("train/c/{name}.bmp")), &bitmap);
    }
    let place = Place::new(data);
    let data = text(place.data.path());
    let local = place.at("local");
    place.ok(&["convert", data, "--layout", "folder", "-o", &local]);
    place.server.fail(5, 0.15, &[Fault::Status(503), Fault::Reset]);
    place.ok(&["convert", data, "--layout", "folder", "-o", "s3://bucket/large"]);
    place.server.heal();
    let parts =
        place.server.seen().iter().filter(|s| s.method == "PUT" && s.key.ends_with("t")).count();
    assert!(parts > 2, "{parts} parts");
    same(Path::new(&local), &place.server.tree("bucket/large"));
    let folder =
        ["convert", data, "--layout", "folder", "--format", "folder", "-o", "s3://bucket/x"];
    assert!(place.fails(&folder).1.contains("local disks only"));
}

/// What a training gets from a bucket or a web server is what it gets from a folder, with a cache of
/// any size, and with faults.
#[test]
fn batches_from_a_store_equal_local_ones() {
    for (data, recipe) in
        [(media::imagenet(2, 6), "mae-tiny"), (media::kinetics(8), "videomae-tiny")]
    {
        for format in ["parquet", "webdataset"] {
            let place = Place::new(tempfile::tempdir().expect("temporary folder"));
            let out = place.at(format);
            let size = ["--shard-size", "24KiB", "--format", format];
            place.ok(&[&["convert", text(data.path()), "-o", &out][..], &size[..]].concat());
            place.server.put_tree("bucket/set", Path::new(&out));
            let local = place.batches(&out, recipe, &[]);
            place.server.fail(7, 0.15, &FAULTS);
            let cache = place.at("cache");
            let endpoint = place.server.url();
            let web = format!("{}/bucket/set", place.server.url());
            for (url, more) in [
                ("s3://bucket/set", &["--endpoint", &endpoint, "--workers", "4"][..]),
                (web.as_str(), &["--cache", &cache, "--cache-size", "64KiB"][..]),
                ("s3://bucket/set", &["--cache", &place.at("large")][..]),
                ("s3://bucket/set", &["--cache", &place.at("large"), "--workers", "3"][..]),
            ] {
                let remote = place.batches(url, recipe, more);
                assert!(local == remote, "{recipe}, {format}, {url}, {more:?}");
            }
            place.server.heal();
            place.server.seen();
            place.batches("s3://bucket/set", recipe, &["--cache", &place.at("large")]);
            let gets = place.server.seen();
            let gets: Vec<_> = gets.iter().filter(|s| s.range.is_some()).collect();
            assert!(gets.is_empty(), "all is stored or copied: {gets:?}");
        }
    }
}

/// Killed at any moment, a cache is used on and never larger than allowed.
#[cfg(unix)]
#[test]
fn a_cache_survives_kills() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new(media::imagenet(3, 8));
    let shards = place.shards("parquet");
    place.server.put_tree("bucket/set", Path::new(&shards));
    let local = place.batches(&shards, "mae-tiny", &[]);
    let (cache, out) = (place.at("cache"), place.at("killed"));
    let with = ["--cache", &cache, "--cache-size", "100KiB", "--workers", "2"];
    let base = ["dump", "s3://bucket/set", "--recipe", "mae-tiny", "--batches", "3", "-o", &out];
    let arguments = [&base[..], &["--set", "pretrain.batch_size=4"], &with[..]].concat();
    let mut kills = 0;
    for n in 0..12u64 {
        let mut child = tubelet(&place.server, &place.work.path().join("home"), &arguments)
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("runs");
        std::thread::sleep(Duration::from_millis(5 + n * 7));
        kills += u32::from(child.try_wait().expect("known").is_none());
        child.kill().expect("killed");
        child.wait().expect("ended");
        let entries = std::fs::read_dir(&cache).into_iter().flatten();
        let used: u64 =
            entries.map(|e| e.expect("entry").metadata().expect("known").blocks()).sum();
        assert!(used * 512 <= 100 << 10, "{} bytes after kill {n}", used * 512);
    }
    assert!(kills > 3, "nothing was killed in time");
    assert!(local == place.batches("s3://bucket/set", "mae-tiny", &with), "after the kills");
    let names = std::fs::read_dir(&cache).expect("there");
    let leases = names
        .filter(|e| e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().contains("lease")));
    assert!(leases.count() <= 12, "leases of dead processes");
}

/// What a person sees who points at the wrong thing.
#[test]
fn errors_name_the_url_and_say_what_helps() {
    let place = Place::new(media::imagenet(2, 4));
    let shards = place.shards("parquet");
    place.server.put_tree("set", Path::new(&shards));
    let web = format!("{}/set", place.server.url());
    let url = web.as_str();
    assert!(place.ok(&["inspect", url]).contains("parquet, split train"));
    for (arguments, code, words) in [
        (vec!["inspect", "s3://set/none"], 2, "no .parquet or .tar file for split `train`"),
        (vec!["inspect", "gopher://x/y"], 2, "unknown scheme `gopher://`"),
        (vec!["inspect", url, "--layout", "kinetics"], 2, "local disks only"),
        (
            vec!["inspect", "s3://set/absent.parquet"],
            1,
            "s3://set/absent.parquet: entity not found",
        ),
        (vec!["inspect", url, "--cache", &shards], 2, "is no cache"),
        (vec!["inspect", url, "--cache-size", "1GiB"], 2, "--cache"),
    ] {
        let (found, said) = place.fails(&arguments);
        assert!(found == Some(code) && said.contains(words), "{arguments:?}: {found:?} {said}");
    }
    // A server without ranges: an error that says so, or everything through a cache.
    place.server.whole_only();
    let home = place.work.path().join("other home");
    let said = fails(&place.server, &home, &["inspect", url]).1;
    assert!(said.contains("whole files only") && said.contains("--cache"), "{said}");
    let cache = place.at("cache");
    let local = place.batches(&shards, "mae-tiny", &[]);
    assert!(local == place.batches(url, "mae-tiny", &["--cache", &cache]));
    let small = place.at("small");
    let little = ["inspect", url, "--sample", "0", "--cache", &small, "--cache-size", "20KiB"];
    let said = fails(&place.server, &home, &little).1;
    assert!(said.contains("--cache-size"), "{said}");
    place.server.break_key("set", Fault::Status(403));
    let (code, said) = place.fails(&["inspect", "s3://set/x"]);
    assert!(code == Some(1) && said.contains("403"), "{said}");
}
