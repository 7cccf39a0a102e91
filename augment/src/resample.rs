//! Resizing, with the arithmetic of the reference loaders.
//!
//! Pillow: two passes over 8-bit pixels, the filter's support widened when shrinking (antialias),
//! coefficients rounded to 22 fractional bits, an 8-bit result between the passes
//! (`src/libImaging/Resample.c`). torch: interpolation of float tensors, without antialias unless
//! asked (`aten/src/ATen/native/UpSample.h`). This plain version is the oracle of faster ones.

use tubelet_core::{Rect, Size};

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
const PRECISION: u32 = 22;
/// Half a grey level in that precision.
const HALF: i32 = 1 << (PRECISION - 1);

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
}

impl Axis {
    /// Prepares `from` → `to` samples; keeps what it has when nothing changed.
    fn prepare(&mut self, from: u32, to: u32, filter: Filter) {
        if (self.from, self.to, self.filter) == (from, to, Some(filter)) {
            return;
        }
        (self.from, self.to, self.filter) = (from, to, Some(filter));
        let scale = f64::from(from) / f64::from(to);
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        self.taps = support.ceil() as usize * 2 + 1;
        self.first.clear();
        self.count.clear();
        self.weights.clear();
        let mut real = Vec::with_capacity(self.taps);
        for at in 0..to {
            let centre = (f64::from(at) + 0.5) * scale;
            let first = ((centre - support + 0.5) as i64).max(0);
            let end = ((centre + support + 0.5) as i64).min(i64::from(from));
            real.clear();
            real.extend((first..end).map(|x| filter.weight((x as f64 - centre + 0.5) / stretch)));
            let sum: f64 = real.iter().sum();
            let fixed = real.iter().map(|w| {
                let w = if sum == 0.0 { *w } else { w / sum } * f64::from(1u32 << PRECISION);
                if w < 0.0 { (w - 0.5) as i32 } else { (w + 0.5) as i32 }
            });
            self.first.push(first as u32);
            self.count.push(real.len() as u32);
            self.weights.extend(fixed);
            self.weights.resize(self.first.len() * self.taps, 0);
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
#[derive(Clone, Debug, Default)]
pub struct Resampler {
    horizontal: Axis,
    vertical: Axis,
    rows: Vec<u8>,
}

impl Resampler {
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
        self.horizontal.prepare(region.width, out_size.width, filter);
        self.vertical.prepare(region.height, out_size.height, filter);
        let mut rows = std::mem::take(&mut self.rows);
        let row_bytes = out_size.width as usize * 3;
        rows.resize(region.height as usize * row_bytes, 0);
        for (y, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
            let start =
                ((region.y as usize + y) * source_size.width as usize + region.x as usize) * 3;
            let line = &source[start..start + region.width as usize * 3];
            self.horizontal_pass(line, region.width == out_size.width, flip, row);
        }
        self.vertical_pass(&rows, region.height == out_size.height, row_bytes, out);
        self.rows = rows;
    }

    /// One row; Pillow skips a pass that would not change the size.
    fn horizontal_pass(&self, line: &[u8], same: bool, flip: bool, row: &mut [u8]) {
        let width = row.len() / 3;
        for x in 0..width {
            let pixel = if same {
                [line[x * 3], line[x * 3 + 1], line[x * 3 + 2]]
            } else {
                let (first, weights) = self.horizontal.at(x);
                let mut sum = [HALF; 3];
                let taps = line[first * 3..].chunks_exact(3);
                for (weight, pixel) in weights.iter().zip(taps) {
                    sum[0] += weight * i32::from(pixel[0]);
                    sum[1] += weight * i32::from(pixel[1]);
                    sum[2] += weight * i32::from(pixel[2]);
                }
                sum.map(clip8)
            };
            let at = if flip { width - 1 - x } else { x } * 3;
            row[at..at + 3].copy_from_slice(&pixel);
        }
    }

    fn vertical_pass(&self, rows: &[u8], same: bool, row_bytes: usize, out: &mut [u8]) {
        if same {
            out.copy_from_slice(rows);
            return;
        }
        let mut sums = vec![0i32; row_bytes];
        for (y, out) in out.chunks_exact_mut(row_bytes).enumerate() {
            let (first, weights) = self.vertical.at(y);
            sums.fill(HALF);
            let taps = rows[first * row_bytes..].chunks_exact(row_bytes);
            for (weight, row) in weights.iter().zip(taps) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += weight * i32::from(*value);
                }
            }
            for (out, sum) in out.iter_mut().zip(&sums) {
                *out = clip8(*sum);
            }
        }
    }

    /// The same with torch's bilinear interpolation of a float tensor (`align_corners=False`, no
    /// antialias). A slot row is 8 bits deep, so the result is rounded to the nearest grey level.
    ///
    /// # Panics
    /// When `region` does not lie inside `source_size` or a slice is too short.
    pub fn resize_torch_bilinear(
        &mut self,
        source: &[u8],
        source_size: Size,
        region: Rect,
        out_size: Size,
        flip: bool,
        out: &mut [u8],
    ) {
        assert!(region.fits(source_size), "{region:?} in {source_size}");
        let columns = linear_taps(region.width, out_size.width);
        let rows = linear_taps(region.height, out_size.height);
        let stride = source_size.width as usize * 3;
        let base = region.y as usize * stride + region.x as usize * 3;
        let width = out_size.width as usize;
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(width * 3)) {
            let top = &source[base + row.first * stride..];
            let bottom = &source[base + row.second * stride..];
            for (x, column) in columns.iter().enumerate() {
                let to = if flip { width - 1 - x } else { x } * 3;
                for c in 0..3 {
                    let (a, b) = (column.first * 3 + c, column.second * 3 + c);
                    let upper = column.mix(top[a].into(), top[b].into());
                    let lower = column.mix(bottom[a].into(), bottom[b].into());
                    out[to + c] = (row.mix(upper, lower) + 0.5) as u8;
                }
            }
        }
    }
}

/// Clamps a fixed-point sum to a grey level.
fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Two neighbours and the share of the second.
struct Linear {
    first: usize,
    second: usize,
    share: f32,
}

impl Linear {
    fn mix(&self, first: f32, second: f32) -> f32 {
        (1.0 - self.share) * first + self.share * second
    }
}

fn linear_taps(from: u32, to: u32) -> Vec<Linear> {
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|at| {
            let x = (scale * (at as f32 + 0.5) - 0.5).max(0.0);
            let first = (x as usize).min(from as usize - 1);
            Linear { first, second: (first + 1).min(from as usize - 1), share: x - first as f32 }
        })
        .collect()
}

/// torch's filters for float planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TorchFilter {
    /// Linear.
    Bilinear,
    /// Cubic; a = −0.75 without, −0.5 with antialias.
    Bicubic,
}

/// `torch.nn.functional.interpolate` of one f32 plane `[height, width]`, `align_corners=False`.
/// `scale` overrides the ratio input/output where a scale factor was given instead of a size.
pub fn torch_resize(
    plane: &[f32],
    size: Size,
    out_size: Size,
    filter: TorchFilter,
    antialias: bool,
    scale: Option<[f64; 2]>,
) -> Vec<f32> {
    let [sy, sx] = scale.map_or([None; 2], |s| s.map(Some));
    let columns = torch_axis(size.width, out_size.width, filter, antialias, sx);
    let rows = torch_axis(size.height, out_size.height, filter, antialias, sy);
    let (width, out_width) = (size.width as usize, out_size.width as usize);
    let mut between = vec![0.0f32; size.height as usize * out_width];
    for (line, out) in plane.chunks_exact(width).zip(between.chunks_exact_mut(out_width)) {
        for (out, taps) in out.iter_mut().zip(&columns) {
            *out = taps.iter().map(|(at, w)| line[*at] * w).sum();
        }
    }
    let mut out = Vec::with_capacity(out_size.area());
    for taps in &rows {
        for x in 0..out_width {
            out.push(taps.iter().map(|(at, w)| between[at * out_width + x] * w).sum());
        }
    }
    out
}

type Taps = Vec<(usize, f32)>;

fn torch_axis(
    from: u32,
    to: u32,
    filter: TorchFilter,
    antialias: bool,
    scale: Option<f64>,
) -> Vec<Taps> {
    let scale = scale.unwrap_or(f64::from(from) / f64::from(to));
    let last = i64::from(from) - 1;
    let taps = |at: u32| -> Taps {
        if antialias {
            return antialiased_taps(at, from, scale, filter);
        }
        let x = (f64::from(at) + 0.5) * scale - 0.5;
        match filter {
            TorchFilter::Bilinear => {
                let x = x.max(0.0);
                let first = (x as i64).min(last);
                let share = (x - first as f64) as f32;
                vec![(first as usize, 1.0 - share), ((first + 1).min(last) as usize, share)]
            }
            TorchFilter::Bicubic => {
                let floor = x.floor();
                let t = x - floor;
                let near = |k: i64| (floor as i64 + k).clamp(0, last) as usize;
                let weight = |d: f64| cubic(d, -0.75) as f32;
                vec![
                    (near(-1), weight(t + 1.0)),
                    (near(0), weight(t)),
                    (near(1), weight(1.0 - t)),
                    (near(2), weight(2.0 - t)),
                ]
            }
        }
    };
    (0..to).map(taps).collect()
}

fn antialiased_taps(at: u32, from: u32, scale: f64, filter: TorchFilter) -> Taps {
    let pillow = match filter {
        TorchFilter::Bilinear => Filter::Bilinear,
        TorchFilter::Bicubic => Filter::Bicubic,
    };
    let stretch = scale.max(1.0);
    let support = pillow.support() * stretch;
    let centre = (f64::from(at) + 0.5) * scale;
    let first = ((centre - support + 0.5) as i64).max(0);
    let end = ((centre + support + 0.5) as i64).min(i64::from(from));
    let real: Vec<f64> =
        (first..end).map(|x| pillow.weight((x as f64 - centre + 0.5) / stretch)).collect();
    let sum: f64 = real.iter().sum();
    (first..end).zip(real).map(|(x, w)| (x as usize, (w / sum) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
