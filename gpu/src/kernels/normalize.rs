//! Pixels to normalised planes or patches.

use bytemuck::{NoUninit, Zeroable};
use tubelet_core::PatchSize;

use super::{Address, DType, Launch, Pixels, Source, TokenList, by_dtype, check_area, token_count};
use crate::error::GpuError;

/// Threads of a block.
const THREADS: u32 = 256;
/// Runs of pixels that a thread of `planes` does, so that reading the table pays.
const RUNS: u64 = 8;
/// Tokens that a block of `patches` does, likewise.
const TOKENS: u32 = 8;

/// Order of the axes of a batch of planes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlaneOrder {
    /// `[rows, 3, frames, height, width]`.
    #[default]
    ChannelFirst,
    /// `[rows, frames, 3, height, width]`.
    FrameFirst,
}

/// Order inside a patch's vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PatchOrder {
    /// Channel, frame, row, column: that of a convolution's weight.
    #[default]
    ChannelFirst,
    /// Frame, row, column, channel: that of pixel targets.
    ChannelLast,
}

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct PlanesParams {
    pixels: Address,
    floats: Address,
    table: Address,
    out: Address,
    planes: u32,
    frames: u32,
    plane: u32,
    frame_major: u32,
    blocks: u32,
    vector: u32,
}

/// Every pixel to `out`, which has as many elements as `pixels`. Bytes are normalised by their table
/// ([`tubelet_augment::normalise::Normalise::table`]).
///
/// # Errors
/// When the batch is empty or too large, or `dtype` is no float.
pub fn planes(
    pixels: &Pixels,
    source: Source,
    order: PlaneOrder,
    dtype: DType,
    out: Address,
) -> Result<Launch, GpuError> {
    check_area(pixels.size)?;
    let kernel = by_dtype(["planes_f32", "planes_bf16", "planes_f16"], dtype)?;
    let planes = pixels.planes();
    let plane = pixels.size.area() as u64;
    let vector = plane % 4 == 0 && source.is_aligned(pixels) && out.is_aligned(16);
    let runs = if vector { plane / 4 } else { plane };
    let blocks = runs.div_ceil(u64::from(THREADS) * RUNS);
    let (bytes, floats, table) = source.addresses(pixels);
    let params = PlanesParams {
        pixels: bytes,
        floats,
        table,
        out,
        planes: planes as u32,
        frames: pixels.frames,
        plane: plane as u32,
        frame_major: u32::from(order == PlaneOrder::FrameFirst),
        blocks: blocks as u32,
        vector: u32::from(vector),
    };
    let traffic = planes * plane * (source.pixel_bytes() + 3 * dtype.bytes() as u64);
    Ok(Launch::new(kernel, planes * blocks, THREADS, &params)?.with_traffic(traffic))
}

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct PatchesParams {
    pixels: Address,
    floats: Address,
    table: Address,
    tokens: Address,
    out: Address,
    rows: u32,
    count: u32,
    frames: u32,
    height: u32,
    width: u32,
    patch_t: u32,
    patch_h: u32,
    patch_w: u32,
    channel_last: u32,
    per_block: u32,
    vector: u32,
    unused: u32,
}

/// The pixels of the listed tokens, or of all where there is no list, to `out`,
/// `[rows, count, 3 · t · h · w]`. Padding of the list is written like a token.
///
/// # Errors
/// When the patches do not tile the frames, the batch is empty or too large, or `dtype` is no float.
pub fn patches(
    pixels: &Pixels,
    source: Source,
    patch: PatchSize,
    tokens: Option<&TokenList>,
    order: PatchOrder,
    dtype: DType,
    out: Address,
) -> Result<Launch, GpuError> {
    pixels.check_tiling(patch)?;
    let kernel = by_dtype(["patches_f32", "patches_bf16", "patches_f16"], dtype)?;
    let volume = u64::from(patch.t * patch.h * patch.w);
    let all = u64::from(pixels.frames) * pixels.size.area() as u64 / volume;
    let count = tokens.map_or(all, |t| u64::from(t.count));
    let written = token_count(pixels.rows, count)?;
    let vector = patch.w % 4 == 0
        && pixels.size.width % 4 == 0
        && source.is_aligned(pixels)
        && out.is_aligned(16);
    let (bytes, floats, table) = source.addresses(pixels);
    let params = PatchesParams {
        pixels: bytes,
        floats,
        table,
        tokens: tokens.map_or(Address::NULL, |t| t.address),
        out,
        rows: pixels.rows,
        count: count as u32,
        frames: pixels.frames,
        height: pixels.size.height,
        width: pixels.size.width,
        patch_t: patch.t,
        patch_h: patch.h,
        patch_w: patch.w,
        channel_last: u32::from(order == PatchOrder::ChannelLast),
        per_block: TOKENS,
        vector: u32::from(vector),
        unused: 0,
    };
    let traffic = written * volume * (source.pixel_bytes() + 3 * dtype.bytes() as u64);
    let launch = Launch::new(kernel, written.div_ceil(u64::from(TOKENS)), THREADS / 2, &params)?;
    Ok(launch.with_traffic(traffic))
}
