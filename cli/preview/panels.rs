//! What is drawn of one sample: a panel for the original, the crop, each pass of the mask, what is
//! predicted, and each further view.

use image::{Rgb, RgbImage, imageops};
use tubelet_augment::{HostTensors, MaskPolicy, Recipe, SamplePlan, Stage, TargetSpec};
use tubelet_core::{BatchRef, Clip, Size};

use super::rows::Mixed;
use super::sheet::Panel;
use super::target::{self, Targets};
use super::views;

/// Hidden tokens.
const HIDDEN: u8 = 128;
/// A cell is at least this wide: for pictures, for frames of a clip.
const MIN_WIDTH: [u32; 2] = [192, 112];

/// Draws one row of a batch, or the crops of one clip.
pub(super) struct Drawer<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) batch: BatchRef<'a>,
    /// Floats of the first of its rows.
    pub(super) tensors: HostTensors,
    /// All rows of the batch after mixing.
    pub(super) mixed: Option<&'a Mixed>,
    /// Its rows.
    pub(super) plans: &'a [SamplePlan],
    /// Number of the first of them in the batch.
    pub(super) first: usize,
    pub(super) clip: &'a Clip,
}

/// One pass of a mask.
struct Pass<'a> {
    mask: &'a [bool],
    masked: &'a [u32],
    targets: &'a [f32],
    what: String,
    predicts: bool,
}

impl Drawer<'_> {
    /// Size of a picture on the sheet: that of the first view, enlarged by a whole factor.
    pub(super) fn cell(&self) -> Size {
        let (size, zoom) = (self.recipe.size(), self.zoom());
        Size::new(size.width * zoom, size.height * zoom)
    }

    fn zoom(&self) -> u32 {
        let least = MIN_WIDTH[usize::from(self.tensors.frames > 1)];
        least.div_ceil(self.recipe.size().width).max(1)
    }

    /// All panels; of a clip at most `most` frames.
    pub(super) fn panels(&self, most: usize) -> Vec<Panel> {
        let shown = self.shown(most);
        let views = self.plans.iter().flat_map(|plan| &plan.views);
        let (regions, of) = views::regions(views, self.clip.size());
        let inks: Vec<_> = of.iter().map(|n| (regions.len() > 1).then(|| views::ink(*n))).collect();
        let mut panels = vec![self.original(&shown, &regions)];
        if let [plan] = self.plans {
            panels.push(Panel { ink: inks[0], ..self.cropped(plan, &shown) });
            if self.recipe.stage() == Stage::Pretrain {
                panels.extend(self.passes(&shown));
            } else {
                panels.extend(self.changed(plan, &shown));
            }
            for (n, ink) in inks.iter().enumerate().skip(1) {
                let further = self.further(n, plan, &shown).into_iter();
                panels.extend(further.map(|panel| Panel { ink: *ink, ..panel }));
            }
        } else {
            let Size { width, height } = self.recipe.size();
            for (row, ink) in inks.iter().enumerate() {
                let label = format!("crop {} of {}, {height}x{width}", row + 1, inks.len());
                let frame = |t: usize| views::frame(self.batch, self.first + row, 0, t);
                panels.push(Panel { ink: *ink, ..self.panel(label, &shown, frame) });
            }
        }
        panels
    }

    fn cropped(&self, plan: &SamplePlan, shown: &[usize]) -> Panel {
        let (Size { width, height }, view) = (self.recipe.size(), &plan.views[0]);
        let done = [(view.flip, ", mirrored"), (view.colors.is_some(), ", colours changed")];
        let done: String = done.iter().filter(|(is, _)| *is).map(|(_, what)| *what).collect();
        self.panel(format!("cropped, {height}x{width}{done}"), shown, |t| self.frame(t))
    }

    /// What erasing and mixing leave of the floats.
    fn changed(&self, plan: &SamplePlan, shown: &[usize]) -> Vec<Panel> {
        let normalise = self.recipe.normalise();
        let mut panels = Vec::new();
        if self.recipe.erase().is_some() {
            let erased = plan.erase.as_ref().is_some_and(|erase| !erase.boxes.is_empty());
            let label = if erased { "after random erasing" } else { "not erased, by its draw" };
            let frame = |t: usize| views::float_frame(&self.tensors, 0, normalise, t);
            panels.push(self.panel(label.to_owned(), shown, frame));
        }
        if let Some(mixed) = self.mixed {
            let frame = |t: usize| views::float_frame(&mixed.tensors, self.first, normalise, t);
            panels.push(self.panel(mixed.how[self.first].clone(), shown, frame));
        }
        panels
    }

    /// View `n` (from 1): its pixels, and what is predicted of it where it is masked.
    fn further(&self, n: usize, plan: &SamplePlan, shown: &[usize]) -> Vec<Panel> {
        let Size { width, height } = plan.views[n].out;
        let (name, layout) = (format!("view {}", n + 1), &self.batch.layout().views[n]);
        let frame = |t: usize| views::frame(self.batch, self.first, n, t);
        let Some(mask) = views::mask(self.batch, self.first, n) else {
            return vec![self.panel(format!("{name}, {height}x{width}"), shown, frame)];
        };
        let changed = |which: bool, to: fn(u8) -> u8| {
            move |t: usize| {
                let mut out = frame(t);
                views::change(&mut out, layout, (mask, which), t, to);
                out
            }
        };
        let hidden = mask.iter().filter(|byte| **byte & 1 == 1).count();
        let label = format!("{name}, {height}x{width}, {hidden} of {} tokens hidden", mask.len());
        let mut panels = vec![self.panel(label, shown, changed(true, |_| HIDDEN))];
        // Numbers are made of the first view's tokens alone.
        if matches!(self.recipe.target(), TargetSpec::None) {
            let what = self.what_is_predicted();
            let label = format!("{name}, predicted, {hidden} tokens: {what}");
            panels.push(self.panel(label, shown, changed(false, paler)));
        }
        panels
    }

    /// The frames that are drawn: of those that targets are made of, evenly.
    fn shown(&self, most: usize) -> Vec<usize> {
        let frames = self.recipe.frames();
        let made = target::frames(self.recipe.target(), frames, self.recipe.patch().t);
        let count = made.len().min(most.max(1));
        (0..count).map(|k| made[k * made.len() / count] as usize).collect()
    }

    fn panel(&self, label: String, shown: &[usize], draw: impl Fn(usize) -> RgbImage) -> Panel {
        let picture = |t: &usize| {
            let picture = draw(*t);
            let (w, h) = picture.dimensions();
            let zoom = self.zoom();
            imageops::resize(&picture, w * zoom, h * zoom, imageops::FilterType::Nearest)
        };
        Panel { label, ink: None, pictures: shown.iter().map(picture).collect() }
    }

    /// The source with the regions of all views.
    fn original(&self, shown: &[usize], regions: &[tubelet_core::Rect]) -> Panel {
        let size = self.clip.size();
        let draw = |t: &usize| {
            let frame = self.clip.frame(self.plans[0].views[0].frames[*t]).unwrap_or_default();
            let mut out = views::picture(size, frame.to_vec());
            views::outline(&mut out, regions, size);
            out
        };
        let what = match (regions.len(), self.plans.len()) {
            (1, _) => "region of the crop",
            (_, 1) => "regions of the views",
            _ => "regions of the crops",
        };
        let label = format!("original, {size}, and {what}");
        Panel { label, ink: None, pictures: shown.iter().map(draw).collect() }
    }

    /// Frame `t` of the first row's first view.
    fn frame(&self, t: usize) -> RgbImage {
        views::frame(self.batch, self.first, 0, t)
    }

    /// What each pass hides and predicts.
    fn passes(&self, shown: &[usize]) -> Vec<Panel> {
        let mut panels = Vec::new();
        let tensors = &self.tensors;
        let policy = self.recipe.mask();
        let count = tensors.masked_count.first().map_or(0, |count| *count as usize);
        let mut passes = vec![Pass {
            mask: &tensors.mask,
            masked: &tensors.masked[..count],
            targets: &tensors.targets,
            what: first_pass(policy, count, tensors.tokens),
            predicts: policy.reconstructs(),
        }];
        for (k, pass) in tensors.passes.iter().enumerate() {
            let count = pass.masked_count.first().map_or(0, |count| *count as usize);
            passes.push(Pass {
                mask: &pass.mask,
                masked: &pass.masked[..count],
                targets: &pass.targets,
                what: further_pass(policy, k, count, tensors.tokens),
                predicts: policy.passes_predict(),
            });
        }
        for pass in &passes {
            let hide = |t: usize| self.hidden(t, pass.mask);
            panels.push(self.panel(pass.what.clone(), shown, hide));
            if pass.predicts && !matches!(policy, MaskPolicy::RunningCell { .. }) {
                panels.push(self.predicted(shown, pass, |_| true));
            }
        }
        if let (MaskPolicy::RunningCell { .. }, [encoder, decoder]) = (policy, &passes[..]) {
            let decoded = |token: u32| !decoder.mask[token as usize];
            panels.push(self.predicted(shown, encoder, decoded));
        }
        panels
    }

    /// Frame `t` with the tokens of `mask` grey.
    fn hidden(&self, t: usize, mask: &[bool]) -> RgbImage {
        let mut out = self.frame(t);
        for (token, _) in mask.iter().enumerate().filter(|(_, hidden)| **hidden) {
            self.each_pixel(t, token as u32, |x, y, _| out.put_pixel(x, y, Rgb([HIDDEN; 3])));
        }
        out
    }

    /// The targets of a pass, of those of its hidden tokens that count; the rest of each frame is
    /// pale.
    fn predicted(&self, shown: &[usize], pass: &Pass<'_>, counts: impl Fn(u32) -> bool) -> Panel {
        let tokens: Vec<(usize, u32)> =
            (0..).zip(pass.masked.iter().copied()).filter(|(_, token)| counts(*token)).collect();
        let targets = Targets { recipe: self.recipe, dim: self.tensors.target_dim };
        let draw = |t: usize| {
            let frame = self.frame(t);
            let mut out = pale(&frame);
            for (n, token) in &tokens {
                let Some((left, top)) = self.corner(t, *token) else { continue };
                if targets.dim == 0 {
                    self.each_pixel(t, *token, |x, y, _| {
                        out.put_pixel(x, y, *frame.get_pixel(x, y))
                    });
                } else {
                    let values = &pass.targets[n * targets.dim..(n + 1) * targets.dim];
                    targets.draw(&mut out, values, t, (left, top));
                }
            }
            out
        };
        let label = format!("predicted, {} tokens: {}", tokens.len(), self.what_is_predicted());
        self.panel(label, shown, draw)
    }

    fn what_is_predicted(&self) -> String {
        let dim = self.tensors.target_dim;
        match self.recipe.target() {
            TargetSpec::None => "what a teacher or a tokenizer says of them".to_owned(),
            target => format!("{}, {dim} numbers each", target::name(target)),
        }
    }

    /// Left upper corner of a token in frame `t`; `None` where it is of another time slot.
    fn corner(&self, t: usize, token: u32) -> Option<(u32, u32)> {
        let (patch, grid) = (self.recipe.patch(), self.recipe.grid());
        let (slot, cell) = (token / grid.plane() as u32, token % grid.plane() as u32);
        (slot == t as u32 / patch.t).then(|| (cell % grid.w * patch.w, cell / grid.w * patch.h))
    }

    fn each_pixel(&self, t: usize, token: u32, mut visit: impl FnMut(u32, u32, usize)) {
        let Some((left, top)) = self.corner(t, token) else { return };
        let patch = self.recipe.patch();
        for at in 0..patch.h * patch.w {
            visit(left + at % patch.w, top + at / patch.w, at as usize);
        }
    }
}

/// What the first mask of a family hides, and from whom.
fn first_pass(policy: &MaskPolicy, hidden: usize, tokens: usize) -> String {
    let seen = tokens - hidden;
    match policy {
        MaskPolicy::MultiFold { .. } => format!("student: {hidden} of {tokens} tokens hidden"),
        MaskPolicy::Halves => format!("first half: {seen} of {tokens} tokens seen"),
        MaskPolicy::MultiBlock(groups) => {
            format!("mask 1 of {}: {hidden} of {tokens} tokens hidden", groups.len())
        }
        MaskPolicy::RunningCell { .. } => format!("encoder: {hidden} of {tokens} tokens hidden"),
        MaskPolicy::DropToken { .. } => {
            format!("{hidden} of {tokens} tokens dropped; nothing is predicted")
        }
        _ => format!("{hidden} of {tokens} tokens hidden"),
    }
}

/// What further pass `k` (from 0) of a family hides, and from whom.
fn further_pass(policy: &MaskPolicy, k: usize, hidden: usize, tokens: usize) -> String {
    let seen = tokens - hidden;
    match policy {
        MaskPolicy::MultiFold { folds, .. } => {
            format!("teacher, fold {} of {folds}: {seen} tokens seen", k + 1)
        }
        MaskPolicy::Halves => format!("second half: {seen} of {tokens} tokens seen"),
        MaskPolicy::MultiBlock(groups) => {
            format!("mask {} of {}: {hidden} of {tokens} tokens hidden", k + 2, groups.len())
        }
        MaskPolicy::RunningCell { .. } => format!("decoder: {hidden} of {tokens} tokens left out"),
        _ => format!("pass {}: {hidden} of {tokens} tokens hidden", k + 2),
    }
}

/// What is not predicted.
fn pale(picture: &RgbImage) -> RgbImage {
    let mut out = picture.clone();
    for pixel in out.pixels_mut() {
        pixel.0 = pixel.0.map(paler);
    }
    out
}

const fn paler(value: u8) -> u8 {
    214 + value / 8
}
