//! Are shards what they were when they were written?

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tubelet_core::Clip;
use xxhash_rust::xxh3::xxh3_64;

use crate::convert::MANIFEST;
use crate::convert::place::Place;
use crate::dataset::Layout;
use crate::decode::decoder;
use crate::error::FormatError;
use crate::record::{Decoder, FrameRequest, ShardReader};
use crate::shard::parquet::shard_files;
use crate::shard::{OpenOptions, ParquetReader};
use crate::store::{Location, StoreOptions, locate};
use crate::transcode::level_size;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// File.
    pub file: String,
    /// Row in it, where it is about one.
    pub row: Option<usize>,
    /// Name of the sample, where it is about one.
    pub name: String,
    /// What is wrong.
    pub what: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Shards looked at.
    pub shards: usize,
    /// Rows looked at.
    pub rows: usize,
    /// What is wrong, by file and row.
    pub problems: Vec<Problem>,
}

#[derive(Deserialize)]
struct Manifest {
    shards: Vec<ManifestShard>,
}

#[derive(Deserialize)]
struct ManifestShard {
    file: String,
    /// Absent, as the other facts, where there is no manifest.
    rows: Option<usize>,
    bytes: Option<u64>,
    xxh3: String,
}

/// Checks the shards in `dir`, a folder or the URL of one: that those of the manifest are there with
/// their size, hash and number of rows, that every payload has its checksum, and, where `decode`
/// says so, that its first and last frame can be decoded. Shards of an object store are fetched
/// whole, one after the other. `progress` is told done and total rows.
///
/// # Errors
/// When the folder cannot be read or has no shard; what is wrong inside is reported instead.
pub fn verify(
    dir: &Path,
    workers: usize,
    decode: bool,
    store: &StoreOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<VerifyReport, FormatError> {
    let place = Place::open(dir, store)?;
    let mut report = VerifyReport::default();
    let shards = match read_manifest(&place)? {
        Ok(manifest) => manifest.shards,
        Err(what) => {
            report.about("manifest.json", what);
            unlisted(dir, store)?
        }
    };
    let work = tempfile::tempdir().map_err(|e| FormatError::new(std::env::temp_dir(), e))?;
    for shard in &shards {
        let file = &shard.file;
        let path = match &place {
            Place::Local(folder) => folder.join(file),
            Place::Remote(..) => work.path().join("shard.parquet"),
        };
        if matches!(place, Place::Remote(..))
            && let Err(error) = place.fetch(file, &path)
        {
            report.about(file, error.to_string());
            continue;
        }
        if let Err(what) = check_file(&path, shard) {
            report.about(file, what);
        }
        if !path.is_file() {
            continue;
        }
        report.shards += 1;
        match ParquetReader::open(&path, "") {
            Ok(reader) => {
                if let Some(expected) = shard.rows.filter(|rows| *rows != reader.len()) {
                    let what = format!("{} rows, the manifest says {expected}", reader.len());
                    report.about(file, what);
                }
                report.rows += reader.len();
                report.problems.extend(check_rows(file, &reader, workers, decode, progress));
            }
            Err(error) => report.about(file, error.to_string()),
        }
    }
    Ok(report)
}

impl VerifyReport {
    /// Adds what is wrong with a whole file.
    fn about(&mut self, file: &str, what: String) {
        let file = file.to_owned();
        self.problems.push(Problem { file, row: None, name: String::new(), what });
    }
}

/// The manifest, or what is wrong with it.
fn read_manifest(place: &Place) -> Result<Result<Manifest, String>, FormatError> {
    let Some(text) = place.read(MANIFEST)? else {
        return Ok(Err("cannot be read: it is not there".to_owned()));
    };
    Ok(serde_json::from_slice(&text).map_err(|e| format!("is damaged: {e}")))
}

/// The shards of a folder without a manifest.
fn unlisted(dir: &Path, store: &StoreOptions) -> Result<Vec<ManifestShard>, FormatError> {
    let names: Vec<String> = match locate(dir)? {
        Location::Local(dir) => shard_files(&dir, "")?
            .iter()
            .map(|p| p.strip_prefix(&dir).unwrap_or(p).to_string_lossy().into_owned())
            .collect(),
        Location::Remote(url) => {
            let options = OpenOptions {
                layout: Some(Layout::Parquet),
                split: String::new(),
                store: store.clone(),
                ..OpenOptions::default()
            };
            let found = crate::store::find(&url, &options)?;
            found.objects.iter().map(|o| o.meta.name.clone()).collect()
        }
    };
    let unknown = |file| ManifestShard { file, rows: None, bytes: None, xxh3: String::new() };
    Ok(names.into_iter().map(unknown).collect())
}

fn check_file(path: &Path, shard: &ManifestShard) -> Result<(), String> {
    let Some(bytes) = shard.bytes else { return Ok(()) };
    let size = std::fs::metadata(path).map_err(|e| format!("is missing: {e}"))?.len();
    if size != bytes {
        return Err(format!("{size} bytes, the manifest says {bytes}"));
    }
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    let mut file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut buf = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buf).map_err(|e| e.to_string())? {
            0 => break,
            n => hash.update(&buf[..n]),
        }
    }
    let found = format!("{:016x}", hash.digest());
    match found == shard.xxh3 {
        true => Ok(()),
        false => Err(format!("hash {found}, the manifest says {}", shard.xxh3)),
    }
}

fn check_rows(
    file: &str,
    reader: &ParquetReader,
    workers: usize,
    decode: bool,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Vec<Problem> {
    let total = reader.len();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let problems = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers.max(1) {
            scope.spawn(|| {
                let (mut decoder, mut clip, mut buf) = (decoder(), Clip::new(), Vec::new());
                loop {
                    let row = next.fetch_add(1, Ordering::Relaxed);
                    if row >= total {
                        return;
                    }
                    if let Err(what) =
                        check_row(reader, row, decode, decoder.as_mut(), &mut clip, &mut buf)
                    {
                        let name = reader.record(row).name;
                        let problem = Problem { file: file.to_owned(), row: Some(row), name, what };
                        problems.lock().unwrap_or_else(PoisonError::into_inner).push(problem);
                    }
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
                }
            });
        }
    });
    let mut problems = problems.into_inner().unwrap_or_else(PoisonError::into_inner);
    problems.sort_by_key(|p| p.row);
    problems
}

fn check_row(
    reader: &ParquetReader,
    row: usize,
    decode: bool,
    decoder: &mut dyn Decoder,
    clip: &mut Clip,
    buf: &mut Vec<u8>,
) -> Result<(), String> {
    let record = reader.record(row);
    let bytes = reader.read(&record, buf).map_err(|e| e.kind.to_string())?;
    if let Some(stored) = reader.checksum(row) {
        let found = format!("{:016x}", xxh3_64(bytes));
        if found != stored {
            return Err(format!("payload hash {found}, stored {stored}"));
        }
    }
    if !decode {
        return Ok(());
    }
    let info = match &record.info {
        Some(info) => info.as_ref().clone(),
        None => decoder.probe(bytes).map_err(|e| e.to_string())?,
    };
    for side in reader.level_sides() {
        let wrong = |what: String| format!("level {side}: {what}");
        let level = reader.read_level(&record, *side, buf).map_err(|e| wrong(e.to_string()))?;
        let Some(level) = level else { continue };
        let found = decoder.probe(level).map_err(|e| wrong(e.to_string()))?;
        let wanted = level_size(info.size, *side);
        if found.size != wanted {
            return Err(wrong(format!("{} pixels, not {wanted}", found.size)));
        }
        let want = FrameRequest { frames: vec![0], region: None, planes: false };
        decoder.decode(level, &found, &want, clip).map_err(|e| wrong(e.to_string()))?;
    }
    let bytes = reader.read(&record, buf).map_err(|e| e.kind.to_string())?;
    let mut frames = vec![0, info.frames.saturating_sub(1)];
    frames.dedup();
    let want = FrameRequest { frames, region: None, planes: false };
    decoder.decode(bytes, &info, &want, clip).map_err(|e| e.to_string())
}
