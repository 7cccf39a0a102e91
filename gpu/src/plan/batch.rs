//! Sizes of one batch, what is drawn for it, and the tensors that it becomes.

use tubelet_augment::TargetSpec;
use tubelet_augment::mix::MixedLabels;
use tubelet_core::layout::BatchLayout;
use tubelet_core::{BatchRef, Size, ViewLayout};

use super::{Input, StagePlan};
use crate::error::GpuError;
use crate::kernels::{Boxes, DType, PairMix, PlaneOrder, cells_len};

/// What is done for one batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchPlan {
    /// Rows.
    pub rows: usize,
    /// The first view.
    pub view: ViewPlan,
    /// Numbers of a target; 0 where there is none.
    pub target_dim: usize,
    /// The mask.
    pub first: PassPlan,
    /// Further passes of the mask; none without a mask.
    pub passes: Vec<PassPlan>,
    /// Further views.
    pub views: Vec<ViewPlan>,
    /// The boxes that rows lose, and where their fields start in the slot; `None` where no row loses
    /// any.
    pub erase: Option<(Boxes, usize)>,
    /// Rows that are mixed.
    pub mixes: Vec<PairMix>,
    /// Targets of mixed rows; absent where the recipe mixes none or the batch has no key.
    pub mixed: Option<MixedLabels>,
}

/// One view of all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewPlan {
    /// Frames of a row.
    pub frames: u32,
    /// Size of a frame.
    pub size: Size,
    /// Tokens of a row.
    pub tokens: usize,
    /// Where its pixels start in the slot.
    pub pixels_at: usize,
    /// Where its mask starts in the slot, if it has one.
    pub mask_at: Option<usize>,
}

/// One pass of the mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassPlan {
    /// Its bit in a mask's byte.
    pub bit: u32,
    /// Most visible tokens of a row; 0 without a mask.
    pub max_visible: usize,
    /// Most masked tokens of a row; 0 without a mask.
    pub max_masked: usize,
    /// Whether its masked tokens have targets.
    pub predicts: bool,
}

/// Tensors of one pass, each a `T`; see [`tubelet_augment::stage::Pass`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassTensors<T> {
    /// u8 `[rows, tokens]`, 1 = masked. Without a mask, this and the others have no elements.
    pub mask: T,
    /// u32 `[rows, max_visible]`, ascending; shorter rows repeat their last index (0 where there is
    /// none).
    pub visible: T,
    /// u32 `[rows, max_masked]`, likewise.
    pub masked: T,
    /// u32 `[rows]`, real entries of `masked`.
    pub masked_count: T,
    /// f32 `[rows, max_masked, target_dim]`, padding is zero; no elements where the pass predicts
    /// nothing.
    pub targets: T,
}

/// Tensors of one further view, each a `T`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewTensors<T> {
    /// Whole frames, with the view's normalisation.
    pub pixels: T,
    /// u8 `[rows, tokens]`, 1 = masked; no elements without a mask.
    pub mask: T,
}

/// All tensors of a batch, each a `T`: its shape, its address or its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchTensors<T> {
    /// The input, in the plan's form and type.
    pub input: T,
    /// The mask and its targets.
    pub first: PassTensors<T>,
    /// Further passes of the mask.
    pub passes: Vec<PassTensors<T>>,
    /// Further views.
    pub views: Vec<ViewTensors<T>>,
}

/// What is only needed while the tensors are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scratch<T> {
    /// f32 `[rows, 3, frames, height, width]`, where pixels are changed before they take their form.
    pub floats: T,
    /// f32, the cells of HOG's picture.
    pub cells: T,
}

/// Element type and sizes of the axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// Element type.
    pub dtype: DType,
    /// Sizes of the axes.
    pub sizes: Vec<usize>,
}

impl TensorShape {
    fn new(dtype: DType, sizes: &[usize]) -> Self {
        Self { dtype, sizes: sizes.to_vec() }
    }

    /// Elements.
    pub fn elements(&self) -> usize {
        self.sizes.iter().product()
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }
}

impl<T> BatchTensors<T> {
    /// The same with `f` of each tensor.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<U, E>(
        &self,
        mut f: impl FnMut(&T) -> Result<U, E>,
    ) -> Result<BatchTensors<U>, E> {
        Ok(BatchTensors {
            input: f(&self.input)?,
            first: self.first.try_map(&mut f)?,
            passes: self.passes.iter().map(|p| p.try_map(&mut f)).collect::<Result<_, E>>()?,
            views: (self.views.iter())
                .map(|v| Ok(ViewTensors { pixels: f(&v.pixels)?, mask: f(&v.mask)? }))
                .collect::<Result<_, E>>()?,
        })
    }
}

impl<T> PassTensors<T> {
    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<PassTensors<U>, E> {
        Ok(PassTensors {
            mask: f(&self.mask)?,
            visible: f(&self.visible)?,
            masked: f(&self.masked)?,
            masked_count: f(&self.masked_count)?,
            targets: f(&self.targets)?,
        })
    }
}

impl<T> Scratch<T> {
    /// The same with `f` of each.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<U, E>(&self, mut f: impl FnMut(&T) -> Result<U, E>) -> Result<Scratch<U>, E> {
        Ok(Scratch { floats: f(&self.floats)?, cells: f(&self.cells)? })
    }
}

impl PassPlan {
    /// The pass in bit `bit` of u8 `[rows, tokens]`, as `HostStage` counts it.
    fn of(mask: Option<&[u8]>, tokens: usize, bit: u32, predicts: bool) -> Self {
        let count = |row: &[u8]| row.iter().filter(|m| **m >> bit & 1 == 1).count();
        let counts = || mask.into_iter().flat_map(|m| m.chunks_exact(tokens.max(1))).map(count);
        let max_visible = counts().min().map_or(0, |least| tokens - least);
        Self { bit, max_visible, max_masked: counts().max().unwrap_or(0), predicts }
    }

    fn tensors(&self, batch: &BatchPlan) -> PassTensors<TensorShape> {
        let rows = batch.rows;
        let (of_row, tokens) = match batch.view.mask_at {
            Some(_) => (rows, batch.view.tokens),
            None => (0, 0),
        };
        let dim = if self.predicts { batch.target_dim } else { 0 };
        PassTensors {
            mask: TensorShape::new(DType::U8, &[rows, tokens]),
            visible: TensorShape::new(DType::U32, &[rows, self.max_visible]),
            masked: TensorShape::new(DType::U32, &[rows, self.max_masked]),
            masked_count: TensorShape::new(DType::U32, &[of_row]),
            targets: TensorShape::new(DType::F32, &[rows, self.max_masked, dim]),
        }
    }
}

impl ViewPlan {
    fn of(view: &ViewLayout) -> Self {
        Self {
            frames: view.frames,
            size: view.size,
            tokens: view.grid.len(),
            pixels_at: view.pixels.offset,
            mask_at: view.mask.map(|field| field.offset),
        }
    }

    /// Whole frames.
    fn planes(&self, rows: usize, order: PlaneOrder, dtype: DType) -> TensorShape {
        let (h, w) = (self.size.height as usize, self.size.width as usize);
        let frames = self.frames as usize;
        match order {
            PlaneOrder::ChannelFirst => TensorShape::new(dtype, &[rows, 3, frames, h, w]),
            PlaneOrder::FrameFirst => TensorShape::new(dtype, &[rows, frames, 3, h, w]),
        }
    }
}

impl BatchPlan {
    /// Whether pixels are changed between normalisation and the form that the model wants.
    pub(super) fn is_touched(&self) -> bool {
        self.erase.is_some() || !self.mixes.is_empty()
    }

    /// Whether any token has a target.
    pub(super) fn has_targets(&self) -> bool {
        let predicts = |pass: &PassPlan| pass.predicts && pass.max_masked > 0;
        self.target_dim > 0 && (predicts(&self.first) || self.passes.iter().any(predicts))
    }
}

impl StagePlan {
    /// What is done for `batch`.
    ///
    /// # Errors
    /// When the batch is empty, is not of the plan's recipe (other views, a number of frames that it
    /// has nowhere), has no mask where the input needs one, or an erased box leaves its frame.
    pub fn batch(&self, batch: BatchRef<'_>) -> Result<BatchPlan, GpuError> {
        let layout = batch.layout();
        let view = self.first_view(layout)?;
        if batch.rows() == 0 {
            return Err(GpuError::shape("rows of a batch", 0, "1 and more are"));
        }
        let (mask, tokens) = (batch.mask(0), view.grid.len());
        let pass = |bit, predicts| PassPlan::of(mask, tokens, bit, predicts);
        let mut out = self.sizes(layout, view, batch.rows(), pass);
        if let (Some(_), Some(fields), Some(field)) = (self.erase, batch.erase(), layout.erase) {
            let boxes = Boxes::of(fields, batch.rows(), view.size)?;
            out.erase = boxes.map(|boxes| (boxes, field.offset));
        }
        self.draw_mixes(batch, &mut out);
        Ok(out)
    }

    /// Rows of which none is erased or mixed; `pass` counts the pass of a bit that predicts or not.
    fn sizes(
        &self,
        layout: &BatchLayout,
        view: &ViewLayout,
        rows: usize,
        pass: impl Fn(u32, bool) -> PassPlan,
    ) -> BatchPlan {
        let further = if view.mask.is_some() { self.passes as u32 } else { 0 };
        BatchPlan {
            rows,
            view: ViewPlan::of(view),
            target_dim: self.target.dim(self.patch, view.frames, view.grid.t),
            first: pass(0, true),
            passes: (1..=further).map(|bit| pass(bit, self.passes_predict)).collect(),
            views: layout.views[1..].iter().map(ViewPlan::of).collect(),
            erase: None,
            mixes: Vec::new(),
            mixed: None,
        }
    }

    fn draw_mixes(&self, batch: BatchRef<'_>, out: &mut BatchPlan) {
        let (Some(mix), Some(key)) = (&self.mix, batch.key()) else { return };
        let labels = batch.labels();
        let mut mixed = MixedLabels::unmixed(labels, mix.smoothing);
        for (group, mixes) in mix.draw_groups(key, out.rows, out.view.size) {
            out.mixes.extend(PairMix::of_group(group.clone(), &mixes));
            mixed.set(group, &mixes, labels);
        }
        out.mixed = Some(mixed);
    }

    /// The first view of a layout that the plan can do.
    fn first_view<'a>(&self, layout: &'a BatchLayout) -> Result<&'a ViewLayout, GpuError> {
        let views = &layout.views;
        let Some(view) = views.first().filter(|_| views.len() == self.normalise.len()) else {
            let valid = "batches have the recipe's views";
            return Err(GpuError::shape("views of a row", views.len(), valid));
        };
        if !self.frames.contains(&view.frames) {
            let valid = "batches have a number of frames that the recipe has";
            return Err(GpuError::shape("frames of a row", view.frames, valid));
        }
        let listed = matches!(self.input, Input::VisiblePatches(_) | Input::MaskedPatches(_));
        if listed && view.mask.is_none() {
            let valid = "without a mask the input is planes or all patches";
            return Err(GpuError::shape("input", format!("{:?}", self.input), valid));
        }
        Ok(view)
    }

    /// Refuses a layout that a kernel cannot do, by a row of which everything is masked.
    pub(super) fn check(&self, layout: &BatchLayout) -> Result<(), GpuError> {
        let view = self.first_view(layout)?;
        let all = if view.mask.is_some() { view.grid.len() } else { 0 };
        let pass = |bit, predicts| PassPlan { bit, max_visible: all, max_masked: all, predicts };
        let batch = self.sizes(layout, view, 1, pass);
        self.launches(&batch, &Default::default(), &self.no_addresses(&batch)).map(drop)
    }

    /// Shapes of the tensors of `batch`.
    pub fn tensors(&self, batch: &BatchPlan) -> BatchTensors<TensorShape> {
        let (rows, view) = (batch.rows, &batch.view);
        let patch = 3 * (self.patch.t * self.patch.h * self.patch.w) as usize;
        let patches = |tokens| TensorShape::new(self.dtype, &[rows, tokens, patch]);
        let further = |view: &ViewPlan| ViewTensors {
            pixels: view.planes(rows, self.plane_order(), self.view_dtype),
            mask: TensorShape::new(DType::U8, &[rows, view.mask_at.map_or(0, |_| view.tokens)]),
        };
        BatchTensors {
            input: match self.input {
                Input::Planes(order) => view.planes(rows, order, self.dtype),
                Input::AllPatches(_) => patches(view.tokens),
                Input::VisiblePatches(_) => patches(batch.first.max_visible),
                Input::MaskedPatches(_) => patches(batch.first.max_masked),
            },
            first: batch.first.tensors(batch),
            passes: batch.passes.iter().map(|pass| pass.tensors(batch)).collect(),
            views: batch.views.iter().map(further).collect(),
        }
    }

    /// Shapes of what is needed while the tensors of `batch` are made.
    pub fn scratch(&self, batch: &BatchPlan) -> Scratch<TensorShape> {
        let view = &batch.view;
        let rows = if self.needs_floats(batch) { batch.rows } else { 0 };
        let drawn = self.target == TargetSpec::HogPicture && batch.has_targets();
        let frames = if drawn { batch.rows * view.frames as usize } else { 0 };
        Scratch {
            floats: view.planes(rows, PlaneOrder::ChannelFirst, DType::F32),
            cells: TensorShape::new(DType::F32, &[frames, cells_len(view.size)]),
        }
    }
}
