//! Aspect-ratio buckets: shapes that a batch has because of what its samples look like.
//!
//! Every sample belongs to the bucket whose aspect is nearest to its own in the logarithm, by its
//! stored width and height; every batch is of one bucket. The reference loaders of this kind
//! (Stable Diffusion XL's, NovelAI's) cut the largest box of the bucket's aspect out of a picture;
//! here that is the crop rule `largest`, and the random crops take their ratios relative to the
//! bucket's aspect.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tubelet_core::{PatchSize, Size};

use super::Recipe;
use super::crop_rule::MAX_SIDE;
use super::error::Wrong;

/// Most buckets of a stage.
const MOST: usize = 64;

/// The buckets as the file has them: either `shapes`, or `ratios` and one of `area` and `tokens`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BucketsFile {
    /// Height and width of each, in pixels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shapes: Vec<[u32; 2]>,
    /// Width over height of each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ratios: Vec<f64>,
    /// Most pixels of a shape that follows from its ratio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub area: Option<u32>,
    /// Most patches of a frame of such a shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u32>,
    /// What the sides of such a shape are multiples of, in pixels; the patch where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<u32>,
    /// Where a sample belongs whose width and height are not stored.
    pub unknown: Unknown,
}

/// Where a sample belongs whose width and height are not stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// Nowhere: the loader refuses the data set and names the first such sample.
    #[default]
    Refuse,
    /// The bucket nearest to a square.
    Squarest,
}

/// The buckets of a stage, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    /// One checked recipe a bucket, in the file's order; at least one.
    pub shapes: Vec<Arc<Recipe>>,
    /// Where a sample belongs whose width and height are not stored.
    pub unknown: Unknown,
}

impl Buckets {
    /// The bucket of a sample of `size`: that of the nearest log aspect, the first of equals.
    pub fn of(&self, size: Size) -> usize {
        let aspect = |size: Size| (f64::from(size.width) / f64::from(size.height)).ln();
        let own = aspect(size);
        let distance = |n: usize| (aspect(self.shapes[n].size()) - own).abs();
        let nearer = |best: usize, n: usize| if distance(n) < distance(best) { n } else { best };
        (1..self.shapes.len()).fold(0, nearer)
    }

    /// The bucket nearest to a square.
    pub fn squarest(&self) -> usize {
        self.of(Size::square(1))
    }
}

impl BucketsFile {
    /// The sizes, each a multiple of the patch.
    pub(super) fn sizes(&self, patch: PatchSize) -> Result<Vec<Size>, Wrong> {
        let sizes = if self.ratios.is_empty() { self.listed()? } else { self.derived(patch)? };
        let key = if self.ratios.is_empty() { "shapes" } else { "ratios" };
        if sizes.len() > MOST {
            return wrong(key, &sizes.len(), format!("at most {MOST}"));
        }
        for (n, size) in sizes.iter().enumerate() {
            let key = format!("{key}[{n}]");
            let [h, w] = [size.height, size.width];
            let sound = |side: u32, patch: u32| {
                (1..=MAX_SIDE).contains(&side) && side.checked_rem(patch) == Some(0)
            };
            if !sound(h, patch.h) || !sound(w, patch.w) {
                let (h, w) = (patch.h, patch.w);
                let valid = format!("height and width in multiples of {h} and {w}, not 0");
                return wrong(&key, &[size.height, size.width], valid);
            }
            let aspect = |s: &Size| u64::from(s.width) * u64::from(size.height);
            let own = |s: &Size| u64::from(s.height) * u64::from(size.width);
            if let Some(twin) = sizes[..n].iter().position(|s| aspect(s) == own(s)) {
                let valid =
                    format!("{h}x{w} has the aspect of number {twin}: no sample would differ");
                return wrong(&key, &[h, w], valid);
            }
        }
        Ok(sizes)
    }

    fn listed(&self) -> Result<Vec<Size>, Wrong> {
        if self.shapes.is_empty() {
            return wrong("shapes", &"absent", "shapes, or ratios beside area or tokens");
        }
        let numbers = [("area", self.area), ("tokens", self.tokens), ("unit", self.unit)];
        if let Some((key, value)) = numbers.into_iter().find(|(_, value)| value.is_some()) {
            return wrong(key, &value.unwrap_or(0), "only beside ratios: shapes say it already");
        }
        Ok(self.shapes.iter().map(|[h, w]| Size::new(*w, *h)).collect())
    }

    /// The shapes of the ratios.
    fn derived(&self, patch: PatchSize) -> Result<Vec<Size>, Wrong> {
        if !self.shapes.is_empty() {
            return wrong("shapes", &self.shapes, "either shapes or ratios");
        }
        let unit = Size::new(self.unit.unwrap_or(patch.w), self.unit.unwrap_or(patch.h));
        if unit.width == 0 || unit.width % patch.w.max(1) != 0 || unit.height % patch.h.max(1) != 0
        {
            let valid = format!("a multiple of the patch of {}x{}", patch.h, patch.w);
            return wrong("unit", &self.unit.unwrap_or(0), valid);
        }
        let area = match (self.area, self.tokens) {
            (Some(area), None) => u64::from(area),
            (None, Some(tokens)) => u64::from(tokens) * u64::from(patch.h) * u64::from(patch.w),
            _ => return wrong("area", &self.area, "either area or tokens"),
        };
        let most = area / unit.area().max(1) as u64;
        let sides = |(n, ratio): (usize, &f64)| {
            if !(*ratio >= 1e-2 && *ratio <= 1e2) {
                return wrong(&format!("ratios[{n}]"), ratio, "width over height, 0.01 to 100");
            }
            // In units, which need not be square.
            let ratio = ratio * f64::from(unit.height) / f64::from(unit.width);
            match shape_of(ratio, most) {
                Some([h, w]) => Ok(Size::new(w * unit.width, h * unit.height)),
                None => wrong("area", &area, format!("room for at least one unit of {unit}")),
            }
        };
        self.ratios.iter().enumerate().map(sides).collect()
    }
}

/// Rows and columns, at most `most` together, that come near to `ratio` columns a row: the rounded
/// ones, of which the side is cut whose loss spares the ratio more until they fit.
fn shape_of(ratio: f64, most: u64) -> Option<[u32; 2]> {
    let side = |x: f64| x.sqrt().round_ties_even().clamp(1.0, f64::from(MAX_SIDE)) as u32;
    let [mut h, mut w] = [side(most as f64 / ratio), side(most as f64 * ratio)];
    let off = |h: u32, w: u32| (f64::from(w) / f64::from(h) / ratio).ln().abs();
    while u64::from(h) * u64::from(w) > most {
        match (h, w) {
            (0 | 1, 0 | 1) => return None,
            (1, _) => w -= 1,
            (_, 1) => h -= 1,
            _ if off(h - 1, w) < off(h, w - 1) => h -= 1,
            _ => w -= 1,
        }
    }
    Some([h, w])
}

fn wrong<T>(key: &str, value: &dyn std::fmt::Debug, valid: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::new(format!("buckets.{key}"), format!("{value:?}"), valid))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tubelet_core::Size;

    use super::shape_of;
    use crate::builtin;
    use crate::recipe::{Recipe, Stage};

    fn stage(set: &[&str]) -> Result<Recipe, String> {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        let file = builtin::recipe("mae-vit-b", &set).map_err(|e| e.to_string())?;
        file.stage(Stage::Pretrain).map_err(|e| e.to_string())
    }

    fn sizes(recipe: &Recipe) -> Vec<[u32; 2]> {
        recipe.shapes().map(|s| [s.size().height, s.size().width]).collect()
    }

    #[test]
    fn shapes_follow_from_ratios_and_a_budget() {
        let ratios = "ratios=[0.5, 0.75, 1.0, 1.5, 2.0]";
        let recipe =
            stage(&[&format!("pretrain.buckets={{{ratios}, tokens=196}}")]).expect("valid");
        let want = [[304, 160], [256, 192], [224, 224], [176, 272], [160, 304]];
        assert_eq!(sizes(&recipe), want);
        let set = "pretrain.buckets={ratios=[1.0, 1.5], area=50176, unit=32}";
        assert_eq!(sizes(&stage(&[set]).expect("valid")), [[224, 224], [192, 256]]);
    }

    proptest! {
        #[test]
        fn shapes_stay_in_the_budget(ratio in 0.01f64..100.0, most in 1u64..5000) {
            let [h, w] = shape_of(ratio, most).expect("at least one unit");
            prop_assert!(u64::from(h) * u64::from(w) <= most && h > 0 && w > 0);
        }
    }

    #[test]
    fn samples_go_to_the_nearest_log_aspect() {
        let set = "pretrain.buckets={shapes=[[224, 224], [160, 320], [320, 160]]}";
        let recipe = stage(&[set]).expect("valid");
        let buckets = recipe.buckets().expect("set");
        let of = |w, h| buckets.of(Size::new(w, h));
        // The border between 1 and 2 is the square root of 2, not 1.5.
        assert_eq!([of(500, 500), of(1414, 1000), of(1415, 1000), of(1000, 1415)], [0, 0, 1, 2]);
        assert_eq!(buckets.squarest(), 0);
        let wide = recipe.shape_for(0, 0, Size::new(640, 300));
        assert_eq!((wide.size(), wide.grid().h, wide.grid().w), (Size::new(320, 160), 10, 20));
    }

    #[test]
    fn a_budget_of_tokens_sets_the_rows() {
        let budget = "pretrain.token_budget=4096";
        let recipe = stage(&[budget]).expect("valid");
        assert_eq!(recipe.batch_size(), 20);
        let set = [budget, "pretrain.batch_multiple=8"];
        assert_eq!(stage(&set).expect("valid").batch_size(), 16);
        let phases = "pretrain.phases=[{from=0, shapes=[{size=64}, {size=96}]}]";
        let rows: Vec<u32> =
            stage(&[budget, phases]).expect("valid").shapes().map(Recipe::batch_size).collect();
        assert_eq!(rows, [256, 113]);
        let buckets = "pretrain.buckets={shapes=[[224, 224], [160, 320]]}";
        let rows: Vec<u32> =
            stage(&[budget, buckets]).expect("valid").shapes().map(Recipe::batch_size).collect();
        assert_eq!(rows, [20, 20]);
    }

    #[test]
    fn impossible_buckets_and_budgets_are_refused() {
        for (set, says) in [
            ("buckets={}", "buckets.shapes"),
            ("buckets={shapes=[[224, 100]]}", "multiples of 16"),
            ("buckets={shapes=[[224, 0]]}", "buckets.shapes[0] = [224, 0]"),
            ("buckets={shapes=[[224, 224], [112, 112]]}", "aspect of number 0"),
            ("buckets={shapes=[[224, 224]], tokens=9}", "buckets.tokens"),
            ("buckets={shapes=[[224, 224]], ratios=[1.0], tokens=9}", "either shapes or ratios"),
            ("buckets={ratios=[1.0]}", "either area or tokens"),
            ("buckets={ratios=[0.0], tokens=196}", "buckets.ratios[0]"),
            ("buckets={ratios=[1.0], area=9}", "at least one unit"),
            ("buckets={ratios=[1.0], tokens=196, unit=20}", "buckets.unit = 20"),
            ("buckets={ratios=[1.0, 1.01], tokens=196}", "buckets.ratios[1]"),
            ("buckets={shapes=[[224, 224]], unknown=\"guess\"}", "guess"),
            ("token_budget=195", "196"),
            ("token_budget=0", "token_budget = 0"),
            ("batch_multiple=8", "batch_multiple"),
        ] {
            let set = format!("pretrain.{set}");
            let error = stage(&[&set]).expect_err(&set);
            assert!(error.contains(says), "{set}: {error}");
        }
        let buckets = "pretrain.buckets={shapes=[[224, 224]]}";
        for (set, says) in [
            ("pretrain.phases=[{from=0, shapes=[{size=64}]}]", "not beside phases"),
            ("pretrain.views=[{size=112, resize=\"lanczos\"}]", "not beside further views"),
            (r#"pretrain.crop={rule="center", size=224, resize=256}"#, "cuts before it resizes"),
            ("eval.buckets={shapes=[[224, 224]]}", "an evaluation has one shape"),
        ] {
            let error = stage(&[buckets, set]).expect_err(set);
            assert!(error.contains(says), "{set}: {error}");
        }
        let both =
            ["pretrain.token_budget=4096", "pretrain.phases=[{from=0, shapes=[{batch_size=8}]}]"];
        assert!(stage(&both).expect_err("both").contains("token_budget"));
    }
}
