//! Inputs of the tests, and comparison.

use tubelet_core::{Draw, PatchSize, SampleRng, Size};

/// Random bytes; every third run of 64 is nearly flat, as in dark corners of photos.
pub(super) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = SampleRng::new(seed, 0, 0, 0, Draw::Model);
    (0..len)
        .map(|i| match i / 64 % 3 {
            0 => 40 + (rng.next_u32() % 2) as u8,
            _ => rng.next_u32() as u8,
        })
        .collect()
}

/// Standard normal numbers.
pub(super) fn normal(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = SampleRng::new(seed, 0, 0, 0, Draw::Model);
    (0..len).map(|_| rng.normal() as f32).collect()
}

/// A picture like a photo: smooth, 8-bit, so that many gradients lie on edges between bins.
pub(super) fn photo(seed: u64, frames: u32, size: Size) -> Vec<u8> {
    let mut out = Vec::new();
    for f in 0..frames {
        for y in 0..size.height {
            for x in 0..size.width {
                for c in 0..3 {
                    let phase = f64::from(seed as u32 + f * 3 + c);
                    let wave = (f64::from(x) * 0.21 + phase).sin() + (f64::from(y) * 0.13).cos();
                    out.push((128.0 + 50.0 * wave) as u8);
                }
            }
        }
    }
    out
}

/// A patch.
pub(super) const fn patch(t: u32, h: u32, w: u32) -> PatchSize {
    PatchSize { t, h, w }
}

/// Token lists of `rows` rows: about half of `tokens`, a different number each row, padded as the
/// host pads; and the real numbers.
pub(super) fn lists(seed: u64, rows: usize, tokens: usize) -> (Vec<u32>, Vec<u32>, usize) {
    let mut rng = SampleRng::new(seed, 1, 0, 0, Draw::Mask);
    let rows: Vec<Vec<u32>> =
        (0..rows).map(|_| (0..tokens as u32).filter(|_| rng.coin(0.5)).collect()).collect();
    let most = rows.iter().map(Vec::len).max().expect("rows");
    let counts = rows.iter().map(|r| r.len() as u32).collect();
    let padded = rows
        .into_iter()
        .flat_map(|mut row| {
            let last = row.last().copied().unwrap_or(0);
            row.resize(most, last);
            row
        })
        .collect();
    (padded, counts, most)
}

/// Every value within `tolerance` of what is wanted.
#[track_caller]
pub(super) fn assert_close(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance, "value {i}: {got}, not {want}");
    }
}
