//! RandAugment by policy string, as timm and SlowFast read it (`rand_augment.py`).
//!
//! `rand-m7-n4-mstd0.5-inc1`: magnitude 7 of 10 with normal noise of 0.5, four operations, each
//! applied with probability ½, drawn with replacement from the set whose strength grows with the
//! magnitude.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tubelet_core::SampleRng;

use super::ColorOp;

/// Largest magnitude.
pub const MAX_LEVEL: f64 = 10.0;
/// Probability of each chosen operation.
const APPLIED: f64 = 0.5;

/// A policy string, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RandAugment {
    /// Magnitude, 0 to [`MAX_LEVEL`].
    pub magnitude: f64,
    /// Operations a sample.
    pub layers: u32,
    /// Standard deviation of the magnitude.
    pub deviation: f64,
    /// Whether every operation grows stronger with the magnitude.
    pub increasing: bool,
}

impl FromStr for RandAugment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('-');
        if parts.next() != Some("rand") {
            return Err(format!("`{text}` does not start with `rand`; {KNOWN}"));
        }
        let mut policy = Self { magnitude: 10.0, layers: 2, deviation: 0.0, increasing: false };
        let mut seen: Vec<&str> = Vec::new();
        for part in parts {
            let digits = part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len());
            let (key, value) = part.split_at(digits);
            if seen.contains(&key) {
                return Err(format!("`{key}` is there twice; {KNOWN}"));
            }
            seen.push(key);
            policy.set(key, value).ok_or_else(|| format!("`{part}` is not known; {KNOWN}"))?;
        }
        Ok(policy)
    }
}

/// What a policy may say.
const KNOWN: &str = "known: rand, m<magnitude 0-10>, n<operations 1-15>, mstd<noise>, inc1, \
                     joined by `-` as in rand-m9-mstd0.5-inc1";

impl RandAugment {
    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "m" => self.magnitude = value.parse::<u32>().ok().filter(|m| *m <= 10)?.into(),
            "n" => self.layers = value.parse().ok().filter(|n| (1..=15).contains(n))?,
            "mstd" => self.deviation = value.parse().ok().filter(|s: &f64| s.is_finite())?,
            // The reference takes any text as yes, 0 too: only the one nobody misreads is allowed.
            "inc" if value == "1" => self.increasing = true,
            _ => return None,
        }
        Some(())
    }

    /// The operations of one sample.
    pub fn draw(&self, rng: &mut SampleRng) -> Vec<ColorOp> {
        let mut ops = Vec::new();
        for _ in 0..self.layers {
            let name = OpName::ALL[rng.below(OpName::ALL.len() as u32) as usize];
            // Drawn whether used or not, so that a sample's later draws do not move.
            let (applied, noise, negative) = (rng.coin(APPLIED), rng.normal(), rng.coin(0.5));
            if applied {
                let level = (self.magnitude + noise * self.deviation).clamp(0.0, MAX_LEVEL);
                let sign = if negative { -1.0 } else { 1.0 };
                ops.push(name.at(level, sign, self.increasing));
            }
        }
        ops
    }
}

impl TryFrom<String> for RandAugment {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RandAugment> for String {
    fn from(policy: RandAugment) -> Self {
        let RandAugment { magnitude, layers, deviation, increasing } = policy;
        let mut text = format!("rand-m{magnitude}-n{layers}");
        if deviation != 0.0 {
            text += &format!("-mstd{deviation}");
        }
        if increasing {
            text += "-inc1";
        }
        text
    }
}

/// The operations of both sets, in the reference's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of ColorOp")]
pub enum OpName {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Color,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateXRel,
    TranslateYRel,
}

impl OpName {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
        Self::Rotate,
        Self::Posterize,
        Self::Solarize,
        Self::SolarizeAdd,
        Self::Color,
        Self::Contrast,
        Self::Brightness,
        Self::Sharpness,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateXRel,
        Self::TranslateYRel,
    ];

    /// Its name in the reference's set.
    pub fn name(self, increasing: bool) -> String {
        let grows = matches!(
            self,
            Self::Posterize
                | Self::Solarize
                | Self::Color
                | Self::Contrast
                | Self::Brightness
                | Self::Sharpness
        );
        format!("{self:?}{}", if increasing && grows { "Increasing" } else { "" })
    }

    /// The operation at `level` 0 to 10; `sign` is ±1 where the reference draws one.
    pub fn at(self, level: f64, sign: f64, increasing: bool) -> ColorOp {
        let factor = || if increasing { enhance_increasing(level, sign) } else { enhance(level) };
        match self {
            Self::AutoContrast => ColorOp::AutoContrast,
            Self::Equalize => ColorOp::Equalize,
            Self::Invert => ColorOp::Invert,
            Self::Rotate => ColorOp::Rotate(sign * rotate(level)),
            Self::Posterize if increasing => ColorOp::Posterize(posterize_increasing(level)),
            Self::Posterize => ColorOp::Posterize(posterize(level)),
            Self::Solarize if increasing => ColorOp::Solarize(solarize_increasing(level)),
            Self::Solarize => ColorOp::Solarize(solarize(level)),
            Self::SolarizeAdd => ColorOp::SolarizeAdd(solarize_add(level)),
            Self::Color => ColorOp::Saturation(factor()),
            Self::Contrast => ColorOp::Contrast(factor()),
            Self::Brightness => ColorOp::Brightness(factor()),
            Self::Sharpness => ColorOp::Sharpness(factor()),
            Self::ShearX => ColorOp::ShearX(sign * shear(level)),
            Self::ShearY => ColorOp::ShearY(sign * shear(level)),
            Self::TranslateXRel => ColorOp::TranslateX(sign * translate_share(level)),
            Self::TranslateYRel => ColorOp::TranslateY(sign * translate_share(level)),
        }
    }
}

/// Degrees.
pub fn rotate(level: f64) -> f64 {
    level / MAX_LEVEL * 30.0
}

/// Factor of an enhancement, 0.1 to 1.9.
pub fn enhance(level: f64) -> f64 {
    level / MAX_LEVEL * 1.8 + 0.1
}

/// Factor of an enhancement that moves away from 1 with the level.
pub fn enhance_increasing(level: f64, sign: f64) -> f64 {
    1.0 + sign * (level / MAX_LEVEL * 0.9)
}

/// Columns a row, or rows a column.
pub fn shear(level: f64) -> f64 {
    level / MAX_LEVEL * 0.3
}

/// Share of the width or height.
pub fn translate_share(level: f64) -> f64 {
    level / MAX_LEVEL * 0.45
}

/// Bits kept.
pub fn posterize(level: f64) -> u8 {
    (level / MAX_LEVEL * 4.0) as u8
}

/// Bits kept, fewer with the level.
pub fn posterize_increasing(level: f64) -> u8 {
    4 - posterize(level)
}

/// Bits kept in AutoAugment's original policy.
pub fn posterize_original(level: f64) -> u8 {
    posterize(level) + 4
}

/// First value that is inverted.
pub fn solarize(level: f64) -> u16 {
    (level / MAX_LEVEL * 256.0) as u16
}

/// First value that is inverted, lower with the level.
pub fn solarize_increasing(level: f64) -> u16 {
    256 - solarize(level)
}

/// What is added to dark values.
pub fn solarize_add(level: f64) -> i16 {
    (level / MAX_LEVEL * 110.0) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use tubelet_core::Draw;

    #[test]
    fn policies_are_read_and_written() {
        let policy: RandAugment = "rand-m7-n4-mstd0.5-inc1".parse().expect("valid");
        let want = RandAugment { magnitude: 7.0, layers: 4, deviation: 0.5, increasing: true };
        assert_eq!(policy, want);
        assert_eq!(String::from(policy), "rand-m7-n4-mstd0.5-inc1");
        let policy: RandAugment = "rand-m9".parse().expect("valid");
        assert_eq!((policy.layers, policy.increasing), (2, false));
        for (bad, says) in [
            ("augmix-m3", "rand"),
            ("rand-m11", "m11"),
            ("rand-w0", "w0"),
            ("rand-m9-inc0", "inc0"),
            ("rand-m9-m8", "twice"),
            ("rand-m9-mstdfoo", "mstdfoo"),
            ("rand-n0", "n0"),
        ] {
            let error = bad.parse::<RandAugment>().expect_err(bad);
            assert!(error.contains(says) && error.contains("known:"), "{bad}: {error}");
        }
    }

    /// Half of the layers are applied, every operation as often as the others, signs even.
    #[test]
    fn operations_are_drawn_evenly() {
        let policy: RandAugment = "rand-m9-n2-mstd0.5-inc1".parse().expect("valid");
        let (mut total, mut rotations, mut negative, mut levels) = (0usize, 0usize, 0usize, 0.0);
        for sample in 0..40_000 {
            let ops = policy.draw(&mut SampleRng::new(3, 0, sample, 0, Draw::Color));
            total += ops.len();
            for op in ops {
                if let ColorOp::Rotate(degrees) = op {
                    rotations += 1;
                    negative += usize::from(degrees < 0.0);
                    levels += degrees.abs() / 3.0;
                }
            }
        }
        // Binomial(80000, 1/2): sigma 141; (80000, 1/30): sigma 51; four sigma each.
        assert!(total.abs_diff(40_000) < 566, "{total}");
        assert!(rotations.abs_diff(2_667) < 204, "{rotations}");
        assert!((negative as f64 / rotations as f64 - 0.5).abs() < 0.04);
        // Clipping at 10 takes a little from the mean of 9.
        let mean = levels / rotations as f64;
        assert!((8.93..9.02).contains(&mean), "{mean}");
    }
}
