//! The one float stage, on the host: u8 rows to normalised pixels and targets.

use rayon::prelude::*;
use tubelet_core::{BatchRef, PatchSize, Size};

use crate::normalise::Normalise;
use crate::recipe::{Recipe, TargetSpec};
use crate::target::hog::HogScratch;
use crate::target::{hog, pixels};

/// A batch in floats: what the trainer gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostTensors {
    /// Rows.
    pub rows: usize,
    /// Frames of a row.
    pub frames: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Tokens of a row.
    pub tokens: usize,
    /// `[rows, 3, frames, height, width]`, mean/std-normalised.
    pub pixels: Vec<f32>,
    /// `[rows, tokens]`, `true` = masked; empty where nothing is masked.
    pub mask: Vec<bool>,
    /// `[rows, max_visible]`, ascending; shorter rows repeat their last index.
    pub visible: Vec<u32>,
    /// Most visible tokens of a row.
    pub max_visible: usize,
    /// `[rows, max_masked]`, ascending; shorter rows repeat their last index (0 where there is none).
    pub masked: Vec<u32>,
    /// How many of a row's masked indices are real.
    pub masked_count: Vec<u32>,
    /// Most masked tokens of a row.
    pub max_masked: usize,
    /// `[rows, max_masked, target_dim]`; padding is zero.
    pub targets: Vec<f32>,
    /// Numbers a target has.
    pub target_dim: usize,
    /// `[rows]`, class; [`tubelet_core::layout::NO_LABEL`] where there is none.
    pub labels: Vec<u32>,
    /// `[rows]`, sample number.
    pub samples: Vec<u64>,
}

/// Turns batches into [`HostTensors`], rows in parallel on rayon's threads.
#[derive(Clone, Debug)]
pub struct HostStage {
    normalise: Normalise,
    patch: PatchSize,
    target: TargetSpec,
}

impl HostStage {
    /// The stage of `recipe`.
    pub fn new(recipe: &Recipe) -> Self {
        Self { normalise: recipe.normalise(), patch: recipe.patch(), target: recipe.target() }
    }

    /// Numbers a masked token's target has; 0 where there is no target.
    pub fn target_dim(&self, frames: u32, tokens_t: u32) -> usize {
        match self.target {
            TargetSpec::None => 0,
            TargetSpec::Pixels(_, choice) => {
                let per_slot = choice.indices(frames).len() / tokens_t.max(1) as usize;
                per_slot * (self.patch.h * self.patch.w) as usize * 3
            }
            TargetSpec::Hog(spec) => spec.token_dim(self.patch),
        }
    }

    /// The floats of `batch`.
    pub fn run(&self, batch: BatchRef<'_>) -> HostTensors {
        let view = &batch.layout().views[0];
        let (frames, size, grid) = (view.frames, view.size, view.grid);
        let mut out = HostTensors {
            rows: batch.rows(),
            frames: frames as usize,
            height: size.height as usize,
            width: size.width as usize,
            tokens: grid.len(),
            labels: batch.labels().to_vec(),
            samples: batch.samples().to_vec(),
            target_dim: self.target_dim(frames, grid.t),
            ..HostTensors::default()
        };
        if let Some(mask) = batch.mask(0) {
            out.set_mask(mask);
        }
        let row_floats = 3 * frames as usize * size.area();
        out.pixels = vec![0.0; out.rows * row_floats];
        out.pixels
            .par_chunks_exact_mut(row_floats)
            .zip(batch.pixels(0).par_chunks_exact(view.pixels.row_bytes))
            .for_each(|(floats, bytes)| {
                self.normalise.apply(bytes, frames as usize, size, floats);
            });
        if out.target_dim > 0 && out.max_masked > 0 {
            self.fill_targets(&mut out, row_floats, size);
        }
        out
    }

    fn fill_targets(&self, out: &mut HostTensors, row_floats: usize, size: Size) {
        let row_targets = out.max_masked * out.target_dim;
        let mut targets = vec![0.0; out.rows * row_targets];
        let frames = out.frames as u32;
        targets
            .par_chunks_exact_mut(row_targets)
            .zip(out.pixels.par_chunks_exact(row_floats))
            .zip(out.masked.par_chunks_exact(out.max_masked))
            .zip(&out.masked_count)
            .for_each_init(HogScratch::default, |scratch, (((targets, pixels), masked), count)| {
                let tokens = &masked[..*count as usize];
                let targets = &mut targets[..tokens.len() * out.target_dim];
                self.row_targets(pixels, frames, size, tokens, targets, scratch);
            });
        out.targets = targets;
    }

    /// Targets of the listed tokens of one row.
    fn row_targets(
        &self,
        row: &[f32],
        frames: u32,
        size: Size,
        tokens: &[u32],
        out: &mut [f32],
        scratch: &mut HogScratch,
    ) {
        match self.target {
            TargetSpec::None => {}
            TargetSpec::Pixels(norm, choice) => pixels::pixel_targets(
                norm,
                row,
                frames,
                size,
                self.patch,
                &self.normalise,
                choice,
                tokens,
                out,
            ),
            TargetSpec::Hog(spec) => {
                hog::hog_targets(&spec, row, frames, size, self.patch, tokens, out, scratch);
            }
        }
    }
}

impl HostTensors {
    /// A copy of the rows `range`. Index lists keep the batch's widths.
    ///
    /// # Panics
    /// When `range` is outside the batch.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        fn part<T: Clone>(all: &[T], rows: usize, range: &std::ops::Range<usize>) -> Vec<T> {
            let row = all.len() / rows.max(1);
            all[range.start * row..range.end * row].to_vec()
        }
        Self {
            rows: range.len(),
            pixels: part(&self.pixels, self.rows, &range),
            mask: part(&self.mask, self.rows, &range),
            visible: part(&self.visible, self.rows, &range),
            masked: part(&self.masked, self.rows, &range),
            masked_count: part(&self.masked_count, self.rows, &range),
            targets: part(&self.targets, self.rows, &range),
            labels: part(&self.labels, self.rows, &range),
            samples: part(&self.samples, self.rows, &range),
            ..*self
        }
    }

    /// Fills the mask and both index lists from u8 `[rows, tokens]`.
    fn set_mask(&mut self, mask: &[u8]) {
        self.mask = mask.iter().map(|m| *m != 0).collect();
        let rows = || self.mask.chunks_exact(self.tokens);
        let masked_count: Vec<u32> =
            rows().map(|row| row.iter().filter(|m| **m).count() as u32).collect();
        self.max_masked = masked_count.iter().copied().max().unwrap_or(0) as usize;
        let least = masked_count.iter().copied().min().unwrap_or(0) as usize;
        self.max_visible = self.tokens - least;
        let indices = |want: bool, width: usize| {
            let mut all = Vec::with_capacity(self.rows * width);
            for row in rows() {
                let start = all.len();
                all.extend(
                    row.iter().enumerate().filter(|(_, m)| **m == want).map(|(i, _)| i as u32),
                );
                let last = if all.len() > start { all[all.len() - 1] } else { 0 };
                all.resize(start + width, last);
            }
            all
        };
        let visible = indices(false, self.max_visible);
        let masked = indices(true, self.max_masked);
        (self.visible, self.masked, self.masked_count) = (visible, masked, masked_count);
    }
}
