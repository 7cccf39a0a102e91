//! The samples of a listing.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

use tubelet_core::Size;

use super::{Column, Names};
use crate::dataset::{Entry, Source};

/// Samples in a fixed order: about 50 bytes each beside the last part of their name.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    names: Names,
    labels: Column<i64>,
    places: Vec<Place>,
    /// What stands before names in paths.
    bases: Vec<String>,
    numbers: HashMap<String, u32>,
    /// Paths that do not end in their names.
    odd: Vec<PathBuf>,
}

/// A [`Source`] beside its name.
#[derive(Clone, Copy, Debug)]
enum Place {
    File(Base),
    Frames { folder: Base, count: Option<u32>, fps: u32 },
    Range { shard: u32, start: u64, bytes: u64 },
    Pixels { shard: u32, start: u64, width: u32, height: u32 },
}

/// A path, from a sample's name.
#[derive(Clone, Copy, Debug)]
enum Base {
    /// After this of the bases.
    Before(u32),
    /// This of the odd ones, whatever the name.
    Odd(u32),
}

impl Entries {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a sample.
    pub fn push(&mut self, entry: Entry) {
        let Entry { source, name, label } = entry;
        let place = match source {
            Source::File(path) => Place::File(self.base(path, &name)),
            Source::Frames { folder, count, fps } => {
                Place::Frames { folder: self.base(folder, &name), count, fps }
            }
            Source::Range { shard, bytes: Range { start, end } } => {
                Place::Range { shard, start, bytes: end.saturating_sub(start) }
            }
            Source::Pixels { shard, start, size: Size { width, height } } => {
                Place::Pixels { shard, start, width, height }
            }
        };
        self.names.push(&name);
        self.labels.push(label.map_or(-1, i64::from));
        self.places.push(place);
    }

    /// Sample `n`, which must be below [`Self::len`].
    pub fn get(&self, n: usize) -> Entry {
        let name = self.names.get(n);
        Entry { source: self.source_of(n, &name), label: self.label(n), name }
    }

    /// All samples.
    pub fn iter(&self) -> impl Iterator<Item = Entry> {
        (0..self.len()).map(|n| self.get(n))
    }

    /// Class index of sample `n`.
    pub fn label(&self, n: usize) -> Option<u32> {
        self.labels.get(n).and_then(|label| u32::try_from(label).ok())
    }

    /// The same in ascending order of `key`; equal ones stay in theirs.
    pub(crate) fn sort_by_key<K: Ord>(&mut self, key: impl Fn(&Entry) -> K) {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_cached_key(|n| key(&self.get(*n)));
        let mut sorted = Self::default();
        order.into_iter().for_each(|n| sorted.push(self.get(n)));
        *self = sorted;
    }

    /// No more will be added.
    pub(crate) fn shrink(&mut self) {
        self.names.shrink();
        self.labels.shrink();
        self.places.shrink_to_fit();
        self.numbers = HashMap::new();
    }

    fn source_of(&self, n: usize, name: &str) -> Source {
        match self.places[n] {
            Place::File(base) => Source::File(self.path(base, name)),
            Place::Frames { folder, count, fps } => {
                Source::Frames { folder: self.path(folder, name), count, fps }
            }
            Place::Range { shard, start, bytes } => {
                Source::Range { shard, bytes: start..start.saturating_add(bytes) }
            }
            Place::Pixels { shard, start, width, height } => {
                Source::Pixels { shard, start, size: Size { width, height } }
            }
        }
    }

    fn path(&self, base: Base, name: &str) -> PathBuf {
        match base {
            Base::Before(n) => PathBuf::from(format!("{}{name}", self.bases[n as usize])),
            Base::Odd(n) => self.odd[n as usize].clone(),
        }
    }

    fn base(&mut self, path: PathBuf, name: &str) -> Base {
        let before = path.to_str().and_then(|text| text.strip_suffix(name));
        let Some(before) = before else {
            self.odd.push(path);
            return Base::Odd((self.odd.len() - 1) as u32);
        };
        if let Some(number) = self.numbers.get(before) {
            return Base::Before(*number);
        }
        let number = self.bases.len() as u32;
        self.bases.push(before.to_owned());
        self.numbers.insert(before.to_owned(), number);
        Base::Before(number)
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Entries {}

impl Extend<Entry> for Entries {
    fn extend<I: IntoIterator<Item = Entry>>(&mut self, entries: I) {
        entries.into_iter().for_each(|entry| self.push(entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files in folders of classes, with the facts an index tells.
    #[test]
    fn a_listing_of_650000_videos_fits_into_64_mebibytes() {
        let mut entries = Entries::default();
        let mut facts = crate::compact::Facts::default();
        let mut info = tubelet_core::MediaInfo::picture(Size::new(340, 256), "h264");
        for n in 0..650_000u32 {
            let name = format!(
                "train/class number {:03}/a{n:010x}_000{:03}_000{:03}.mp4",
                n % 700,
                n % 600,
                n % 600 + 10
            );
            let source = Source::File(PathBuf::from(format!("/data/kinetics-700/{name}")));
            entries.push(Entry { source, name, label: Some(n % 700) });
            info.keyframes = (0..5 + n % 6).map(|k| k * (31 + n % 19)).collect();
            facts.push(Some(&info));
        }
        entries.shrink();
        facts.shrink();
        let columns = [
            entries.names.folder.as_bytes(),
            entries.names.ends.as_bytes(),
            entries.names.text.as_bytes(),
            entries.labels.as_bytes(),
            facts.shape.as_bytes(),
            facts.frames.as_bytes(),
            facts.ends.as_bytes(),
            facts.keys.as_bytes(),
        ];
        let bytes: usize = columns.iter().map(|column| column.len()).sum();
        let places = entries.places.capacity() * size_of::<Place>();
        assert!(bytes + places < 64 << 20, "{} MiB", (bytes + places) as f64 / 1048576.0);
        assert_eq!(entries.bases.len(), 1);
    }

    #[test]
    fn entries_are_what_was_added() {
        let file = |path: &str, name: &str, label| Entry {
            source: Source::File(PathBuf::from(path)),
            name: name.to_owned(),
            label,
        };
        let other = |source, label| Entry { source, name: "a.tar/1.jpg".to_owned(), label };
        let all = [
            file("/data/train/a.mp4", "train/a.mp4", Some(0)),
            file("/data/train/b.mp4", "train/b.mp4", Some(u32::MAX)),
            file("/other/b.mp4", "train/c.mp4", None),
            file("x", "x", Some(3)),
            other(Source::Range { shard: 7, bytes: 3..1 << 40 }, Some(1)),
            other(Source::Pixels { shard: 1, start: 9, size: Size::new(4, 5) }, None),
            other(
                Source::Frames { folder: PathBuf::from("r/a.tar/1.jpg"), count: Some(3), fps: 9 },
                None,
            ),
        ];
        let mut entries = Entries::default();
        entries.extend(all.iter().cloned());
        entries.shrink();
        assert_eq!(entries.iter().collect::<Vec<_>>(), all);
        assert_eq!(entries.bases[0], "/data/");
        assert_eq!((entries.bases.len(), entries.odd.len()), (3, 1));
        entries.sort_by_key(|e| std::cmp::Reverse(e.label));
        assert_eq!(entries.get(0), all[1]);
        assert_eq!(entries.label(1), Some(3));
        assert_eq!(entries.get(6), all[6]);
    }
}
