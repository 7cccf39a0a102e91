//! Mean/std normalisation of 8-bit pixels.

use tubelet_core::Size;

/// Mean and standard deviation a channel, of pixels scaled to 0..1, RGB order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalise {
    /// Mean.
    pub mean: [f32; 3],
    /// Standard deviation.
    pub std: [f32; 3],
}

/// ImageNet statistics: MAE, VideoMAE, MaskFeat on pictures and most others.
pub const IMAGENET: Normalise =
    Normalise { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
/// SlowFast's video default: MAE-ST, MaskFeat on videos.
pub const SLOWFAST: Normalise = Normalise { mean: [0.45; 3], std: [0.225; 3] };
/// Half and half: BEiT, BootMAE, ViT.
pub const INCEPTION: Normalise = Normalise { mean: [0.5; 3], std: [0.5; 3] };
/// Nothing: pixels from 0 to 1.
pub const NONE: Normalise = Normalise { mean: [0.0; 3], std: [1.0; 3] };
/// DALL-E's `map_pixels`, x ↦ 0.8 x + 0.1, as (x + 0.125) / 1.25: BEiT's tokenizer.
pub const DALLE: Normalise = Normalise { mean: [-0.125; 3], std: [1.25; 3] };

impl Normalise {
    /// Normalised value of each grey level a channel: (v / 255 − mean) / std in f32, as torch's
    /// `ToTensor` and `Normalize` compute it.
    pub fn table(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|c| {
            std::array::from_fn(|v| (v as f32 / 255.0 - self.mean[c]) / self.std[c])
        })
    }

    /// u8 `[frames, height, width, 3]` to f32 `[3, frames, height, width]`.
    pub fn apply(&self, pixels: &[u8], frames: usize, size: Size, out: &mut [f32]) {
        let tables = self.table();
        let area = size.area();
        for (c, (table, plane)) in
            tables.iter().zip(out.chunks_exact_mut(frames * area)).enumerate()
        {
            for (pixel, value) in pixels.chunks_exact(3).zip(plane) {
                *value = table[usize::from(pixel[c])];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_move_to_the_front() {
        let pixels: Vec<u8> = (0..2 * 2 * 3 * 3).map(|v| v as u8).collect();
        let mut out = vec![0.0; pixels.len()];
        SLOWFAST.apply(&pixels, 2, Size::new(3, 2), &mut out);
        // Channel 1, frame 1, row 0, column 2 is byte ((1·2 + 0)·3 + 2)·3 + 1.
        let want = (f32::from(pixels[25]) / 255.0 - 0.45) / 0.225;
        assert!((out[12 + 6 + 2] - want).abs() < 1e-6);
    }
}
