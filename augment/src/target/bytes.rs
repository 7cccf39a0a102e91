//! Pixel targets from the bytes of a row: the same formulas as [`super::pixels`], several times as
//! fast. Sums of bytes are exact, so a token's mean and variance are as well, and what is left to
//! round is one product and one sum a number.
//!
//! The references start from normalised pixels in f32. A formula that divides by a small deviation
//! stretches what was rounded there, so in a token of nearly one colour the numbers are made of those
//! pixels; all numbers are within 1e-5 of those of [`super::pixels::pixel_targets`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use tubelet_core::{PatchSize, Size};

use super::pixels::{FrameChoice, PatchNorm, normalise_token};
use crate::normalise::Normalise;

/// Tokens whose sums are made before the numbers of any: what follows from the sums is a chain of
/// divisions, and several chains take as long as one.
const BLOCK: usize = 8;

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
    /// Tokens of a frame and of a row of it.
    cells: [u32; 2],
    /// 1/n, 1/(n − 1) and 1/(3 n − 1) of the n pixels of a token.
    shares: [f64; 3],
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
        let n = f64::from(patch.h * patch.w) * per_slot as f64;
        let shares = [n, n - 1.0, 3.0 * n - 1.0].map(|count| 1.0 / count);
        let columns = (size.width / patch.w).max(1);
        let cells = [(size.height / patch.h * columns).max(1), columns];
        Self { norm, size, patch, normalise, chosen, per_slot, unit, black, cells, shares, table }
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
        {
            if avx512::available() {
                // SAFETY: the processor has what that asks for.
                return unsafe { self.write_avx512(pixels, tokens, out) };
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has AVX2.
                return unsafe { self.write_avx2(pixels, tokens, out) };
            }
        }
        self.write_plain(pixels, tokens, out);
    }

    fn write_plain(&self, pixels: &[u8], tokens: &[u32], out: &mut [f32]) {
        let add = |sums: &mut Sums, starts: Starts<'_>| sums.add(pixels, starts, 0);
        self.write_with(pixels, tokens, out, add, |map, starts, out| {
            map.apply(pixels, starts, 0, out);
        });
    }

    /// [`Self::write_with`] compiled for AVX2; the numbers are the same.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn write_avx2(&self, pixels: &[u8], tokens: &[u32], out: &mut [f32]) {
        let add = |sums: &mut Sums, starts: Starts<'_>| {
            let done = avx2::add(sums, pixels, &starts);
            sums.add(pixels, starts, done);
        };
        self.write_with(pixels, tokens, out, add, |map, starts, out| {
            let done = avx2::apply(map, pixels, &starts, out);
            map.apply(pixels, starts, done, out);
        });
    }

    /// [`Self::write_with`] compiled for AVX-512; the numbers are the same.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
    fn write_avx512(&self, pixels: &[u8], tokens: &[u32], out: &mut [f32]) {
        let add = |sums: &mut Sums, starts: Starts<'_>| {
            if !avx512::add(sums, pixels, &starts) {
                sums.add(pixels, starts, 0);
            }
        };
        self.write_with(pixels, tokens, out, add, |map, starts, out| {
            avx512::apply(map, pixels, &starts, out);
        });
    }

    /// `add` adds a token's bytes to sums, `apply` makes its numbers of them.
    #[inline(always)]
    fn write_with<'a>(
        &'a self,
        pixels: &[u8],
        tokens: &[u32],
        out: &mut [f32],
        add: impl Fn(&mut Sums, Starts<'a>),
        apply: impl Fn(&Affine, Starts<'a>, &mut [f32]),
    ) {
        let (dim, bytes) = (self.dim(), self.patch.w as usize * 3);
        let whole = match self.norm {
            PatchNorm::Raw => Some(self.affine([0.0; 3], [0.0; 3], [1.0; 3])),
            PatchNorm::Unit => Some(self.affine([0.0; 3], self.black, self.std())),
            _ => None,
        };
        for (tokens, out) in tokens.chunks(BLOCK).zip(out.chunks_mut(BLOCK * dim)) {
            let starts: [Starts<'_>; BLOCK] =
                std::array::from_fn(|n| self.starts(tokens.get(n).copied().unwrap_or(0)));
            let mut sums = [Sums { bytes, ..Sums::default() }; BLOCK];
            let mut maps = [whole; BLOCK];
            if whole.is_none() {
                for (sums, starts) in sums.iter_mut().zip(&starts[..tokens.len()]) {
                    add(sums, starts.clone());
                }
                for (map, sums) in maps.iter_mut().zip(&sums[..tokens.len()]) {
                    *map = self.standard(sums);
                }
            }
            for ((map, starts), out) in maps.iter().zip(starts).zip(out.chunks_exact_mut(dim)) {
                if let Some(map) = map {
                    apply(map, starts, out);
                    continue;
                }
                let lines = starts.zip(out.chunks_exact_mut(bytes));
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
        let [cells, columns] = self.cells;
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
        let count = (self.dim() / 3) as u64;
        let Self { unit, black, .. } = self;
        let [per_value, unbiased, of_all] = self.shares;
        let std = self.std();
        // Signed numbers of 64 bits become floats in one step.
        // Of each channel in normalised values: the mean, and the sum of squares about it.
        let (mut grey, mut mean, mut squares) = ([0.0; 3], [0.0; 3], [0.0; 3]);
        for c in 0..3 {
            grey[c] = sums.values[c] as i64 as f64 * per_value;
            mean[c] = grey[c] * unit[c] + black[c];
            let whole = count * sums.squares[c] - sums.values[c] * sums.values[c];
            squares[c] = whole as i64 as f64 * per_value * (unit[c] * unit[c]);
        }
        let (mut means, mut scales) = (mean, [1.0; 3]);
        if self.norm == PatchNorm::Mae {
            let all = (mean[0] + mean[1] + mean[2]) * (1.0 / 3.0);
            let mut sum = 0.0;
            for c in 0..3 {
                sum += squares[c] + (mean[c] - all) * (mean[c] - all) * count as i64 as f64;
            }
            means = [all; 3];
            scales = [1.0 / (sum * of_all + 1e-6).sqrt(); 3];
        } else {
            for c in 0..3 {
                scales[c] = match self.norm {
                    // These two are of pixels from 0 to 1.
                    PatchNorm::Videomae => {
                        std[c] / ((squares[c] * unbiased).sqrt() * std[c] + 1e-6)
                    }
                    PatchNorm::Omnimae => {
                        std[c] / (squares[c] * unbiased * (std[c] * std[c]) + 1e-6).sqrt()
                    }
                    _ => 1.0 / (squares[c] * per_value + 1e-5).sqrt(),
                };
            }
        }
        let stretch = scales.iter().fold(0.0, |most: f64, scale| most.max(*scale));
        // By way of the grey level next to the mean, the distance from which is exact.
        let level = [grey[0].floor(), grey[1].floor(), grey[2].floor()];
        (stretch <= MOST_STRETCH).then(|| self.affine(level, means, scales))
    }

    fn std(&self) -> [f64; 3] {
        self.normalise.std.map(f64::from)
    }

    /// The map to (x − mean) · scale of normalised pixels x.
    #[inline(always)]
    fn affine(&self, level: [f64; 3], means: [f64; 3], scales: [f64; 3]) -> Affine {
        let Self { unit, black, .. } = self;
        let mut map = Affine { bytes: self.patch.w as usize * 3, ..Affine::default() };
        for c in 0..3 {
            map.level[c] = level[c] as f32;
            map.scale[c] = (scales[c] * unit[c]) as f32;
            map.shift[c] = ((level[c] * unit[c] + black[c] - means[c]) * scales[c]) as f32;
        }
        map
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

impl Starts<'_> {
    /// Start of the first line of `frame`.
    #[inline(always)]
    fn of_frame(&self, frame: u32) -> usize {
        frame as usize * self.frame_bytes + self.first
    }
}

impl Iterator for Starts<'_> {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        let frame = *self.frames.first()?;
        let start = self.of_frame(frame) + self.line * self.line_bytes;
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

/// v ↦ (v − level) · scale + shift, by channel; the fourth numbers fill a register.
#[derive(Clone, Copy, Debug, Default)]
struct Affine {
    /// Bytes of a line.
    bytes: usize,
    level: [f32; 4],
    scale: [f32; 4],
    shift: [f32; 4],
}

impl Affine {
    /// The numbers of a token from number `from` of each line on, a multiple of 3.
    #[inline(always)]
    fn apply(&self, pixels: &[u8], starts: Starts<'_>, from: usize, out: &mut [f32]) {
        if from == self.bytes {
            return;
        }
        for (start, out) in starts.zip(out.chunks_exact_mut(self.bytes)) {
            let bytes = &pixels[start + from..start + self.bytes];
            for (bytes, out) in bytes.chunks_exact(3).zip(out[from..].chunks_exact_mut(3)) {
                for c in 0..3 {
                    out[c] = (f32::from(bytes[c]) - self.level[c]) * self.scale[c] + self.shift[c];
                }
            }
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
                stage.write_plain(&bytes, &[0, 1], &mut plain);
                assert_eq!(fast, plain);
                #[cfg(target_arch = "x86_64")]
                if std::arch::is_x86_feature_detected!("avx2") {
                    let mut narrow = vec![0.0; fast.len()];
                    // SAFETY: the processor has AVX2.
                    unsafe { stage.write_avx2(&bytes, &[0, 1], &mut narrow) };
                    assert_eq!(narrow, plain);
                }
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
