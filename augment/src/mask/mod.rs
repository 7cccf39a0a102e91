//! Mask families, one file each, and the published ways to round a ratio to a count.
//!
//! Every family takes its randomness from the stream handed in and returns a [`Mask`] whose `true`
//! entries are hidden. Which family and which counts a recipe means is [`crate::policy`]'s business.

pub mod block;
pub mod random;
pub mod tube;

use tubelet_core::{Mask, PatchGrid};

pub use block::{BlockSpec, block};
pub use random::random;
pub use tube::tube;

/// Tokens kept: ⌊L·(1 − ratio)⌋, the product truncated in f64 (MAE `models_mae.py`, MAE-ST, FastMIM,
/// FCMAE, SdAE): 196 at 0.75 keeps 49, 1568 at 0.9 keeps 156.
pub fn keep_truncated(tokens: usize, ratio: f64) -> usize {
    (tokens as f64 * (1.0 - ratio)) as usize
}

/// Tokens masked: ⌊ratio·L⌋ (VideoMAE `masking_generator.py`, MVD, OmniMAE): 196 at 0.9 masks 176.
pub fn masked_truncated(tokens: usize, ratio: f64) -> usize {
    (ratio * tokens as f64) as usize
}

/// Tokens masked: ⌈L·ratio⌉ (SimMIM `data_simmim.py`): 36 at 0.6 masks 22.
pub fn masked_ceil(tokens: usize, ratio: f64) -> usize {
    (tokens as f64 * ratio).ceil() as usize
}

/// Tokens masked: L·ratio rounded half to even (MaskFeat in SlowFast `imagenet.py`): 196 at 0.4
/// masks 78.
pub fn masked_round(tokens: usize, ratio: f64) -> usize {
    (tokens as f64 * ratio).round_ties_even() as usize
}

/// `mask` on a grid finer by `factor` along time, height and width: every token becomes a block of
/// equal tokens (nearest neighbour).
pub fn upsample(mask: &Mask, factor: [u32; 3]) -> Mask {
    let coarse = mask.grid();
    let [ft, fh, fw] = factor;
    let fine = PatchGrid::new(coarse.t * ft, coarse.h * fh, coarse.w * fw);
    let mut out = Vec::with_capacity(fine.len());
    for t in 0..fine.t {
        for y in 0..fine.h {
            for x in 0..fine.w {
                let at = ((t / ft * coarse.h + y / fh) * coarse.w + x / fw) as usize;
                out.push(mask.as_slice()[at]);
            }
        }
    }
    fitted(fine, out)
}

/// A mask whose length was made from `grid`.
pub(crate) fn fitted(grid: PatchGrid, masked: Vec<bool>) -> Mask {
    Mask::new(grid, masked).expect("built with one entry a token")
}
