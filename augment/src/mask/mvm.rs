//! Masks of masked video-language modelling (VIOLETv2, pytorch_empirical-mvm
//! `main_pretrain.py::masking`): single tokens, cuboids, or the slots a model attends to. Hidden
//! tokens are zeroed in the pixels by the model. All counts are ragged.

use tubelet_core::{Mask, PatchGrid, SampleRng};

use super::{fitted, hide_box};

/// Hides every token with probability `p` on its own (mode `rm`).
pub fn bernoulli(grid: PatchGrid, p: f64, rng: &mut SampleRng) -> Mask {
    fitted(grid, (0..grid.len()).map(|_| rng.coin(p)).collect())
}

/// Hides the union of `cuboids` boxes (mode `bm`; the reference draws one for each frame). A side is
/// uniform from 1 to [`longest`].
pub fn cuboids(grid: PatchGrid, cuboids: u32, rng: &mut SampleRng) -> Mask {
    cuboids_of(grid, cuboids, longest(grid).map(|side| [1, side]), rng)
}

/// Hides the union of `cuboids` boxes whose sides are uniform between those of `sides` (time slots,
/// rows, columns; shortest and longest, both possible).
///
/// # Panics
/// When a longest side is longer than the grid's or shorter than the shortest.
pub fn cuboids_of(
    grid: PatchGrid,
    cuboids: u32,
    sides: [[u32; 2]; 3],
    rng: &mut SampleRng,
) -> Mask {
    let mut masked = vec![false; grid.len()];
    for _ in 0..cuboids {
        let [t, h, w] = sides.map(|[least, most]| least + rng.below(most - least + 1));
        let front = rng.below(grid.t - t + 1);
        let top = rng.below(grid.h - h + 1);
        let left = rng.below(grid.w - w + 1);
        hide_box(grid, [front, top, left], [t, h, w], &mut masked);
    }
    fitted(grid, masked)
}

/// Longest sides of a cuboid: T − 1 (1 for a picture), ⌊2h/3⌋ − 1 and ⌊2w/3⌋ − 1, all at least 1.
pub fn longest(grid: PatchGrid) -> [u32; 3] {
    [grid.t - 1, (grid.h * 2 / 3).saturating_sub(1), (grid.w * 2 / 3).saturating_sub(1)]
        .map(|side| side.max(1))
}

/// What [`attended`] hides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attended {
    /// Tokens of the clip.
    pub mask: Mask,
    /// Slots of the text, `true` = hidden.
    pub text: Vec<bool>,
}

/// The attended slots cannot be drawn; the reference then hides single tokens ([`bernoulli`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttendedError {
    /// Fewer scores than the clip has slots.
    #[error("{got} scores; a clip of {want} slots and its text need at least {want}")]
    Slots {
        /// Scores given.
        got: usize,
        /// Slots of the clip: a class slot and the tokens of each frame.
        want: usize,
    },
    /// A score is negative or no number.
    #[error("score {0} is negative or not finite")]
    Score(usize),
    /// Too few slots with a score above zero.
    #[error("{got} slots have a score above 0; {want} are to be hidden")]
    TooFew {
        /// Slots that can be drawn.
        got: usize,
        /// Slots asked for.
        want: usize,
    },
    /// No slot of the text was drawn.
    #[error("no slot of the text was drawn")]
    NoText,
}

/// Hides ⌊n·p⌋ of the n slots a model attends to most (mode `am`): drawn without replacement, with
/// probabilities in proportion to `scores`. The slots are, for each frame, a class slot and the
/// tokens of the frame, then the text. Slots that must stay (class, padding, separators) have
/// score 0.
///
/// # Errors
/// When the scores cannot be used, or, as in the reference, when no slot of the text was drawn.
pub fn attended(
    grid: PatchGrid,
    scores: &[f32],
    p: f64,
    rng: &mut SampleRng,
) -> Result<Attended, AttendedError> {
    let frame = 1 + grid.plane();
    let clip = frame * grid.t as usize;
    if scores.len() < clip {
        return Err(AttendedError::Slots { got: scores.len(), want: clip });
    }
    let chosen = draw_by_score(scores, (scores.len() as f64 * p) as usize, rng)?;
    let mut masked = vec![false; grid.len()];
    let mut text = vec![false; scores.len() - clip];
    for slot in chosen {
        if slot >= clip {
            text[slot - clip] = true;
        } else if slot % frame > 0 {
            masked[slot / frame * grid.plane() + slot % frame - 1] = true;
        }
    }
    if !text.contains(&true) {
        return Err(AttendedError::NoText);
    }
    Ok(Attended { mask: fitted(grid, masked), text })
}

/// `count` indices without replacement, in proportion to `scores`: the smallest of exponential
/// waiting times with these rates.
fn draw_by_score(
    scores: &[f32],
    count: usize,
    rng: &mut SampleRng,
) -> Result<Vec<usize>, AttendedError> {
    if let Some(bad) = scores.iter().position(|s| !(*s >= 0.0 && s.is_finite())) {
        return Err(AttendedError::Score(bad));
    }
    let mut times = Vec::with_capacity(scores.len());
    for (slot, score) in scores.iter().enumerate() {
        // Every slot takes its draw, so that scores of 0 do not shift those of the others.
        let wait = -(1.0 - rng.unit()).ln();
        if *score > 0.0 {
            times.push((wait / f64::from(*score), slot));
        }
    }
    if times.len() < count {
        return Err(AttendedError::TooFew { got: times.len(), want: count });
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    Ok(times[..count].iter().map(|(_, slot)| *slot).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tubelet_core::Draw;

    const GRID: PatchGrid = PatchGrid::new(4, 7, 7);

    fn rng(sample: u64) -> SampleRng {
        SampleRng::new(6, 0, sample, 0, Draw::Mask)
    }

    #[test]
    fn cuboids_never_last_the_whole_time() {
        assert_eq!(longest(GRID), [3, 3, 3]);
        assert_eq!(longest(PatchGrid::new(1, 2, 1)), [1, 1, 1]);
        for sample in 0..200 {
            let mask = cuboids(GRID, 1, &mut rng(sample));
            let slots = mask.as_slice().chunks(49).filter(|s| s.contains(&true)).count();
            assert!((1..=3).contains(&slots) && mask.masked_count() <= 27);
        }
    }

    #[test]
    fn cuboids_have_the_sides_they_are_given() {
        for sample in 0..50 {
            let mask = cuboids_of(GRID, 1, [[4, 4], [2, 3], [5, 5]], &mut rng(sample));
            assert!([4 * 2 * 5, 4 * 3 * 5].contains(&mask.masked_count()));
            let published = cuboids_of(GRID, 4, [[1, 3]; 3], &mut rng(sample));
            assert_eq!(published, cuboids(GRID, 4, &mut rng(sample)));
        }
    }

    #[test]
    fn attended_slots_follow_the_scores() {
        // 200 slots of the clip and 10 of the text; two tokens and one word are attended to.
        let mut scores = vec![0.0; 210];
        (scores[1], scores[50 + 3], scores[205]) = (1.0, 3.0, 2.0);
        let all = attended(GRID, &scores, 0.0143, &mut rng(0)).expect("three of three");
        assert_eq!(all.mask.masked().collect::<Vec<_>>(), [0, 49 + 2]);
        assert!(all.text[5] && all.text.iter().filter(|t| **t).count() == 1);

        let first = (0..6000u64)
            .filter(|n| matches!(draw_by_score(&scores, 1, &mut rng(*n)).as_deref(), Ok([53])))
            .count() as f64;
        // Binomial(6000, 1/2): sigma 39; five sigma.
        assert!((first - 3000.0).abs() < 195.0, "{first}");
    }

    #[test]
    fn scores_that_cannot_be_used_are_named() {
        let mut scores = vec![1.0; 210];
        assert!(matches!(
            attended(GRID, &scores[..100], 0.1, &mut rng(0)),
            Err(AttendedError::Slots { got: 100, want: 200 })
        ));
        scores[7] = f32::NAN;
        assert_eq!(attended(GRID, &scores, 0.1, &mut rng(0)), Err(AttendedError::Score(7)));
        scores.fill(0.0);
        scores[1] = 1.0;
        let few = attended(GRID, &scores, 0.1, &mut rng(0));
        assert_eq!(few, Err(AttendedError::TooFew { got: 1, want: 21 }));
        assert_eq!(attended(GRID, &scores, 0.005, &mut rng(0)), Err(AttendedError::NoText));
    }
}
