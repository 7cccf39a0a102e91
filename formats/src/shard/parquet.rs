//! Parquet shards, read through a memory map or from an object store.
//!
//! Shards that `convert` wrote hold one payload a data page, uncompressed and plain: the footer's
//! offset index then gives the exact bytes of every payload, which are lent from the map without a
//! copy, or fetched as one range. Other Parquet files (Hugging Face's, compressed, many rows a page)
//! go through the Parquet library, one row at a time.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch, StructArray};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use parquet::basic::Compression;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use tubelet_core::SampleId;

use super::has_hash;
use super::remote::{self, Data};
use crate::dataset::{check_whole, files_of_split};
use crate::error::{FormatError, FormatErrorKind};
use crate::facts::{guarded, info_from_columns, parquet_error};
use crate::index::{in_parallel, side_path, stamp};
use crate::record::{MediaKind, Record, ShardReader, Span, bytes_of};
use crate::shard::map;
use crate::shard::rows::{self, Row, Rows, ShardFacts, Stored};
use crate::store::{AT_ONCE, Object};

/// Columns that may hold payloads, and what they hold.
const PAYLOADS: [(&str, MediaKind); 2] = [("image", MediaKind::Image), ("video", MediaKind::Video)];

/// Beginning of the names of columns with further, smaller encodings; their shorter side follows.
pub(crate) const LEVELS: &str = "image_px";

/// The column of the hashes of the encodings of shorter side `side`.
pub(crate) fn level_hash(side: u32) -> String {
    format!("{LEVELS}{side}_xxh3")
}

/// One or more Parquet files as a data set.
pub struct ParquetReader {
    shards: Vec<Shard>,
    /// Number of the first sample of each shard, and of all samples at the end.
    starts: Vec<usize>,
    rows: Rows,
    classes: Vec<String>,
    sides: Vec<u32>,
}

/// One file.
struct Shard {
    path: PathBuf,
    kind: MediaKind,
    source: Source,
    /// Looked into when a payload is first read whose place is not known.
    file: OnceLock<File>,
}

/// Where a file is.
enum Source {
    /// On a local disk, mapped when it is first read from.
    Local(OnceLock<Bytes>),
    /// In an object store.
    Remote(Arc<Object>),
}

/// A file that was looked into: its metadata are large, so that lent payloads do without them.
struct File {
    data: Data,
    metadata: ArrowReaderMetadata,
    leaf: usize,
    kind: MediaKind,
    /// Bytes of a payload, decompressed, as the columns' sizes tell on average.
    mean_payload: u64,
    /// Columns of smaller encodings by their shorter sides.
    levels: Vec<(u32, usize)>,
}

/// Fewest shards whose facts are stored: less open fast as they are.
const MANY: usize = 16;

impl ParquetReader {
    /// Opens a Parquet file, or the files of `split` in a folder (or its `data` folder): those whose
    /// name starts with the split's, or all where none is called after a split. What many files of a folder hold is
    /// stored in its `.tubelet` folder; the files are then looked into when they are first read from.
    ///
    /// # Errors
    /// When there is no such file, one is damaged, or one that the names of others or a manifest count
    /// is not there; the error names it.
    pub fn open(path: &Path, split: &str) -> Result<Self, FormatError> {
        if path.is_file() {
            return Self::look_into(&[path.to_owned()]).map(|(reader, _)| reader);
        }
        let files = shard_files(path, split)?;
        check_whole(path, &files)?;
        if files.len() < MANY {
            return Self::look_into(&files).map(|(reader, _)| reader);
        }
        let stored = side_path(path, &format!("rows-{split}.bin"));
        if let Some(known) = rows::load(&stored).filter(|known| known.is_of(&files)) {
            return Ok(Self::known(local(&files), known));
        }
        let (reader, facts) = Self::look_into(&files)?;
        if let Err(error) = rows::store(&stored, &facts, &reader.classes, &reader.rows) {
            tracing::debug!("not stored: {error}");
        }
        Ok(reader)
    }

    /// Opens shards of an object store. What each holds is stored in the user's cache folder, so that
    /// the next run opens it without a request.
    ///
    /// # Errors
    /// When one cannot be read or is damaged; the error names it.
    pub(crate) fn of_objects(objects: Vec<Object>) -> Result<Self, FormatError> {
        let objects: Vec<Arc<Object>> = objects.into_iter().map(Arc::new).collect();
        let found = in_parallel(objects.len(), AT_ONCE, &|_, _| (), || {
            |n: usize| {
                let url = PathBuf::from(objects[n].url());
                guarded(&url, || remote::stored_or(&objects[n], |data| contents(&url, data)))
            }
        });
        let known = Stored::joined(found)?;
        let sources = objects.iter().map(|o| (o.url().into(), Source::Remote(Arc::clone(o))));
        Ok(Self::known(sources.collect(), known))
    }

    /// Reads what the files hold, several at a time.
    fn look_into(files: &[PathBuf]) -> Result<(Self, Vec<ShardFacts>), FormatError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let found = in_parallel(files.len(), threads, &|_, _| {}, || {
            |n: usize| {
                let path = &files[n];
                let (bytes, time) = stamp(path);
                let (rows, kind, classes) =
                    guarded(path, || contents(path, Data::Map(map_of(path)?)))?;
                let (file, count) = (name_of(path), rows.len());
                let shards = vec![ShardFacts { file, bytes, time, rows: count, kind }];
                Ok(Stored { shards, classes, rows })
            }
        });
        let known = Stored::joined(found)?;
        let facts = known.shards.clone();
        Ok((Self::known(local(files), known), facts))
    }

    /// Files whose rows are known.
    fn known(sources: Vec<(PathBuf, Source)>, known: Stored) -> Self {
        let shard = |((path, source), facts): ((PathBuf, Source), &ShardFacts)| Shard {
            path,
            kind: facts.kind,
            source,
            file: OnceLock::new(),
        };
        let mut starts = vec![0];
        for facts in &known.shards {
            starts.push(starts[starts.len() - 1] + facts.rows);
        }
        let shards = sources.into_iter().zip(&known.shards).map(shard).collect();
        let Stored { classes, rows, .. } = known;
        Self { shards, starts, sides: rows.sides(), rows, classes }
    }

    /// Shard and row of sample `index`.
    fn locate(&self, index: usize) -> (usize, usize) {
        let shard = self.starts.partition_point(|start| *start <= index) - 1;
        (shard, index - self.starts[shard])
    }
}

impl Stored {
    /// What several shards hold together, in their order; the first error there is.
    fn joined(found: Vec<Result<Self, FormatError>>) -> Result<Self, FormatError> {
        let (mut shards, mut classes, mut rows) = (Vec::new(), Vec::new(), Rows::default());
        for one in found {
            let one = one?;
            rows.append(&one.rows);
            shards.extend(one.shards);
            if classes.is_empty() {
                classes = one.classes;
            }
        }
        rows.shrink();
        Ok(Self { shards, classes, rows })
    }

    /// Whether it is about these files as they are now.
    fn is_of(&self, files: &[PathBuf]) -> bool {
        let same = |(path, known): (&PathBuf, &ShardFacts)| {
            name_of(path) == known.file && stamp(path) == (known.bytes, known.time)
        };
        files.len() == self.shards.len() && files.iter().zip(&self.shards).all(same)
    }
}

/// What the file at `path` holds.
fn contents(path: &Path, data: Data) -> Result<(Rows, MediaKind, Vec<String>), FormatError> {
    let file = File::new(path, data)?;
    Ok((file.read_facts(path)?, file.kind, file.classes()))
}

fn local(files: &[PathBuf]) -> Vec<(PathBuf, Source)> {
    files.iter().map(|path| (path.clone(), Source::Local(OnceLock::new()))).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl ShardReader for ParquetReader {
    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    fn record(&self, index: usize) -> Record {
        let (shard, row) = self.locate(index);
        let span = match self.rows.payload(index) {
            Some(bytes) => Span::Range { shard: shard as u32, bytes },
            None => Span::Cell { shard: shard as u32, row: row as u64 },
        };
        Record {
            id: SampleId(index as u64),
            label: self.rows.label(index),
            kind: self.shards[shard].kind,
            info: self.rows.facts.get(index),
            name: self.rows.names.get(index),
            span,
        }
    }

    fn read<'a>(&'a self, record: &Record, buf: &'a mut Vec<u8>) -> Result<&'a [u8], FormatError> {
        let index = record.id.0 as usize;
        let (shard, row) = self.locate(index);
        let at = |e: FormatError| e.sample(&format!("row {row} ({})", record.name));
        let shard = &self.shards[shard];
        match &record.span {
            Span::Range { bytes, .. } => shard.lend(bytes, self.rows.hash(index), buf).map_err(at),
            _ => {
                let file = shard.file().map_err(at)?;
                let found = file.decode_row(&shard.path, row, file.leaf, buf).map_err(at)?;
                let none = || FormatError::malformed(&shard.path, "the row has no bytes");
                if found { Ok(buf) } else { Err(at(none())) }
            }
        }
    }

    fn stored_hash(&self, index: usize) -> Option<u64> {
        self.rows.hash(index)
    }

    fn source_bytes(&self, record: &Record) -> u64 {
        let Span::Cell { .. } = record.span else { return bytes_of(&record.span) };
        let shard = &self.shards[self.locate(record.id.0 as usize).0];
        shard.file().map_or_else(|_| bytes_of(&record.span), |file| file.mean_payload)
    }

    fn stored_level_hash(&self, index: usize, side: u32) -> Option<u64> {
        self.rows.level_hash(side, index)
    }

    fn level_sides(&self) -> &[u32] {
        &self.sides
    }

    fn read_level<'a>(
        &'a self,
        record: &Record,
        side: u32,
        buf: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, FormatError> {
        let index = record.id.0 as usize;
        let (shard, row) = self.locate(index);
        let shard = &self.shards[shard];
        let at = |e: FormatError| e.sample(&format!("row {row} ({}), {LEVELS}{side}", record.name));
        match self.rows.level(side, index) {
            Some(bytes) if bytes.is_empty() => Ok(None),
            Some(bytes) => {
                let hash = self.rows.level_hash(side, index);
                shard.lend(&bytes, hash, buf).map(Some).map_err(at)
            }
            None => {
                let file = shard.file().map_err(at)?;
                let level = file.levels.iter().find(|(s, _)| *s == side);
                let Some((_, leaf)) = level else { return Ok(None) };
                let found = file.decode_row(&shard.path, row, *leaf, buf);
                Ok(found.map_err(at)?.then_some(&buf[..]))
            }
        }
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

impl Shard {
    /// The file, opened if it is not.
    fn file(&self) -> Result<&File, FormatError> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = guarded(&self.path, || {
            let data = match &self.source {
                Source::Local(map) => Data::Map(self.map(map)?.clone()),
                Source::Remote(object) => Data::with_tail(object)?,
            };
            File::new(&self.path, data).map(File::bare)
        })?;
        Ok(self.file.get_or_init(|| file))
    }

    fn map<'a>(&self, known: &'a OnceLock<Bytes>) -> Result<&'a Bytes, FormatError> {
        if let Some(map) = known.get() {
            return Ok(map);
        }
        let map = map_of(&self.path)?;
        Ok(known.get_or_init(|| map))
    }

    /// The payload at `bytes`, checked against the length stored before it; one from a store also
    /// against `hash`, where there is one.
    fn lend<'a>(
        &'a self,
        bytes: &Range<u64>,
        hash: Option<u64>,
        buf: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], FormatError> {
        let damaged = || FormatError::malformed(&self.path, UNFIT);
        let with_length = bytes.start.checked_sub(4).ok_or_else(damaged)?..bytes.end;
        let piece = match &self.source {
            Source::Local(map) => {
                let range = with_length.start as usize..with_length.end as usize;
                self.map(map)?.get(range).ok_or_else(damaged)?
            }
            Source::Remote(object) => {
                let hash = hash.filter(|hash| *hash != rows::NO_HASH);
                let check = |bytes: &[u8]| match payload_after_length(bytes) {
                    Some(payload) => has_hash(payload, hash),
                    None => Err(UNFIT.to_owned()),
                };
                object.read(with_length, &check, buf)?
            }
        };
        payload_after_length(piece).ok_or_else(damaged)
    }
}

/// What is wrong with a payload of another length than the one before it.
const UNFIT: &str = "the payload's length does not fit its page";

/// What follows the length that it begins with, if that fits.
fn payload_after_length(bytes: &[u8]) -> Option<&[u8]> {
    let (length, payload) = bytes.split_first_chunk::<4>()?;
    (*length == (payload.len() as u32).to_le_bytes()).then_some(payload)
}

/// The bytes of a file.
fn map_of(path: &Path) -> Result<Bytes, FormatError> {
    Ok(Bytes::from_owner(map(path)?))
}

/// See [`File`].
fn mean_payload(metadata: &ParquetMetaData, leaf: usize) -> u64 {
    let groups = metadata.row_groups();
    let bytes: i64 = groups.iter().map(|g| g.column(leaf).uncompressed_size()).sum();
    let rows: i64 = groups.iter().map(|g| g.num_rows()).sum();
    u64::try_from(bytes / rows.max(1)).unwrap_or(0)
}

impl File {
    fn new(path: &Path, data: Data) -> Result<Self, FormatError> {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata =
            ArrowReaderMetadata::load(&data, options).map_err(|e| parquet_error(path, &e))?;
        let (leaf, kind) = payload_leaf(metadata.metadata()).ok_or_else(|| {
            FormatError::malformed(path, "no `image` or `video` column with bytes in it")
        })?;
        let levels = level_leaves(metadata.metadata());
        let mean_payload = mean_payload(metadata.metadata(), leaf);
        Ok(Self { data, metadata, leaf, kind, mean_payload, levels })
    }

    /// The same without what was fetched to look into it.
    fn bare(self) -> Self {
        Self { data: self.data.bare(), ..self }
    }

    /// The bytes of every payload of a column where the file tells them without reading pages.
    fn payload_ranges(&self, leaf: usize) -> Option<Vec<Range<u64>>> {
        let metadata = self.metadata.metadata();
        let mut ranges = Vec::new();
        for (n, group) in metadata.row_groups().iter().enumerate() {
            if group.column(leaf).compression() != Compression::UNCOMPRESSED {
                return None;
            }
            let index = metadata.page_index_for_row_group(n);
            let pages = index.offset_index(leaf)?;
            let lengths = pages.unencoded_byte_array_data_bytes()?;
            let locations = pages.page_locations();
            if locations.len() != group.num_rows() as usize || lengths.len() != locations.len() {
                return None;
            }
            for (page, length) in locations.iter().zip(lengths) {
                let end = u64::try_from(page.offset).ok()?
                    + u64::try_from(page.compressed_page_size).ok()?;
                ranges.push(end.checked_sub(u64::try_from(*length).ok()?)?..end);
            }
        }
        Some(ranges)
    }

    /// Everything but the payloads.
    fn read_facts(&self, path: &Path) -> Result<Rows, FormatError> {
        let schema = self.metadata.metadata().file_metadata().schema_descr();
        let is_payload = |leaf: usize| leaf == self.leaf || self.levels.iter().any(|l| l.1 == leaf);
        let others = (0..schema.num_columns()).filter(|leaf| !is_payload(*leaf));
        let data = self.data.with_columns(self.metadata.metadata(), &|leaf| !is_payload(leaf))?;
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(data, self.metadata.clone())
                .with_projection(ProjectionMask::leaves(schema, others))
                .with_batch_size(4096)
                .build()
                .map_err(|e| parquet_error(path, &e))?;
        let payloads = self.payload_ranges(self.leaf);
        let sides: Vec<u32> = self.levels.iter().map(|(side, _)| *side).collect();
        let hashes: Vec<String> = sides.iter().map(|side| level_hash(*side)).collect();
        let mut rows = Rows::new(&sides);
        for batch in reader {
            let batch = batch.map_err(|e| parquet_error(path, &e))?;
            for row in 0..batch.num_rows() {
                let n = rows.len();
                rows.push(&Row {
                    name: &name_at(path, &batch, row, n),
                    label: label_at(&batch, row),
                    info: info_from_columns(&batch, row).as_ref(),
                    hash: text_at(&batch, "xxh3", row),
                    payload: payloads.as_ref().and_then(|p| p.get(n)),
                });
                let hashes = hashes.iter().map(|column| text_at(&batch, column, row));
                rows.push_level_hashes(hashes);
            }
        }
        for (side, leaf) in &self.levels {
            rows.set_level(*side, self.payload_ranges(*leaf).as_deref());
        }
        let expected = self.metadata.metadata().file_metadata().num_rows();
        if rows.len() as i64 != expected {
            let what = format!("{} rows can be read, the footer says {expected}", rows.len());
            return Err(FormatError::malformed(path, what));
        }
        Ok(rows)
    }

    /// The payload of `row` in the column `leaf`, through the Parquet library, into `buf`; false where
    /// it is null.
    fn decode_row(
        &self,
        path: &Path,
        row: usize,
        leaf: usize,
        buf: &mut Vec<u8>,
    ) -> Result<bool, FormatError> {
        guarded(path, || self.decode_row_unguarded(path, row, leaf, buf))
    }

    fn decode_row_unguarded(
        &self,
        path: &Path,
        row: usize,
        leaf: usize,
        buf: &mut Vec<u8>,
    ) -> Result<bool, FormatError> {
        let metadata = self.metadata.metadata();
        let (mut group, mut inside) = (0, row);
        while let Some(rows) = metadata.row_groups().get(group).map(|g| g.num_rows() as usize) {
            if inside < rows {
                break;
            }
            inside -= rows;
            group += 1;
        }
        let schema = metadata.file_metadata().schema_descr();
        let selection = RowSelection::from(vec![RowSelector::skip(inside), RowSelector::select(1)]);
        let mut reader = ParquetRecordBatchReaderBuilder::new_with_metadata(
            self.data.clone(),
            self.metadata.clone(),
        )
        .with_row_groups(vec![group])
        .with_projection(ProjectionMask::leaves(schema, [leaf]))
        .with_row_selection(selection)
        .build()
        .map_err(|e| parquet_error(path, &e))?;
        let batch = match reader.next() {
            Some(batch) => batch.map_err(|e| parquet_error(path, &e))?,
            None => return Err(FormatError::malformed(path, "the row is not there")),
        };
        buf.clear();
        let payload = payload_value(&batch);
        buf.extend_from_slice(payload.unwrap_or_default());
        Ok(payload.is_some())
    }

    /// Class names from Hugging Face's schema metadata.
    fn classes(&self) -> Vec<String> {
        let names = || -> Option<Vec<String>> {
            let text = self.metadata.schema().metadata().get("huggingface")?;
            let json: serde_json::Value = serde_json::from_str(text).ok()?;
            let names = json.pointer("/info/features/label/names")?.as_array()?;
            names.iter().map(|n| n.as_str().map(str::to_owned)).collect()
        };
        names().unwrap_or_default()
    }
}

fn name_at(path: &Path, batch: &RecordBatch, row: usize, n: usize) -> String {
    let paths = PAYLOADS.iter().find_map(|(column, _)| {
        let group: &StructArray = batch.column_by_name(column)?.as_struct_opt()?;
        let paths = group.column_by_name("path")?.as_string_opt::<i32>()?;
        paths.is_valid(row).then(|| paths.value(row).to_owned())
    });
    paths.unwrap_or_else(|| format!("{}#{n}", name_of(path)))
}

/// Whether this is a Parquet file and no manifest.
pub(crate) fn is_shard(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "parquet")
        && path.file_name().is_some_and(|n| n != crate::convert::MANIFEST_TABLE)
}

/// The shards of `split`: see [`ParquetReader::open`].
pub(crate) fn shard_files(folder: &Path, split: &str) -> Result<Vec<PathBuf>, FormatError> {
    let io = |e: std::io::Error| FormatError::new(folder, e);
    let list = |folder: &Path| -> std::io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if is_shard(&path) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    };
    let mut files = list(folder).map_err(io)?;
    if files.is_empty() && folder.join("data").is_dir() {
        files = list(&folder.join("data")).map_err(io)?;
    }
    let files = files_of_split(folder, files, split)?;
    if files.is_empty() {
        let what = "no .parquet file in it".to_owned();
        return Err(FormatError::new(folder, FormatErrorKind::Layout(what)));
    }
    Ok(files)
}

/// The leaf column that holds payloads: `image.bytes`, `video.bytes`, or a binary `image` or `video`.
fn payload_leaf(metadata: &ParquetMetaData) -> Option<(usize, MediaKind)> {
    let schema = metadata.file_metadata().schema_descr();
    PAYLOADS.into_iter().find_map(|(column, kind)| {
        let wanted = [column.to_owned(), format!("{column}.bytes")];
        let leaf = (0..schema.num_columns()).find(|leaf| {
            let descriptor = schema.column(*leaf);
            wanted.contains(&descriptor.path().string())
                && descriptor.physical_type() == parquet::basic::Type::BYTE_ARRAY
        })?;
        Some((leaf, kind))
    })
}

/// The leaf columns of smaller encodings by their shorter sides, ascending.
fn level_leaves(metadata: &ParquetMetaData) -> Vec<(u32, usize)> {
    let schema = metadata.file_metadata().schema_descr();
    let side = |leaf: usize| -> Option<u32> {
        let path = schema.column(leaf).path().string();
        path.strip_prefix(LEVELS)?.strip_suffix(".bytes")?.parse().ok()
    };
    let mut levels: Vec<(u32, usize)> =
        (0..schema.num_columns()).filter_map(|leaf| Some((side(leaf)?, leaf))).collect();
    levels.sort_unstable();
    levels
}

fn payload_value(batch: &RecordBatch) -> Option<&[u8]> {
    let column = batch.columns().first()?;
    let inner = match column.as_struct_opt() {
        Some(group) => group.columns().first()?,
        None => column,
    };
    if batch.num_rows() == 0 || inner.is_null(0) {
        return None;
    }
    inner
        .as_binary_opt::<i32>()
        .map(|a| a.value(0))
        .or_else(|| inner.as_binary_opt::<i64>().map(|a| a.value(0)))
        .or_else(|| inner.as_binary_view_opt().map(|a| a.value(0)))
}

fn label_at(batch: &RecordBatch, row: usize) -> Option<u32> {
    let column = batch.column_by_name("label").or_else(|| batch.column_by_name("labels"))?;
    if column.is_null(row) {
        return None;
    }
    let value = column
        .as_primitive_opt::<Int64Type>()
        .map(|a| a.value(row))
        .or_else(|| column.as_primitive_opt::<Int32Type>().map(|a| i64::from(a.value(row))))?;
    u32::try_from(value).ok()
}

fn text_at<'a>(batch: &'a RecordBatch, name: &str, row: usize) -> Option<&'a str> {
    let column = batch.column_by_name(name)?.as_string_opt::<i32>()?;
    column.is_valid(row).then(|| column.value(row))
}

#[cfg(all(test, feature = "video"))]
mod tests;
