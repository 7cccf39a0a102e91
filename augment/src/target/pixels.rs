//! Pixel targets: one variant per published formula.

use serde::{Deserialize, Serialize};
use tubelet_core::{PatchSize, Size};

use crate::normalise::Normalise;

/// How the pixels of a token become its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatchNorm {
    /// Mean/std-normalised pixels as they are: SimMIM.
    Raw,
    /// Pixels of 0..1: VideoMAE where targets are not normalised.
    Unit,
    /// MAE, MAE-ST, FCMAE (ConvNeXt V2), FastMIM `l2` (`models_mae.py`): mean/std-normalised pixels; mean and unbiased variance
    /// over all channels of the token jointly, (x − μ)/√(σ² + 1e-6).
    Mae,
    /// VideoMAE (`engine_for_pretraining.py`): pixels back in 0..1; mean and unbiased variance of each
    /// channel of the token, (x − μ)/(√σ² + 1e-6).
    Videomae,
    /// OmniMAE (`mae_loss.py`): as VideoMAE but (x − μ)/√(σ² + 1e-6).
    Omnimae,
    /// BootMAE: mean/std-normalised pixels; mean and biased variance of each channel,
    /// (x − μ)/√(σ² + 1e-5).
    Bootmae,
}

impl PatchNorm {
    /// All formulas.
    pub const ALL: [Self; 6] =
        [Self::Raw, Self::Unit, Self::Mae, Self::Videomae, Self::Omnimae, Self::Bootmae];

    /// Whether pixels are brought back to 0..1 first.
    pub const fn original(self) -> bool {
        matches!(self, Self::Unit | Self::Videomae | Self::Omnimae)
    }
}

/// A formula in numbers: (x − μ)/(√(Σ(x − μ)²/(n − bias) + inside) + outside).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Formula {
    /// Mean and sum over all values of a token, not over those of each channel.
    pub joint: bool,
    /// 1 for the unbiased variance.
    pub bias: f64,
    /// Epsilon added to the variance.
    pub inside: f64,
    /// Epsilon added to the deviation.
    pub outside: f64,
}

impl PatchNorm {
    /// How values are standardised; `None` where they stay as they are.
    pub const fn formula(self) -> Option<Formula> {
        let channel = Formula { joint: false, bias: 1.0, inside: 0.0, outside: 0.0 };
        match self {
            Self::Raw | Self::Unit => None,
            Self::Mae => Some(Formula { joint: true, inside: 1e-6, ..channel }),
            Self::Videomae => Some(Formula { outside: 1e-6, ..channel }),
            Self::Omnimae => Some(Formula { inside: 1e-6, ..channel }),
            Self::Bootmae => Some(Formula { bias: 0.0, inside: 1e-5, ..channel }),
        }
    }
}

/// Which frames a target is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameChoice {
    /// All.
    #[default]
    All,
    /// Half of them, trunc(linspace(0, T − 1, T/2)): mae_st; 0, 2, 4, 6, 8, 10, 12, 15 of 16.
    MaeSt,
    /// Every second: SlowFast; 0, 2, …, 14 of 16.
    Slowfast,
}

impl FrameChoice {
    /// The frames chosen of `frames`, ascending.
    pub fn indices(self, frames: u32) -> Vec<u32> {
        match self {
            Self::All => (0..frames).collect(),
            Self::MaeSt => crate::temporal::uniform(frames, frames / 2),
            Self::Slowfast => (0..frames).step_by(2).collect(),
        }
    }
}

/// Order of the numbers of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PixelOrder {
    /// Frame, row, column, channel: MAE and most others.
    #[default]
    ChannelLast,
    /// Channel, frame, row, column: what torch's `PixelShuffle` reads (SimMIM, VIOLETv2).
    ChannelFirst,
}

impl PixelOrder {
    /// Where channel `c` of the pixel in row `y` and column `x` of the target's frame `frame` of
    /// `frames` stands in a token of `patch`.
    pub const fn index(
        self,
        patch: PatchSize,
        [frames, frame]: [u32; 2],
        [y, x]: [u32; 2],
        c: u32,
    ) -> usize {
        let pixel = (frame * patch.h + y) * patch.w + x;
        match self {
            Self::ChannelLast => (pixel * 3 + c) as usize,
            Self::ChannelFirst => (c * frames * patch.h * patch.w + pixel) as usize,
        }
    }

    /// Puts tokens of `dim` numbers with the channel last into this order.
    pub fn arrange(self, tokens: &mut [f32], dim: usize, scratch: &mut Vec<f32>) {
        if self == Self::ChannelLast {
            return;
        }
        for token in tokens.chunks_exact_mut(dim.max(3)) {
            scratch.clear();
            scratch.extend_from_slice(token);
            for (c, channel) in token.chunks_exact_mut(dim / 3).enumerate() {
                let values = scratch.iter().skip(c).step_by(3);
                channel.iter_mut().zip(values).for_each(|(out, value)| *out = *value);
            }
        }
    }
}

/// A pixel target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelSpec {
    /// The formula.
    pub norm: PatchNorm,
    /// Which frames.
    pub frames: FrameChoice,
    /// Order of the numbers of a token.
    pub order: PixelOrder,
}

/// Writes the targets of `tokens` to `out`, `[tokens, dim]`, ordered frame, row, column, channel.
///
/// `pixels` is f32 `[3, frames, height, width]`, mean/std-normalised by `normalise`. Tokens are
/// numbered time slot, row, column over the grid of `patch`; the chosen frames are shared equally
/// by the time slots.
pub fn pixel_targets(
    norm: PatchNorm,
    pixels: &[f32],
    frames: u32,
    size: Size,
    patch: PatchSize,
    normalise: &Normalise,
    choice: FrameChoice,
    tokens: &[u32],
    out: &mut [f32],
) {
    let chosen = choice.indices(frames);
    let per_slot = chosen.len() / (frames / patch.t) as usize;
    let source = Source { norm, pixels, frames, size, patch, normalise, chosen: &chosen, per_slot };
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { source.write_avx2(tokens, out) };
    }
    source.write(tokens, out);
}

/// Applies the formula to one token's vector, the channel fastest.
pub fn normalise_token(norm: PatchNorm, values: &mut [f32]) {
    if let Some(Formula { joint, bias, inside, outside }) = norm.formula() {
        standardise(values, joint, |var, n| (var / (n - bias) + inside).sqrt() + outside);
    }
}

/// What targets are made of.
struct Source<'a> {
    norm: PatchNorm,
    pixels: &'a [f32],
    frames: u32,
    size: Size,
    patch: PatchSize,
    normalise: &'a Normalise,
    /// Frames that count.
    chosen: &'a [u32],
    /// Of them, those of one time slot.
    per_slot: usize,
}

impl Source<'_> {
    /// The same as [`Self::write`], compiled for AVX2.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn write_avx2(&self, tokens: &[u32], out: &mut [f32]) {
        self.write(tokens, out);
    }

    #[inline(always)]
    fn write(&self, tokens: &[u32], out: &mut [f32]) {
        let dim = self.per_slot * (self.patch.h * self.patch.w) as usize * 3;
        for (token, out) in tokens.iter().zip(out.chunks_exact_mut(dim)) {
            self.gather(*token, out);
            normalise_token(self.norm, out);
        }
    }

    /// The pixels of one token, the channel fastest.
    #[inline(always)]
    fn gather(&self, token: u32, out: &mut [f32]) {
        let (high, wide) = (self.patch.h as usize, self.patch.w as usize);
        let (width, plane) = (self.size.width as usize, self.size.area());
        let columns = self.size.width / self.patch.w;
        let cells = self.size.height / self.patch.h * columns;
        let (slot, cell) = ((token / cells) as usize, token % cells);
        let (top, left) = ((cell / columns) as usize * high, (cell % columns) as usize * wide);
        let original = self.norm.original();
        let chosen = &self.chosen[slot * self.per_slot..][..self.per_slot];
        for (frame, out) in chosen.iter().zip(out.chunks_exact_mut(high * wide * 3)) {
            let planes = [0, 1, 2].map(|c| {
                let start = (c * self.frames as usize + *frame as usize) * plane;
                &self.pixels[start..start + plane]
            });
            for (y, out) in out.chunks_exact_mut(wide * 3).enumerate() {
                let start = (top + y) * width + left;
                let [r, g, b] = planes.map(|plane| &plane[start..start + wide]);
                for (((out, r), g), b) in out.chunks_exact_mut(3).zip(r).zip(g).zip(b) {
                    (out[0], out[1], out[2]) = (*r, *g, *b);
                }
                if original {
                    let Normalise { mean, std } = self.normalise;
                    for out in out.chunks_exact_mut(3) {
                        for c in 0..3 {
                            out[c] = out[c] * std[c] + mean[c];
                        }
                    }
                }
            }
        }
    }
}

/// Sums run in this many lanes, of which lane l has channel l mod 3: whole vector registers.
const LANES: usize = 24;

/// (x − μ)/deviation, of all values jointly or of each channel; `deviation` gets the sum of squares
/// about the mean and the count. Sums are f64, so that the order of addition hardly shows; it is the
/// same on every processor.
#[inline(always)]
fn standardise(values: &mut [f32], joint: bool, deviation: impl Fn(f64, f64) -> f64) {
    let n = values.len() as f64 / if joint { 1.0 } else { 3.0 };
    let lanes = |channels: [f64; 3]| std::array::from_fn::<f64, LANES, _>(|l| channels[l % 3]);
    let means = sums(values, &[0.0; LANES], joint, |v| v).map(|sum| sum / n);
    let squares = sums(values, &lanes(means), joint, |v| v * v);
    let scales = lanes(squares.map(|squares| 1.0 / deviation(squares, n)));
    let means = lanes(means);
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for l in 0..LANES {
            chunk[l] = ((f64::from(chunk[l]) - means[l]) * scales[l]) as f32;
        }
    }
    for (l, value) in chunks.into_remainder().iter_mut().enumerate() {
        *value = ((f64::from(*value) - means[l]) * scales[l]) as f32;
    }
}

/// Sum of `term(value − about)` over each channel, or three times that over all.
#[inline(always)]
fn sums(values: &[f32], about: &[f64; LANES], joint: bool, term: impl Fn(f64) -> f64) -> [f64; 3] {
    let mut lanes = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] += term(f64::from(chunk[l]) - about[l]);
        }
    }
    for (l, value) in rest.iter().enumerate() {
        lanes[l] += term(f64::from(*value) - about[l]);
    }
    let channels = [0, 1, 2].map(|c| lanes.iter().skip(c).step_by(3).sum::<f64>());
    if joint { [channels.iter().sum(); 3] } else { channels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalise::IMAGENET;

    fn clip(frames: usize, side: usize) -> Vec<f32> {
        (0..3 * frames * side * side).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect()
    }

    #[test]
    fn half_of_sixteen_frames_by_both_rules() {
        assert_eq!(FrameChoice::MaeSt.indices(16), [0, 2, 4, 6, 8, 10, 12, 15]);
        assert_eq!(FrameChoice::Slowfast.indices(16), [0, 2, 4, 6, 8, 10, 12, 14]);
    }

    #[test]
    fn normalised_tokens_have_mean_zero_and_variance_one() {
        let pixels = clip(4, 8);
        let patch = PatchSize { t: 2, h: 4, w: 4 };
        for (norm, groups) in [(PatchNorm::Mae, 1), (PatchNorm::Videomae, 3)] {
            let mut out = vec![0.0; 2 * 96];
            let size = Size::square(8);
            pixel_targets(
                norm,
                &pixels,
                4,
                size,
                patch,
                &IMAGENET,
                FrameChoice::All,
                &[1, 6],
                &mut out,
            );
            for token in out.chunks(96) {
                for g in 0..groups {
                    let group: Vec<f32> = token.iter().skip(g).step_by(groups).copied().collect();
                    let n = group.len() as f32;
                    let mean = group.iter().sum::<f32>() / n;
                    let var = group.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / (n - 1.0);
                    assert!(mean.abs() < 1e-5 && (var - 1.0).abs() < 1e-3, "{mean} {var}");
                }
            }
        }
    }

    #[test]
    fn the_channel_first_order_moves_every_number_to_its_place() {
        let patch = PatchSize { t: 2, h: 3, w: 4 };
        let dim = 2 * 3 * 4 * 3;
        let values: Vec<f32> = (0..2 * dim).map(|v| v as f32).collect();
        let mut moved = values.clone();
        PixelOrder::ChannelFirst.arrange(&mut moved, dim, &mut Vec::new());
        for (frame, y, x, c) in (0..dim as u32).map(|i| (i / 36, i / 12 % 3, i / 3 % 4, i % 3)) {
            let at = |order: PixelOrder| order.index(patch, [2, frame], [y, x], c);
            let (first, last) = (at(PixelOrder::ChannelFirst), at(PixelOrder::ChannelLast));
            assert_eq!(moved[first], values[last]);
            assert_eq!(moved[dim + first], values[dim + last]);
        }
        let mut same = values.clone();
        PixelOrder::ChannelLast.arrange(&mut same, dim, &mut Vec::new());
        assert_eq!(same, values);
    }

    #[test]
    fn raw_targets_are_the_pixels_in_order() {
        let pixels = clip(2, 4);
        let patch = PatchSize { t: 1, h: 2, w: 2 };
        let mut out = vec![0.0; 12];
        let size = Size::square(4);
        pixel_targets(
            PatchNorm::Raw,
            &pixels,
            2,
            size,
            patch,
            &IMAGENET,
            FrameChoice::All,
            &[7],
            &mut out,
        );
        // Token 7: frame 1, rows 2-3, columns 2-3. Third value: row 2, column 2, channel 2.
        assert_eq!(out[2], pixels[(2 * 2 + 1) * 16 + 2 * 4 + 2]);
        // Fourth value: row 2, column 3, channel 0.
        assert_eq!(out[3], pixels[16 + 2 * 4 + 3]);
    }
}
