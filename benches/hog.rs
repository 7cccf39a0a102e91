//! Histograms of oriented gradients of a 224² picture: the plain way and the best one.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tubelet_augment::normalise::IMAGENET;
use tubelet_augment::target::hog::{HogScratch, HogSpec, Way};
use tubelet_core::Size;

/// Noise, as `peers/hog.py` has it.
fn noise(size: Size) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(3 * size.area()).collect()
}

fn hog(criterion: &mut Criterion) {
    let size = Size::square(224);
    let mut image = vec![0.0; 3 * size.area()];
    IMAGENET.apply(&noise(size), 1, size, &mut image);
    let mut group = criterion.benchmark_group("hog");
    group.throughput(Throughput::Elements(1));
    let specs = [
        ("9 bins, cells of 8", HogSpec::new(9, 8)),
        ("9 bins, cells of 4", HogSpec::new(9, 4)),
        ("18 bins, cells of 8", HogSpec::new(18, 8)),
        ("9 bins, window of 16", HogSpec { gaussian_window: 16, ..HogSpec::new(9, 8) }),
    ];
    for (name, spec) in specs {
        for way in [Way::Plain, Way::best()] {
            let mut scratch = HogScratch::default();
            group.bench_function(format!("{name}, {way:?}"), |bencher| {
                bencher.iter(|| scratch.cells(&spec, way, &image, size.area(), size)[0]);
            });
        }
    }
}

criterion_group!(benches, hog);
criterion_main!(benches);
