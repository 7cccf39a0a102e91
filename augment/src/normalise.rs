//! Mean/std normalisation of 8-bit pixels.

use tubelet_core::Size;

/// Mean and standard deviation a channel, of pixels scaled to 0..1, RGB order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalise {
    /// Mean.
    pub mean: [f32; 3],
    /// Standard deviation.
    pub std: [f32; 3],
}

/// ImageNet statistics: MAE, VideoMAE, MaskFeat on pictures and most others.
pub const IMAGENET: Normalise =
    Normalise { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
/// SlowFast's video default: MAE-ST, MaskFeat on videos.
pub const SLOWFAST: Normalise = Normalise { mean: [0.45; 3], std: [0.225; 3] };
/// Half and half: BEiT, BootMAE, ViT.
pub const INCEPTION: Normalise = Normalise { mean: [0.5; 3], std: [0.5; 3] };
/// Nothing: pixels from 0 to 1.
pub const NONE: Normalise = Normalise { mean: [0.0; 3], std: [1.0; 3] };
/// DALL-E's `map_pixels`, x ↦ 0.8 x + 0.1, as (x + 0.125) / 1.25: BEiT's tokenizer.
pub const DALLE: Normalise = Normalise { mean: [-0.125; 3], std: [1.25; 3] };

impl Normalise {
    /// Normalised value of each grey level a channel: (v / 255 − mean) / std in f32, as torch's
    /// `ToTensor` and `Normalize` compute it.
    pub fn table(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|c| {
            std::array::from_fn(|v| (v as f32 / 255.0 - self.mean[c]) / self.std[c])
        })
    }

    /// u8 `[frames, height, width, 3]` to f32 `[3, frames, height, width]`.
    ///
    /// # Panics
    /// When `out` does not have three values a pixel.
    pub fn apply(&self, pixels: &[u8], frames: usize, size: Size, out: &mut [f32]) {
        let plane = frames * size.area();
        assert!(pixels.len() == 3 * plane && out.len() == 3 * plane);
        #[cfg(target_arch = "x86_64")]
        let done = if avx2::available() { avx2::apply(self, pixels, out) } else { 0 };
        #[cfg(not(target_arch = "x86_64"))]
        let done = 0;
        self.apply_plain(pixels, done, out);
    }

    /// The pixels from number `start` on.
    fn apply_plain(&self, pixels: &[u8], start: usize, out: &mut [f32]) {
        let plane = out.len() / 3;
        if start == plane {
            return;
        }
        for (c, (table, plane)) in self.table().iter().zip(out.chunks_exact_mut(plane)).enumerate()
        {
            for (pixel, value) in pixels.chunks_exact(3).zip(plane).skip(start) {
                *value = table[usize::from(pixel[c])];
            }
        }
    }
}

/// The same numbers, 16 pixels at a time: the operations of [`Normalise::table`] in their order.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, __m256, _mm_loadu_si128, _mm_or_si128, _mm_setr_epi8, _mm_shuffle_epi8,
        _mm_srli_si128, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_div_ps, _mm256_fmadd_ps,
        _mm256_mul_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm256_sub_ps,
    };

    use super::{DALLE, IMAGENET, INCEPTION, NONE, Normalise, SLOWFAST};

    /// Those whose quotients come out to the last bit by way of reciprocals; the test below looks at
    /// every grey level.
    pub(super) const PROVEN: [Normalise; 5] = [IMAGENET, SLOWFAST, INCEPTION, NONE, DALLE];

    /// Pixels of one step.
    const STEP: usize = 16;

    pub(super) fn available() -> bool {
        std::arch::is_x86_feature_detected!("avx2")
    }

    /// As many pixels as fill whole steps; says how many.
    pub(super) fn apply(normalise: &Normalise, pixels: &[u8], out: &mut [f32]) -> usize {
        let plane = out.len() / 3;
        let steps = plane / STEP;
        assert!(pixels.len() >= steps * STEP * 3);
        let (pixels, out) = (pixels.as_ptr(), out.as_mut_ptr());
        // SAFETY: the caller asked for AVX2, this for FMA; 48 bytes a step are read and 16 values are
        // written in each of the three planes, all inside the slices.
        unsafe {
            if PROVEN.contains(normalise) && std::arch::is_x86_feature_detected!("fma") {
                by_products(normalise, pixels, out, (plane, steps));
            } else {
                by_quotients(normalise, pixels, out, (plane, steps));
            }
        }
        steps * STEP
    }

    /// # Safety
    /// Needs AVX2 and FMA; as [`convert`].
    #[target_feature(enable = "avx2,fma")]
    unsafe fn by_products(
        normalise: &Normalise,
        pixels: *const u8,
        out: *mut f32,
        shape: (usize, usize),
    ) {
        let constants = [0, 1, 2].map(|c| {
            let (mean, std) = (normalise.mean[c], normalise.std[c]);
            (_mm256_set1_ps(mean), reciprocal(std))
        });
        let per_level = reciprocal(255.0);
        let value = |bytes, c: usize| {
            let (mean, per_std) = constants[c];
            let scaled = product(levels(bytes), per_level);
            product(_mm256_sub_ps(scaled, mean), per_std)
        };
        // SAFETY: by the caller.
        unsafe { convert(pixels, out, shape, value) };
    }

    /// 1 / b in two numbers: the nearest f32, and what it lacks.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn reciprocal(b: f32) -> [__m256; 2] {
        let near = 1.0 / b;
        let rest = (1.0 / f64::from(b) - f64::from(near)) as f32;
        [_mm256_set1_ps(near), _mm256_set1_ps(rest)]
    }

    /// a / b, given the reciprocal of b: what is rounded before the last bit is 2⁻⁴⁸ of the quotient.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn product(a: __m256, [near, rest]: [__m256; 2]) -> __m256 {
        _mm256_fmadd_ps(a, near, _mm256_mul_ps(a, rest))
    }

    /// # Safety
    /// Needs AVX2; as [`convert`].
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn by_quotients(
        normalise: &Normalise,
        pixels: *const u8,
        out: *mut f32,
        shape: (usize, usize),
    ) {
        let value = |bytes, c: usize| {
            let scaled = _mm256_div_ps(levels(bytes), _mm256_set1_ps(255.0));
            let centred = _mm256_sub_ps(scaled, _mm256_set1_ps(normalise.mean[c]));
            _mm256_div_ps(centred, _mm256_set1_ps(normalise.std[c]))
        };
        // SAFETY: by the caller.
        unsafe { convert(pixels, out, shape, value) };
    }

    /// `value` makes eight values of channel c.
    ///
    /// # Safety
    /// Needs AVX2; 48 bytes a step are read at `pixels`, and 16 values a step are written at `out` and
    /// at one and two `plane`s behind it.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn convert(
        pixels: *const u8,
        out: *mut f32,
        (plane, steps): (usize, usize),
        value: impl Fn(__m128i, usize) -> __m256,
    ) {
        for step in 0..steps {
            // SAFETY: by the caller.
            let [a, b, c] = unsafe {
                let pixels = pixels.add(step * STEP * 3).cast::<__m128i>();
                [
                    _mm_loadu_si128(pixels),
                    _mm_loadu_si128(pixels.add(1)),
                    _mm_loadu_si128(pixels.add(2)),
                ]
            };
            for (c, bytes) in planes([a, b, c]).into_iter().enumerate() {
                let halves = [bytes, _mm_srli_si128::<8>(bytes)];
                for (n, half) in halves.into_iter().enumerate() {
                    let at = c * plane + step * STEP + n * 8;
                    // SAFETY: by the caller.
                    unsafe { _mm256_storeu_ps(out.add(at), value(half, c)) };
                }
            }
        }
    }

    /// The lower eight bytes.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn levels(bytes: __m128i) -> __m256 {
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
    }

    /// 48 bytes of pixels to three planes of 16 bytes.
    #[target_feature(enable = "avx2")]
    #[inline]
    #[rustfmt::skip]
    fn planes([a, b, c]: [__m128i; 3]) -> [__m128i; 3] {
        let z = -1;
        let pick = |a, b, c| _mm_or_si128(_mm_or_si128(a, b), c);
        [
            pick(
                _mm_shuffle_epi8(a, _mm_setr_epi8(0, 3, 6, 9, 12, 15, z, z, z, z, z, z, z, z, z, z)),
                _mm_shuffle_epi8(b, _mm_setr_epi8(z, z, z, z, z, z, 2, 5, 8, 11, 14, z, z, z, z, z)),
                _mm_shuffle_epi8(c, _mm_setr_epi8(z, z, z, z, z, z, z, z, z, z, z, 1, 4, 7, 10, 13)),
            ),
            pick(
                _mm_shuffle_epi8(a, _mm_setr_epi8(1, 4, 7, 10, 13, z, z, z, z, z, z, z, z, z, z, z)),
                _mm_shuffle_epi8(b, _mm_setr_epi8(z, z, z, z, z, 0, 3, 6, 9, 12, 15, z, z, z, z, z)),
                _mm_shuffle_epi8(c, _mm_setr_epi8(z, z, z, z, z, z, z, z, z, z, z, 2, 5, 8, 11, 14)),
            ),
            pick(
                _mm_shuffle_epi8(a, _mm_setr_epi8(2, 5, 8, 11, 14, z, z, z, z, z, z, z, z, z, z, z)),
                _mm_shuffle_epi8(b, _mm_setr_epi8(z, z, z, z, z, 1, 4, 7, 10, 13, z, z, z, z, z, z)),
                _mm_shuffle_epi8(c, _mm_setr_epi8(z, z, z, z, z, z, z, z, z, z, 0, 3, 6, 9, 12, 15)),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_move_to_the_front() {
        let pixels: Vec<u8> = (0..2 * 2 * 3 * 3).map(|v| v as u8).collect();
        let mut out = vec![0.0; pixels.len()];
        SLOWFAST.apply(&pixels, 2, Size::new(3, 2), &mut out);
        // Channel 1, frame 1, row 0, column 2 is byte ((1·2 + 0)·3 + 2)·3 + 1.
        let want = (f32::from(pixels[25]) / 255.0 - 0.45) / 0.225;
        assert!((out[12 + 6 + 2] - want).abs() < 1e-6);
    }

    #[test]
    fn fast_values_equal_plain_ones() {
        let odd = Normalise { mean: [0.3, 0.7, 0.111], std: [0.9, 0.317, 0.05] };
        for normalise in [IMAGENET, SLOWFAST, INCEPTION, NONE, DALLE, odd] {
            for (width, height) in [(256, 3), (7, 5), (16, 1), (1, 1)] {
                let size = Size::new(width, height);
                let pixels: Vec<u8> = (0..3 * size.area()).map(|v| (v / 3 * 7 + v) as u8).collect();
                let mut fast = vec![0.0; pixels.len()];
                let mut plain = fast.clone();
                normalise.apply(&pixels, 1, size, &mut fast);
                normalise.apply_plain(&pixels, 0, &mut plain);
                assert_eq!(fast, plain);
            }
        }
    }

    /// Every grey level of every channel, to the last bit, by the way that this processor takes.
    #[test]
    fn every_grey_level_is_that_of_the_table() {
        for normalise in [IMAGENET, SLOWFAST, INCEPTION, NONE, DALLE] {
            let pixels: Vec<u8> = (0..256 * 3).map(|v| (v / 3) as u8).collect();
            let mut fast = vec![0.0; pixels.len()];
            normalise.apply(&pixels, 1, Size::new(256, 1), &mut fast);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&fast), bits(normalise.table().as_flattened()), "{normalise:?}");
        }
    }
}
