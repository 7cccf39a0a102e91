//! MosaicML's streaming format (MDS): `index.json` lists shards; a shard is a number of samples, the
//! place of each, a copy of the index's facts, and the samples; a sample is the sizes of its
//! variable columns and the values of all.
//!
//! The medium is the column asked for by name, else the first of encoding `jpeg`, `png` or `pil`,
//! else the first of encoding `bytes`; the class is a number or text in a column called `label`,
//! `class` or alike; texts that are all numbers are these numbers.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tubelet_core::Size;

use super::labels::Labels;
use super::{Entry, Listing, Source, read_text, relative_name, split_names};
use crate::decode::sniff;
use crate::error::FormatError;
use crate::record::MediaKind;
use crate::shard::OpenOptions;
use crate::shard::catalogue::{Item, catalogue};
use crate::shard::unpack;

/// Columns that hold the class.
const LABELS: [&str; 6] = ["label", "labels", "class", "cls", "target", "y"];

/// Most samples of a shard: places of bytes are stored in 32 bits.
const MAX_SAMPLES: u32 = 1 << 24;

#[derive(Deserialize)]
struct IndexFile {
    version: u32,
    shards: Vec<Shard>,
}

#[derive(Deserialize)]
struct Shard {
    format: String,
    #[serde(default)]
    column_names: Vec<String>,
    #[serde(default)]
    column_encodings: Vec<String>,
    #[serde(default)]
    column_sizes: Vec<Option<u32>>,
    raw_data: Option<FileFacts>,
    #[serde(default)]
    zip_data: Option<FileFacts>,
    samples: u32,
}

#[derive(Deserialize)]
struct FileFacts {
    basename: String,
}

/// Whether `path` is an index of shards.
pub(super) fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n == "index.json")
        && std::fs::read(path).is_ok_and(|bytes| {
            let text = String::from_utf8_lossy(&bytes);
            text.contains("\"shards\"") && text.contains("\"column_encodings\"")
        })
}

/// Whether there is an index in `root` or its folder for the split.
pub(super) fn looks_like(root: &Path, split: &str) -> bool {
    let inside = |name| is_index(&root.join(name).join("index.json"));
    is_index(&root.join("index.json")) || split_names(split).into_iter().any(inside)
}

/// Lists the samples of the split.
pub(super) fn list(root: &Path, options: &OpenOptions) -> Result<Listing, FormatError> {
    let names = split_names(&options.split).into_iter();
    let inside = names.map(|name| root.join(name).join("index.json")).find(|p| p.is_file());
    let index = match inside {
        _ if root.is_file() => root.to_owned(),
        Some(inside) => inside,
        None => root.join("index.json"),
    };
    let folder = index.parent().unwrap_or(Path::new(""));
    let facts: IndexFile = serde_json::from_str(&read_text(&index)?).map_err(|e| {
        FormatError::malformed(&index, e.to_string()).at(format!("line {}", e.line()))
    })?;
    if facts.version != 2 {
        let what = format!("version {}, only 2 is known", facts.version);
        return Err(FormatError::malformed(&index, what));
    }
    let mut listing = Listing::default();
    let mut found = Vec::new();
    for (n, shard) in facts.shards.iter().enumerate() {
        let columns = Columns::of(shard, options.field.as_deref())
            .map_err(|what| FormatError::malformed(&index, what).at(format!("shard {n}")))?;
        match file_of(folder, shard, options.unpack)? {
            Some(path) => {
                let items =
                    catalogue(&path, &columns.key(), |bytes| samples(&path, bytes, &columns))?;
                check_count(&path, items.len(), &columns)?;
                found.push((listing.add_archive(path.clone()), path, items));
            }
            None => {
                let name = relative_name(root, &folder.join(shard.name()));
                listing.missing.extend((0..shard.samples).map(|row| format!("{name}/{row}")));
            }
        }
    }
    let all = || found.iter().flat_map(|(_, path, items)| items.iter().map(move |i| (path, i)));
    let labels = Labels::of(all().map(|(_, item)| said(item))).map_err(|odd| {
        let error = FormatError::malformed(&index, odd.what);
        match all().nth(odd.sample) {
            Some((path, item)) => error.at(format!("{}/{}", relative_name(root, path), item.name)),
            None => error,
        }
    })?;
    for (shard, path, items) in &found {
        for item in items {
            listing.entries.push(entry(root, path, *shard, item, labels.label(said(item))));
        }
    }
    // Numbers alone name nothing.
    let named = all().any(|(_, item)| item.class.is_some());
    listing.classes = if named { labels.names } else { Vec::new() };
    Ok(listing)
}

/// What a sample says of its class: its text where it is text, be it a number or not.
fn said(item: &Item) -> (Option<u32>, Option<&str>) {
    match &item.class {
        Some(text) => (None, Some(text)),
        None => (item.label, None),
    }
}

fn entry(root: &Path, path: &Path, shard: u32, item: &Item, label: Option<u32>) -> Entry {
    let name = format!("{}/{}", relative_name(root, path), item.name);
    let source = match item.size {
        Some(size) => Source::Pixels { shard, start: item.start, size },
        None => Source::Range { shard, bytes: item.start..item.start.saturating_add(item.bytes) },
    };
    Entry { source, name, label }
}

impl Shard {
    fn name(&self) -> &str {
        let file = self.raw_data.as_ref().or(self.zip_data.as_ref());
        file.map_or("", |f| f.basename.as_str())
    }
}

/// The plain file of a shard, decompressed where that is allowed; `None` where it is not there.
fn file_of(folder: &Path, shard: &Shard, allowed: bool) -> Result<Option<PathBuf>, FormatError> {
    if let Some(raw) = shard.raw_data.as_ref().map(|f| folder.join(&f.basename))
        && raw.is_file()
    {
        return Ok(Some(raw));
    }
    match shard.zip_data.as_ref().map(|f| folder.join(&f.basename)).filter(|p| p.is_file()) {
        Some(zip) => unpack::plain(&zip, allowed).map(Some),
        None => Ok(None),
    }
}

/// The columns of a shard.
struct Columns {
    names: Vec<String>,
    encodings: Vec<String>,
    sizes: Vec<Option<u32>>,
    medium: usize,
    label: Option<usize>,
    samples: u32,
}

impl Columns {
    fn of(shard: &Shard, field: Option<&str>) -> Result<Self, String> {
        if shard.format != "mds" {
            return Err(format!("shards of format `{}` hold no media", shard.format));
        }
        if shard.samples > MAX_SAMPLES {
            return Err(format!("{} samples in one shard", shard.samples));
        }
        let (names, encodings) = (&shard.column_names, &shard.column_encodings);
        if names.len() != encodings.len() || names.len() != shard.column_sizes.len() {
            return Err("columns, encodings and sizes are not as many".to_owned());
        }
        // An encoding may carry settings: `jpeg:90`.
        let bare = |e: &String| e.split(':').next().unwrap_or_default().to_owned();
        let encodings: Vec<String> = encodings.iter().map(bare).collect();
        let of = |wanted: &[&str]| encodings.iter().position(|e| wanted.contains(&e.as_str()));
        let medium = match field {
            Some(field) => names.iter().position(|n| n == field),
            None => of(&["jpeg", "png", "pil"]).or_else(|| of(&["bytes"])),
        };
        let medium =
            medium.ok_or_else(|| format!("no column of pictures or videos in {names:?}"))?;
        let label = names.iter().position(|n| LABELS.contains(&n.as_str()));
        let (names, sizes) = (names.clone(), shard.column_sizes.clone());
        Ok(Self { names, encodings, sizes, medium, label, samples: shard.samples })
    }

    /// What stands for them in the name of a stored catalogue.
    fn key(&self) -> String {
        let facts = format!("{:?}", (&self.names, &self.encodings, &self.sizes, self.medium));
        format!("mds-{:016x}", xxhash_rust::xxh3::xxh3_64(facts.as_bytes()))
    }

    /// First byte and value of each column of a sample.
    fn values<'a>(&self, sample: &'a [u8]) -> Option<Vec<(usize, &'a [u8])>> {
        let mut at = 0;
        let mut sizes = Vec::with_capacity(self.sizes.len());
        for size in &self.sizes {
            match size.filter(|s| *s > 0) {
                Some(size) => sizes.push(size as usize),
                None => {
                    sizes.push(u32_at(sample, at)? as usize);
                    at += 4;
                }
            }
        }
        let mut values = Vec::with_capacity(sizes.len());
        for size in sizes {
            let end = at.checked_add(size)?;
            values.push((at, sample.get(at..end)?));
            at = end;
        }
        (at == sample.len()).then_some(values)
    }
}

fn check_count(path: &Path, count: usize, columns: &Columns) -> Result<(), FormatError> {
    if count == columns.samples as usize {
        return Ok(());
    }
    let what = format!("{count} samples, index.json says {}", columns.samples);
    Err(FormatError::malformed(path, what))
}

/// The samples of a shard.
fn samples(path: &Path, shard: &[u8], columns: &Columns) -> Result<Vec<Item>, FormatError> {
    let count = u32_at(shard, 0).ok_or_else(|| FormatError::malformed(path, "cut off"))?;
    check_count(path, count as usize, columns)?;
    let place = |n: u32| u32_at(shard, 4 * (n as usize + 1)).map(|p| p as usize);
    let item = |n: u32| -> Result<Item, FormatError> {
        let wrong = |what: &str| FormatError::malformed(path, what).at(format!("row {n}"));
        let (start, end) = place(n).zip(place(n + 1)).ok_or_else(|| wrong("cut off"))?;
        let sample = shard.get(start..end).ok_or_else(|| {
            wrong(&format!("bytes {start}..{end} are wanted, the file has {}", shard.len()))
        })?;
        let values = columns
            .values(sample)
            .ok_or_else(|| wrong("the sizes of its columns do not add up"))?;
        let (label, class) = match columns.label {
            None => (None, None),
            Some(column) => label_of(&columns.encodings[column], values[column].1),
        };
        let (offset, medium) = values[columns.medium];
        let offset = (start + offset) as u64;
        let bare = Item { label, class, ..Item::default() };
        medium_of(&columns.encodings[columns.medium], medium, offset, n, bare)
            .map_err(|what| wrong(&format!("column `{}`: {what}", columns.names[columns.medium])))
    };
    (0..count).map(item).collect()
}

/// `item` with the place and name of its medium.
fn medium_of(
    encoding: &str,
    value: &[u8],
    start: u64,
    row: u32,
    item: Item,
) -> Result<Item, String> {
    if encoding == "pil" {
        let cut = || "cut off".to_owned();
        let number = |at| u32_at(value, at).ok_or_else(cut);
        let (size, letters) = (Size::new(number(0)?, number(4)?), number(8)? as usize);
        let mode = value.get(12..12usize.saturating_add(letters)).ok_or_else(cut)?;
        if mode != b"RGB" {
            return Err(format!("mode {}, only RGB is read", String::from_utf8_lossy(mode)));
        }
        let bytes = (u64::from(size.width) * u64::from(size.height)).saturating_mul(3);
        if bytes != (value.len() - 12 - letters) as u64 {
            return Err(format!("{} bytes for {size} pixels", value.len() - 12 - letters));
        }
        let start = start + 12 + letters as u64;
        return Ok(Item { name: format!("{row}.bmp"), start, bytes, size: Some(size), ..item });
    }
    let extension = match sniff(value) {
        Some(MediaKind::Jpeg) => "jpg",
        Some(MediaKind::Image) => "png",
        Some(MediaKind::Video) => "mp4",
        None => return Err("no picture or video".to_owned()),
    };
    let bytes = value.len() as u64;
    Ok(Item { name: format!("{row}.{extension}"), start, bytes, ..item })
}

/// Number or name of a class.
fn label_of(encoding: &str, value: &[u8]) -> (Option<u32>, Option<String>) {
    let mut wide = [0u8; 8];
    let signed = encoding.starts_with("int");
    if signed || encoding.starts_with("uint") {
        let length = value.len().min(8);
        wide[..length].copy_from_slice(&value[..length]);
        let negative = signed && value.last().is_some_and(|b| b & 0x80 != 0);
        return ((!negative).then(|| u32::try_from(u64::from_le_bytes(wide)).ok()).flatten(), None);
    }
    match std::str::from_utf8(value) {
        Ok(text) if encoding == "str_int" => (text.parse().ok(), None),
        Ok(text) if encoding == "str" => (text.parse().ok(), Some(text.to_owned())),
        _ => (None, None),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}
