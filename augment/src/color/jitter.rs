//! Random colour changes of torchvision and iBOT, drawn into plain operations.

use serde::{Deserialize, Serialize};
use tubelet_core::SampleRng;

use super::ColorOp;

/// torchvision's `ColorJitter`, applied with a probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColorJitter {
    /// Brightness factor 1 ± this.
    #[serde(default)]
    pub brightness: f64,
    /// Contrast factor 1 ± this.
    #[serde(default)]
    pub contrast: f64,
    /// Saturation factor 1 ± this.
    #[serde(default)]
    pub saturation: f64,
    /// Hue turned by at most this share of the circle.
    #[serde(default)]
    pub hue: f64,
    /// Probability of the whole.
    #[serde(default = "always")]
    pub probability: f64,
}

/// Gaussian blur with a random standard deviation, applied with a probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blur {
    /// Probability.
    pub probability: f64,
    /// Standard deviation in pixels, smallest and largest.
    #[serde(default = "default_sigma")]
    pub sigma: [f64; 2],
}

/// Inversion of bright values, applied with a probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Solarize {
    /// Probability.
    pub probability: f64,
    /// First value that is inverted.
    #[serde(default = "default_threshold")]
    pub threshold: u16,
}

const fn always() -> f64 {
    1.0
}

const fn default_sigma() -> [f64; 2] {
    [0.1, 2.0]
}

const fn default_threshold() -> u16 {
    128
}

impl ColorJitter {
    /// Four factors and their order; an operation of width 0 is left out.
    pub fn draw(&self, rng: &mut SampleRng) -> Vec<ColorOp> {
        let factor =
            |width: f64, rng: &mut SampleRng| rng.uniform((1.0 - width).max(0.0), 1.0 + width);
        let applied = rng.coin(self.probability);
        let mut ops = [
            (self.brightness, ColorOp::Brightness(factor(self.brightness, rng))),
            (self.contrast, ColorOp::Contrast(factor(self.contrast, rng))),
            (self.saturation, ColorOp::Saturation(factor(self.saturation, rng))),
            (self.hue, ColorOp::Hue(rng.uniform(-self.hue, self.hue))),
        ];
        rng.shuffle(&mut ops);
        ops.into_iter().filter(|(width, _)| applied && *width > 0.0).map(|(_, op)| op).collect()
    }
}

impl Blur {
    /// A blur or none.
    pub fn draw(&self, rng: &mut SampleRng) -> Option<ColorOp> {
        let (applied, sigma) =
            (rng.coin(self.probability), rng.uniform(self.sigma[0], self.sigma[1]));
        applied.then_some(ColorOp::GaussianBlur(sigma))
    }
}

impl Solarize {
    /// An inversion or none.
    pub fn draw(&self, rng: &mut SampleRng) -> Option<ColorOp> {
        rng.coin(self.probability).then_some(ColorOp::Solarize(self.threshold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tubelet_core::Draw;

    #[test]
    fn factors_stay_in_their_range_and_orders_vary() {
        let jitter = ColorJitter {
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.2,
            hue: 0.1,
            probability: 0.8,
        };
        let (mut applied, mut brightness_first) = (0, 0);
        for sample in 0..4000 {
            let ops = jitter.draw(&mut SampleRng::new(1, 0, sample, 0, Draw::Color));
            applied += usize::from(!ops.is_empty());
            brightness_first += usize::from(matches!(ops.first(), Some(ColorOp::Brightness(_))));
            for op in ops {
                let inside = match op {
                    ColorOp::Brightness(f) | ColorOp::Contrast(f) => (0.6..=1.4).contains(&f),
                    ColorOp::Saturation(f) => (0.8..=1.2).contains(&f),
                    ColorOp::Hue(t) => (-0.1..=0.1).contains(&t),
                    _ => false,
                };
                assert!(inside, "{op:?}");
            }
        }
        // Binomial(4000, 0.8): sigma 25; (4000, 0.2): sigma 25; four sigma.
        assert!((3100..=3300).contains(&applied), "{applied}");
        assert!((700..=900).contains(&brightness_first), "{brightness_first}");
    }
}
