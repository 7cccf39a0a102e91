//! What is done for a batch on the device, decided without one.
//!
//! A [`StagePlan`] knows the recipe's part of it: which constants the kernels read, which tensors a
//! batch becomes ([`StagePlan::batch`], [`StagePlan::tensors`]), and what makes them
//! ([`StagePlan::launches`]). [`crate::stage`] copies and launches; the tests run the same launches on
//! the host.

mod batch;
mod queue;

use tubelet_augment::erase::EraseMode;
use tubelet_augment::mix::MixSpec;
use tubelet_augment::normalise::Normalise;
use tubelet_augment::target::hog::gaussian_window;
use tubelet_augment::target::pixels::{FrameChoice, PixelSpec};
use tubelet_augment::{Recipe, TargetSpec};
use tubelet_core::PatchSize;

pub use batch::{
    BatchPlan, BatchTensors, PassPlan, PassTensors, Scratch, TensorShape, ViewPlan, ViewTensors,
};
pub use queue::BatchAddresses;

use crate::error::GpuError;
use crate::kernels::{Address, DType, PatchOrder, PlaneOrder, TABLE_LEN, line_table, target_table};

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
    /// Of each view, the first one first.
    normalise: Vec<Normalise>,
    patch: PatchSize,
    /// Numbers of frames that batches may have, ascending.
    frames: Vec<u32>,
    target: TargetSpec,
    passes: usize,
    passes_predict: bool,
    erase: Option<EraseMode>,
    mix: Option<MixSpec>,
    input: Input,
    dtype: DType,
    view_dtype: DType,
}

/// What the kernels read beside the batch, to be copied to the device once.
#[derive(Clone, Debug, PartialEq)]
pub struct Constants {
    /// f32 `[views, 3, 256]`, normalised grey levels.
    pub tables: Vec<f32>,
    /// f32 `[3, 256]`, grey levels as pixel targets start from them; else empty.
    pub target_table: Vec<f32>,
    /// u32, the frames that pixel targets are made of, for each number of frames that a batch may
    /// have, one after the other; else empty.
    pub chosen: Vec<u32>,
    /// f32 `[side, side]`, HOG's window; empty where there is none.
    pub window: Vec<f32>,
    /// u32 `[8, 8]`, the lines of a cell of HOG's picture; else empty.
    pub lines: Vec<u32>,
}

/// Where the constants are on the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConstantAddresses {
    /// Of [`Constants::tables`].
    pub tables: Address,
    /// Of [`Constants::target_table`].
    pub target_table: Address,
    /// Of [`Constants::chosen`].
    pub chosen: Address,
    /// Of [`Constants::window`].
    pub window: Address,
    /// Of [`Constants::lines`].
    pub lines: Address,
}

impl ConstantAddresses {
    /// Of view `view`'s table.
    fn table(&self, view: usize) -> Address {
        Address(self.tables.0 + (view * TABLE_LEN * size_of::<f32>()) as u64)
    }
}

impl StagePlan {
    /// The plan of `recipe`, with the input in the form `input` and of type `dtype`. Further views are
    /// whole frames of the same type, in the input's order of axes where it has one.
    ///
    /// # Errors
    /// When a kernel cannot do a shape of the recipe (targets that do not fit a block's memory), or
    /// `dtype` is no float.
    pub fn new(recipe: &Recipe, input: Input, dtype: DType) -> Result<Self, GpuError> {
        let mut frames: Vec<u32> = recipe.shapes().map(Recipe::frames).collect();
        frames.sort_unstable();
        frames.dedup();
        let plan = Self {
            normalise: recipe.views().map(|view| view.normalise).collect(),
            patch: recipe.patch(),
            frames,
            target: recipe.target(),
            passes: recipe.mask().passes(),
            passes_predict: recipe.mask().passes_predict(),
            erase: recipe.erase().map(|erase| erase.mode),
            mix: recipe.mix().copied(),
            input,
            dtype,
            view_dtype: dtype,
        };
        for shape in recipe.shapes() {
            plan.check(&shape.rows_layout(1))?;
        }
        Ok(plan)
    }

    /// The same with further views of type `dtype`: a tokenizer or teacher may want f32.
    ///
    /// # Errors
    /// When it is no float.
    pub fn with_view_dtype(mut self, dtype: DType) -> Result<Self, GpuError> {
        if matches!(dtype, DType::U32 | DType::U8) {
            return Err(GpuError::shape("element type", format!("{dtype:?}"), "floats are"));
        }
        self.view_dtype = dtype;
        Ok(self)
    }

    /// Element type of the input.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The constants of the plan.
    pub fn constants(&self) -> Constants {
        let tables = self.normalise.iter().flat_map(|normalise| normalise.table().concat());
        let mut out = Constants {
            tables: tables.collect(),
            target_table: Vec::new(),
            chosen: Vec::new(),
            window: Vec::new(),
            lines: Vec::new(),
        };
        match self.target {
            TargetSpec::None => {}
            TargetSpec::Pixels(PixelSpec { norm, frames: choice, .. }) => {
                out.target_table = target_table(norm, &self.normalise[0]).to_vec();
                out.chosen = self.frames.iter().flat_map(|n| choice.indices(*n)).collect();
            }
            TargetSpec::Hog(spec) if spec.gaussian_window > 0 => {
                out.window = gaussian_window(spec.gaussian_window);
            }
            TargetSpec::Hog(_) => {}
            TargetSpec::HogPicture => out.lines = line_table(),
        }
        out
    }

    /// Where the frames chosen of `frames` start in the constant.
    fn chosen_at(&self, choice: FrameChoice, frames: u32, chosen: Address) -> Address {
        let before = self.frames.iter().take_while(|n| **n < frames);
        let numbers: usize = before.map(|n| choice.indices(*n).len()).sum();
        Address(chosen.0 + (numbers * size_of::<u32>()) as u64)
    }

    /// Order of the axes of whole frames.
    fn plane_order(&self) -> PlaneOrder {
        match self.input {
            Input::Planes(order) => order,
            _ => PlaneOrder::ChannelFirst,
        }
    }
}

#[cfg(test)]
impl StagePlan {
    /// The same with rows that are erased: targets beside erasing, which no recipe has today.
    pub(crate) fn erasing(self, mode: EraseMode) -> Self {
        Self { erase: Some(mode), ..self }
    }
}
