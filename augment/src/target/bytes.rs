//! Pixel targets from the bytes of a row: the same formulas as [`super::pixels`], several times as
//! fast. Sums of bytes are exact, so a token's mean and variance are as well, and what is left to
//! round is one product and one sum a number.
//!
//! The references start from normalised pixels in f32. A formula that divides by a small deviation
//! stretches what was rounded there, so in a token of nearly one colour the numbers are made of those
//! pixels; all numbers are within 1e-5 of those of [`super::pixels::pixel_targets`].

use tubelet_core::{PatchSize, Size};

use super::pixels::{FrameChoice, PatchNorm, normalise_token};
use crate::normalise::Normalise;

/// Numbers of one step: eight pixels, so that number l has channel l mod 3.
const STEP: usize = 24;

/// How far a formula may stretch normalised pixels, whose f32 may be 2.5e-7 away.
const MOST_STRETCH: f64 = 32.0;

/// Pixel targets of rows of one shape.
#[derive(Clone, Debug)]
pub struct ByteTargets {
    norm: PatchNorm,
    size: Size,
    patch: PatchSize,
    normalise: Normalise,
    /// The frames that targets are made of.
    chosen: Vec<u32>,
    /// Of them, those of one time slot.
    per_slot: usize,
    /// What one grey level is in normalised values, 1/(255 · std).
    unit: [f64; 3],
    /// What black is in normalised values, −mean/std.
    black: [f64; 3],
    /// Each grey level as the reference's f32, by channel.
    table: Box<[[f32; 256]; 3]>,
}

impl ByteTargets {
    /// Targets of clips of `frames` frames of `size`, cut into tokens of `patch`; the numbers are those
    /// of pixels normalised by `normalise`.
    pub fn new(
        norm: PatchNorm,
        frames: u32,
        size: Size,
        patch: PatchSize,
        normalise: Normalise,
        choice: FrameChoice,
    ) -> Self {
        let chosen = choice.indices(frames);
        let per_slot = chosen.len() / (frames / patch.t).max(1) as usize;
        let (mean, std) = (normalise.mean.map(f64::from), normalise.std.map(f64::from));
        let unit = std.map(|std| 1.0 / (255.0 * std));
        let black = [0, 1, 2].map(|c| -mean[c] / std[c]);
        let mut table = Box::new(normalise.table());
        if norm.original() {
            for (c, channel) in table.iter_mut().enumerate() {
                channel.iter_mut().for_each(|v| *v = *v * normalise.std[c] + normalise.mean[c]);
            }
        }
        Self { norm, size, patch, normalise, chosen, per_slot, unit, black, table }
    }

    /// Numbers of a target.
    pub fn dim(&self) -> usize {
        self.per_slot * (self.patch.h * self.patch.w) as usize * 3
    }

    /// Writes the targets of `tokens` of the row `pixels`, u8 `[frames, height, width, 3]`, to `out`,
    /// `[tokens, dim]`, ordered frame, row, column, channel.
    ///
    /// # Panics
    /// When a token is outside the row.
    pub fn write(&self, pixels: &[u8], tokens: &[u32], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { self.write_avx2(pixels, tokens, out) };
        }
        self.write_with(pixels, tokens, out, |sums, starts| sums.add(pixels, starts, 0));
    }

    /// [`Self::write_with`] compiled for AVX2; the numbers are the same.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn write_avx2(&self, pixels: &[u8], tokens: &[u32], out: &mut [f32]) {
        self.write_with(pixels, tokens, out, |sums, starts| {
            let done = avx2::add(sums, pixels, starts.clone());
            sums.add(pixels, starts, done);
        });
    }

    /// `add` adds a token's bytes to sums.
    #[inline(always)]
    fn write_with<'a>(
        &'a self,
        pixels: &[u8],
        tokens: &[u32],
        out: &mut [f32],
        add: impl Fn(&mut Sums, Starts<'a>),
    ) {
        let bytes = self.patch.w as usize * 3;
        for (token, out) in tokens.iter().zip(out.chunks_exact_mut(self.dim())) {
            let starts = self.starts(*token);
            let map = match self.norm {
                PatchNorm::Raw => Some(self.affine([0.0; 3], [0.0; 3], [1.0; 3])),
                PatchNorm::Unit => Some(self.affine([0.0; 3], self.black, self.std())),
                _ => {
                    let mut sums = Sums { bytes, ..Sums::default() };
                    add(&mut sums, starts.clone());
                    self.standard(&sums)
                }
            };
            let lines = starts.zip(out.chunks_exact_mut(bytes));
            if let Some(map) = map {
                lines.for_each(|(start, out)| map.apply(&pixels[start..start + bytes], out));
            } else {
                lines.for_each(|(start, out)| self.look_up(&pixels[start..start + bytes], out));
                normalise_token(self.norm, out);
            }
        }
    }

    /// The reference's pixels.
    fn look_up(&self, bytes: &[u8], out: &mut [f32]) {
        for (pixel, out) in bytes.chunks_exact(3).zip(out.chunks_exact_mut(3)) {
            for c in 0..3 {
                out[c] = self.table[c][usize::from(pixel[c])];
            }
        }
    }

    /// Where the token's lines of pixels start.
    #[inline(always)]
    fn starts(&self, token: u32) -> Starts<'_> {
        let (patch, width) = (self.patch, self.size.width as usize);
        let columns = self.size.width / patch.w;
        let cells = self.size.height / patch.h * columns;
        let (slot, cell) = ((token / cells) as usize, token % cells);
        let top = (cell / columns * patch.h) as usize;
        let left = (cell % columns * patch.w) as usize;
        Starts {
            frames: &self.chosen[slot * self.per_slot..][..self.per_slot],
            frame_bytes: self.size.area() * 3,
            first: (top * width + left) * 3,
            line_bytes: width * 3,
            lines: patch.h as usize,
            line: 0,
        }
    }

    /// The map of a token with these sums; `None` where it stretches too much.
    #[inline(always)]
    fn standard(&self, sums: &Sums) -> Option<Affine> {
        const CHANNELS: [usize; 3] = [0, 1, 2];
        let count = (self.dim() / 3) as u64;
        let n = count as f64;
        let Self { unit, black, .. } = self;
        let std = self.std();
        // Of each channel in normalised values: the mean, and the sum of squares about it.
        let grey = sums.values.map(|sum| sum as f64 / n);
        let mean = CHANNELS.map(|c| grey[c] * unit[c] + black[c]);
        let per_value = 1.0 / n;
        let squares = CHANNELS.map(|c| {
            let whole = count * sums.squares[c] - sums.values[c] * sums.values[c];
            whole as f64 * per_value * (unit[c] * unit[c])
        });
        let unbiased = 1.0 / (n - 1.0);
        let (means, scales) = match self.norm {
            PatchNorm::Raw | PatchNorm::Unit => ([0.0; 3], [1.0; 3]),
            PatchNorm::Mae => {
                let all = mean.iter().sum::<f64>() / 3.0;
                let between = mean.iter().map(|m| (m - all).powi(2)).sum::<f64>() * n;
                let var = (squares.iter().sum::<f64>() + between) / (3.0 * n - 1.0);
                ([all; 3], [1.0 / (var + 1e-6).sqrt(); 3])
            }
            // These two are of pixels from 0 to 1.
            PatchNorm::Videomae => {
                (mean, CHANNELS.map(|c| std[c] / ((squares[c] * unbiased).sqrt() * std[c] + 1e-6)))
            }
            PatchNorm::Omnimae => (
                mean,
                CHANNELS
                    .map(|c| std[c] / (squares[c] * unbiased * (std[c] * std[c]) + 1e-6).sqrt()),
            ),
            PatchNorm::Bootmae => (mean, squares.map(|s| 1.0 / (s * per_value + 1e-5).sqrt())),
        };
        let stretch = scales.iter().fold(0.0, |most: f64, scale| most.max(*scale));
        // By way of the grey level next to the mean, the distance from which is exact.
        (stretch <= MOST_STRETCH).then(|| self.affine(grey.map(f64::floor), means, scales))
    }

    fn std(&self) -> [f64; 3] {
        self.normalise.std.map(f64::from)
    }

    /// The map to (x − mean) · scale of normalised pixels x.
    #[inline(always)]
    fn affine(&self, level: [f64; 3], means: [f64; 3], scales: [f64; 3]) -> Affine {
        let lanes = |c: [f64; 3]| {
            let [r, g, b] = c.map(|v| v as f32);
            [r, g, b, r, g, b, r, g, b, r, g, b, r, g, b, r, g, b, r, g, b, r, g, b]
        };
        let Self { unit, black, .. } = self;
        let shift = |c: usize| (level[c] * unit[c] + black[c] - means[c]) * scales[c];
        Affine {
            level: lanes(level),
            scale: lanes([0, 1, 2].map(|c| scales[c] * unit[c])),
            shift: lanes([0, 1, 2].map(shift)),
        }
    }
}

/// Where the lines of a token start among the bytes of a row.
#[derive(Clone)]
struct Starts<'a> {
    frames: &'a [u32],
    frame_bytes: usize,
    /// Start of the first line of frame 0.
    first: usize,
    line_bytes: usize,
    lines: usize,
    /// Of the first of `frames`.
    line: usize,
}

impl Iterator for Starts<'_> {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        let frame = *self.frames.first()? as usize;
        let start = frame * self.frame_bytes + self.first + self.line * self.line_bytes;
        self.line += 1;
        if self.line == self.lines {
            (self.line, self.frames) = (0, &self.frames[1..]);
        }
        Some(start)
    }
}

/// Sums of the bytes of a token by channel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    /// Bytes of a line.
    bytes: usize,
    values: [u64; 3],
    squares: [u64; 3],
}

impl Sums {
    /// Adds the bytes from number `from` on, a multiple of 3, of each line.
    fn add<'a>(&mut self, pixels: &[u8], starts: Starts<'a>, from: usize) {
        if from == self.bytes {
            return;
        }
        for start in starts {
            for pixel in pixels[start + from..start + self.bytes].chunks_exact(3) {
                for (c, byte) in pixel.iter().enumerate() {
                    self.values[c] += u64::from(*byte);
                    self.squares[c] += u64::from(*byte).pow(2);
                }
            }
        }
    }
}

/// Sums of 16 pixels of a line at a time.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_loadu_si128, _mm_shuffle_epi32,
        _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_castsi256_si128,
        _mm256_cvtepu8_epi16, _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_madd_epi16,
        _mm256_mullo_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_srli_epi32,
    };

    use super::{Starts, Sums};

    /// Bytes of one step; byte l has channel l mod 3.
    const STEP: usize = 48;
    /// Lines whose bytes fit an i16 when they are added.
    const MOST_LINES: usize = 128;

    /// Adds as many bytes of each line as fill whole steps; says how many.
    #[target_feature(enable = "avx2")]
    pub(super) fn add(sums: &mut Sums, pixels: &[u8], starts: Starts<'_>) -> usize {
        if starts.lines * starts.frames.len() > MOST_LINES {
            return 0;
        }
        let steps = sums.bytes / STEP;
        for at in (0..steps).map(|step| step * STEP) {
            // Even and odd bytes of a register's squares are added apart, in 32 bits.
            let zero = _mm256_setzero_si256();
            let (mut values, mut even, mut odd) = ([zero; 3], [zero; 3], [zero; 3]);
            let low = _mm256_set1_epi32(0xffff);
            for start in starts.clone() {
                let line = &pixels[start + at..start + at + STEP];
                for (n, bytes) in line.chunks_exact(16).enumerate() {
                    // SAFETY: 16 bytes are read.
                    let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast::<__m128i>()) };
                    let wide = _mm256_cvtepu8_epi16(bytes);
                    let square = _mm256_mullo_epi16(wide, wide);
                    values[n] = _mm256_add_epi16(values[n], wide);
                    even[n] = _mm256_add_epi32(even[n], _mm256_and_si256(square, low));
                    odd[n] = _mm256_add_epi32(odd[n], _mm256_srli_epi32::<16>(square));
                }
            }
            for c in 0..3 {
                let (mut value, mut square) = (zero, zero);
                for n in 0..3 {
                    // Byte k of register n has channel (n + k) mod 3, since 16 mod 3 is 1.
                    let first = (c + 3 - n) % 3;
                    let ones = load(&ONES[first]);
                    value = _mm256_add_epi32(value, _mm256_madd_epi16(values[n], ones));
                    let (evens, odds) = (load(&EVEN[first]), load(&EVEN[(first + 2) % 3]));
                    square = _mm256_add_epi32(square, _mm256_and_si256(even[n], evens));
                    square = _mm256_add_epi32(square, _mm256_and_si256(odd[n], odds));
                }
                sums.values[c] += total(value);
                sums.squares[c] += total(square);
            }
        }
        steps * STEP
    }

    /// 1 for each 16-bit number k with k mod 3 = the index.
    const ONES: [[i16; 16]; 3] = {
        let mut all = [[0; 16]; 3];
        let mut k = 0;
        while k < 16 {
            all[k % 3][k] = 1;
            k += 1;
        }
        all
    };

    /// All bits of each 32-bit number k with 2 k mod 3 = the index.
    const EVEN: [[i32; 8]; 3] = {
        let mut all = [[0; 8]; 3];
        let mut k = 0;
        while k < 8 {
            all[2 * k % 3][k] = -1;
            k += 1;
        }
        all
    };

    #[target_feature(enable = "avx2")]
    fn load<T: Copy, const N: usize>(numbers: &[T; N]) -> __m256i {
        const { assert!(size_of::<T>() * N == 32) };
        // SAFETY: 32 bytes are read of 32.
        unsafe { _mm256_loadu_si256(numbers.as_ptr().cast()) }
    }

    /// The sum of eight 32-bit numbers, which fits 32 bits.
    #[target_feature(enable = "avx2")]
    fn total(numbers: __m256i) -> u64 {
        let (low, high) = (_mm256_castsi256_si128(numbers), _mm256_extracti128_si256::<1>(numbers));
        let four = _mm_add_epi32(low, high);
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
        u64::from(_mm_cvtsi128_si32(one) as u32)
    }
}

/// v ↦ (v − level) · scale + shift, by channel.
struct Affine {
    level: [f32; STEP],
    scale: [f32; STEP],
    shift: [f32; STEP],
}

impl Affine {
    #[inline(always)]
    fn apply(&self, bytes: &[u8], out: &mut [f32]) {
        let value =
            |l: usize, byte: u8| (f32::from(byte) - self.level[l]) * self.scale[l] + self.shift[l];
        let mut lines = bytes.chunks_exact(STEP);
        let mut outs = out.chunks_exact_mut(STEP);
        for (bytes, out) in (&mut lines).zip(&mut outs) {
            for l in 0..STEP {
                out[l] = value(l, bytes[l]);
            }
        }
        let rest = lines.remainder().iter().zip(outs.into_remainder());
        for (l, (byte, out)) in rest.enumerate() {
            *out = value(l, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalise::{IMAGENET, SLOWFAST};
    use crate::target::pixels::pixel_targets;

    /// Noise, or of a contrast that falls from line to line until there is one colour.
    fn clip(frames: u32, size: Size, flat: bool) -> Vec<u8> {
        let bytes = 0..frames as usize * size.area() * 3;
        let noise = |i: usize| (i * 131 % 251) as u8 ^ (i / 7) as u8;
        match flat {
            false => bytes.map(noise).collect(),
            true => bytes
                .map(|i| {
                    let shift = i / (3 * size.width as usize) % size.height as usize / 16 + 4;
                    40 + 60 * (i % 3) as u8 + noise(i).checked_shr(shift as u32).unwrap_or(0)
                })
                .collect(),
        }
    }

    fn settings() -> impl Iterator<Item = (PatchNorm, Normalise, bool)> {
        let normalised = |norm| [IMAGENET, SLOWFAST].map(|normalise| (norm, normalise));
        let both = |(norm, normalise)| [false, true].map(|flat| (norm, normalise, flat));
        PatchNorm::ALL.into_iter().flat_map(normalised).flat_map(both)
    }

    /// The formula in f64 from bytes ordered frame, row, column, channel.
    fn formula(norm: PatchNorm, bytes: &[u8], normalise: &Normalise) -> Vec<f64> {
        let unit = norm.original();
        let value = |(i, byte): (usize, &u8)| {
            let c = i % 3;
            let (mean, std) = (f64::from(normalise.mean[c]), f64::from(normalise.std[c]));
            let value = f64::from(*byte) / 255.0;
            if unit { value } else { (value - mean) / std }
        };
        let values: Vec<f64> = bytes.iter().enumerate().map(value).collect();
        let (groups, bias) = match norm {
            PatchNorm::Raw | PatchNorm::Unit => return values,
            PatchNorm::Mae => (1, 1.0),
            PatchNorm::Videomae | PatchNorm::Omnimae => (3, 1.0),
            PatchNorm::Bootmae => (3, 0.0),
        };
        let mut out = vec![0.0; values.len()];
        for g in 0..groups {
            let group = || values.iter().skip(g).step_by(groups);
            let n = group().count() as f64;
            let mean = group().sum::<f64>() / n;
            let var = group().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - bias);
            let deviation = match norm {
                PatchNorm::Videomae => var.sqrt() + 1e-6,
                PatchNorm::Bootmae => (var + 1e-5).sqrt(),
                _ => (var + 1e-6).sqrt(),
            };
            for (out, v) in out.iter_mut().skip(g).step_by(groups).zip(group()) {
                *out = (v - mean) / deviation;
            }
        }
        out
    }

    fn cases() -> impl Iterator<Item = (u32, Size, PatchSize, FrameChoice)> {
        let patch = |t, h, w| PatchSize { t, h, w };
        [
            (1, Size::square(64), patch(1, 16, 16), FrameChoice::All),
            (4, Size::new(96, 64), patch(2, 32, 32), FrameChoice::All),
            (4, Size::square(64), patch(2, 16, 16), FrameChoice::Slowfast),
            (2, Size::square(28), patch(1, 14, 14), FrameChoice::All),
            (1, Size::new(30, 12), patch(1, 6, 10), FrameChoice::All),
            (1, Size::new(320, 640), patch(1, 320, 160), FrameChoice::All),
        ]
        .into_iter()
    }

    /// All targets of `bytes`.
    fn written(stage: &ByteTargets, bytes: &[u8], tokens: &[u32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; tokens.len() * stage.dim()];
        stage.write(bytes, tokens, &mut out);
        out
    }

    #[test]
    fn bytes_give_the_targets_of_the_floats() {
        for (frames, size, patch, choice) in cases() {
            for (norm, normalise, flat) in settings() {
                let bytes = clip(frames, size, flat);
                let stage = ByteTargets::new(norm, frames, size, patch, normalise, choice);
                let count = frames / patch.t * (size.height / patch.h) * (size.width / patch.w);
                let tokens: Vec<u32> = (0..count).filter(|t| t % 3 != 1).collect();
                let mut floats = vec![0.0; bytes.len()];
                normalise.apply(&bytes, frames as usize, size, &mut floats);
                let mut want = vec![0.0; tokens.len() * stage.dim()];
                let out = &mut want[..];
                pixel_targets(norm, &floats, frames, size, patch, &normalise, choice, &tokens, out);
                let got = written(&stage, &bytes, &tokens);
                let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst <= 8e-6, "{norm:?} {patch:?} {flat}: {worst}");
            }
        }
    }

    #[test]
    fn the_numbers_are_those_of_the_formula() {
        for norm in PatchNorm::ALL {
            for (height, width) in [(16, 16), (14, 14), (32, 48)] {
                let size = Size::new(width, height);
                let patch = PatchSize { t: 2, h: height, w: width };
                let bytes = clip(2, size, false);
                let stage = ByteTargets::new(norm, 2, size, patch, IMAGENET, FrameChoice::All);
                let want = formula(norm, &bytes, &IMAGENET);
                for (got, want) in written(&stage, &bytes, &[0]).into_iter().zip(want) {
                    let wrong = (f64::from(got) - want).abs();
                    assert!(wrong <= 5e-7 * (1.0 + want.abs()), "{norm:?}: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn every_processor_gives_the_same_numbers() {
        for (frames, size, patch, choice) in cases() {
            let bytes = clip(frames, size, false);
            for norm in PatchNorm::ALL {
                let stage = ByteTargets::new(norm, frames, size, patch, IMAGENET, choice);
                let fast = written(&stage, &bytes, &[0, 1]);
                let mut plain = vec![0.0; fast.len()];
                let add = |sums: &mut Sums, starts: Starts<'_>| sums.add(&bytes, starts, 0);
                stage.write_with(&bytes, &[0, 1], &mut plain, add);
                assert_eq!(fast, plain);
            }
        }
    }

    #[test]
    fn a_token_of_one_colour_is_zero() {
        let patch = PatchSize { t: 1, h: 8, w: 8 };
        for norm in [PatchNorm::Videomae, PatchNorm::Omnimae, PatchNorm::Bootmae] {
            let stage =
                ByteTargets::new(norm, 1, Size::square(8), patch, IMAGENET, FrameChoice::All);
            let bytes: Vec<u8> = (0..192).map(|i| 50 + 60 * (i % 3) as u8).collect();
            assert_eq!(written(&stage, &bytes, &[0]), [0.0; 192]);
        }
    }
}
