//! The `augment` table of a stage or a view.

use serde::{Deserialize, Serialize};
use tubelet_core::SampleRng;

use super::error::Wrong;
use super::{Media, Stage};
use crate::color::jitter::{Blur, ColorJitter, Solarize};
use crate::color::randaugment::RandAugment;
use crate::color::{Canvas, ColorOp, Interpolation};
use crate::erase::EraseSpec;
use crate::mix::{MixMode, MixSpec};
use crate::normalise::Normalise;

/// When colour operations happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// On the whole decoded frame, before the crop: SlowFast, VideoMAE.
    Source,
    /// On the view, after crop, resize and mirroring: timm, iBOT.
    Cropped,
}

/// Changes of the pixels besides crop and mirroring, in the order in which they happen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentFile {
    /// RandAugment policy such as `rand-m9-mstd0.5-inc1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub randaugment: Option<RandAugment>,
    /// Brightness, contrast, saturation and hue in random order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color_jitter: Option<ColorJitter>,
    /// Probability of losing all colour.
    #[serde(skip_serializing_if = "is_zero")]
    pub grayscale: f64,
    /// Gaussian blur.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blur: Option<Blur>,
    /// Inversion of bright values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solarize: Option<Solarize>,
    /// When all of the above happens; `source` for videos with RandAugment, else `cropped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Interpolation of rotations, shears and shifts; bicubic where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpolation: Option<Interpolation>,
    /// Colour of what they uncover; the mean colour for pictures and 128 for videos where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fill: Option<[u8; 3]>,
    /// Random erasing, after normalisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erase: Option<EraseSpec>,
    /// Mixup's α; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub mixup: f64,
    /// CutMix's α; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub cutmix: f64,
    /// Probability that anything is mixed; 1 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mix_probability: Option<f64>,
    /// Probability of CutMix where both are on; ½ where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch: Option<f64>,
    /// Whether rows share their draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<MixMode>,
    /// Rows among which partners are found; all of the batch where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mix_group: Option<u32>,
    /// Label smoothing of mixed targets.
    #[serde(skip_serializing_if = "is_zero")]
    pub smoothing: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

/// Colour operations of a view, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ColorSpec {
    randaugment: Option<RandAugment>,
    jitter: Option<ColorJitter>,
    grayscale: f64,
    blur: Option<Blur>,
    solarize: Option<Solarize>,
    /// When they happen.
    pub place: Place,
    /// What geometric operations need.
    pub canvas: Canvas,
}

impl ColorSpec {
    /// The operations of one sample.
    pub(crate) fn draw(&self, rng: &mut SampleRng) -> Vec<ColorOp> {
        let mut ops = self.randaugment.map(|r| r.draw(rng)).unwrap_or_default();
        ops.extend(self.jitter.map(|j| j.draw(rng)).unwrap_or_default());
        ops.extend(rng.coin(self.grayscale).then_some(ColorOp::Grayscale));
        ops.extend(self.blur.and_then(|b| b.draw(rng)));
        ops.extend(self.solarize.and_then(|s| s.draw(rng)));
        ops
    }
}

impl AugmentFile {
    /// The colour operations, checked; `None` where there are none.
    pub(super) fn colors(
        &self,
        key: &str,
        media: Media,
        normalise: &Normalise,
    ) -> Result<Option<ColorSpec>, Wrong> {
        self.check_colors(key)?;
        let any = self.randaugment.is_some()
            || self.color_jitter.is_some()
            || self.grayscale > 0.0
            || self.blur.is_some()
            || self.solarize.is_some();
        if !any {
            for (name, set) in [
                ("place", self.place.is_some()),
                ("interpolation", self.interpolation.is_some()),
                ("fill", self.fill.is_some()),
            ] {
                if set {
                    let valid = "only beside a colour operation (randaugment, color_jitter, …)";
                    return Err(Wrong::new(format!("{key}.{name}"), "set", valid));
                }
            }
            return Ok(None);
        }
        let video_policy = media == Media::Video && self.randaugment.is_some();
        let mean = normalise.mean.map(|m| (f64::from(m) * 255.0).round().clamp(0.0, 255.0) as u8);
        let fill = if media == Media::Video { [128; 3] } else { mean };
        Ok(Some(ColorSpec {
            randaugment: self.randaugment,
            jitter: self.color_jitter,
            grayscale: self.grayscale,
            blur: self.blur,
            solarize: self.solarize,
            place: self.place.unwrap_or(if video_policy { Place::Source } else { Place::Cropped }),
            canvas: Canvas {
                interpolation: self.interpolation.unwrap_or_default(),
                fill: self.fill.unwrap_or(fill),
            },
        }))
    }

    fn check_colors(&self, key: &str) -> Result<(), Wrong> {
        probability(&format!("{key}.grayscale"), self.grayscale)?;
        if let Some(jitter) = &self.color_jitter {
            probability(&format!("{key}.color_jitter.probability"), jitter.probability)?;
            for (name, width, most) in [
                ("brightness", jitter.brightness, f64::MAX),
                ("contrast", jitter.contrast, f64::MAX),
                ("saturation", jitter.saturation, f64::MAX),
                ("hue", jitter.hue, 0.5),
            ] {
                if !(0.0..=most).contains(&width) {
                    let valid = if most < 1.0 { "0 to 0.5" } else { "0 or more" };
                    let key = format!("{key}.color_jitter.{name}");
                    return Err(Wrong::new(key, width.to_string(), valid));
                }
            }
        }
        if let Some(blur) = &self.blur {
            probability(&format!("{key}.blur.probability"), blur.probability)?;
            let [low, high] = blur.sigma;
            if !(0.0 <= low && low <= high && high <= MAX_SIGMA) {
                let valid = format!("0 <= smallest <= largest <= {MAX_SIGMA}");
                return Err(Wrong::new(
                    format!("{key}.blur.sigma"),
                    format!("{:?}", blur.sigma),
                    valid,
                ));
            }
        }
        if let Some(solarize) = &self.solarize {
            probability(&format!("{key}.solarize.probability"), solarize.probability)?;
            if solarize.threshold > 256 {
                let key = format!("{key}.solarize.threshold");
                return Err(Wrong::new(key, solarize.threshold.to_string(), "0 to 256"));
            }
        }
        Ok(())
    }

    /// Random erasing, checked.
    pub(super) fn erase(&self, stage: Stage) -> Result<Option<EraseSpec>, Wrong> {
        let Some(erase) = &self.erase else { return Ok(None) };
        let wrong = |name: &str, value: String, valid: &str| {
            Err(Wrong::new(format!("augment.erase{name}"), value, valid))
        };
        if stage != Stage::Finetune {
            return wrong("", format!("{erase:?}"), "only for finetune");
        }
        probability("augment.erase.probability", erase.probability)?;
        if !(1..=MAX_BOXES).contains(&erase.count) {
            return wrong(".count", erase.count.to_string(), &format!("1 to {MAX_BOXES}"));
        }
        let [low, high] = erase.area;
        if !(0.0 < low && low <= high && high <= 1.0) {
            return wrong(".area", format!("{:?}", erase.area), "0 < smallest <= largest <= 1");
        }
        if !(erase.min_aspect > 0.0 && erase.min_aspect <= 1.0) {
            return wrong(".min_aspect", erase.min_aspect.to_string(), "above 0, at most 1");
        }
        Ok(Some(*erase))
    }

    /// Mixup and CutMix, checked; `None` where neither is on.
    pub(super) fn mix(&self, stage: Stage, rows: u32) -> Result<Option<MixSpec>, Wrong> {
        let spec = MixSpec {
            mixup: self.mixup,
            cutmix: self.cutmix,
            probability: self.mix_probability.unwrap_or(1.0),
            switch: self.switch.unwrap_or(0.5),
            mode: self.mode.unwrap_or_default(),
            group: self.mix_group.unwrap_or(0),
            smoothing: self.smoothing,
        };
        let wrong = |name: &str, value: &dyn std::fmt::Debug, valid: &str| {
            Err(Wrong::new(format!("augment.{name}"), format!("{value:?}"), valid))
        };
        for (name, alpha) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            if !(alpha >= 0.0 && alpha.is_finite()) {
                return wrong(name, &alpha, "0 (none) or more");
            }
            if alpha > 0.0 && stage != Stage::Finetune {
                return wrong(name, &alpha, "only for finetune");
            }
        }
        if !spec.is_on() {
            for (name, set) in [
                ("mix_probability", self.mix_probability.is_some()),
                ("switch", self.switch.is_some()),
                ("mode", self.mode.is_some()),
                ("mix_group", self.mix_group.is_some()),
                ("smoothing", self.smoothing != 0.0),
            ] {
                if set {
                    return wrong(name, &"set", "only beside mixup or cutmix");
                }
            }
            return Ok(None);
        }
        probability("augment.mix_probability", spec.probability)?;
        probability("augment.switch", spec.switch)?;
        if self.switch.is_some() && (self.mixup == 0.0 || self.cutmix == 0.0) {
            return wrong("switch", &spec.switch, "only where both mixup and cutmix are on");
        }
        if !(0.0..1.0).contains(&spec.smoothing) {
            return wrong("smoothing", &spec.smoothing, "at least 0, below 1");
        }
        let group = self.mix_group.unwrap_or(rows);
        if group < 2 || rows % group != 0 {
            let valid = format!("at least 2 and a divisor of batch_size {rows}");
            return wrong("mix_group", &group, &valid);
        }
        if spec.mode == MixMode::Pair && group % 2 != 0 {
            return wrong("mode", &spec.mode, "pair needs an even number of rows");
        }
        Ok(Some(spec))
    }
}

/// Largest blur in pixels.
const MAX_SIGMA: f64 = 64.0;
/// Most erased boxes a row.
const MAX_BOXES: u32 = 16;

fn probability(key: &str, value: f64) -> Result<(), Wrong> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(Wrong::new(key, value.to_string(), "must be a probability, 0 to 1"))
}
