//! VideoMAE v2's two masks (`dataset/masking_generator.py`, read in public copies of it): a tube for
//! the encoder, and for the decoder a pattern that runs through cells of 2 × 2 tokens. The decoder
//! reconstructs the tokens that its mask leaves visible; the loss counts those of them that the
//! encoder did not see.
//!
//! The pattern is a queue of four: ⌊4·ratio⌋ hidden, the rest visible. It starts at a random place,
//! moves on by one in each time slot (once before the first), and fills each cell row by row, all
//! cells of a slot alike.

use tubelet_core::{Mask, PatchGrid, SampleRng};

use super::fitted_passes;
use super::random::choose;

/// Places of a cell.
pub const CELL: usize = 4;

/// Places of a cell that the decoder leaves out: ⌊4·ratio⌋.
pub fn hidden_of_cell(ratio: f64) -> usize {
    (CELL as f64 * ratio) as usize
}

/// Hides `masked` tokens of each plane from the encoder, and in the further pass `hidden` of the
/// four tokens of every cell from the decoder. Height and width are even.
pub fn running_cell(grid: PatchGrid, masked: usize, hidden: usize, rng: &mut SampleRng) -> Mask {
    let tube = choose(grid.plane(), masked, rng).repeat(grid.t as usize);
    let start = rng.below(CELL as u32) as usize;
    let columns = grid.w as usize;
    let left_out = |token: usize| {
        let (slot, at) = (token / grid.plane(), token % grid.plane());
        let place = at / columns % 2 * 2 + at % columns % 2;
        (place + start + slot + 1) % CELL < hidden
    };
    let decoder = (0..grid.len()).map(left_out).collect();
    fitted_passes(grid, tube, vec![decoder])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tubelet_core::Draw;

    proptest! {
        #[test]
        fn cells_hide_their_share_and_run(t in 1u32..9, h in 1u32..8, w in 1u32..8, hidden in 1usize..4, seed: u64) {
            let grid = PatchGrid::new(t, 2 * h, 2 * w);
            let mask = running_cell(grid, 1, hidden, &mut SampleRng::new(seed, 0, 0, 0, Draw::Mask));
            let decoder = &mask.passes()[0];
            let cell = |slot: usize, y: usize, x: usize| {
                let at = |dy, dx| decoder[slot * grid.plane() + (2 * y + dy) * grid.w as usize + 2 * x + dx];
                [at(0, 0), at(0, 1), at(1, 0), at(1, 1)]
            };
            for slot in 0..t as usize {
                let first = cell(slot, 0, 0);
                prop_assert_eq!(first.iter().filter(|m| **m).count(), hidden);
                for (y, x) in (0..h as usize).flat_map(|y| (0..w as usize).map(move |x| (y, x))) {
                    prop_assert_eq!(cell(slot, y, x), first);
                }
                if slot > 0 {
                    let mut before = cell(slot - 1, 0, 0);
                    before.rotate_left(1);
                    prop_assert_eq!(before, first);
                }
            }
        }
    }
}
