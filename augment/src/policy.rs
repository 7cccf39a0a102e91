//! Which tokens a recipe hides: the closed set of mask families.

use tubelet_core::{Mask, PatchGrid, SampleRng};

use crate::mask;
use crate::mask::block::BlockSpec;
use crate::recipe::{CountRule, MaskFile};

/// A mask family with its counts resolved for one token grid.
#[derive(Clone, Debug, PartialEq)]
pub enum MaskPolicy {
    /// Nothing is hidden.
    None,
    /// `masked` tokens anywhere.
    Random {
        /// Tokens hidden.
        masked: usize,
    },
    /// `masked` tokens of a plane, the same in every time slot.
    Tube {
        /// Tokens hidden in each time slot.
        masked: usize,
    },
    /// Rectangles until at most `count` tokens are hidden.
    Block(BlockSpec),
}

impl MaskPolicy {
    /// The policy of a recipe for `grid`, with the count rounded as its reference does.
    pub fn resolve(file: MaskFile, grid: PatchGrid) -> Self {
        match file {
            MaskFile::Random { ratio, count } => {
                let tokens = grid.len();
                let masked = match count {
                    CountRule::KeepFloor => tokens - mask::keep_truncated(tokens, ratio),
                    CountRule::MaskedFloor => mask::masked_truncated(tokens, ratio),
                    CountRule::MaskedCeil => mask::masked_ceil(tokens, ratio),
                };
                Self::Random { masked }
            }
            MaskFile::Tube { ratio } => {
                Self::Tube { masked: mask::masked_truncated(grid.plane(), ratio) }
            }
            MaskFile::Block { ratio, min, max } => {
                let count = mask::masked_round(grid.plane(), ratio);
                let min = min.map_or(count / 5, |m| m as usize);
                let max = max.map_or(count, |m| m as usize);
                Self::Block(BlockSpec::new(count, min, max))
            }
        }
    }

    /// Most tokens it can hide; exactly that many except for [`MaskPolicy::Block`].
    pub fn most_masked(&self, grid: PatchGrid) -> usize {
        match self {
            Self::None => 0,
            Self::Random { masked } => *masked,
            Self::Tube { masked } => masked * grid.t as usize,
            Self::Block(spec) => spec.count * grid.t as usize,
        }
    }

    /// Draws a mask; `None` where nothing is hidden.
    pub fn draw(&self, grid: PatchGrid, rng: &mut SampleRng) -> Option<Mask> {
        match self {
            Self::None => None,
            Self::Random { masked } => Some(mask::random(grid, grid.len() - masked, rng)),
            Self::Tube { masked } => Some(mask::tube(grid, *masked, rng)),
            Self::Block(spec) => Some(mask::block(grid, spec, rng)),
        }
    }
}
