//! Which copies of an object there are.

use std::collections::BTreeMap;
use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of a record: start, length, hash of the copy, hash of these three.
pub(super) const RECORD: u64 = 32;
/// Seed of a record's own hash: raised when records change.
const VERSION: u64 = 1;
/// Disks are counted in pages.
const PAGE: u64 = 4096;

/// One copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) hash: u64,
}

impl Block {
    pub(super) fn record(&self) -> [u8; RECORD as usize] {
        let mut record = [0; RECORD as usize];
        for (n, value) in [self.start, self.bytes, self.hash].into_iter().enumerate() {
            record[n * 8..n * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }
        let own = xxh3_64_with_seed(&record[..24], VERSION);
        record[24..].copy_from_slice(&own.to_le_bytes());
        record
    }

    /// `None` for a record that was not written whole.
    fn of(record: &[u8]) -> Option<Self> {
        let value = |n: usize| {
            let bytes = record.get(n * 8..n * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let block = Self { start: value(0)?, bytes: value(1)?, hash: value(2)? };
        (value(3)? == xxh3_64_with_seed(&record[..24], VERSION)).then_some(block)
    }

    /// Disk that it takes at most.
    pub(super) fn pages(&self) -> u64 {
        let end = self.start.saturating_add(self.bytes).next_multiple_of(PAGE);
        end - self.start / PAGE * PAGE
    }
}

/// Bytes of disk for a file of `bytes`.
pub(super) fn rounded(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE)
}

/// The copies of an object by their start.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    by_start: BTreeMap<u64, Block>,
    /// Bytes of the journal that were read.
    pub(super) read: u64,
}

impl Blocks {
    /// Adds the records in `bytes`, the journal from [`Self::read`] on.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        for record in bytes.chunks_exact(RECORD as usize) {
            if let Some(block) = Block::of(record) {
                self.insert(block);
            }
            self.read += RECORD;
        }
    }

    pub(super) fn insert(&mut self, block: Block) {
        self.by_start.insert(block.start, block);
    }

    pub(super) fn forget(&mut self, start: u64) {
        self.by_start.remove(&start);
    }

    /// None, of a journal of which `read` bytes are known elsewhere.
    pub(super) fn after(read: u64) -> Self {
        Self { by_start: BTreeMap::new(), read }
    }

    /// Adds what is known of the same object elsewhere.
    pub(super) fn join(&mut self, other: Self) {
        self.read = self.read.max(other.read);
        self.by_start.extend(other.by_start);
    }

    pub(super) fn has(&self, start: u64, bytes: u64) -> bool {
        self.by_start.get(&start).is_some_and(|b| b.bytes == bytes)
    }

    /// Disk that the copies take at most.
    pub(super) fn pages(&self) -> u64 {
        self.by_start.values().map(Block::pages).sum()
    }

    /// Copies that make up `range`, in order; `None` where something of it is not copied.
    pub(super) fn cover(&self, range: &Range<u64>) -> Option<Vec<Block>> {
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (_, block) = self.by_start.range(..=at).next_back()?;
            let end = block.start.checked_add(block.bytes)?;
            if end <= at {
                return None;
            }
            found.push(*block);
            at = end;
        }
        Some(found)
    }
}
