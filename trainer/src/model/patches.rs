//! Pixels to patch rows, masks to token indices: all on the host.

use super::CHANNELS;
use crate::error::TrainError;

/// Sizes of the input and of its patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Frames, height, width in pixels; 1 frame for pictures.
    pub input: [usize; 3],
    /// Extent of a patch: frames, rows, columns.
    pub patch: [usize; 3],
    /// Whether the embedding is a 3-D convolution (five axes in its weight) rather than a 2-D one.
    pub patch_3d: bool,
}

impl Geometry {
    /// The geometry of clips (`patch_3d`) or pictures.
    ///
    /// # Errors
    /// When the patches do not tile the input.
    pub fn new(input: [usize; 3], patch: [usize; 3], patch_3d: bool) -> Result<Self, TrainError> {
        let tiles =
            (0..3).all(|i| patch[i] > 0 && input[i] >= patch[i] && input[i] % patch[i] == 0);
        if !tiles || (!patch_3d && patch[0] != 1) {
            let what = format!(
                "patches of {patch:?} do not tile an input of {input:?} [frames, height, width]"
            );
            return Err(TrainError::recipe("patch", what));
        }
        Ok(Self { input, patch, patch_3d })
    }

    /// Token grid: time, rows, columns.
    pub fn grid(&self) -> [usize; 3] {
        [0, 1, 2].map(|i| self.input[i] / self.patch[i])
    }

    /// Tokens of one sample.
    pub fn tokens(&self) -> usize {
        self.grid().iter().product()
    }

    /// Values of one sample.
    pub fn sample_values(&self) -> usize {
        CHANNELS * self.input.iter().product::<usize>()
    }
}

/// Values of one patch: 3 · t · h · w.
pub fn patch_values(geometry: &Geometry) -> usize {
    CHANNELS * geometry.patch.iter().product::<usize>()
}

/// All patches of `rows` samples, `pixels` `[rows, 3, frames, height, width]` to
/// `[rows · tokens, 3 · t · h · w]` in the order of a convolution weight (channel, time, row,
/// column).
pub fn patchify(pixels: &[f32], rows: usize, geometry: &Geometry) -> Vec<f32> {
    let tokens: Vec<u32> = (0..geometry.tokens() as u32).collect();
    let all: Vec<u32> = (0..rows).flat_map(|_| tokens.iter().copied()).collect();
    patchify_rows(pixels, rows, geometry, &all)
}

/// The patches of chosen tokens only: `tokens` `[rows, count]` are token numbers within each
/// sample.
///
/// # Panics
/// When `pixels` is too short or a token number is beyond the grid.
pub fn patchify_rows(pixels: &[f32], rows: usize, geometry: &Geometry, tokens: &[u32]) -> Vec<f32> {
    let Geometry { input: [_, height, width], patch: [pt, ph, pw], .. } = *geometry;
    let [_, grid_h, grid_w] = geometry.grid();
    let plane = height * width;
    let volume = geometry.input[0] * plane;
    let count = tokens.len() / rows.max(1);
    let mut out = Vec::with_capacity(tokens.len() * patch_values(geometry));
    for (i, token) in tokens.iter().enumerate() {
        let sample = &pixels[i / count * CHANNELS * volume..][..CHANNELS * volume];
        let token = *token as usize;
        let (t, y, x) = (token / (grid_h * grid_w), token / grid_w % grid_h, token % grid_w);
        for c in 0..CHANNELS {
            for frame in t * pt..(t + 1) * pt {
                for row in y * ph..(y + 1) * ph {
                    let start = c * volume + frame * plane + row * width + x * pw;
                    out.extend_from_slice(&sample[start..start + pw]);
                }
            }
        }
    }
    out
}

/// Which tokens of a batch are hidden, and the patches that the network sees.
#[derive(Clone, Debug, Default)]
pub struct MaskedTokens {
    /// Samples.
    pub rows: usize,
    /// Tokens of one sample.
    pub tokens: usize,
    /// Visible token numbers within each sample, `[rows, visible_count]`; the order is the order in
    /// which the encoder sees them.
    pub visible: Vec<u32>,
    /// Visible tokens of each sample.
    pub visible_count: usize,
    /// Hidden tokens as `row · tokens + token`, by row, then by token: `[hidden]`. The number a
    /// row may differ.
    pub masked: Vec<u32>,
}

impl MaskedTokens {
    /// From boolean masks `[rows, tokens]`, `true` = hidden; visible tokens in ascending order.
    /// Where the rows hide different numbers of tokens, `visible` is left empty: only networks
    /// that see every token can use such a batch.
    ///
    /// # Errors
    /// When the mask has another length.
    pub fn from_mask(mask: &[bool], rows: usize, tokens: usize) -> Result<Self, TrainError> {
        if mask.len() != rows * tokens {
            let what =
                format!("a mask of {} values for {rows} rows of {tokens} tokens", mask.len());
            return Err(TrainError::batch(what));
        }
        let numbers = |hidden: bool| (0..mask.len()).filter(move |i| mask[*i] == hidden);
        let masked: Vec<u32> = numbers(true).map(|i| i as u32).collect();
        let counts = mask.chunks(tokens.max(1)).map(|row| row.iter().filter(|m| !**m).count());
        let counts: Vec<usize> = counts.collect();
        let visible_count = counts.first().copied().unwrap_or(0);
        let mut visible = Vec::new();
        if counts.iter().all(|c| *c == visible_count) {
            visible.extend(numbers(false).map(|i| (i % tokens) as u32));
        }
        Ok(Self { rows, tokens, visible, visible_count, masked })
    }

    /// Visible tokens as `row · tokens + token`.
    ///
    /// # Errors
    /// When the rows hide different numbers of tokens.
    pub fn visible_flat(&self) -> Result<Vec<u32>, TrainError> {
        if self.visible.len() != self.rows * self.visible_count || self.visible_count == 0 {
            let what = "every sample must show the same number of tokens, at least one, to an encoder of visible tokens";
            return Err(TrainError::batch(what));
        }
        let rows = self.visible.chunks(self.visible_count).enumerate();
        Ok(rows
            .flat_map(|(row, v)| v.iter().map(move |t| (row * self.tokens) as u32 + t))
            .collect())
    }

    /// For every token of the batch the row of the encoder's output that holds it; `hidden`
    /// (usually the mask token's row) for masked ones. `[rows · tokens]`.
    ///
    /// # Errors
    /// As [`Self::visible_flat`].
    pub fn restore(&self, hidden: u32) -> Result<Vec<u32>, TrainError> {
        let mut restore = vec![hidden; self.rows * self.tokens];
        for (slot, token) in self.visible_flat()?.into_iter().enumerate() {
            restore[token as usize] = slot as u32;
        }
        Ok(restore)
    }

    /// Hidden token numbers within each sample, `[rows, hidden]`.
    ///
    /// # Errors
    /// When the rows hide different numbers of tokens.
    pub fn masked_per_row(&self) -> Result<Vec<u32>, TrainError> {
        let hidden = self.tokens - self.visible_count;
        let even = self.masked.len() == self.rows * hidden
            && self.masked.iter().enumerate().all(|(i, m)| *m as usize / self.tokens == i / hidden);
        if !even {
            return Err(TrainError::batch(
                "every sample must hide the same number of tokens for this decoder",
            ));
        }
        Ok(self.masked.iter().map(|m| m % self.tokens as u32).collect())
    }
}

/// MAE's argsort mask: of `noise` `[rows, tokens]` the `keep` smallest of each row stay visible,
/// smallest first. Returns the tokens and `ids_restore` `[rows, tokens]` (the rank of each token).
pub fn argsort_mask(noise: &[f32], rows: usize, keep: usize) -> (MaskedTokens, Vec<u32>) {
    let tokens = noise.len() / rows.max(1);
    let keep = keep.min(tokens);
    let mut all = MaskedTokens { rows, tokens, visible_count: keep, ..MaskedTokens::default() };
    let mut ranks = vec![0u32; noise.len()];
    for (row, noise) in noise.chunks(tokens.max(1)).enumerate() {
        let mut order: Vec<u32> = (0..tokens as u32).collect();
        order.sort_by(|a, b| noise[*a as usize].total_cmp(&noise[*b as usize]));
        for (rank, token) in order.iter().enumerate() {
            ranks[row * tokens + *token as usize] = rank as u32;
        }
        all.visible.extend_from_slice(&order[..keep]);
        let mut hidden: Vec<u32> =
            order[keep..].iter().map(|t| (row * tokens) as u32 + t).collect();
        hidden.sort_unstable();
        all.masked.extend(hidden);
    }
    (all, ranks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_follow_the_convolution_order() {
        let geometry = Geometry::new([2, 4, 4], [2, 2, 2], true).expect("tiles");
        let pixels: Vec<f32> = (0..2 * geometry.sample_values()).map(|v| v as f32).collect();
        let all = patchify(&pixels, 2, &geometry);
        // Sample 1, token 3 (row 1, column 1), channel 2, frame 1, row 0, column 1.
        let at = ((4 + 3) * 3 + 2) * 8 + 4 + 1;
        assert_eq!(all[at], (96 + 2 * 32 + 16 + 2 * 4 + 3) as f32);
        let some = patchify_rows(&pixels, 2, &geometry, &[3, 0, 1, 3]);
        assert_eq!(some[3 * 24..4 * 24], all[7 * 24..8 * 24]);
        assert!(Geometry::new([3, 4, 4], [2, 2, 2], true).is_err());
    }

    #[test]
    fn masks_become_indices() {
        let t =
            MaskedTokens::from_mask(&[true, false, false, false, true, false], 2, 3).expect("fits");
        assert_eq!((t.visible.as_slice(), t.visible_count), ([1, 2, 0, 2].as_slice(), 2));
        assert_eq!(t.masked, [0, 4]);
        assert_eq!(t.visible_flat().expect("even"), [1, 2, 3, 5]);
        assert_eq!(t.restore(9).expect("even"), [9, 0, 1, 2, 9, 3]);
        assert_eq!(t.masked_per_row().expect("even"), [0, 1]);
        let ragged = MaskedTokens::from_mask(&[true, true, false, true], 2, 2).expect("fits");
        assert!(ragged.visible_flat().is_err() && ragged.masked_per_row().is_err());
        assert_eq!(ragged.masked, [0, 1, 3]);
        assert!(MaskedTokens::from_mask(&[true], 2, 2).is_err());
    }

    #[test]
    fn noise_orders_the_visible_tokens() {
        let (t, ranks) = argsort_mask(&[0.5, 0.1, 0.9, 0.3], 1, 2);
        assert_eq!((t.visible, t.masked), (vec![1, 3], vec![0, 2]));
        assert_eq!(ranks, [2, 0, 3, 1]);
    }
}
