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

/// A mask does not fit its grid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a mask of {got} tokens for a grid of {grid} ({want} tokens)", want = grid.len())]
pub struct MaskError {
    /// The grid.
    pub grid: PatchGrid,
    /// Tokens given.
    pub got: usize,
}

/// Which tokens are hidden from the encoder: `true` = masked, `[t, h, w]` row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    grid: PatchGrid,
    masked: Box<[bool]>,
    visible: u32,
}

impl Mask {
    /// A mask over `grid`; `masked` has one entry a token.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn new(grid: PatchGrid, masked: Vec<bool>) -> Result<Self, MaskError> {
        if masked.len() != grid.len() {
            return Err(MaskError { grid, got: masked.len() });
        }
        let visible = masked.iter().filter(|m| !**m).count() as u32;
        Ok(Self { grid, masked: masked.into_boxed_slice(), visible })
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
}
