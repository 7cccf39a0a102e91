//! Chroma to full size ("fancy" upsampling: three parts of the nearest sample, one of the next), and
//! YCbCr to RGB with libjpeg's constants, with AVX2.

use std::arch::x86_64::*;

use tubelet_core::simd::interleaved;

/// Pixels of a step.
const STEP: usize = 16;
/// Samples that may be read past the end of a row.
pub(super) const PADDING: usize = 32;

/// 0.40200, 0.28586, −0.34414 and −0.22800 with 16 fractional bits: the parts of 1.40200, −0.71414,
/// −0.34414 and 1.77200 beside whole numbers.
const R_CR: i16 = 26345;
const G_CR: i16 = 18734;
const G_CB: i16 = -22554;
const B_CB: i16 = -14942;

/// One row to packed RGB: `row.len() / 3` pixels. The samples' slices have [`PADDING`] more entries
/// than the row has pixels, or all are read from a buffer that does.
///
/// # Panics
/// When a row of samples is too short.
#[target_feature(enable = "avx2")]
pub(super) fn rgb_row(luma: &[u8], blue: &[u8], red: &[u8], row: &mut [u8]) {
    let width = row.len() / 3;
    let steps = width.div_ceil(STEP);
    assert!(luma.len().min(blue.len()).min(red.len()) >= steps * STEP);
    let mut last = [0; 3 * STEP];
    for n in 0..steps {
        let at = n * STEP;
        // SAFETY: each row of samples has STEP of them from `at` on, as was asserted.
        let samples = unsafe {
            let load = |from: &[u8]| _mm_loadu_si128(from.as_ptr().add(at).cast());
            [load(luma), load(blue), load(red)]
        };
        let packed = interleaved(rgb(samples));
        let whole = at + STEP <= width;
        let to = if whole { &mut row[3 * at..3 * (at + STEP)] } else { &mut last[..] };
        for (k, bytes) in packed.into_iter().enumerate() {
            // SAFETY: `to` has 48 bytes.
            unsafe { _mm_storeu_si128(to.as_mut_ptr().add(16 * k).cast(), bytes) };
        }
        if !whole {
            row[3 * at..].copy_from_slice(&last[..3 * (width - at)]);
        }
    }
}

/// 16 pixels' R, G and B of their Y, Cb and Cr.
#[inline]
#[target_feature(enable = "avx2")]
fn rgb([luma, blue, red]: [__m128i; 3]) -> [__m128i; 3] {
    let one = _mm256_set1_epi16(1);
    let luma = _mm256_cvtepu8_epi16(luma);
    let centred = |v| _mm256_sub_epi16(_mm256_cvtepu8_epi16(v), _mm256_set1_epi16(128));
    let (blue, red) = (centred(blue), centred(red));
    // round(x · f / 65536) = (2x · f / 65536 + 1) / 2, both divisions rounded down.
    let part = |x, f: i16| {
        let twice = _mm256_mulhi_epi16(_mm256_add_epi16(x, x), _mm256_set1_epi16(f));
        _mm256_srai_epi16::<1>(_mm256_add_epi16(twice, one))
    };
    let r = _mm256_add_epi16(_mm256_add_epi16(luma, red), part(red, R_CR));
    let twice_blue = _mm256_add_epi16(blue, blue);
    let b = _mm256_add_epi16(_mm256_add_epi16(luma, twice_blue), part(blue, B_CB));
    let factors = _mm256_set1_epi32(i32::from(G_CR) << 16 | i32::from(G_CB as u16));
    let rounded = |pairs| {
        let sum = _mm256_add_epi32(_mm256_madd_epi16(pairs, factors), _mm256_set1_epi32(1 << 15));
        _mm256_srai_epi32::<16>(sum)
    };
    let green = _mm256_packs_epi32(
        rounded(_mm256_unpacklo_epi16(blue, red)),
        rounded(_mm256_unpackhi_epi16(blue, red)),
    );
    let g = _mm256_add_epi16(_mm256_sub_epi16(luma, red), green);
    [r, g, b].map(|v| {
        let bytes = _mm256_permute4x64_epi64::<0b00_00_10_00>(_mm256_packus_epi16(v, v));
        _mm256_castsi256_si128(bytes)
    })
}

/// Three parts of `near` and one of `far`, sample by sample.
#[target_feature(enable = "avx2")]
pub(super) fn blended(near: &[u8], far: &[u8], out: &mut [u16]) {
    for ((to, near), far) in out.iter_mut().zip(near).zip(far) {
        *to = 3 * u16::from(*near) + u16::from(*far);
    }
}

/// Twice the columns. `sums` has one entry more on either side of those that are doubled; the two
/// results of an entry are the bytes of a number in `out`. `SCALE` is what the sums are of a sample:
/// 1, or 4 after [`blended`].
#[target_feature(enable = "avx2")]
pub(super) fn doubled<const SCALE: u16>(sums: &[u16], out: &mut [u16]) {
    // Halves are rounded down on the left and up on the right (4:2:2), or the other way (4:2:0).
    let (left, right, shift) = if SCALE == 1 { (1, 2, 2) } else { (8, 7, 4) };
    let count = out.len().min(sums.len().saturating_sub(2));
    let (before, this, after) = (&sums[..count], &sums[1..=count], &sums[2..count + 2]);
    for (n, to) in out[..count].iter_mut().enumerate() {
        let three = 3 * this[n];
        let even = (three + before[n] + left) >> shift;
        let odd = (three + after[n] + right) >> shift;
        *to = (even | odd << 8).to_le();
    }
}
