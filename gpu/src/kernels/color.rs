//! Colour jitter on a batch in floats, for programs that have floats on the device. The stage of a
//! recipe does not use it: a recipe's colours are changed on the CPU, in bytes, before the slot.

use bytemuck::{NoUninit, Pod, Zeroable};
use tubelet_augment::normalise::Normalise;

use super::{Address, FloatBatch, Launch, by_dtype, check_area};
use crate::error::GpuError;

/// Threads of a block; the kernel's sums have room for as many warps.
const THREADS: u32 = 256;

/// One change of colour (torchvision's functions on tensors): but for the hue, a blend
/// factor · pixel + (1 − factor) · other, kept in 0..1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// The other picture is black.
    Brightness(f32),
    /// The other picture is the frame's mean grey.
    Contrast(f32),
    /// The other picture is the frame in grey.
    Saturation(f32),
    /// Turns the hue by this share of the circle, −0.5 to 0.5.
    Hue(f32),
}

/// The changes of one row: copied to the device as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct ColorRow {
    change: [u32; 4],
    factor: [f32; 4],
}

impl ColorRow {
    /// At most four changes, in order, the same in every frame.
    ///
    /// # Errors
    /// When there are more, a factor is negative or not finite, or a turn is more than half the circle.
    pub fn new(changes: &[Change]) -> Result<Self, GpuError> {
        let mut row = Self::default();
        if changes.len() > row.change.len() {
            let valid = "a row has at most four";
            return Err(GpuError::shape("colour changes", changes.len(), valid));
        }
        for (n, change) in changes.iter().enumerate() {
            (row.change[n], row.factor[n]) = match *change {
                Change::Brightness(factor) => (1, factor),
                Change::Contrast(factor) => (2, factor),
                Change::Saturation(factor) => (3, factor),
                Change::Hue(turn) => (4, turn),
            };
            let range = if row.change[n] == 4 { -0.5..=0.5 } else { 0.0..=f32::MAX };
            if !range.contains(&row.factor[n]) {
                let valid = "factors are 0 or larger, turns of the hue -0.5 to 0.5";
                return Err(GpuError::shape("colour change", format!("{change:?}"), valid));
            }
        }
        Ok(row)
    }
}

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct ColorParams {
    data: Address,
    rows: Address,
    frames: u32,
    plane: u32,
    mean: [f32; 3],
    deviation: [f32; 3],
}

/// Changes the colours of `batch`, normalised by `normalise`, in place. `rows` is the device's copy
/// of one [`ColorRow`] a row.
///
/// # Errors
/// When the batch is empty or too large.
pub fn color(batch: &FloatBatch, rows: Address, normalise: &Normalise) -> Result<Launch, GpuError> {
    check_area(batch.size)?;
    let kernel = by_dtype(["color_f32", "color_bf16", "color_f16"], batch.dtype)?;
    let params = ColorParams {
        data: batch.address,
        rows,
        frames: batch.frames,
        plane: batch.size.area() as u32,
        mean: normalise.mean,
        deviation: normalise.std,
    };
    let blocks = u64::from(batch.rows) * u64::from(batch.frames);
    let values = blocks * 3 * batch.size.area() as u64;
    let launch = Launch::new(kernel, blocks, THREADS, &params)?;
    // Two readings, one of them for the mean grey, and one writing.
    Ok(launch.with_traffic(values * 3 * batch.dtype.bytes() as u64))
}
