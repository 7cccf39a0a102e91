//! The bound, what is evicted and what never is, damage, and threads that want the same.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;

fn id(text: &str) -> Id {
    Id::new(text)
}

fn payload(seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|n| (n.wrapping_mul(seed * 2 + 1) >> 3) as u8).collect()
}

fn found(cache: &Cache, id: Id, range: Range<u64>) -> Option<Vec<u8>> {
    let mut buf = Vec::new();
    cache.find(id, &range, &mut buf).then_some(buf)
}

/// Bytes of disk that a folder's files take.
#[cfg(unix)]
fn used(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).expect("readable");
    entries.map(|e| e.expect("entry").metadata().expect("known").blocks() * 512).sum()
}

#[test]
fn copies_are_found_whole_or_in_parts_and_after_a_restart() {
    let root = tempfile::tempdir().expect("folder");
    let (a, b) = (id("a"), id("b"));
    {
        let cache = Cache::open(root.path(), 10 << 20).expect("opens");
        cache.store(a, 5000, &payload(1, 100));
        cache.store(a, 5100, &payload(2, 50_000));
        assert_eq!(found(&cache, a, 5000..5100), Some(payload(1, 100)));
        assert_eq!(found(&cache, b, 5000..5100), None);
        assert_eq!(found(&cache, a, 4999..5100), None);
        assert_eq!(found(&cache, a, 5000..55_101), None);
    }
    let cache = Cache::open(root.path(), 10 << 20).expect("opens");
    let both = [payload(1, 100), payload(2, 50_000)].concat();
    assert_eq!(found(&cache, a, 5050..50_000), Some(both[50..45_000].to_vec()));
}

/// Whatever comes in whatever order, the bound holds; objects that are open stay.
#[cfg(unix)]
#[test]
fn the_bound_holds_and_what_is_open_stays() {
    let root = tempfile::tempdir().expect("folder");
    let limit = 400 << 10;
    let old = id("old");
    {
        let cache = Cache::open(root.path(), limit).expect("opens");
        cache.keep(old).expect("kept");
        cache.store(old, 0, &payload(1, 200 << 10));
        assert!(cache.covers(old, &(0..200 << 10)));
    }
    let cache = Cache::open(root.path(), limit).expect("opens");
    let open: Vec<Id> = (0..3).map(|n| id(&format!("open {n}"))).collect();
    open.iter().for_each(|id| cache.keep(*id).expect("kept"));
    let mut kept = Vec::new();
    for n in 0..200u64 {
        let (id, bytes) = (open[n as usize % 3], payload(n, 1 + (n as usize * 7919) % 9000));
        let start = n * 10_000;
        cache.store(id, start, &bytes);
        let range = start..start + bytes.len() as u64;
        if let Some(copy) = found(&cache, id, range.clone()) {
            assert!(copy == bytes);
            kept.push((id, range, bytes));
        }
        assert!(used(root.path()) <= limit, "{} bytes after {n}", used(root.path()));
    }
    assert!(kept.len() > 20 && kept.len() < 200, "{} kept", kept.len());
    assert!(used(root.path()) > limit / 2, "the room is used");
    assert_eq!(found(&cache, old, 0..10), None, "nobody had it open");
    for (id, range, bytes) in kept {
        assert_eq!(found(&cache, id, range), Some(bytes), "a copy in use was evicted");
    }
    cache.store(open[0], 1 << 30, &payload(1, limit as usize + 1));
    assert!(!cache.covers(open[0], &(1 << 30..(1 << 30) + 1)), "larger than the bound");
}

/// A second process, as another instance: it does not evict what the first has open.
#[test]
fn processes_respect_each_other() {
    let root = tempfile::tempdir().expect("folder");
    let first = Cache::open(root.path(), 300 << 10).expect("opens");
    let second = Cache::open(root.path(), 301 << 10).expect("opens");
    assert!(!Arc::ptr_eq(&first, &second));
    let (a, b) = (id("a"), id("b"));
    first.keep(a).expect("kept");
    first.store(a, 0, &payload(1, 200 << 10));
    second.keep(b).expect("kept");
    second.store(b, 0, &payload(2, 200 << 10));
    assert!(!second.covers(b, &(0..10)), "there is no room");
    assert_eq!(found(&second, a, 0..200 << 10), Some(payload(1, 200 << 10)), "and it is shared");
    drop(first);
    second.store(b, 0, &payload(2, 200 << 10));
    assert_eq!(found(&second, b, 0..200 << 10), Some(payload(2, 200 << 10)));
}

/// Only the cache's own files are ever removed, and only a cache or an empty folder is taken.
#[test]
fn files_of_others_are_never_touched() {
    let root = tempfile::tempdir().expect("folder");
    let mine = root.path().join("thesis.parquet");
    std::fs::write(&mine, b"the only copy").expect("written");
    let refused = Cache::open(root.path(), 1 << 20).err().expect("refused").to_string();
    assert!(refused.contains("is no cache"), "{refused}");
    assert_eq!(std::fs::read_dir(root.path()).expect("readable").count(), 1, "nothing was made");

    let folder = root.path().join("cache");
    drop(Cache::open(&folder, 1 << 20).expect("opens"));
    let near = ["notes.data", "0123.journal", &format!("{}.parquet", id("x")), "tubelet-lease"];
    for name in near {
        std::fs::write(folder.join(name), vec![1; 50_000]).expect("written");
    }
    let cache = Cache::open(&folder, 64 << 10).expect("opens");
    for n in 0..50 {
        cache.store(id(&n.to_string()), 0, &payload(n, 20_000));
    }
    for name in near {
        assert_eq!(std::fs::read(folder.join(name)).expect("there"), vec![1; 50_000], "{name}");
    }
}

/// Cut and flipped files lead to copies that are not there, never to other bytes.
#[test]
fn damaged_copies_are_not_found() {
    let root = tempfile::tempdir().expect("folder");
    let a = id("a");
    let copies: Vec<(u64, Vec<u8>)> = (0..8).map(|n| (n * 7000, payload(n, 5000))).collect();
    {
        let cache = Cache::open(root.path(), 1 << 20).expect("opens");
        copies.iter().for_each(|(start, bytes)| cache.store(a, *start, bytes));
    }
    let files = [format!("{a}.data"), format!("{a}.journal")].map(|f| root.path().join(f));
    for file in &files {
        let whole = std::fs::read(file).expect("there");
        for place in (0..whole.len()).step_by(whole.len() / 40) {
            for cut in [true, false] {
                let mut damaged = whole.clone();
                if cut {
                    damaged.truncate(place);
                } else {
                    damaged[place] ^= 0x10;
                }
                std::fs::write(file, &damaged).expect("written");
                let cache = Cache::open(root.path(), 1 << 20).expect("opens");
                for (start, bytes) in &copies {
                    let copy = found(&cache, a, *start..start + 5000);
                    assert!(copy.is_none_or(|c| c == *bytes), "{place}");
                    cache.store(a, *start, bytes);
                    assert_eq!(found(&cache, a, *start..start + 5000).as_ref(), Some(bytes));
                }
            }
        }
        std::fs::write(file, &whole).expect("written");
    }
}

#[test]
fn threads_that_want_the_same_fetch_it_once() {
    let root = tempfile::tempdir().expect("folder");
    let cache = Cache::open(root.path(), 1 << 20).expect("opens");
    let fetches = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let bytes = cache.alone(id("a"), &(3..7), || {
                    fetches.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(100));
                    Ok(Bytes::from_static(b"four"))
                });
                assert_eq!(bytes.expect("fetched"), b"four"[..]);
            });
        }
    });
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
    // An error and a panic reach those who wait, and the next one may try again.
    let failed = std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let _ = cache.alone(id("a"), &(0..1), || -> Result<Bytes, FormatError> {
                std::thread::sleep(Duration::from_millis(100));
                panic!("a bug")
            });
        });
        std::thread::sleep(Duration::from_millis(30));
        let waited = cache.alone(id("a"), &(0..1), || Ok(Bytes::new()));
        assert!(first.join().is_err());
        waited.err().map(|e| e.to_string())
    });
    assert!(failed.is_some_and(|e| e.contains("ended")));
    assert!(cache.alone(id("a"), &(0..1), || Ok(Bytes::new())).is_ok());
}
