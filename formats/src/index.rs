//! Media facts found once: frame counts, sizes, key frames, stored as a Parquet table beside the
//! data set.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use arrow_array::{Array, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tubelet_core::MediaInfo;
use xxhash_rust::xxh3::xxh3_64;

use crate::compact::{Facts, Names};
use crate::decode::decoder;
use crate::error::{DecodeError, FormatError, FormatErrorKind};
use crate::facts::guarded;
use crate::record::{ShardReader, Span};
use crate::store::{Location, locate};
use crate::temporary::Working;

/// One sample's line.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    name: String,
    bytes: u64,
    mtime: u64,
    facts: Result<Arc<MediaInfo>, String>,
}

/// Media facts of a data set.
#[derive(Clone, Debug, Default)]
pub struct Index {
    names: Names,
    stamps: Vec<(u64, u64)>,
    facts: Facts,
    /// Why facts are not known, by number.
    errors: BTreeMap<u32, String>,
    /// Hashes of the names with their numbers, ascending.
    places: Vec<(u64, u32)>,
}

impl Index {
    /// Probes all samples of `reader` on `workers` threads; `progress` hears (done, all).
    pub fn build(
        reader: &dyn ShardReader,
        workers: usize,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Self {
        let lines = in_parallel(reader.len(), workers, progress, || {
            let (mut decoder, mut buf) = (decoder(), Vec::new());
            move |n| {
                let record = reader.record(n);
                let facts = match reader.read(&record, &mut buf) {
                    Ok(bytes) => decoder.probe(bytes).map_err(|e| e.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                let (bytes, mtime) = stamp_of(&record.span);
                Line { name: record.name, bytes, mtime, facts: facts.map(Arc::new) }
            }
        });
        let mut index = Self::default();
        index.extend(lines);
        index.finished()
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Samples that cannot be used, and why.
    pub fn broken(&self) -> Vec<(String, String)> {
        let broken = |(n, why): (&u32, &String)| (self.names.get(*n as usize), why.clone());
        self.errors.iter().map(broken).collect()
    }

    /// The facts of the sample `name` if what it is read from is unchanged since.
    pub fn find(&self, name: &str, span: &Span) -> Option<Arc<MediaInfo>> {
        let hash = xxh3_64(name.as_bytes());
        let first = self.places.partition_point(|(other, _)| *other < hash);
        let same = self.places.get(first..)?.iter().take_while(|(other, _)| *other == hash);
        let numbers = same.map(|(_, n)| *n as usize);
        // Of several lines about one name, the last holds.
        let number = numbers.filter(|n| self.names.get(*n) == name).last()?;
        let known = self.stamps.get(number).is_some_and(|stamp| *stamp == stamp_of(span));
        if known { self.facts.get(number) } else { None }
    }

    /// Where [`crate::open`] finds the index of `split`: in the data set's `.tubelet` folder, or in
    /// the user's cache folder where that cannot be written.
    pub fn default_path(root: &Path, split: &str) -> PathBuf {
        side_path(root, &format!("index-{split}.parquet"))
    }

    /// Writes the index, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), FormatError> {
        let io = |e| FormatError::new(path, FormatErrorKind::Io(e));
        let wrong = |e: String| FormatError::new(path, FormatErrorKind::Parquet(e));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let schema = Arc::new(schema());
        let facts = |n: usize| serde_json::to_string(self.facts.get(n)?.as_ref()).ok();
        let why = |n: usize| self.errors.get(&(n as u32)).map(String::as_str);
        let all = || 0..self.len();
        let batch = RecordBatch::try_new(
            Arc::clone(&schema),
            vec![
                Arc::new(StringArray::from_iter_values(all().map(|n| self.names.get(n)))),
                Arc::new(UInt64Array::from_iter_values(self.stamps.iter().map(|s| s.0))),
                Arc::new(UInt64Array::from_iter_values(self.stamps.iter().map(|s| s.1))),
                Arc::new(all().map(facts).collect::<StringArray>()),
                Arc::new(all().map(why).collect::<StringArray>()),
            ],
        )
        .map_err(|e| wrong(e.to_string()))?;
        let mut working = Working::beside(path)?;
        let mut writer =
            ArrowWriter::try_new(working.file(), schema, None).map_err(|e| wrong(e.to_string()))?;
        writer.write(&batch).map_err(|e| wrong(e.to_string()))?;
        writer.close().map_err(|e| wrong(e.to_string()))?;
        working.publish(path)
    }

    /// Reads an index.
    ///
    /// # Errors
    /// When the file is no index.
    pub fn read(path: &Path) -> Result<Self, FormatError> {
        guarded(path, || Self::read_lines(path).map(Self::finished))
    }

    fn read_lines(path: &Path) -> Result<Self, FormatError> {
        let wrong = |e: String| FormatError::new(path, FormatErrorKind::Parquet(e));
        let file = File::open(path).map_err(|e| FormatError::new(path, FormatErrorKind::Io(e)))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(ParquetRecordBatchReaderBuilder::build)
            .map_err(|e| wrong(e.to_string()))?;
        let mut index = Self::default();
        for batch in reader {
            let batch = batch.map_err(|e| wrong(e.to_string()))?;
            index.extend(lines_of(&batch).ok_or_else(|| wrong("not an index".to_owned()))?);
        }
        Ok(index)
    }

    fn extend(&mut self, lines: Vec<Line>) {
        for line in lines {
            if let Err(why) = &line.facts {
                self.errors.insert(self.len() as u32, why.clone());
            }
            self.names.push(&line.name);
            self.stamps.push((line.bytes, line.mtime));
            self.facts.push(line.facts.ok().as_deref());
        }
    }

    /// The same, to be looked into.
    fn finished(mut self) -> Self {
        let hash = |n: usize| (xxh3_64(self.names.get(n).as_bytes()), n as u32);
        self.places = (0..self.len()).map(hash).collect();
        self.places.sort_unstable();
        self.names.shrink();
        self.facts.shrink();
        self
    }
}

/// Runs `task` for 0..count on `workers` threads, each with its own state from `make`; results in
/// order.
pub(crate) fn in_parallel<T: Send, F: FnMut(usize) -> T>(
    count: usize,
    workers: usize,
    progress: &(dyn Fn(usize, usize) + Sync),
    make: impl Fn() -> F + Sync,
) -> Vec<T> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..workers.clamp(1, count.max(1)) {
            scope.spawn(|| {
                let mut task = make();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let result = task(n);
                    results.lock().unwrap_or_else(|e| e.into_inner()).push((n, result));
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, count);
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
    results.sort_by_key(|(n, _)| *n);
    results.into_iter().map(|(_, result)| result).collect()
}

fn schema() -> Schema {
    Schema::new(vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("bytes", DataType::UInt64, false),
        Field::new("mtime", DataType::UInt64, false),
        Field::new("facts", DataType::Utf8, true),
        Field::new("error", DataType::Utf8, true),
    ])
}

fn lines_of(batch: &RecordBatch) -> Option<Vec<Line>> {
    let text = |name| batch.column_by_name(name)?.as_any().downcast_ref::<StringArray>();
    let number = |name| batch.column_by_name(name)?.as_any().downcast_ref::<UInt64Array>();
    let (names, facts, errors) = (text("name")?, text("facts")?, text("error")?);
    let (bytes, mtimes) = (number("bytes")?, number("mtime")?);
    let line = |n: usize| {
        let info = if facts.is_null(n) {
            let unknown = DecodeError::Unknown("no reason stored".to_owned()).to_string();
            Err(if errors.is_null(n) { unknown } else { errors.value(n).to_owned() })
        } else {
            Ok(Arc::new(serde_json::from_str(facts.value(n)).ok()?))
        };
        let name = names.value(n).to_owned();
        Some(Line { name, bytes: bytes.value(n), mtime: mtimes.value(n), facts: info })
    };
    (0..batch.num_rows()).map(line).collect()
}

/// What tells that a source is the same: a file's size and time, a range's length and place.
fn stamp_of(span: &Span) -> (u64, u64) {
    match span {
        Span::File(path) => stamp(path),
        Span::Range { bytes, .. } => (bytes.end - bytes.start, bytes.start),
        Span::Cell { .. } => (0, 0),
    }
}

/// Where things found out about `root` are kept under `name`: its `.tubelet` folder, or the user's
/// cache folder where that cannot be written.
pub(crate) fn side_path(root: &Path, name: &str) -> PathBuf {
    let root = &match locate(root) {
        Ok(Location::Remote(url)) => return table_of_url(&tables_of_user(), &url, name),
        Ok(Location::Local(path)) => path,
        Err(_) => root.to_owned(),
    };
    let folder = if root.is_dir() { root } else { root.parent().unwrap_or(root) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let beside = folder.join(".tubelet").join(name);
    // Made and removed again where the folder can be written to.
    if beside.is_file() || Working::beside(&folder.join("probe")).is_ok() {
        return beside;
    }
    let full = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    table_of_url(&tables_of_user(), &full.to_string_lossy(), name)
}

/// Where things found out about `url` are kept in `folder` under `name`.
pub(crate) fn table_of_url(folder: &Path, url: &str, name: &str) -> PathBuf {
    let hash = xxh3_64(url.as_bytes());
    folder.join(format!("{hash:016x}-{name}"))
}

/// The user's folder for things found out about data sets that cannot be written to.
pub(crate) fn tables_of_user() -> PathBuf {
    cache_folder().join("tubelet")
}

/// Size and modification time in nanoseconds; zeros where there is no such file.
pub(crate) fn stamp(path: &Path) -> (u64, u64) {
    let Ok(meta) = std::fs::metadata(path) else { return (0, 0) };
    let since = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    (meta.len(), since.map_or(0, |d| d.as_nanos() as u64))
}

fn cache_folder() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| Some(set("HOME")?.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
}
