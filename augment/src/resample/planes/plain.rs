//! The loops, one sample at a time.

use super::taps::Taps;
use super::{Colors, MATRIX_BITS, SAMPLE_BITS, WEIGHT_BITS};

/// The sum of lines `stride` bytes apart, each times its coefficient: every product rounded to
/// [`SAMPLE_BITS`].
pub(super) fn vertical(lines: &[u8], stride: usize, weights: &[i16], out: &mut [i16]) {
    vertical_from(0, lines, stride, weights, out);
}

/// [`vertical`] from column `start` on.
pub(super) fn vertical_from(
    start: usize,
    lines: &[u8],
    stride: usize,
    weights: &[i16],
    out: &mut [i16],
) {
    let shift = WEIGHT_BITS - SAMPLE_BITS;
    for (x, out) in out.iter_mut().enumerate().skip(start) {
        let part = |(n, weight): (usize, &i16)| {
            let product = i32::from(lines[n * stride + x]) * i32::from(*weight);
            ((product + (1 << (shift - 1))) >> shift) as i16
        };
        *out = weights.iter().enumerate().map(part).fold(0, i16::wrapping_add);
    }
}

/// Every output column of a line.
pub(super) fn horizontal(taps: &Taps, line: &[i16], out: &mut [i16]) {
    let (per, weights) = taps.weights();
    for ((first, weights), out) in taps.first().iter().zip(weights.chunks_exact(per)).zip(out) {
        let samples = &line[*first as usize..];
        let products = samples.iter().zip(weights).map(|(s, w)| i32::from(*s) * i32::from(*w));
        let sum: i32 = products.sum::<i32>() + (1 << (WEIGHT_BITS - 1));
        *out = (sum >> WEIGHT_BITS).clamp(i16::MIN.into(), i16::MAX.into()) as i16;
    }
}

/// A row of packed RGB of Y, U and V.
pub(super) fn pixels(colors: &Colors, [y, u, v]: [&[i16]; 3], out: &mut [u8]) {
    let m = &colors.matrix;
    for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
        let luma = i32::from(y[x]) * i32::from(m.luma);
        let [u, v] = [u[x], v[x]].map(|c| i32::from(c) - (128 << SAMPLE_BITS));
        let parts = [
            v * i32::from(m.red_v),
            u * i32::from(m.green_u) + v * i32::from(m.green_v),
            u * i32::from(m.blue_u),
        ];
        for ((to, part), offset) in pixel.iter_mut().zip(parts).zip(colors.offset) {
            *to = ((luma + part + offset) >> (MATRIX_BITS + SAMPLE_BITS)).clamp(0, 255) as u8;
        }
    }
}
