//! The demo's video data set: classes that can only be told by motion.
//!
//! A textured shape moves over a textured, drifting background. The eight motions are four pairs
//! that are each other's reversal in time (left and right, up and down, clockwise and
//! anticlockwise, growing and shrinking) with the same distribution of places, sizes and angles: no
//! single frame, and no unordered set of frames, tells the members of a pair apart.

use std::path::Path;

use anyhow::{Context, Result};
use tubelet_core::{Draw, SampleRng, Size};
use tubelet_formats::encode::{EncodeOptions, encode_video};

/// Class names, in label order of Kinetics' layout (sorted).
pub(crate) const MOTIONS: [&str; 8] = [
    "growing",
    "moving down",
    "moving left",
    "moving right",
    "moving up",
    "shrinking",
    "turning anticlockwise",
    "turning clockwise",
];

/// Size of the frames.
const SIZE: Size = Size::new(80, 64);
/// Frames of a clip.
const FRAMES: u32 = 32;
/// Frames per second.
const FPS: u32 = 16;

/// Writes `count` clips of `split`, `scale` times as large, and its annotation file in Kinetics' layout under
/// `root`.
pub(crate) fn write_split(
    root: &Path,
    split: &str,
    (count, scale): (u32, u32),
    seed: u64,
    progress: &(dyn Fn() + Sync),
) -> Result<()> {
    let folder = root.join(split);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let annotations = root.join("annotations");
    std::fs::create_dir_all(&annotations).with_context(|| annotations.display().to_string())?;
    let mut csv = String::from("label,youtube_id,time_start,time_end,split\n");
    for n in 0..count {
        let class = n as usize % MOTIONS.len();
        let id = format!("motion{split}{n:05}");
        let seconds = FRAMES.div_ceil(FPS);
        csv += &format!("{},{id},0,{seconds},{split}\n", MOTIONS[class]);
        let path = folder.join(format!("{id}_{:06}_{seconds:06}.mp4", 0));
        let video = clip(class, scale, SampleRng::new(seed, 0, u64::from(n), 0, Draw::Mix))?;
        std::fs::write(&path, video).with_context(|| path.display().to_string())?;
        progress();
    }
    let path = annotations.join(format!("{split}.csv"));
    std::fs::write(&path, csv).with_context(|| path.display().to_string())
}

/// One clip as an H.264 file.
fn clip(class: usize, scale: u32, mut rng: SampleRng) -> Result<Vec<u8>> {
    let scene = Scene::draw(class, &mut rng);
    let frames: Vec<Vec<u8>> = (0..FRAMES).map(|t| scene.frame(t, scale)).collect();
    let size = Size::new(SIZE.width * scale, SIZE.height * scale);
    let options = EncodeOptions { size, fps: FPS, crf: Some(20), ..EncodeOptions::default() };
    Ok(encode_video(frames.iter().map(Vec::as_slice), &options)?)
}

/// A sum of plane waves per channel: a texture without edges or repeats in the frame.
struct Texture {
    waves: [[Wave; 3]; 3],
}

/// One plane wave.
#[derive(Clone, Copy)]
struct Wave {
    fx: f64,
    fy: f64,
    phase: f64,
}

impl Texture {
    /// A texture with wavelengths of about `period` pixels.
    fn draw(rng: &mut SampleRng, period: f64) -> Self {
        let mut wave = || {
            let angle = rng.uniform(0.0, std::f64::consts::TAU);
            let length = period * rng.uniform(0.7, 1.6);
            let k = std::f64::consts::TAU / length;
            Wave { fx: k * angle.cos(), fy: k * angle.sin(), phase: rng.uniform(0.0, 6.3) }
        };
        Self { waves: std::array::from_fn(|_| std::array::from_fn(|_| wave())) }
    }

    /// Colour at (x, y), 0 to 1 a channel.
    fn at(&self, x: f64, y: f64) -> [f64; 3] {
        self.waves.map(|waves| {
            let sum: f64 = waves.iter().map(|w| (x * w.fx + y * w.fy + w.phase).sin()).sum();
            0.5 + sum / 6.0
        })
    }
}

/// The shape's outline in its own coordinates, radius about 1.
#[derive(Clone, Copy)]
enum Shape {
    Square,
    Triangle,
    Cross,
    Bar,
}

impl Shape {
    fn contains(self, x: f64, y: f64) -> bool {
        match self {
            Self::Square => x.abs() < 0.8 && y.abs() < 0.8,
            Self::Triangle => y < 0.7 && y > -1.0 + 1.9 * x.abs(),
            Self::Cross => (x.abs() < 0.35 && y.abs() < 1.0) || (y.abs() < 0.35 && x.abs() < 1.0),
            Self::Bar => x.abs() < 1.1 && y.abs() < 0.45,
        }
    }
}

/// Everything that is drawn of a clip.
struct Scene {
    background: Texture,
    drift: [f64; 2],
    texture: Texture,
    shape: Shape,
    tint: [f64; 3],
    middle: [f64; 2],
    radius: f64,
    angle: f64,
    /// Change over the whole clip: x and y in pixels, angle in radians, logarithm of the radius.
    change: [f64; 4],
}

impl Scene {
    fn draw(class: usize, rng: &mut SampleRng) -> Self {
        let shapes = [Shape::Square, Shape::Triangle, Shape::Cross, Shape::Bar];
        let pace = rng.uniform(0.75, 1.25);
        let change = match MOTIONS[class] {
            "growing" => [0.0, 0.0, 0.0, 1.1 * pace],
            "shrinking" => [0.0, 0.0, 0.0, -1.1 * pace],
            "moving right" => [36.0 * pace, 0.0, 0.0, 0.0],
            "moving left" => [-36.0 * pace, 0.0, 0.0, 0.0],
            "moving down" => [0.0, 36.0 * pace, 0.0, 0.0],
            "moving up" => [0.0, -36.0 * pace, 0.0, 0.0],
            "turning clockwise" => [0.0, 0.0, 3.0 * pace, 0.0],
            _ => [0.0, 0.0, -3.0 * pace, 0.0],
        };
        let heading = rng.uniform(0.0, std::f64::consts::TAU);
        let speed = rng.uniform(4.0, 12.0);
        Self {
            background: Texture::draw(rng, 48.0),
            drift: [speed * heading.cos(), speed * heading.sin()],
            texture: Texture::draw(rng, 20.0),
            shape: shapes[rng.below(4) as usize],
            tint: std::array::from_fn(|_| rng.uniform(-0.15, 0.15)),
            middle: [
                f64::from(SIZE.width) * rng.uniform(0.4, 0.6),
                f64::from(SIZE.height) * rng.uniform(0.42, 0.58),
            ],
            radius: rng.uniform(11.0, 16.0),
            angle: rng.uniform(0.0, std::f64::consts::TAU),
            change,
        }
    }

    /// Frame `t`, packed RGB, `scale` times as large. The motion passes through its middle at the clip's middle, so that a
    /// clip and its reversal have the same frames.
    fn frame(&self, t: u32, scale: u32) -> Vec<u8> {
        let time = f64::from(t) / f64::from(FRAMES - 1) - 0.5;
        let centre =
            [self.middle[0] + self.change[0] * time, self.middle[1] + self.change[1] * time];
        let (sin, cos) = (self.angle + self.change[2] * time).sin_cos();
        let radius = self.radius * (self.change[3] * time).exp();
        let (columns, rows) = (SIZE.width * scale, SIZE.height * scale);
        let mut out = Vec::with_capacity((columns * rows * 3) as usize);
        for y in (0..rows).map(|y| f64::from(y) / f64::from(scale)) {
            for x in (0..columns).map(|x| f64::from(x) / f64::from(scale)) {
                let (dx, dy) = (x - centre[0], y - centre[1]);
                let (u, v) = ((cos * dx + sin * dy) / radius, (cos * dy - sin * dx) / radius);
                let colour = if self.shape.contains(u, v) {
                    let texture = self.texture.at(u * self.radius, v * self.radius);
                    std::array::from_fn(|c| 0.45 + 0.5 * texture[c] + self.tint[c])
                } else {
                    let [px, py] = self.drift.map(|d| d * time);
                    self.background.at(x - px, y - py).map(|c| 0.05 + 0.45 * c)
                };
                out.extend(colour.map(|c: f64| (c.clamp(0.0, 1.0) * 255.0).round() as u8));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_clips_show_the_same_scene() {
        let scene = Scene::draw(3, &mut SampleRng::new(1, 0, 9, 0, Draw::Mix));
        let (small, large) = (scene.frame(7, 1), scene.frame(7, 3));
        assert_eq!(large.len(), 9 * small.len());
        for (n, pixel) in small.chunks_exact(3).enumerate() {
            let (x, y) = (n % SIZE.width as usize, n / SIZE.width as usize);
            let at = 9 * (3 * y * SIZE.width as usize + x);
            assert_eq!(large[at..at + 3], *pixel, "{x}, {y}");
        }
    }

    /// The frames of "moving left" are those of "moving right" in reverse, all else equal.
    #[test]
    fn opposite_motions_share_their_frames() {
        for (a, b) in [(0, 5), (1, 4), (2, 3), (6, 7)] {
            let draw = |class| {
                let mut scene = Scene::draw(class, &mut SampleRng::new(1, 0, 9, 0, Draw::Mix));
                scene.drift = [0.0; 2];
                scene
            };
            let (one, other) = (draw(a), draw(b));
            for t in [0, 5, FRAMES - 1] {
                assert_eq!(one.frame(t, 1), other.frame(FRAMES - 1 - t, 1), "{a} and {b} at {t}");
            }
        }
    }
}
