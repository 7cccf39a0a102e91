//! The HOG picture of scikit-image (`feature.hog(visualize=True, channel_axis=2)`), the target of
//! VIOLETv2 (pytorch_empirical-mvm `dataset.py`), and its block descriptor.

use tubelet_core::{PatchSize, Size};

/// Orientation bins over 180°.
pub const BINS: usize = 9;
/// Side of a cell in pixels.
pub const CELL: usize = 8;
/// Half the length of a drawn line: ⌊8/2⌋ − 1.
const RADIUS: f64 = 3.0;
/// Cells along a side of a block.
const BLOCK: usize = 2;
/// Keeps a block's norm from zero.
const EPS: f64 = 1e-5;
/// Where L2-Hys clips.
const CLIP: f64 = 0.2;

/// Mean gradient magnitude per orientation of each 8×8 cell.
#[derive(Clone, Debug)]
pub struct CellHistograms {
    rows: usize,
    columns: usize,
    size: Size,
    values: Vec<[f64; BINS]>,
}

impl CellHistograms {
    /// Histograms of a picture `[H, W, 3]`; of each pixel the channel with the largest gradient
    /// counts. Incomplete cells at the right and the bottom are left out.
    ///
    /// # Panics
    /// When `image` has another length.
    pub fn new(image: &[f32], size: Size) -> Self {
        assert_eq!(image.len(), 3 * size.area(), "floats of the picture");
        let (width, height) = (size.width as usize, size.height as usize);
        let (rows, columns) = (height / CELL, width / CELL);
        let mut values = vec![[0.0; BINS]; rows * columns];
        for y in 0..rows * CELL {
            for x in 0..columns * CELL {
                let (magnitude, degrees) = gradient(image, width, height, y, x);
                let bin = (degrees / (180.0 / BINS as f64)) as usize % BINS;
                values[y / CELL * columns + x / CELL][bin] += magnitude / (CELL * CELL) as f64;
            }
        }
        Self { rows, columns, size, values }
    }

    /// The histograms drawn as lines across the gradient, `[H, W]`; lines add up.
    pub fn picture(&self) -> Vec<f32> {
        let width = self.size.width as usize;
        let mut picture = vec![0.0f32; self.size.area()];
        for (at, histogram) in self.values.iter().enumerate() {
            let center_y = (at / self.columns * CELL + CELL / 2) as f64;
            let center_x = (at % self.columns * CELL + CELL / 2) as f64;
            for (bin, value) in histogram.iter().enumerate() {
                let angle = std::f64::consts::PI * (bin as f64 + 0.5) / BINS as f64;
                let (up, right) = (RADIUS * angle.cos(), RADIUS * angle.sin());
                let from = ((center_y - up) as i64, (center_x + right) as i64);
                let to = ((center_y + up) as i64, (center_x - right) as i64);
                for (y, x) in line(from, to) {
                    picture[y as usize * width + x as usize] += *value as f32;
                }
            }
        }
        picture
    }

    /// L2-Hys-normalised blocks of 2×2 cells, overlapping: `[rows − 1, columns − 1, 2, 2, 9]`.
    pub fn block_descriptor(&self) -> Vec<f32> {
        let mut all = Vec::new();
        for row in 0..(self.rows + 1).saturating_sub(BLOCK) {
            for column in 0..(self.columns + 1).saturating_sub(BLOCK) {
                let cells = (0..BLOCK * BLOCK)
                    .map(|k| (row + k / BLOCK) * self.columns + column + k % BLOCK);
                let mut block: Vec<f64> = cells.flat_map(|at| self.values[at]).collect();
                scale_to_unit(&mut block);
                block.iter_mut().for_each(|v| *v = v.min(CLIP));
                scale_to_unit(&mut block);
                all.extend(block.into_iter().map(|v| v as f32));
            }
        }
        all
    }
}

/// Which bins' lines cross each pixel of a cell, row by row: bit b for bin b. A line does not leave
/// its cell, so this says all about how histograms are drawn.
pub fn cell_lines() -> [u16; CELL * CELL] {
    let mut lines = [0; CELL * CELL];
    for bin in 0..BINS {
        let mut histogram = [0.0; BINS];
        histogram[bin] = 1.0;
        let size = Size::square(CELL as u32);
        let cell = CellHistograms { rows: 1, columns: 1, size, values: vec![histogram] };
        for (line, drawn) in lines.iter_mut().zip(cell.picture()) {
            *line |= u16::from(drawn > 0.0) << bin;
        }
    }
    lines
}

/// Writes the targets of `tokens` (ascending) to `out`, `[tokens, dim]`, ordered frame, row, column:
/// the picture of each frame of the token's time slot. `pixels` is f32 `[3, frames, height, width]`.
pub fn picture_targets(
    pixels: &[f32],
    frames: u32,
    size: Size,
    patch: PatchSize,
    tokens: &[u32],
    out: &mut [f32],
) {
    let (high, wide, width) = (patch.h as usize, patch.w as usize, size.width as usize);
    let (area, columns) = (size.area(), size.width / patch.w);
    let cells = size.height / patch.h * columns;
    let picture = |frame: u32| {
        let plane = |c: usize| &pixels[(c * frames as usize + frame as usize) * area..][..area];
        let (r, g, b) = (plane(0), plane(1), plane(2));
        let image: Vec<f32> = (0..area).flat_map(|i| [r[i], g[i], b[i]]).collect();
        CellHistograms::new(&image, size).picture()
    };
    let mut ready: Option<(u32, Vec<Vec<f32>>)> = None;
    let dim = patch.t as usize * high * wide;
    for (token, out) in tokens.iter().zip(out.chunks_exact_mut(dim)) {
        let (slot, cell) = (token / cells, token % cells);
        if ready.as_ref().is_none_or(|(of, _)| *of != slot) {
            let pictures = (slot * patch.t..(slot + 1) * patch.t).map(picture).collect();
            ready = Some((slot, pictures));
        }
        let (top, left) = ((cell / columns) as usize * high, (cell % columns) as usize * wide);
        let pictures = ready.iter().flat_map(|(_, pictures)| pictures);
        for (picture, out) in pictures.zip(out.chunks_exact_mut(high * wide)) {
            for (y, out) in out.chunks_exact_mut(wide).enumerate() {
                out.copy_from_slice(&picture[(top + y) * width + left..][..wide]);
            }
        }
    }
}

fn scale_to_unit(block: &mut [f64]) {
    let norm = (block.iter().map(|v| v * v).sum::<f64>() + EPS * EPS).sqrt();
    block.iter_mut().for_each(|v| *v /= norm);
}

/// Magnitude and direction in degrees [0, 180) of the strongest channel's central difference, which
/// is 0 across a border.
fn gradient(image: &[f32], width: usize, height: usize, y: usize, x: usize) -> (f64, f64) {
    let at = |y: usize, x: usize, c: usize| image[(y * width + x) * 3 + c];
    let mut best = (-1.0f32, 0.0f32, 0.0f32);
    for c in 0..3 {
        let inner = y > 0 && y + 1 < height;
        let down = if inner { at(y + 1, x, c) - at(y - 1, x, c) } else { 0.0 };
        let inner = x > 0 && x + 1 < width;
        let right = if inner { at(y, x + 1, c) - at(y, x - 1, c) } else { 0.0 };
        let magnitude = down.hypot(right);
        if magnitude > best.0 {
            best = (magnitude, down, right);
        }
    }
    let degrees = best.1.atan2(best.2).to_degrees().rem_euclid(180.0);
    (f64::from(best.0), f64::from(degrees))
}

/// Bresenham's line as `skimage.draw.line` walks it, (row, column), both ends included.
fn line((r0, c0): (i64, i64), (r1, c1): (i64, i64)) -> Vec<(i64, i64)> {
    let steep = (r1 - r0).abs() > (c1 - c0).abs();
    let swap = |(a, b): (i64, i64)| if steep { (b, a) } else { (a, b) };
    let ((mut minor, mut major), (minor_end, major_end)) = (swap((r0, c0)), swap((r1, c1)));
    let (minor_length, major_length) = ((minor_end - minor).abs(), (major_end - major).abs());
    let sign = |from: i64, to: i64| if to > from { 1 } else { -1 };
    let (minor_step, major_step) = (sign(minor, minor_end), sign(major, major_end));
    let mut error = 2 * minor_length - major_length;
    let mut points = Vec::with_capacity(major_length as usize + 1);
    for _ in 0..major_length {
        points.push(swap((minor, major)));
        while error >= 0 && major_length > 0 {
            minor += minor_step;
            error -= 2 * major_length;
        }
        major += major_step;
        error += 2 * minor_length;
    }
    points.push((r1, c1));
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_join_their_ends() {
        assert_eq!(line((0, 0), (0, 3)), [(0, 0), (0, 1), (0, 2), (0, 3)]);
        assert_eq!(line((2, 1), (0, 1)), [(2, 1), (1, 1), (0, 1)]);
        assert_eq!(line((0, 0), (2, 2)), [(0, 0), (1, 1), (2, 2)]);
    }

    #[test]
    fn tokens_are_parts_of_the_pictures() {
        let (size, patch) = (Size::new(32, 16), PatchSize { t: 2, h: 8, w: 16 });
        let frames = 4;
        let pixels: Vec<f32> =
            (0..3 * frames as usize * size.area()).map(|i| (i * 37 % 101) as f32).collect();
        let mut out = vec![0.0; 2 * 256];
        picture_targets(&pixels, frames, size, patch, &[1, 6], &mut out);
        // Token 6: frames 2 and 3, rows 8 to 15, columns 0 to 15.
        let image: Vec<f32> = (0..size.area())
            .flat_map(|i| [0, 1, 2].map(|c| pixels[(c * 4 + 3) * size.area() + i]))
            .collect();
        let picture = CellHistograms::new(&image, size).picture();
        assert_eq!(out[256 + 128 + 16 + 5], picture[9 * 32 + 5]);
        assert!(out.iter().any(|v| *v > 0.0));
    }

    #[test]
    fn a_ramp_to_the_right_draws_upright_lines() {
        let image: Vec<f32> = (0..16 * 16).flat_map(|i| [(i % 16) as f32; 3]).collect();
        let cells = CellHistograms::new(&image, Size::square(16));
        assert!(cells.values.iter().all(|h| h[0] > 1.7 && h[1..].iter().all(|v| *v == 0.0)));
        let picture = cells.picture();
        assert!(picture[16 + 4] > 1.7 && picture[6 * 16 + 3] > 1.7 && picture[4 * 16] == 0.0);
        assert_eq!(cells.block_descriptor().len(), 36);
    }
}
