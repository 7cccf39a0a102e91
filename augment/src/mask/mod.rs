//! Mask families, one file each, and the published ways to round a ratio to a count.
//!
//! Every family takes its randomness from the stream handed in and returns a [`Mask`] whose `true`
//! entries are hidden. [`mod@file`] is what a recipe says; [`crate::policy`] turns it into one family
//! with its counts for one token grid.

pub mod block;
pub mod cube;
pub mod drop_token;
pub mod file;
pub mod fold;
pub mod frame;
pub mod halves;
pub mod ibot;
pub mod multi_block;
pub mod mvm;
pub mod random;
pub mod running_cell;
pub mod topped;
pub mod tube;
pub mod unit;

use tubelet_core::{Mask, PatchGrid};

pub use block::{BlockSpec, block};
pub use cube::{CubeSpec, cube};
pub use drop_token::drop_token;
pub use file::{BlockGroup, CountRule, IbotShape, MaskFile, MvmMode};
pub use fold::multi_fold;
pub use frame::frame;
pub use halves::halves;
pub use ibot::{IbotSpec, ibot};
pub use multi_block::{GroupSpec, multi_block};
pub use random::random;
pub use running_cell::running_cell;
pub use topped::{ToppedSpec, topped};
pub use tube::tube;
pub use unit::{centre_weights, nearest, repeat_units};

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

/// Hides the box of `size` tokens whose first corner is `at`: time slots, rows, columns.
fn hide_box(grid: PatchGrid, at: [u32; 3], [t, h, w]: [u32; 3], hidden: &mut [bool]) {
    let [front, top, left] = at;
    for z in front..front + t {
        for y in top..top + h {
            let first = ((z * grid.h + y) * grid.w + left) as usize;
            hidden[first..first + w as usize].fill(true);
        }
    }
}

/// A mask whose length was made from `grid`.
pub(crate) fn fitted(grid: PatchGrid, masked: Vec<bool>) -> Mask {
    Mask::new(grid, masked).expect("built with one entry a token")
}

/// A mask and further passes whose lengths were made from `grid`.
pub(crate) fn fitted_passes(grid: PatchGrid, masked: Vec<bool>, passes: Vec<Vec<bool>>) -> Mask {
    fitted(grid, masked).with_passes(passes).expect("built with one entry a token")
}
