//! Whole time slots (MaskFeat's `MASK_FRAMES` in SlowFast `kinetics.py`: round(T·ratio) of them by
//! `random.sample`; OmniMAE `mask_image_modeling.py`: ⌊T·ratio⌋).

use tubelet_core::{Mask, PatchGrid, SampleRng};

use super::fitted;
use super::random::choose;

/// Hides all tokens of `slots` time slots, every choice equally likely.
pub fn frame(grid: PatchGrid, slots: usize, rng: &mut SampleRng) -> Mask {
    let chosen = choose(grid.t as usize, slots, rng);
    let masked = chosen.iter().flat_map(|hidden| std::iter::repeat_n(*hidden, grid.plane()));
    fitted(grid, masked.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tubelet_core::Draw;

    proptest! {
        #[test]
        fn slots_are_whole(t in 2u32..17, h in 1u32..5, w in 1u32..5, share in 0.0f64..1.0, seed: u64) {
            let grid = PatchGrid::new(t, h, w);
            let slots = (f64::from(t) * share) as usize;
            let mask = frame(grid, slots, &mut SampleRng::new(seed, 0, 0, 0, Draw::Mask));
            let whole = mask.as_slice().chunks(grid.plane()).filter(|p| p.iter().all(|m| *m)).count();
            prop_assert_eq!(whole, slots);
            prop_assert_eq!(mask.masked_count(), slots * grid.plane());
        }
    }
}
