//! Multi-fold masks (SdAE `models_teacher.py`): an argsort mask; the masked tokens, in their random
//! order, are cut into equal folds, and a teacher sees each fold alone.

use tubelet_core::{Mask, PatchGrid, SampleRng};

use super::fitted_passes;

/// Hides `masked` tokens and deals them into `folds` equal folds. The k-th further pass hides all
/// tokens but those of fold k. `folds` divides `masked`.
pub fn multi_fold(grid: PatchGrid, masked: usize, folds: usize, rng: &mut SampleRng) -> Mask {
    let tokens = grid.len();
    let mut order: Vec<u32> = (0..tokens as u32).collect();
    for i in 0..masked {
        let j = i + rng.below((tokens - i) as u32) as usize;
        order.swap(i, j);
    }
    let mut hidden = vec![false; tokens];
    let mut passes = vec![vec![true; tokens]; folds];
    for (pass, fold) in passes.iter_mut().zip(order[..masked].chunks(masked / folds)) {
        for token in fold {
            hidden[*token as usize] = true;
            pass[*token as usize] = false;
        }
    }
    fitted_passes(grid, hidden, passes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tubelet_core::Draw;

    proptest! {
        #[test]
        fn folds_are_equal_disjoint_and_all_the_masked(side in 2u32..15, folds in 1usize..8, share in 0.0f64..1.0, seed: u64) {
            let grid = PatchGrid::new(1, side, side);
            let fold = ((grid.len() as f64 * share) as usize / folds).max(1);
            prop_assume!(fold * folds < grid.len());
            let mask = multi_fold(grid, fold * folds, folds, &mut SampleRng::new(seed, 0, 0, 0, Draw::Mask));
            prop_assert_eq!(mask.masked_count(), fold * folds);
            for pass in mask.passes() {
                prop_assert_eq!(pass.iter().filter(|h| !**h).count(), fold);
            }
            for token in 0..grid.len() {
                let seen = mask.passes().iter().filter(|p| !p[token]).count();
                prop_assert_eq!(seen, usize::from(mask.as_slice()[token]));
            }
        }
    }
}
