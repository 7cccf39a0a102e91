//! The accurate integer inverse cosine transform (libjpeg's `jidctint`) of two blocks at a time with
//! AVX2: the numbers of libjpeg-turbo's own vector code, which equal the plain ones wherever those
//! fit 16 bits.

use std::arch::x86_64::*;

use super::entropy::Block;

/// Fractional bits of the constants.
const BITS: i32 = 13;
/// Fractional bits kept between the passes.
const KEPT: i32 = 2;

const F_0_298: i16 = 2446;
const F_0_390: i16 = 3196;
const F_0_541: i16 = 4433;
const F_0_765: i16 = 6270;
const F_0_899: i16 = 7373;
const F_1_175: i16 = 9633;
const F_1_501: i16 = 12299;
const F_1_847: i16 = 15137;
const F_1_961: i16 = 16069;
const F_2_053: i16 = 16819;
const F_2_562: i16 = 20995;
const F_3_072: i16 = 25172;

/// Sums in 32 bits, of the lower and the upper four lanes of each half.
#[derive(Clone, Copy)]
struct Wide(__m256i, __m256i);

impl Wide {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(self, other: Self) -> Self {
        Self(_mm256_add_epi32(self.0, other.0), _mm256_add_epi32(self.1, other.1))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn sub(self, other: Self) -> Self {
        Self(_mm256_sub_epi32(self.0, other.0), _mm256_sub_epi32(self.1, other.1))
    }

    /// Rounded to `SHIFT` bits less, in 16 bits again.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn narrow<const SHIFT: i32>(self) -> __m256i {
        let half = _mm256_set1_epi32(1 << (SHIFT - 1));
        let shifted = |v| _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(v, half));
        _mm256_packs_epi32(shifted(self.0), shifted(self.1))
    }
}

/// The pairs (a, b) of all lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs(a: __m256i, b: __m256i) -> Wide {
    Wide(_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b))
}

/// a·x + b·y of the pairs (x, y).
#[inline]
#[target_feature(enable = "avx2")]
fn dot(pairs: Wide, a: i16, b: i16) -> Wide {
    let factors = _mm256_set1_epi32(i32::from(b) << 16 | i32::from(a as u16));
    Wide(_mm256_madd_epi16(pairs.0, factors), _mm256_madd_epi16(pairs.1, factors))
}

/// One pass over eight vectors, the last step a shift by `SHIFT`.
#[inline]
#[target_feature(enable = "avx2")]
fn pass<const SHIFT: i32>(v: [__m256i; 8]) -> [__m256i; 8] {
    let zero = _mm256_setzero_si256();
    // Even part.
    let z = pairs(v[2], v[6]);
    let sum = dot(z, F_0_541 + F_0_765, F_0_541);
    let difference = dot(z, F_0_541, F_0_541 - F_1_847);
    let raised = |v| {
        let wide = pairs(zero, v);
        Wide(_mm256_srai_epi32::<{ 16 - BITS }>(wide.0), _mm256_srai_epi32::<{ 16 - BITS }>(wide.1))
    };
    let plus = raised(_mm256_add_epi16(v[0], v[4]));
    let minus = raised(_mm256_sub_epi16(v[0], v[4]));
    let even = [plus.add(sum), minus.add(difference), minus.sub(difference), plus.sub(sum)];
    // Odd part.
    let z = pairs(_mm256_add_epi16(v[7], v[3]), _mm256_add_epi16(v[5], v[1]));
    let z3 = dot(z, F_1_175 - F_1_961, F_1_175);
    let z4 = dot(z, F_1_175, F_1_175 - F_0_390);
    let outer = pairs(v[7], v[1]);
    let inner = pairs(v[5], v[3]);
    let odd = [
        dot(outer, -F_0_899, F_1_501 - F_0_899).add(z4),
        dot(inner, -F_2_562, F_3_072 - F_2_562).add(z3),
        dot(inner, F_2_053 - F_2_562, -F_2_562).add(z4),
        dot(outer, F_0_298 - F_0_899, -F_0_899).add(z3),
    ];
    let mut out = [zero; 8];
    for n in 0..4 {
        out[n] = even[n].add(odd[n]).narrow::<SHIFT>();
        out[7 - n] = even[n].sub(odd[n]).narrow::<SHIFT>();
    }
    out
}

/// The pass over columns. A block with nothing below its first row is shifted instead: the same
/// number, except that absurd ones wrap where the pass saturates. libjpeg-turbo does so too.
#[inline]
#[target_feature(enable = "avx2")]
fn first_pass(rows: [__m256i; 8]) -> [__m256i; 8] {
    let below =
        rows[1..].iter().fold(_mm256_setzero_si256(), |any, row| _mm256_or_si256(any, *row));
    let halves = _mm256_cmpeq_epi64(below, _mm256_setzero_si256());
    let is_flat = _mm256_and_si256(halves, _mm256_shuffle_epi32::<0b01_00_11_10>(halves));
    let shifted = _mm256_slli_epi16::<KEPT>(rows[0]);
    pass::<{ BITS - KEPT }>(rows).map(|row| _mm256_blendv_epi8(row, shifted, is_flat))
}

/// Rows and columns exchanged, in each half.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(v: [__m256i; 8]) -> [__m256i; 8] {
    let low = |a, b| _mm256_unpacklo_epi16(a, b);
    let high = |a, b| _mm256_unpackhi_epi16(a, b);
    let a = [
        [low(v[0], v[1]), low(v[2], v[3]), low(v[4], v[5]), low(v[6], v[7])],
        [high(v[0], v[1]), high(v[2], v[3]), high(v[4], v[5]), high(v[6], v[7])],
    ];
    let mut out = [v[0]; 8];
    for n in 0..2 {
        let b = [
            _mm256_unpacklo_epi32(a[n][0], a[n][1]),
            _mm256_unpacklo_epi32(a[n][2], a[n][3]),
            _mm256_unpackhi_epi32(a[n][0], a[n][1]),
            _mm256_unpackhi_epi32(a[n][2], a[n][3]),
        ];
        for m in 0..2 {
            out[4 * n + 2 * m] = _mm256_unpacklo_epi64(b[2 * m], b[2 * m + 1]);
            out[4 * n + 2 * m + 1] = _mm256_unpackhi_epi64(b[2 * m], b[2 * m + 1]);
        }
    }
    out
}

/// Transforms two blocks of coefficients to 8 rows of 16 samples in `plane`, rows `stride` apart.
///
/// # Panics
/// When `plane` is shorter than that.
#[target_feature(enable = "avx2")]
pub(super) fn two_blocks(blocks: [&Block; 2], plane: &mut [u8], stride: usize) {
    assert!(plane.len() >= 7 * stride + 16);
    let mut rows = [_mm256_setzero_si256(); 8];
    for (n, row) in rows.iter_mut().enumerate() {
        // SAFETY: a block has eight rows of eight numbers of two bytes.
        *row = unsafe {
            let at = |block: &Block| _mm_loadu_si128(block.as_ptr().add(8 * n).cast());
            _mm256_set_m128i(at(blocks[1]), at(blocks[0]))
        };
    }
    let rows = first_pass(rows);
    let rows = pass::<{ BITS + KEPT + 3 }>(transposed(rows));
    // Columns now: to bytes, and rows again.
    let both = |n: usize| _mm256_packs_epi16(rows[n], rows[n + 4]);
    let pair = [
        [_mm256_unpacklo_epi8(both(0), both(1)), _mm256_unpacklo_epi8(both(2), both(3))],
        [_mm256_unpackhi_epi8(both(0), both(1)), _mm256_unpackhi_epi8(both(2), both(3))],
    ];
    let quads = |half: bool| {
        pair.map(
            |[a, b]| if half { _mm256_unpackhi_epi16(a, b) } else { _mm256_unpacklo_epi16(a, b) },
        )
    };
    let middle = _mm256_set1_epi8(-128);
    for (half, [left, right]) in [quads(false), quads(true)].into_iter().enumerate() {
        let two = [_mm256_unpacklo_epi32(left, right), _mm256_unpackhi_epi32(left, right)];
        for (n, rows) in two.into_iter().enumerate() {
            // Each half has two rows of its block: the blocks' parts of a row side by side.
            let rows = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_xor_si256(rows, middle));
            let at = (4 * half + 2 * n) * stride;
            // SAFETY: rows up to the seventh have 16 bytes, as was asserted.
            unsafe {
                let to = plane.as_mut_ptr().add(at);
                _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(rows));
                let next = _mm256_extracti128_si256::<1>(rows);
                _mm_storeu_si128(to.add(stride).cast(), next);
            }
        }
    }
}

/// The sample of all 64 places of a block whose only coefficient that is not 0 is the first.
pub(super) fn flat(first: i16) -> u8 {
    // Absurd coefficients leave the 16 bits, as they do in libjpeg-turbo.
    let first = i32::from(first.wrapping_shl(KEPT as u32)) << BITS;
    (((first + (1 << (BITS + KEPT + 2))) >> (BITS + KEPT + 3)) + 128).clamp(0, 255) as u8
}
