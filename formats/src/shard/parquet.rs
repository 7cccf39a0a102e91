//! Parquet shards, read through a memory map or from an object store.
//!
//! Shards that `convert` wrote hold one payload a data page, uncompressed and plain: the footer's
//! offset index then gives the exact bytes of every payload, which are lent from the map without a
//! copy, or fetched as one range. Other Parquet files (Hugging Face's, compressed, many rows a page) go through the Parquet
//! library, one row at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

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
use tubelet_core::{MediaInfo, SampleId};

use super::has_hash;
use super::remote::{self, Data};
use crate::error::{FormatError, FormatErrorKind};
use crate::facts::{guarded, info_from_columns, parquet_error};
use crate::index::in_parallel;
use crate::record::{MediaKind, Record, ShardReader, Span};
use crate::store::{AT_ONCE, Object};

/// Columns that may hold payloads, and what they hold.
const PAYLOADS: [(&str, MediaKind); 2] = [("image", MediaKind::Image), ("video", MediaKind::Video)];

/// One or more Parquet files as a data set.
pub struct ParquetReader {
    shards: Vec<Shard>,
    /// Number of the first sample of each shard, and of all samples at the end.
    starts: Vec<usize>,
    classes: Vec<String>,
}

/// One file.
struct Shard {
    path: PathBuf,
    data: Data,
    /// The footer; absent where all that is needed of it was stored.
    footer: Option<Footer>,
    stored: Stored,
}

struct Footer {
    metadata: ArrowReaderMetadata,
    /// The column that holds payloads.
    leaf: usize,
}

/// All that is known of a shard without its payloads.
pub(super) struct Stored {
    pub(super) kind: MediaKind,
    pub(super) classes: Vec<String>,
    pub(super) rows: Vec<Row>,
}

/// What is known of a row without its payload.
pub(super) struct Row {
    pub(super) payload: Option<std::ops::Range<u64>>,
    pub(super) label: Option<u32>,
    pub(super) name: String,
    pub(super) info: Option<Arc<MediaInfo>>,
    pub(super) checksum: Option<String>,
}

impl ParquetReader {
    /// Opens a Parquet file, or the files of `split` in a folder (or its `data` folder): those whose
    /// name starts with the split's, or all where none does.
    ///
    /// # Errors
    /// When there is no such file or one is damaged; the error names it.
    pub fn open(path: &Path, split: &str) -> Result<Self, FormatError> {
        let files = if path.is_file() { vec![path.to_owned()] } else { shard_files(path, split)? };
        let open = |p: &PathBuf| guarded(p, || Shard::open(p));
        Ok(Self::of_shards(files.iter().map(open).collect::<Result<Vec<_>, _>>()?))
    }

    /// Opens shards of an object store.
    ///
    /// # Errors
    /// When one cannot be read or is damaged; the error names it.
    pub(crate) fn of_objects(objects: Vec<Object>) -> Result<Self, FormatError> {
        let objects: Vec<Arc<Object>> = objects.into_iter().map(Arc::new).collect();
        let shards = in_parallel(objects.len(), AT_ONCE, &|_, _| (), || {
            |n| {
                let url = PathBuf::from(objects[n].url());
                guarded(&url, || Shard::of_object(&objects[n]))
            }
        });
        Ok(Self::of_shards(shards.into_iter().collect::<Result<Vec<_>, _>>()?))
    }

    fn of_shards(shards: Vec<Shard>) -> Self {
        let mut starts = vec![0];
        for shard in &shards {
            starts.push(starts[starts.len() - 1] + shard.stored.rows.len());
        }
        let classes = shards.iter().map(|s| &s.stored.classes).find(|c| !c.is_empty());
        let classes = classes.cloned().unwrap_or_default();
        Self { shards, starts, classes }
    }

    /// The checksum that row `index` was stored with.
    pub fn checksum(&self, index: usize) -> Option<&str> {
        let (shard, row) = self.locate(index);
        self.shards[shard].stored.rows[row].checksum.as_deref()
    }

    /// Shard and row of sample `index`.
    fn locate(&self, index: usize) -> (usize, usize) {
        let shard = self.starts.partition_point(|start| *start <= index) - 1;
        (shard, index - self.starts[shard])
    }
}

impl ShardReader for ParquetReader {
    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    fn record(&self, index: usize) -> Record {
        let (shard, row) = self.locate(index);
        let entry = &self.shards[shard].stored.rows[row];
        let span = match &entry.payload {
            Some(bytes) => Span::Range { shard: shard as u32, bytes: bytes.clone() },
            None => Span::Cell { shard: shard as u32, row: row as u64 },
        };
        Record {
            id: SampleId(index as u64),
            label: entry.label,
            kind: self.shards[shard].stored.kind,
            info: entry.info.clone(),
            name: entry.name.clone(),
            span,
        }
    }

    fn read<'a>(&'a self, record: &Record, buf: &'a mut Vec<u8>) -> Result<&'a [u8], FormatError> {
        let (shard, row) = self.locate(record.id.0 as usize);
        let at = |e: FormatError| e.sample(&format!("row {row} ({})", record.name));
        match &record.span {
            Span::Range { bytes, .. } => self.shards[shard].lend(row, bytes, buf).map_err(at),
            _ => {
                let shard = &self.shards[shard];
                guarded(&shard.path, || shard.decode_row(row, buf)).map_err(at)
            }
        }
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self, FormatError> {
        let io = |e: std::io::Error| FormatError::new(path, e);
        let file = std::fs::File::open(path).map_err(io)?;
        // SAFETY: the map is only read. A shard is written under another name and renamed when
        // complete, so it does not change while it is mapped; who truncates one in use breaks that
        // contract.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Self::with_data(path.to_owned(), Data::Map(Bytes::from_owner(map)))
    }

    fn of_object(object: &Arc<Object>) -> Result<Self, FormatError> {
        let path = PathBuf::from(object.url());
        if let Some(stored) = remote::stored(object) {
            let data = Data::Remote(Arc::clone(object), Arc::default());
            return Ok(Self { path, data, footer: None, stored });
        }
        let shard = Self::with_data(path, Data::with_tail(object)?)?;
        if shard.stored.rows.iter().all(|row| row.payload.is_some()) {
            remote::store(object, &shard.stored);
        }
        Ok(shard)
    }

    fn with_data(path: PathBuf, data: Data) -> Result<Self, FormatError> {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata =
            ArrowReaderMetadata::load(&data, options).map_err(|e| parquet_error(&path, &e))?;
        let (leaf, kind) = payload_leaf(metadata.metadata()).ok_or_else(|| {
            FormatError::malformed(&path, "no `image` or `video` column with bytes in it")
        })?;
        let footer = Footer { metadata, leaf };
        let facts = data.with_facts(footer.metadata.metadata(), leaf)?;
        let rows = footer.read_facts(&path, facts)?;
        let stored = Stored { kind, classes: footer.classes(), rows };
        Ok(Self { path, data: data.bare(), footer: Some(footer), stored })
    }

    /// The payload at `bytes`, checked against the length stored before it; one from a store also
    /// against the stored hash of its row.
    fn lend<'a>(
        &'a self,
        row: usize,
        bytes: &std::ops::Range<u64>,
        buf: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], FormatError> {
        let damaged =
            || FormatError::malformed(&self.path, "the payload's length does not fit its page");
        let before = bytes.start.checked_sub(4).ok_or_else(damaged)?;
        let map = match &self.data {
            Data::Map(map) => map,
            Data::Remote(object, _) => {
                let checksum = self.stored.rows[row].checksum.as_deref();
                let hash = checksum.and_then(|hex| u64::from_str_radix(hex, 16).ok());
                let check = |bytes: &[u8]| match payload_after_length(bytes) {
                    Some(payload) => has_hash(payload, hash),
                    None => Err("the payload's length does not fit its page".to_owned()),
                };
                let piece = object.read(before..bytes.end, &check, buf)?;
                return payload_after_length(piece).ok_or_else(damaged);
            }
        };
        let piece = map.get(before as usize..bytes.end as usize);
        piece.and_then(payload_after_length).ok_or_else(damaged)
    }

    /// The payload of `row` through the Parquet library.
    fn decode_row<'a>(&self, row: usize, buf: &'a mut Vec<u8>) -> Result<&'a [u8], FormatError> {
        let footer = self.footer.as_ref();
        let footer = footer.ok_or_else(|| FormatError::malformed(&self.path, "no footer"))?;
        let batch = footer.batch_of(&self.path, &self.data, row)?;
        let payload = payload_value(&batch)
            .ok_or_else(|| FormatError::malformed(&self.path, "the row has no bytes"))?;
        buf.clear();
        buf.extend_from_slice(payload);
        Ok(buf)
    }
}

/// What follows the length that it begins with, if that fits.
fn payload_after_length(bytes: &[u8]) -> Option<&[u8]> {
    let (length, payload) = bytes.split_first_chunk::<4>()?;
    (*length == (payload.len() as u32).to_le_bytes()).then_some(payload)
}

impl Footer {
    /// The bytes of every payload where the file tells them without reading pages.
    fn payload_ranges(&self) -> Option<Vec<std::ops::Range<u64>>> {
        let metadata = self.metadata.metadata();
        let mut ranges = Vec::new();
        for (n, group) in metadata.row_groups().iter().enumerate() {
            if group.column(self.leaf).compression() != Compression::UNCOMPRESSED {
                return None;
            }
            let index = metadata.page_index_for_row_group(n);
            let pages = index.offset_index(self.leaf)?;
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
    fn read_facts(&self, path: &Path, data: Data) -> Result<Vec<Row>, FormatError> {
        let payloads = self.payload_ranges();
        let schema = self.metadata.metadata().file_metadata().schema_descr();
        let others = (0..schema.num_columns()).filter(|leaf| *leaf != self.leaf);
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(data, self.metadata.clone())
                .with_projection(ProjectionMask::leaves(schema, others))
                .with_batch_size(4096)
                .build()
                .map_err(|e| parquet_error(path, &e))?;
        let mut rows = Vec::new();
        for batch in reader {
            let batch = batch.map_err(|e| parquet_error(path, &e))?;
            for row in 0..batch.num_rows() {
                let n = rows.len();
                rows.push(Row {
                    payload: payloads.as_ref().and_then(|p| p.get(n).cloned()),
                    label: label_at(&batch, row),
                    name: name_at(path, &batch, row, n),
                    info: info_from_columns(&batch, row).map(Arc::new),
                    checksum: text_at(&batch, "xxh3", row),
                });
            }
        }
        let expected = self.metadata.metadata().file_metadata().num_rows();
        if rows.len() as i64 != expected {
            let what = format!("{} rows can be read, the footer says {expected}", rows.len());
            return Err(FormatError::malformed(path, what));
        }
        Ok(rows)
    }

    /// The batch that holds `row` alone, its payload only.
    fn batch_of(&self, path: &Path, data: &Data, row: usize) -> Result<RecordBatch, FormatError> {
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
        let mut reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(data.clone(), self.metadata.clone())
                .with_row_groups(vec![group])
                .with_projection(ProjectionMask::leaves(schema, [self.leaf]))
                .with_row_selection(selection)
                .build()
                .map_err(|e| parquet_error(path, &e))?;
        match reader.next() {
            Some(batch) => batch.map_err(|e| parquet_error(path, &e)),
            None => Err(FormatError::malformed(path, "the row is not there")),
        }
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

/// The name of row `n` of the file, which is row `row` of `batch`.
fn name_at(path: &Path, batch: &RecordBatch, row: usize, n: usize) -> String {
    let paths = PAYLOADS.iter().find_map(|(column, _)| {
        let group: &StructArray = batch.column_by_name(column)?.as_struct_opt()?;
        let paths = group.column_by_name("path")?.as_string_opt::<i32>()?;
        paths.is_valid(row).then(|| paths.value(row).to_owned())
    });
    paths.unwrap_or_else(|| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        format!("{file}#{n}")
    })
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
    let files = files_of_split(files, split);
    if files.is_empty() {
        let what = "no .parquet file in it".to_owned();
        return Err(FormatError::new(folder, FormatErrorKind::Layout(what)));
    }
    Ok(files)
}

/// Of Parquet files, those whose name starts with the split's, or all where none does.
pub(crate) fn files_of_split(files: Vec<PathBuf>, split: &str) -> Vec<PathBuf> {
    let starts = |p: &&PathBuf| {
        p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{split}-")))
            || (split == "val"
                && p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("validation-")))
    };
    let named: Vec<PathBuf> = files.iter().filter(starts).cloned().collect();
    if named.is_empty() { files } else { named }
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

fn text_at(batch: &RecordBatch, name: &str, row: usize) -> Option<String> {
    let column = batch.column_by_name(name)?.as_string_opt::<i32>()?;
    column.is_valid(row).then(|| column.value(row).to_owned())
}

#[cfg(all(test, feature = "video"))]
mod tests;
