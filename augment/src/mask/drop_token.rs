//! DropToken (VATT `vitx3d.py::_random_patch_selection`): ⌊rate·L⌋ tokens go on, the others are
//! left out of the transformer; nothing is reconstructed.
//!
//! The reference draws one permutation for the whole batch. Here every sample has its own, for a
//! draw may depend on no other sample; each token's probability is the same.

use tubelet_core::{Mask, PatchGrid, SampleRng};

/// Tokens that go on: ⌊keep·L⌋: 1568 at 0.5 keeps 784.
pub fn kept(tokens: usize, keep: f64) -> usize {
    (keep * tokens as f64) as usize
}

/// Drops all but `keep` tokens of `grid`, every choice equally likely.
pub fn drop_token(grid: PatchGrid, keep: usize, rng: &mut SampleRng) -> Mask {
    super::random(grid, keep, rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tubelet_core::Draw;

    #[test]
    fn half_of_the_published_grid_goes_on() {
        let grid = PatchGrid::new(8, 14, 14);
        let keep = kept(grid.len(), 0.5);
        let mask = drop_token(grid, keep, &mut SampleRng::new(1, 0, 0, 0, Draw::Mask));
        assert_eq!((keep, mask.visible_count()), (784, 784));
    }
}
