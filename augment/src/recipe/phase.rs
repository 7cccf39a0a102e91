//! Shapes that change during a run: by epoch, and from batch to batch within an epoch.
//!
//! A recipe with phases holds one checked recipe a shape; which one a batch has follows from its
//! epoch and its number alone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tubelet_core::PatchSize;

use super::error::Wrong;
use super::{ClipRule, CropRule, Recipe, StageFile};

/// What a shape changes of its stage; absent keys keep the stage's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShapeFile {
    /// Side of the first view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// Rows of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
    /// Frames of a clip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<u32>,
    /// Frames between two of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
}

/// The shapes from an epoch on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseFile {
    /// First epoch, from 0.
    pub from: u32,
    /// Shapes that the batches of an epoch take in turn; one is a phase of one shape.
    pub shapes: Vec<ShapeFile>,
}

/// SlowFast's multigrid schedule (`multigrid_helper.py`), from which phases follow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Multigrid {
    /// Epochs without multigrid.
    pub epochs: u32,
    /// Epochs at which the learning rate drops, from 0.
    pub steps: Vec<u32>,
    /// Frames and side grow in four long cycles between two steps.
    #[serde(default)]
    pub long: bool,
    /// The batches of an epoch take ½, √½ and all of the side in turn.
    #[serde(default)]
    pub short: bool,
    /// Epochs with multigrid over epochs without.
    #[serde(default = "default_factor")]
    pub epoch_factor: f64,
}

const fn default_factor() -> f64 {
    1.5
}

/// Shares of frames and side in the long cycles.
const LONG: [(f64, f64); 4] = [
    (0.25, std::f64::consts::FRAC_1_SQRT_2),
    (0.5, std::f64::consts::FRAC_1_SQRT_2),
    (0.5, 1.0),
    (1.0, 1.0),
];
/// Shares of the side in the short cycle before the whole.
const SHORT: [f64; 2] = [0.5, std::f64::consts::FRAC_1_SQRT_2];

/// Shapes of the batches from an epoch on.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// First epoch.
    pub from: u32,
    /// Taken in turn by the batches of an epoch; never empty.
    pub shapes: Vec<Arc<Recipe>>,
}

impl ShapeFile {
    /// The stage with this shape and no phases.
    pub(super) fn applied(self, stage: &StageFile) -> Result<StageFile, Wrong> {
        let mut out = StageFile { phases: Vec::new(), multigrid: None, ..stage.clone() };
        if let Some(size) = self.size {
            out.crop = out.crop.with_size(size);
        }
        out.batch_size = self.batch_size.or(out.batch_size);
        if self.frames.is_some() || self.step.is_some() {
            let clip = out.clip.and_then(|clip| clip.with_shape(self.frames, self.step));
            let valid = "the clip rule has no such number";
            out.clip = Some(clip.ok_or_else(|| Wrong::new("frames and step", "set", valid))?);
        }
        Ok(out)
    }
}

impl CropRule {
    /// The same rule for another side; SlowFast's jitter starts lower or higher in proportion.
    fn with_size(&self, side: u32) -> Self {
        let mut out = self.clone();
        match &mut out {
            Self::ShortSideJitter { size, min, .. } => {
                let scaled = f64::from(*min) * f64::from(side) / f64::from(*size);
                (*min, *size) = (scaled.round_ties_even() as u32, side);
            }
            Self::RandomResized { size, .. }
            | Self::RandomResizedOnce { size, .. }
            | Self::MultiScale { size, .. }
            | Self::Largest { size, .. }
            | Self::Random { size, .. }
            | Self::Warp { size }
            | Self::Center { size, .. }
            | Self::Along { size, .. }
            | Self::AlongSlowfast { size, .. } => *size = side,
        }
        out
    }
}

impl ClipRule {
    /// The same rule with other numbers; `None` where it has no step to change.
    fn with_shape(mut self, new_frames: Option<u32>, new_step: Option<u32>) -> Option<Self> {
        match &mut self {
            Self::Videomae { frames, step, .. }
            | Self::VideomaeDense { frames, step }
            | Self::Slowfast { frames, step, .. } => {
                *frames = new_frames.unwrap_or(*frames);
                *step = new_step.unwrap_or(*step);
            }
            Self::Segments { frames }
            | Self::SegmentsSlowfast { frames }
            | Self::Uniform { frames }
                if new_step.is_none() =>
            {
                *frames = new_frames.unwrap_or(*frames);
            }
            _ => return None,
        }
        Some(self)
    }
}

impl Multigrid {
    /// The phases of `stage`. Sides are rounded to multiples of the patch, as the networks here
    /// need and convolutional ones did not; rows follow from the unrounded sides.
    pub(super) fn phases(
        &self,
        stage: &StageFile,
        patch: PatchSize,
    ) -> Result<Vec<PhaseFile>, Wrong> {
        let wrong = |key: &str, value: String, valid: &str| {
            Err(Wrong::new(format!("multigrid.{key}"), value, valid))
        };
        if !(self.long || self.short) {
            return wrong("long", "false".to_owned(), "long, short or both must be true");
        }
        let ascending = self.steps.first() == Some(&0)
            && self.steps.windows(2).all(|w| w[0] < w[1])
            && self.steps.last().is_some_and(|last| *last < self.epochs)
            && self.steps.len() > 1;
        if !ascending {
            let valid = format!("at least two, from 0, ascending, below {}", self.epochs);
            return wrong("steps", format!("{:?}", self.steps), &valid);
        }
        if !(self.epoch_factor > 0.0 && self.epoch_factor <= 100.0) {
            return wrong("epoch_factor", self.epoch_factor.to_string(), "above 0, at most 100");
        }
        let (frames, step) = match stage.clip {
            Some(
                ClipRule::Slowfast { frames, step, .. } | ClipRule::Videomae { frames, step, .. },
            ) => (frames, step),
            _ => return wrong("long", "set".to_owned(), "needs a clip rule slowfast or videomae"),
        };
        let rows = stage.batch_size;
        let whole = Whole { frames, step, side: stage.crop.size(), rows, patch };
        if !self.long {
            return Ok(vec![PhaseFile { from: 0, shapes: self.cycle(&whole, (1.0, 1.0)) }]);
        }
        Ok(self.long_cycles(&whole))
    }

    /// `get_long_cycle_schedule`: epochs in proportion to the mean batch of each shape, one more
    /// phase of the whole shape after the last step.
    fn long_cycles(&self, whole: &Whole) -> Vec<PhaseFile> {
        let means: Vec<f64> = LONG.iter().map(|factor| self.mean_factor(*factor)).collect();
        let all: f64 = means.iter().sum();
        let mut parts: Vec<(usize, f64)> = Vec::new();
        let mut iterations = 0.0;
        for pair in self.steps.windows(2) {
            let epochs = f64::from(pair[1] - pair[0]);
            for (n, mean) in means.iter().enumerate() {
                iterations += epochs / all;
                parts.push((n, epochs * mean / all));
            }
        }
        let last_step = f64::from(self.steps[self.steps.len() - 1]);
        let saving = last_step / iterations;
        let last = LONG.len() - 1;
        parts.push((last, (f64::from(self.epochs) - last_step) / saving * means[last]));
        let scale = f64::from(self.epochs) * self.epoch_factor
            / parts.iter().map(|(_, epochs)| epochs).sum::<f64>();
        let (mut total, mut from, mut out) = (0.0, 0, Vec::<PhaseFile>::new());
        for (n, epochs) in parts {
            total += epochs * scale;
            let end = total.round_ties_even() as u32;
            if end > from {
                out.push(PhaseFile { from, shapes: self.cycle(whole, LONG[n]) });
            }
            from = end.max(from);
        }
        out
    }

    /// Mean over the shapes of a long cycle of their rows, in units of the whole shape's rows.
    fn mean_factor(&self, (t, s): (f64, f64)) -> f64 {
        let sides: Vec<f64> = if self.short { vec![SHORT[0], SHORT[1], s] } else { vec![s] };
        let factor = |s: &f64| (1.0 / (t * s * s)).round_ties_even();
        sides.iter().map(factor).sum::<f64>() / sides.len() as f64
    }

    /// The shapes of one long cycle: the short cycle's and its own.
    fn cycle(&self, whole: &Whole, (t, s): (f64, f64)) -> Vec<ShapeFile> {
        let frames = (f64::from(whole.frames) * t).round_ties_even() as u32;
        let step = whole.step * (whole.frames / frames.max(1));
        let factor = (1.0 / (t * s * s)).round_ties_even() as u32;
        let shape = |side: f64, factor: u32| ShapeFile {
            size: Some(whole.rounded(side)),
            batch_size: whole.rows.map(|rows| rows * factor),
            frames: Some(frames),
            step: Some(step),
        };
        let mut shapes = Vec::new();
        if self.short {
            for share in SHORT {
                let more = (s / share).powi(2).round_ties_even() as u32;
                shapes.push(shape(share, factor * more));
            }
        }
        shapes.push(shape(s, factor));
        shapes
    }
}

/// The shape without multigrid.
struct Whole {
    frames: u32,
    step: u32,
    side: u32,
    /// Absent where they follow from a budget of tokens.
    rows: Option<u32>,
    patch: PatchSize,
}

impl Whole {
    /// A share of the side, the nearest multiple of the patch.
    fn rounded(&self, share: f64) -> u32 {
        let unit = self.patch.h.max(self.patch.w).max(1);
        let side = f64::from(self.side) * share / f64::from(unit);
        (side.round_ties_even() as u32).max(1) * unit
    }
}

/// Refuses phases that are out of order or empty.
pub(super) fn check(phases: &[PhaseFile]) -> Result<(), Wrong> {
    for (n, phase) in phases.iter().enumerate() {
        let key = format!("phases[{n}]");
        let least = n.checked_sub(1).map_or(0, |before| phases[before].from + 1);
        if (n == 0 && phase.from != 0) || phase.from < least {
            let valid = "the first phase starts at 0, each later one after the one before";
            return Err(Wrong::new(format!("{key}.from"), phase.from.to_string(), valid));
        }
        if phase.shapes.is_empty() {
            return Err(Wrong::new(format!("{key}.shapes"), "[]", "at least one shape"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::builtin;
    use crate::recipe::{Recipe, Stage};

    fn stage(recipe: &str, set: &[&str]) -> Result<Recipe, String> {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        let file = builtin::recipe(recipe, &set).map_err(|e| e.to_string())?;
        file.stage(Stage::Pretrain).map_err(|e| e.to_string())
    }

    const GROWING: &str = "pretrain.phases=[{from=0, shapes=[{size=128, batch_size=96}]}, \
        {from=3, shapes=[{size=192, batch_size=48}, {size=96}]}]";

    #[test]
    fn the_shape_follows_from_epoch_and_number() {
        let recipe = stage("mae-vit-b", &[GROWING]).expect("valid");
        let at = |epoch, number| {
            let shape = recipe.shape(epoch, number);
            (shape.size().width, shape.batch_size(), shape.grid().w)
        };
        assert_eq!([at(0, 0), at(2, 9)], [(128, 96, 8); 2]);
        assert_eq!([at(3, 0), at(3, 1), at(9, 4)], [(192, 48, 12), (96, 64, 6), (192, 48, 12)]);
        assert_eq!(recipe.layout(0).views[0].size.width, 128);
        assert_eq!(recipe.layout(5).batch_size, 48);
        assert!(recipe.shapes().all(|shape| shape.mask().most_masked(shape.grid()) > 0));
    }

    #[test]
    fn impossible_phases_are_refused() {
        for (set, says) in [
            ("[{from=1, shapes=[{size=128}]}]", "phases[0].from = 1"),
            ("[{from=0, shapes=[]}]", "phases[0].shapes"),
            ("[{from=0, shapes=[{size=100}]}]", "phases[0].shapes[0]"),
            ("[{from=0, shapes=[{size=64}]}, {from=0, shapes=[{size=64}]}]", "phases[1].from"),
            ("[{from=0, shapes=[{frames=8}]}]", "frames and step"),
            ("[{from=0, shapes=[{batch_size=0}]}]", "batch_size"),
            ("[{from=0, shapes=[{height=8}]}]", "height"),
        ] {
            let set = format!("pretrain.phases={set}");
            let error = stage("mae-vit-b", &[&set]).expect_err(&set);
            assert!(error.contains(says), "{set}: {error}");
        }
    }

    /// The shapes of the paper's table 1 for 16 frames of 224 and their batches in units of B.
    #[test]
    fn multigrid_has_the_published_shapes() {
        let set = "pretrain.multigrid={epochs=200, steps=[0, 100, 160], long=true, short=true}";
        let recipe = stage("mae-st-vit-l", &[set, "pretrain.repeats=1", "pretrain.batch_size=8"])
            .expect("valid");
        let shape = |epoch, number| {
            let shape = recipe.shape(epoch, number);
            (shape.frames(), shape.size().width, shape.batch_size() / 8)
        };
        assert_eq!([0, 1, 2].map(|n| shape(0, n)), [(4, 112, 16), (4, 160, 8), (4, 160, 8)]);
        let last = recipe.phases().last().expect("phases").from;
        assert_eq!([0, 1, 2].map(|n| shape(last, n)), [(16, 112, 4), (16, 160, 2), (16, 224, 1)]);
        // Two steps of four cycles and the last phase; 300 epochs in all.
        assert_eq!(recipe.phases().len(), 9);
        assert!(last < 300);
    }
}
