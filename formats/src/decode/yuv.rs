//! Planar 4:2:0 to packed RGB, a region at a time, with the arithmetic of FFmpeg's default
//! converter on x86 (libswscale 5.1, `yuv_2_rgb.asm` without `accurate_rnd`): 16-bit products
//! whose lower half is cut off, chroma repeated. The pixels are those of loaders built on it, and do
//! not depend on the FFmpeg that is installed.

use tubelet_core::{Rect, YuvMatrix};

/// The planes of a frame; chroma has half the columns and half the rows, rounded up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planes<'a> {
    /// Y, U, V.
    pub(super) data: [&'a [u8]; 3],
    /// Bytes from row to row.
    pub(super) stride: [usize; 3],
}

impl<'a> Planes<'a> {
    fn row(&self, plane: usize, y: usize, from: usize, len: usize) -> &'a [u8] {
        &self.row_from(plane, y, from)[..len]
    }

    /// Row `y` of a plane from column `x` on, and what follows it.
    pub(super) fn row_from(&self, plane: usize, y: usize, x: usize) -> &'a [u8] {
        &self.data[plane][y * self.stride[plane] + x..]
    }
}

/// Coefficients in 1/8192.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    y_offset: i16,
    y: i16,
    red_v: i16,
    green_u: i16,
    green_v: i16,
    blue_u: i16,
}

impl Matrix {
    /// From FFmpeg's inverse table (red from V, blue from U, green from U, green from V; 16 bits
    /// after the point, for limited range).
    pub(super) fn new(inverse: [i32; 4], full_range: bool) -> Self {
        let [red_v, blue_u, green_u, green_v] = inverse.map(i64::from);
        let chroma = |c: i64| round(if full_range { c * 224 / 255 } else { c } << 13);
        let y = if full_range { 1 << 16 } else { (255 << 16) / 219 };
        Self {
            y_offset: if full_range { 0 } else { 16 << 3 },
            y: round(y << 13),
            red_v: chroma(red_v),
            green_u: chroma(-green_u),
            green_v: chroma(-green_v),
            blue_u: chroma(blue_u),
        }
    }
}

impl From<Matrix> for YuvMatrix {
    /// With what cutting off the products' lower halves takes away on average: half a level a product
    /// that is no whole number.
    fn from(m: Matrix) -> Self {
        let luma = if m.y == 8192 { 0 } else { -32 };
        Self {
            black: m.y_offset >> 3,
            luma: m.y,
            red_v: m.red_v,
            green_u: m.green_u,
            green_v: m.green_v,
            blue_u: m.blue_u,
            bias: [luma - 28, luma - 56, luma - 28],
        }
    }
}

fn round(value: i64) -> i16 {
    ((value + (1 << 15)) >> 16).clamp(-0x7fff, 0x7fff) as i16
}

/// Converts `region`, whose left edge must be even, to `out`: `height × width × 3` bytes.
///
/// # Panics
/// When a plane is too small for the region.
pub(super) fn to_rgb(planes: &Planes<'_>, region: Rect, matrix: &Matrix, out: &mut [u8]) {
    assert!(region.x % 2 == 0, "chroma is shared by two columns");
    let (left, width) = (region.x as usize, region.width as usize);
    #[cfg(target_arch = "x86_64")]
    let fast = std::arch::is_x86_feature_detected!("avx2");
    for (row, out) in out.chunks_exact_mut(width * 3).enumerate() {
        let y = region.y as usize + row;
        let luma = planes.row(0, y, left, width);
        let half = width.div_ceil(2);
        let chroma = [1, 2].map(|p| planes.row(p, y / 2, left / 2, half));
        #[cfg(target_arch = "x86_64")]
        let done = if fast { avx2::row(luma, chroma, matrix, out) } else { 0 };
        #[cfg(not(target_arch = "x86_64"))]
        let done = 0;
        plain_row(luma, chroma, matrix, done, out);
    }
}

/// The pixels of a row from `start` on.
fn plain_row(luma: &[u8], [u, v]: [&[u8]; 2], m: &Matrix, start: usize, out: &mut [u8]) {
    let scaled = |value: u8, offset: i16, factor: i16| {
        (i32::from((i16::from(value) << 3) - offset) * i32::from(factor)) >> 16
    };
    for (x, pixel) in out.chunks_exact_mut(3).enumerate().skip(start) {
        let y = scaled(luma[x], m.y_offset, m.y);
        let (u, v) = (u[x / 2], v[x / 2]);
        let red = scaled(v, 1024, m.red_v);
        let green = scaled(u, 1024, m.green_u) + scaled(v, 1024, m.green_v);
        let blue = scaled(u, 1024, m.blue_u);
        for (to, part) in pixel.iter_mut().zip([red, green, blue]) {
            *to = (y + part).clamp(0, 255) as u8;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_loadl_epi64, _mm_loadu_si128, _mm_storeu_si128, _mm_unpacklo_epi8,
        _mm256_adds_epi16, _mm256_castsi256_si128, _mm256_cvtepu8_epi16, _mm256_mulhi_epi16,
        _mm256_packus_epi16, _mm256_permute4x64_epi64, _mm256_set1_epi16, _mm256_slli_epi16,
        _mm256_sub_epi16,
    };

    use tubelet_core::simd::interleaved;

    use super::Matrix;

    /// Pixels of one step.
    const STEP: usize = 16;

    /// As many pixels of a row as fill whole steps; says how many.
    pub(super) fn row(luma: &[u8], chroma: [&[u8]; 2], m: &Matrix, out: &mut [u8]) -> usize {
        let steps = luma.len() / STEP;
        assert!(chroma.iter().all(|c| c.len() >= steps * STEP / 2));
        assert!(out.len() >= steps * STEP * 3);
        for step in 0..steps {
            // SAFETY: the caller asked for AVX2; each step reads 16 bytes of luma and 8 of each
            // chroma and writes 48 bytes, all inside the slices by the checks above.
            unsafe {
                let luma = luma.as_ptr().add(step * STEP);
                let chroma = chroma.map(|c| c.as_ptr().add(step * STEP / 2));
                convert(luma, chroma, m, out.as_mut_ptr().add(step * STEP * 3));
            }
        }
        steps * STEP
    }

    /// # Safety
    /// Needs AVX2; 16 bytes of luma and 8 of each chroma are read, 48 written.
    #[target_feature(enable = "avx2")]
    unsafe fn convert(luma: *const u8, [u, v]: [*const u8; 2], m: &Matrix, out: *mut u8) {
        // SAFETY: by the caller.
        let (luma, u, v) = unsafe {
            let half = |p: *const u8| _mm_loadl_epi64(p.cast());
            (_mm_loadu_si128(luma.cast()), half(u), half(v))
        };
        let y = scaled(luma, m.y_offset);
        let u = scaled(_mm_unpacklo_epi8(u, u), 1024);
        let v = scaled(_mm_unpacklo_epi8(v, v), 1024);
        let times = |x: __m256i, factor: i16| _mm256_mulhi_epi16(x, _mm256_set1_epi16(factor));
        let y = times(y, m.y);
        let green = _mm256_adds_epi16(times(u, m.green_u), times(v, m.green_v));
        let parts = [times(v, m.red_v), green, times(u, m.blue_u)];
        let planes = parts.map(|part| bytes(_mm256_adds_epi16(y, part)));
        for (third, bytes) in interleaved(planes).into_iter().enumerate() {
            // SAFETY: by the caller.
            unsafe { _mm_storeu_si128(out.add(third * 16).cast(), bytes) };
        }
    }

    /// 16 bytes as (value << 3) − offset.
    #[target_feature(enable = "avx2")]
    fn scaled(values: __m128i, offset: i16) -> __m256i {
        let words = _mm256_slli_epi16::<3>(_mm256_cvtepu8_epi16(values));
        _mm256_sub_epi16(words, _mm256_set1_epi16(offset))
    }

    /// 16 words clamped to bytes.
    #[target_feature(enable = "avx2")]
    fn bytes(words: __m256i) -> __m128i {
        let packed = _mm256_packus_epi16(words, words);
        _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(packed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_rows_equal_plain_ones() {
        let bytes = |n: usize, step: usize| -> Vec<u8> {
            (0..n).map(|i| ((i * step) ^ (i >> 3)) as u8).collect()
        };
        let planes = [bytes(64 * 40, 37), bytes(32 * 20, 91), bytes(32 * 20, 153)];
        let planes = Planes { data: [&planes[0], &planes[1], &planes[2]], stride: [64, 32, 32] };
        for full in [false, true] {
            let matrix = Matrix::new([104_597, 132_201, 25_675, 53_279], full);
            for width in [1, 15, 16, 17, 33, 62] {
                let region = Rect { x: 2, y: 3, width, height: 20 };
                let mut got = vec![0; region.size().area() * 3];
                to_rgb(&planes, region, &matrix, &mut got);
                for (row, got) in got.chunks_exact(width as usize * 3).enumerate() {
                    let (y, width) = (3 + row, width as usize);
                    let chroma = [1, 2].map(|p| planes.row(p, y / 2, 1, width.div_ceil(2)));
                    let mut want = vec![0; width * 3];
                    plain_row(planes.row(0, y, 2, width), chroma, &matrix, 0, &mut want);
                    assert_eq!(got, want, "width {width}, row {row}");
                }
            }
        }
    }
}
