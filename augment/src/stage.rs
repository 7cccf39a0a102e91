//! The one float stage, on the host: u8 rows to normalised pixels and targets.

use rayon::prelude::*;
use tubelet_core::{BatchKey, BatchRef, PatchSize, Size};

use crate::erase::{Erase, EraseMode};
use crate::mix::{MixSpec, MixedLabels, mix_rows};
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
    /// Further passes of the mask: folds, the other half, other blocks, the decoder's choice.
    pub passes: Vec<Pass>,
    /// `[rows]`, class; [`tubelet_core::layout::NO_LABEL`] where there is none.
    pub labels: Vec<u32>,
    /// `[rows]`, sample number.
    pub samples: Vec<u64>,
    /// Views of the rows after the first.
    pub views: Vec<ViewTensors>,
    /// Targets of mixed rows; absent where the recipe mixes none.
    pub mixed: Option<MixedLabels>,
}

/// One further view of all rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ViewTensors {
    /// Frames of a row.
    pub frames: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// `[rows, 3, frames, height, width]`, with the view's normalisation.
    pub pixels: Vec<f32>,
    /// `[rows, tokens]`, `true` = masked; empty where nothing is masked.
    pub mask: Vec<bool>,
}

/// One way to divide the tokens of each row into visible and masked ones. Lists are ascending;
/// rows shorter than the longest repeat their last index (0 where there is none).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pass {
    /// `[rows, tokens]`, `true` = hidden in this pass.
    pub mask: Vec<bool>,
    /// `[rows, max_visible]`.
    pub visible: Vec<u32>,
    /// Most visible tokens of a row.
    pub max_visible: usize,
    /// `[rows, max_masked]`.
    pub masked: Vec<u32>,
    /// How many of a row's masked indices are real; the row's other tokens are visible.
    pub masked_count: Vec<u32>,
    /// Most masked tokens of a row.
    pub max_masked: usize,
    /// `[rows, max_masked, target_dim]` where this pass predicts what it does not see, else empty;
    /// padding is zero.
    pub targets: Vec<f32>,
}

/// Turns batches into [`HostTensors`], rows in parallel on rayon's threads.
#[derive(Clone, Debug)]
pub struct HostStage {
    normalise: Normalise,
    others: Vec<Normalise>,
    patch: PatchSize,
    target: TargetSpec,
    passes: usize,
    passes_predict: bool,
    erase: Option<EraseMode>,
    mix: Option<MixSpec>,
}

impl HostStage {
    /// The stage of `recipe`.
    pub fn new(recipe: &Recipe) -> Self {
        Self {
            normalise: recipe.normalise(),
            others: recipe.views().skip(1).map(|view| view.normalise).collect(),
            patch: recipe.patch(),
            target: recipe.target(),
            erase: recipe.erase().map(|erase| erase.mode),
            mix: recipe.mix().copied(),
            passes: recipe.mask().passes(),
            passes_predict: recipe.mask().passes_predict(),
        }
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

    /// The floats of `batch`, mixed where the recipe says so and the batch has its key.
    pub fn run(&self, batch: BatchRef<'_>) -> HostTensors {
        let mut out = self.floats(batch);
        if let Some(key) = batch.key() {
            let rows = 0..out.rows;
            self.mix(&mut out, rows, key);
        }
        out
    }

    /// Mixes the rows `rows` of `out`, which are those that this process has of the batch `key`.
    pub fn mix(&self, out: &mut HostTensors, rows: std::ops::Range<usize>, key: BatchKey) {
        let (Some(mix), false) = (&self.mix, rows.is_empty()) else { return };
        let size = Size::new(out.width as u32, out.height as u32);
        let floats = out.pixels.len() / out.rows;
        let labels = &out.labels;
        let targets = out.mixed.get_or_insert_with(|| MixedLabels {
            partners: labels.clone(),
            lambda: vec![1.0; out.rows],
            smoothing: mix.smoothing as f32,
        });
        for group in mix.groups(rows.len()) {
            let number = (key.first_row as usize + group.start) / group.len();
            let mixes = mix.draw(key, number as u16, group.len(), size);
            let group = rows.start + group.start..rows.start + group.end;
            mix_rows(&mut out.pixels[group.start * floats..group.end * floats], &mixes, size);
            for (n, row) in group.clone().enumerate() {
                targets.lambda[row] = mixes[n].lambda() as f32;
                targets.partners[row] = labels[group.end - 1 - n];
            }
        }
    }

    /// The floats of `batch`, not mixed.
    pub fn floats(&self, batch: BatchRef<'_>) -> HostTensors {
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
            out.set_mask(mask, self.passes);
        }
        let row_floats = 3 * frames as usize * size.area();
        out.pixels = normalised(&self.normalise, batch, 0);
        let erase_field = batch.layout().erase.map_or(1, |field| field.row_bytes / 4);
        if let (Some(mode), Some(fields)) = (self.erase, batch.erase()) {
            let fields = fields.par_chunks_exact(erase_field);
            out.pixels.par_chunks_exact_mut(row_floats).zip(fields).for_each(|(row, field)| {
                Erase::load(field).apply(mode, row, frames as usize, size);
            });
        }
        out.views =
            self.others.iter().zip(1..).map(|(n, view)| other_view(n, batch, view)).collect();
        if out.target_dim > 0 {
            out.targets = self.targets(&out, &out.masked, &out.masked_count, out.max_masked);
            if self.passes_predict {
                for k in 0..out.passes.len() {
                    let pass = &out.passes[k];
                    out.passes[k].targets =
                        self.targets(&out, &pass.masked, &pass.masked_count, pass.max_masked);
                }
            }
        }
        out
    }

    /// Targets of the masked tokens of all rows, `[rows, max_masked, dim]`.
    fn targets(
        &self,
        batch: &HostTensors,
        masked: &[u32],
        counts: &[u32],
        max_masked: usize,
    ) -> Vec<f32> {
        if max_masked == 0 {
            return Vec::new();
        }
        let size = Size::new(batch.width as u32, batch.height as u32);
        let (frames, dim) = (batch.frames as u32, batch.target_dim);
        let mut targets = vec![0.0; batch.rows * max_masked * dim];
        targets
            .par_chunks_exact_mut(max_masked * dim)
            .zip(batch.pixels.par_chunks_exact(3 * batch.frames * size.area()))
            .zip(masked.par_chunks_exact(max_masked))
            .zip(counts)
            .for_each_init(HogScratch::default, |scratch, (((targets, pixels), masked), count)| {
                let tokens = &masked[..*count as usize];
                let targets = &mut targets[..tokens.len() * dim];
                self.row_targets(pixels, frames, size, tokens, targets, scratch);
            });
        targets
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

/// View `view` of all rows as normalised floats.
fn normalised(normalise: &Normalise, batch: BatchRef<'_>, view: usize) -> Vec<f32> {
    let layout = &batch.layout().views[view];
    let frames = layout.frames as usize;
    let row_floats = 3 * frames * layout.size.area();
    let mut out = vec![0.0; batch.rows() * row_floats];
    out.par_chunks_exact_mut(row_floats)
        .zip(batch.pixels(view).par_chunks_exact(layout.pixels.row_bytes))
        .for_each(|(floats, bytes)| normalise.apply(bytes, frames, layout.size, floats));
    out
}

fn other_view(normalise: &Normalise, batch: BatchRef<'_>, view: usize) -> ViewTensors {
    let layout = &batch.layout().views[view];
    ViewTensors {
        frames: layout.frames as usize,
        height: layout.size.height as usize,
        width: layout.size.width as usize,
        pixels: normalised(normalise, batch, view),
        mask: batch.mask(view).unwrap_or_default().iter().map(|m| m & 1 == 1).collect(),
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
            passes: self
                .passes
                .iter()
                .map(|pass| Pass {
                    mask: part(&pass.mask, self.rows, &range),
                    visible: part(&pass.visible, self.rows, &range),
                    masked: part(&pass.masked, self.rows, &range),
                    masked_count: part(&pass.masked_count, self.rows, &range),
                    targets: part(&pass.targets, self.rows, &range),
                    ..*pass
                })
                .collect(),
            views: self
                .views
                .iter()
                .map(|view| ViewTensors {
                    pixels: part(&view.pixels, self.rows, &range),
                    mask: part(&view.mask, self.rows, &range),
                    ..*view
                })
                .collect(),
            mixed: self.mixed.as_ref().map(|mixed| MixedLabels {
                partners: part(&mixed.partners, self.rows, &range),
                lambda: part(&mixed.lambda, self.rows, &range),
                ..*mixed
            }),
            ..*self
        }
    }

    /// Fills the mask, its lists and those of the further passes from u8 `[rows, tokens]`.
    fn set_mask(&mut self, bytes: &[u8], passes: usize) {
        let mut first = Pass::new(bytes, 0, self.tokens);
        self.mask = std::mem::take(&mut first.mask);
        self.visible = first.visible;
        self.max_visible = first.max_visible;
        self.masked = first.masked;
        self.masked_count = first.masked_count;
        self.max_masked = first.max_masked;
        self.passes = (1..=passes).map(|bit| Pass::new(bytes, bit, self.tokens)).collect();
    }
}

impl Pass {
    /// The pass in bit `bit` of u8 `[rows, tokens]`.
    fn new(bytes: &[u8], bit: usize, tokens: usize) -> Self {
        let mask: Vec<bool> = bytes.iter().map(|byte| byte >> bit & 1 == 1).collect();
        let count = |row: &[bool]| row.iter().filter(|m| **m).count() as u32;
        let masked_count: Vec<u32> = mask.chunks_exact(tokens).map(count).collect();
        let max_masked = masked_count.iter().copied().max().unwrap_or(0) as usize;
        let max_visible = tokens - masked_count.iter().copied().min().unwrap_or(0) as usize;
        Self {
            visible: indices(&mask, tokens, false, max_visible),
            masked: indices(&mask, tokens, true, max_masked),
            targets: Vec::new(),
            mask,
            max_visible,
            masked_count,
            max_masked,
        }
    }
}

/// Ascending indices of each row's entries that are `want`, padded to `width`.
fn indices(mask: &[bool], tokens: usize, want: bool, width: usize) -> Vec<u32> {
    let mut all = Vec::with_capacity(mask.len() / tokens.max(1) * width);
    for row in mask.chunks_exact(tokens) {
        let start = all.len();
        all.extend(row.iter().enumerate().filter(|(_, m)| **m == want).map(|(i, _)| i as u32));
        let last = if all.len() > start { all[all.len() - 1] } else { 0 };
        all.resize(start + width, last);
    }
    all
}

#[cfg(test)]
mod tests;
