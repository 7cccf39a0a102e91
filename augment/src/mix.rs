//! Mixup and CutMix of a batch, as timm does them (`data/mixup.py`).
//!
//! A row is mixed with its partner, the row at the mirrored place of its group. What is drawn
//! depends on (seed, epoch, batch, group) alone.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tubelet_core::{BatchKey, Rect, SampleRng, Size};

/// Whether rows share their draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MixMode {
    /// One draw for the group.
    #[default]
    Batch,
    /// One draw for a row and its partner.
    Pair,
    /// One draw a row.
    Elem,
}

/// How rows are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixSpec {
    /// Beta(α, α) of mixup; 0 for none.
    pub mixup: f64,
    /// Beta(α, α) of CutMix; 0 for none.
    pub cutmix: f64,
    /// Probability that anything is mixed.
    pub probability: f64,
    /// Probability of CutMix where both are on.
    pub switch: f64,
    /// Whether rows share their draw.
    pub mode: MixMode,
    /// Rows of a group; 0 for all rows of the batch.
    pub group: u32,
    /// Label smoothing of the targets.
    pub smoothing: f64,
}

/// How one row is mixed with its partner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mix {
    /// Not at all.
    None,
    /// λ · row + (1 − λ) · partner.
    Mixup(f64),
    /// The partner's pixels in this box, the same in every frame.
    Cutmix {
        /// The box.
        region: Rect,
        /// Share of the row that is left.
        lambda: f64,
    },
}

impl Mix {
    /// Share of the row itself in its target.
    pub fn lambda(self) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Mixup(lambda) | Self::Cutmix { lambda, .. } => lambda,
        }
    }

    fn touches(self, x: u32, y: u32) -> bool {
        let inside = |at: u32, from: u32, length: u32| at >= from && at - from < length;
        match self {
            Self::Cutmix { region: r, .. } => inside(x, r.x, r.width) && inside(y, r.y, r.height),
            _ => false,
        }
    }
}

/// timm's `rand_bbox` for a given λ and centre: the box of side ⌊length·√(1 − λ)⌋ cut to the
/// picture, and the λ that its area leaves.
pub fn cutmix_box(size: Size, lambda: f64, centre: (u32, u32)) -> (Rect, f64) {
    let ratio = (1.0 - lambda).sqrt();
    let span = |length: u32, at: u32| {
        let half = (f64::from(length) * ratio) as u32 / 2;
        (at.saturating_sub(half), (at + half).min(length))
    };
    let (left, right) = span(size.width, centre.0);
    let (top, bottom) = span(size.height, centre.1);
    let region = Rect { x: left, y: top, width: right - left, height: bottom - top };
    (region, 1.0 - region.size().area() as f64 / size.area() as f64)
}

impl MixSpec {
    /// Whether anything is ever mixed.
    pub fn is_on(&self) -> bool {
        self.mixup > 0.0 || self.cutmix > 0.0
    }

    /// How the `rows` rows of group `group` of the batch `key` are mixed.
    pub fn draw(&self, key: BatchKey, group: u16, rows: usize, size: Size) -> Vec<Mix> {
        let mut rng = key.rng(group);
        let mut one = || self.draw_one(size, &mut rng);
        match self.mode {
            MixMode::Batch => vec![one(); rows],
            MixMode::Elem => (0..rows).map(|_| one()).collect(),
            MixMode::Pair => {
                let half: Vec<Mix> = (0..rows / 2).map(|_| one()).collect();
                let middle = (rows % 2 == 1).then_some(Mix::None);
                half.iter().copied().chain(middle).chain(half.iter().rev().copied()).collect()
            }
        }
    }

    fn draw_one(&self, size: Size, rng: &mut SampleRng) -> Mix {
        // All is drawn whether used or not: one draw's outcome moves no other.
        let (mixed, switched) = (rng.coin(self.probability), rng.coin(self.switch));
        let cut = self.cutmix > 0.0 && (self.mixup == 0.0 || switched);
        let alpha = if cut { self.cutmix } else { self.mixup };
        let lambda = if alpha > 0.0 { rng.beta(alpha, alpha) } else { 1.0 };
        let centre = (rng.below(size.width), rng.below(size.height));
        match (mixed && lambda < 1.0, cut) {
            (false, _) => Mix::None,
            (true, false) => Mix::Mixup(lambda),
            (true, true) => {
                let (region, lambda) = cutmix_box(size, lambda, centre);
                Mix::Cutmix { region, lambda }
            }
        }
    }

    /// Groups of `rows` rows: the rows of each.
    pub fn groups(&self, rows: usize) -> Vec<std::ops::Range<usize>> {
        let width = if self.group == 0 { rows } else { self.group as usize };
        (0..rows).step_by(width.max(1)).map(|from| from..(from + width).min(rows)).collect()
    }

    /// The groups of the `rows` rows that this process has of the batch `key`, each with how its
    /// rows are mixed.
    pub fn draw_groups(
        &self,
        key: BatchKey,
        rows: usize,
        size: Size,
    ) -> Vec<(std::ops::Range<usize>, Vec<Mix>)> {
        let draw = |group: std::ops::Range<usize>| {
            let number = (key.first_row as usize + group.start) / group.len();
            let mixes = self.draw(key, number as u16, group.len(), size);
            (group, mixes)
        };
        self.groups(rows).into_iter().map(draw).collect()
    }
}

/// Mixes a group of rows of normalised floats, each `[3, frames, height, width]`.
///
/// # Panics
/// When `rows` is not one row a mix.
pub fn mix_rows(rows: &mut [f32], mixes: &[Mix], size: Size) {
    if mixes.is_empty() {
        return;
    }
    assert_eq!(rows.len() % mixes.len(), 0, "{} values, {} rows", rows.len(), mixes.len());
    let floats = rows.len() / mixes.len();
    let half = mixes.len() / 2;
    let (first, rest) = rows.split_at_mut(half * floats);
    let second = &mut rest[(mixes.len() - 2 * half) * floats..];
    first
        .par_chunks_exact_mut(floats)
        .zip(second.par_chunks_exact_mut(floats).rev())
        .zip(mixes[..half].par_iter().zip(mixes.par_iter().rev()))
        .for_each(|((a, b), (mix_a, mix_b))| mix_pair(a, b, *mix_a, *mix_b, size));
}

/// Mixes two rows with each other.
fn mix_pair(a: &mut [f32], b: &mut [f32], mix_a: Mix, mix_b: Mix, size: Size) {
    if let (Mix::None, Mix::None) = (mix_a, mix_b) {
        return;
    }
    let width = size.width as usize;
    let lines = a.chunks_exact_mut(width).zip(b.chunks_exact_mut(width));
    for (line, (a, b)) in lines.enumerate() {
        let y = (line % size.height as usize) as u32;
        for (x, (a, b)) in a.iter_mut().zip(b).enumerate() {
            let (u, v) = (*a, *b);
            *a = mixed(mix_a, u, v, x as u32, y);
            *b = mixed(mix_b, v, u, x as u32, y);
        }
    }
}

fn mixed(mix: Mix, own: f32, other: f32, x: u32, y: u32) -> f32 {
    match mix {
        Mix::None => own,
        Mix::Mixup(lambda) => own * lambda as f32 + other * (1.0 - lambda) as f32,
        Mix::Cutmix { .. } if mix.touches(x, y) => other,
        Mix::Cutmix { .. } => own,
    }
}

/// Targets of a mixed batch, still without the number of classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MixedLabels {
    /// `[rows]`, class of each row's partner.
    pub partners: Vec<u32>,
    /// `[rows]`, share of each row's own class.
    pub lambda: Vec<f32>,
    /// Label smoothing.
    pub smoothing: f32,
}

impl MixedLabels {
    /// Rows of the classes `labels`, none of them mixed.
    pub fn unmixed(labels: &[u32], smoothing: f64) -> Self {
        let lambda = vec![1.0; labels.len()];
        Self { partners: labels.to_vec(), lambda, smoothing: smoothing as f32 }
    }

    /// The rows `group` were mixed by `mixes`; `labels` are the classes of all rows.
    ///
    /// # Panics
    /// When there are other rows than mixes or labels.
    pub fn set(&mut self, group: std::ops::Range<usize>, mixes: &[Mix], labels: &[u32]) {
        for (n, row) in group.clone().enumerate() {
            self.lambda[row] = mixes[n].lambda() as f32;
            self.partners[row] = labels[group.end - 1 - n];
        }
    }

    /// Distributions `[rows, classes]` for the rows' own classes `labels`: λ and 1 − λ of smoothed
    /// one-hot vectors. Classes outside `0..classes` add nothing but the smoothing.
    pub fn distributions(&self, labels: &[u32], classes: usize) -> Vec<f32> {
        let off = self.smoothing / classes as f32;
        let on = 1.0 - self.smoothing;
        let mut out = vec![off; labels.len() * classes];
        let rows = out.chunks_exact_mut(classes.max(1));
        for ((row, (own, partner)), lambda) in
            rows.zip(labels.iter().zip(&self.partners)).zip(&self.lambda)
        {
            for (class, share) in [(own, *lambda), (partner, 1.0 - lambda)] {
                if let Some(value) = row.get_mut(*class as usize) {
                    *value += on * share;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPEC: MixSpec = MixSpec {
        mixup: 0.8,
        cutmix: 1.0,
        probability: 1.0,
        switch: 0.5,
        mode: MixMode::Batch,
        group: 0,
        smoothing: 0.1,
    };

    fn key(number: u64) -> BatchKey {
        BatchKey { seed: 3, epoch: 1, number, first_row: 0 }
    }

    proptest! {
        #[test]
        fn boxes_stay_inside(
            w in 1u32..300, h in 1u32..300, lambda in 0.0f64..=1.0, x in 0u32..300, y in 0u32..300,
        ) {
            let size = Size::new(w, h);
            let (region, left) = cutmix_box(size, lambda, (x % w, y % h));
            prop_assert!(region.fits(size));
            prop_assert!((0.0..=1.0).contains(&left));
        }
    }

    /// The plain form: every row from its own and its partner's originals.
    #[test]
    fn pairs_are_mixed_from_their_originals() {
        let size = Size::new(5, 4);
        let floats = 3 * size.area();
        let spec = MixSpec { mode: MixMode::Elem, ..SPEC };
        for rows in [1usize, 2, 5, 6] {
            let source: Vec<f32> = (0..rows * floats).map(|i| (i * 7 % 101) as f32).collect();
            let mut data = source.clone();
            let mixes = spec.draw(key(rows as u64), 0, rows, size);
            mix_rows(&mut data, &mixes, size);
            for (row, mix) in mixes.iter().enumerate() {
                let other = rows - 1 - row;
                for i in 0..floats {
                    let (x, y) = ((i % 5) as u32, (i / 5 % 4) as u32);
                    let (own, theirs) = (source[row * floats + i], source[other * floats + i]);
                    let want = if row == other { own } else { mixed(*mix, own, theirs, x, y) };
                    assert_eq!(data[row * floats + i], want, "{rows} {row} {i}");
                }
            }
        }
    }

    #[test]
    fn modes_share_what_they_say() {
        let size = Size::square(32);
        let draw = |mode| MixSpec { mode, ..SPEC }.draw(key(1), 0, 6, size);
        let batch = draw(MixMode::Batch);
        assert!(batch.iter().all(|m| *m == batch[0]));
        let pairs = draw(MixMode::Pair);
        assert!((0..6).all(|i| pairs[i] == pairs[5 - i]) && pairs[0] != pairs[1]);
        assert_ne!(draw(MixMode::Elem)[0], draw(MixMode::Elem)[5]);
        assert_ne!(SPEC.draw(key(1), 0, 6, size), SPEC.draw(key(2), 0, 6, size));
        assert_ne!(SPEC.draw(key(1), 0, 6, size), SPEC.draw(key(1), 1, 6, size));
    }

    /// Beta(1, 1) and Beta(0.8, 0.8) have mean one half; half of the batches are CutMix.
    #[test]
    fn draws_follow_their_distribution() {
        let size = Size::square(224);
        let draws: Vec<Mix> = (0..20_000).map(|n| SPEC.draw(key(n), 0, 1, size)[0]).collect();
        let cut = draws.iter().filter(|m| matches!(m, Mix::Cutmix { .. })).count();
        assert!(cut.abs_diff(10_000) < 283, "{cut}");
        let mixup: Vec<f64> = draws
            .iter()
            .filter_map(|m| if let Mix::Mixup(lambda) = m { Some(*lambda) } else { None })
            .collect();
        let mean = mixup.iter().sum::<f64>() / mixup.len() as f64;
        assert!((mean - 0.5).abs() < 0.013, "{mean}");
    }

    #[test]
    fn targets_sum_to_one() {
        let mixed = MixedLabels { partners: vec![2, 1], lambda: vec![0.3, 0.75], smoothing: 0.1 };
        let targets = mixed.distributions(&[0, 1], 4);
        let want = [0.295, 0.025, 0.655, 0.025, 0.025, 0.925, 0.025, 0.025];
        for (got, want) in targets.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{targets:?}");
        }
    }
}
