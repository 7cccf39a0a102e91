//! What is done for a batch on the device, decided without one.
//!
//! A plan knows the recipe's part of it: which constants the kernels read, which tensors a batch
//! makes, and the launches that make them. [`crate::stage`] copies and launches; the tests run the
//! same launches on the host.

use tubelet_augment::normalise::Normalise;
use tubelet_augment::target::hog::gaussian_window;
use tubelet_augment::target::pixels::{FrameChoice, PatchNorm, PixelOrder};
use tubelet_augment::{Recipe, TargetSpec};
use tubelet_core::{BatchRef, PatchSize, Size, ViewLayout};

use crate::error::GpuError;
use crate::kernels::{
    Address, DType, HogSource, IndexLists, Launch, PatchNormSpec, PatchOrder, Pixels, PlaneOrder,
    TokenList, hog, indices, patch_norm, patches, planes, target_table,
};

/// The form in which a model wants its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Whole frames.
    Planes(PlaneOrder),
    /// The patches of all tokens, `[rows, tokens, 3 · t · h · w]`.
    AllPatches(PatchOrder),
    /// The patches of the visible tokens, `[rows, max_visible, 3 · t · h · w]`.
    VisiblePatches(PatchOrder),
    /// The patches of the masked tokens, `[rows, max_masked, 3 · t · h · w]`.
    MaskedPatches(PatchOrder),
}

/// A recipe's float stage on the device.
#[derive(Clone, Debug)]
pub struct StagePlan {
    normalise: Normalise,
    patch: PatchSize,
    frames: u32,
    target: TargetSpec,
    input: Input,
    dtype: DType,
}

/// What the kernels read beside the batch, to be copied to the device once.
#[derive(Clone, Debug, PartialEq)]
pub struct Constants {
    /// f32 `[3, 256]`, normalised grey levels.
    pub table: Vec<f32>,
    /// f32 `[3, 256]`, grey levels as pixel targets start from them; else empty.
    pub target_table: Vec<f32>,
    /// u32, the frames that pixel targets are made of; else empty.
    pub chosen: Vec<u32>,
    /// f32 `[side, side]`, HOG's window; empty where there is none.
    pub window: Vec<f32>,
}

/// Where the constants are on the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConstantAddresses {
    /// Of [`Constants::table`].
    pub table: Address,
    /// Of [`Constants::target_table`].
    pub target_table: Address,
    /// Of [`Constants::chosen`].
    pub chosen: Address,
    /// Of [`Constants::window`].
    pub window: Address,
}

/// Sizes of one batch and of what is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Rows.
    pub rows: usize,
    /// Frames of a row.
    pub frames: usize,
    /// Size of a frame.
    pub size: Size,
    /// Tokens of a row.
    pub tokens: usize,
    /// Whether there is a mask.
    pub masked: bool,
    /// Most visible tokens of a row; 0 without a mask.
    pub max_visible: usize,
    /// Most masked tokens of a row; 0 without a mask.
    pub max_masked: usize,
    /// Numbers of a target; 0 where there is none.
    pub target_dim: usize,
    /// Where the pixels start in the slot.
    pub pixels_at: usize,
    /// Where the mask starts in the slot.
    pub mask_at: usize,
}

/// Where a batch is on the device, and where its tensors go.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchAddresses {
    /// The slot's bytes.
    pub slot: Address,
    /// The input.
    pub input: Address,
    /// u32 `[rows, max_visible]`.
    pub visible: Address,
    /// u32 `[rows, max_masked]`.
    pub masked: Address,
    /// u32 `[rows]`.
    pub masked_count: Address,
    /// f32 `[rows, max_masked, target_dim]`.
    pub targets: Address,
}

impl StagePlan {
    /// The plan of `recipe`, with the input in the form `input` and of type `dtype`.
    ///
    /// # Errors
    /// When the recipe has what the device stage does not do yet: several views or shapes, further
    /// passes of the mask, erasing, mixing. The host stage does all of them.
    pub fn new(recipe: &Recipe, input: Input, dtype: DType) -> Result<Self, GpuError> {
        let not_done = "the host stage does it, the device stage not yet";
        let refused = [
            ("further views of a row", recipe.views().count() - 1),
            ("phases", recipe.phases().len()),
            ("aspect-ratio buckets", recipe.buckets().map_or(0, |all| all.shapes.len())),
            ("further passes of the mask", recipe.mask().passes()),
            ("random erasing", usize::from(recipe.erase().is_some())),
            ("mixup or CutMix", usize::from(recipe.mix().is_some())),
            ("pixel targets with the channel first", usize::from(channel_first(recipe.target()))),
            ("HOG pictures", usize::from(recipe.target() == TargetSpec::HogPicture)),
        ];
        if let Some((what, count)) = refused.into_iter().find(|(_, count)| *count > 0) {
            return Err(GpuError::shape(what, count, not_done));
        }
        Ok(Self {
            normalise: recipe.normalise(),
            patch: recipe.patch(),
            frames: recipe.frames(),
            target: recipe.target(),
            input,
            dtype,
        })
    }

    /// Element type of the input.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The constants of the plan.
    pub fn constants(&self) -> Constants {
        let pixels = match self.target {
            TargetSpec::Pixels(spec) => Some((spec.norm, spec.frames)),
            TargetSpec::None | TargetSpec::Hog(_) | TargetSpec::HogPicture => None,
        };
        let window = match self.target {
            TargetSpec::Hog(spec) if spec.gaussian_window > 0 => {
                gaussian_window(spec.gaussian_window)
            }
            _ => Vec::new(),
        };
        Constants {
            table: self.normalise.table().concat(),
            target_table: pixels
                .map_or_else(Vec::new, |(norm, _)| target_table(norm, &self.normalise).to_vec()),
            chosen: pixels.map_or_else(Vec::new, |(_, choice)| choice.indices(self.frames)),
            window,
        }
    }

    /// Sizes of `batch` and of its tensors.
    ///
    /// # Errors
    /// When the batch is empty, has several views, other frames than the recipe, or no mask where
    /// the input needs one.
    pub fn shape(&self, batch: BatchRef<'_>) -> Result<BatchShape, GpuError> {
        let [view] = batch.layout().views.as_slice() else {
            let views = batch.layout().views.len();
            return Err(GpuError::shape("views of a row", views, "one view is"));
        };
        if batch.rows() == 0 {
            return Err(GpuError::shape("rows of a batch", 0, "1 and more are"));
        }
        if view.frames != self.frames {
            let valid = "all batches have the recipe's number of frames";
            return Err(GpuError::shape("frames of a row", view.frames, valid));
        }
        let mask = batch.mask(0);
        if mask.is_none()
            && matches!(self.input, Input::VisiblePatches(_) | Input::MaskedPatches(_))
        {
            let valid = "without a mask the input is planes or all patches";
            return Err(GpuError::shape("input", format!("{:?}", self.input), valid));
        }
        Ok(self.sizes(&batch, view, mask))
    }

    fn sizes(&self, batch: &BatchRef<'_>, view: &ViewLayout, mask: Option<&[u8]>) -> BatchShape {
        let tokens = view.grid.len();
        let count = |row: &[u8]| row.iter().filter(|m| **m & 1 == 1).count();
        let counts = || mask.into_iter().flat_map(|m| m.chunks_exact(tokens)).map(count);
        BatchShape {
            rows: batch.rows(),
            frames: view.frames as usize,
            size: view.size,
            tokens,
            masked: mask.is_some(),
            max_visible: counts().min().map_or(0, |least| tokens - least),
            max_masked: counts().max().unwrap_or(0),
            target_dim: if mask.is_some() { self.target_dim(view.grid.t) } else { 0 },
            pixels_at: view.pixels.offset,
            mask_at: view.mask.map_or(0, |f| f.offset),
        }
    }

    /// Numbers of a target, as [`tubelet_augment::HostStage::target_dim`].
    fn target_dim(&self, slots: u32) -> usize {
        self.target.dim(self.patch, self.frames, slots)
    }

    fn per_slot(&self, choice: FrameChoice, slots: u32) -> u32 {
        choice.indices(self.frames).len() as u32 / slots.max(1)
    }

    /// Shape of the input of a batch.
    pub fn input_shape(&self, shape: &BatchShape) -> Vec<usize> {
        let Size { width, height } = shape.size;
        let (h, w) = (height as usize, width as usize);
        let patch = 3 * (self.patch.t * self.patch.h * self.patch.w) as usize;
        match self.input {
            Input::Planes(PlaneOrder::ChannelFirst) => vec![shape.rows, 3, shape.frames, h, w],
            Input::Planes(PlaneOrder::FrameFirst) => vec![shape.rows, shape.frames, 3, h, w],
            Input::AllPatches(_) => vec![shape.rows, shape.tokens, patch],
            Input::VisiblePatches(_) => vec![shape.rows, shape.max_visible, patch],
            Input::MaskedPatches(_) => vec![shape.rows, shape.max_masked, patch],
        }
    }

    /// The launches that make a batch's tensors, in order.
    ///
    /// # Errors
    /// When a kernel cannot do the shape.
    pub fn launches(
        &self,
        shape: &BatchShape,
        constants: &ConstantAddresses,
        at: &BatchAddresses,
    ) -> Result<Vec<Launch>, GpuError> {
        let pixels = Pixels {
            address: Address(at.slot.0 + shape.pixels_at as u64),
            rows: shape.rows as u32,
            frames: shape.frames as u32,
            size: shape.size,
        };
        let list = |address, count: usize| TokenList {
            address,
            count: count as u32,
            counts: at.masked_count,
        };
        let visible = list(at.visible, shape.max_visible);
        let masked = list(at.masked, shape.max_masked);
        let mut launches = Vec::new();
        if shape.masked {
            launches.push(index_launch(shape, at)?);
        }
        launches.extend(self.input_launch(&pixels, constants, &visible, &masked, at.input)?);
        if shape.target_dim > 0 && shape.max_masked > 0 {
            launches.extend(self.target_launch(&pixels, constants, &masked, at.targets)?);
        }
        Ok(launches)
    }

    /// `None` where the listed patches are none.
    fn input_launch(
        &self,
        pixels: &Pixels,
        constants: &ConstantAddresses,
        visible: &TokenList,
        masked: &TokenList,
        out: Address,
    ) -> Result<Option<Launch>, GpuError> {
        let (list, order) = match self.input {
            Input::Planes(order) => {
                return planes(pixels, constants.table, order, self.dtype, out).map(Some);
            }
            Input::AllPatches(order) => (None, order),
            Input::VisiblePatches(order) => (Some(visible), order),
            Input::MaskedPatches(order) => (Some(masked), order),
        };
        if list.is_some_and(|l| l.count == 0) {
            return Ok(None);
        }
        patches(pixels, constants.table, self.patch, list, order, self.dtype, out).map(Some)
    }

    fn target_launch(
        &self,
        pixels: &Pixels,
        constants: &ConstantAddresses,
        masked: &TokenList,
        out: Address,
    ) -> Result<Option<Launch>, GpuError> {
        match self.target {
            TargetSpec::None | TargetSpec::HogPicture => Ok(None),
            TargetSpec::Pixels(spec) => {
                let spec = self.patch_norm_spec(spec.norm, spec.frames, constants.chosen);
                patch_norm(&spec, pixels, constants.target_table, masked, out).map(Some)
            }
            TargetSpec::Hog(spec) => {
                let source = HogSource::Bytes { table: constants.table };
                hog(&spec, pixels, source, constants.window, self.patch, masked, out).map(Some)
            }
        }
    }

    fn patch_norm_spec(
        &self,
        norm: PatchNorm,
        choice: FrameChoice,
        chosen: Address,
    ) -> PatchNormSpec {
        let per_slot = self.per_slot(choice, self.frames / self.patch.t);
        PatchNormSpec { norm, patch: self.patch, chosen, per_slot }
    }
}

/// Whether the numbers of a target stand channel by channel.
fn channel_first(target: TargetSpec) -> bool {
    matches!(target, TargetSpec::Pixels(spec) if spec.order == PixelOrder::ChannelFirst)
}

fn index_launch(shape: &BatchShape, at: &BatchAddresses) -> Result<Launch, GpuError> {
    let lists = IndexLists {
        visible: at.visible,
        masked: at.masked,
        masked_count: at.masked_count,
        max_visible: shape.max_visible as u32,
        max_masked: shape.max_masked as u32,
    };
    let mask = Address(at.slot.0 + shape.mask_at as u64);
    indices(mask, shape.rows as u32, shape.tokens as u32, &lists)
}
