//! Copies of ranges of objects in a local folder, within a bound.
//!
//! Each object has two files: `<id>.data`, with holes where nothing was copied yet and every copy at
//! its own place, and `<id>.journal`, a record of place, length and hash for each copy. A copy
//! counts once its record is there, and is checked against the hash on every reading; so a process
//! killed at any moment leaves a cache that can be used, and a damaged copy is fetched anew.
//!
//! The id is a hash of URL, size and tag: a changed object is another one. A folder that has files
//! but not the mark of a cache is refused, and only files named like the two above are ever removed.
//!
//! What is evicted: a random order reads everything once before it reads anything twice, so that
//! the usual rule, the oldest goes first, would throw away what comes next. Objects that a living
//! process has open keep their copies; when they alone fill the bound, what was not copied yet is
//! read from the store each time. Room is made by removing objects that nobody has open, those first
//! that were opened longest ago.

mod disk;
mod journal;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use self::disk::Disk;
use self::journal::{Block, Blocks};
use super::retry::{Failure, FailureKind};
use crate::error::{FormatError, FormatErrorKind};

/// Length of a copy where an object is copied whole.
const PIECE: usize = 1 << 20;

/// Which content of which object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(u128);

impl Id {
    /// The id of what `text` tells apart.
    pub(super) fn new(text: &str) -> Self {
        Self(xxh3_128(text.as_bytes()))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A folder of copies, shared by all threads and by processes that name the same folder.
pub(crate) struct Cache {
    disk: Disk,
    known: Mutex<HashMap<Id, Blocks>>,
    flights: Mutex<HashMap<(Id, u64, u64), Arc<Flight>>>,
    /// Whether it was said that copies cannot be kept.
    warned: AtomicBool,
}

/// A range that one thread fetches while others wait.
#[derive(Default)]
struct Flight {
    landed: Mutex<Option<Result<Bytes, Crashed>>>,
    news: Condvar,
}

/// What is told to the threads that waited for another's fetch.
#[derive(Clone)]
struct Crashed {
    path: PathBuf,
    place: Option<String>,
    what: String,
}

impl Cache {
    /// The cache in `folder`; threads that name the same one share it.
    ///
    /// # Errors
    /// When the folder cannot be used, or has files and is no cache.
    pub(super) fn open(folder: &Path, limit: u64) -> Result<Arc<Self>, FormatError> {
        static OPEN: Mutex<Vec<(PathBuf, u64, Weak<Cache>)>> = Mutex::new(Vec::new());
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, _, cache)| cache.strong_count() > 0);
        let found = open.iter().find(|(f, l, _)| f == folder && *l == limit);
        if let Some(cache) = found.and_then(|(_, _, cache)| cache.upgrade()) {
            return Ok(cache);
        }
        let disk = Disk::open(folder, limit)?;
        let (known, flights) = (Mutex::default(), Mutex::default());
        let cache = Arc::new(Self { disk, known, flights, warned: AtomicBool::new(false) });
        open.push((folder.to_owned(), limit, Arc::downgrade(&cache)));
        Ok(cache)
    }

    /// Most bytes that the copies take.
    pub(super) fn limit(&self) -> u64 {
        self.disk.limit
    }

    /// Keeps the copies of `id` for as long as this process lives.
    pub(super) fn keep(&self, id: Id) -> Result<(), FormatError> {
        self.disk.keep(id)
    }

    /// Whether all of `range` is copied; then it is appended to `buf`, checked.
    pub(super) fn find(&self, id: Id, range: &Range<u64>, buf: &mut Vec<u8>) -> bool {
        let before = buf.len();
        let Some(blocks) = self.cover(id, range) else { return false };
        for block in blocks {
            let from = range.start.max(block.start);
            let part = (from - block.start) as usize
                ..(range.end.min(block.start + block.bytes) - block.start) as usize;
            let read = self.disk.read(id, block.start, block.bytes as usize);
            match read {
                Ok(bytes) if xxh3_64(&bytes) == block.hash => buf.extend_from_slice(&bytes[part]),
                _ => {
                    tracing::debug!("copy {id} at {} is damaged: fetched anew", block.start);
                    self.known().entry(id).or_default().forget(block.start);
                    buf.truncate(before);
                    return false;
                }
            }
        }
        true
    }

    /// Whether all of `range` is copied.
    pub(super) fn covers(&self, id: Id, range: &Range<u64>) -> bool {
        self.cover(id, range).is_some()
    }

    /// The copies that make up `range`.
    fn cover(&self, id: Id, range: &Range<u64>) -> Option<Vec<Block>> {
        let mut known = self.known();
        let blocks = known.entry(id).or_default();
        blocks.cover(range).or_else(|| {
            // Another process may have copied it meanwhile.
            self.disk.load(id, blocks);
            blocks.cover(range)
        })
    }

    /// Keeps a copy of `bytes`, which begin at byte `start` of the object, if there is room.
    pub(super) fn store(&self, id: Id, start: u64, bytes: &[u8]) {
        let mut fresh = match self.known().entry(id).or_default() {
            known if known.has(start, bytes.len() as u64) => return,
            known => Blocks::after(known.read),
        };
        let stored = self.disk.store(id, start, bytes, &mut fresh);
        self.known().entry(id).or_default().join(fresh);
        match stored {
            Ok(()) => {}
            Err(error) if !self.warned.swap(true, Ordering::Relaxed) => {
                tracing::warn!("{error}: copies are not kept");
            }
            Err(error) => tracing::debug!("{error}: no copy is kept"),
        }
    }

    /// Runs `fetch` for a range; threads that ask for the same range meanwhile wait and get the
    /// same bytes.
    pub(super) fn alone(
        &self,
        id: Id,
        range: &Range<u64>,
        fetch: impl FnOnce() -> Result<Bytes, FormatError>,
    ) -> Result<Bytes, FormatError> {
        let key = (id, range.start, range.end);
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key).cloned() {
            drop(flights);
            return flight.wait();
        }
        let flight = Arc::new(Flight::default());
        flights.insert(key, Arc::clone(&flight));
        drop(flights);
        let landing = Landing { cache: self, key, flight };
        let fetched = fetch();
        landing.land(&fetched);
        fetched
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Id, Blocks>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    fn wait(&self) -> Result<Bytes, FormatError> {
        let mut landed = self.landed.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*landed {
                Some(Ok(bytes)) => return Ok(bytes.clone()),
                Some(Err(Crashed { path, place, what })) => {
                    let kind = FormatErrorKind::Store(what.clone());
                    return Err(FormatError { path: path.clone(), place: place.clone(), kind });
                }
                None => landed = self.news.wait(landed).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Ends a flight however its fetch ends, a panic included.
struct Landing<'a> {
    cache: &'a Cache,
    key: (Id, u64, u64),
    flight: Arc<Flight>,
}

impl Landing<'_> {
    fn land(&self, fetched: &Result<Bytes, FormatError>) {
        self.tell(match fetched {
            Ok(bytes) => Ok(bytes.clone()),
            Err(e) => Err(Crashed {
                path: e.path.clone(),
                place: e.place.clone(),
                what: e.kind.to_string(),
            }),
        });
    }

    fn tell(&self, told: Result<Bytes, Crashed>) {
        let mut landed = self.flight.landed.lock().unwrap_or_else(PoisonError::into_inner);
        landed.get_or_insert(told);
        self.flight.news.notify_all();
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let what = "the thread that fetched it ended".to_owned();
        self.tell(Err(Crashed { path: PathBuf::new(), place: None, what }));
        let mut flights = self.cache.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.remove(&self.key);
    }
}

/// Copies an object piece by piece.
pub(super) struct Pieces<'a> {
    cache: &'a Cache,
    id: Id,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(cache: &'a Cache, id: Id) -> Self {
        Self { cache, id, start: 0, bytes: Vec::with_capacity(PIECE) }
    }

    /// Adds what begins at byte `start`; 0 begins anew.
    pub(super) fn take(&mut self, start: u64, mut bytes: &[u8]) -> Result<(), Failure> {
        if start == 0 {
            self.start = 0;
            self.bytes.clear();
        }
        if start != self.start + self.bytes.len() as u64 {
            return Err(Failure::new(FailureKind::Final, "pieces came out of order"));
        }
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(PIECE - self.bytes.len()));
            self.bytes.extend_from_slice(now);
            if self.bytes.len() == PIECE {
                self.finish();
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Copies what is left.
    pub(super) fn finish(&mut self) {
        self.cache.store(self.id, self.start, &self.bytes);
        self.start += self.bytes.len() as u64;
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests;
