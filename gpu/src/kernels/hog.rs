//! HOG targets.

use bytemuck::{NoUninit, Zeroable};
use tubelet_augment::target::hog::HogSpec;
use tubelet_core::PatchSize;

use super::{Address, Launch, Pixels, SHARED_BYTES, Source, TokenList, token_count};
use crate::error::GpuError;

/// Threads of a block: about the 108 numbers of the published target.
const THREADS: u32 = 128;

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct HogParams {
    pixels: Address,
    table: Address,
    floats: Address,
    window: Address,
    tokens: Address,
    counts: Address,
    out: Address,
    max_tokens: u32,
    frames: u32,
    height: u32,
    width: u32,
    columns: u32,
    plane_tokens: u32,
    patch_t: u32,
    cells_h: u32,
    cells_w: u32,
    cell: u32,
    bins: u32,
    side: u32,
    normalise: u32,
    unused: u32,
}

/// Histograms of the listed tokens to `out`, f32 `[rows, count, 3 · bins · cells]` ordered channel,
/// bin, cell row, cell column; padding is zero. Of each time slot the first frame counts. `window`
/// is f32 `[side, side]` ([`tubelet_augment::target::hog::gaussian_window`]), read where `spec` has
/// one.
///
/// # Errors
/// When a token has no whole cell or does not fit shared memory, there are more than 255 bins, a
/// frame is smaller than 2 × 2, the patches do not tile the frames, or the batch is empty or too
/// large.
pub fn hog(
    spec: &HogSpec,
    pixels: &Pixels,
    source: Source,
    window: Address,
    patch: PatchSize,
    tokens: &TokenList,
    out: Address,
) -> Result<Launch, GpuError> {
    pixels.check_tiling(patch)?;
    let shared = shared_bytes(spec, pixels, patch)?;
    let (bytes, floats, table) = source.addresses(pixels);
    let (columns, rows) = (pixels.size.width / patch.w, pixels.size.height / patch.h);
    let params = HogParams {
        pixels: bytes,
        table,
        floats,
        window: if spec.gaussian_window > 0 { window } else { Address::NULL },
        tokens: tokens.address,
        counts: tokens.counts,
        out,
        max_tokens: tokens.count,
        frames: pixels.frames,
        height: pixels.size.height,
        width: pixels.size.width,
        columns,
        plane_tokens: columns * rows,
        patch_t: patch.t,
        cells_h: patch.h / spec.cell,
        cells_w: patch.w / spec.cell,
        cell: spec.cell,
        bins: spec.bins,
        side: spec.gaussian_window,
        normalise: u32::from(spec.normalise),
        unused: 0,
    };
    let blocks = token_count(pixels.rows, tokens.count.into())?;
    let read = u64::from(patch.h * patch.w) * source.pixel_bytes();
    let traffic = blocks * (read + 4 * spec.token_dim(patch) as u64);
    let launch = Launch::new("hog", blocks, THREADS, &params)?;
    Ok(launch.with_shared(shared).with_traffic(traffic))
}

/// Shared memory of a block: pixels with a border, magnitudes and bins, the histograms.
fn shared_bytes(spec: &HogSpec, pixels: &Pixels, patch: PatchSize) -> Result<u32, GpuError> {
    if spec.bins == 0 || spec.bins > 255 {
        return Err(GpuError::shape("HOG bins", spec.bins, "1 to 255 are"));
    }
    if spec.cell == 0 || spec.cell > patch.h.min(patch.w) {
        return Err(GpuError::shape("HOG cell", spec.cell, "a token holds at least one cell"));
    }
    if pixels.size.width < 2 || pixels.size.height < 2 {
        let value = format!("{}x{}", pixels.size.width, pixels.size.height);
        return Err(GpuError::shape("HOG of a frame", value, "frames of 2x2 pixels and more are"));
    }
    let side = |patch: u32| u64::from(patch / spec.cell * spec.cell);
    let (high, wide) = (side(patch.h), side(patch.w));
    let floats = 3 * (high + 2) * (wide + 2) + 3 * high * wide + spec.token_dim(patch) as u64;
    let bytes = 4 * floats + 3 * high * wide;
    if bytes > u64::from(SHARED_BYTES) {
        let value = format!("{high}x{wide} pixels, {} bins", spec.bins);
        let valid = "a token's pixels and histograms fit 48 KiB (32x32 pixels with 9 bins do)";
        return Err(GpuError::shape("HOG token", value, valid));
    }
    Ok(bytes as u32)
}
