//! The loops with AVX2, the same numbers as the plain ones.

use std::arch::x86_64::*;

use tubelet_core::simd::interleaved;

use super::taps::Taps;
use super::{Colors, MATRIX_BITS, SAMPLE_BITS, STEP, WEIGHT_BITS, plain};

/// The rounded high half of a product of 16-bit numbers has 15 bits less.
const SHIFT: i32 = (15 + SAMPLE_BITS - WEIGHT_BITS) as i32;

/// See [`plain::vertical`].
#[target_feature(enable = "avx2")]
pub(super) fn vertical(lines: &[u8], stride: usize, weights: &[i16], out: &mut [i16]) {
    let length = out.len();
    if length < STEP {
        return plain::vertical(lines, stride, weights, out);
    }
    assert!((weights.len() - 1) * stride + length <= lines.len());
    let mut at = 0;
    loop {
        let mut sum = _mm256_setzero_si256();
        for (n, weight) in weights.iter().enumerate() {
            // SAFETY: `at + STEP <= length`, and each of the lines has `length` samples.
            let samples = unsafe { _mm_loadu_si128(lines.as_ptr().add(n * stride + at).cast()) };
            let samples = _mm256_slli_epi16::<SHIFT>(_mm256_cvtepu8_epi16(samples));
            let product = _mm256_mulhrs_epi16(samples, _mm256_set1_epi16(*weight));
            sum = _mm256_add_epi16(sum, product);
        }
        // SAFETY: `at + STEP <= length`.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(at).cast(), sum) };
        if at + STEP >= length {
            return;
        }
        // The last step overlaps the one before it.
        at = (at + STEP).min(length - STEP);
    }
}

/// Groups of coefficients that are counted at run time.
const ANY: usize = usize::MAX;

/// See [`plain::horizontal`].
#[target_feature(enable = "avx2")]
pub(super) fn horizontal(taps: &Taps, line: &[i16], out: &mut [i16]) {
    match taps.weights().0 {
        4 => positions::<0>(taps, line, out),
        8 => positions::<1>(taps, line, out),
        16 => positions::<2>(taps, line, out),
        24 => positions::<3>(taps, line, out),
        _ => positions::<ANY>(taps, line, out),
    }
}

/// [`horizontal`] with `GROUPS` groups of 8 coefficients a position, [`ANY`] number of them, or 4
/// coefficients where it is 0.
#[target_feature(enable = "avx2")]
fn positions<const GROUPS: usize>(taps: &Taps, line: &[i16], out: &mut [i16]) {
    let ((per, weights), first) = (taps.weights(), taps.first());
    let groups = if GROUPS == ANY { per / 8 } else { GROUPS };
    assert!(per == if groups == 0 { 4 } else { 8 * groups });
    // No position begins past the range.
    assert!(taps.range().len() + per <= line.len());
    assert!(first.len() % STEP == 0 && out.len() >= first.len());
    assert!(weights.len() == first.len() * per);
    let half = _mm_set1_epi32(1 << (WEIGHT_BITS - 1));
    for n in (0..first.len()).step_by(4) {
        // SAFETY: the four positions read `per` samples from their first ones on, which lie inside the
        // range, and `per` coefficients each: by the checks above both are there.
        let sums = unsafe {
            let first = first.as_ptr().add(n);
            let samples = |k: usize| line.as_ptr().add(*first.add(k) as usize);
            let weights = |k: usize| weights.as_ptr().add((n + k) * per);
            if GROUPS == 0 {
                let load = |k: usize| _mm_loadl_epi64(samples(k).cast());
                let pair = |k: usize| {
                    let samples = _mm_unpacklo_epi64(load(k), load(k + 1));
                    _mm_madd_epi16(samples, _mm_loadu_si128(weights(k).cast()))
                };
                _mm_hadd_epi32(pair(0), pair(2))
            } else {
                let sum = |k: usize| {
                    let mut sum = _mm_setzero_si128();
                    for group in 0..groups {
                        let samples = _mm_loadu_si128(samples(k).add(8 * group).cast());
                        let weights = _mm_loadu_si128(weights(k).add(8 * group).cast());
                        sum = _mm_add_epi32(sum, _mm_madd_epi16(samples, weights));
                    }
                    sum
                };
                _mm_hadd_epi32(_mm_hadd_epi32(sum(0), sum(1)), _mm_hadd_epi32(sum(2), sum(3)))
            }
        };
        let sums = _mm_srai_epi32::<{ WEIGHT_BITS as i32 }>(_mm_add_epi32(sums, half));
        // SAFETY: `out` has room for all positions.
        unsafe { _mm_storel_epi64(out.as_mut_ptr().add(n).cast(), _mm_packs_epi32(sums, sums)) };
    }
}

/// See [`plain::pixels`].
#[target_feature(enable = "avx2")]
pub(super) fn pixels(colors: &Colors, rows: [&[i16]; 3], out: &mut [u8]) {
    let width = out.len() / 3;
    assert!(rows.iter().all(|row| row.len() >= width.next_multiple_of(STEP)));
    let mut last = [0; 3 * STEP];
    for at in (0..width).step_by(STEP) {
        // SAFETY: each row has STEP samples from `at` on.
        let samples = rows.map(|row| unsafe { _mm256_loadu_si256(row.as_ptr().add(at).cast()) });
        let packed = interleaved(rgb(colors, samples));
        let whole = at + STEP <= width;
        let to = if whole { &mut out[3 * at..3 * (at + STEP)] } else { &mut last[..] };
        for (k, bytes) in packed.into_iter().enumerate() {
            // SAFETY: `to` has 48 bytes.
            unsafe { _mm_storeu_si128(to.as_mut_ptr().add(16 * k).cast(), bytes) };
        }
        if !whole {
            out[3 * at..].copy_from_slice(&last[..3 * (width - at)]);
        }
    }
}

/// 16 pixels' R, G and B.
#[inline]
#[target_feature(enable = "avx2")]
fn rgb(colors: &Colors, [y, u, v]: [__m256i; 3]) -> [__m128i; 3] {
    let m = &colors.matrix;
    let centre = _mm256_set1_epi16(128 << SAMPLE_BITS);
    let (u, v) = (_mm256_sub_epi16(u, centre), _mm256_sub_epi16(v, centre));
    let factors = |a: i16, b: i16| _mm256_set1_epi32(i32::from(b) << 16 | i32::from(a as u16));
    let both = |a, b| [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)];
    let (yu, yv, v0) = (both(y, u), both(y, v), both(v, _mm256_setzero_si256()));
    let times = |pairs: [__m256i; 2], f: __m256i| pairs.map(|p| _mm256_madd_epi16(p, f));
    let green = times(v0, factors(m.green_v, 0));
    let with_u = times(yu, factors(m.luma, m.green_u));
    let sums = [
        times(yv, factors(m.luma, m.red_v)),
        [_mm256_add_epi32(with_u[0], green[0]), _mm256_add_epi32(with_u[1], green[1])],
        times(yu, factors(m.luma, m.blue_u)),
    ];
    let bytes = |(sums, offset): ([__m256i; 2], i32)| {
        let offset = _mm256_set1_epi32(offset);
        let shifted = sums.map(|s| {
            _mm256_srai_epi32::<{ (MATRIX_BITS + SAMPLE_BITS) as i32 }>(_mm256_add_epi32(s, offset))
        });
        let words = _mm256_packs_epi32(shifted[0], shifted[1]);
        let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi16(words, words));
        _mm256_castsi256_si128(packed)
    };
    let [r, g, b] = sums;
    let [of_r, of_g, of_b] = colors.offset;
    [bytes((r, of_r)), bytes((g, of_g)), bytes((b, of_b))]
}
