//! Words of a recipe that stand for numbers or for a way to compute.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::normalise::{DALLE, IMAGENET, INCEPTION, NONE, Normalise, SLOWFAST};
use crate::resample::Filter;

/// Which part of the flow a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Masked pre-training.
    Pretrain,
    /// Supervised fine-tuning.
    Finetune,
    /// Evaluation: every sample, all its views, in order.
    Eval,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 3] = [Self::Pretrain, Self::Finetune, Self::Eval];

    /// Its table in the recipe.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Finetune => "finetune",
            Self::Eval => "eval",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|stage| stage.name() == s)
            .ok_or_else(|| format!("unknown stage `{s}`; known: pretrain, finetune, eval"))
    }
}

/// The method that a recipe describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// BEiT.
    Beit,
    /// BootMAE.
    Bootmae,
    /// FastMIM.
    Fastmim,
    /// ConvNeXt V2's fully convolutional masked autoencoder.
    Fcmae,
    /// iBOT.
    Ibot,
    /// MAE.
    Mae,
    /// MAE on videos.
    MaeSt,
    /// MaskFeat.
    Maskfeat,
    /// MVD.
    Mvd,
    /// Masked visual modelling beside language: VIOLETv2.
    Mvm,
    /// OmniMAE.
    Omnimae,
    /// SdAE.
    Sdae,
    /// SimMIM.
    Simmim,
    /// SplitMask.
    Splitmask,
    /// Supervised training from scratch: MViT.
    Supervised,
    /// VATT.
    Vatt,
    /// VideoMAE.
    Videomae,
    /// VideoMAE v2.
    VideomaeV2,
    /// V-JEPA.
    Vjepa,
}

impl Method {
    /// Its name in a recipe.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Beit => "beit",
            Self::Bootmae => "bootmae",
            Self::Fastmim => "fastmim",
            Self::Fcmae => "fcmae",
            Self::Ibot => "ibot",
            Self::Mae => "mae",
            Self::MaeSt => "mae-st",
            Self::Maskfeat => "maskfeat",
            Self::Mvd => "mvd",
            Self::Mvm => "mvm",
            Self::Omnimae => "omnimae",
            Self::Sdae => "sdae",
            Self::Simmim => "simmim",
            Self::Splitmask => "splitmask",
            Self::Supervised => "supervised",
            Self::Vatt => "vatt",
            Self::Videomae => "videomae",
            Self::VideomaeV2 => "videomae-v2",
            Self::Vjepa => "vjepa",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Pictures or videos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// Still pictures: one frame a sample.
    Image,
    /// Videos: clips of several frames.
    Video,
}

/// Mean and standard deviation by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormaliseName {
    /// [`IMAGENET`].
    Imagenet,
    /// [`SLOWFAST`].
    Slowfast,
    /// [`INCEPTION`].
    Inception,
    /// [`NONE`]: pixels from 0 to 1.
    None,
    /// [`DALLE`]: what the tokenizer of BEiT reads.
    Dalle,
}

impl NormaliseName {
    /// The numbers.
    pub const fn values(self) -> Normalise {
        match self {
            Self::Imagenet => IMAGENET,
            Self::Slowfast => SLOWFAST,
            Self::Inception => INCEPTION,
            Self::None => NONE,
            Self::Dalle => DALLE,
        }
    }
}

/// Which arithmetic resizes the pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// Pillow's bilinear filter (antialiased).
    Bilinear,
    /// Pillow's bicubic filter (antialiased, a = −0.5).
    Bicubic,
    /// Pillow's Lanczos filter.
    Lanczos,
    /// torch's bilinear interpolation without antialiasing (`align_corners=False`), rounded to the
    /// nearest grey level: SlowFast and mae_st resize float tensors.
    TorchBilinear,
}

impl Resize {
    /// The Pillow filter, where it is one.
    pub const fn pillow(self) -> Option<Filter> {
        match self {
            Self::Bilinear => Some(Filter::Bilinear),
            Self::Bicubic => Some(Filter::Bicubic),
            Self::Lanczos => Some(Filter::Lanczos),
            Self::TorchBilinear => None,
        }
    }
}

/// Arithmetic from a codec's planes to the pixels of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pixels {
    /// As the reference loaders: all of the region to RGB, then Pillow's or torch's resize, rounding
    /// in between.
    Exact,
    /// Planes are resized before they become RGB: on average less than one grey level away from
    /// `Exact`, and the same on every machine. Media without planes (PNG, 10-bit video, rotated
    /// video …) are exact.
    Fast,
}
