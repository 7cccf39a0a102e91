//! Sums of a token's bytes and the numbers made of them, by AVX-512: bit for bit those of the plain loops.

use std::arch::x86_64::{
    __m128i, __m512, __m512i, _mm_loadu_ps, _mm_loadu_si128, _mm_maskz_loadu_epi8,
    _mm_storeu_si128, _mm512_add_epi32, _mm512_add_ps, _mm512_castps128_ps512,
    _mm512_castsi512_si128, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtps_epi32,
    _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_epi8,
    _mm512_mul_ps, _mm512_permutexvar_epi8, _mm512_permutexvar_epi32, _mm512_permutexvar_ps,
    _mm512_set1_epi8, _mm512_setzero_si512, _mm512_shuffle_epi32, _mm512_storeu_ps,
    _mm512_sub_epi32, _mm512_xor_si512,
};

use super::{Affine, Starts, Sums};

/// Bytes of one step, 16 pixels; byte l has channel l mod 3.
const STEP: usize = 48;
/// Steps whose sums of four products of a byte and a signed byte fit an i32.
const MOST_STEPS: usize = 1 << 14;

/// Whether the processor has what is used here, and tokens of so many lines of so many bytes fit.
pub(super) fn available(lines: usize, bytes: usize) -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f")
        && has!("avx512bw")
        && has!("avx512vl")
        && has!("avx512vbmi")
        && has!("avx512vnni")
        && lines * bytes.div_ceil(STEP) <= MOST_STEPS
}

/// Makes all numbers of the token at `starts`, where `MAKE`, and sums up the bytes of the one at
/// `next`, where `ADD`. Making waits for memory and adding does not, so both at once take little
/// longer than one.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
#[inline]
pub(super) fn lines<const MAKE: bool, const ADD: bool>(
    map: &Affine,
    pixels: &[u8],
    starts: &Starts<'_>,
    out: &mut [f32],
    next: &Starts<'_>,
) -> Sums {
    let (mut running, lanes) = (Running::new(), Lanes::new(map));
    let mut outs = out.chunks_exact_mut(map.bytes);
    for (frame, next_frame) in starts.frames.iter().zip(next.frames) {
        let (mut start, mut next_start) = (starts.of_frame(*frame), next.of_frame(*next_frame));
        for _ in 0..starts.lines {
            if ADD {
                running.add(&pixels[next_start..next_start + map.bytes]);
            }
            if let (true, Some(out)) = (MAKE, outs.next()) {
                lanes.make(&pixels[start..start + map.bytes], out);
            }
            start += starts.line_bytes;
            next_start += starts.line_bytes;
        }
    }
    running.total()
}

/// Sums of bytes, 16 in 32 bits each.
struct Running {
    values: __m512i,
    /// Of v (v − 128), as only one of two factors may be an unsigned byte.
    products: __m512i,
    by_channel: __m512i,
}

impl Running {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new() -> Self {
        let zero = _mm512_setzero_si512();
        Self { values: zero, products: zero, by_channel: load(&BY_CHANNEL) }
    }

    /// Adds a line.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
    #[inline]
    fn add(&mut self, line: &[u8]) {
        for bytes in line.chunks(STEP) {
            let mask = (1 << bytes.len()) - 1;
            // SAFETY: as many bytes are read as there are.
            let bytes = unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) };
            let bytes = _mm512_permutexvar_epi8(self.by_channel, bytes);
            self.values = _mm512_dpbusd_epi32(self.values, bytes, _mm512_set1_epi8(1));
            let other = _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));
            self.products = _mm512_dpbusd_epi32(self.products, bytes, other);
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn total(&self) -> Sums {
        let (values, products) = (of_channels(self.values), of_channels(self.products));
        let square = |c| f64::from(products[c]) + 128.0 * f64::from(values[c]);
        Sums {
            values: std::array::from_fn(|c| f64::from(values[c])),
            squares: std::array::from_fn(square),
        }
    }
}

/// The sum of the four numbers of each channel.
#[target_feature(enable = "avx512f")]
#[inline]
fn of_channels(numbers: __m512i) -> [i32; 4] {
    let two = _mm512_add_epi32(numbers, _mm512_shuffle_epi32::<0b01_00_11_10>(numbers));
    let one = _mm512_add_epi32(two, _mm512_shuffle_epi32::<0b10_11_00_01>(two));
    let one = _mm512_permutexvar_epi32(load(&FIRSTS), one);
    let mut all = [0; 4];
    // SAFETY: 16 bytes are written of 16.
    unsafe { _mm_storeu_si128(all.as_mut_ptr().cast(), _mm512_castsi512_si128(one)) };
    all
}

/// An [`Affine`] of 48 numbers.
struct Lanes {
    level: [__m512i; 3],
    scale: [__m512; 3],
    shift: [__m512; 3],
}

impl Lanes {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new(map: &Affine) -> Self {
        // Levels are whole numbers.
        let level = lanes(&map.level).map(|level| _mm512_cvtps_epi32(level));
        Self { level, scale: lanes(&map.scale), shift: lanes(&map.shift) }
    }

    /// The numbers of 16 bytes, the `n`th of a step.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn numbers(&self, bytes: __m128i, n: usize) -> __m512 {
        let value = _mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), self.level[n]);
        _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(value), self.scale[n]), self.shift[n])
    }

    /// Makes the numbers of a line.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    fn make(&self, line: &[u8], out: &mut [f32]) {
        let (mut steps, mut outs) = (line.chunks_exact(STEP), out.chunks_exact_mut(STEP));
        for (line, out) in steps.by_ref().zip(outs.by_ref()) {
            for n in 0..3 {
                // SAFETY: 16 of 48 bytes and numbers are read and written.
                unsafe {
                    let bytes = _mm_loadu_si128(line.as_ptr().add(16 * n).cast());
                    _mm512_storeu_ps(out.as_mut_ptr().add(16 * n), self.numbers(bytes, n));
                }
            }
        }
        let rest = steps.remainder().chunks(16).zip(outs.into_remainder().chunks_mut(16));
        for (n, (line, out)) in rest.enumerate() {
            let mask = ((1u32 << line.len().min(out.len())) - 1) as u16;
            // SAFETY: as many bytes and numbers are read and written as there are.
            unsafe {
                let bytes = _mm_maskz_loadu_epi8(mask, line.as_ptr().cast());
                _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, self.numbers(bytes, n));
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

/// Where the first number of each channel stands, of four, and the last once more.
const FIRSTS: [i32; 16] = [0, 4, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

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
