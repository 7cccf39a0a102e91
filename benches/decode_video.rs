//! A clip of 16 frames, 4 apart, from the middle of a video: all of each frame, a region, and a video
//! that was re-encoded for training. Elements are clips.
//!
//! `TUBELET_BENCH_VIDEO` names a file; else one is made.

#[path = "../tests/media.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod media;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tubelet_core::{Clip, Rect, Size};
use tubelet_formats::decode::decoder;
use tubelet_formats::record::FrameRequest;
use tubelet_formats::transcode::{VideoSettings, train_video};

fn decode(criterion: &mut Criterion) {
    let source = match std::env::var_os("TUBELET_BENCH_VIDEO") {
        Some(path) => std::fs::read(path).expect("TUBELET_BENCH_VIDEO can be read"),
        None => media::video(Size::new(340, 256), 150, 1),
    };
    let settings = VideoSettings {
        short_side: 256,
        stride: 4,
        crf: 23,
        small: false,
        drop_audio: true,
        fps: None,
    };
    let train = train_video(&source, &settings, false).expect("encodes").bytes.expect("bytes");
    let mut group = criterion.benchmark_group("decode_video");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    for (name, bytes, region) in [
        ("original, whole frames", &source, false),
        ("original, a region", &source, true),
        ("for training, a region", &train, true),
    ] {
        let (mut decoder, mut clip) = (decoder(), Clip::new());
        let info = decoder.probe(bytes).expect("a video");
        assert!(info.frames >= 64, "{} frames, fewer than a clip", info.frames);
        let first = (info.frames - 64) / 8 * 4;
        let size = info.size;
        let part = Rect { x: size.width / 4, y: 8, width: size.width / 2, height: size.height / 2 };
        let want = FrameRequest {
            frames: (0..16).map(|n| first + 4 * n).collect(),
            region: region.then_some(part),
            planes: false,
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| decoder.decode(bytes, &info, &want, &mut clip).expect("decodes"));
        });
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);
