//! Rectangles of tokens until a count is reached (BEiT `masking_generator.py`; MaskFeat's image
//! masks in SlowFast `imagenet.py` use the same rule, its tube variant repeats them in time).

use tubelet_core::{Mask, PatchGrid, SampleRng};

use super::fitted;

/// Smallest and largest aspect ratio of a rectangle: 0.3 and its inverse.
pub const ASPECT: [f64; 2] = [0.3, 1.0 / 0.3];
/// Rectangles tried before a block is given up.
pub const TRIES: u32 = 10;
/// Rectangles tried where the reference would go on for ever; a recipe that needs as many is
/// refused.
pub const ENDLESS_TRIES: u32 = 100_000;

/// Counts of the rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockSpec {
    /// Tokens of a plane to hide; never exceeded, not always reached.
    pub count: usize,
    /// Smallest area drawn, in tokens.
    pub min: usize,
    /// Largest area drawn, in tokens.
    pub max: usize,
    /// Aspect ratio, smallest and largest; drawn uniformly in its logarithm.
    pub aspect: [f64; 2],
    /// Rectangles tried for each block; `None` tries until the count is reached exactly.
    pub tries: Option<u32>,
}

impl BlockSpec {
    /// The published rule with [`ASPECT`] and [`TRIES`].
    pub const fn new(count: usize, min: usize, max: usize) -> Self {
        Self { count, min, max, aspect: ASPECT, tries: Some(TRIES) }
    }
}

/// Draws one plane and repeats it over the time slots of `grid`.
pub fn block(grid: PatchGrid, spec: &BlockSpec, rng: &mut SampleRng) -> Mask {
    fitted(grid, plane(grid, spec, spec.count as f64, rng).repeat(grid.t as usize))
}

/// One time slot: blocks until at least `high` tokens are hidden or a block finds no place.
/// `high` replaces the count of `spec`; it need not be whole (iBOT).
pub(super) fn plane(
    grid: PatchGrid,
    spec: &BlockSpec,
    high: f64,
    rng: &mut SampleRng,
) -> Vec<bool> {
    let mut plane = Plane { h: grid.h, w: grid.w, masked: vec![false; grid.plane()] };
    let mut count = 0;
    while (count as f64) < high {
        let room = (high - count as f64).min(spec.max as f64);
        let Some(added) = plane.add_block(spec, room, rng) else { break };
        count += added;
    }
    plane.masked
}

/// One time slot while it is filled.
struct Plane {
    h: u32,
    w: u32,
    masked: Vec<bool>,
}

impl Plane {
    /// Adds one rectangle that hides at least 1 and at most `room` new tokens; returns how many, or
    /// `None` when no try fitted.
    fn add_block(&mut self, spec: &BlockSpec, room: f64, rng: &mut SampleRng) -> Option<usize> {
        let tries = spec.tries.unwrap_or(ENDLESS_TRIES);
        (0..tries).find_map(|_| self.try_block(spec, room, rng))
    }

    fn try_block(&mut self, spec: &BlockSpec, room: f64, rng: &mut SampleRng) -> Option<usize> {
        // The bounds may be in reverse order; the draw is uniform between them all the same.
        let area = rng.uniform(spec.min as f64, room);
        let aspect = rng.uniform(spec.aspect[0].ln(), spec.aspect[1].ln()).exp();
        let h = (area * aspect).sqrt().round_ties_even() as u32;
        let w = (area / aspect).sqrt().round_ties_even() as u32;
        if h >= self.h || w >= self.w {
            return None;
        }
        let top = rng.below(self.h - h + 1);
        let left = rng.below(self.w - w + 1);
        let columns = self.w;
        let rows = || (top..top + h).map(move |y| (y * columns + left) as usize);
        let hidden = |at: usize| &self.masked[at..at + w as usize];
        let new: usize = rows().map(|at| hidden(at).iter().filter(|m| !**m).count()).sum();
        if new == 0 || new as f64 > room {
            return None;
        }
        rows().for_each(|at| self.masked[at..at + w as usize].fill(true));
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tubelet_core::Draw;

    proptest! {
        #[test]
        fn never_more_than_asked(h in 1u32..20, w in 1u32..20, share in 0.01f64..0.99, seed: u64) {
            let grid = PatchGrid::new(1, h, w);
            let count = (grid.plane() as f64 * share) as usize;
            let spec = BlockSpec::new(count, count / 5, count);
            let mask = block(grid, &spec, &mut SampleRng::new(seed, 0, 0, 0, Draw::Mask));
            prop_assert!(mask.masked_count() <= count);
        }
    }

    #[test]
    fn the_published_setting_nearly_fills() {
        let grid = PatchGrid::new(1, 14, 14);
        let spec = BlockSpec::new(75, 16, 75);
        let mean = (0..2000)
            .map(|n| block(grid, &spec, &mut SampleRng::new(4, 0, n, 0, Draw::Mask)).masked_count())
            .sum::<usize>() as f64
            / 2000.0;
        assert!(mean > 70.0 && mean <= 75.0, "{mean}");
    }
}
