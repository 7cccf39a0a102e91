//! Blends of a picture with a degenerate form of it (Pillow's `ImageEnhance`).

use tubelet_core::Size;

use super::ColorScratch;

/// Luminance of an RGB pixel: Pillow's 16-bit weights, rounded.
pub(crate) fn luminance(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

/// Pillow's `Image.blend` of two grey levels in f32: `from` at 0, `to` at 1, beyond it clamped.
fn blend(from: u8, to: u8, share: f32) -> u8 {
    let (from, to) = (f32::from(from), f32::from(to));
    // The cast truncates and clamps, as Pillow does.
    (from + share * (to - from)) as u8
}

/// The luminance in all channels.
pub(crate) fn grayscale(pixels: &mut [u8]) {
    for pixel in pixels.chunks_exact_mut(3) {
        pixel.fill(luminance(pixel));
    }
}

/// Saturation, `ImageEnhance.Color`.
pub(crate) fn saturation(pixels: &mut [u8], factor: f64) {
    for pixel in pixels.chunks_exact_mut(3) {
        let grey = luminance(pixel);
        for value in pixel {
            *value = blend(grey, *value, factor as f32);
        }
    }
}

/// `ImageEnhance.Contrast`: about the mean luminance, rounded.
pub(crate) fn contrast(pixels: &mut [u8], factor: f64) {
    let count = (pixels.len() / 3).max(1) as f64;
    let sum: u64 = pixels.chunks_exact(3).map(|pixel| u64::from(luminance(pixel))).sum();
    let mean = (sum as f64 / count + 0.5) as u8;
    super::point::map(pixels, |v| blend(mean, v, factor as f32));
}

/// `ImageEnhance.Brightness`.
pub(crate) fn brightness(pixels: &mut [u8], factor: f64) {
    super::point::map(pixels, |v| blend(0, v, factor as f32));
}

/// `ImageEnhance.Sharpness`: away from the picture smoothed by (1 1 1, 1 5 1, 1 1 1) / 13, whose
/// border is the picture's.
pub(crate) fn sharpness(pixels: &mut [u8], size: Size, factor: f64, scratch: &mut ColorScratch) {
    let (width, height) = (size.width as usize, size.height as usize);
    if width < 3 || height < 3 {
        return;
    }
    let copy = &mut scratch.copy;
    copy.clear();
    copy.extend_from_slice(pixels);
    let stride = width * 3;
    for y in 1..height - 1 {
        for at in y * stride + 3..(y + 1) * stride - 3 {
            let row = |start: usize| {
                u32::from(copy[start - 3]) + u32::from(copy[start]) + u32::from(copy[start + 3])
            };
            let sum = row(at - stride) + row(at) + row(at + stride) + 4 * u32::from(copy[at]);
            let smooth = ((2 * sum + 13) / 26) as u8;
            pixels[at] = blend(smooth, copy[at], factor as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_of_one_changes_nothing() {
        let size = Size::new(7, 5);
        let source: Vec<u8> = (0..size.area() * 3).map(|i| (i * 37 % 251) as u8).collect();
        let mut pixels = source.clone();
        saturation(&mut pixels, 1.0);
        contrast(&mut pixels, 1.0);
        brightness(&mut pixels, 1.0);
        sharpness(&mut pixels, size, 1.0, &mut ColorScratch::default());
        assert_eq!(pixels, source);
        brightness(&mut pixels, 0.0);
        assert!(pixels.iter().all(|v| *v == 0));
    }
}
