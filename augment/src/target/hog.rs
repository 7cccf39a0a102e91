//! Histograms of oriented gradients as MaskFeat defines them (SlowFast `operators.py::HOGLayerC`,
//! copied by FastMIM).
//!
//! To agree with the reference to the last bit of a bin: the taps of each Sobel filter are added in
//! f32 one after the other in row-major order, and the angle is atan2(gx, gy) computed in f64 and
//! rounded once. This plain version is the oracle of faster ones.

use tubelet_core::{PatchSize, Size};

/// What a histogram is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HogSpec {
    /// Orientation bins over 180 degrees.
    pub bins: u32,
    /// Side of a cell in pixels.
    pub cell: u32,
    /// Side of the Gaussian window that weights magnitudes, tiled over the picture; 0 for none.
    pub gaussian_window: u32,
    /// Whether each channel's histogram of a cell is divided by its L2 norm.
    pub normalise: bool,
}

impl HogSpec {
    /// The published form: no window, normalised.
    pub const fn new(bins: u32, cell: u32) -> Self {
        Self { bins, cell, gaussian_window: 0, normalise: true }
    }

    /// Numbers a token of `patch` pixels has: 3 channels × bins × cells.
    pub const fn token_dim(&self, patch: PatchSize) -> usize {
        (3 * self.bins * (patch.h / self.cell) * (patch.w / self.cell)) as usize
    }
}

/// Buffers kept between pictures.
#[derive(Clone, Debug, Default)]
pub struct HogScratch {
    cells: Vec<f32>,
}

/// Histograms of one picture: `image` is f32 `[3, height, width]` with row stride `width` and
/// `channel_stride` between channels; `out` becomes `[3, bins, height/cell, width/cell]`.
///
/// # Panics
/// When the picture is smaller than 2 × 2 (its border is a reflection).
pub fn hog_cells(
    spec: &HogSpec,
    image: &[f32],
    channel_stride: usize,
    size: Size,
    out: &mut Vec<f32>,
) {
    let (rows, columns) = ((size.height / spec.cell) as usize, (size.width / spec.cell) as usize);
    let per_channel = spec.bins as usize * rows * columns;
    out.clear();
    out.resize(3 * per_channel, 0.0);
    let window = (spec.gaussian_window > 0).then(|| gaussian_window(spec.gaussian_window));
    for (c, histogram) in out.chunks_exact_mut(per_channel).enumerate() {
        let plane = &image[c * channel_stride..c * channel_stride + size.area()];
        add_channel(spec, plane, size, window.as_deref(), histogram);
        if spec.normalise {
            normalise_cells(histogram, spec.bins as usize);
        }
    }
}

/// Adds the magnitudes of one channel to `[bins, rows, columns]`.
fn add_channel(
    spec: &HogSpec,
    plane: &[f32],
    size: Size,
    window: Option<&[f32]>,
    histogram: &mut [f32],
) {
    let (width, height) = (size.width as usize, size.height as usize);
    let cell = spec.cell as usize;
    let (rows, columns) = (height / cell, width / cell);
    let side = spec.gaussian_window as usize;
    for y in 0..rows * cell {
        // One pixel of reflection at the borders.
        let up = &plane[reflect(y, -1, height) * width..][..width];
        let here = &plane[y * width..][..width];
        let down = &plane[reflect(y, 1, height) * width..][..width];
        for x in 0..columns * cell {
            let (left, right) = (reflect(x, -1, width), reflect(x, 1, width));
            let lines = [up, here, down].map(|line| [line[left], line[x], line[right]]);
            let (gx, gy) = sobel(lines);
            let bin = orientation_bin(gx, gy, spec.bins);
            let mut magnitude = (gx * gx + gy * gy).sqrt();
            if let Some(window) = window {
                magnitude *= window[y % side * side + x % side];
            }
            histogram[(bin * rows + y / cell) * columns + x / cell] += magnitude;
        }
    }
}

/// Index `at + step` of `len`, reflected at the ends without repeating them.
fn reflect(at: usize, step: isize, len: usize) -> usize {
    match at as isize + step {
        -1 => 1,
        i if i as usize == len => len - 2,
        i => i as usize,
    }
}

/// Cross-correlation with [[1,0,−1],[2,0,−2],[1,0,−1]] and its transpose, taps added in row-major
/// order in f32.
fn sobel([a, b, c]: [[f32; 3]; 3]) -> (f32, f32) {
    let gx = a[0] - a[2] + 2.0 * b[0] - 2.0 * b[2] + c[0] - c[2];
    let gy = a[0] + 2.0 * a[1] + a[2] - c[0] - 2.0 * c[1] - c[2];
    (gx, gy)
}

/// ⌊atan2(gx, gy)/π·bins⌋ modulo bins: 180 degrees, measured from the y axis.
fn orientation_bin(gx: f32, gy: f32, bins: u32) -> usize {
    let angle = f64::from(gx).atan2(f64::from(gy)) as f32;
    let phase = angle / std::f32::consts::PI * bins as f32;
    (phase.floor() as i32).rem_euclid(bins as i32) as usize
}

/// Divides each cell's `bins` values by their L2 norm, at least 1e-12.
fn normalise_cells(histogram: &mut [f32], bins: usize) {
    let cells = histogram.len() / bins;
    for cell in 0..cells {
        let squares: f32 = (0..bins).map(|b| histogram[b * cells + cell].powi(2)).sum();
        let norm = squares.sqrt().max(1e-12);
        for b in 0..bins {
            histogram[b * cells + cell] /= norm;
        }
    }
}

/// A separable Gaussian of side `n` and σ = ⌊n/2⌋ with sum 1, `[n, n]`.
pub fn gaussian_window(n: u32) -> Vec<f32> {
    let sigma = f64::from((n / 2).max(1));
    let middle = f64::from(n - 1) / 2.0;
    let line: Vec<f64> =
        (0..n).map(|k| (-(f64::from(k) - middle).powi(2) / (2.0 * sigma * sigma)).exp()).collect();
    let sum: f64 = line.iter().sum::<f64>().powi(2);
    line.iter().flat_map(|a| line.iter().map(move |b| (a * b / sum) as f32)).collect()
}

/// Copies the cells of token (`row`, `column`) from `[3, bins, rows, columns]` to `out`, ordered
/// channel, bin, cell row, cell column.
pub fn token_cells(
    spec: &HogSpec,
    cells: &[f32],
    size: Size,
    patch: PatchSize,
    row: u32,
    column: u32,
    out: &mut [f32],
) {
    let (rows, columns) = ((size.height / spec.cell) as usize, (size.width / spec.cell) as usize);
    let (high, wide) = ((patch.h / spec.cell) as usize, (patch.w / spec.cell) as usize);
    let (top, left) = (row as usize * high, column as usize * wide);
    for (map, out) in cells.chunks_exact(rows * columns).zip(out.chunks_exact_mut(high * wide)) {
        for (y, out) in out.chunks_exact_mut(wide).enumerate() {
            let start = (top + y) * columns + left;
            out.copy_from_slice(&map[start..start + wide]);
        }
    }
}

/// Writes the targets of `tokens` (ascending) to `out`, `[tokens, dim]`. `pixels` is f32
/// `[3, frames, height, width]`, mean/std-normalised; of each time slot the first frame counts.
pub fn hog_targets(
    spec: &HogSpec,
    pixels: &[f32],
    frames: u32,
    size: Size,
    patch: PatchSize,
    tokens: &[u32],
    out: &mut [f32],
    scratch: &mut HogScratch,
) {
    let (rows, columns) = (size.height / patch.h, size.width / patch.w);
    let dim = spec.token_dim(patch);
    let mut ready = None;
    for (token, out) in tokens.iter().zip(out.chunks_exact_mut(dim)) {
        let (slot, cell) = (token / (rows * columns), token % (rows * columns));
        if ready != Some(slot) {
            let frame = (slot * patch.t) as usize;
            let image = &pixels[frame * size.area()..];
            hog_cells(spec, image, frames as usize * size.area(), size, &mut scratch.cells);
            ready = Some(slot);
        }
        token_cells(spec, &scratch.cells, size, patch, cell / columns, cell % columns, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vector of the specification, made with PyTorch's result for x = ((3i² + 5j² + 7ij + 11c) mod
    /// 97)/96.
    #[test]
    fn agrees_with_the_published_check_vector() {
        let mut image = Vec::new();
        for c in 0..3u32 {
            for i in 0..16u32 {
                for j in 0..16u32 {
                    image.push(((3 * i * i + 5 * j * j + 7 * i * j + 11 * c) % 97) as f32 / 96.0);
                }
            }
        }
        let spec = HogSpec::new(9, 8);
        let size = Size::square(16);
        let mut cells = Vec::new();
        hog_cells(&spec, &image, 256, size, &mut cells);
        let bins: Vec<f32> = (0..9).map(|b| cells[b * 4]).collect();
        let want =
            [0.89945, 0.06372, 0.16846, 0.08940, 0.19264, 0.09331, 0.16059, 0.11620, 0.25582];
        for (got, want) in bins.iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{bins:?}");
        }
        let patch = PatchSize { t: 1, h: 16, w: 16 };
        let mut out = vec![0.0; 108];
        hog_targets(&spec, &image, 1, size, patch, &[0], &mut out, &mut HogScratch::default());
        let sum: f32 = out.iter().sum();
        let moment: f32 = out.iter().enumerate().map(|(k, v)| (k + 1) as f32 * v).sum();
        assert!((sum - 31.1959).abs() < 1e-3 && (moment - 1691.567).abs() < 1e-2, "{sum} {moment}");
        assert!((out[1] - 0.45996).abs() < 1e-5 && (out[7] - 0.38248).abs() < 1e-5);
    }

    #[test]
    fn a_flat_picture_has_empty_histograms() {
        let mut cells = Vec::new();
        hog_cells(&HogSpec::new(9, 4), &[0.5; 3 * 64], 64, Size::square(8), &mut cells);
        assert!(cells.iter().all(|v| *v == 0.0));
    }
}
