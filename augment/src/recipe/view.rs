//! Views of a row: the first is described by the stage itself, more by `[[stage.views]]`.

use serde::{Deserialize, Serialize};
use tubelet_core::{PatchGrid, Size};

use super::augment::{AugmentFile, ColorSpec};
use super::crop_rule::MAX_SIDE;
use super::error::Wrong;
use super::{CropRule, NormaliseName, Resize};
use crate::normalise::Normalise;
use crate::policy::MaskPolicy;

/// One further view, or several alike, as the file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewFile {
    /// How many views of this kind.
    #[serde(default = "one")]
    pub count: u32,
    /// A region of its own. Without it the view has the first view's region, mirroring and colours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<CropRule>,
    /// Side of the result, for a view of the first one's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// Probability of mirroring, for a view with a region of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flip: Option<f64>,
    /// How pixels are resized.
    pub resize: Resize,
    /// Mean and standard deviation; the recipe's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalise: Option<NormaliseName>,
    /// Whether a mask by the stage's rule is drawn for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mask: bool,
    /// Colour operations, for a view with a region of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<AugmentFile>,
}

const fn one() -> u32 {
    1
}

/// Where a view's region comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Region {
    /// Its own draw.
    Own(CropRule),
    /// The first view's.
    First,
}

/// One view, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewSpec {
    /// Where its region comes from.
    pub region: Region,
    /// Size in the slot.
    pub size: Size,
    /// Tokens, rounded down where the patch does not divide the size of an unmasked view.
    pub grid: PatchGrid,
    /// Probability of mirroring.
    pub flip: f64,
    /// How pixels are resized.
    pub resize: Resize,
    /// Mean and standard deviation.
    pub normalise: Normalise,
    /// Colour operations.
    pub colors: Option<ColorSpec>,
    /// Which tokens are hidden.
    pub mask: MaskPolicy,
}

impl ViewFile {
    /// Side of the result.
    pub(super) fn side(&self, key: &str) -> Result<u32, Wrong> {
        match (&self.crop, self.size) {
            (Some(crop), None) => Ok(crop.size()),
            (None, Some(size)) if (1..=MAX_SIDE).contains(&size) => Ok(size),
            (None, size) => {
                let value = size.map_or_else(|| "absent".to_owned(), |s| s.to_string());
                let valid = format!(
                    "a view has either a crop of its own or, of the first one's, a size of 1 to {MAX_SIDE}"
                );
                Err(Wrong::new(format!("{key}.size"), value, valid))
            }
            (Some(_), Some(size)) => {
                let valid = "crop.size says it already";
                Err(Wrong::new(format!("{key}.size"), size.to_string(), valid))
            }
        }
    }

    /// Refuses what a view of the first one's region cannot have.
    pub(super) fn check_shared(&self, key: &str, first: &CropRule) -> Result<(), Wrong> {
        if self.crop.is_some() {
            return Ok(());
        }
        let wrong =
            |name: &str, valid: &str| Err(Wrong::new(format!("{key}.{name}"), "set", valid));
        let valid = "only for a view with a crop of its own: this one has the first view's";
        if self.flip.is_some() {
            return wrong("flip", valid);
        }
        if self.augment.is_some() {
            return wrong("augment", valid);
        }
        if self.count != 1 {
            return wrong("count", valid);
        }
        if !first.crops_first() {
            let valid = "needs a first crop that cuts before it resizes: random-resized, \
                         random-resized-once, multi-scale or largest";
            return Err(Wrong::new(format!("{key}.crop"), "absent", valid));
        }
        Ok(())
    }
}
