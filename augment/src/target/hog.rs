//! Histograms of oriented gradients as MaskFeat defines them (SlowFast `operators.py::HOGLayerC`,
//! copied by FastMIM).
//!
//! To agree with the reference to the last bit of a bin: the taps of each Sobel filter are added in
//! f32 one after the other in row-major order, and the angle is atan2(gx, gy) computed in f64 and
//! rounded once. Magnitudes are added down each column of a cell first and then across its columns,
//! so that eight columns can be added at a time: [`Way::Avx2`] gives the bits of [`Way::Plain`].

#[cfg(target_arch = "x86_64")]
mod avx2;

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

/// How histograms are computed; the numbers do not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Pixel by pixel, everywhere.
    Plain,
    /// Eight columns at a time.
    Avx2,
}

impl Way {
    /// The fastest way of this processor.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Self::Avx2;
        }
        Self::Plain
    }
}

/// Buffers kept between pictures.
#[derive(Clone, Debug, Default)]
pub struct HogScratch {
    cells: Vec<f32>,
    /// Squares of each cell.
    squares: Vec<f32>,
    /// `[bins, columns of pixels]`, magnitudes of a row of cells added down each column.
    sums: Vec<f32>,
    window: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    band: avx2::Band,
}

impl HogScratch {
    /// Histograms of one picture: `image` is f32 `[3, height, width]` with row stride `width` and
    /// `channel_stride` between channels; the result is `[3, bins, height/cell, width/cell]`.
    ///
    /// # Panics
    /// When the picture is smaller than 2 × 2 (its border is a reflection).
    pub fn cells(
        &mut self,
        spec: &HogSpec,
        way: Way,
        image: &[f32],
        channel_stride: usize,
        size: Size,
    ) -> &[f32] {
        assert!(size.width >= 2 && size.height >= 2, "a picture of {size} has no reflection");
        let (rows, columns) =
            ((size.height / spec.cell) as usize, (size.width / spec.cell) as usize);
        let per_channel = spec.bins as usize * rows * columns;
        self.cells.clear();
        self.cells.resize(3 * per_channel, 0.0);
        self.window.clear();
        if spec.gaussian_window > 0 {
            self.window.extend(gaussian_window(spec.gaussian_window));
        }
        let mut cells = std::mem::take(&mut self.cells);
        for (c, histogram) in cells.chunks_exact_mut(per_channel.max(1)).enumerate() {
            let plane = &image[c * channel_stride..c * channel_stride + size.area()];
            self.channel(spec, way, plane, size, histogram);
            if spec.normalise {
                normalise_cells(histogram, spec.bins as usize, &mut self.squares);
            }
        }
        self.cells = cells;
        &self.cells
    }

    /// Writes the histograms of one channel, `[bins, rows, columns]`.
    fn channel(
        &mut self,
        spec: &HogSpec,
        way: Way,
        plane: &[f32],
        size: Size,
        histogram: &mut [f32],
    ) {
        #[cfg(target_arch = "x86_64")]
        if way == Way::Avx2 && std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe {
                self.band.add_channel(spec, plane, size, &self.window, &mut self.sums, histogram)
            };
        }
        let _ = way;
        add_channel(spec, plane, size, &self.window, &mut self.sums, histogram);
    }
}

/// [`HogScratch::cells`] in the best way with buffers of its own, to `out`.
///
/// # Panics
/// When the picture is smaller than 2 × 2.
pub fn hog_cells(
    spec: &HogSpec,
    image: &[f32],
    channel_stride: usize,
    size: Size,
    out: &mut Vec<f32>,
) {
    let mut scratch = HogScratch::default();
    scratch.cells(spec, Way::best(), image, channel_stride, size);
    *out = scratch.cells;
}

/// Writes the histograms of one channel, `[bins, rows, columns]`; `window` may be empty.
fn add_channel(
    spec: &HogSpec,
    plane: &[f32],
    size: Size,
    window: &[f32],
    sums: &mut Vec<f32>,
    histogram: &mut [f32],
) {
    let (width, height) = (size.width as usize, size.height as usize);
    let cell = spec.cell as usize;
    let (rows, columns) = (height / cell, width / cell);
    let side = spec.gaussian_window as usize;
    for row in 0..rows {
        sums.clear();
        sums.resize(spec.bins as usize * width, 0.0);
        for y in row * cell..(row + 1) * cell {
            // One pixel of reflection at the borders.
            let up = &plane[reflect(y, -1, height) * width..][..width];
            let here = &plane[y * width..][..width];
            let down = &plane[reflect(y, 1, height) * width..][..width];
            for x in 0..columns * cell {
                let (left, right) = (reflect(x, -1, width), reflect(x, 1, width));
                let lines = [up, here, down].map(|line| [line[left], line[x], line[right]]);
                let (gx, gy) = sobel(lines);
                let mut magnitude = (gx * gx + gy * gy).sqrt();
                if side > 0 {
                    magnitude *= window[y % side * side + x % side];
                }
                sums[orientation_bin(gx, gy, spec.bins) * width + x] += magnitude;
            }
        }
        for (bin, sums) in sums.chunks_exact(width).enumerate() {
            let cells = &mut histogram[(bin * rows + row) * columns..][..columns];
            for (out, sums) in cells.iter_mut().zip(sums.chunks_exact(cell)) {
                *out = across(sums);
            }
        }
    }
}

/// The sum of a cell's columns: by pairs within eight, then one eight after the other.
fn across(columns: &[f32]) -> f32 {
    let eight = |columns: &[f32]| {
        let at = |k: usize| columns.get(k).copied().unwrap_or(0.0);
        ((at(0) + at(1)) + (at(2) + at(3))) + ((at(4) + at(5)) + (at(6) + at(7)))
    };
    columns.chunks(8).map(eight).fold(0.0, |sum, eight| sum + eight)
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
fn normalise_cells(histogram: &mut [f32], bins: usize, norms: &mut Vec<f32>) {
    let cells = histogram.len() / bins;
    norms.clear();
    norms.resize(cells, 0.0);
    for bin in histogram.chunks_exact(cells.max(1)) {
        norms.iter_mut().zip(bin).for_each(|(sum, value)| *sum += value * value);
    }
    norms.iter_mut().for_each(|norm| *norm = norm.sqrt().max(1e-12));
    for bin in histogram.chunks_exact_mut(cells.max(1)) {
        bin.iter_mut().zip(&*norms).for_each(|(value, norm)| *value /= norm);
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
            scratch.cells(spec, Way::best(), image, frames as usize * size.area(), size);
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

    /// Pictures whose gradients meet the edges of bins: noise, few grey levels, steps and ramps, and
    /// numbers that are none.
    fn pictures(size: Size) -> Vec<Vec<f32>> {
        let length = 3 * size.area();
        let width = size.width as usize;
        let mut random = 1u32;
        let mut next = move || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random >> 8
        };
        let noise: Vec<f32> = (0..length).map(|_| next() as f32 / 8e6 - 1.0).collect();
        let levels = |n: u32, mut next: Box<dyn FnMut() -> u32>| -> Vec<f32> {
            (0..length).map(|_| (next() % n) as f32 / n as f32).collect()
        };
        let mut odd = noise.clone();
        odd[5] = f32::NAN;
        odd[width + 3] = f32::INFINITY;
        odd[3 * width] = f32::MIN_POSITIVE / 8.0;
        vec![
            levels(2, Box::new(next)),
            levels(5, Box::new(next)),
            levels(255, Box::new(next)),
            (0..length).map(|i| (i % width) as f32).collect(),
            (0..length).map(|i| -((i / width % 7) as f32)).collect(),
            (0..length).map(|i| ((i % width) as f32 - (i / width) as f32) / 7.0).collect(),
            noise,
            odd,
        ]
    }

    #[test]
    fn every_way_gives_the_same_bits() {
        let sizes = [(64, 32), (40, 24), (17, 19), (8, 8), (100, 33)];
        let specs =
            [(9, 8, 0), (9, 4, 0), (8, 8, 0), (18, 16, 16), (1, 5, 3), (2, 8, 0), (12, 12, 8)];
        for (width, height) in sizes {
            let size = Size::new(width, height);
            for (n, picture) in pictures(size).iter().enumerate() {
                for (bins, cell, gaussian_window) in specs {
                    if cell > width.min(height) {
                        continue;
                    }
                    for normalise in [false, true] {
                        let spec = HogSpec { bins, cell, gaussian_window, normalise };
                        let run = |way| {
                            let mut scratch = HogScratch::default();
                            let cells = scratch.cells(&spec, way, picture, size.area(), size);
                            cells.iter().map(|v| v.to_bits()).collect::<Vec<u32>>()
                        };
                        // A number that is none keeps no particular bits.
                        let same = |(a, b): (&u32, &u32)| {
                            a == b || f32::from_bits(*a).is_nan() && f32::from_bits(*b).is_nan()
                        };
                        let (plain, best) = (run(Way::Plain), run(Way::best()));
                        assert!(plain.iter().zip(&best).all(same), "{n} {size} {spec:?}");
                    }
                }
            }
        }
    }
}
