//! Gaussian blur as Pillow does it: three box blurs an axis with fractional ends
//! (`libImaging/BoxBlur.c`, after Gwosdek et al., "Theoretical foundations of Gaussian convolution
//! by extended box filtering", SSVM 2011).

use tubelet_core::Size;

use super::ColorScratch;

/// Box blurs an axis.
const PASSES: u32 = 3;
/// One in the fixed-point weights.
const ONE: u32 = 1 << 24;

/// Blurs with standard deviation `sigma` in pixels.
pub(crate) fn gaussian(pixels: &mut [u8], size: Size, sigma: f64, scratch: &mut ColorScratch) {
    let Some(kernel) = Box::new(sigma as f32) else { return };
    let (width, height) = (size.width as usize, size.height as usize);
    let mut line = std::mem::take(&mut scratch.copy);
    line.resize(width.max(height), 0);
    for y in 0..height {
        for channel in 0..3 {
            kernel.blur_line(pixels, y * width * 3 + channel, 3, &mut line[..width]);
        }
    }
    for x in 0..width {
        for channel in 0..3 {
            kernel.blur_line(pixels, x * 3 + channel, width * 3, &mut line[..height]);
        }
    }
    scratch.copy = line;
}

/// A box of 2·radius + 1 whole values and a fraction of one more at either end.
#[derive(Clone, Copy, Debug)]
struct Box {
    radius: usize,
    whole: u32,
    ends: u32,
}

impl Box {
    /// The box of which three passes come near to `sigma`; `None` where nothing is blurred.
    fn new(sigma: f32) -> Option<Self> {
        let variance = sigma * sigma / PASSES as f32;
        let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
        let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
        let mut part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
        part /= 6.0 * (variance - (whole + 1.0) * (whole + 1.0));
        let radius = whole + part;
        if radius <= 0.0 {
            return None;
        }
        let weight = (ONE as f32 / (radius * 2.0 + 1.0)) as u32;
        let radius = radius as usize;
        let ends = (ONE - (radius as u32 * 2 + 1) * weight) / 2;
        Some(Self { radius, whole: weight, ends })
    }

    /// Blurs the line that starts at `start` with a value every `step`; `line` is scratch of its
    /// length. What lies outside repeats the end.
    fn blur_line(&self, pixels: &mut [u8], start: usize, step: usize, line: &mut [u8]) {
        let last = line.len() - 1;
        for _ in 0..PASSES {
            for (value, at) in line.iter_mut().zip((start..).step_by(step)) {
                *value = pixels[at];
            }
            let at = |x: usize, left: usize| u32::from(line[x.saturating_sub(left)]);
            let right = |x: usize, right: usize| u32::from(line[(x + right).min(last)]);
            let mut sum = at(0, 0) * (self.radius as u32 + 1);
            sum += (0..self.radius).map(|x| right(0, x)).sum::<u32>();
            for x in 0..=last {
                // The value that left the window lies radius + 1 to the left.
                sum = sum + right(x, self.radius) - at(x, self.radius + 1);
                let ends = at(x, self.radius + 1) + right(x, self.radius + 1);
                let bulk = sum * self.whole + ends * self.ends;
                pixels[start + x * step] = ((bulk + (ONE >> 1)) >> 24) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_picture_stays_and_a_dot_keeps_its_sum() {
        let size = Size::new(21, 17);
        let mut scratch = ColorScratch::default();
        let mut pixels = vec![200; size.area() * 3];
        gaussian(&mut pixels, size, 2.0, &mut scratch);
        assert!(pixels.iter().all(|v| *v == 200));
        let mut pixels = vec![0; size.area() * 3];
        let middle = (8 * 21 + 10) * 3;
        pixels[middle] = 255;
        gaussian(&mut pixels, size, 0.8, &mut scratch);
        let sum: u32 = pixels.iter().map(|v| u32::from(*v)).sum();
        assert!((240..=270).contains(&sum), "{sum}");
        // Rounding between the two axes may differ by one.
        assert!(pixels[middle - 3].abs_diff(pixels[middle + 21 * 3]) <= 1);
    }

    /// Boxes wider than the picture.
    #[test]
    fn tiny_pictures_can_be_blurred() {
        for size in [Size::new(1, 1), Size::new(2, 3)] {
            let mut pixels: Vec<u8> = (0..size.area() * 3).map(|i| i as u8 * 10).collect();
            gaussian(&mut pixels, size, 9.0, &mut ColorScratch::default());
        }
    }
}
