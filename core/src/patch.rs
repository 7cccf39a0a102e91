//! Patches, token grids and masks.

use serde::{Deserialize, Serialize};

/// Extent of one token in frames and pixels; `t` is 1 for pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PatchSize {
    /// Frames.
    pub t: u32,
    /// Rows.
    pub h: u32,
    /// Columns.
    pub w: u32,
}

/// Number of tokens along time, height and width. Tokens are numbered row-major: time slowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PatchGrid {
    /// Time slots.
    pub t: u32,
    /// Rows of tokens.
    pub h: u32,
    /// Columns of tokens.
    pub w: u32,
}

impl PatchGrid {
    /// A grid of `t` × `h` × `w` tokens.
    pub const fn new(t: u32, h: u32, w: u32) -> Self {
        Self { t, h, w }
    }

    /// All tokens.
    pub const fn len(self) -> usize {
        self.t as usize * self.plane()
    }

    /// Whether there is no token.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Tokens of one time slot.
    pub const fn plane(self) -> usize {
        self.h as usize * self.w as usize
    }
}

impl std::fmt::Display for PatchGrid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.t, self.h, self.w)
    }
}

/// Most further passes a mask can carry: a slot has one byte a token, and one bit of it is the mask.
pub const MAX_PASSES: usize = 7;

/// A mask does not fit its grid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// Not one entry a token.
    #[error("a mask of {got} tokens for a grid of {grid} ({want} tokens)", want = grid.len())]
    Length {
        /// The grid.
        grid: PatchGrid,
        /// Tokens given.
        got: usize,
    },
    /// More passes than a byte has room for.
    #[error("a mask of {0} further passes; at most {MAX_PASSES} fit")]
    Passes(usize),
}

/// Which tokens are hidden from the encoder: `true` = masked, `[t, h, w]` row-major.
///
/// Some methods look at a row more than once, each time with other tokens hidden: the folds of a
/// teacher, the other half, a second kind of block, what the decoder leaves out. Each further pass
/// is a mask of its own over the same grid ([`Mask::passes`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    grid: PatchGrid,
    masked: Box<[bool]>,
    visible: u32,
    passes: Vec<Box<[bool]>>,
}

impl Mask {
    /// A mask over `grid`; `masked` has one entry a token.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn new(grid: PatchGrid, masked: Vec<bool>) -> Result<Self, MaskError> {
        if masked.len() != grid.len() {
            return Err(MaskError::Length { grid, got: masked.len() });
        }
        let visible = masked.iter().filter(|m| !**m).count() as u32;
        Ok(Self { grid, masked: masked.into_boxed_slice(), visible, passes: Vec::new() })
    }

    /// This mask with the masks of further passes, `true` = hidden in that pass.
    ///
    /// # Errors
    /// When a length is not that of the grid, or there are more than [`MAX_PASSES`].
    pub fn with_passes(mut self, passes: Vec<Vec<bool>>) -> Result<Self, MaskError> {
        if passes.len() > MAX_PASSES {
            return Err(MaskError::Passes(passes.len()));
        }
        if let Some(other) = passes.iter().find(|p| p.len() != self.grid.len()) {
            return Err(MaskError::Length { grid: self.grid, got: other.len() });
        }
        self.passes = passes.into_iter().map(Vec::into_boxed_slice).collect();
        Ok(self)
    }

    /// The masks of further passes.
    pub fn passes(&self) -> &[Box<[bool]>] {
        &self.passes
    }

    /// The slot's bytes: bit 0 = masked, bit k = hidden in the k-th further pass.
    ///
    /// # Panics
    /// When `out` has not one byte a token.
    pub fn write_bytes(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.masked.len(), "one byte a token");
        for (out, masked) in out.iter_mut().zip(&self.masked) {
            *out = u8::from(*masked);
        }
        for (k, pass) in self.passes.iter().enumerate() {
            for (out, hidden) in out.iter_mut().zip(pass) {
                *out |= u8::from(*hidden) << (k + 1);
            }
        }
    }

    /// The grid it covers.
    pub fn grid(&self) -> PatchGrid {
        self.grid
    }

    /// One entry a token, `true` = masked.
    pub fn as_slice(&self) -> &[bool] {
        &self.masked
    }

    /// Number of visible tokens.
    pub fn visible_count(&self) -> usize {
        self.visible as usize
    }

    /// Number of masked tokens.
    pub fn masked_count(&self) -> usize {
        self.masked.len() - self.visible as usize
    }

    /// Indices of the visible tokens, ascending.
    pub fn visible(&self) -> impl Iterator<Item = u32> + '_ {
        self.masked.iter().enumerate().filter(|(_, m)| !**m).map(|(i, _)| i as u32)
    }

    /// Indices of the masked tokens, ascending.
    pub fn masked(&self) -> impl Iterator<Item = u32> + '_ {
        self.masked.iter().enumerate().filter(|(_, m)| **m).map(|(i, _)| i as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_indices_agree() {
        let grid = PatchGrid::new(1, 2, 2);
        let mask = Mask::new(grid, vec![true, false, false, true]).expect("fits");
        assert_eq!(mask.visible().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(mask.masked().collect::<Vec<_>>(), [0, 3]);
        assert_eq!((mask.visible_count(), mask.masked_count()), (2, 2));
        assert!(Mask::new(grid, vec![true; 3]).is_err());
    }

    #[test]
    fn passes_are_bits_above_the_mask() {
        let grid = PatchGrid::new(1, 1, 3);
        let mask = Mask::new(grid, vec![true, false, true]).expect("fits");
        let passes = vec![vec![false, true, true], vec![false, false, true]];
        let mask = mask.with_passes(passes).expect("two fit");
        let mut bytes = [9; 3];
        mask.write_bytes(&mut bytes);
        assert_eq!(bytes, [0b001, 0b010, 0b111]);
        assert!(mask.clone().with_passes(vec![vec![true; 3]; 8]).is_err());
        assert!(mask.with_passes(vec![vec![true; 2]]).is_err());
    }
}
