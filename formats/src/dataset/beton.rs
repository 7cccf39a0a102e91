//! FFCV's `.beton` files, version 2: a header, a description of each field, a table with one row of
//! field facts a sample, the payloads, and at the end a table of the payloads' sizes.
//!
//! Everything is little-endian. In the table of samples every row is laid out as NumPy aligns a
//! struct: a plain number to its size, a field of several facts packed. Pictures are JPEG files or
//! raw RGB, as each row says.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tubelet_core::Size;

use super::{Entry, Listing, Source, extension, relative_name, sorted};
use crate::decode::sniff;
use crate::error::{FormatError, FormatErrorKind};
use crate::record::MediaKind;
use crate::shard::{OpenOptions, map};

/// Bytes of the file's header.
const HEADER: usize = 24;
/// Bytes of a field's description: its type, 16 bytes of name, 1024 of settings.
const DESCRIPTION: usize = 1 + 16 + 1024;
/// Bytes of a row in the table of sizes: sample, place, size.
const ALLOCATION: usize = 24;

/// What a field is, and where its facts are in a row.
struct Field {
    name: String,
    kind: u8,
    offset: usize,
}

const INT: u8 = 1;
const RGB: u8 = 2;
const BYTES: u8 = 3;

/// Lists the samples of a file, or of the file for the split in a folder.
pub(super) fn list(root: &Path, options: &OpenOptions) -> Result<Listing, FormatError> {
    let path = if root.is_file() { root.to_owned() } else { file_of(root, &options.split)? };
    let bytes = map(&path)?;
    let file = Beton::open(&bytes, options.field.as_deref())
        .map_err(|what| FormatError::malformed(&path, what))?;
    let base = path.parent().unwrap_or(root);
    let mut listing = Listing::default();
    let shard = listing.add_archive(path.clone());
    for row in 0..file.samples {
        let wrong = |what: String| FormatError::malformed(&path, what).at(format!("row {row}"));
        let (source, extension) = file.medium(row, shard).map_err(wrong)?;
        let name = format!("{}/{row}.{extension}", relative_name(base, &path));
        listing.entries.push(Entry { source, name, label: file.label(row) });
    }
    Ok(listing)
}

fn file_of(root: &Path, split: &str) -> Result<PathBuf, FormatError> {
    let mut files = sorted(root)?;
    files.retain(|p| extension(p) == "beton");
    let named = |p: &&PathBuf| {
        p.file_stem().is_some_and(|s| {
            s.to_string_lossy().split(|c: char| !c.is_alphanumeric()).any(|w| w == split)
        })
    };
    let found = files.iter().find(named).or_else(|| files.first().filter(|_| files.len() == 1));
    found.cloned().ok_or_else(|| {
        let what = format!("{} .beton files, none of them for split `{split}`", files.len());
        FormatError::new(root, FormatErrorKind::Layout(what))
    })
}

/// An opened file.
struct Beton<'a> {
    bytes: &'a [u8],
    samples: usize,
    /// Where the table of samples begins, and bytes of a row.
    table: (usize, usize),
    medium: Field,
    label: Option<Field>,
    sizes: HashMap<u64, u64>,
}

impl<'a> Beton<'a> {
    fn open(bytes: &'a [u8], wanted: Option<&str>) -> Result<Self, String> {
        let short = || "cut off in its header".to_owned();
        let version = u16_at(bytes, 0).ok_or_else(short)?;
        if version != 2 {
            return Err(format!("version {version} or no .beton file: only version 2 is known"));
        }
        let count = usize::from(u16_at(bytes, 2).ok_or_else(short)?);
        let samples = u64_at(bytes, 8).and_then(|n| usize::try_from(n).ok()).ok_or_else(short)?;
        let (fields, row) = fields(bytes, count)?;
        let start = HEADER + count * DESCRIPTION;
        let end = samples.checked_mul(row).and_then(|n| n.checked_add(start));
        end.filter(|end| *end <= bytes.len())
            .ok_or_else(|| format!("cut off: the table of {samples} samples is not all there"))?;
        let place = u64_at(bytes, 16).and_then(|p| usize::try_from(p).ok());
        let allocations = place.filter(|p| *p >= start).and_then(|p| bytes.get(p..));
        let allocations = allocations
            .filter(|a| a.len() % ALLOCATION == 0)
            .ok_or("cut off: the table of payload sizes is not where the header says")?;
        let pair = |row: &[u8]| Some((u64_at(row, 8)?, u64_at(row, 16)?));
        let sizes = allocations.chunks_exact(ALLOCATION).filter_map(pair).collect();
        let names: Vec<String> = fields.iter().map(|f| f.name.clone()).collect();
        let mut medium = None;
        let mut label: Option<Field> = None;
        for field in fields {
            let better = field.kind == RGB && medium.as_ref().is_none_or(|m: &Field| m.kind != RGB);
            let asked = wanted.is_some_and(|name| field.name == name);
            if matches!(field.kind, RGB | BYTES)
                && (asked || wanted.is_none() && (better || medium.is_none()))
            {
                medium = Some(field);
            } else if field.kind == INT && (label.is_none() || field.name == "label") {
                label = Some(field);
            }
        }
        let medium = medium.ok_or_else(|| format!("no field of pictures among {names:?}"))?;
        Ok(Self { bytes, samples, table: (start, row), medium, label, sizes })
    }

    /// The facts of a field in `row`.
    fn facts(&self, row: usize, field: &Field) -> &'a [u8] {
        let start = self.table.0 + row * self.table.1 + field.offset;
        self.bytes.get(start..).unwrap_or_default()
    }

    fn label(&self, row: usize) -> Option<u32> {
        let value = u64_at(self.facts(row, self.label.as_ref()?), 0)?;
        u32::try_from(value).ok()
    }

    /// Where the picture of `row` is, and the extension that fits it.
    fn medium(&self, row: usize, shard: u32) -> Result<(Source, &'static str), String> {
        let facts = self.facts(row, &self.medium);
        let short = || "cut off".to_owned();
        if self.medium.kind == BYTES {
            let (start, size) = u64_at(facts, 0).zip(u64_at(facts, 8)).ok_or_else(short)?;
            return self.encoded(shard, start, size);
        }
        let mode = *facts.first().ok_or_else(short)?;
        let (width, height) = u16_at(facts, 1).zip(u16_at(facts, 3)).ok_or_else(short)?;
        let start = u64_at(facts, 5).ok_or_else(short)?;
        let size = Size::new(u32::from(width), u32::from(height));
        match mode {
            0 => {
                let bytes = self.sizes.get(&start).copied();
                let none = || format!("no size is told for its payload at byte {start}");
                self.encoded(shard, start, bytes.ok_or_else(none)?)
            }
            1 => {
                self.range(start, size.area() as u64 * 3)?;
                Ok((Source::Pixels { shard, start, size }, "bmp"))
            }
            other => Err(format!("mode {other}: neither JPEG nor raw pixels")),
        }
    }

    fn encoded(&self, shard: u32, start: u64, size: u64) -> Result<(Source, &'static str), String> {
        let payload = self.range(start, size)?;
        let extension = match sniff(payload) {
            Some(MediaKind::Jpeg) => "jpg",
            Some(MediaKind::Image) => "png",
            Some(MediaKind::Video) => "mp4",
            None => return Err("its payload is no picture or video".to_owned()),
        };
        Ok((Source::Range { shard, bytes: start..start + size }, extension))
    }

    fn range(&self, start: u64, size: u64) -> Result<&'a [u8], String> {
        let end = start.checked_add(size).and_then(|end| usize::try_from(end).ok());
        end.and_then(|end| self.bytes.get(usize::try_from(start).ok()?..end)).ok_or_else(|| {
            let have = self.bytes.len();
            format!("{size} bytes at {start} are wanted, the file has {have}")
        })
    }
}

/// The fields, and bytes of a sample's row.
fn fields(bytes: &[u8], count: usize) -> Result<(Vec<Field>, usize), String> {
    let mut fields = Vec::with_capacity(count.min(64));
    let (mut at, mut widest) = (0usize, 1usize);
    for n in 0..count {
        let start = HEADER + n * DESCRIPTION;
        let description = bytes.get(start..start + DESCRIPTION);
        let description =
            description.ok_or_else(|| format!("cut off in the description of field {n}"))?;
        let name = description[1..17].split(|b| *b == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        // Float, int, picture, bytes, array, JSON, tensor: bytes of facts and their alignment.
        let (size, align) = match description[0] {
            0 | INT | 4 | 6 => (8, 8),
            RGB => (13, 1),
            BYTES | 5 => (16, 1),
            other => {
                return Err(format!("field `{name}` is of type {other}, whose size is unknown"));
            }
        };
        at = at.next_multiple_of(align);
        fields.push(Field { name, kind: description[0], offset: at });
        at += size;
        widest = widest.max(align);
    }
    Ok((fields, at.next_multiple_of(widest)))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
