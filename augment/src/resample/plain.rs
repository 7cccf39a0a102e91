//! The two passes, one value after the other: what the fast ones are checked against.

use super::{Axis, HALF, clip8};

/// One row of packed RGB, mirrored where `flip` says so.
pub(super) fn horizontal(axis: &Axis, line: &[u8], flip: bool, row: &mut [u8]) {
    for x in 0..row.len() / 3 {
        horizontal_pixel(axis, line, flip, x, row);
    }
}

/// Pixel `x` of a row.
pub(super) fn horizontal_pixel(axis: &Axis, line: &[u8], flip: bool, x: usize, row: &mut [u8]) {
    let (first, weights) = axis.at(x);
    let mut sum = [HALF; 3];
    for (weight, pixel) in weights.iter().zip(line[first * 3..].chunks_exact(3)) {
        sum[0] += weight * i32::from(pixel[0]);
        sum[1] += weight * i32::from(pixel[1]);
        sum[2] += weight * i32::from(pixel[2]);
    }
    let at = if flip { row.len() / 3 - 1 - x } else { x } * 3;
    row[at..at + 3].copy_from_slice(&sum.map(clip8));
}

/// Row `y` of the result from `rows` of `out.len()` bytes each.
pub(super) fn vertical(axis: &Axis, rows: &[u8], y: usize, out: &mut [u8]) {
    vertical_bytes(axis, rows, y, 0, out);
}

/// The bytes of row `y` from `start` on.
pub(super) fn vertical_bytes(axis: &Axis, rows: &[u8], y: usize, start: usize, out: &mut [u8]) {
    let (first, weights) = axis.at(y);
    let row_bytes = out.len();
    for (at, out) in out.iter_mut().enumerate().skip(start) {
        let taps = rows[first * row_bytes + at..].iter().step_by(row_bytes);
        let sum = weights.iter().zip(taps).fold(HALF, |s, (w, v)| s + w * i32::from(*v));
        *out = clip8(sum);
    }
}
