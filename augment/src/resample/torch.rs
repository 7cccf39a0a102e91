//! torch's interpolation of float tensors (`aten/src/ATen/native/UpSample.h`), without antialias unless
//! asked.

use tubelet_core::{Rect, Size};

use super::{Filter, Resampler, cubic};

impl Resampler {
    /// [`Resampler::resize`] with torch's bilinear interpolation of a float tensor (`align_corners=False`, no
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
        assert!(source.len() >= source_size.area() * 3 && out.len() >= out_size.area() * 3);
        let bilinear = &mut self.bilinear;
        bilinear.prepare(region, out_size, flip);
        let stride = source_size.width as usize * 3;
        let source = &source[region.y as usize * stride + region.x as usize * 3..];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { bilinear.run_avx2(source, stride, out) };
        }
        bilinear.run(source, stride, out);
    }
}

/// Bilinear interpolation row by row. Every row of the source that is needed is interpolated along
/// the row once; two of them are kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Bilinear {
    /// In the order of the result's columns.
    columns: Vec<Linear>,
    rows: Vec<Linear>,
    /// `[columns, 3]`, of the rows `held`.
    lines: [Vec<f32>; 2],
    held: [usize; 2],
}

/// No row.
const NONE: usize = usize::MAX;

impl Bilinear {
    fn prepare(&mut self, region: Rect, out: Size, flip: bool) {
        linear_taps(region.width, out.width, &mut self.columns);
        linear_taps(region.height, out.height, &mut self.rows);
        if flip {
            self.columns.reverse();
        }
        self.lines.iter_mut().for_each(|line| line.resize(out.width as usize * 3, 0.0));
        self.held = [NONE; 2];
    }

    /// [`Self::run`] for AVX2; the numbers are the same.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn run_avx2(&mut self, source: &[u8], stride: usize, out: &mut [u8]) {
        self.run_with(source, stride, out, |row, columns, out| avx2::along(row, columns, out));
    }

    fn run(&mut self, source: &[u8], stride: usize, out: &mut [u8]) {
        self.run_with(source, stride, out, along);
    }

    /// `along` interpolates one row of the source at all columns.
    #[inline(always)]
    fn run_with(
        &mut self,
        source: &[u8],
        stride: usize,
        out: &mut [u8],
        along: impl Fn(&[u8], &[Linear], &mut [f32]),
    ) {
        let Self { columns, rows, lines, held } = self;
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(columns.len() * 3)) {
            if held[0] != row.first {
                lines.swap(0, 1);
                held.swap(0, 1);
            }
            let wanted = [row.first, row.second];
            for ((line, held), wanted) in lines.iter_mut().zip(&mut *held).zip(wanted) {
                if *held != wanted {
                    along(&source[wanted * stride..], columns, line);
                    *held = wanted;
                }
            }
            let [upper, lower] = &*lines;
            for ((out, upper), lower) in out.iter_mut().zip(upper).zip(lower) {
                let value = row.mix(*upper, *lower) + 0.5;
                // SAFETY: shares are 0 to 1 of values from 0 to 255.
                *out = unsafe { value.to_int_unchecked::<i32>() } as u8;
            }
        }
    }
}

/// One row of the source at all columns.
fn along(row: &[u8], columns: &[Linear], out: &mut [f32]) {
    for (column, out) in columns.iter().zip(out.chunks_exact_mut(3)) {
        let first = &row[column.first * 3..][..3];
        let second = &row[column.second * 3..][..3];
        for c in 0..3 {
            out[c] = column.mix(first[c].into(), second[c].into());
        }
    }
}

/// One pixel at a time, its channels in one register.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128, _mm_add_ps, _mm_cvtepi32_ps, _mm_cvtepu8_epi32, _mm_loadu_si32, _mm_mul_ps,
        _mm_set1_ps, _mm_storeu_ps,
    };

    use super::Linear;

    /// [`super::along`]: four bytes and values of each pixel are touched, of which three count.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn along(row: &[u8], columns: &[Linear], out: &mut [f32]) {
        let mut done = 0;
        for column in columns {
            let (first, second, at) = (column.first * 3, column.second * 3, done * 3);
            if first.max(second) + 4 > row.len() || at + 4 > out.len() {
                // The last pixel of the source, and that of the result.
                super::along(row, &columns[done..=done], &mut out[at..at + 3]);
                done += 1;
                continue;
            }
            // SAFETY: four bytes from `first` and `second` on and four values from `at` on are inside.
            unsafe {
                let (a, b) = (levels(row.as_ptr().add(first)), levels(row.as_ptr().add(second)));
                let a = _mm_mul_ps(_mm_set1_ps(1.0 - column.share), a);
                let b = _mm_mul_ps(_mm_set1_ps(column.share), b);
                _mm_storeu_ps(out.as_mut_ptr().add(at), _mm_add_ps(a, b));
            }
            done += 1;
        }
    }

    /// # Safety
    /// Needs AVX2; four bytes are read.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn levels(bytes: *const u8) -> __m128 {
        // SAFETY: by the caller.
        _mm_cvtepi32_ps(_mm_cvtepu8_epi32(unsafe { _mm_loadu_si32(bytes) }))
    }
}

/// Two neighbours and the share of the second.
#[derive(Clone, Copy, Debug)]
struct Linear {
    first: usize,
    second: usize,
    share: f32,
}

impl Linear {
    #[inline(always)]
    fn mix(self, first: f32, second: f32) -> f32 {
        (1.0 - self.share) * first + self.share * second
    }
}

fn linear_taps(from: u32, to: u32, out: &mut Vec<Linear>) {
    let scale = from as f32 / to as f32;
    out.clear();
    out.extend((0..to).map(|at| {
        let x = (scale * (at as f32 + 0.5) - 0.5).max(0.0);
        let first = (x as usize).min(from as usize - 1);
        Linear { first, second: (first + 1).min(from as usize - 1), share: x - first as f32 }
    }));
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
    use proptest::prelude::*;

    use super::*;

    /// The formula, number by number.
    fn direct(source: &[u8], size: Size, region: Rect, out: Size, flip: bool) -> Vec<u8> {
        let (mut columns, mut rows) = (Vec::new(), Vec::new());
        linear_taps(region.width, out.width, &mut columns);
        linear_taps(region.height, out.height, &mut rows);
        let at = |y: usize, x: usize, c: usize| {
            let (y, x) = (region.y as usize + y, region.x as usize + x);
            f32::from(source[(y * size.width as usize + x) * 3 + c])
        };
        let mut pixels = Vec::new();
        for row in &rows {
            for x in 0..columns.len() {
                let column = columns[if flip { columns.len() - 1 - x } else { x }];
                for c in 0..3 {
                    let line = |y| column.mix(at(y, column.first, c), at(y, column.second, c));
                    pixels.push((row.mix(line(row.first), line(row.second)) + 0.5) as u8);
                }
            }
        }
        pixels
    }

    proptest! {
        #[test]
        fn rows_that_are_kept_change_no_number(
            (w, h) in (1u32..90, 1u32..90),
            cut in (0u32..40, 0u32..40),
            (to_w, to_h) in (1u32..80, 1u32..80),
            flip: bool,
            seed: u8,
        ) {
            let size = Size::new(w, h);
            let source: Vec<u8> =
                (0..size.area() * 3).map(|i| (i * 131 % 251) as u8 ^ seed ^ (i / 9) as u8).collect();
            let (x, y) = (cut.0.min(w - 1), cut.1.min(h - 1));
            let region = Rect { x, y, width: w - x, height: h - y };
            let out = Size::new(to_w, to_h);
            let want = direct(&source, size, region, out, flip);
            let mut resampler = Resampler::default();
            let mut got = vec![0; out.area() * 3];
            resampler.resize_torch_bilinear(&source, size, region, out, flip, &mut got);
            prop_assert_eq!(&got, &want);
            let mut plain = vec![0; got.len()];
            resampler.bilinear.prepare(region, out, flip);
            let stride = w as usize * 3;
            resampler.bilinear.run(&source[y as usize * stride + x as usize * 3..], stride, &mut plain);
            prop_assert_eq!(plain, want);
        }
    }
}
