//! Any data set to Parquet shards.
//!
//! Which sample goes into which shard is a pure function of the listing and the sizes of the files;
//! every shard is written under a temporary name, then renamed, and leaves a done-record. So any
//! number of workers and tasks, and any interruption, end with the same bytes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tubelet_core::MediaInfo;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::decode::{decoder, sniff};
use crate::error::{FormatError, FormatErrorKind};
use crate::facts::{info_columns, parquet_error};
use crate::record::{Decoder, MediaKind, Record, ShardReader, Span};

/// How media are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// The encoded bytes as they are.
    Keep,
    /// Re-encoded for training; not supported yet.
    Train,
}

/// What happens with media that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBroken {
    /// They are left out and named.
    Skip,
    /// The conversion stops.
    Fail,
}

/// How to convert.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvertOptions {
    /// Bytes of payload after which a shard is full.
    pub shard_size: u64,
    /// How pictures are stored.
    pub images: Profile,
    /// How videos are stored.
    pub video: Profile,
    /// Part and number of parts: part i writes the shards whose number is i modulo n.
    pub task: (u32, u32),
    /// What happens with media that cannot be read.
    pub on_error: OnBroken,
    /// Threads, a shard each.
    pub workers: usize,
    /// Name of the split, first part of the shards' names.
    pub split: String,
}

/// A sample that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// What a conversion did; `listed = written + missing + drops`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConvertReport {
    /// Samples that the data set lists.
    pub listed: usize,
    /// Samples in the shards that exist now.
    pub written: usize,
    /// Samples whose files are absent.
    pub missing: usize,
    /// Samples that could not be read.
    pub drops: Vec<Dropped>,
    /// Shards that exist now.
    pub shards: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Whether all shards of all tasks are there and `manifest.json` was written.
    pub complete: bool,
}

/// What is remembered of a finished shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ShardRecord {
    file: String,
    rows: usize,
    bytes: u64,
    xxh3: String,
    settings: String,
    classes: BTreeMap<u32, u64>,
    drops: Vec<Dropped>,
}

/// Bytes of payload in memory before a row group is written.
const GROUP_BYTES: usize = 32 << 20;
/// Folder of the done-records inside the output.
const RECORDS: &str = ".tubelet";

/// Writes the samples of `reader` to shards in `out`; `source` names it in the manifest; `progress`
/// is told done and total samples.
///
/// # Errors
/// When the output cannot be written, pictures and videos are mixed, or a sample is broken and the
/// policy is to stop.
pub fn convert(
    reader: &dyn ShardReader,
    source: &str,
    out: &Path,
    options: &ConvertOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<ConvertReport, FormatError> {
    let job = Job::new(reader, out, options)?;
    std::fs::create_dir_all(out.join(RECORDS)).map_err(|e| FormatError::new(out, e))?;
    let mine: Vec<usize> = (0..job.shards.len())
        .filter(|n| *n as u32 % options.task.1.max(1) == options.task.0)
        .collect();
    job.run(&mine, progress)?;
    job.finish(source, reader.missing())
}

/// One conversion.
struct Job<'a> {
    reader: &'a dyn ShardReader,
    out: &'a Path,
    options: &'a ConvertOptions,
    kind: MediaKind,
    schema: Arc<Schema>,
    /// First and last sample of each shard.
    shards: Vec<std::ops::Range<usize>>,
    settings: String,
}

impl<'a> Job<'a> {
    fn new(
        reader: &'a dyn ShardReader,
        out: &'a Path,
        options: &'a ConvertOptions,
    ) -> Result<Self, FormatError> {
        let refuse = |what: &str| FormatError::new(out, FormatErrorKind::Layout(what.to_owned()));
        if options.images == Profile::Train || options.video == Profile::Train {
            return Err(refuse("the train profile is not supported yet: use keep"));
        }
        let (mut videos, mut pictures, mut sizes) = (0, 0, Vec::with_capacity(reader.len()));
        for n in 0..reader.len() {
            let record = reader.record(n);
            if record.kind == MediaKind::Video {
                videos += 1
            } else {
                pictures += 1
            }
            sizes.push(size_of_payload(&record));
        }
        if videos > 0 && pictures > 0 {
            let what =
                format!("{pictures} pictures and {videos} videos are mixed: convert them apart");
            return Err(refuse(&what));
        }
        let kind = if videos > 0 { MediaKind::Video } else { MediaKind::Image };
        let schema = Arc::new(schema(kind, reader.classes()));
        let listing: Vec<(String, u64)> =
            sizes.iter().enumerate().map(|(n, s)| (reader.record(n).name, *s)).collect();
        let listing = serde_json::to_string(&listing).unwrap_or_default();
        let settings = format!(
            "{:016x}-{}-{}-{}",
            xxh3_64(listing.as_bytes()),
            options.shard_size,
            options.split,
            env!("CARGO_PKG_VERSION")
        );
        let shards = cut(&sizes, options.shard_size);
        Ok(Self { reader, out, options, kind, schema, shards, settings })
    }

    /// Writes the shards `mine`, those that are done already excepted.
    fn run(
        &self,
        mine: &[usize],
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<(), FormatError> {
        let total = mine.iter().map(|n| self.shards[*n].len()).sum();
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.options.workers.clamp(1, mine.len().max(1)) {
                scope.spawn(|| {
                    let mut decoder = decoder();
                    while let Some(n) = mine.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let tick = &|| progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
                        if let Err(error) = self.shard(*n, decoder.as_mut(), tick) {
                            failure
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .get_or_insert(error);
                            next.store(mine.len(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn file_name(&self, n: usize) -> String {
        format!("{}-{n:05}-of-{:05}.parquet", self.options.split, self.shards.len())
    }

    fn record_path(&self, n: usize) -> PathBuf {
        self.out.join(RECORDS).join(format!("{}.json", self.file_name(n)))
    }

    /// The done-record of shard `n`, if the shard is there and was made with these settings.
    fn finished(&self, n: usize) -> Option<ShardRecord> {
        let text = std::fs::read(self.record_path(n)).ok()?;
        let record: ShardRecord = serde_json::from_slice(&text).ok()?;
        let size = std::fs::metadata(self.out.join(&record.file)).ok()?.len();
        (record.settings == self.settings && record.bytes == size).then_some(record)
    }

    fn shard(
        &self,
        n: usize,
        decoder: &mut dyn Decoder,
        tick: &dyn Fn(),
    ) -> Result<(), FormatError> {
        if self.finished(n).is_some() {
            self.shards[n].clone().for_each(|_| tick());
            return Ok(());
        }
        let file = self.file_name(n);
        let path = self.out.join(&file);
        let temporary = self.out.join(format!("{file}.tmp"));
        let mut record = ShardRecord {
            file,
            rows: 0,
            bytes: 0,
            xxh3: String::new(),
            settings: self.settings.clone(),
            classes: BTreeMap::new(),
            drops: Vec::new(),
        };
        let sink = HashingFile::create(&temporary)?;
        let mut writer =
            ArrowWriter::try_new(sink, Arc::clone(&self.schema), Some(self.properties()))
                .map_err(|e| parquet_error(&temporary, &e))?;
        let mut buf = Vec::new();
        for index in self.shards[n].clone() {
            self.sample(index, decoder, &mut buf, &mut writer, &mut record)?;
            if writer.in_progress_size() >= GROUP_BYTES {
                writer.flush().map_err(|e| parquet_error(&temporary, &e))?;
            }
            tick();
        }
        let sink = writer.into_inner().map_err(|e| parquet_error(&temporary, &e))?;
        (record.bytes, record.xxh3) = sink.finish()?;
        std::fs::rename(&temporary, &path).map_err(|e| FormatError::new(&path, e))?;
        write_atomically(&self.record_path(n), &to_json(&record))
    }

    /// Adds one sample to a shard, or to its drops.
    fn sample(
        &self,
        index: usize,
        decoder: &mut dyn Decoder,
        buf: &mut Vec<u8>,
        writer: &mut ArrowWriter<HashingFile>,
        record: &mut ShardRecord,
    ) -> Result<(), FormatError> {
        let sample = self.reader.record(index);
        let read = self.reader.read(&sample, buf).map_err(|e| e.kind.to_string());
        let checked = read.and_then(|bytes| Ok((bytes, self.facts(&sample, bytes, decoder)?)));
        let (bytes, info) = match checked {
            Ok(checked) => checked,
            Err(why) if self.options.on_error == OnBroken::Skip => {
                record.drops.push(Dropped { name: sample.name, why });
                return Ok(());
            }
            Err(why) => return Err(FormatError::malformed(&sample.name, why)),
        };
        let batch = self.row(&sample, bytes, &info).map_err(|e| parquet_error(self.out, &e))?;
        writer.write(&batch).map_err(|e| parquet_error(self.out, &e))?;
        record.rows += 1;
        if let Some(label) = sample.label {
            *record.classes.entry(label).or_default() += 1;
        }
        Ok(())
    }

    /// The media facts of a sample, scanned from its bytes whatever an index says.
    fn facts(
        &self,
        sample: &Record,
        bytes: &[u8],
        decoder: &mut dyn Decoder,
    ) -> Result<MediaInfo, String> {
        let info = decoder.probe(bytes).map_err(|e| e.to_string())?;
        let video = sniff(bytes) == Some(MediaKind::Video);
        if video != (self.kind == MediaKind::Video) {
            let what = if video { "a video among pictures" } else { "a picture among videos" };
            return Err(format!("{} is {what}", sample.name));
        }
        Ok(info)
    }

    fn row(
        &self,
        sample: &Record,
        bytes: &[u8],
        info: &MediaInfo,
    ) -> Result<RecordBatch, arrow_schema::ArrowError> {
        let payload: ArrayRef = Arc::new(BinaryArray::from_vec(vec![bytes]));
        let path: ArrayRef = Arc::new(StringArray::from(vec![sample.name.as_str()]));
        let media = StructArray::try_new(media_fields(), vec![payload, path], None)?;
        let label = sample.label.map_or(-1, i64::from);
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(media), Arc::new(Int64Array::from(vec![label]))];
        columns.extend(info_columns(&[info]).into_iter().map(|(_, column)| column));
        columns.push(Arc::new(StringArray::from(vec![format!("{:016x}", xxh3_64(bytes))])));
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }

    /// One payload a page, plain and uncompressed, so that readers can lend it from a map.
    fn properties(&self) -> WriterProperties {
        let payload = ColumnPath::from(vec![column_name(self.kind).to_owned(), "bytes".to_owned()]);
        WriterProperties::builder()
            .set_created_by(format!("tubelet {}", env!("CARGO_PKG_VERSION")))
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .set_data_page_row_count_limit(1)
            .set_write_batch_size(1)
            .set_max_row_group_row_count(Some(1 << 20))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_column_statistics_enabled(payload, EnabledStatistics::None)
            .build()
    }

    /// Adds up the done-records and writes the manifest when none is absent.
    fn finish(&self, source: &str, missing: &[String]) -> Result<ConvertReport, FormatError> {
        let records: Vec<ShardRecord> =
            (0..self.shards.len()).filter_map(|n| self.finished(n)).collect();
        let mut report = ConvertReport {
            listed: self.reader.len() + missing.len(),
            missing: missing.len(),
            shards: records.len(),
            complete: records.len() == self.shards.len(),
            ..ConvertReport::default()
        };
        let mut classes = BTreeMap::<u32, u64>::new();
        for record in &records {
            report.written += record.rows;
            report.bytes += record.bytes;
            report.drops.extend(record.drops.iter().cloned());
            for (class, count) in &record.classes {
                *classes.entry(*class).or_default() += count;
            }
        }
        if report.complete {
            let manifest = self.manifest(source, missing, &records, &report, &classes);
            write_atomically(&self.out.join("manifest.json"), &manifest)?;
        }
        Ok(report)
    }

    fn manifest(
        &self,
        source: &str,
        missing: &[String],
        records: &[ShardRecord],
        report: &ConvertReport,
        classes: &BTreeMap<u32, u64>,
    ) -> String {
        let names = self.reader.classes();
        let histogram: Vec<_> = classes
            .iter()
            .map(|(id, count)| json!({"label": id, "name": names.get(*id as usize), "samples": count}))
            .collect();
        let shards: Vec<_> = records
            .iter()
            .map(|r| json!({"file": r.file, "rows": r.rows, "bytes": r.bytes, "xxh3": r.xxh3}))
            .collect();
        to_json(&json!({
            "tool": format!("tubelet {}", env!("CARGO_PKG_VERSION")),
            "source": source,
            "settings": {
                "split": self.options.split, "shard_size": self.options.shard_size,
                "images": self.options.images, "video": self.options.video,
            },
            "counts": {
                "listed": report.listed, "written": report.written,
                "missing": report.missing, "broken": report.drops.len(),
            },
            "shards": shards,
            "classes": histogram,
            "missing": missing,
            "drops": report.drops,
        }))
    }
}

/// Consecutive samples of about `limit` bytes together, at least one each.
fn cut(sizes: &[u64], limit: u64) -> Vec<std::ops::Range<usize>> {
    let (mut shards, mut start, mut bytes) = (Vec::new(), 0, 0u64);
    for (n, size) in sizes.iter().enumerate() {
        if n > start && bytes + size > limit {
            shards.push(start..n);
            (start, bytes) = (n, 0);
        }
        bytes += size;
    }
    if start < sizes.len() {
        shards.push(start..sizes.len());
    }
    shards
}

fn size_of_payload(record: &Record) -> u64 {
    match &record.span {
        Span::File(path) => std::fs::metadata(path).map_or(0, |m| m.len()),
        Span::Range { bytes, .. } => bytes.end - bytes.start,
        Span::Cell { .. } => 1 << 17,
    }
}

fn column_name(kind: MediaKind) -> &'static str {
    if kind == MediaKind::Video { "video" } else { "image" }
}

fn media_fields() -> Fields {
    Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ])
}

/// The shards' schema, with the metadata by which Hugging Face's `datasets` shows media and classes.
fn schema(kind: MediaKind, classes: &[String]) -> Schema {
    let column = column_name(kind);
    let media = if kind == MediaKind::Video { "Video" } else { "Image" };
    let value = |dtype: &str| json!({"dtype": dtype, "_type": "Value"});
    let label = match classes.is_empty() {
        true => value("int64"),
        false => json!({"names": classes, "_type": "ClassLabel"}),
    };
    let features = json!({
        column: {"_type": media},
        "label": label,
        "width": value("int32"), "height": value("int32"), "frames": value("int32"),
        "fps": value("float64"), "codec": value("string"), "rotation": value("int32"),
        "keyframes": {"feature": value("int32"), "_type": "List"},
        "xxh3": value("string"),
    });
    let mut fields = vec![
        Field::new(column, DataType::Struct(media_fields()), true),
        Field::new("label", DataType::Int64, true),
    ];
    for (name, array) in info_columns(&[]) {
        fields.push(Field::new(name, array.data_type().clone(), true));
    }
    fields.push(Field::new("xxh3", DataType::Utf8, true));
    let text = json!({"info": {"features": features}}).to_string();
    let metadata = std::collections::HashMap::from([("huggingface".to_owned(), text)]);
    Schema::new(fields).with_metadata(metadata)
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn write_atomically(path: &Path, text: &str) -> Result<(), FormatError> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|e| FormatError::new(path, e))
}

/// A file that hashes what is written to it.
struct HashingFile {
    path: PathBuf,
    file: std::io::BufWriter<std::fs::File>,
    hash: Xxh3,
    bytes: u64,
}

impl HashingFile {
    fn create(path: &Path) -> Result<Self, FormatError> {
        let file = std::fs::File::create(path).map_err(|e| FormatError::new(path, e))?;
        let file = std::io::BufWriter::new(file);
        Ok(Self { path: path.to_owned(), file, hash: Xxh3::new(), bytes: 0 })
    }

    /// Makes sure that everything is on disk; returns size and hash.
    fn finish(mut self) -> Result<(u64, String), FormatError> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|e| FormatError::new(&self.path, e))?;
        Ok((self.bytes, format!("{:016x}", self.hash.digest())))
    }
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_cut_by_size_and_never_empty() {
        assert_eq!(cut(&[5, 5, 5, 20, 1], 10), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(cut(&[], 10), []);
    }
}
