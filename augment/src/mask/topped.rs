//! Blocks topped up to an exact count (BootMAE: `masking_generator.py` with its endless retries,
//! then `utils.py::mask_to_index`).
//!
//! Tokens are ordered: visible first, then the blocks' tokens, at random within both groups. The
//! order is rolled by 0 to 3 places, which brings that many tokens of blocks to its front. The last
//! of the order are hidden. The reference draws one roll a batch, here every sample has its own.

use tubelet_core::{Mask, PatchGrid, SampleRng};

use super::block::{BlockSpec, plane};
use super::fitted;

/// Largest roll.
pub const ROLL: u32 = 3;

/// Counts of the rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ToppedSpec {
    /// The blocks; their count is at most `masked`.
    pub blocks: BlockSpec,
    /// Tokens of a plane hidden in the end.
    pub masked: usize,
    /// Largest roll; every one from 0 is as likely.
    pub roll: u32,
}

/// Hides exactly `spec.masked` tokens of a plane, in all time slots alike.
pub fn topped(grid: PatchGrid, spec: &ToppedSpec, rng: &mut SampleRng) -> Mask {
    let blocks = plane(grid, &spec.blocks, spec.blocks.count as f64, rng);
    let (mut order, mut hidden): (Vec<u32>, Vec<u32>) =
        (0..grid.plane() as u32).partition(|token| !blocks[*token as usize]);
    rng.shuffle(&mut order);
    rng.shuffle(&mut hidden);
    order.append(&mut hidden);
    let roll = rng.below(spec.roll + 1) as usize % order.len().max(1);
    order.rotate_right(roll);
    let mut masked = vec![false; grid.plane()];
    for token in &order[order.len() - spec.masked..] {
        masked[*token as usize] = true;
    }
    fitted(grid, masked.repeat(grid.t as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tubelet_core::Draw;

    #[test]
    fn counts_are_exact_and_most_block_tokens_stay_hidden() {
        let grid = PatchGrid::new(1, 14, 14);
        let blocks = BlockSpec { tries: None, ..BlockSpec::new(120, 16, 60) };
        let spec = ToppedSpec { blocks, masked: 147, roll: ROLL };
        for sample in 0..200 {
            let rng = || SampleRng::new(8, 0, sample, 0, Draw::Mask);
            let inside = super::super::block(grid, &blocks, &mut rng());
            let mask = topped(grid, &spec, &mut rng());
            assert_eq!((inside.masked_count(), mask.masked_count()), (120, 147));
            let lost = inside.masked().filter(|t| !mask.as_slice()[*t as usize]).count();
            assert!(lost <= ROLL as usize, "{lost}");
        }
    }
}
