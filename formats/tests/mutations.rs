//! Thousands of damaged files, the same ones every time: what the fuzz targets run must come back
//! soon, without a panic, and without memory out of proportion to the file.
//!
//! `seeds/<target>` are small valid inputs, which fuzzing begins with too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tubelet_formats::fuzz::{TARGETS, run};

/// Counts the bytes in use and their most.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(used, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Mutations of each target, unless `TUBELET_MUTATIONS` says another number.
const ROUNDS: u64 = 1500;
/// Memory that an input of a few kilobytes may take: stacks of threads, decompressors and buffers of the
/// libraries come to some megabytes.
const ROOM: usize = 48 << 20;
/// Time that one may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A small generator: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Values that sizes and counts break at.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

fn mutated(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(7) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            2 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            3 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let wide = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                bytes[at..at + wide].copy_from_slice(&edge[..wide]);
            }
            4 => {
                let end = at + random.below(64).min(bytes.len() - at);
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            5 => {
                let end = at + random.below(64).min(bytes.len() - at);
                bytes.drain(at..end);
            }
            _ => {
                let digits = EDGES[random.below(EDGES.len())].to_string();
                let end = (at + 1).min(bytes.len());
                bytes.splice(at..end, digits.into_bytes());
            }
        }
    }
    bytes
}

/// Stored hashes would refuse every mutation before it is looked at.
fn with_hash(target: &str, mut bytes: Vec<u8>) -> Vec<u8> {
    if target == "rows" && bytes.len() > 24 {
        let hash = xxhash_rust::xxh3::xxh3_64(&bytes[24..]);
        bytes[16..24].copy_from_slice(&hash.to_le_bytes());
    }
    bytes
}

#[test]
fn damaged_files_do_no_harm() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seeds");
    std::panic::set_hook(Box::new(|_| ()));
    let mut wrong = Vec::new();
    let rounds = std::env::var("TUBELET_MUTATIONS").ok().and_then(|n| n.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    for target in TARGETS {
        let folder = seeds.join(target);
        let files =
            std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut files: Vec<_> = files.map(|entry| entry.expect("readable").path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{target} has no seed");
        let files: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).expect("read")).collect();
        let mut found = 0;
        for round in 0..rounds {
            let mut random = Random(round ^ xxhash_rust::xxh3::xxh3_64(target.as_bytes()));
            let seed = &files[round as usize % files.len()];
            let whole = (round as usize) < files.len();
            let bytes = if whole { seed.clone() } else { mutated(seed, &mut random) };
            let bytes = with_hash(target, bytes);
            let before = USED.load(Ordering::Relaxed);
            MOST.store(before, Ordering::Relaxed);
            let start = Instant::now();
            let ended = catch_unwind(AssertUnwindSafe(|| run(target, &bytes).expect("a target")));
            let most = MOST.load(Ordering::Relaxed).saturating_sub(before);
            let mut note = |what: String| wrong.push(format!("{target}, round {round}: {what}"));
            match ended {
                Err(_) => note("panics".to_owned()),
                Ok(count) if whole => found += count,
                Ok(_) => {}
            }
            if most > ROOM {
                note(format!("{} MiB for {} bytes", most >> 20, bytes.len()));
            }
            if start.elapsed() > PATIENCE {
                note(format!("takes {:?}", start.elapsed()));
            }
        }
        if found == 0 {
            wrong.push(format!("{target}: nothing is found in its seeds"));
        }
    }
    let _ = std::panic::take_hook();
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}
