//! The one float stage, on the host: u8 rows to normalised pixels and targets.

use std::cell::RefCell;

use rayon::prelude::*;
use tubelet_core::layout::ViewLayout;
use tubelet_core::{BatchKey, BatchRef, PatchSize, Size};

use crate::erase::{Erase, EraseMode};
use crate::mix::{MixSpec, MixedLabels, mix_rows};
use crate::normalise::Normalise;
use crate::recipe::{Recipe, TargetSpec};
use crate::target::bytes::ByteTargets;
use crate::target::hog::{HogScratch, HogSpec};
use crate::target::hog_picture::picture_targets;
use crate::target::pixels::{PixelOrder, PixelSpec};
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
        self.target.dim(self.patch, frames, tokens_t)
    }

    /// The floats of `batch`, mixed where the recipe says so and the batch has its key.
    ///
    /// # Panics
    /// When pixels of the batch are elsewhere ([`BatchRef::is_elsewhere`]).
    pub fn run(&self, batch: BatchRef<'_>) -> HostTensors {
        let mut out = HostTensors::default();
        self.run_into(batch, &mut out);
        out
    }

    /// As [`Self::run`], in the memory that `out` has: of a batch of the same shape as the one before
    /// nothing is allocated.
    ///
    /// # Panics
    /// As [`Self::run`].
    pub fn run_into(&self, batch: BatchRef<'_>, out: &mut HostTensors) {
        self.floats_into(batch, out);
        if let Some(key) = batch.key() {
            let rows = 0..out.rows;
            self.mix(out, rows, key);
        }
    }

    /// Mixes the rows `rows` of `out`, which are those that this process has of the batch `key`.
    pub fn mix(&self, out: &mut HostTensors, rows: std::ops::Range<usize>, key: BatchKey) {
        let (Some(mix), false) = (&self.mix, rows.is_empty()) else { return };
        let size = Size::new(out.width as u32, out.height as u32);
        let floats = out.pixels.len() / out.rows;
        let labels = &out.labels;
        let unmixed = || MixedLabels::unmixed(labels, mix.smoothing);
        let targets = out.mixed.get_or_insert_with(unmixed);
        for (group, mixes) in mix.draw_groups(key, rows.len(), size) {
            let group = rows.start + group.start..rows.start + group.end;
            mix_rows(&mut out.pixels[group.start * floats..group.end * floats], &mixes, size);
            targets.set(group, &mixes, labels);
        }
    }

    /// The floats of `batch`, not mixed.
    pub fn floats(&self, batch: BatchRef<'_>) -> HostTensors {
        let mut out = HostTensors::default();
        self.floats_into(batch, &mut out);
        out
    }

    /// The sizes, masks, labels and sample numbers of `batch` without its floats: `pixels`, `targets`
    /// and further views stay empty.
    pub fn lists_into(&self, batch: BatchRef<'_>, out: &mut HostTensors) {
        self.sizes_and_mask(batch, out);
        out.pixels.clear();
        out.targets.clear();
        out.views.clear();
    }

    fn sizes_and_mask(&self, batch: BatchRef<'_>, out: &mut HostTensors) {
        let view = &batch.layout().views[0];
        out.rows = batch.rows();
        out.frames = view.frames as usize;
        (out.height, out.width) = (view.size.height as usize, view.size.width as usize);
        out.tokens = view.grid.len();
        batch.labels().clone_into(&mut out.labels);
        batch.samples().clone_into(&mut out.samples);
        out.target_dim = self.target_dim(view.frames, view.grid.t);
        out.mixed = None;
        out.set_mask(batch.mask(0), self.passes);
    }

    /// As [`Self::floats`], in the memory that `out` has.
    pub fn floats_into(&self, batch: BatchRef<'_>, out: &mut HostTensors) {
        self.sizes_and_mask(batch, out);
        let view = &batch.layout().views[0];
        let maker = self.maker(batch);
        self.first_view(batch, &maker, out);
        out.views.resize_with(self.others.len(), ViewTensors::default);
        for ((normalise, view), n) in self.others.iter().zip(&mut out.views).zip(1..) {
            view.fill(normalise, batch, n);
        }
        let (pixels, dim) = (&out.pixels, out.target_dim);
        for pass in &mut out.passes {
            let predicts = self.passes_predict && dim > 0 && pass.max_masked > 0;
            let width = if predicts { pass.max_masked * dim } else { 0 };
            fit(&mut pass.targets, out.rows * width);
            if !predicts {
                continue;
            }
            pass.targets
                .par_chunks_exact_mut(width)
                .zip(pixels.par_chunks_exact(row_floats(view)))
                .zip(pass.masked.par_chunks_exact(pass.max_masked))
                .zip(&pass.masked_count)
                .enumerate()
                .for_each(|(row, (((targets, pixels), masked), count))| {
                    let tokens = &masked[..*count as usize];
                    self.row_targets(&maker, (batch, row), pixels, dim, tokens, targets);
                });
        }
    }

    /// Pixels of the first view, and the targets of each row while its pixels are in the cache.
    fn first_view(&self, batch: BatchRef<'_>, maker: &Maker, out: &mut HostTensors) {
        let view = &batch.layout().views[0];
        let (floats, dim) = (row_floats(view), out.target_dim);
        fit(&mut out.pixels, out.rows * floats);
        let width = out.max_masked * dim;
        fit(&mut out.targets, out.rows * width);
        let pixels = out.pixels.par_chunks_exact_mut(floats).enumerate();
        if width == 0 {
            return pixels.for_each(|(row, pixels)| self.row_pixels(batch, row, pixels));
        }
        pixels
            .zip(out.targets.par_chunks_exact_mut(width))
            .zip(out.masked.par_chunks_exact(out.max_masked))
            .zip(&out.masked_count)
            .for_each(|((((row, pixels), targets), masked), count)| {
                self.row_pixels(batch, row, pixels);
                let tokens = &masked[..*count as usize];
                self.row_targets(maker, (batch, row), pixels, dim, tokens, targets);
            });
    }

    /// Pixels of the first view of row `row`, erased.
    fn row_pixels(&self, batch: BatchRef<'_>, row: usize, out: &mut [f32]) {
        let view = &batch.layout().views[0];
        let (bytes, frames) = (view.pixels.row_bytes, view.frames as usize);
        let pixels = &batch.pixels(0)[row * bytes..][..bytes];
        self.normalise.apply(pixels, frames, view.size, out);
        if let (Some(mode), Some(fields)) = (self.erase, batch.erase()) {
            let field = batch.layout().erase.map_or(1, |field| field.row_bytes / 4);
            Erase::load(&fields[row * field..][..field]).apply(mode, out, frames, view.size);
        }
    }

    /// How the targets of `batch` are made.
    fn maker(&self, batch: BatchRef<'_>) -> Maker {
        let view = &batch.layout().views[0];
        match self.target {
            TargetSpec::None => Maker::None,
            TargetSpec::Hog(spec) => Maker::Hog(spec),
            // Erased pixels are known as floats alone.
            TargetSpec::Pixels(spec) if self.erase.is_some() => Maker::Floats(spec),
            TargetSpec::Pixels(spec) => {
                let (frames, size, patch, choice) =
                    (view.frames, view.size, self.patch, spec.frames);
                let normalise = self.normalise;
                let targets = ByteTargets::new(spec.norm, frames, size, patch, normalise, choice);
                Maker::Bytes(Box::new(targets), spec.order)
            }
            TargetSpec::HogPicture => Maker::HogPicture,
        }
    }

    /// Targets of the listed tokens of row `row`, of `dim` numbers each, at the start of `out`; zeros
    /// behind them. `floats` are the row's pixels.
    fn row_targets(
        &self,
        maker: &Maker,
        (batch, row): (BatchRef<'_>, usize),
        floats: &[f32],
        dim: usize,
        tokens: &[u32],
        out: &mut [f32],
    ) {
        let (out, padding) = out.split_at_mut(tokens.len() * dim);
        padding.fill(0.0);
        let view = &batch.layout().views[0];
        let (frames, size, patch) = (view.frames, view.size, self.patch);
        match maker {
            Maker::None => {}
            Maker::Bytes(targets, order) => {
                let bytes = view.pixels.row_bytes;
                targets.write(&batch.pixels(0)[row * bytes..][..bytes], tokens, out);
                SCRATCH.with_borrow_mut(|scratch| order.arrange(out, dim, &mut scratch.floats));
            }
            Maker::Floats(PixelSpec { norm, frames: choice, order }) => {
                let normalise = &self.normalise;
                pixels::pixel_targets(
                    *norm, floats, frames, size, patch, normalise, *choice, tokens, out,
                );
                SCRATCH.with_borrow_mut(|scratch| order.arrange(out, dim, &mut scratch.floats));
            }
            Maker::Hog(spec) => SCRATCH.with_borrow_mut(|scratch| {
                let scratch = &mut scratch.hog;
                hog::hog_targets(spec, floats, frames, size, patch, tokens, out, scratch);
            }),
            Maker::HogPicture => picture_targets(floats, frames, size, patch, tokens, out),
        }
    }
}

/// What targets are made by, and of.
enum Maker {
    None,
    Bytes(Box<ByteTargets>, PixelOrder),
    Floats(PixelSpec),
    Hog(HogSpec),
    HogPicture,
}

/// Buffers of a thread.
#[derive(Default)]
struct TargetScratch {
    hog: HogScratch,
    floats: Vec<f32>,
}

thread_local! {
    /// Buffers of the targets, kept from row to row.
    static SCRATCH: RefCell<TargetScratch> = RefCell::default();
}

/// Floats of one row of `view`.
fn row_floats(view: &ViewLayout) -> usize {
    3 * view.frames as usize * view.size.area()
}

/// Gives `values` the length `len`; only values that are added are written.
fn fit(values: &mut Vec<f32>, len: usize) {
    if values.capacity() < len {
        // Fresh zero pages cost nothing until they are written.
        *values = vec![0.0; len];
    } else {
        values.resize(len, 0.0);
    }
}

impl ViewTensors {
    /// Becomes view `number` of `batch`.
    fn fill(&mut self, normalise: &Normalise, batch: BatchRef<'_>, number: usize) {
        let view = &batch.layout().views[number];
        self.frames = view.frames as usize;
        (self.height, self.width) = (view.size.height as usize, view.size.width as usize);
        let floats = row_floats(view);
        fit(&mut self.pixels, batch.rows() * floats);
        self.pixels
            .par_chunks_exact_mut(floats)
            .zip(batch.pixels(number).par_chunks_exact(view.pixels.row_bytes))
            .for_each(|(floats, bytes)| normalise.apply(bytes, self.frames, view.size, floats));
        self.mask.clear();
        self.mask.extend(batch.mask(number).unwrap_or_default().iter().map(|m| m & 1 == 1));
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

    /// Fills the mask, its lists and those of the further passes from u8 `[rows, tokens]`; without
    /// bytes nothing is masked and there is no pass.
    fn set_mask(&mut self, bytes: Option<&[u8]>, passes: usize) {
        let mut first = Pass {
            mask: std::mem::take(&mut self.mask),
            visible: std::mem::take(&mut self.visible),
            masked: std::mem::take(&mut self.masked),
            masked_count: std::mem::take(&mut self.masked_count),
            ..Pass::default()
        };
        first.fill(bytes.unwrap_or_default(), 0, self.tokens);
        self.mask = first.mask;
        self.visible = first.visible;
        self.max_visible = first.max_visible;
        self.masked = first.masked;
        self.masked_count = first.masked_count;
        self.max_masked = first.max_masked;
        self.passes.resize_with(if bytes.is_some() { passes } else { 0 }, Pass::default);
        for (pass, bit) in self.passes.iter_mut().zip(1..) {
            pass.fill(bytes.unwrap_or_default(), bit, self.tokens);
        }
    }
}

impl Pass {
    /// Becomes the pass in bit `bit` of u8 `[rows, tokens]`; its targets stay as they are.
    fn fill(&mut self, bytes: &[u8], bit: usize, tokens: usize) {
        self.mask.clear();
        self.mask.extend(bytes.iter().map(|byte| byte >> bit & 1 == 1));
        let tokens = tokens.max(1);
        let count = |row: &[bool]| row.iter().filter(|m| **m).count() as u32;
        self.masked_count.clear();
        self.masked_count.extend(self.mask.chunks_exact(tokens).map(count));
        self.max_masked = self.masked_count.iter().copied().max().unwrap_or(0) as usize;
        let fewest = self.masked_count.iter().copied().min();
        self.max_visible = fewest.map_or(0, |fewest| tokens - fewest as usize);
        list(&mut self.visible, &self.mask, tokens, false, self.max_visible);
        list(&mut self.masked, &self.mask, tokens, true, self.max_masked);
    }
}

/// Lists in `all` the ascending indices of each row's entries that are `want`, padded to `width`.
fn list(all: &mut Vec<u32>, mask: &[bool], tokens: usize, want: bool, width: usize) {
    all.clear();
    all.reserve(mask.len() / tokens * width);
    for row in mask.chunks_exact(tokens) {
        let start = all.len();
        all.extend(row.iter().enumerate().filter(|(_, m)| **m == want).map(|(i, _)| i as u32));
        let last = if all.len() > start { all[all.len() - 1] } else { 0 };
        all.resize(start + width, last);
    }
}

#[cfg(test)]
mod tests;
