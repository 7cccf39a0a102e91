//! The crop rules a recipe can name.

use serde::{Deserialize, Serialize};

use super::Stage;
use super::error::Wrong;
use crate::crop::{Along, Places};

/// How the region is chosen and how large it becomes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CropRule {
    /// A random box of a random area and aspect, resized to `size`²: torchvision, timm, SlowFast.
    /// In a bucket the box's aspect is the bucket's times what is drawn.
    RandomResized {
        /// Side of the result.
        size: u32,
        /// Share of the area, smallest and largest.
        scale: [f64; 2],
        /// Aspect ratio over that of the result, smallest and largest.
        #[serde(default = "default_ratio")]
        ratio: [f64; 2],
    },
    /// The same drawn once and cut to the picture, as BYOL and MAE's linear probe do.
    RandomResizedOnce {
        /// Side of the result.
        size: u32,
        /// Share of the area, smallest and largest.
        scale: [f64; 2],
        /// Aspect ratio over that of the result, smallest and largest.
        #[serde(default = "default_ratio")]
        ratio: [f64; 2],
    },
    /// VideoMAE's GroupMultiScaleCrop, resized to `size`².
    MultiScale {
        /// Side of the result.
        size: u32,
        /// Shares of the shorter side.
        #[serde(default = "default_scales")]
        scales: Vec<f64>,
        /// Largest distance in that list between the width's and the height's share.
        #[serde(default = "default_distort")]
        max_distort: u32,
        /// Where the box may lie.
        #[serde(default)]
        places: Places,
    },
    /// The largest box of the result's aspect, resized: nothing is distorted.
    Largest {
        /// Side of the result.
        size: u32,
        /// Where the box lies along the side that it does not fill.
        #[serde(default)]
        place: Along,
    },
    /// SlowFast's scale jitter: the shorter side to a random length, then a random `size`².
    ShortSideJitter {
        /// Side of the result.
        size: u32,
        /// Shortest length of the shorter side.
        min: u32,
        /// Longest length of the shorter side.
        max: u32,
        /// Uniform in 1/length instead of the length.
        #[serde(default)]
        inverse: bool,
    },
    /// Shorter side to `resize`, then a random `size`²: torchvision's `Resize` and `RandomCrop`.
    Random {
        /// Side of the result.
        size: u32,
        /// Shorter side before the crop.
        resize: u32,
    },
    /// The whole frame resized to `size`², whatever its aspect: ConvNeXt V2's evaluation from 384 on.
    Warp {
        /// Side of the result.
        size: u32,
    },
    /// Shorter side to `resize`, then the middle `size`².
    Center {
        /// Side of the result.
        size: u32,
        /// Shorter side before the crop.
        resize: u32,
    },
    /// Shorter side to `size`, then `crops` squares along the longer side, as VideoMAE evaluates.
    Along {
        /// Side of the result.
        size: u32,
        /// Squares: 1 (middle) or 3 (both ends and middle).
        crops: u32,
    },
    /// Shorter side to `resize`, then `crops` squares along the longer side with the middle rounded
    /// up, as SlowFast and mae_st evaluate.
    AlongSlowfast {
        /// Side of the result.
        size: u32,
        /// Shorter side before the crop; `size` where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resize: Option<u32>,
        /// Squares: 1 (middle) or 3 (both ends and middle).
        crops: u32,
    },
}

const fn default_ratio() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}

fn default_scales() -> Vec<f64> {
    vec![1.0, 0.875, 0.75, 0.66]
}

const fn default_distort() -> u32 {
    1
}

impl CropRule {
    /// Side of the result.
    pub const fn size(&self) -> u32 {
        match self {
            Self::RandomResized { size, .. }
            | Self::RandomResizedOnce { size, .. }
            | Self::MultiScale { size, .. }
            | Self::Largest { size, .. }
            | Self::ShortSideJitter { size, .. }
            | Self::Random { size, .. }
            | Self::Warp { size }
            | Self::Center { size, .. }
            | Self::Along { size, .. }
            | Self::AlongSlowfast { size, .. } => *size,
        }
    }

    /// Whether the region is cut out of the source before anything is resized.
    pub(super) const fn crops_first(&self) -> bool {
        matches!(
            self,
            Self::RandomResized { .. }
                | Self::RandomResizedOnce { .. }
                | Self::MultiScale { .. }
                | Self::Largest { .. }
        )
    }

    /// Crops a frame gives for evaluation; 1 for rules that draw.
    pub const fn crops(&self) -> u32 {
        match self {
            Self::Along { crops, .. } | Self::AlongSlowfast { crops, .. } => *crops,
            _ => 1,
        }
    }

    /// Refuses values that no picture could satisfy.
    pub(super) fn check(&self, stage: Stage) -> Result<(), Wrong> {
        let wrong = |key: &str, value: &dyn std::fmt::Debug, valid: &str| {
            Err(Wrong::new(format!("crop.{key}"), format!("{value:?}"), valid))
        };
        if !(1..=MAX_SIDE).contains(&self.size()) {
            return wrong("size", &self.size(), &format!("1 to {MAX_SIDE}"));
        }
        match self {
            Self::RandomResized { scale, ratio, .. }
            | Self::RandomResizedOnce { scale, ratio, .. } => {
                if !(0.0 < scale[0] && scale[0] <= scale[1] && scale[1] <= 1.0) {
                    return wrong("scale", scale, "0 < smallest <= largest <= 1");
                }
                if !(0.0 < ratio[0] && ratio[0] <= ratio[1] && ratio[1].is_finite()) {
                    return wrong("ratio", ratio, "0 < smallest <= largest");
                }
            }
            Self::MultiScale { scales, .. } => {
                if scales.is_empty() || scales.iter().any(|s| !(*s > 0.0 && *s <= 1.0)) {
                    return wrong("scales", scales, "shares above 0, at most 1");
                }
            }
            Self::ShortSideJitter { size, min, max, .. } => {
                if !(size <= min && min <= max && *max <= MAX_SIDE) {
                    let valid = format!("crop.size {size} <= min <= max <= {MAX_SIDE}");
                    return wrong("min and max", &[*min, *max], &valid);
                }
            }
            Self::Random { size, resize } | Self::Center { size, resize } => {
                if !(*size..=MAX_SIDE).contains(resize) {
                    let valid = format!("at least crop.size, at most {MAX_SIDE}");
                    return wrong("resize", resize, &valid);
                }
            }
            Self::Along { .. } | Self::Largest { .. } | Self::Warp { .. } => {}
            Self::AlongSlowfast { size, resize, .. } => {
                if resize.is_some_and(|resize| !(*size..=MAX_SIDE).contains(&resize)) {
                    let valid = format!("at least crop.size, at most {MAX_SIDE}");
                    return wrong("resize", resize, &valid);
                }
            }
        }
        match self.crops() {
            1 => Ok(()),
            3 if stage == Stage::Eval => Ok(()),
            3 => wrong("crops", &3, "several crops are for eval"),
            crops => wrong("crops", &crops, "1 or 3"),
        }
    }
}

/// Longest side a recipe may resize to.
pub(super) const MAX_SIDE: u32 = 1 << 14;
