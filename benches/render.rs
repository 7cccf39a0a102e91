//! From decoded frames to floats: crop, resize, mirror and store; normalise; pixel targets, beside a
//! copy of the same number of bytes.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tubelet_augment::normalise::IMAGENET;
use tubelet_augment::target::bytes::ByteTargets;
use tubelet_augment::target::pixels::{FrameChoice, PatchNorm};
use tubelet_augment::{Recipe, Scratch, Stage, builtin};
use tubelet_core::{
    Clip, Heap, HostMemory, MediaInfo, PatchSize, RowMut, SampleId, SampleKey, Size,
};

/// Soft shapes with a little noise, as photos have them.
fn photo(size: Size, frame: u32) -> Vec<u8> {
    let mut noise = frame + 1;
    let mut pixels = Vec::with_capacity(3 * size.area());
    for y in 0..size.height {
        for x in 0..size.width {
            let (u, v) = (x as f32 / 37.0 + frame as f32 / 9.0, y as f32 / 23.0);
            for c in 0..3 {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let shape = (u + c as f32).sin() * 70.0 + (v - u / 3.0).cos() * 40.0;
                pixels.push((128.0 + shape + (noise >> 28) as f32) as u8);
            }
        }
    }
    pixels
}

/// A clip that holds the first `frames` frames.
fn clip(size: Size, frames: u32) -> (Clip, MediaInfo) {
    let mut clip = Clip::new();
    clip.reset(size, &(0..frames).collect::<Vec<_>>());
    for n in 0..frames {
        clip.nth_mut(n as usize).copy_from_slice(&photo(size, n));
    }
    let info = MediaInfo { frames, fps: 30.0, ..MediaInfo::picture(size, "none") };
    (clip, info)
}

fn render(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crop, resize, mirror, store");
    group.throughput(Throughput::Elements(1));
    let cases = [
        ("picture 500x375", "mae-vit-b", Size::new(500, 375), 1),
        ("picture 1600x1200", "mae-vit-b", Size::new(1600, 1200), 1),
        ("clip 340x256", "videomae-vit-b-k400", Size::new(340, 256), 64),
        ("clip 340x256, torch", "mae-st-vit-l", Size::new(340, 256), 64),
    ];
    for (name, recipe, size, frames) in cases {
        let file = builtin::recipe(recipe, &[]).expect("built in");
        let recipe = file.stage(Stage::Pretrain).expect("checked when built");
        let (clip, info) = clip(size, frames);
        group.bench_function(name, |bencher| {
            let layout = recipe.layout_of(0, 1);
            let slot = Heap.allocate(layout.bytes).expect("small");
            let (mut scratch, mut sample) = (Scratch::default(), 0);
            bencher.iter(|| {
                sample += 1;
                let plan = recipe.plan(key(sample), &info).expect("it has pixels");
                // SAFETY: the slot has the layout's bytes, and one row is filled at a time.
                let mut row = unsafe { RowMut::from_raw(&layout, slot.as_ptr(), 0) };
                recipe.render(&plan, &clip, &mut scratch, &mut row).expect("all frames are there");
            });
        });
    }
}

fn key(sample: u64) -> SampleKey {
    SampleKey { seed: 1, epoch: 0, sample: SampleId(sample), repeat: 0 }
}

fn normalise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("normalise");
    let size = Size::square(224);
    for rows in [1, 32] {
        let bytes = photo(size, 0).repeat(rows);
        let mut out = vec![0.0f32; bytes.len()];
        group.throughput(Throughput::Bytes(4 * out.len() as u64));
        let row = 3 * size.area();
        group.bench_function(format!("{rows} of 224x224"), |bencher| {
            bencher.iter(|| {
                for (bytes, out) in bytes.chunks_exact(row).zip(out.chunks_exact_mut(row)) {
                    IMAGENET.apply(bytes, 1, size, out);
                }
            });
        });
        let from = out.clone();
        group.bench_function(format!("{rows} of 224x224, copy"), |bencher| {
            bencher.iter(|| black_box(&mut out[..]).copy_from_slice(black_box(&from)));
        });
    }
}

fn targets(criterion: &mut Criterion) {
    let size = Size::square(224);
    let (picture, clip) = ("mae-vit-b", "videomae-vit-b-k400");
    let cases = [
        ("a picture", picture, 1, 1),
        ("32 pictures", picture, 1, 32),
        ("a clip", clip, 16, 1),
        ("4 clips", clip, 16, 4),
    ];
    for (name, recipe, frames, rows) in cases {
        let recipe = builtin::recipe(recipe, &[]).expect("built in");
        let recipe: Recipe = recipe.stage(Stage::Pretrain).expect("checked when built");
        let patch: PatchSize = recipe.patch();
        // The hidden tokens of a drawn mask.
        let info = MediaInfo { frames, fps: 30.0, ..MediaInfo::picture(size, "none") };
        let plan = recipe.plan(key(0), &info).expect("it has pixels");
        let mask = plan.views[0].mask.clone().expect("it masks");
        let tokens: Vec<u32> = mask.masked().collect();
        let row: Vec<u8> = (0..frames).flat_map(|n| photo(size, n)).collect();
        let bytes = row.repeat(rows);
        let mut group = criterion.benchmark_group(format!("targets of {name}"));
        let choice = FrameChoice::All;
        let stage = |norm| ByteTargets::new(norm, frames, size, patch, IMAGENET, choice);
        let width = tokens.len() * stage(PatchNorm::Raw).dim();
        let mut out = vec![0.0f32; rows * width];
        group.throughput(Throughput::Bytes(4 * out.len() as u64));
        let from = out.clone();
        group.bench_function("copy", |bencher| {
            bencher.iter(|| black_box(&mut out[..]).copy_from_slice(black_box(&from)));
        });
        for norm in PatchNorm::ALL {
            let stage = stage(norm);
            group.bench_function(format!("{norm:?}"), |bencher| {
                bencher.iter(|| {
                    let rows = bytes.chunks_exact(row.len()).zip(out.chunks_exact_mut(width));
                    rows.for_each(|(row, out)| stage.write(row, &tokens, out));
                });
            });
        }
    }
}

criterion_group!(benches, render, normalise, targets);
criterion_main!(benches);
