//! Sums of a token's bytes and the numbers made of them, by AVX-512: bit for bit those of the plain loops.

use std::arch::x86_64::{
    __m128i, __m512, __m512i, _mm_loadu_ps, _mm_loadu_si128, _mm_maskz_loadu_epi8,
    _mm512_add_epi32, _mm512_add_ps, _mm512_castps128_ps512, _mm512_cvtepi32_ps,
    _mm512_cvtepu8_epi32, _mm512_cvtps_epi32, _mm512_dpbusd_epi32, _mm512_loadu_si512,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_epi8, _mm512_mul_ps, _mm512_permutexvar_epi8,
    _mm512_permutexvar_ps, _mm512_set1_epi8, _mm512_setzero_si512, _mm512_shuffle_epi32,
    _mm512_storeu_ps, _mm512_storeu_si512, _mm512_sub_epi32, _mm512_xor_si512,
};

use super::{Affine, Starts, Sums};

/// Bytes of one step, 16 pixels; byte l has channel l mod 3.
const STEP: usize = 48;
/// Lines whose sums of four products of a byte and a signed byte fit an i32.
const MOST_LINES: usize = 1 << 14;

pub(super) fn available() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f")
        && has!("avx512bw")
        && has!("avx512vl")
        && has!("avx512vbmi")
        && has!("avx512vnni")
}

/// Adds all bytes of each line; false where they are too many for the registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
#[inline]
pub(super) fn add(sums: &mut Sums, pixels: &[u8], starts: &Starts<'_>) -> bool {
    if starts.lines * starts.frames.len() > MOST_LINES {
        return false;
    }
    let (by_channel, ones, half) = (load(&BY_CHANNEL), _mm512_set1_epi8(1), _mm512_set1_epi8(-128));
    for at in (0..sums.bytes).step_by(STEP) {
        let count = STEP.min(sums.bytes - at);
        let mask = (1u64 << count) - 1;
        let (mut values, mut products) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for frame in starts.frames {
            let mut start = starts.of_frame(*frame) + at;
            for _ in 0..starts.lines {
                let bytes = &pixels[start..start + count];
                start += starts.line_bytes;
                // SAFETY: `count` bytes are read of as many.
                let bytes = unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) };
                let bytes = _mm512_permutexvar_epi8(by_channel, bytes);
                values = _mm512_dpbusd_epi32(values, bytes, ones);
                // v (v − 128), as only one of two factors may be an unsigned byte.
                products = _mm512_dpbusd_epi32(products, bytes, _mm512_xor_si512(bytes, half));
            }
        }
        let (values, products) = (of_channels(values), of_channels(products));
        for c in 0..3 {
            sums.values[c] += values[c] as u64;
            sums.squares[c] += (products[c] + 128 * values[c]) as u64;
        }
    }
    true
}

/// The sum of the four numbers of each channel.
#[target_feature(enable = "avx512f")]
#[inline]
fn of_channels(numbers: __m512i) -> [i64; 3] {
    let two = _mm512_add_epi32(numbers, _mm512_shuffle_epi32::<0b01_00_11_10>(numbers));
    let one = _mm512_add_epi32(two, _mm512_shuffle_epi32::<0b10_11_00_01>(two));
    let mut all = [0i32; 16];
    // SAFETY: 64 bytes are written of 64.
    unsafe { _mm512_storeu_si512(all.as_mut_ptr().cast(), one) };
    [all[0], all[4], all[8]].map(i64::from)
}

/// Makes all numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
pub(super) fn apply(map: &Affine, pixels: &[u8], starts: &Starts<'_>, out: &mut [f32]) {
    let (level, scale, shift) = (lanes(&map.level), lanes(&map.scale), lanes(&map.shift));
    // Levels are whole numbers.
    let level = level.map(|level| _mm512_cvtps_epi32(level));
    let numbers = |bytes: __m128i, n: usize| {
        let value = _mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), level[n]);
        _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(value), scale[n]), shift[n])
    };
    let whole = map.bytes / STEP * STEP;
    let mut outs = out.chunks_exact_mut(map.bytes);
    for frame in starts.frames {
        let mut start = starts.of_frame(*frame);
        for out in outs.by_ref().take(starts.lines) {
            let (from, out) = (pixels[start..start + map.bytes].as_ptr(), out.as_mut_ptr());
            start += starts.line_bytes;
            for at in (0..whole).step_by(STEP) {
                for n in 0..3 {
                    // SAFETY: 16 of the bytes and numbers of a whole step are read and written.
                    unsafe {
                        let at = at + 16 * n;
                        let bytes = _mm_loadu_si128(from.add(at).cast());
                        _mm512_storeu_ps(out.add(at), numbers(bytes, n));
                    }
                }
            }
            for (n, at) in (whole..map.bytes).step_by(16).enumerate() {
                let mask = ((1u32 << (map.bytes - at).min(16)) - 1) as u16;
                // SAFETY: the mask ends where the line does.
                unsafe {
                    let bytes = _mm_maskz_loadu_epi8(mask, from.add(at).cast());
                    _mm512_mask_storeu_ps(out.add(at), mask, numbers(bytes, n));
                }
            }
        }
    }
}

/// Three registers of the numbers of three channels in turn.
#[target_feature(enable = "avx512f")]
#[inline]
fn lanes(channels: &[f32; 4]) -> [__m512; 3] {
    // SAFETY: four values are read of four.
    let four = _mm512_castps128_ps512(unsafe { _mm_loadu_ps(channels.as_ptr()) });
    [0, 1, 2].map(|n| _mm512_permutexvar_ps(load(&IN_TURN[n]), four))
}

/// Channels of 16 numbers of which the first has channel 0, 1 and 2.
const IN_TURN: [[i32; 16]; 3] = {
    let mut all = [[0; 16]; 3];
    let mut k = 0;
    while k < 48 {
        all[k / 16][k % 16] = k as i32 % 3;
        k += 1;
    }
    all
};

/// Which of 48 bytes in turn stands where 16 bytes of each channel follow each other; behind them
/// the last byte of 64, which is not read.
const BY_CHANNEL: [u8; 64] = {
    let mut all = [63; 64];
    let mut k = 0;
    while k < STEP {
        all[k % 3 * 16 + k / 3] = k as u8;
        k += 1;
    }
    all
};

#[target_feature(enable = "avx512f")]
#[inline]
fn load<T: Copy, const N: usize>(numbers: &[T; N]) -> __m512i {
    const { assert!(size_of::<T>() * N == 64) };
    // SAFETY: 64 bytes are read of 64.
    unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
}
