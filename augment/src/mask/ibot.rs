//! iBOT's masks (`loader.py::ImageFolderMask`): for each crop one of several ratios is drawn, then
//! blocks fill that share, or as many tokens are hidden at random. Counts vary from crop to crop
//! and may be 0.

use tubelet_core::{Mask, PatchGrid, SampleRng};

use super::block::{BlockSpec, plane};
use super::file::IbotShape;
use super::fitted;
use super::random::choose;

/// The rule.
#[derive(Clone, Debug, PartialEq)]
pub struct IbotSpec {
    /// Ratios with the half-width of the interval each is drawn from; each pair is as likely.
    pub ratios: Vec<[f64; 2]>,
    /// Blocks or single tokens.
    pub shape: IbotShape,
    /// Smallest area of a block in tokens.
    pub min: usize,
    /// Aspect ratio of a block, smallest and largest; drawn uniformly in its logarithm.
    pub aspect: [f64; 2],
    /// Rectangles tried for each block.
    pub tries: u32,
    /// First epoch that masks; nothing is hidden before it.
    pub from_epoch: u32,
}

/// Smallest block of a grid: (⌊min(h, w)/3⌋)².
pub fn smallest_block(grid: PatchGrid) -> usize {
    (grid.h.min(grid.w) as usize / 3).pow(2)
}

/// Draws one plane and repeats it over the time slots of `grid`.
pub fn ibot(grid: PatchGrid, spec: &IbotSpec, rng: &mut SampleRng) -> Mask {
    // The reference draws every interval and then takes one; drawing the one alone is the same.
    let [ratio, half_width] = spec.ratios[rng.below(spec.ratios.len() as u32) as usize];
    let ratio = rng.uniform(ratio - half_width, ratio + half_width);
    let high = ratio * grid.plane() as f64;
    let masked = match spec.shape {
        IbotShape::Random => choose(grid.plane(), high as usize, rng),
        IbotShape::Block => {
            let blocks = BlockSpec {
                count: grid.plane(),
                min: spec.min,
                max: grid.plane(),
                aspect: spec.aspect,
                tries: Some(spec.tries),
            };
            plane(grid, &blocks, high, rng)
        }
    };
    fitted(grid, masked.repeat(grid.t as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::block::{ASPECT, TRIES};
    use tubelet_core::Draw;

    fn published(shape: IbotShape) -> IbotSpec {
        let ratios = vec![[0.0, 0.0], [0.3, 0.2]];
        IbotSpec { ratios, shape, min: 16, aspect: ASPECT, tries: TRIES, from_epoch: 0 }
    }

    #[test]
    fn half_of_the_crops_hide_nothing_and_none_more_than_half() {
        let grid = PatchGrid::new(1, 14, 14);
        assert_eq!(smallest_block(grid), 16);
        for shape in [IbotShape::Block, IbotShape::Random] {
            let spec = published(shape);
            let counts: Vec<usize> = (0..2000)
                .map(|n| {
                    ibot(grid, &spec, &mut SampleRng::new(2, 0, n, 0, Draw::Mask)).masked_count()
                })
                .collect();
            // Binomial(2000, 1/2): sigma 22; five sigma.
            let empty = counts.iter().filter(|c| **c == 0).count() as f64;
            assert!((empty - 1000.0).abs() < 112.0, "{empty}");
            assert!(counts.iter().all(|c| *c <= 98), "{shape:?}");
        }
    }

    #[test]
    fn single_tokens_hide_the_floor_of_the_share() {
        let grid = PatchGrid::new(1, 14, 14);
        let spec = IbotSpec { ratios: vec![[0.3, 0.0]], ..published(IbotShape::Random) };
        let mask = ibot(grid, &spec, &mut SampleRng::new(2, 0, 7, 0, Draw::Mask));
        assert_eq!(mask.masked_count(), 58);
    }
}
