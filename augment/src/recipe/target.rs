//! What is to be predicted: as the file says it, and checked.

use serde::{Deserialize, Serialize};
use tubelet_core::{PatchSize, Size};

use super::error::Wrong;
use crate::target::hog::HogSpec;
use crate::target::hog_picture;
use crate::target::pixels::{FrameChoice, PatchNorm, PixelOrder, PixelSpec};

/// What is to be predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TargetFile {
    /// Pixels of the masked tokens.
    Pixels {
        /// The formula.
        norm: PatchNorm,
        /// Which frames.
        #[serde(default)]
        frames: FrameChoice,
        /// Order of the numbers of a token.
        #[serde(default)]
        order: PixelOrder,
    },
    /// What a teacher, tokenizer or second view gives: nothing is computed from the pixels here.
    Teacher {},
    /// Histograms of oriented gradients of the masked tokens: MaskFeat, FastMIM (108 numbers for a
    /// patch of 16, 432 for one of 32).
    Hog {
        /// Orientation bins.
        #[serde(default = "default_bins")]
        bins: u32,
        /// Side of a cell in pixels.
        #[serde(default = "default_cell")]
        cell: u32,
        /// Side of the Gaussian window that weights magnitudes; 0 for none.
        #[serde(default)]
        window: u32,
        /// Whether each channel's histogram of a cell is divided by its norm.
        #[serde(default = "yes")]
        normalise: bool,
    },
    /// scikit-image's picture of the histograms, one number a pixel of the masked tokens: VIOLETv2.
    HogPicture {},
}

const fn default_bins() -> u32 {
    9
}

const fn default_cell() -> u32 {
    8
}

const fn yes() -> bool {
    true
}

/// Which target a batch asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TargetSpec {
    /// No target: fine-tuning, evaluation.
    None,
    /// Pixels.
    Pixels(PixelSpec),
    /// HOG.
    Hog(HogSpec),
    /// The picture of HOG, ordered frame, row, column.
    HogPicture,
}

impl TargetSpec {
    /// Numbers a masked token has, of `frames` frames in `slots` time slots; 0 where there is no
    /// target.
    pub fn dim(&self, patch: PatchSize, frames: u32, slots: u32) -> usize {
        match self {
            Self::None => 0,
            Self::Pixels(spec) => {
                let per_slot = spec.frames.indices(frames).len() / slots.max(1) as usize;
                per_slot * (patch.h * patch.w) as usize * 3
            }
            Self::Hog(spec) => spec.token_dim(patch),
            Self::HogPicture => (patch.t * patch.h * patch.w) as usize,
        }
    }
}

/// Most bins of a histogram of orientations: one a degree.
const MAX_BINS: u32 = 360;

impl TargetFile {
    /// Checks the target of clips of `frames` frames of `size`.
    pub(super) fn check(
        self,
        patch: PatchSize,
        frames: u32,
        size: Size,
    ) -> Result<TargetSpec, Wrong> {
        let side = size.short_side();
        match self {
            Self::Teacher {} => Ok(TargetSpec::None),
            Self::Pixels { norm, frames: choice, order } => {
                let chosen = choice.indices(frames).len() as u32;
                if chosen % (frames / patch.t) != 0 || chosen == 0 {
                    let valid = format!("{chosen} frames cannot be shared by the time slots");
                    return Err(Wrong::new("target.frames", format!("{choice:?}"), valid));
                }
                Ok(TargetSpec::Pixels(PixelSpec { norm, frames: choice, order }))
            }
            Self::Hog { bins, cell, window, normalise } => {
                let wrong = |key, value: u32, valid| Err(Wrong::new(key, value.to_string(), valid));
                if !(1..=MAX_BINS).contains(&bins) {
                    return wrong("target.bins", bins, format!("1 to {MAX_BINS}"));
                }
                if cell == 0 || patch.h % cell != 0 || patch.w % cell != 0 {
                    let valid = format!("must divide the patch of {}x{}", patch.h, patch.w);
                    return wrong("target.cell", cell, valid);
                }
                if side < 2 {
                    let valid = "a picture of at least 2 pixels, whose border is a reflection";
                    return Err(Wrong::new("target.kind", "hog", valid));
                }
                if window > side {
                    let valid = format!("0 for none, or at most the picture's {side}");
                    return wrong("target.window", window, valid);
                }
                let spec = HogSpec { bins, cell, gaussian_window: window, normalise };
                Ok(TargetSpec::Hog(spec))
            }
            Self::HogPicture {} if side < hog_picture::CELL as u32 => {
                let valid = format!("a picture of at least {} pixels", hog_picture::CELL);
                Err(Wrong::new("target.kind", "hog-picture", valid))
            }
            Self::HogPicture {} => Ok(TargetSpec::HogPicture),
        }
    }
}
