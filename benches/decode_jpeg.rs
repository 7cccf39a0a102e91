//! JPEG to RGB: our own decoder beside libjpeg-turbo, whole pictures and regions.
//!
//! `TUBELET_BENCH_IMAGES` names a folder of photos; else pictures are made.

#[path = "../tests/media.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod media;

use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tubelet_core::{Clip, Rect, Size};
use tubelet_formats::decode::jpeg::{JpegDecoder, Way};

/// At most 64 files.
fn files() -> Vec<Vec<u8>> {
    let Some(folder) = std::env::var_os("TUBELET_BENCH_IMAGES") else {
        return (0..16).map(|n| media::jpeg(Size::new(500, 375), n)).collect();
    };
    let mut files = Vec::new();
    gather(Path::new(&folder), &mut files);
    files
}

fn gather(folder: &Path, files: &mut Vec<Vec<u8>>) {
    let entries = std::fs::read_dir(folder).expect("TUBELET_BENCH_IMAGES is a folder");
    for path in entries.flatten().map(|e| e.path()) {
        let is_jpeg = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jpeg"));
        if path.is_dir() {
            gather(&path, files);
        } else if is_jpeg && files.len() < 64 {
            files.push(std::fs::read(path).expect("can be read"));
        }
    }
}

/// The middle of a picture, three fifths of either side.
fn middle(size: Size) -> Rect {
    let part = |n: u32| (n / 5, (3 * n / 5).max(1));
    let ((x, width), (y, height)) = (part(size.width), part(size.height));
    Rect { x, y, width, height }
}

fn decode(criterion: &mut Criterion) {
    let files = files();
    let (mut decoder, mut clip) = (JpegDecoder::new(), Clip::new());
    let sizes: Vec<Size> =
        files.iter().map(|f| decoder.probe(f).expect("a JPEG file").size).collect();
    let mut group = criterion.benchmark_group("decode_jpeg");
    group.throughput(Throughput::Elements(files.len() as u64)).sample_size(20);
    for (what, region) in [("whole", false), ("middle", true)] {
        for way in [Way::Turbo, Way::Best] {
            group.bench_function(format!("{what}, {way:?}"), |bencher| {
                bencher.iter(|| {
                    for (file, size) in files.iter().zip(&sizes) {
                        let region = region.then(|| middle(*size));
                        decoder.decode_by(way, file, region, &mut clip).expect("decodes");
                    }
                });
            });
        }
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);
