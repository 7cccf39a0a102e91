//! 3-D cubes (MaskFeat's `MaskingGenerator3D`, SlowFast `datasets/transform.py`): boxes of a random
//! area, aspect and length in time until a count is reached. Drawn on a grid of units; the tokens
//! of a unit share its fate.

use tubelet_core::{Mask, PatchGrid, SampleRng};

use super::block::ASPECT;
use super::fitted;

/// Boxes tried before a cube is given up.
pub const TRIES: u32 = 100;

/// Counts of the rule, in units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CubeSpec {
    /// Units to hide; never exceeded, not always reached.
    pub count: usize,
    /// Smallest area of a box in the plane.
    pub min: usize,
    /// Largest area of a box in the plane; what is left to hide does not limit it.
    pub max: usize,
    /// Aspect ratio, smallest and largest; drawn uniformly in its logarithm.
    pub aspect: [f64; 2],
    /// Length in time slots, shortest and longest, both possible.
    pub time: [u32; 2],
    /// Boxes tried for each cube.
    pub tries: u32,
}

impl CubeSpec {
    /// The published rule for `count` units of `grid`: area from a fifth of the plane to all of it,
    /// any length.
    pub const fn new(grid: PatchGrid, count: usize) -> Self {
        let plane = grid.plane();
        Self { count, min: plane / 5, max: plane, aspect: ASPECT, time: [1, grid.t], tries: TRIES }
    }
}

/// Draws a mask of the units of `grid`.
pub fn cube(grid: PatchGrid, spec: &CubeSpec, rng: &mut SampleRng) -> Mask {
    let mut masked = vec![false; grid.len()];
    let mut count = 0;
    while count < spec.count {
        let room = spec.count - count;
        let added = (0..spec.tries).find_map(|_| try_box(grid, spec, room, &mut masked, rng));
        let Some(added) = added else { break };
        count += added;
    }
    fitted(grid, masked)
}

/// Hides one box if it adds at least 1 and at most `room` units; returns how many.
fn try_box(
    grid: PatchGrid,
    spec: &CubeSpec,
    room: usize,
    masked: &mut [bool],
    rng: &mut SampleRng,
) -> Option<usize> {
    let area = rng.uniform(spec.min as f64, spec.max as f64);
    let aspect = rng.uniform(spec.aspect[0].ln(), spec.aspect[1].ln()).exp();
    let h = (area * aspect).sqrt().round_ties_even() as u32;
    let w = (area / aspect).sqrt().round_ties_even() as u32;
    let t = spec.time[0] + rng.below(spec.time[1] - spec.time[0] + 1);
    if h >= grid.h || w >= grid.w {
        return None;
    }
    let top = rng.below(grid.h - h + 1);
    let left = rng.below(grid.w - w + 1);
    let front = rng.below(grid.t - t + 1);
    let rows = || {
        let lines = (front..front + t).flat_map(move |z| (top..top + h).map(move |y| (z, y)));
        lines.map(move |(z, y)| ((z * grid.h + y) * grid.w + left) as usize)
    };
    let new: usize =
        rows().map(|at| masked[at..at + w as usize].iter().filter(|m| !**m).count()).sum();
    if new == 0 || new > room {
        return None;
    }
    rows().for_each(|at| masked[at..at + w as usize].fill(true));
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tubelet_core::Draw;

    proptest! {
        #[test]
        fn never_more_than_asked(t in 1u32..9, h in 1u32..9, w in 1u32..9, share in 0.01f64..0.99, seed: u64) {
            let grid = PatchGrid::new(t, h, w);
            let count = (grid.len() as f64 * share) as usize;
            let mask = cube(grid, &CubeSpec::new(grid, count), &mut SampleRng::new(seed, 0, 0, 0, Draw::Mask));
            prop_assert!(mask.masked_count() <= count);
        }
    }

    #[test]
    fn the_published_setting() {
        let grid = PatchGrid::new(8, 7, 7);
        let spec = CubeSpec::new(grid, 157);
        assert_eq!((spec.min, spec.max, spec.time), (9, 49, [1, 8]));
        let mean = (0..2000)
            .map(|n| cube(grid, &spec, &mut SampleRng::new(4, 0, n, 0, Draw::Mask)).masked_count())
            .sum::<usize>() as f64
            / 2000.0;
        // The reference's mean over 100,000 draws is 155.64.
        assert!((mean - 155.64).abs() < 0.3, "{mean}");
    }
}
