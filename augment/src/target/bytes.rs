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

use std::ops::Range;

use tubelet_core::{PatchSize, Size};

use super::pixels::{Formula, FrameChoice, PatchNorm, normalise_token};
use crate::normalise::Normalise;

/// How far a formula may stretch normalised pixels, whose f32 may be 2.5e-7 away.
const MOST_STRETCH: f64 = 32.0;

/// Pixel targets of rows of one shape.
#[derive(Clone, Debug)]
pub struct ByteTargets {
    norm: PatchNorm,
    size: Size,
    patch: PatchSize,
    /// The frames that targets are made of.
    chosen: Vec<u32>,
    /// Of them, those of one time slot.
    per_slot: usize,
    /// Pixels of a token, and 1 by them.
    count: f64,
    share: f64,
    std: Lane,
    /// What one grey level is in normalised values, 1/(255 · std), and what black is, −mean/std.
    unit: Lane,
    black: Lane,
    /// Tokens of a frame and of a row of it.
    cells: [u32; 2],
    /// `None` where the numbers are normalised pixels or those of 0..1.
    standard: Option<Standard>,
    /// Each grey level as the reference's f32, by channel.
    table: Box<[[f32; 256]; 3]>,
}

/// A number of each channel; the fourth fills a register and is the third.
type Lane = [f64; 4];

/// (x − μ)/(√(Σ(x − μ)² · share + inside) + outside) of normalised pixels x.
#[derive(Clone, Debug)]
struct Standard {
    /// Of all channels together.
    joint: bool,
    share: f64,
    inside: Lane,
    outside: Lane,
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
        let [mean, std] =
            [normalise.mean, normalise.std].map(|all| lane(|c| f64::from(all[c.min(2)])));
        let (unit, black) = (std.map(|std| 1.0 / (255.0 * std)), lane(|c| -mean[c] / std[c]));
        let mut table = Box::new(normalise.table());
        if norm.original() {
            for (c, channel) in table.iter_mut().enumerate() {
                channel.iter_mut().for_each(|v| *v = *v * normalise.std[c] + normalise.mean[c]);
            }
        }
        let count = f64::from(patch.h * patch.w) * per_slot as f64;
        let columns = (size.width / patch.w).max(1);
        let cells = [(size.height / patch.h * columns).max(1), columns];
        let standard = norm.formula().map(|Formula { joint, bias, inside, outside }| {
            // Some formulas are of pixels from 0 to 1, which are `std` times as far apart.
            let apart = if norm.original() { std } else { [1.0; 4] };
            Standard {
                joint,
                share: 1.0 / (if joint { 3.0 * count } else { count } - bias),
                inside: apart.map(|apart| inside / (apart * apart)),
                outside: apart.map(|apart| outside / apart),
            }
        });
        Self {
            norm,
            size,
            patch,
            chosen,
            per_slot,
            count,
            share: 1.0 / count,
            std,
            unit,
            black,
            cells,
            standard,
            table,
        }
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
            if avx512::available(self.per_slot * self.patch.h as usize, self.line_bytes()) {
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
        let bytes = self.line_bytes();
        let add = |starts: Starts<'_>| {
            let mut sums = Sums::default();
            sums.add(pixels, starts, 0..bytes);
            sums
        };
        self.write_with(pixels, tokens, out, add, |map, starts, out, next| {
            map.apply(pixels, starts, 0, out);
            next.map(add).unwrap_or_default()
        });
    }

    /// [`Self::write_with`] compiled for AVX2; the numbers are the same.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn write_avx2(&self, pixels: &[u8], tokens: &[u32], out: &mut [f32]) {
        let bytes = self.line_bytes();
        let add = |starts: Starts<'_>| {
            let mut sums = Sums::default();
            let done = avx2::add(&mut sums, pixels, &starts, bytes);
            sums.add(pixels, starts, done..bytes);
            sums
        };
        self.write_with(pixels, tokens, out, add, |map, starts, out, next| {
            let done = avx2::apply(map, pixels, &starts, out);
            map.apply(pixels, starts, done, out);
            next.map(add).unwrap_or_default()
        });
    }

    /// [`Self::write_with`] compiled for AVX-512; the numbers are the same.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
    fn write_avx512(&self, pixels: &[u8], tokens: &[u32], out: &mut [f32]) {
        let none = Affine { bytes: self.line_bytes(), ..Affine::default() };
        let add = |starts: Starts<'_>| {
            avx512::lines::<false, true>(&none, pixels, &starts, &mut [], &starts)
        };
        self.write_with(pixels, tokens, out, add, |map, starts, out, next| match next {
            Some(next) => avx512::lines::<true, true>(map, pixels, &starts, out, &next),
            None => avx512::lines::<true, false>(map, pixels, &starts, out, &starts),
        });
    }

    /// `add` sums up a token's bytes, `apply` makes a token's numbers of them and sums up the next one's
    /// bytes.
    #[inline(always)]
    fn write_with<'a>(
        &'a self,
        pixels: &[u8],
        tokens: &[u32],
        out: &mut [f32],
        add: impl Fn(Starts<'a>) -> Sums,
        apply: impl Fn(&Affine, Starts<'a>, &mut [f32], Option<Starts<'a>>) -> Sums,
    ) {
        let fixed = match self.norm {
            PatchNorm::Unit => self.affine([0.0; 4], self.black, self.std),
            _ => self.affine([0.0; 4], [0.0; 4], [1.0; 4]),
        };
        let map_of = |sums: &Sums| match &self.standard {
            Some(standard) => self.map(standard, sums),
            None => Some(fixed),
        };
        // The tokens whose sums are needed.
        let summed = if self.standard.is_some() { tokens } else { &[] };
        let starts_of = |n: usize| summed.get(n).map(|token| self.starts(*token));
        let sums_of = |n| starts_of(n).map(&add).unwrap_or_default();
        // What follows from sums is a chain of divisions: it goes on while a token's numbers are made.
        let (mut map, mut next) = (map_of(&sums_of(0)), sums_of(1));
        for (n, (token, out)) in tokens.iter().zip(out.chunks_exact_mut(self.dim())).enumerate() {
            let (starts, next_map) = (self.starts(*token), map_of(&next));
            if let Some(map) = map {
                next = apply(&map, starts, out, starts_of(n + 2));
            } else {
                self.look_up(pixels, starts, out);
                next = sums_of(n + 2);
            }
            map = next_map;
        }
    }

    /// The reference's numbers.
    fn look_up(&self, pixels: &[u8], starts: Starts<'_>, out: &mut [f32]) {
        let bytes = self.line_bytes();
        for (start, out) in starts.zip(out.chunks_exact_mut(bytes)) {
            let pixels = pixels[start..start + bytes].chunks_exact(3);
            for (pixel, out) in pixels.zip(out.chunks_exact_mut(3)) {
                for c in 0..3 {
                    out[c] = self.table[c][usize::from(pixel[c])];
                }
            }
        }
        normalise_token(self.norm, out);
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
    fn map(&self, formula: &Standard, sums: &Sums) -> Option<Affine> {
        let Self { unit, black, count, share, .. } = self;
        // Of each channel in normalised values: the mean, and the sum of squares about it.
        let grey = lane(|c| sums.values[c] * share);
        let mut mean = lane(|c| grey[c] * unit[c] + black[c]);
        let mut squares = lane(|c| {
            let whole = count * sums.squares[c] - sums.values[c] * sums.values[c];
            whole * share * (unit[c] * unit[c])
        });
        if formula.joint {
            let sum = |all: Lane| (all[0] + all[1]) + all[2];
            let about_zero = sum(lane(|c| squares[c] + mean[c] * mean[c] * count));
            let total = sum(mean);
            squares = [about_zero - total * total * (count * (1.0 / 3.0)); 4];
            mean = [total * (1.0 / 3.0); 4];
        }
        let scale = lane(|c| {
            let variance = squares[c] * formula.share + formula.inside[c];
            1.0 / (variance.sqrt() + formula.outside[c])
        });
        // By way of the grey level next to the mean, the distance from which is exact.
        let level = lane(|c| grey[c].floor());
        let fits = scale.iter().all(|scale| *scale <= MOST_STRETCH);
        fits.then(|| self.affine(level, mean, scale))
    }

    /// The map to (x − mean) · scale of normalised pixels x.
    #[inline(always)]
    fn affine(&self, level: Lane, mean: Lane, scale: Lane) -> Affine {
        let Self { unit, black, .. } = self;
        Affine {
            bytes: self.line_bytes(),
            level: level.map(|level| level as f32),
            scale: lane(|c| scale[c] * unit[c]).map(|scale| scale as f32),
            shift: lane(|c| (level[c] * unit[c] + black[c] - mean[c]) * scale[c])
                .map(|shift| shift as f32),
        }
    }

    /// Bytes of a line of a token.
    fn line_bytes(&self) -> usize {
        self.patch.w as usize * 3
    }
}

#[inline(always)]
fn lane(number: impl Fn(usize) -> f64) -> Lane {
    std::array::from_fn(number)
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

/// Sums of the bytes of a token by channel, whole numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    values: Lane,
    squares: Lane,
}

impl Sums {
    /// Adds the bytes in `range`, whole pixels, of each line.
    fn add(&mut self, pixels: &[u8], starts: Starts<'_>, range: Range<usize>) {
        let (mut values, mut squares) = ([0u64; 3], [0u64; 3]);
        if range.is_empty() {
            return;
        }
        for start in starts {
            for pixel in pixels[start + range.start..start + range.end].chunks_exact(3) {
                for (c, byte) in pixel.iter().enumerate() {
                    values[c] += u64::from(*byte);
                    squares[c] += u64::from(*byte).pow(2);
                }
            }
        }
        for c in 0..4 {
            self.values[c] += values[c.min(2)] as f64;
            self.squares[c] += squares[c.min(2)] as f64;
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
