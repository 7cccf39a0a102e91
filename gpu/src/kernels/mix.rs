//! Mixup and CutMix on a batch in floats.

use bytemuck::{NoUninit, Zeroable};
use tubelet_core::Rect;

use super::{Address, FloatBatch, Launch, by_dtype};
use crate::error::GpuError;

/// Threads of a block.
const THREADS: u32 = 256;
/// Elements that a thread changes at most, before another block is added.
const ELEMENTS: u64 = 16;

/// How row r and its partner, row rows − 1 − r, are mixed (timm's batch mode).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mix {
    /// λ · row + (1 − λ) · partner.
    Mixup {
        /// λ, 0 to 1.
        lambda: f64,
    },
    /// The box is the partner's, in every frame.
    Cutmix {
        /// The box, inside the frame.
        region: Rect,
    },
}

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct MixParams {
    data: Address,
    rows: u32,
    planes: u32,
    height: u32,
    width: u32,
    cut: u32,
    keep: f32,
    take: f32,
    top: u32,
    left: u32,
    box_height: u32,
    box_width: u32,
    blocks: u32,
    vector: u32,
    unused: u32,
}

/// Mixes the rows of `batch` in place. `None` where nothing changes: an empty box.
///
/// # Errors
/// When the box leaves the frame, λ is not within 0 to 1, or the batch is empty or too large.
pub fn mix(batch: &FloatBatch, how: Mix) -> Result<Option<Launch>, GpuError> {
    let kernel = by_dtype(["mix_f32", "mix_bf16", "mix_f16"], batch.dtype)?;
    let (lambda, region) = match how {
        Mix::Mixup { lambda } => (check_lambda(lambda)?, None),
        Mix::Cutmix { region } => (1.0, Some(check_box(batch, region)?)),
    };
    let planes = 3 * batch.frames;
    let area =
        region.map_or(batch.size.area() as u64, |r| u64::from(r.width) * u64::from(r.height));
    if area == 0 {
        return Ok(None);
    }
    let pairs = u64::from(batch.rows.div_ceil(2));
    let elements = u64::from(planes) * area;
    let row_values = u64::from(planes) * batch.size.area() as u64;
    if row_values > u64::from(u32::MAX / 2) {
        let valid = "a row has at most 2147483647 values";
        return Err(GpuError::shape("row of a batch", row_values, valid));
    }
    let vector = region.is_none() && row_values % 4 == 0 && batch.address.is_aligned(16);
    let blocks = elements.div_ceil(u64::from(THREADS) * ELEMENTS);
    let params = MixParams {
        data: batch.address,
        rows: batch.rows,
        planes,
        height: batch.size.height,
        width: batch.size.width,
        cut: u32::from(region.is_some()),
        keep: lambda as f32,
        take: (1.0 - lambda) as f32,
        top: region.map_or(0, |r| r.y),
        left: region.map_or(0, |r| r.x),
        box_height: region.map_or(0, |r| r.height),
        box_width: region.map_or(0, |r| r.width),
        blocks: blocks as u32,
        vector: u32::from(vector),
        unused: 0,
    };
    let traffic = u64::from(batch.rows) * elements * 2 * batch.dtype.bytes() as u64;
    Ok(Some(Launch::new(kernel, pairs * blocks, THREADS, &params)?.with_traffic(traffic)))
}

fn check_lambda(lambda: f64) -> Result<f64, GpuError> {
    if (0.0..=1.0).contains(&lambda) {
        return Ok(lambda);
    }
    Err(GpuError::shape("mixup's lambda", lambda, "0 to 1 are"))
}

fn check_box(batch: &FloatBatch, region: Rect) -> Result<Rect, GpuError> {
    let ends = |start: u32, length: u32| u64::from(start) + u64::from(length);
    let inside = ends(region.x, region.width) <= u64::from(batch.size.width)
        && ends(region.y, region.height) <= u64::from(batch.size.height);
    if inside {
        return Ok(region);
    }
    Err(GpuError::shape("CutMix's box", format!("{region:?}"), "a box lies inside the frame"))
}
