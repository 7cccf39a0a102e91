//! Where payloads go: a Parquet file, a tar file, or files of their own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use serde_json::json;
use xxhash_rust::xxh3::Xxh3;

use super::place::Place;
use super::records::JobRecord;
use super::sample::Payload;
use super::{Format, table};
use crate::error::{FormatError, FormatErrorKind};
use crate::facts::parquet_error;
use crate::record::Record;
use crate::temporary::write_atomically;

/// Bytes of payload in memory before a row group is written.
const GROUP_BYTES: usize = 32 << 20;
/// File of a folder that names its classes in label order.
pub const CLASSES: &str = "classes.txt";
/// Folder of samples without a class.
pub(crate) const UNLABELLED: &str = "unlabelled";

/// Most bytes of a sample's or class's name in a file name; file systems take 255 in all.
const MAX_NAME: usize = 200;

/// The file that a sample has of its own, and those of its smaller encodings with their sizes.
type Own = (Option<String>, Vec<(String, u64)>);

/// A shard being written.
pub(super) enum Sink {
    Parquet {
        path: PathBuf,
        schema: Arc<Schema>,
        writer: Box<ArrowWriter<HashingFile>>,
    },
    Tar {
        path: PathBuf,
        writer: Box<tar::Builder<HashingFile>>,
        classes: Vec<String>,
        sides: Vec<u32>,
    },
    Folder {
        out: PathBuf,
        split: String,
        classes: Vec<String>,
        sides: Vec<u32>,
    },
}

impl Sink {
    /// A shard of `job` in the file `made`, called `path` in errors; plain files go into folders of
    /// `out`.
    pub(super) fn create(
        made: &Path,
        path: &Path,
        out: &Path,
        job: &JobRecord,
    ) -> Result<Self, FormatError> {
        let (settings, classes) = (&job.settings, job.classes.clone());
        let path = path.to_owned();
        Ok(match settings.format {
            Format::Parquet => {
                let sides = settings.sides();
                let schema = Arc::new(table::schema(settings.kind, &classes, sides));
                let file = HashingFile::create(made, &path)?;
                let properties = Some(table::properties(settings.kind, sides));
                let writer = ArrowWriter::try_new(file, Arc::clone(&schema), properties)
                    .map_err(|e| write_error(&path, &e))?;
                Self::Parquet { path, schema, writer: Box::new(writer) }
            }
            Format::Webdataset => {
                let mut writer = tar::Builder::new(HashingFile::create(made, &path)?);
                writer.mode(tar::HeaderMode::Deterministic);
                let sides = settings.sides().to_vec();
                Self::Tar { path, writer: Box::new(writer), classes, sides }
            }
            Format::Folder => {
                let classes = folder_names(&classes, out)?;
                let text: String = classes.iter().map(|c| format!("{c}\n")).collect();
                if !classes.is_empty() {
                    write_atomically(&out.join(CLASSES), text.as_bytes())?;
                }
                let (split, sides) = (settings.split.clone(), settings.sides().to_vec());
                Self::Folder { out: out.to_owned(), split, classes, sides }
            }
        })
    }

    /// Adds a sample; returns its own file, relative to the output, where it has one, and those of
    /// its smaller encodings with their sizes.
    pub(super) fn write(
        &mut self,
        sample: &Record,
        payload: &Payload,
        hash: &str,
    ) -> Result<Own, FormatError> {
        match self {
            Self::Parquet { path, schema, writer } => {
                let row = table::row(schema, sample, payload, hash);
                let row = row.map_err(|e| parquet_error(path, &e))?;
                writer.write(&row).map_err(|e| write_error(path, &e))?;
                if writer.in_progress_size() >= GROUP_BYTES {
                    writer.flush().map_err(|e| write_error(path, &e))?;
                }
                Ok((None, Vec::new()))
            }
            Self::Tar { path, writer, classes, sides } => {
                let facts = facts(sample, payload, hash, classes);
                let key = format!("{:09}", sample.id.0);
                let mut add = |extension: &str, bytes: &[u8]| {
                    add_member(writer, &format!("{key}.{extension}"), bytes)
                        .map_err(|e| FormatError::new(&*path, e))
                };
                add(&payload.extension, &payload.bytes)?;
                for (side, level) in levels(sides, payload) {
                    add(&format!("px{side}.jpg"), level)?;
                }
                if let Some(label) = sample.label {
                    add("cls", label.to_string().as_bytes())?;
                }
                add("json", facts.as_bytes())?;
                Ok((None, Vec::new()))
            }
            Self::Folder { out, split, classes, sides } => {
                let class = sample.label.and_then(|l| classes.get(l as usize));
                let class = class.map_or(UNLABELLED, String::as_str);
                let stem = Path::new(&sample.name).file_stem().unwrap_or_default();
                let stem = plain(&stem.to_string_lossy());
                let stem = format!("{:09}-{stem}", sample.id.0);
                let mut files = Vec::new();
                for (side, level) in levels(sides, payload) {
                    let file = format!("{split}-px{side}/{class}/{stem}.jpg");
                    write_file(out, &file, level)?;
                    files.push((file, level.len() as u64));
                }
                let file = format!("{split}/{class}/{stem}.{}", payload.extension);
                write_file(out, &file, &payload.bytes)?;
                Ok((Some(file), files))
            }
        }
    }

    /// Makes sure that everything is on disk; returns size and hash of the file.
    pub(super) fn finish(self) -> Result<(u64, String), FormatError> {
        match self {
            Self::Parquet { path, writer, .. } => {
                writer.into_inner().map_err(|e| write_error(&path, &e))?.finish()
            }
            Self::Tar { path, writer, .. } => {
                writer.into_inner().map_err(|e| FormatError::new(&path, e))?.finish()
            }
            Self::Folder { .. } => Ok((0, String::new())),
        }
    }
}

/// The smaller encodings that a sample has, with their shorter sides.
fn levels<'a>(sides: &'a [u32], payload: &'a Payload) -> impl Iterator<Item = (u32, &'a [u8])> {
    let pairs = sides.iter().zip(&payload.levels);
    pairs.filter_map(|(side, level)| Some((*side, level.as_deref()?)))
}

/// What the system said where it was the system.
fn write_error(path: &Path, error: &ParquetError) -> FormatError {
    let ParquetError::External(cause) = error else { return parquet_error(path, error) };
    match cause.downcast_ref::<std::io::Error>() {
        Some(io) => FormatError::new(path, std::io::Error::new(io.kind(), io.to_string())),
        None => parquet_error(path, error),
    }
}

fn write_file(out: &Path, file: &str, bytes: &[u8]) -> Result<(), FormatError> {
    let path = out.join(file);
    let folder = path.parent().unwrap_or(out);
    std::fs::create_dir_all(folder).map_err(|e| FormatError::new(folder, e))?;
    write_atomically(&path, bytes)
}

/// The facts that travel with a sample of a tar file.
fn facts(sample: &Record, payload: &Payload, hash: &str, classes: &[String]) -> String {
    let class = sample.label.and_then(|l| classes.get(l as usize));
    json!({
        "name": sample.name, "label": sample.label, "class": class, "xxh3": hash,
        "info": payload.info,
    })
    .to_string()
}

fn add_member(
    writer: &mut tar::Builder<HashingFile>,
    name: &str,
    bytes: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    writer.append_data(&mut header, name, bytes)
}

/// Class names as folder names.
fn folder_names(classes: &[String], out: &Path) -> Result<Vec<String>, FormatError> {
    let names: Vec<String> = classes.iter().map(|c| plain(c)).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|w| w[0] == w[1]) {
        let what = format!("two classes would share the folder `{}`: use another format", twice[0]);
        return Err(FormatError::new(out, FormatErrorKind::Layout(what)));
    }
    Ok(names)
}

/// The names of `classes`, folders of the conversion in `out`, as they were before they became
/// folders; the same where that is not known.
pub(crate) fn full_names(out: &Path, classes: Vec<String>) -> Vec<String> {
    let known = || {
        let job = JobRecord::read(&Place::Local(out.to_owned())).ok()?;
        let folders: Vec<String> = job.classes.iter().map(|class| plain(class)).collect();
        (folders == classes).then_some(job.classes)
    };
    known().unwrap_or(classes)
}

/// `name` without what a file name must not have, and short enough for a number and an extension
/// beside it.
fn plain(name: &str) -> String {
    let forbidden = |c: char| matches!(c, '/' | '\\' | ':' | '\n' | '\r' | '\0');
    let mut name: String = name.chars().map(|c| if forbidden(c) { '_' } else { c }).collect();
    name.truncate(name.floor_char_boundary(MAX_NAME));
    if name.starts_with('.') || name.is_empty() { format!("_{name}") } else { name }
}

/// A file that hashes what is written to it.
pub(super) struct HashingFile {
    path: PathBuf,
    file: std::io::BufWriter<std::fs::File>,
    hash: Xxh3,
    bytes: u64,
}

impl HashingFile {
    /// The file `made`, called `path` in errors.
    fn create(made: &Path, path: &Path) -> Result<Self, FormatError> {
        let file = std::fs::File::create(made).map_err(|e| FormatError::new(path, e))?;
        let file = std::io::BufWriter::new(file);
        Ok(Self { path: path.to_owned(), file, hash: Xxh3::new(), bytes: 0 })
    }

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
