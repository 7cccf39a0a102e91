//! Operations that look at one value at a time (Pillow's `ImageOps`).

/// Replaces every value by `f` of it.
pub(crate) fn map(pixels: &mut [u8], f: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|v| f(v as u8));
    for value in pixels {
        *value = table[usize::from(*value)];
    }
}

/// Keeps the highest `bits` bits of every value.
pub(crate) fn posterize(pixels: &mut [u8], bits: u8) {
    if bits < 8 {
        let mask = !(0xff_u32 >> bits) as u8;
        map(pixels, |v| v & mask);
    }
}

/// Inverts values from `threshold` on.
pub(crate) fn solarize(pixels: &mut [u8], threshold: u16) {
    map(pixels, |v| if u16::from(v) < threshold { v } else { 255 - v });
}

/// Adds `add` to values below 128, clamped to 0..=255.
pub(crate) fn solarize_add(pixels: &mut [u8], add: i16) {
    map(pixels, |v| if v < 128 { (i16::from(v) + add).clamp(0, 255) as u8 } else { v });
}

/// Stretches each channel so that its smallest value is 0 and its largest 255.
pub(crate) fn auto_contrast(pixels: &mut [u8]) {
    let tables = histograms(pixels).map(|histogram| {
        let low = histogram.iter().position(|n| *n > 0).unwrap_or(0);
        let high = histogram.iter().rposition(|n| *n > 0).unwrap_or(0);
        if high <= low {
            return identity();
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        std::array::from_fn(|v| ((v as f64 * scale + offset) as i64).clamp(0, 255) as u8)
    });
    map_channels(pixels, &tables);
}

/// Makes each channel's histogram as flat as a table can.
pub(crate) fn equalize(pixels: &mut [u8]) {
    let tables = histograms(pixels).map(|histogram| {
        let last = histogram.iter().rev().find(|n| **n > 0).copied().unwrap_or(0);
        let total: u64 = histogram.iter().sum();
        let step = (total - last) / 255;
        if step == 0 {
            return identity();
        }
        let mut sum = step / 2;
        std::array::from_fn(|v| {
            let level = (sum / step).min(255) as u8;
            sum += histogram[v];
            level
        })
    });
    map_channels(pixels, &tables);
}

fn identity() -> [u8; 256] {
    std::array::from_fn(|v| v as u8)
}

/// How often each value occurs in each channel.
fn histograms(pixels: &[u8]) -> [[u64; 256]; 3] {
    let mut counts = [[0u64; 256]; 3];
    for pixel in pixels.chunks_exact(3) {
        for (counts, value) in counts.iter_mut().zip(pixel) {
            counts[usize::from(*value)] += 1;
        }
    }
    counts
}

fn map_channels(pixels: &mut [u8], tables: &[[u8; 256]; 3]) {
    for pixel in pixels.chunks_exact_mut(3) {
        for (value, table) in pixel.iter_mut().zip(tables) {
            *value = table[usize::from(*value)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_arguments_do_what_they_say() {
        let all: Vec<u8> = (0..=255).flat_map(|v| [v; 3]).collect();
        let run = |f: &dyn Fn(&mut [u8])| {
            let mut pixels = all.clone();
            f(&mut pixels);
            pixels
        };
        assert_eq!(run(&|p| posterize(p, 8)), all);
        assert_eq!(run(&|p| solarize(p, 256)), all);
        assert!(run(&|p| posterize(p, 0)).iter().all(|v| *v == 0));
        assert_eq!(run(&|p| posterize(p, 1))[127 * 3..129 * 3], [0, 0, 0, 128, 128, 128]);
        assert_eq!(run(&|p| solarize(p, 0)), run(&|p| map(p, |v| 255 - v)));
        assert_eq!(run(&|p| solarize_add(p, 110))[100 * 3], 210);
        assert_eq!(run(&|p| solarize_add(p, 110))[128 * 3], 128);
        assert_eq!(run(&auto_contrast), all);
    }

    #[test]
    fn flat_pictures_stay() {
        for f in [auto_contrast, equalize] {
            let mut pixels = vec![9; 30];
            f(&mut pixels);
            assert!(pixels.iter().all(|v| *v == 9));
        }
    }
}
