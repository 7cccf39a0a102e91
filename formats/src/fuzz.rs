//! What fuzzing runs: each target takes any bytes for a file of a data set and must come back, with
//! samples or an error. Not for users.

use std::path::{Path, PathBuf};

use crate::dataset::Layout;
use crate::{Index, OpenOptions, open};

/// Most samples of a data set that are read.
const MAX_READ: usize = 256;

/// Names of the targets. The inputs of `mds`, `ssv2` and `ucf101` are two files, the first ended by a
/// zero byte.
pub const TARGETS: [&str; 14] = [
    "parquet",
    "rows",
    "index",
    "tar",
    "targz",
    "mds",
    "beton",
    "kinetics_csv",
    "kinetics_json",
    "ssv2",
    "list",
    "ucf101",
    "hmdb51",
    "mat5",
];

/// Runs `target` on `bytes`; the number of things found, absent where there is no such target.
pub fn run(target: &str, bytes: &[u8]) -> Option<usize> {
    let folder = Folder::new();
    let at = |name: &str| folder.0.join(name);
    let first = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let second = bytes.get(first + 1..).unwrap_or_default();
    let first = &bytes[..first];
    let (files, layout): (Vec<(&str, &[u8])>, Layout) = match target {
        "parquet" => (vec![("x.parquet", bytes)], Layout::Parquet),
        "tar" => (vec![("x.tar", bytes)], Layout::Webdataset),
        "targz" => (vec![("x.tar.gz", bytes)], Layout::Webdataset),
        "mds" => (vec![("index.json", first), ("shard.00000.mds", second)], Layout::Mds),
        "beton" => (vec![("x.beton", bytes)], Layout::Beton),
        "kinetics_csv" => (vec![("train.csv", bytes), (KINETICS_CLIP, b"x")], Layout::Kinetics),
        "kinetics_json" => (vec![("train.json", bytes), (KINETICS_CLIP, b"x")], Layout::Kinetics),
        "ssv2" => {
            (vec![("labels.json", first), ("train.json", second), ("1.webm", b"x")], Layout::Ssv2)
        }
        "list" => (vec![("train.csv", bytes), ("a.mp4", b"x")], Layout::List),
        "ucf101" => (
            vec![("classInd.txt", first), ("trainlist01.txt", second), (UCF_CLIP, b"x")],
            Layout::Ucf101,
        ),
        "hmdb51" => {
            (vec![("brush_test_split1.txt", bytes), ("brush/a b.avi", b"x")], Layout::Hmdb51)
        }
        "index" => {
            write(&at("index.parquet"), bytes);
            let index = Index::read(&at("index.parquet"));
            return Some(index.map_or(0, |index| index.len() - index.broken().len()));
        }
        "rows" => {
            write(&at("rows.bin"), bytes);
            return Some(crate::shard::load_rows(&at("rows.bin")));
        }
        "mat5" => return Some(crate::dataset::read_mat5(bytes)),
        _ => return None,
    };
    for (name, bytes) in &files {
        write(&at(name), bytes);
    }
    let path = if files.len() == 1 { at(files[0].0) } else { folder.0.clone() };
    Some(read_all(&path, layout))
}

/// Clips that the seeds name.
const KINETICS_CLIP: &str = "train/abcdefghijk_000003_000013.mp4";
const UCF_CLIP: &str = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi";

/// Opens a data set and reads its first samples; how many could be.
fn read_all(path: &Path, layout: Layout) -> usize {
    let how = OpenOptions { layout: Some(layout), stream: true, ..OpenOptions::default() };
    let Ok(reader) = open(path, &how) else { return 0 };
    let (mut buf, mut read) = (Vec::new(), 0);
    for n in 0..reader.len().min(MAX_READ) {
        let record = reader.record(n);
        read += usize::from(reader.read(&record, &mut buf).is_ok());
        for side in reader.level_sides() {
            let _ = reader.read_level(&record, *side, &mut buf);
        }
    }
    read
}

/// A folder of this thread's own, empty at first.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let thread = format!("{:?}", std::thread::current().id());
        let number: String = thread.chars().filter(char::is_ascii_digit).collect();
        let name = format!("tubelet-fuzz-{}-{number}", std::process::id());
        let folder = Self(std::env::temp_dir().join(name));
        let _ = std::fs::remove_dir_all(&folder.0);
        let _ = std::fs::create_dir_all(&folder.0);
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file that cannot be written is not there, which the readers must bear as well.
fn write(path: &Path, bytes: &[u8]) {
    if let Some(folder) = path.parent() {
        let _ = std::fs::create_dir_all(folder);
    }
    let _ = std::fs::write(path, bytes);
}
