//! V-JEPA's multi-block masks (facebookresearch/jepa `src/masks/multiblock3d.py` and
//! `configs/pretrain/vitl16.yaml`).
//!
//! Each group is a mask of its own: several blocks of one size at random places, their union hidden
//! and predicted, the rest seen. Published: a short-range group of 8 blocks of 0.15 of the plane and
//! a long-range group of 2 blocks of 0.7, all through the whole time, aspect uniform (not
//! log-uniform) in 0.75 to 1.5. A block is ⌊T·s⌋ long (at least 1); ⌊h·w·s⌋ tokens of the plane give
//! its sides round(√(n·a)) and round(√(n/a)), cut to the grid. Masks that leave nothing visible are
//! drawn again. The reference draws one block size a batch and cuts all index lists to the shortest
//! of the batch; here every sample has its own size, and lists keep their lengths.

use tubelet_core::{Mask, PatchGrid, SampleRng};

use super::{fitted_passes, hide_box};

/// Blocks of one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupSpec {
    /// Blocks.
    pub blocks: u32,
    /// Share of the plane a block covers, smallest and largest.
    pub scale: [f64; 2],
    /// Share of the time slots a block covers, smallest and largest.
    pub time: [f64; 2],
    /// Aspect ratio height/width, smallest and largest.
    pub aspect: [f64; 2],
    /// Time slots from the start that may be seen; later ones are always hidden.
    pub context: u32,
}

/// Redraws before one token is uncovered instead. Groups half of whose trial draws leave nothing
/// visible are refused with their recipe, so that two draws do on average and this many never happen.
const REDRAWS: u32 = 10_000;

/// The first group is the mask, every other one a further pass.
pub fn multi_block(grid: PatchGrid, groups: &[GroupSpec], rng: &mut SampleRng) -> Mask {
    let mut masks = groups.iter().map(|group| draw_group(grid, group, rng));
    let first = masks.next().unwrap_or_else(|| vec![false; grid.len()]);
    let others = masks.collect();
    fitted_passes(grid, first, others)
}

fn draw_group(grid: PatchGrid, group: &GroupSpec, rng: &mut SampleRng) -> Vec<bool> {
    for _ in 0..REDRAWS {
        let hidden = draw_once(grid, group, rng);
        if hidden.contains(&false) {
            return hidden;
        }
    }
    let mut hidden = vec![true; grid.len()];
    hidden[rng.below(grid.len() as u32) as usize] = false;
    hidden
}

/// One draw, which may hide everything.
pub(crate) fn draw_once(grid: PatchGrid, group: &GroupSpec, rng: &mut SampleRng) -> Vec<bool> {
    let size = block_size(grid, group, [rng.unit(), rng.unit(), rng.unit()]);
    let mut hidden = vec![false; grid.len()];
    for _ in 0..group.blocks {
        hide_block(grid, size, &mut hidden, rng);
    }
    hidden[group.context as usize * grid.plane()..].fill(true);
    hidden
}

/// Time slots, rows and columns of a block for three draws in [0, 1): time, area, aspect.
pub fn block_size(grid: PatchGrid, group: &GroupSpec, draws: [f64; 3]) -> [u32; 3] {
    let between = |[low, high]: [f64; 2], draw: f64| low + draw * (high - low);
    let t = ((f64::from(grid.t) * between(group.time, draws[0])) as u32).clamp(1, grid.t);
    let tokens = (grid.plane() as f64 * between(group.scale, draws[1])).floor();
    let aspect = between(group.aspect, draws[2]);
    let h = ((tokens * aspect).sqrt().round_ties_even() as u32).min(grid.h);
    let w = ((tokens / aspect).sqrt().round_ties_even() as u32).min(grid.w);
    [t, h, w]
}

fn hide_block(grid: PatchGrid, [t, h, w]: [u32; 3], hidden: &mut [bool], rng: &mut SampleRng) {
    let top = rng.below(grid.h - h + 1);
    let left = rng.below(grid.w - w + 1);
    let start = rng.below(grid.t - t + 1);
    hide_box(grid, [start, top, left], [t, h, w], hidden);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tubelet_core::Draw;

    const SHORT: GroupSpec = GroupSpec {
        blocks: 8,
        scale: [0.15, 0.15],
        time: [1.0, 1.0],
        aspect: [0.75, 1.5],
        context: 8,
    };
    const LONG: GroupSpec = GroupSpec { blocks: 2, scale: [0.7, 0.7], ..SHORT };

    #[test]
    fn sizes_follow_the_formula() {
        let grid = PatchGrid::new(8, 14, 14);
        // ⌊196·0.15⌋ = 29: √(29·0.75) = 4.66, √(29/0.75) = 6.2.
        assert_eq!(block_size(grid, &SHORT, [0.0, 0.0, 0.0]), [8, 5, 6]);
        // ⌊196·0.7⌋ = 137: √(137·1.5) = 14.3, cut to 14; √(137/1.5) = 9.6.
        assert_eq!(block_size(grid, &LONG, [0.5, 0.5, 1.0]), [8, 14, 10]);
    }

    #[test]
    fn two_masks_through_all_time_with_the_published_shares() {
        let grid = PatchGrid::new(8, 14, 14);
        let (mut short, mut long) = (0.0, 0.0);
        for sample in 0..500 {
            let mut rng = SampleRng::new(3, 0, sample, 0, Draw::Mask);
            let mask = multi_block(grid, &[SHORT, LONG], &mut rng);
            let slots: Vec<_> = mask.as_slice().chunks(196).collect();
            assert!(slots.iter().all(|slot| *slot == slots[0]) && mask.visible_count() > 0);
            assert_eq!(mask.passes().len(), 1);
            short += mask.masked_count() as f64 / 1568.0 / 500.0;
            long += mask.passes()[0].iter().filter(|h| **h).count() as f64 / 1568.0 / 500.0;
        }
        // The paper's "about 90 %" of the tokens hidden is over both kinds.
        assert!((0.6..0.85).contains(&short) && (0.8..0.98).contains(&long), "{short} {long}");
    }

    #[test]
    fn late_slots_stay_hidden() {
        let grid = PatchGrid::new(8, 14, 14);
        let group = GroupSpec { context: 3, ..SHORT };
        let mask = multi_block(grid, &[group], &mut SampleRng::new(3, 0, 1, 0, Draw::Mask));
        assert!(
            mask.as_slice()[3 * 196..].iter().all(|m| *m)
                && !mask.as_slice()[..588].iter().all(|m| *m)
        );
    }
}
