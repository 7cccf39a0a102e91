//! Uniformly random tokens, an exact count (MAE's argsort mask).

use tubelet_core::{Mask, PatchGrid, SampleRng};

use super::fitted;

/// Hides all but `keep` tokens of `grid`, every choice equally likely.
pub fn random(grid: PatchGrid, keep: usize, rng: &mut SampleRng) -> Mask {
    let tokens = grid.len();
    fitted(grid, choose(tokens, tokens.saturating_sub(keep), rng))
}

/// `count` of `tokens` entries `true`, every choice equally likely: the first steps of a
/// Fisher–Yates shuffle, on the smaller of the two sides.
pub(crate) fn choose(tokens: usize, count: usize, rng: &mut SampleRng) -> Vec<bool> {
    let count = count.min(tokens);
    let few = count.min(tokens - count);
    let mut order: Vec<u32> = (0..tokens as u32).collect();
    let mut chosen = vec![count > few; tokens];
    for i in 0..few {
        let j = i + rng.below((tokens - i) as u32) as usize;
        order.swap(i, j);
        chosen[order[i] as usize] = count <= few;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tubelet_core::Draw;

    proptest! {
        #[test]
        fn counts_are_exact(t in 1u32..5, h in 1u32..15, w in 1u32..15, share in 0.0f64..1.0, seed: u64) {
            let grid = PatchGrid::new(t, h, w);
            let keep = (grid.len() as f64 * share) as usize;
            let mask = random(grid, keep, &mut SampleRng::new(seed, 0, 0, 0, Draw::Mask));
            prop_assert_eq!(mask.visible_count(), keep);
            prop_assert_eq!(mask.masked_count(), grid.len() - keep);
        }
    }

    #[test]
    fn every_token_is_as_likely() {
        let grid = PatchGrid::new(1, 4, 4);
        let mut hits = [0f64; 16];
        for sample in 0..20_000 {
            let mask = random(grid, 4, &mut SampleRng::new(1, 0, sample, 0, Draw::Mask));
            for token in mask.masked() {
                hits[token as usize] += 1.0;
            }
        }
        // Binomial(20000, 0.75): sigma 61; five sigma.
        assert!(hits.iter().all(|h| (h - 15_000.0).abs() < 306.0), "{hits:?}");
    }
}
