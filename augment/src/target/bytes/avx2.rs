//! Sums of a token's bytes and the numbers made of them, by AVX2: bit for bit those of the plain loops.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_loadl_epi64, _mm_loadu_ps,
    _mm_loadu_si128, _mm_shuffle_epi32, _mm_unpackhi_epi8, _mm_unpacklo_epi8, _mm256_add_epi16,
    _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256, _mm256_castps128_ps256,
    _mm256_castsi256_si128, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi16, _mm256_cvtepu8_epi32,
    _mm256_cvtps_epi32, _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_mul_ps, _mm256_permutevar8x32_ps, _mm256_set1_epi16, _mm256_setr_epi32,
    _mm256_setzero_si256, _mm256_storeu_ps, _mm256_sub_epi32,
};

use super::{Affine, Starts, Sums};

/// Bytes of one step of a sum; byte l has channel l mod 3.
const STEP: usize = 48;
/// Numbers of one step of a map, eight pixels; number l has channel l mod 3.
const NUMBERS: usize = 24;
/// Lines half of whose bytes fit an i16 when they are added.
const MOST_LINES: usize = 256;

/// Adds as many of the `bytes` of each line as fill whole steps; says how many.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn add(sums: &mut Sums, pixels: &[u8], starts: &Starts<'_>, bytes: usize) -> usize {
    let steps = bytes / STEP;
    if starts.lines * starts.frames.len() > MOST_LINES || starts.lines % 2 > 0 {
        return 0;
    }
    for at in (0..steps).map(|step| step * STEP) {
        let pairs = add_pairs(pixels, starts, at);
        // Numbers whose first one has channel 0, 1 and 2; the next ones follow in turn.
        let (mut values, mut squares) = ([_mm256_setzero_si256(); 3], [_mm256_setzero_si256(); 3]);
        let ones = _mm256_set1_epi16(1);
        for (n, (value, square)) in pairs.into_iter().enumerate() {
            let first = 8 * n % 3;
            let value = _mm256_madd_epi16(value, ones);
            values[first] = _mm256_add_epi32(values[first], value);
            squares[first] = _mm256_add_epi32(squares[first], square);
        }
        for c in 0..4 {
            sums.values[c] += total(channel(values, c.min(2)));
            sums.squares[c] += total(channel(squares, c.min(2)));
        }
    }
    steps * STEP
}

/// Sums over all pairs of lines: n has those of the bytes from number 8 n of a step on, values in
/// twice 8 numbers of 16 bits, squares in 8 numbers of 32 bits.
#[target_feature(enable = "avx2")]
#[inline]
fn add_pairs(pixels: &[u8], starts: &Starts<'_>, at: usize) -> [(__m256i, __m256i); 6] {
    let zero = _mm256_setzero_si256();
    let mut sums = [(zero, zero); 6];
    for frame in starts.frames {
        let mut start = starts.of_frame(*frame) + at;
        for _ in 0..starts.lines / 2 {
            let lines = &pixels[start..start + starts.line_bytes + STEP];
            start += 2 * starts.line_bytes;
            for n in 0..3 {
                // SAFETY: 16 of the first and of the last 48 bytes are read.
                let (upper, lower) = unsafe {
                    let upper = lines.as_ptr().add(n * 16).cast::<__m128i>();
                    let lower = upper.byte_add(starts.line_bytes);
                    (_mm_loadu_si128(upper), _mm_loadu_si128(lower))
                };
                // A byte stands beside that below it.
                let low = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(upper, lower));
                let high = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(upper, lower));
                for (sum, wide) in [(2 * n, low), (2 * n + 1, high)] {
                    let (values, squares) = sums[sum];
                    let square = _mm256_madd_epi16(wide, wide);
                    sums[sum] = (_mm256_add_epi16(values, wide), _mm256_add_epi32(squares, square));
                }
            }
        }
    }
    sums
}

/// The numbers of channel `c`, zeros between them, of registers whose first number has channel 0,
/// 1 and 2.
#[target_feature(enable = "avx2")]
#[inline]
fn channel(all: [__m256i; 3], c: usize) -> __m256i {
    let of = |first: usize| _mm256_and_si256(all[first], load(&EACH[(c + 3 - first) % 3]));
    _mm256_add_epi32(_mm256_add_epi32(of(0), of(1)), of(2))
}

/// Makes as many numbers of each line as fill whole steps of eight pixels; says how many.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn apply(map: &Affine, pixels: &[u8], starts: &Starts<'_>, out: &mut [f32]) -> usize {
    let (level, scale, shift) = (lanes(&map.level), lanes(&map.scale), lanes(&map.shift));
    // Levels are whole numbers.
    let level =
        [_mm256_cvtps_epi32(level[0]), _mm256_cvtps_epi32(level[1]), _mm256_cvtps_epi32(level[2])];
    let done = map.bytes / NUMBERS * NUMBERS;
    let mut outs = out.chunks_exact_mut(map.bytes);
    for frame in starts.frames {
        let mut start = starts.of_frame(*frame);
        for out in outs.by_ref().take(starts.lines) {
            let bytes = &pixels[start..start + map.bytes];
            start += starts.line_bytes;
            for at in (0..done).step_by(NUMBERS) {
                for n in 0..3 {
                    // SAFETY: 8 of the 24 bytes and numbers from `at` on are read and written.
                    unsafe {
                        let at = at + 8 * n;
                        let bytes = _mm_loadl_epi64(bytes.as_ptr().add(at).cast());
                        let value = _mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), level[n]);
                        let value = _mm256_mul_ps(_mm256_cvtepi32_ps(value), scale[n]);
                        let value = _mm256_add_ps(value, shift[n]);
                        _mm256_storeu_ps(out.as_mut_ptr().add(at), value);
                    }
                }
            }
        }
    }
    done
}

/// Three registers of the numbers of three channels in turn.
#[target_feature(enable = "avx2")]
#[inline]
fn lanes(channels: &[f32; 4]) -> [__m256; 3] {
    // SAFETY: four values are read of four.
    let four = _mm256_castps128_ps256(unsafe { _mm_loadu_ps(channels.as_ptr()) });
    [
        _mm256_permutevar8x32_ps(four, _mm256_setr_epi32(0, 1, 2, 0, 1, 2, 0, 1)),
        _mm256_permutevar8x32_ps(four, _mm256_setr_epi32(2, 0, 1, 2, 0, 1, 2, 0)),
        _mm256_permutevar8x32_ps(four, _mm256_setr_epi32(1, 2, 0, 1, 2, 0, 1, 2)),
    ]
}

/// All bits of each 32-bit number k with k mod 3 = the index.
const EACH: [[i32; 8]; 3] = {
    let mut all = [[0; 8]; 3];
    let mut k = 0;
    while k < 8 {
        all[k % 3][k] = -1;
        k += 1;
    }
    all
};

#[target_feature(enable = "avx2")]
#[inline]
fn load<T: Copy, const N: usize>(numbers: &[T; N]) -> __m256i {
    const { assert!(size_of::<T>() * N == 32) };
    // SAFETY: 32 bytes are read of 32.
    unsafe { _mm256_loadu_si256(numbers.as_ptr().cast()) }
}

/// The sum of eight 32-bit numbers, which fits 32 bits.
#[target_feature(enable = "avx2")]
#[inline]
fn total(numbers: __m256i) -> f64 {
    let (low, high) = (_mm256_castsi256_si128(numbers), _mm256_extracti128_si256::<1>(numbers));
    let four = _mm_add_epi32(low, high);
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
    f64::from(_mm_cvtsi128_si32(one) as u32)
}
