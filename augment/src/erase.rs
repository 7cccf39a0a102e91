//! Random erasing (Zhong et al.; timm's and SlowFast's `random_erasing.py`).
//!
//! The boxes are drawn with the plan and cross the slot; the pixels are replaced after
//! normalisation, in the float stage. Frames of a clip share their boxes and have noise of their own.

use serde::{Deserialize, Serialize};
use tubelet_core::{Draw, Rect, SampleRng, Size};

/// What the erased pixels become, on normalised data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EraseMode {
    /// Zero: the mean colour.
    Const,
    /// One normal colour a box and frame.
    Rand,
    /// A normal number for every value.
    Pixel,
}

/// How rows are erased.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EraseSpec {
    /// Probability that a row is erased at all.
    pub probability: f64,
    /// What the pixels become.
    pub mode: EraseMode,
    /// Most boxes; their number is uniform in 1..=count.
    #[serde(default = "one")]
    pub count: u32,
    /// Share of the area of all boxes together, smallest and largest.
    #[serde(default = "default_area")]
    pub area: [f64; 2],
    /// Smallest aspect ratio; the largest is its inverse.
    #[serde(default = "default_aspect")]
    pub min_aspect: f64,
}

const fn one() -> u32 {
    1
}

const fn default_area() -> [f64; 2] {
    [0.02, 1.0 / 3.0]
}

const fn default_aspect() -> f64 {
    0.3
}

/// Boxes of a row and the key of their noise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Erase {
    /// Key of the noise.
    pub noise: u64,
    /// Boxes in pixels of the slot.
    pub boxes: Vec<Rect>,
}

/// Tries for a box in a picture.
const PICTURE_TRIES: u32 = 10;
/// Tries for a box in a clip.
const CLIP_TRIES: u32 = 100;

impl EraseSpec {
    /// Draws the boxes of a row of `frames` frames of `size` pixels; `None` where none is erased.
    pub fn draw(&self, size: Size, frames: u32, rng: &mut SampleRng) -> Option<Erase> {
        let (noise, applied) = (rng.next_u64(), rng.coin(self.probability));
        if !applied {
            return None;
        }
        let count = 1 + rng.below(self.count);
        let tries = if frames > 1 { CLIP_TRIES } else { PICTURE_TRIES };
        let boxes =
            (0..count).filter_map(|_| (0..tries).find_map(|_| self.draw_box(size, count, rng)));
        Some(Erase { noise, boxes: boxes.collect() })
    }

    /// One try; a box must be smaller than the picture on both axes.
    fn draw_box(&self, size: Size, count: u32, rng: &mut SampleRng) -> Option<Rect> {
        let area = size.area() as f64 * rng.uniform(self.area[0], self.area[1]) / f64::from(count);
        let aspect = self.min_aspect.ln();
        let aspect = rng.uniform(aspect, -aspect).exp();
        let height = (area * aspect).sqrt().round_ties_even() as u32;
        let width = (area / aspect).sqrt().round_ties_even() as u32;
        if width >= size.width || height >= size.height {
            return None;
        }
        let y = rng.below(size.height - height + 1);
        let x = rng.below(size.width - width + 1);
        Some(Rect { x, y, width, height })
    }
}

impl Erase {
    /// Writes it into a row's field (see [`tubelet_core::BatchLayout::erase`]), zero where absent.
    pub(crate) fn store(erase: Option<&Self>, field: &mut [u32]) {
        field.fill(0);
        let Some(erase) = erase else { return };
        field[0] = erase.noise as u32;
        field[1] = (erase.noise >> 32) as u32;
        for (out, rect) in field[2..].chunks_exact_mut(4).zip(&erase.boxes) {
            out.copy_from_slice(&[rect.x, rect.y, rect.width, rect.height]);
        }
    }

    /// Reads a row's field.
    pub fn load(field: &[u32]) -> Self {
        let noise = u64::from(field[0]) | u64::from(field[1]) << 32;
        let boxes = field[2..].chunks_exact(4).filter(|b| b[2] > 0 && b[3] > 0);
        let boxes = boxes.map(|b| Rect { x: b[0], y: b[1], width: b[2], height: b[3] });
        Self { noise, boxes: boxes.collect() }
    }

    /// Erases in a row of normalised floats `[3, frames, height, width]`.
    pub fn apply(&self, mode: EraseMode, row: &mut [f32], frames: usize, size: Size) {
        let area = size.area();
        for (n, rect) in self.boxes.iter().enumerate() {
            for frame in 0..frames {
                let mut rng = SampleRng::new(self.noise, n as u32, frame as u64, 0, Draw::Erase);
                for channel in 0..3 {
                    let start = (channel * frames + frame) * area;
                    fill(mode, &mut row[start..start + area], size.width, *rect, &mut rng);
                }
            }
        }
    }
}

/// Fills the box in one plane.
fn fill(mode: EraseMode, plane: &mut [f32], width: u32, rect: Rect, rng: &mut SampleRng) {
    let colour = if mode == EraseMode::Rand { rng.normal() as f32 } else { 0.0 };
    for y in rect.y..rect.y + rect.height {
        let start = (y * width + rect.x) as usize;
        let line = &mut plane[start..start + rect.width as usize];
        match mode {
            EraseMode::Const | EraseMode::Rand => line.fill(colour),
            EraseMode::Pixel => line.fill_with(|| rng.normal() as f32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPEC: EraseSpec = EraseSpec {
        probability: 0.25,
        mode: EraseMode::Pixel,
        count: 1,
        area: default_area(),
        min_aspect: default_aspect(),
    };

    fn rng(sample: u64) -> SampleRng {
        SampleRng::new(4, 0, sample, 0, Draw::Erase)
    }

    proptest! {
        #[test]
        fn boxes_stay_inside_and_survive_the_slot(
            w in 1u32..300, h in 1u32..300, count in 1u32..4, frames in 1u32..3, seed: u64,
        ) {
            let size = Size::new(w, h);
            let spec = EraseSpec { probability: 1.0, count, ..SPEC };
            let mut rng = SampleRng::new(seed, 0, 0, 0, Draw::Erase);
            let erase = spec.draw(size, frames, &mut rng).expect("certain");
            prop_assert!(erase.boxes.len() <= count as usize);
            prop_assert!(erase.boxes.iter().all(|b| b.fits(size) && b.width < w && b.height < h));
            let mut field = vec![7; 2 + 4 * count as usize];
            Erase::store(Some(&erase), &mut field);
            let loaded = Erase::load(&field);
            prop_assert_eq!(loaded.noise, erase.noise);
            let real = erase.boxes.iter().filter(|b| b.width > 0 && b.height > 0);
            prop_assert_eq!(loaded.boxes, real.copied().collect::<Vec<_>>());
        }
    }

    /// Binomial(40000, 0.25): sigma 87; the mean area is (0.02 + 1/3) / 2 but for rejected boxes.
    #[test]
    fn a_quarter_of_the_rows_lose_a_sixth() {
        let size = Size::square(224);
        let drawn: Vec<Erase> =
            (0..40_000).filter_map(|n| SPEC.draw(size, 1, &mut rng(n))).collect();
        assert!(drawn.len().abs_diff(10_000) < 350, "{}", drawn.len());
        let area: usize = drawn.iter().flat_map(|e| &e.boxes).map(|b| b.size().area()).sum();
        let mean = area as f64 / drawn.len() as f64 / size.area() as f64;
        assert!((mean - 0.1767).abs() < 0.006, "{mean}");
    }

    #[test]
    fn noise_is_normal_fresh_in_every_frame_and_only_in_the_box() {
        let size = Size::new(40, 30);
        let rect = Rect { x: 3, y: 4, width: 30, height: 20 };
        let erase = Erase { noise: 11, boxes: vec![rect] };
        let run = |mode| {
            let mut row = vec![9.0f32; 3 * 2 * size.area()];
            erase.apply(mode, &mut row, 2, size);
            row
        };
        let row = run(EraseMode::Pixel);
        assert_eq!(row, run(EraseMode::Pixel));
        let inside: Vec<f32> = row.iter().copied().filter(|v| *v != 9.0).collect();
        assert_eq!(inside.len(), 6 * 600);
        let mean = inside.iter().sum::<f32>() / 3600.0;
        let variance = inside.iter().map(|v| v * v).sum::<f32>() / 3600.0;
        assert!(mean.abs() < 0.07 && (variance - 1.0).abs() < 0.1, "{mean} {variance}");
        assert_ne!(row[..1200], row[1200..2400]);
        assert_eq!(row[2], 9.0);
        let zeros = run(EraseMode::Const).iter().filter(|v| **v == 0.0).count();
        assert_eq!(zeros, 3600);
        let colours = run(EraseMode::Rand);
        assert_eq!(colours[4 * 40 + 3], colours[4 * 40 + 4]);
        assert_ne!(colours[4 * 40 + 3], colours[1200 + 4 * 40 + 3]);
    }
}
