//! Tubes: the same hidden tokens in every time slot (VideoMAE `masking_generator.py`).

use tubelet_core::{Mask, PatchGrid, SampleRng};

use super::fitted;
use super::random::choose;

/// Hides `masked` tokens of the plane in all time slots alike.
pub fn tube(grid: PatchGrid, masked: usize, rng: &mut SampleRng) -> Mask {
    let plane = choose(grid.plane(), masked, rng);
    fitted(grid, plane.repeat(grid.t as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tubelet_core::Draw;

    proptest! {
        #[test]
        fn planes_are_equal_and_counts_exact(t in 1u32..9, side in 1u32..15, share in 0.0f64..1.0, seed: u64) {
            let grid = PatchGrid::new(t, side, side);
            let masked = (grid.plane() as f64 * share) as usize;
            let mask = tube(grid, masked, &mut SampleRng::new(seed, 0, 0, 0, Draw::Mask));
            let planes: Vec<_> = mask.as_slice().chunks(grid.plane()).collect();
            prop_assert!(planes.iter().all(|p| *p == planes[0]));
            prop_assert_eq!(mask.masked_count(), masked * t as usize);
        }
    }
}
