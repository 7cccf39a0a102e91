//! Are shards what they were when they were written?

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use tubelet_core::Clip;
use xxhash_rust::xxh3::xxh3_64;

use crate::convert::place::Place;
use crate::convert::{Format, MANIFEST};
use crate::dataset::{Entry, Layout, Listing, Source, media_below};
use crate::decode::decoder;
use crate::error::FormatError;
use crate::facts::{guarded, parquet_error};
use crate::record::{Decoder, FrameRequest, ShardReader};
use crate::shard::parquet::shard_files;
use crate::shard::tar::is_tar;
use crate::shard::{ListedReader, OpenOptions, has_hash, open};
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
    settings: ManifestSettings,
    table: Option<ManifestTable>,
    shards: Vec<ManifestShard>,
}

#[derive(Deserialize)]
struct ManifestSettings {
    format: Format,
    split: String,
}

#[derive(Deserialize)]
struct ManifestTable {
    file: String,
    bytes: u64,
    xxh3: String,
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
/// says so, that its first and last frame can be decoded. Where a sample is a file of its own, the
/// files of the manifest's table are checked. Shards of an object store are fetched whole, one after
/// the other. `progress` is told done and total rows.
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
    let check = &Check { workers, decode, progress };
    let shards = match read_manifest(&place)? {
        Ok(manifest) => {
            let table = report.table(&place, &manifest);
            if manifest.settings.format == Format::Folder {
                if let (Some(table), Place::Local(folder)) = (table, &place) {
                    report.files(folder, &table, &manifest.settings.split, check)?;
                }
                report.shards = manifest.shards.len();
                return Ok(report);
            }
            manifest.shards
        }
        Err(what) => {
            report.about(MANIFEST, what);
            unlisted(dir, store)?
        }
    };
    for shard in &shards {
        let file = &shard.file;
        let path = match place.here(file) {
            Ok(path) => path,
            Err(error) => {
                report.about(file, error.to_string());
                continue;
            }
        };
        if let Err(what) = check_file(&path, shard) {
            report.about(file, what);
        }
        if path.is_file() {
            report.shard(&path, shard, check);
        }
        if matches!(place, Place::Remote(..)) {
            let _ = std::fs::remove_file(&path);
        }
    }
    Ok(report)
}

/// How rows are checked.
struct Check<'a> {
    workers: usize,
    decode: bool,
    progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl VerifyReport {
    fn about(&mut self, file: &str, what: String) {
        let file = file.to_owned();
        self.problems.push(Problem { file, row: None, name: String::new(), what });
    }

    /// Checks the rows of a shard.
    fn shard(&mut self, path: &Path, shard: &ManifestShard, check: &Check<'_>) {
        self.shards += 1;
        let layout = if is_tar(path) { Layout::Webdataset } else { Layout::Parquet };
        let options = OpenOptions { layout: Some(layout), ..OpenOptions::default() };
        match open(path, &options) {
            Ok(reader) => {
                if let Some(expected) = shard.rows.filter(|rows| *rows != reader.len()) {
                    let what = format!("{} rows, the manifest says {expected}", reader.len());
                    self.about(&shard.file, what);
                }
                for absent in reader.missing() {
                    self.about(&shard.file, format!("{absent} is not there"));
                }
                self.rows += reader.len();
                let name = |_: usize| shard.file.clone();
                self.problems.extend(check_rows(&name, reader.as_ref(), check));
            }
            // A shard without a sample is one that all were left out of.
            Err(_) if shard.rows == Some(0) => {}
            Err(error) => self.about(&shard.file, error.to_string()),
        }
    }

    /// Checks the table of a manifest; a local copy of it.
    fn table(&mut self, place: &Place, manifest: &Manifest) -> Option<PathBuf> {
        let ManifestTable { file, bytes, xxh3 } = manifest.table.as_ref()?;
        let expected = ManifestShard {
            file: file.clone(),
            rows: None,
            bytes: Some(*bytes),
            xxh3: xxh3.clone(),
        };
        let here = place.here(file).map_err(|e| e.to_string());
        match here.and_then(|path| check_file(&path, &expected).map(|()| path)) {
            Ok(path) => Some(path),
            Err(what) => {
                self.about(file, what);
                None
            }
        }
    }

    /// Checks the files that the table of a manifest lists, and that there are no others.
    fn files(
        &mut self,
        folder: &Path,
        table: &Path,
        split: &str,
        check: &Check<'_>,
    ) -> Result<(), FormatError> {
        let mut listing = Listing::default();
        let mut known = HashSet::new();
        for Written { file, bytes, hash } in written(table)? {
            let path = folder.join(&file);
            known.insert(path.clone());
            match std::fs::metadata(&path) {
                Err(e) => self.about(&file, format!("is missing: {e}")),
                Ok(meta) if meta.len() != bytes => {
                    let what = format!("{} bytes, the manifest says {bytes}", meta.len());
                    self.about(&file, what);
                }
                Ok(_) => {
                    listing.hashes.insert(listing.entries.len(), hash);
                    listing.entries.push(Entry {
                        source: Source::File(path),
                        name: file,
                        label: None,
                    });
                }
            }
        }
        self.rows = listing.entries.len();
        let own = folder.join(split);
        if own.is_dir() {
            for path in media_below(&own)?.0.into_iter().filter(|p| !known.contains(p)) {
                let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
                self.about(&name, "is in no line of the manifest".to_owned());
            }
        }
        let reader = ListedReader::new(listing, None)?;
        let name = |n: usize| reader.record(n).name;
        self.problems.extend(check_rows(&name, &reader, check));
        Ok(())
    }
}

/// A sample that was written to a file of its own.
struct Written {
    file: String,
    bytes: u64,
    hash: u64,
}

/// The written samples of a manifest's table.
fn written(table: &Path) -> Result<Vec<Written>, FormatError> {
    guarded(table, || {
        let file = std::fs::File::open(table).map_err(|e| FormatError::new(table, e))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(|builder| builder.build())
            .map_err(|e| parquet_error(table, &e))?;
        let mut found = Vec::new();
        for batch in reader {
            let batch = batch.map_err(|e| parquet_error(table, &e))?;
            let absent = || FormatError::malformed(table, "it has not the columns of a manifest");
            found.extend(written_of(&batch).ok_or_else(absent)?);
        }
        Ok(found)
    })
}

fn written_of(batch: &RecordBatch) -> Option<Vec<Written>> {
    let text = |name| batch.column_by_name(name)?.as_string_opt::<i32>();
    let (outcomes, files, hashes) = (text("outcome")?, text("file")?, text("xxh3")?);
    let bytes = batch.column_by_name("bytes")?.as_primitive_opt::<UInt64Type>()?;
    let rows = (0..batch.num_rows()).filter(|n| outcomes.value(*n) == "written");
    rows.map(|n| {
        let hash = u64::from_str_radix(hashes.value(n), 16).ok()?;
        Some(Written { file: files.value(n).to_owned(), bytes: bytes.value(n), hash })
    })
    .collect()
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

/// Checks every sample of `reader`; `file` names the file of each.
fn check_rows(
    file: &(dyn Fn(usize) -> String + Sync),
    reader: &dyn ShardReader,
    check: &Check<'_>,
) -> Vec<Problem> {
    let Check { workers, decode, progress } = *check;
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
                        let problem = Problem { file: file(row), row: Some(row), name, what };
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
    reader: &dyn ShardReader,
    row: usize,
    decode: bool,
    decoder: &mut dyn Decoder,
    clip: &mut Clip,
    buf: &mut Vec<u8>,
) -> Result<(), String> {
    let record = reader.record(row);
    let bytes = reader.read(&record, buf).map_err(|e| e.kind.to_string())?;
    if let Some(stored) = reader.stored_hash(row) {
        let found = xxh3_64(bytes);
        if found != stored {
            return Err(format!("payload hash {found:016x}, stored {stored:016x}"));
        }
    }
    let info = match &record.info {
        _ if !decode => None,
        Some(info) => Some(info.as_ref().clone()),
        None => Some(decoder.probe(bytes).map_err(|e| e.to_string())?),
    };
    for side in reader.level_sides() {
        let wrong = |what: String| format!("level {side}: {what}");
        let level = reader.read_level(&record, *side, buf).map_err(|e| wrong(e.to_string()))?;
        let Some(level) = level else { continue };
        has_hash(level, reader.stored_level_hash(row, *side)).map_err(wrong)?;
        let Some(info) = &info else { continue };
        let found = decoder.probe(level).map_err(|e| wrong(e.to_string()))?;
        let wanted = level_size(info.size, *side);
        if found.size != wanted {
            return Err(wrong(format!("{} pixels, not {wanted}", found.size)));
        }
        let want = FrameRequest { frames: vec![0], region: None, planes: false };
        decoder.decode(level, &found, &want, clip).map_err(|e| wrong(e.to_string()))?;
    }
    let Some(info) = info else { return Ok(()) };
    let bytes = reader.read(&record, buf).map_err(|e| e.kind.to_string())?;
    let mut frames = vec![0, info.frames.saturating_sub(1)];
    frames.dedup();
    let want = FrameRequest { frames, region: None, planes: false };
    decoder.decode(bytes, &info, &want, clip).map_err(|e| e.to_string())
}
