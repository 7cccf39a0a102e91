//! The mask table of a recipe.

use serde::{Deserialize, Serialize};

/// Which tokens are hidden, as a recipe says it. Ratios are shares in (0, 1); `unit` is a side in
/// pixels, a multiple of the patch that divides the picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MaskFile {
    /// Any tokens of the clip, all alike: MAE, MAE-ST, OmniMAE, FastMIM.
    Random {
        /// Share hidden.
        ratio: f64,
        /// How the count is rounded.
        #[serde(default)]
        count: CountRule,
    },
    /// The same plane of tokens in every time slot: VideoMAE, MVD.
    Tube {
        /// Share hidden; the count of a plane is rounded down.
        ratio: f64,
    },
    /// Whole time slots: MaskFeat (rounded), OmniMAE (`masked-floor`).
    Frame {
        /// Share of the time slots hidden.
        ratio: f64,
        /// How the count is rounded.
        #[serde(default = "masked_round")]
        count: CountRule,
    },
    /// Square units of several tokens, at random: SimMIM (`masked-ceil`), ConvNeXt V2
    /// (`keep-floor`).
    Grid {
        /// Side of a unit in pixels.
        unit: u32,
        /// Share hidden.
        ratio: f64,
        /// How the count is rounded.
        #[serde(default = "masked_ceil")]
        count: CountRule,
    },
    /// Rectangles, as BEiT and MaskFeat draw them; the same in every time slot of a clip (MaskFeat's
    /// tube). Counts are ragged.
    Block {
        /// Share hidden at most; the count is rounded to the nearest. Either this or `count`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ratio: Option<f64>,
        /// Tokens (units) of a plane hidden at most: 75 for BEiT.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        count: Option<u32>,
        /// Smallest rectangle in tokens (units); a fifth of the count where absent (MaskFeat).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<u32>,
        /// Largest rectangle in tokens (units); the count where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<u32>,
        /// Aspect ratio, smallest and largest.
        #[serde(default = "aspect")]
        aspect: [f64; 2],
        /// Rectangles tried before a block is given up.
        #[serde(default = "block_tries")]
        tries: u32,
        /// Side of a unit in pixels; the patch where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unit: Option<u32>,
    },
    /// Rectangles topped up with single tokens to an exact count: BootMAE.
    BlockExact {
        /// Share of a plane hidden in the end; the count is rounded down.
        ratio: f64,
        /// Tokens of a plane that rectangles hide: 120.
        blocks: u32,
        /// Smallest rectangle in tokens.
        #[serde(default = "bootmae_min")]
        min: u32,
        /// Largest rectangle in tokens; half of `blocks` where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<u32>,
        /// Aspect ratio, smallest and largest.
        #[serde(default = "aspect")]
        aspect: [f64; 2],
        /// Most tokens of rectangles that are uncovered again.
        #[serde(default = "roll")]
        roll: u32,
    },
    /// Rectangles or tokens whose share is drawn for each crop: iBOT. Counts are ragged, 0 included.
    Ibot {
        /// Shares, each as likely.
        ratio: Vec<f64>,
        /// Half-width of the interval around each share.
        variance: Vec<f64>,
        /// Rectangles or single tokens.
        #[serde(default)]
        shape: IbotShape,
        /// Smallest rectangle in tokens; (⌊min(h, w)/3⌋)² where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<u32>,
        /// Aspect ratio, smallest and largest.
        #[serde(default = "aspect")]
        aspect: [f64; 2],
        /// Rectangles tried before a block is given up.
        #[serde(default = "block_tries")]
        tries: u32,
        /// First epoch that masks; nothing is hidden before it (Swin: 50).
        #[serde(default, skip_serializing_if = "is_first")]
        pred_start_epoch: u32,
    },
    /// Boxes in space and time over units: MaskFeat on videos. Counts are ragged.
    Cube {
        /// Share hidden at most; the count is rounded to the nearest.
        ratio: f64,
        /// Side of a unit in pixels.
        #[serde(default = "cube_unit")]
        unit: u32,
        /// Smallest area in units; a fifth of the plane where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<u32>,
        /// Largest area in units; the plane where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<u32>,
        /// Aspect ratio, smallest and largest.
        #[serde(default = "aspect")]
        aspect: [f64; 2],
        /// Boxes tried before a cube is given up.
        #[serde(default = "cube_tries")]
        tries: u32,
    },
    /// Random tokens dealt into equal folds that a teacher sees one by one: SdAE.
    MultiFold {
        /// Share hidden.
        ratio: f64,
        /// Folds; they divide the hidden tokens.
        folds: u32,
        /// How the count is rounded.
        #[serde(default)]
        count: CountRule,
    },
    /// Two complementary halves, each predicting the other: SplitMask.
    Halves {},
    /// Several blocks through time, one mask a group: V-JEPA. Counts are ragged.
    MultiBlock {
        /// The kinds of blocks.
        groups: Vec<BlockGroup>,
    },
    /// A tube for the encoder and a running cell for the decoder: VideoMAE v2.
    RunningCell {
        /// Share of a plane hidden from the encoder; the count is rounded down.
        ratio: f64,
        /// Share of a 2 × 2 cell the decoder leaves out: 0.25, 0.5 or 0.75.
        #[serde(default = "half")]
        decoder: f64,
    },
    /// Tokens left out with nothing to reconstruct: VATT.
    DropToken {
        /// Share that goes on; the count is rounded down.
        #[serde(default = "half")]
        keep: f64,
    },
    /// Masked video-language modelling: one of several kinds for each sample. Counts are ragged, 0
    /// included.
    Mvm {
        /// The kinds, each as likely.
        #[serde(default = "mvm_modes")]
        modes: Vec<MvmMode>,
        /// Probability of a token (`random`).
        #[serde(default = "mvm_p")]
        p: f64,
    },
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_first(epoch: &u32) -> bool {
    *epoch == 0
}

/// How a ratio becomes a count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CountRule {
    /// kept = ⌊L·(1 − ratio)⌋: MAE, MAE-ST, FastMIM, ConvNeXt V2, SdAE.
    #[default]
    KeepFloor,
    /// masked = ⌊L·ratio⌋: VideoMAE, MVD, OmniMAE.
    MaskedFloor,
    /// masked = ⌈L·ratio⌉: SimMIM.
    MaskedCeil,
    /// masked = L·ratio rounded half to even: MaskFeat.
    MaskedRound,
}

impl CountRule {
    /// How many of `all` are hidden.
    pub fn masked(self, all: usize, ratio: f64) -> usize {
        match self {
            Self::KeepFloor => all - super::keep_truncated(all, ratio).min(all),
            Self::MaskedFloor => super::masked_truncated(all, ratio),
            Self::MaskedCeil => super::masked_ceil(all, ratio),
            Self::MaskedRound => super::masked_round(all, ratio),
        }
    }
}

/// What iBOT hides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IbotShape {
    /// Rectangles (`--pred_shape block`).
    #[default]
    Block,
    /// Single tokens (`--pred_shape rand`).
    Random,
}

/// Kinds of masked video-language modelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MvmMode {
    /// Every token with a probability of its own (`rm`).
    Random,
    /// As many cuboids as the clip has time slots (`bm`).
    Block,
    /// The slots a model attends to (`am`); drawn by the model's step, not by the loader.
    Attended,
}

/// One group of V-JEPA's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockGroup {
    /// Blocks.
    pub blocks: u32,
    /// Share of a plane, smallest and largest.
    pub scale: [f64; 2],
    /// Share of the time slots, smallest and largest.
    #[serde(default = "whole")]
    pub time: [f64; 2],
    /// Aspect ratio, smallest and largest.
    #[serde(default = "jepa_aspect")]
    pub aspect: [f64; 2],
    /// Share of the time slots, from the start, that may be seen.
    #[serde(default = "all")]
    pub context: f64,
}

const fn masked_round() -> CountRule {
    CountRule::MaskedRound
}

const fn masked_ceil() -> CountRule {
    CountRule::MaskedCeil
}

const fn aspect() -> [f64; 2] {
    super::block::ASPECT
}

const fn block_tries() -> u32 {
    super::block::TRIES
}

const fn cube_tries() -> u32 {
    super::cube::TRIES
}

const fn cube_unit() -> u32 {
    32
}

const fn bootmae_min() -> u32 {
    16
}

const fn roll() -> u32 {
    super::topped::ROLL
}

const fn half() -> f64 {
    0.5
}

const fn mvm_p() -> f64 {
    0.15
}

fn mvm_modes() -> Vec<MvmMode> {
    vec![MvmMode::Random, MvmMode::Block]
}

const fn whole() -> [f64; 2] {
    [1.0, 1.0]
}

const fn jepa_aspect() -> [f64; 2] {
    [0.75, 1.5]
}

const fn all() -> f64 {
    1.0
}
