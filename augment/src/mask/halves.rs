//! Complementary halves (SplitMask, "Are large-scale datasets necessary for self-supervised
//! pre-training?", arXiv 2112.10740): patches are split at random into two disjoint halves, each
//! encoded alone and each predicting the other. The paper's code is not public: how an odd number
//! of patches is split is a choice made here.

use tubelet_core::{Mask, PatchGrid, SampleRng};

use super::fitted_passes;
use super::random::choose;

/// The first pass sees one half (⌈L/2⌉ tokens), the further pass exactly the other (⌊L/2⌋).
pub fn halves(grid: PatchGrid, rng: &mut SampleRng) -> Mask {
    let hidden = choose(grid.len(), grid.len() / 2, rng);
    let other = hidden.iter().map(|h| !h).collect();
    fitted_passes(grid, hidden, vec![other])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tubelet_core::Draw;

    proptest! {
        #[test]
        fn halves_are_disjoint_and_complete(t in 1u32..4, h in 1u32..15, w in 2u32..15, seed: u64) {
            let grid = PatchGrid::new(t, h, w);
            let mask = halves(grid, &mut SampleRng::new(seed, 0, 0, 0, Draw::Mask));
            prop_assert_eq!(mask.masked_count(), grid.len() / 2);
            let other = &mask.passes()[0];
            prop_assert!(mask.as_slice().iter().zip(other).all(|(a, b)| a != b));
        }
    }
}
