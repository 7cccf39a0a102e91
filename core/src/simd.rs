//! Steps that several fast loops share.

use std::arch::x86_64::{__m128i, _mm_or_si128, _mm_setr_epi8, _mm_shuffle_epi8};

/// 16 R, 16 G and 16 B to 48 bytes of packed pixels.
///
/// # Safety
/// Needs AVX2.
#[inline]
#[target_feature(enable = "avx2")]
#[rustfmt::skip]
pub fn interleaved([r, g, b]: [__m128i; 3]) -> [__m128i; 3] {
    let z = -1;
    let join = |a, b, c| _mm_or_si128(_mm_or_si128(a, b), c);
    [
        join(
            _mm_shuffle_epi8(r, _mm_setr_epi8(0, z, z, 1, z, z, 2, z, z, 3, z, z, 4, z, z, 5)),
            _mm_shuffle_epi8(g, _mm_setr_epi8(z, 0, z, z, 1, z, z, 2, z, z, 3, z, z, 4, z, z)),
            _mm_shuffle_epi8(b, _mm_setr_epi8(z, z, 0, z, z, 1, z, z, 2, z, z, 3, z, z, 4, z)),
        ),
        join(
            _mm_shuffle_epi8(r, _mm_setr_epi8(z, z, 6, z, z, 7, z, z, 8, z, z, 9, z, z, 10, z)),
            _mm_shuffle_epi8(g, _mm_setr_epi8(5, z, z, 6, z, z, 7, z, z, 8, z, z, 9, z, z, 10)),
            _mm_shuffle_epi8(b, _mm_setr_epi8(z, 5, z, z, 6, z, z, 7, z, z, 8, z, z, 9, z, z)),
        ),
        join(
            _mm_shuffle_epi8(r, _mm_setr_epi8(z, 11, z, z, 12, z, z, 13, z, z, 14, z, z, 15, z, z)),
            _mm_shuffle_epi8(g, _mm_setr_epi8(z, z, 11, z, z, 12, z, z, 13, z, z, 14, z, z, 15, z)),
            _mm_shuffle_epi8(b, _mm_setr_epi8(10, z, z, 11, z, z, 12, z, z, 13, z, z, 14, z, z, 15)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::arch::x86_64::{_mm_loadu_si128, _mm_storeu_si128};

    #[test]
    fn pixels_are_interleaved() {
        if !std::arch::is_x86_feature_detected!("avx2") {
            return;
        }
        let bytes: Vec<u8> = (0..48).collect();
        let mut out = [0u8; 48];
        // SAFETY: AVX2 was asked for; each load and store is one of 16 of the 48 bytes.
        unsafe {
            let load = |n: usize| _mm_loadu_si128(bytes.as_ptr().add(16 * n).cast());
            for (n, third) in interleaved([load(0), load(1), load(2)]).into_iter().enumerate() {
                _mm_storeu_si128(out.as_mut_ptr().add(16 * n).cast(), third);
            }
        }
        let want: Vec<u8> = (0..16).flat_map(|n| [n, 16 + n, 32 + n]).collect();
        assert_eq!(out.as_slice(), want);
    }
}
