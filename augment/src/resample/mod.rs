//! Resizing, with the arithmetic of the reference loaders.
//!
//! Pillow: two passes over 8-bit pixels, the filter's support widened when shrinking (antialias),
//! coefficients rounded to 22 fractional bits, an 8-bit result between the passes
//! (`src/libImaging/Resample.c`). `plain` has the passes, `avx2` the same numbers faster.
//! `torch`: interpolation of float tensors.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod plain;
pub mod planes;
mod torch;

use tubelet_core::{Rect, Size};

pub use torch::{TorchFilter, torch_resize};

/// A resampling filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Triangle, support 1.
    Bilinear,
    /// Cubic with a = −0.5 (Pillow), support 2.
    Bicubic,
    /// Windowed sinc, support 3.
    Lanczos,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic => cubic(x, -0.5),
            Self::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

impl Filter {
    /// Support and stretch of the filter in source positions.
    fn reach(self, from: u32, to: u32) -> (f64, f64) {
        let stretch = (f64::from(from) / f64::from(to)).max(1.0);
        (self.support() * stretch, stretch)
    }
}

/// The coefficients of output position `at` of `to`, of sum 1, over the source positions from the one
/// that is returned on.
fn pillow_weights(from: u32, to: u32, filter: Filter, at: u32, real: &mut Vec<f64>) -> u32 {
    let (support, stretch) = filter.reach(from, to);
    let centre = (f64::from(at) + 0.5) * (f64::from(from) / f64::from(to));
    let first = ((centre - support + 0.5) as i64).max(0);
    let end = ((centre + support + 0.5) as i64).min(i64::from(from));
    real.clear();
    real.extend((first..end).map(|x| filter.weight((x as f64 - centre + 0.5) / stretch)));
    let sum: f64 = real.iter().sum();
    if sum != 0.0 {
        real.iter_mut().for_each(|w| *w /= sum);
    }
    first as u32
}

/// Keys' cubic kernel at a non-negative distance.
fn cubic(x: f64, a: f64) -> f64 {
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) }
}

/// Fractional bits of Pillow's 8-bit coefficients.
pub const PRECISION: u32 = 22;
/// Half a grey level in that precision.
const HALF: i32 = 1 << (PRECISION - 1);

/// A coefficient in 1/2^[`PRECISION`], rounded as Pillow does.
fn fixed(weight: f64) -> i32 {
    let w = weight * f64::from(1u32 << PRECISION);
    if w < 0.0 { (w - 0.5) as i32 } else { (w + 0.5) as i32 }
}

/// Coefficients of one axis as [`Resampler`] uses them, in 1/2^[`PRECISION`], for who resizes
/// elsewhere: a pass rounds its sums to 8 bits and clamps them, columns come before rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PillowAxis {
    /// First sample of each output position, of those of the region.
    pub first: Vec<u32>,
    /// Coefficients of each output position.
    pub count: Vec<u32>,
    /// Room for coefficients a position; what is too many is 0.
    pub per: usize,
    /// `[positions, per]`.
    pub weights: Vec<i32>,
}

impl PillowAxis {
    /// `from` → `to` samples, of which `count` from `start` on are put out, in reverse order where
    /// `reversed` says so.
    pub fn new(
        (from, to): (u32, u32),
        filter: Filter,
        (start, count): (u32, u32),
        reversed: bool,
    ) -> Self {
        let mut axis = Self { per: 1, ..Self::default() };
        // Pillow skips a pass that would not change the size.
        if from != to {
            axis.per = filter.reach(from, to).0.ceil() as usize * 2 + 1;
        }
        let mut real = Vec::with_capacity(axis.per);
        for n in 0..count {
            let at = start + if reversed { count - 1 - n } else { n };
            let first = if from == to {
                real.clear();
                real.push(1.0);
                at
            } else {
                pillow_weights(from, to, filter, at, &mut real)
            };
            axis.first.push(first);
            axis.count.push(real.len() as u32);
            axis.weights.extend(real.iter().map(|w| fixed(*w)));
            axis.weights.resize(axis.first.len() * axis.per, 0);
        }
        axis
    }
}

/// One axis: for each output position the first input position and its coefficients.
#[derive(Clone, Debug, Default)]
struct Axis {
    from: u32,
    to: u32,
    filter: Option<Filter>,
    taps: usize,
    first: Vec<u32>,
    count: Vec<u32>,
    weights: Vec<i32>,
    /// The weights of a horizontal axis once more, as the fast pass wants them: `groups` a position,
    /// or one for two positions where `groups` is 0 and no position has more than two taps.
    lanes: Vec<[i16; 32]>,
    groups: usize,
}

impl Axis {
    /// Prepares `from` → `to` samples; `false` when that is what it has already.
    fn prepare(&mut self, from: u32, to: u32, filter: Filter) -> bool {
        if (self.from, self.to, self.filter) == (from, to, Some(filter)) {
            return false;
        }
        (self.from, self.to, self.filter) = (from, to, Some(filter));
        self.taps = filter.reach(from, to).0.ceil() as usize * 2 + 1;
        self.first.clear();
        self.count.clear();
        self.weights.clear();
        let mut real = Vec::with_capacity(self.taps);
        for at in 0..to {
            let first = pillow_weights(from, to, filter, at, &mut real);
            self.first.push(first);
            self.count.push(real.len() as u32);
            self.weights.extend(real.iter().map(|w| fixed(*w)));
            self.weights.resize(self.first.len() * self.taps, 0);
        }
        true
    }

    /// Prepares the weights for the fast horizontal pass.
    #[cfg(target_arch = "x86_64")]
    fn prepare_lanes(&mut self) {
        let most = self.count.iter().max().copied().unwrap_or(0) as usize;
        self.lanes.clear();
        if most <= 2 {
            self.groups = 0;
            for position in (0..self.first.len()).step_by(2) {
                let second =
                    if position + 1 < self.first.len() { self.at(position + 1).1 } else { &[] };
                let lanes = avx2::pair_lanes([self.at(position).1, second]);
                self.lanes.push(lanes);
            }
            return;
        }
        self.groups = most.div_ceil(avx2::GROUP);
        for position in 0..self.first.len() {
            let start = position * self.taps;
            let weights = &self.weights[start..start + self.count[position] as usize];
            self.lanes.extend(avx2::lanes(weights));
            self.lanes.resize((position + 1) * self.groups, [0; 32]);
        }
    }

    fn at(&self, position: usize) -> (usize, &[i32]) {
        let start = position * self.taps;
        let count = self.count[position] as usize;
        (self.first[position] as usize, &self.weights[start..start + count])
    }
}

/// Resizes with kept coefficient tables and buffers: after the first frame of a geometry nothing
/// is allocated.
#[derive(Clone, Debug)]
pub struct Resampler {
    horizontal: Axis,
    vertical: Axis,
    rows: Vec<u8>,
    bilinear: torch::Bilinear,
    /// Whether the fast passes are used.
    fast: bool,
}

impl Default for Resampler {
    /// With the fastest passes this machine has.
    fn default() -> Self {
        #[cfg(target_arch = "x86_64")]
        let fast = avx2::available();
        #[cfg(not(target_arch = "x86_64"))]
        let fast = false;
        Self { fast, ..Self::plain() }
    }
}

impl Resampler {
    /// With the plain passes: for tests and comparisons.
    pub fn plain() -> Self {
        Self {
            horizontal: Axis::default(),
            vertical: Axis::default(),
            rows: Vec::new(),
            bilinear: torch::Bilinear::default(),
            fast: false,
        }
    }

    /// Cuts `region` out of packed RGB `source`, resizes it to `out_size` as Pillow does and mirrors
    /// it left to right where `flip` says so; `out` is `height × width × 3` bytes.
    ///
    /// # Panics
    /// When `region` does not lie inside `source_size` or a slice is too short.
    pub fn resize(
        &mut self,
        source: &[u8],
        source_size: Size,
        region: Rect,
        filter: Filter,
        out_size: Size,
        flip: bool,
        out: &mut [u8],
    ) {
        assert!(region.fits(source_size), "{region:?} in {source_size}");
        if self.horizontal.prepare(region.width, out_size.width, filter) {
            #[cfg(target_arch = "x86_64")]
            if self.fast {
                self.horizontal.prepare_lanes();
            }
        }
        self.vertical.prepare(region.height, out_size.height, filter);
        let mut rows = std::mem::take(&mut self.rows);
        let row_bytes = out_size.width as usize * 3;
        rows.resize(region.height as usize * row_bytes, 0);
        let stride = source_size.width as usize * 3;
        for (y, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
            let start = (region.y as usize + y) * stride + region.x as usize * 3;
            self.horizontal_pass(&source[start..], region.width == out_size.width, flip, row);
        }
        self.vertical_pass(&rows, region.height == out_size.height, row_bytes, out);
        self.rows = rows;
    }

    /// One row; Pillow skips a pass that would not change the size.
    fn horizontal_pass(&self, line: &[u8], same: bool, flip: bool, row: &mut [u8]) {
        if same {
            return copy_row(line, flip, row);
        }
        #[cfg(target_arch = "x86_64")]
        if self.fast {
            return match self.horizontal.groups {
                0 => avx2::horizontal_pairs(&self.horizontal, line, flip, row),
                _ => avx2::horizontal(&self.horizontal, line, flip, row),
            };
        }
        plain::horizontal(&self.horizontal, line, flip, row);
    }

    fn vertical_pass(&self, rows: &[u8], same: bool, row_bytes: usize, out: &mut [u8]) {
        if same {
            out.copy_from_slice(rows);
            return;
        }
        for (y, out) in out.chunks_exact_mut(row_bytes).enumerate() {
            #[cfg(target_arch = "x86_64")]
            if self.fast {
                avx2::vertical(&self.vertical, rows, y, out);
                continue;
            }
            plain::vertical(&self.vertical, rows, y, out);
        }
    }
}

/// The first pixels of `line`, mirrored left to right where `flip` says so.
fn copy_row(line: &[u8], flip: bool, row: &mut [u8]) {
    let line = &line[..row.len()];
    if !flip {
        return row.copy_from_slice(line);
    }
    for (to, from) in row.chunks_exact_mut(3).zip(line.chunks_exact(3).rev()) {
        to.copy_from_slice(from);
    }
}

/// Clamps a fixed-point sum to a grey level.
fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(size: Size) -> Vec<u8> {
        (0..size.area() * 3).map(|i| ((i * 7919 + i * i * 31) % 251) as u8).collect()
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let size = Size::new(13, 9);
        let source = noise(size);
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            let mut out = vec![0; source.len()];
            let full = Rect::full(size);
            Resampler::default().resize(&source, size, full, filter, size, false, &mut out);
            assert_eq!(out, source);
        }
    }

    #[test]
    fn a_constant_picture_stays_constant() {
        let size = Size::new(31, 17);
        let source = vec![77; size.area() * 3];
        let region = Rect { x: 3, y: 2, width: 20, height: 11 };
        let mut resampler = Resampler::default();
        for out_size in [Size::new(64, 48), Size::new(5, 4), Size::new(1, 1)] {
            let mut out = vec![0; out_size.area() * 3];
            for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
                resampler.resize(&source, size, region, filter, out_size, true, &mut out);
                assert!(out.iter().all(|v| *v == 77), "{filter:?} {out_size}");
            }
            resampler.resize_torch_bilinear(&source, size, region, out_size, true, &mut out);
            assert!(out.iter().all(|v| *v == 77), "torch {out_size}");
        }
    }

    #[test]
    fn flipping_mirrors_the_result() {
        let size = Size::new(40, 30);
        let source = noise(size);
        let out_size = Size::new(16, 12);
        let run = |flip| {
            let mut out = vec![0; out_size.area() * 3];
            let full = Rect::full(size);
            Resampler::default().resize(
                &source,
                size,
                full,
                Filter::Bicubic,
                out_size,
                flip,
                &mut out,
            );
            out
        };
        let (plain, flipped) = (run(false), run(true));
        for (a, b) in plain.chunks(48).zip(flipped.chunks(48)) {
            let mirrored: Vec<u8> = b.chunks(3).rev().flatten().copied().collect();
            assert_eq!(a, mirrored);
        }
    }

    proptest! {
        #[test]
        fn fast_passes_equal_the_plain_ones(
            (w, h) in (1u32..300, 1u32..90),
            cut in (0u32..40, 0u32..40),
            (to_w, to_h) in (1u32..120, 1u32..60),
            which in 0usize..3,
            flip: bool,
            seed: u64,
        ) {
            let size = Size::new(w, h);
            let region = Rect { x: cut.0 % w, y: cut.1 % h, width: w - cut.0 % w, height: h - cut.1 % h };
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // Extremes overshoot the most.
                match state >> 62 { 0 => 0, 1 => 255, _ => (state >> 40) as u8 }
            };
            let source: Vec<u8> = (0..size.area() * 3).map(|_| next()).collect();
            let filter = [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos][which];
            let out_size = Size::new(to_w, to_h);
            let run = |mut resampler: Resampler| {
                let mut out = vec![0; out_size.area() * 3];
                resampler.resize(&source, size, region, filter, out_size, flip, &mut out);
                out
            };
            prop_assert_eq!(run(Resampler::default()), run(Resampler::plain()));
        }
    }
}
