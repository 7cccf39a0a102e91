//! Pixel targets: one variant per published formula.

use serde::{Deserialize, Serialize};
use tubelet_core::{PatchSize, Size};

use crate::normalise::Normalise;

/// How the pixels of a token become its target. All vectors are ordered frame, row, column,
/// channel, the channel fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatchNorm {
    /// Mean/std-normalised pixels as they are.
    Raw,
    /// MAE, MAE-ST, FCMAE (`models_mae.py`): mean/std-normalised pixels; mean and unbiased variance
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

/// Writes the targets of `tokens` to `out`, `[tokens, dim]`.
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
    let (rows, columns) = (size.height / patch.h, size.width / patch.w);
    let slots = frames / patch.t;
    let per_slot = chosen.len() / slots as usize;
    let dim = per_slot * (patch.h * patch.w) as usize * 3;
    let plane = size.area();
    let original = matches!(norm, PatchNorm::Videomae | PatchNorm::Omnimae);
    for (token, out) in tokens.iter().zip(out.chunks_exact_mut(dim)) {
        let (slot, cell) = (token / (rows * columns), token % (rows * columns));
        let (top, left) = (cell / columns * patch.h, cell % columns * patch.w);
        let frames_here = &chosen[slot as usize * per_slot..(slot as usize + 1) * per_slot];
        for c in 0..3 {
            let (scale, shift) =
                if original { (normalise.std[c], normalise.mean[c]) } else { (1.0, 0.0) };
            let mut at = c;
            for frame in frames_here {
                let base = (c * frames as usize + *frame as usize) * plane;
                for y in top..top + patch.h {
                    let start = base + (y * size.width + left) as usize;
                    for value in &pixels[start..start + patch.w as usize] {
                        out[at] = if original { value * scale + shift } else { *value };
                        at += 3;
                    }
                }
            }
        }
        normalise_token(norm, out);
    }
}

/// Applies the formula to one token's vector, the channel fastest.
pub fn normalise_token(norm: PatchNorm, values: &mut [f32]) {
    match norm {
        PatchNorm::Raw => {}
        PatchNorm::Mae => standardise(values, 0, 1, |var, n| (var / (n - 1.0) + 1e-6).sqrt()),
        PatchNorm::Videomae => {
            for c in 0..3 {
                standardise(values, c, 3, |var, n| (var / (n - 1.0)).sqrt() + 1e-6);
            }
        }
        PatchNorm::Omnimae => {
            for c in 0..3 {
                standardise(values, c, 3, |var, n| (var / (n - 1.0) + 1e-6).sqrt());
            }
        }
        PatchNorm::Bootmae => {
            for c in 0..3 {
                standardise(values, c, 3, |var, n| (var / n + 1e-5).sqrt());
            }
        }
    }
}

/// (x − μ)/deviation over every `stride`-th value from `first`; `deviation` gets the sum of squares
/// about the mean and the count. Sums are f64, so that the order of addition does not show.
fn standardise(
    values: &mut [f32],
    first: usize,
    stride: usize,
    deviation: impl Fn(f64, f64) -> f64,
) {
    let those = || values[first..].iter().step_by(stride).map(|v| f64::from(*v));
    let n = values[first..].len().div_ceil(stride) as f64;
    let mean = those().sum::<f64>() / n;
    let squares = those().map(|v| (v - mean) * (v - mean)).sum::<f64>();
    let scale = 1.0 / deviation(squares, n);
    for value in values[first..].iter_mut().step_by(stride) {
        *value = ((f64::from(*value) - mean) * scale) as f32;
    }
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
