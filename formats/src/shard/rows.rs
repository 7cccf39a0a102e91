//! What is known of the rows of Parquet shards without their payloads, and the file in which that is
//! kept, so that many shards open at once: mapped, not read.
//!
//! The file is a fixed head (mark, bytes of the text, hash of everything behind the head), a text that
//! names the shards with their sizes and times and the columns with their places, and the columns,
//! each at a multiple of eight bytes. It holds for shards that are the same ones with the same sizes
//! and times; else, or where it is damaged, it is made again.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::listed::map;
use crate::compact::{Column, Facts, Names, Shape};
use crate::error::FormatError;
use crate::record::MediaKind;
use crate::temporary::write_atomically;

/// Mark and version of the file.
const MARK: &[u8; 8] = b"tubrows2";
/// Bytes before the text.
const HEAD: usize = 24;
/// Stands for a text that is no hash: no payload is taken to have it.
pub(super) const NO_HASH: u64 = u64::MAX;
/// Place of payloads that a file does not tell.
const UNTOLD: u64 = u64::MAX;

/// Rows in a fixed order, those of one shard after those of another.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub(super) names: Names,
    pub(super) facts: Facts,
    labels: Column<i64>,
    payloads: Places,
    /// What payloads hash to, and whether that is known.
    hashes: Column<u64>,
    hashed: Column<u8>,
    /// Smaller encodings, by their shorter side.
    levels: Vec<(u32, Level)>,
}

/// Where smaller encodings are, and what they hash to ([`NO_HASH`] where that is not told).
#[derive(Clone, Debug, Default)]
struct Level {
    places: Places,
    hashes: Column<u64>,
}

/// Where payloads are in their files.
#[derive(Clone, Debug, Default)]
struct Places {
    starts: Column<u64>,
    bytes: Column<u32>,
}

impl Places {
    fn push(&mut self, place: Option<&Range<u64>>) {
        let place = place.and_then(|p| Some((p.start, u32::try_from(p.end - p.start).ok()?)));
        let (start, bytes) = place.unwrap_or((UNTOLD, 0));
        self.starts.push(start);
        self.bytes.push(bytes);
    }

    fn get(&self, n: usize) -> Option<Range<u64>> {
        let start = self.starts.get(n).filter(|start| *start != UNTOLD)?;
        Some(start..start.checked_add(u64::from(self.bytes.get(n)?))?)
    }

    fn append(&mut self, other: &Self) {
        self.starts.to_mut().extend_from_slice(other.starts.as_slice());
        self.bytes.to_mut().extend_from_slice(other.bytes.as_slice());
    }

    fn shrink(&mut self) {
        self.starts.shrink();
        self.bytes.shrink();
    }
}

/// A row as it is added.
pub(super) struct Row<'a> {
    pub(super) name: &'a str,
    pub(super) label: Option<u32>,
    pub(super) info: Option<&'a tubelet_core::MediaInfo>,
    pub(super) hash: Option<&'a str>,
    pub(super) payload: Option<&'a Range<u64>>,
}

impl Rows {
    /// No rows, with room for encodings of these shorter sides.
    pub(super) fn new(sides: &[u32]) -> Self {
        let levels = sides.iter().map(|side| (*side, Level::default())).collect();
        Self { levels, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn push(&mut self, row: &Row<'_>) {
        self.names.push(row.name);
        self.facts.push(row.info);
        self.labels.push(row.label.map_or(-1, i64::from));
        self.payloads.push(row.payload);
        let hash = row.hash.map_or(0, |text| u64::from_str_radix(text, 16).unwrap_or(NO_HASH));
        self.hashes.push(hash);
        self.hashed.push(u8::from(row.hash.is_some()));
    }

    /// Adds the places of all encodings of shorter side `side`; none where the file does not tell.
    pub(super) fn set_level(&mut self, side: u32, places: Option<&[Range<u64>]>) {
        let rows = self.len();
        if let Some((_, level)) = self.levels.iter_mut().find(|(s, _)| *s == side) {
            (0..rows).for_each(|n| level.places.push(places.and_then(|p| p.get(n))));
        }
    }

    /// Adds the hashes of the encodings of the row that was pushed last, in the order of the sides.
    pub(super) fn push_level_hashes<'a>(&mut self, hashes: impl Iterator<Item = Option<&'a str>>) {
        for ((_, level), hash) in self.levels.iter_mut().zip(hashes) {
            let hash = hash.and_then(|text| u64::from_str_radix(text, 16).ok());
            level.hashes.push(hash.unwrap_or(NO_HASH));
        }
    }

    /// Adds the rows of another shard. Encodings that are not in both have no places.
    pub(super) fn append(&mut self, other: &Self) {
        let rows = self.len();
        self.names.append(&other.names);
        self.facts.append(&other.facts);
        self.labels.to_mut().extend_from_slice(other.labels.as_slice());
        self.payloads.append(&other.payloads);
        self.hashes.to_mut().extend_from_slice(other.hashes.as_slice());
        self.hashed.to_mut().extend_from_slice(other.hashed.as_slice());
        if rows == 0 {
            self.levels.clone_from(&other.levels);
            return;
        }
        self.levels.retain_mut(|(side, level)| {
            let same = other.levels.iter().find(|(s, _)| s == side);
            let Some((_, more)) = same else { return false };
            level.places.append(&more.places);
            level.hashes.to_mut().extend_from_slice(more.hashes.as_slice());
            true
        });
    }

    pub(super) fn shrink(&mut self) {
        self.names.shrink();
        self.facts.shrink();
        self.labels.shrink();
        self.payloads.shrink();
        self.hashes.shrink();
        self.hashed.shrink();
        for (_, level) in &mut self.levels {
            level.places.shrink();
            level.hashes.shrink();
        }
    }

    pub(super) fn label(&self, n: usize) -> Option<u32> {
        self.labels.get(n).and_then(|label| u32::try_from(label).ok())
    }

    /// The bytes of payload `n` in its file, where the file tells them without reading pages.
    pub(super) fn payload(&self, n: usize) -> Option<Range<u64>> {
        self.payloads.get(n)
    }

    /// What payload `n` hashed to when it was stored.
    pub(super) fn hash(&self, n: usize) -> Option<u64> {
        self.hashed.get(n).filter(|known| *known == 1).and_then(|_| self.hashes.get(n))
    }

    /// Shorter sides of the encodings that all shards have.
    pub(super) fn sides(&self) -> Vec<u32> {
        self.levels.iter().map(|(side, _)| *side).collect()
    }

    /// The bytes of the encoding of row `n` in its file; empty where the row has none.
    pub(super) fn level(&self, side: u32, n: usize) -> Option<Range<u64>> {
        self.levels.iter().find(|(s, _)| *s == side)?.1.places.get(n)
    }

    /// What it hashed to when it was stored, where that is told.
    pub(super) fn level_hash(&self, side: u32, n: usize) -> Option<u64> {
        let level = &self.levels.iter().find(|(s, _)| *s == side)?.1;
        level.hashes.get(n).filter(|hash| *hash != NO_HASH)
    }
}

/// One shard of a stored file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ShardFacts {
    pub(super) file: String,
    pub(super) bytes: u64,
    /// Modification time in nanoseconds.
    pub(super) time: u64,
    pub(super) rows: usize,
    pub(super) kind: MediaKind,
}

/// The text of a stored file.
#[derive(Serialize, Deserialize)]
struct Text {
    shards: Vec<ShardFacts>,
    classes: Vec<String>,
    folders: Vec<String>,
    shapes: Vec<Shape>,
    sides: Vec<u32>,
    /// Bytes of each column from the first one on, in the order of [`Rows::columns`].
    columns: Vec<Range<usize>>,
}

/// What a stored file holds.
pub(super) struct Stored {
    pub(super) shards: Vec<ShardFacts>,
    pub(super) classes: Vec<String>,
    pub(super) rows: Rows,
}

impl Rows {
    /// The bytes of all columns, in a fixed order.
    fn columns(&self) -> Vec<&[u8]> {
        let (names, facts) = (&self.names, &self.facts);
        let mut columns = vec![
            names.folder.as_bytes(),
            names.ends.as_bytes(),
            names.text.as_bytes(),
            facts.shape.as_bytes(),
            facts.frames.as_bytes(),
            facts.ends.as_bytes(),
            facts.keys.as_bytes(),
            self.labels.as_bytes(),
            self.payloads.starts.as_bytes(),
            self.payloads.bytes.as_bytes(),
            self.hashes.as_bytes(),
            self.hashed.as_bytes(),
        ];
        for (_, Level { places, hashes }) in &self.levels {
            columns.extend([places.starts.as_bytes(), places.bytes.as_bytes(), hashes.as_bytes()]);
        }
        columns
    }

    fn from_columns(text: &Text, column: impl Fn(usize) -> Option<Bytes>) -> Option<Self> {
        let mut names = Names::default();
        names.folders.clone_from(&text.folders);
        names.folder = Column::mapped(column(0)?)?;
        names.ends = Column::mapped(column(1)?)?;
        names.text = Column::mapped(column(2)?)?;
        let mut facts = Facts::default();
        facts.shapes.clone_from(&text.shapes);
        facts.shape = Column::mapped(column(3)?)?;
        facts.frames = Column::mapped(column(4)?)?;
        facts.ends = Column::mapped(column(5)?)?;
        facts.keys = Column::mapped(column(6)?)?;
        let places = |n: usize| {
            let (starts, bytes) = (column(n)?, column(n + 1)?);
            Some(Places { starts: Column::mapped(starts)?, bytes: Column::mapped(bytes)? })
        };
        let level = |(n, side): (usize, &u32)| {
            let hashes = Column::mapped(column(14 + 3 * n)?)?;
            Some((*side, Level { places: places(12 + 3 * n)?, hashes }))
        };
        Some(Self {
            names,
            facts,
            labels: Column::mapped(column(7)?)?,
            payloads: places(8)?,
            hashes: Column::mapped(column(10)?)?,
            hashed: Column::mapped(column(11)?)?,
            levels: text.sides.iter().enumerate().map(level).collect::<Option<_>>()?,
        })
    }
}

/// Writes a file, whole or not at all.
pub(super) fn store(
    path: &Path,
    shards: &[ShardFacts],
    classes: &[String],
    rows: &Rows,
) -> Result<(), FormatError> {
    let mut at = 0;
    let mut columns = Vec::new();
    for bytes in rows.columns() {
        columns.push(at..at + bytes.len());
        at = (at + bytes.len()).next_multiple_of(8);
    }
    let text = Text {
        shards: shards.to_vec(),
        classes: classes.to_vec(),
        folders: rows.names.folders.clone(),
        shapes: rows.facts.shapes.clone(),
        sides: rows.sides(),
        columns,
    };
    let text = serde_json::to_vec(&text)
        .map_err(|e| FormatError::malformed(path, format!("cannot be written: {e}")))?;
    let mut file = Vec::with_capacity(HEAD + text.len() + at + 16);
    file.extend_from_slice(MARK);
    file.extend_from_slice(&(text.len() as u64).to_le_bytes());
    file.extend_from_slice(&[0; 8]);
    file.extend_from_slice(&text);
    for bytes in rows.columns() {
        file.resize(file.len().next_multiple_of(8), 0);
        file.extend_from_slice(bytes);
    }
    let hash = xxh3_64(&file[HEAD..]);
    file[16..HEAD].copy_from_slice(&hash.to_le_bytes());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| FormatError::new(folder, e))?;
    }
    write_atomically(path, &file)
}

/// What the file at `path` holds; `None` where there is no such file or it is damaged.
pub(super) fn load(path: &Path) -> Option<Stored> {
    let file = Bytes::from_owner(map(path).ok()?);
    let word = |at: usize| Some(u64::from_le_bytes(file.get(at..at + 8)?.try_into().ok()?));
    if file.get(..8)? != MARK || word(16)? != xxh3_64(file.get(HEAD..)?) {
        return None;
    }
    let end = HEAD.checked_add(usize::try_from(word(8)?).ok()?)?;
    let text: Text = serde_json::from_slice(file.get(HEAD..end)?).ok()?;
    let first = end.next_multiple_of(8);
    let column = |n: usize| {
        let Range { start, end } = text.columns.get(n)?.clone();
        let (start, end) = (first.checked_add(start)?, first.checked_add(end)?);
        (start <= end && end <= file.len()).then(|| file.slice(start..end))
    };
    let rows = Rows::from_columns(&text, column)?;
    let count: usize = text.shards.iter().map(|s| s.rows).sum();
    let whole = [rows.len(), rows.facts.len(), rows.labels.len(), rows.hashes.len()];
    if whole.iter().any(|len| *len != count) {
        return None;
    }
    Some(Stored { shards: text.shards, classes: text.classes, rows })
}

#[cfg(test)]
mod tests {
    use tubelet_core::{MediaInfo, Size};

    use super::*;

    /// Names as Kinetics has them, and the key frames of ten seconds of the originals.
    #[test]
    fn the_rows_of_650000_videos_fit_into_64_mebibytes() {
        let mut rows = Rows::new(&[]);
        let mut info = MediaInfo::picture(Size::new(340, 256), "h264");
        info.frames = 300;
        for n in 0..650_000u32 {
            info.fps = [30.0, 25.0, 30_000.0 / 1001.0][n as usize % 3];
            info.size.height = 256 + n / 700 % 90;
            info.keyframes = (0..5 + n % 6).map(|k| k * (31 + n % 19)).collect();
            let start = u64::from(n) * 1_300_000;
            rows.push(&Row {
                name: &format!(
                    "train/class number {:03}/a{n:010x}_000{:03}_000{:03}.mp4",
                    n % 700,
                    n % 600,
                    n % 600 + 10
                ),
                label: Some(n % 700),
                info: Some(&info),
                hash: Some("0123456789abcdef"),
                payload: Some(&(start..start + 1_234_567)),
            });
        }
        rows.shrink();
        let bytes: usize = rows.columns().iter().map(|column| column.len()).sum();
        let shapes = rows.facts.shapes.len() * 80;
        assert!(bytes + shapes < 64 << 20, "{} MiB", (bytes + shapes) as f64 / 1048576.0);
        assert_eq!(rows.names.get(649_999), "train/class number 399/a000009eb0f_000199_000209.mp4");
    }

    #[test]
    fn what_is_stored_is_loaded_and_damage_is_found() {
        let root = tempfile::tempdir().expect("folder");
        let path = root.path().join("x/rows");
        let info = MediaInfo::picture(Size::new(4, 5), "mjpeg");
        let mut rows = Rows::new(&[16, 32]);
        let range = 5..70;
        for n in 0..5u32 {
            rows.push(&Row {
                name: &format!("c{}/{n}.jpg", n % 2),
                label: (n != 3).then_some(n),
                info: (n != 1).then_some(&info),
                hash: [Some("00000000000000ff"), None, Some("no hash")][n as usize % 3],
                payload: (n > 0).then_some(&range),
            });
            rows.push_level_hashes([Some("0a").filter(|_| n > 1), None].into_iter());
        }
        rows.set_level(16, Some(&[1..2, 2..2, 3..9, 9..9, 10..11]));
        rows.set_level(32, None);
        let shard = |file: &str, rows| ShardFacts {
            file: file.to_owned(),
            bytes: 7,
            time: 8,
            rows,
            kind: MediaKind::Image,
        };
        let shards = [shard("a.parquet", 2), shard("b.parquet", 3)];
        let classes = ["one".to_owned(), "two".to_owned()];
        store(&path, &shards, &classes, &rows).expect("stored");
        let found = load(&path).expect("loaded");
        assert_eq!((&found.shards[..], &found.classes[..]), (&shards[..], &classes[..]));
        for n in 0..5 {
            assert_eq!(found.rows.names.get(n), rows.names.get(n));
            assert_eq!(found.rows.label(n), (n != 3).then_some(n as u32));
            assert_eq!(found.rows.facts.get(n).is_some(), n != 1);
            assert_eq!(found.rows.hash(n), [Some(255), None, Some(u64::MAX)][n % 3]);
            assert_eq!(found.rows.payload(n), (n > 0).then(|| range.clone()));
            assert_eq!(found.rows.level(16, n), rows.level(16, n));
            assert_eq!(found.rows.level(32, n), None);
            assert_eq!(found.rows.level_hash(16, n), (n > 1).then_some(10));
            assert_eq!(found.rows.level_hash(32, n), None);
        }
        let whole = std::fs::read(&path).expect("read");
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x10;
            std::fs::write(&path, &damaged).expect("written");
            assert!(load(&path).is_none(), "byte {place}");
            std::fs::write(&path, &whole[..place]).expect("written");
            assert!(load(&path).is_none(), "cut at {place}");
        }
    }
}
