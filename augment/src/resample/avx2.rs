//! Both passes with AVX2, bit for bit as the plain ones.
//!
//! A 22-bit coefficient w is split into w = high · 2¹¹ + low, so that both parts fit the 16-bit
//! multiply-and-add; the two sums of products are joined in 32 bits, where the plain version adds
//! too, so the result is the same number.

use std::arch::x86_64::{
    __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_loadl_epi64, _mm_loadu_si128, _mm_packs_epi32,
    _mm_packus_epi16, _mm_set1_epi32, _mm_srai_epi32, _mm256_add_epi32,
    _mm256_broadcastsi128_si256, _mm256_castsi256_si128, _mm256_extracti128_si256,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_packs_epi32, _mm256_packus_epi16,
    _mm256_set_m128i, _mm256_set1_epi32, _mm256_setr_epi8, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srai_epi32, _mm256_storeu_si256,
    _mm256_unpackhi_epi8, _mm256_unpacklo_epi8,
};

use super::{Axis, HALF, PRECISION, plain};

/// Bits of a coefficient's low part.
const LOW_BITS: u32 = 11;
/// Source pixels that one step of the horizontal pass takes.
pub(super) const GROUP: usize = 4;
/// Bytes that one step of the horizontal pass reads.
const READ: usize = 16;
/// Bytes that one step of the horizontal pass reads a position where there are at most two taps.
const PAIR_READ: usize = 8;
/// Bytes that one step of the vertical pass makes.
const WIDE: usize = 32;

/// Whether this machine can.
pub(super) fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

/// The two parts of a coefficient.
fn split(weight: i32) -> (i16, i16) {
    ((weight >> LOW_BITS) as i16, (weight & ((1 << LOW_BITS) - 1)) as i16)
}

/// Coefficients of four neighbours as the horizontal pass multiplies them: 16 high parts, then 16
/// low parts; each pair of neighbours once a channel.
pub(super) fn lanes(weights: &[i32]) -> impl Iterator<Item = [i16; 32]> {
    weights.chunks(GROUP).map(|group| {
        let mut out = [0; 32];
        for (n, weight) in group.iter().enumerate() {
            let (high, low) = split(*weight);
            for channel in 0..3 {
                let at = n / 2 * 8 + channel * 2 + n % 2;
                (out[at], out[16 + at]) = (high, low);
            }
        }
        out
    })
}

/// Coefficients of two neighbouring positions of at most two taps: 16 high parts (8 a position), then
/// 16 low parts; both taps once a channel.
pub(super) fn pair_lanes(weights: [&[i32]; 2]) -> [i16; 32] {
    let mut out = [0; 32];
    for (position, weights) in weights.into_iter().enumerate() {
        for (n, weight) in weights.iter().take(2).enumerate() {
            let (high, low) = split(*weight);
            for channel in 0..3 {
                let at = position * 8 + channel * 2 + n;
                (out[at], out[16 + at]) = (high, low);
            }
        }
    }
    out
}

/// As [`horizontal`], for an axis of at most two taps: two positions a step.
pub(super) fn horizontal_pairs(axis: &Axis, line: &[u8], flip: bool, row: &mut [u8]) {
    let width = row.len() / 3;
    let safe = axis.first.partition_point(|first| *first as usize * 3 + PAIR_READ <= line.len());
    let pairs = safe.min(width) / 2;
    assert!(axis.lanes.len() >= pairs);
    // SAFETY: `available` was asked before this is called; the first `2 * pairs` positions read
    // inside `line`.
    unsafe { pairs_safe(axis, line, flip, pairs, width, row) };
    for x in 2 * pairs..width {
        plain::horizontal_pixel(axis, line, flip, x, row);
    }
}

/// # Safety
/// Needs AVX2; see the only caller for the bounds of `line`.
#[target_feature(enable = "avx2")]
unsafe fn pairs_safe(
    axis: &Axis,
    line: &[u8],
    flip: bool,
    pairs: usize,
    width: usize,
    row: &mut [u8],
) {
    // In each half r0 r1 g0 g1 b0 b1 as 16 bits each.
    #[rustfmt::skip]
    let spread = _mm256_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
    );
    let half = _mm256_set1_epi32(HALF);
    for (n, lanes) in axis.lanes[..pairs].iter().enumerate() {
        let at = |position: usize| axis.first[position] as usize * 3;
        // SAFETY: bounds by the caller; an entry of the lanes has 64 bytes.
        let (pixels, weights) = unsafe {
            let load = |at: usize| _mm_loadl_epi64(line.as_ptr().add(at).cast());
            let lanes = lanes.as_ptr().cast::<__m256i>();
            let pixels = _mm256_set_m128i(load(at(2 * n + 1)), load(at(2 * n)));
            (pixels, [_mm256_loadu_si256(lanes), _mm256_loadu_si256(lanes.add(1))])
        };
        let pixels = _mm256_shuffle_epi8(pixels, spread);
        let [high, low] = weights.map(|weights| _mm256_madd_epi16(pixels, weights));
        let sum = _mm256_add_epi32(_mm256_slli_epi32::<{ LOW_BITS as i32 }>(high), low);
        let grey = _mm256_srai_epi32::<{ PRECISION as i32 }>(_mm256_add_epi32(sum, half));
        let bytes = _mm256_packus_epi16(_mm256_packs_epi32(grey, grey), grey);
        let halves = [_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes)];
        for (x, half) in (2 * n..).zip(halves) {
            let at = if flip { width - 1 - x } else { x } * 3;
            row[at..at + 3].copy_from_slice(&_mm_cvtsi128_si32(half).to_le_bytes()[..3]);
        }
    }
}

/// One row of packed RGB. `line` may be longer than the row: what follows is read but not used.
pub(super) fn horizontal(axis: &Axis, line: &[u8], flip: bool, row: &mut [u8]) {
    let width = row.len() / 3;
    let reach = axis.groups * GROUP * 3 - GROUP * 3 + READ;
    let safe = axis.first.partition_point(|first| *first as usize * 3 + reach <= line.len());
    let safe = safe.min(width);
    assert!(axis.lanes.len() >= safe * axis.groups && row.len() >= width * 3);
    // SAFETY: `available` was asked before this is called; the first `safe` pixels read inside
    // `line` (their first position plus the reach of all groups), and write inside `row`.
    unsafe { horizontal_safe(axis, line, flip, safe, width, row) };
    for x in safe..width {
        plain::horizontal_pixel(axis, line, flip, x, row);
    }
}

/// # Safety
/// Needs AVX2; see the only caller for the bounds.
#[target_feature(enable = "avx2")]
unsafe fn horizontal_safe(
    axis: &Axis,
    line: &[u8],
    flip: bool,
    safe: usize,
    width: usize,
    row: &mut [u8],
) {
    // Pixels 0 and 1 to the low half, 2 and 3 to the high half: r0 r1 g0 g1 b0 b1 as 16 bits each.
    #[rustfmt::skip]
    let spread = _mm256_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
    );
    let half = _mm_set1_epi32(HALF);
    for x in 0..safe {
        let (mut high, mut low) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for group in 0..axis.groups {
            // SAFETY: bounds by the caller.
            let (pixels, weights) = unsafe {
                let at = (axis.first[x] as usize + group * GROUP) * 3;
                let lanes = axis.lanes.as_ptr().add(x * axis.groups + group).cast::<__m256i>();
                let pixels = _mm_loadu_si128(line.as_ptr().add(at).cast());
                (pixels, [_mm256_loadu_si256(lanes), _mm256_loadu_si256(lanes.add(1))])
            };
            let pixels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(pixels), spread);
            high = _mm256_add_epi32(high, _mm256_madd_epi16(pixels, weights[0]));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(pixels, weights[1]));
        }
        let sum = _mm256_add_epi32(_mm256_slli_epi32::<{ LOW_BITS as i32 }>(high), low);
        let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let grey = _mm_srai_epi32::<{ PRECISION as i32 }>(_mm_add_epi32(sum, half));
        let bytes = _mm_packus_epi16(_mm_packs_epi32(grey, grey), grey);
        let pixel = _mm_cvtsi128_si32(bytes).to_le_bytes();
        let at = if flip { width - 1 - x } else { x } * 3;
        row[at..at + 3].copy_from_slice(&pixel[..3]);
    }
}

/// Row `y` of the result from `rows` of `out.len()` bytes each.
pub(super) fn vertical(axis: &Axis, rows: &[u8], y: usize, out: &mut [u8]) {
    let row_bytes = out.len();
    let (first, weights) = axis.at(y);
    let taps = &rows[first * row_bytes..(first + weights.len()) * row_bytes];
    let mut at = 0;
    while at + WIDE <= row_bytes {
        // SAFETY: `available` was asked before this is called; `at + WIDE` lies inside each of the
        // rows in `taps` and inside `out`.
        unsafe { vertical_wide(weights, taps, row_bytes, at, out) };
        at += WIDE;
    }
    plain::vertical_bytes(axis, rows, y, at, out);
}

/// # Safety
/// Needs AVX2; `taps` has a row of `row_bytes` for each weight, and `at + WIDE <= row_bytes`,
/// which is also the length of `out`.
#[target_feature(enable = "avx2")]
unsafe fn vertical_wide(weights: &[i32], taps: &[u8], row_bytes: usize, at: usize, out: &mut [u8]) {
    let zero = _mm256_setzero_si256();
    let (mut high, mut low) = ([zero; 4], [zero; 4]);
    for (n, pair) in weights.chunks(2).enumerate() {
        let second = pair.get(1).copied().unwrap_or(0);
        // SAFETY: the rows exist; where there is no second one its weight is 0 and the first is
        // read twice.
        let (a, b) = unsafe {
            let a = taps.as_ptr().add(2 * n * row_bytes + at);
            let b = a.add(if pair.len() == 2 { row_bytes } else { 0 });
            (_mm256_loadu_si256(a.cast()), _mm256_loadu_si256(b.cast()))
        };
        let ((high_a, low_a), (high_b, low_b)) = (split(pair[0]), split(second));
        let both = |a: i16, b: i16| _mm256_set1_epi32(i32::from(b) << 16 | i32::from(a as u16));
        let (high_weight, low_weight) = (both(high_a, high_b), both(low_a, low_b));
        let (left, right) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
        let values = [
            _mm256_unpacklo_epi8(left, zero),
            _mm256_unpackhi_epi8(left, zero),
            _mm256_unpacklo_epi8(right, zero),
            _mm256_unpackhi_epi8(right, zero),
        ];
        for (k, values) in values.into_iter().enumerate() {
            high[k] = _mm256_add_epi32(high[k], _mm256_madd_epi16(values, high_weight));
            low[k] = _mm256_add_epi32(low[k], _mm256_madd_epi16(values, low_weight));
        }
    }
    let half = _mm256_set1_epi32(HALF);
    let mut grey = [zero; 4];
    for k in 0..4 {
        let sum = _mm256_add_epi32(_mm256_slli_epi32::<{ LOW_BITS as i32 }>(high[k]), low[k]);
        grey[k] = _mm256_srai_epi32::<{ PRECISION as i32 }>(_mm256_add_epi32(sum, half));
    }
    let words = [_mm256_packs_epi32(grey[0], grey[1]), _mm256_packs_epi32(grey[2], grey[3])];
    let bytes = _mm256_packus_epi16(words[0], words[1]);
    // SAFETY: `at + WIDE` lies inside `out`.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(at).cast(), bytes) };
}
