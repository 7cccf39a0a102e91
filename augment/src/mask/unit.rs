//! Coarse masks on finer grids, and weights made from a mask.

use tubelet_core::{Mask, PatchGrid};

use super::fitted;

/// `mask` on a grid finer by `factor` along time, height and width: every token becomes a block of
/// equal tokens (SimMIM, FCMAE: `repeat`).
pub fn repeat_units(mask: &Mask, factor: [u32; 3]) -> Mask {
    let coarse = mask.grid();
    let [ft, fh, fw] = factor.map(|f| f as usize);
    let fine = PatchGrid::new(coarse.t * factor[0], coarse.h * factor[1], coarse.w * factor[2]);
    let mut out = Vec::with_capacity(fine.len());
    for slot in mask.as_slice().chunks(coarse.plane().max(1)) {
        let start = out.len();
        for row in slot.chunks(coarse.w as usize) {
            let line = out.len();
            row.iter().for_each(|m| out.extend(std::iter::repeat_n(*m, fw)));
            let end = out.len();
            (1..fh).for_each(|_| out.extend_from_within(line..end));
        }
        let end = out.len();
        (1..ft).for_each(|_| out.extend_from_within(start..end));
    }
    fitted(fine, out)
}

/// `mask` on any other grid by its nearest token (torch `interpolate(mode="nearest")`, which
/// MaskFeat uses): token i of n takes token ⌊i·m/n⌋ of m, the factor m/n in f32.
pub fn nearest(mask: &Mask, to: PatchGrid) -> Mask {
    let from = mask.grid();
    let along = |n: u32, m: u32| -> Vec<usize> {
        let scale = m as f32 / n as f32;
        (0..n).map(|i| ((i as f32 * scale) as usize).min(m as usize - 1)).collect()
    };
    let (ts, ys, xs) = (along(to.t, from.t), along(to.h, from.h), along(to.w, from.w));
    let mut out = Vec::with_capacity(to.len());
    for t in &ts {
        for y in &ys {
            let row = &mask.as_slice()[(t * from.h as usize + y) * from.w as usize..];
            out.extend(xs.iter().map(|x| row[*x]));
        }
    }
    fitted(to, out)
}

/// BootMAE's weights of the loss (`run_pretraining.py`, `--weight_mask`): m·mean(m over 3 × 3) + m,
/// where tokens outside the grid count as 0: 0 where visible, 1 to 2 where masked, more inside
/// blocks. `[t, h, w]`, each time slot alone.
pub fn centre_weights(mask: &Mask) -> Vec<f32> {
    let (h, w) = (mask.grid().h as usize, mask.grid().w as usize);
    let weight = |slot: &[bool], at: usize| {
        if !slot[at] {
            return 0.0;
        }
        let (y, x) = (at / w, at % w);
        let rows = y.saturating_sub(1)..(y + 2).min(h);
        let around = rows.map(|y| {
            slot[y * w + x.saturating_sub(1)..y * w + (x + 2).min(w)].iter().filter(|m| **m).count()
        });
        around.sum::<usize>() as f32 / 9.0 + 1.0
    };
    mask.as_slice()
        .chunks(mask.grid().plane().max(1))
        .flat_map(|slot| (0..slot.len()).map(move |at| weight(slot, at)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_mask(grid: PatchGrid, bits: u64) -> Mask {
        fitted(grid, (0..grid.len()).map(|i| bits >> (i * 7 % 64) & 1 == 1).collect())
    }

    proptest! {
        #[test]
        fn repeating_is_nearest_at_whole_factors(
            t in 1u32..4, h in 1u32..8, w in 1u32..8, factor in prop::array::uniform3(1u32..9), bits: u64
        ) {
            let mask = some_mask(PatchGrid::new(t, h, w), bits);
            let fine = PatchGrid::new(t * factor[0], h * factor[1], w * factor[2]);
            prop_assert_eq!(repeat_units(&mask, factor), nearest(&mask, fine));
        }
    }

    #[test]
    fn nearest_takes_every_second_token_downwards() {
        let mask = fitted(PatchGrid::new(1, 1, 4), vec![true, false, false, true]);
        assert_eq!(nearest(&mask, PatchGrid::new(1, 1, 2)).as_slice(), [true, false]);
        assert_eq!(nearest(&mask, PatchGrid::new(1, 1, 3)).as_slice(), [true, false, false]);
    }

    #[test]
    fn weights_grow_inside_blocks() {
        let mask = fitted(PatchGrid::new(1, 3, 3), vec![true; 9]);
        let weights = centre_weights(&mask);
        assert_eq!((weights[0], weights[4]), (4.0 / 9.0 + 1.0, 2.0));
        let one = fitted(PatchGrid::new(1, 1, 2), vec![true, false]);
        assert_eq!(centre_weights(&one), [1.0 / 9.0 + 1.0, 0.0]);
    }
}
