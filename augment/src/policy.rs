//! Which tokens a recipe hides: the closed set of mask families.

mod resolve;

use tubelet_core::{Mask, PatchGrid, SampleRng};

use crate::mask::{self, BlockSpec, CubeSpec, GroupSpec, IbotSpec, MvmMode, ToppedSpec, mvm};

pub use resolve::MaskProblem;

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
    /// Whole time slots.
    Frame {
        /// Time slots hidden.
        slots: usize,
    },
    /// Units of several tokens.
    Grid {
        /// Tokens of a unit along time, height and width.
        unit: [u32; 3],
        /// Units hidden.
        masked: usize,
    },
    /// Rectangles until at most a count is hidden; the same in every time slot.
    Block {
        /// Tokens of a unit along time, height and width.
        unit: [u32; 3],
        /// Counts in units.
        spec: BlockSpec,
    },
    /// Rectangles topped up to an exact count.
    Topped(ToppedSpec),
    /// Rectangles or tokens of a share drawn for each crop.
    Ibot(IbotSpec),
    /// Boxes in space and time.
    Cube {
        /// Tokens of a unit along time, height and width.
        unit: [u32; 3],
        /// Counts in units.
        spec: CubeSpec,
    },
    /// `masked` tokens anywhere, dealt into folds.
    MultiFold {
        /// Tokens hidden.
        masked: usize,
        /// Folds, each a further pass.
        folds: usize,
    },
    /// Two complementary halves.
    Halves,
    /// Blocks through time, each group a mask.
    MultiBlock(Vec<GroupSpec>),
    /// A tube for the encoder, a running cell for the decoder.
    RunningCell {
        /// Tokens of a plane hidden from the encoder.
        masked: usize,
        /// Tokens of each cell of four the decoder leaves out.
        hidden: usize,
    },
    /// Tokens left out, nothing reconstructed.
    DropToken {
        /// Tokens that go on.
        keep: usize,
    },
    /// Single tokens or cuboids, one kind a sample.
    Mvm {
        /// The kinds, each as likely.
        modes: Vec<MvmMode>,
        /// Probability of a single token.
        p: f64,
    },
}

impl MaskPolicy {
    /// Most tokens it can hide; exactly that many where [`MaskPolicy::is_exact`].
    pub fn most_masked(&self, grid: PatchGrid) -> usize {
        let slots = grid.t as usize;
        let tokens = |unit: &[u32; 3]| unit.iter().product::<u32>() as usize;
        match self {
            Self::None => 0,
            Self::Random { masked } | Self::MultiFold { masked, .. } => *masked,
            Self::Tube { masked } | Self::RunningCell { masked, .. } => masked * slots,
            Self::Frame { slots } => slots * grid.plane(),
            Self::Grid { unit, masked } => masked * tokens(unit),
            Self::Block { unit, spec } => spec.count * tokens(unit) * slots,
            Self::Topped(spec) => spec.masked * slots,
            Self::Ibot(spec) => {
                let most = spec.ratios.iter().map(|[r, v]| r + v).fold(0.0, f64::max);
                (most * grid.plane() as f64) as usize * slots
            }
            Self::Cube { unit, spec } => spec.count * tokens(unit),
            Self::Halves => grid.len() / 2,
            Self::MultiBlock(_) => grid.len() - 1,
            Self::DropToken { keep } => grid.len() - keep,
            Self::Mvm { .. } => grid.len(),
        }
    }

    /// Whether every draw hides the same number of tokens. Where not, rows of a batch are ragged and
    /// come with their counts.
    pub const fn is_exact(&self) -> bool {
        !matches!(
            self,
            Self::Block { .. }
                | Self::Ibot(_)
                | Self::Cube { .. }
                | Self::MultiBlock(_)
                | Self::Mvm { .. }
        )
    }

    /// Further passes that a mask carries ([`Mask::passes`]).
    pub const fn passes(&self) -> usize {
        match self {
            Self::MultiFold { folds, .. } => *folds,
            Self::Halves | Self::RunningCell { .. } => 1,
            Self::MultiBlock(groups) => groups.len().saturating_sub(1),
            _ => 0,
        }
    }

    /// Whether a further pass predicts what it does not see and so has targets of its own.
    pub const fn passes_predict(&self) -> bool {
        matches!(self, Self::Halves | Self::MultiBlock(_))
    }

    /// Whether hidden tokens are reconstructed.
    pub const fn reconstructs(&self) -> bool {
        !matches!(self, Self::None | Self::DropToken { .. })
    }

    /// [`Self::draw`] in `epoch`; hides nothing before the first one that masks.
    pub fn draw_in(&self, epoch: u32, grid: PatchGrid, rng: &mut SampleRng) -> Option<Mask> {
        match self {
            Self::Ibot(spec) if epoch < spec.from_epoch => {
                Some(mask::fitted(grid, vec![false; grid.len()]))
            }
            _ => self.draw(grid, rng),
        }
    }

    /// Draws a mask; `None` where nothing is hidden.
    pub fn draw(&self, grid: PatchGrid, rng: &mut SampleRng) -> Option<Mask> {
        Some(match self {
            Self::None => return None,
            Self::Random { masked } => mask::random(grid, grid.len() - masked, rng),
            Self::Tube { masked } => mask::tube(grid, *masked, rng),
            Self::Frame { slots } => mask::frame(grid, *slots, rng),
            Self::Grid { unit, masked } => {
                over_units(grid, *unit, |units| mask::random(units, units.len() - masked, rng))
            }
            Self::Block { unit, spec } => {
                over_units(grid, *unit, |units| mask::block(units, spec, rng))
            }
            Self::Topped(spec) => mask::topped(grid, spec, rng),
            Self::Ibot(spec) => mask::ibot(grid, spec, rng),
            Self::Cube { unit, spec } => {
                over_units(grid, *unit, |units| mask::cube(units, spec, rng))
            }
            Self::MultiFold { masked, folds } => mask::multi_fold(grid, *masked, *folds, rng),
            Self::Halves => mask::halves(grid, rng),
            Self::MultiBlock(groups) => mask::multi_block(grid, groups, rng),
            Self::RunningCell { masked, hidden } => mask::running_cell(grid, *masked, *hidden, rng),
            Self::DropToken { keep } => mask::drop_token(grid, *keep, rng),
            Self::Mvm { modes, p } => match modes[rng.below(modes.len() as u32) as usize] {
                MvmMode::Block => mvm::cuboids(grid, grid.t, rng),
                MvmMode::Random | MvmMode::Attended => mvm::bernoulli(grid, *p, rng),
            },
        })
    }
}

/// Draws over units and gives every token the fate of its unit.
fn over_units(grid: PatchGrid, unit: [u32; 3], draw: impl FnOnce(PatchGrid) -> Mask) -> Mask {
    let [t, h, w] = unit;
    let coarse = draw(PatchGrid::new(grid.t / t, grid.h / h, grid.w / w));
    if unit == [1; 3] { coarse } else { mask::repeat_units(&coarse, unit) }
}

#[cfg(test)]
mod tests;
