//! Shards behind a server that fails in every way.

#[path = "../../../tests/store/server.rs"]
mod server;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{BinaryArray, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tubelet_core::{SampleId, Size};

use self::server::{FAULTS, Fault, Server};
use super::folder::split;
use super::*;
use crate::convert::{ConvertOptions, Format, convert};
use crate::encode::encode_jpeg;
use crate::record::{MediaKind, Record, ShardReader, Span};
use crate::shard::{OpenOptions, open};
use crate::transcode::Pyramid;

/// Pictures in memory.
struct Memory(Vec<Vec<u8>>);

impl ShardReader for Memory {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn record(&self, index: usize) -> Record {
        Record {
            id: SampleId(index as u64),
            label: Some(index as u32 % 3),
            kind: MediaKind::Jpeg,
            info: None,
            name: format!("ä {index}.jpg"),
            span: Span::Range { shard: 0, bytes: 0..self.0[index].len() as u64 },
        }
    }

    fn read<'a>(&'a self, record: &Record, _: &'a mut Vec<u8>) -> Result<&'a [u8], FormatError> {
        Ok(&self.0[record.id.0 as usize])
    }

    fn classes(&self) -> &[String] {
        &[]
    }
}

/// `count` pictures as shards in a folder.
fn shards(count: u32, format: Format) -> (tempfile::TempDir, Vec<Vec<u8>>) {
    shards_with(count, ConvertOptions { format, ..ConvertOptions::default() })
}

fn shards_with(count: u32, options: ConvertOptions) -> (tempfile::TempDir, Vec<Vec<u8>>) {
    let picture = |n: u32| {
        let size = Size::new(40 + n % 50, 30 + n % 40);
        let pixels: Vec<u8> =
            (0..size.area() as u32 * 3).map(|i| (i.wrapping_mul(n + 7) >> 3) as u8).collect();
        encode_jpeg(&pixels, size, 90).expect("encodes")
    };
    let pictures: Vec<Vec<u8>> = (0..count).map(picture).collect();
    let root = tempfile::tempdir().expect("folder");
    let options = ConvertOptions { shard_size: 40_000, ..options };
    let report = convert(&Memory(pictures.clone()), "memory", root.path(), &options, &|_, _| ());
    assert!(report.expect("converts").shards > 2);
    (root, pictures)
}

/// Limits that make a test fast and still find all faults passing.
fn quick() -> Limits {
    Limits {
        attempts: 25,
        total: Duration::from_secs(60),
        connect: Duration::from_secs(2),
        stall: Duration::from_millis(150),
        back_off: Duration::from_millis(1),
    }
}

/// Options that keep what is found out in the data's own folder.
fn options(root: &tempfile::TempDir, cache: Option<(&Path, u64)>) -> OpenOptions {
    let cache = cache.map(|(folder, bytes)| CacheOptions { folder: folder.to_owned(), bytes });
    let tables = Some(root.path().join(".tables"));
    let store = StoreOptions { endpoint: None, cache, tables, limits: quick() };
    OpenOptions { store, ..OpenOptions::default() }
}

fn read(reader: &dyn ShardReader, n: usize) -> Result<Vec<u8>, FormatError> {
    let mut buf = Vec::new();
    reader.read(&reader.record(n), &mut buf).map(<[u8]>::to_vec)
}

/// Reads everything on four threads, each in another order.
#[track_caller]
fn all_equal(reader: &dyn ShardReader, pictures: &[Vec<u8>]) {
    assert_eq!(reader.len(), pictures.len());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for n in 0..pictures.len() {
                    let n = (n * 7 + thread * 13) % pictures.len();
                    assert!(read(reader, n).expect("read") == pictures[n], "sample {n}");
                }
            });
        }
    });
}

#[test]
fn locations_are_told_apart() {
    let at = |text: &str| locate(Path::new(text));
    assert_eq!(at("a/b").expect("local"), Location::Local("a/b".into()));
    assert_eq!(at("file:///a%20b/c%").expect("local"), Location::Local("/a b/c%".into()));
    assert_eq!(at("s3://b/c//").expect("remote"), Location::Remote("s3://b/c".to_owned()));
    for wrong in ["ftp://x/y", "file://host/x", "s3://", "s3:///x", "http://h/x?sig=1"] {
        let error = at(wrong).expect_err(wrong);
        assert!(error.to_string().starts_with(wrong), "{error}");
    }
    assert_eq!(split("s3://b/c/d").expect("parts"), ("s3://b/c", "d"));
    assert_eq!(split("s3://b/d").expect("parts"), ("s3://b", "d"));
    assert!(split("s3://b").is_err());
}

/// Every sample of every shard, bit for bit, whatever the server does a third of the time.
#[test]
fn nothing_is_lost_when_a_third_of_the_answers_is_wrong() {
    for format in [Format::Parquet, Format::Webdataset] {
        let (root, pictures) = shards(60, format);
        let mut faults = HashSet::new();
        for seed in 0..3 {
            let server = Server::start();
            server.put_tree("data", root.path());
            // Wrong bytes can be told where a hash is known: not yet while shards are opened.
            let seen = FAULTS.iter().copied().filter(|f| *f != Fault::Garbage);
            server.fail(seed, 0.3, &seen.collect::<Vec<_>>());
            let url = PathBuf::from(server.url()).join("data");
            let reader = open(&url, &options(&root, None)).expect("opens");
            server.fail(seed + 100, 0.3, &FAULTS);
            all_equal(reader.as_ref(), &pictures);
            let seen = server.seen();
            faults.extend(seen.iter().filter_map(|s| s.fault));
            let whole = seen.iter().filter(|s| s.method == "GET" && s.range.is_none());
            assert!(whole.clone().all(|s| s.key.ends_with("manifest.json")), "ranges only");
        }
        assert_eq!(faults.len(), FAULTS.len(), "all faults happened: {faults:?}");
    }
}

/// One request for a payload, of its bytes alone.
#[test]
fn a_payload_is_one_range() {
    let (root, pictures) = shards(30, Format::Parquet);
    let server = Server::start();
    server.put_tree("data", root.path());
    let url = PathBuf::from(server.url()).join("data");
    let reader = open(&url, &options(&root, None)).expect("opens");
    server.seen();
    for (n, picture) in pictures.iter().enumerate() {
        assert!(read(reader.as_ref(), n).expect("read") == *picture);
        let seen = server.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        let range = seen[0].range.clone().expect("a range");
        assert_eq!(range.end - range.start, picture.len() as u64 + 4, "with its length");
    }
    drop(reader);
    // What was found out is stored: the second time nothing but the manifest is asked for.
    let again = open(&url, &options(&root, None)).expect("opens");
    assert_eq!(again.len(), pictures.len());
    let seen = server.seen();
    assert!(seen.iter().all(|s| s.key == "data/manifest.json"), "{seen:?}");
}

/// A failure that does not pass ends in time, with URL, range and cause.
#[test]
fn what_stays_broken_is_an_error_in_bounded_time() {
    let (root, pictures) = shards(30, Format::Parquet);
    let causes = [
        (Fault::Status(503), "503"),
        (Fault::Stall, "time"),
        (Fault::Truncate, "body"),
        (Fault::Short, ""),
        (Fault::WrongRange, "Requested"),
        (Fault::Reset, ""),
        (Fault::Garbage, "payload"),
        (Fault::Status(403), "403"),
    ];
    for (fault, cause) in causes {
        let server = Server::start();
        server.put_tree("data", root.path());
        let url = PathBuf::from(server.url()).join("data");
        let mut options = options(&root, None);
        options.store.limits.attempts = 4;
        let reader = open(&url, &options).expect("opens");
        server.seen();
        server.break_key("train-00001", fault);
        let start = Instant::now();
        let broken = |n: &usize| match reader.record(*n).span {
            Span::Range { shard, .. } => shard == 1,
            _ => false,
        };
        let n = (0..pictures.len()).find(broken).expect("a sample in it");
        let error = read(reader.as_ref(), n).expect_err("broken").to_string();
        assert!(start.elapsed() < Duration::from_secs(10), "{fault:?}: {:?}", start.elapsed());
        assert!(error.contains(&format!("{}/data/train-00001-of-", server.url())), "{error}");
        assert!(error.contains("bytes ") && error.contains(cause), "{fault:?}: {error}");
        let attempts = if fault == Fault::Status(403) { 1 } else { 4 };
        assert_eq!(server.seen().len(), attempts, "{fault:?}: {error}");
        if attempts > 1 {
            assert!(error.contains("4 attempts"), "{error}");
        }
        assert!(read(reader.as_ref(), 0).expect("another shard") == pictures[0]);
    }
}

#[test]
fn an_absent_shard_or_manifest_is_named() {
    let root = tempfile::tempdir().expect("folder");
    let server = Server::start();
    let url = |name: &str| PathBuf::from(format!("{}/{name}", server.url()));
    let error =
        |name: &str| open(&url(name), &options(&root, None)).err().expect("absent").to_string();
    let absent = error("data");
    assert!(absent.contains("manifest.json") && absent.contains("lists no folders"), "{absent}");
    let absent = error("data/x.parquet");
    assert!(absent.contains("data/x.parquet") && absent.contains("not found"), "{absent}");
    server.put("data/x.parquet", b"PAR1 no footer here PAR1".to_vec());
    let damaged = error("data/x.parquet");
    assert!(damaged.contains("data/x.parquet: Parquet"), "{damaged}");
    let packed = error("data/x.tar.gz");
    assert!(packed.contains("compressed"), "{packed}");
}

/// A shard that is replaced while it is read is an error, not other bytes.
#[test]
fn a_shard_that_changes_is_an_error() {
    let (root, pictures) = shards(30, Format::Parquet);
    let server = Server::start();
    server.put_tree("data", root.path());
    let name = "train-00000-of-00003.parquet";
    let found: Vec<String> = server.tree("data").into_keys().collect();
    let name = found.iter().find(|n| n.starts_with(&name[..11])).expect("a shard");
    let url = PathBuf::from(format!("{}/data/{name}", server.url()));
    let mut options = options(&root, None);
    options.store.limits.attempts = 2;
    let reader = open(&url, &options).expect("opens");
    assert!(read(reader.as_ref(), 0).expect("read") == pictures[0]);
    let mut other = server.tree("data")[name.as_str()].clone();
    other.rotate_left(1);
    server.put(&format!("data/{name}"), other);
    let error = read(reader.as_ref(), 0).expect_err("changed").to_string();
    assert!(error.contains("has changed since it was opened: tag"), "{error}");
}

/// Braces, single shards, and tar files of a server.
#[test]
fn urls_name_shards_as_paths_do() {
    for format in [Format::Parquet, Format::Webdataset] {
        let (root, pictures) = shards(40, format);
        let server = Server::start();
        server.put_tree("data set", root.path());
        let names: Vec<String> = server.tree("data set").into_keys().collect();
        let shards: Vec<&String> = names.iter().filter(|n| n.starts_with("train-")).collect();
        let last = shards.len() - 1;
        let braces = shards[0].replacen("00000", &format!("{{00000..{last:05}}}"), 1);
        let url = |name: &str| PathBuf::from(format!("{}/data%20set/{name}", server.url()));
        let all = open(&url(&braces), &options(&root, None)).expect("opens");
        all_equal(all.as_ref(), &pictures);
        let local = open(&root.path().join(shards[1]), &options(&root, None)).expect("opens");
        let one = open(&url(shards[1]), &options(&root, None)).expect("opens");
        assert_eq!(local.len(), one.len());
        for n in 0..one.len() {
            let (a, b) = (local.record(n), one.record(n));
            assert_eq!((a.label, a.info, a.name), (b.label, b.info, b.name));
            assert!(read(local.as_ref(), n).expect("read") == read(one.as_ref(), n).expect("read"));
        }
        let folder = PathBuf::from(format!("file://{}", root.path().display()));
        all_equal(open(&folder, &options(&root, None)).expect("opens").as_ref(), &pictures);
    }
}

/// With a cache, everything is fetched once, by however many threads and in later runs too.
#[test]
fn copies_are_fetched_once() {
    let (root, pictures) = shards(40, Format::Parquet);
    let work = tempfile::tempdir().expect("folder");
    let server = Server::start();
    server.put_tree("data", root.path());
    let url = PathBuf::from(server.url()).join("data");
    let folder = work.path().join("cache");
    let options = options(&root, Some((&folder, 10 << 20)));
    let reader = open(&url, &options).expect("opens");
    server.seen();
    all_equal(reader.as_ref(), &pictures);
    all_equal(reader.as_ref(), &pictures);
    let seen = server.seen();
    let ranges: HashSet<_> = seen.iter().map(|s| (s.key.clone(), s.range.clone())).collect();
    assert_eq!((seen.len(), ranges.len()), (pictures.len(), pictures.len()), "each once");
    drop(reader);
    let reader = open(&url, &options).expect("opens");
    server.seen();
    all_equal(reader.as_ref(), &pictures);
    assert!(server.seen().is_empty(), "all are copied");
}

/// A cache with room for half of the data serves half of it in every later pass, whatever the order.
#[test]
fn a_small_cache_serves_its_share() {
    let (root, pictures) = shards(80, Format::Parquet);
    let work = tempfile::tempdir().expect("folder");
    let server = Server::start();
    server.put_tree("data", root.path());
    let url = PathBuf::from(server.url()).join("data");
    let pages: u64 = pictures.iter().map(|p| p.len() as u64 + 4096).sum();
    let folder = work.path().join("cache");
    let options = options(&root, Some((&folder, 32_768 + pages / 2)));
    let reader = open(&url, &options).expect("opens");
    for pass in 0..4usize {
        server.seen();
        for n in 0..pictures.len() {
            let n = (n * (7 + 2 * pass) + pass * 31) % pictures.len();
            assert!(read(reader.as_ref(), n).expect("read") == pictures[n]);
        }
        let asked = server.seen().len();
        assert!(pass == 0 || asked < pictures.len() * 2 / 3, "pass {pass}: {asked} requests");
    }
}

/// A server that ignores ranges: an error that says so, or each shard once, whole.
#[test]
fn a_server_without_ranges_needs_a_cache() {
    for format in [Format::Parquet, Format::Webdataset] {
        let (root, pictures) = shards(40, format);
        let work = tempfile::tempdir().expect("folder");
        let server = Server::start();
        server.put_tree("data", root.path());
        server.whole_only();
        let url = PathBuf::from(server.url()).join("data");
        let error = open(&url, &options(&root, None)).err().expect("no ranges").to_string();
        assert!(error.contains("whole files only") && error.contains("--cache"), "{error}");
        let folder = work.path().join("cache");
        let with = |bytes| options(&root, Some((&folder, bytes)));
        let small = open(&url, &with(30_000)).err().expect("no room").to_string();
        assert!(small.contains("--cache-size"), "{small}");
        let reader = open(&url, &with(10 << 20)).expect("opens");
        all_equal(reader.as_ref(), &pictures);
        server.seen();
        all_equal(reader.as_ref(), &pictures);
        assert!(server.seen().is_empty(), "all is copied");
    }
}

/// Smaller encodings are fetched as one range each, and checked as the pictures beside them are.
#[test]
fn pyramids_of_a_store_equal_local_ones() {
    for format in [Format::Parquet, Format::Webdataset] {
        let pyramid = Some(Pyramid { sides: vec![16, 48], quality: 80 });
        let (root, pictures) =
            shards_with(60, ConvertOptions { format, pyramid, ..ConvertOptions::default() });
        let server = Server::start();
        server.put_tree("data", root.path());
        let url = PathBuf::from(server.url()).join("data");
        let local = open(root.path(), &options(&root, None)).expect("opens");
        let remote = open(&url, &options(&root, None)).expect("opens");
        assert_eq!(remote.level_sides(), local.level_sides());
        let (mut ours, mut theirs, mut absent) = (Vec::new(), Vec::new(), 0);
        for (n, side) in (0..pictures.len()).flat_map(|n| [(n, 16), (n, 48)]) {
            server.seen();
            let here = local.read_level(&local.record(n), side, &mut ours).expect("read");
            let there = remote.read_level(&remote.record(n), side, &mut theirs).expect("read");
            assert!(here == there, "sample {n}, side {side}");
            let ranges: Vec<_> = server.seen().into_iter().filter_map(|s| s.range).collect();
            match there {
                Some(level) => assert_eq!(ranges[0].end - ranges[0].start, level.len() as u64 + 4),
                None => absent += 1,
            }
            assert_eq!(ranges.len(), usize::from(there.is_some()));
        }
        let few = 1..pictures.len();
        assert!(few.contains(&absent) || format == Format::Webdataset && absent == 120, "{absent}");
        server.fail(3, 0.3, &FAULTS);
        all_equal(remote.as_ref(), &pictures);
    }
}

/// Files of other programs: compressed, many rows a page, a column that only looks like hashes.
#[test]
fn files_without_places_are_read_through_the_library() {
    let names: Vec<String> = (0..50).map(|n| format!("{n}.jpg")).collect();
    let payload = |n: usize| format!("payload {n} ").repeat(400 + n).into_bytes();
    let payloads: Vec<Vec<u8>> = (0..names.len()).map(payload).collect();
    let columns: [(&str, arrow_array::ArrayRef); 3] = [
        ("image", Arc::new(BinaryArray::from_iter_values(&payloads))),
        ("label", Arc::new(Int64Array::from_iter_values(0..50))),
        ("xxh3", Arc::new(StringArray::from_iter_values(&names))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    let root = tempfile::tempdir().expect("folder");
    for (name, compression) in
        [("a.parquet", Compression::SNAPPY), ("b.parquet", Compression::UNCOMPRESSED)]
    {
        let path = root.path().join(name);
        let file = std::fs::File::create(&path).expect("made");
        let properties = WriterProperties::builder().set_compression(compression).build();
        let mut writer =
            ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("writes");
        writer.write(&batch).expect("writes");
        writer.close().expect("writes");
        let server = Server::start();
        server.put("data/x.parquet", std::fs::read(&path).expect("read"));
        let url = PathBuf::from(format!("{}/data/x.parquet", server.url()));
        for again in [false, true] {
            server.seen();
            let reader = open(&url, &options(&root, None)).expect("opens");
            let asked = server.seen().iter().filter(|s| s.range.is_some()).count();
            assert_eq!(asked == 0, again, "what is in it is stored");
            assert_eq!(reader.record(7).label, Some(7));
            all_equal(reader.as_ref(), &payloads);
        }
    }
}
