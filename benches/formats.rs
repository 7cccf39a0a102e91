//! Reading encoded samples: random access to payloads of Parquet shards and tar archives beside a
//! plain `pread` of the same bytes, and the opening of many shards the first time and after.
//!
//! `TUBELET_BENCH_SHARDS=1000 cargo bench --bench formats -- open` opens a thousand shards of 1300
//! rows, as many as ImageNet has pictures; the memory that takes is printed.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;
use tubelet_core::{SampleId, Size};
use tubelet_formats::convert::{ConvertOptions, Format, convert};
use tubelet_formats::encode::encode_jpeg;
use tubelet_formats::{FormatError, MediaKind, OpenOptions, Record, ShardReader, Span, open};

/// Rows of a shard whose opening is measured.
const ROWS: usize = 1300;

/// Samples that share a few pictures.
struct Memory {
    pictures: Vec<Vec<u8>>,
    count: usize,
}

impl ShardReader for Memory {
    fn len(&self) -> usize {
        self.count
    }

    fn record(&self, n: usize) -> Record {
        let bytes = 0..self.pictures[n % self.pictures.len()].len() as u64;
        Record {
            id: SampleId(n as u64),
            label: Some((n % 1000) as u32),
            kind: MediaKind::Jpeg,
            info: None,
            name: format!("train/n{:08}/n{:08}_{n:06}.JPEG", n % 1000, n % 1000),
            span: Span::Range { shard: 0, bytes },
        }
    }

    fn read<'a>(&'a self, record: &Record, _: &'a mut Vec<u8>) -> Result<&'a [u8], FormatError> {
        Ok(&self.pictures[record.id.0 as usize % self.pictures.len()])
    }

    fn classes(&self) -> &[String] {
        &[]
    }
}

/// Pictures of noise: their bytes are about those of their pixels.
fn pictures(side: u32, count: u32) -> Vec<Vec<u8>> {
    let noise = |seed: u32, n: u32| (n.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(n)) >> 13;
    let pixels = |seed| (0..side * side * 3).map(|n| noise(seed + 1, n) as u8).collect::<Vec<_>>();
    (0..count).map(|s| encode_jpeg(&pixels(s), Size::square(side), 90).expect("encodes")).collect()
}

fn made(reader: &Memory, options: &ConvertOptions) -> TempDir {
    let out = tempfile::tempdir().expect("temporary folder");
    convert(reader, "bench", out.path(), options, &|_, _| ()).expect("converts");
    out
}

/// What a decoder does at least: looks at every byte.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0, |sum: u64, w| sum.wrapping_add(u64::from_le_bytes(*w)));
    rest.iter().fold(words, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

/// A fixed order that jumps.
fn order(count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |n| n * 7919 % count)
}

fn payloads(c: &mut Criterion) {
    let reader = Memory { pictures: pictures(224, 16), count: 1000 };
    let total: usize = (0..1000).map(|n| reader.pictures[n % 16].len()).sum();
    let mut group = c.benchmark_group("payloads");
    group.throughput(Throughput::Bytes(total as u64));
    for (name, format) in [("parquet", Format::Parquet), ("tar", Format::Webdataset)] {
        let out = made(&reader, &ConvertOptions { format, ..ConvertOptions::default() });
        let shards = open(out.path(), &OpenOptions::default()).expect("opens");
        let file = File::open(shard_in(out.path())).expect("opens");
        let mut buf = Vec::new();
        group.bench_function(name, |b| {
            b.iter(|| {
                for n in order(shards.len()) {
                    let record = shards.record(n);
                    black_box(sum(shards.read(&record, &mut buf).expect("read")));
                }
            });
        });
        let places: Vec<_> = (0..shards.len())
            .map(|n| match shards.record(n).span {
                Span::Range { bytes, .. } => bytes,
                other => panic!("{other:?}"),
            })
            .collect();
        group.bench_function(format!("pread of {name}"), |b| {
            b.iter(|| {
                for n in order(places.len()) {
                    buf.resize((places[n].end - places[n].start) as usize, 0);
                    file.read_exact_at(&mut buf, places[n].start).expect("read");
                    black_box(sum(&buf));
                }
            });
        });
    }
}

fn shard_in(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder).expect("folder").filter_map(Result::ok);
    files
        .map(|e| e.path())
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("train-")))
        .expect("a shard")
}

fn opening(c: &mut Criterion) {
    let shards = std::env::var("TUBELET_BENCH_SHARDS").ok().and_then(|n| n.parse().ok());
    let shards: usize = shards.unwrap_or(100);
    let reader = Memory { pictures: pictures(8, 4), count: shards * ROWS };
    let largest = reader.pictures.iter().map(Vec::len).sum::<usize>() / 4;
    let shard_size = (largest * ROWS) as u64;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let out = made(&reader, &ConvertOptions { shard_size, workers, ..ConvertOptions::default() });
    let stored = out.path().join(".tubelet/rows-train.bin");
    let all = || open(out.path(), &OpenOptions::default()).expect("opens");
    all();
    let before = memory();
    let start = Instant::now();
    let known = all();
    eprintln!(
        "{} rows of {} shards: opened in {:.3} s with {:.1} MiB of memory, {} MiB stored",
        known.len(),
        std::fs::read_dir(out.path()).map_or(0, |d| d.count()),
        start.elapsed().as_secs_f64(),
        memory() - before,
        std::fs::metadata(&stored).map_or(0, |m| m.len() >> 20),
    );
    let mut group = c.benchmark_group("open");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::Elements(known.len() as u64));
    group.bench_function("again", |b| b.iter(all));
    group.bench_function("first time", |b| {
        b.iter(|| {
            std::fs::remove_file(&stored).expect("stored");
            all()
        });
    });
}

/// Resident memory of this process in MiB.
fn memory() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

criterion_group!(benches, payloads, opening);
criterion_main!(benches);
