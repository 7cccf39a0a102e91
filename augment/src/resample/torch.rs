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
