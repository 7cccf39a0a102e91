//! Pixel targets.

use bytemuck::{NoUninit, Zeroable};
use tubelet_augment::normalise::Normalise;
use tubelet_augment::target::pixels::{PatchNorm, PixelOrder};
use tubelet_core::PatchSize;

use super::{Address, Launch, Pixels, SHARED_BYTES, Source, TABLE_LEN, TokenList, token_count};
use crate::error::GpuError;

/// Threads of a block; the kernel's sums have room for as many warps.
const THREADS: u32 = 128;
/// Tokens that a block makes, so that reading the table pays.
const TOKENS: u32 = 4;
/// Static shared memory of the kernel: the table and the sums, rounded up.
const STATIC_BYTES: u32 = 4096;

/// Which target, of which frames.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PatchNormSpec {
    /// The formula.
    pub norm: PatchNorm,
    /// Extent of a token.
    pub patch: PatchSize,
    /// u32 on the device: the frames that targets are made of, [`PatchNormSpec::per_slot`] for each
    /// time slot ([`tubelet_augment::target::pixels::FrameChoice::indices`]).
    pub chosen: Address,
    /// Frames in a target.
    pub per_slot: u32,
    /// Order of the numbers of a target.
    pub order: PixelOrder,
    /// What floats were normalised by.
    pub normalise: Normalise,
}

impl PatchNormSpec {
    /// Numbers of a target.
    pub fn dim(&self) -> u32 {
        self.per_slot * self.patch.h * self.patch.w * 3
    }
}

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct PatchNormParams {
    pixels: Address,
    floats: Address,
    table: Address,
    tokens: Address,
    counts: Address,
    chosen: Address,
    out: Address,
    inside: f64,
    outside: f64,
    bias: f64,
    mean: [f32; 3],
    deviation: [f32; 3],
    max_tokens: u32,
    frames: u32,
    height: u32,
    width: u32,
    patch_h: u32,
    patch_w: u32,
    per_slot: u32,
    vector: u32,
    standardise: u32,
    joint: u32,
    written: u32,
    per_block: u32,
    put_back: u32,
    channel_first: u32,
}

/// What each grey level is before a token is standardised, f32 `[3, 256]`: normalised, or put back
/// to 0..1 in the host's way.
pub fn target_table(norm: PatchNorm, normalise: &Normalise) -> [f32; TABLE_LEN] {
    let original = norm.original();
    let table = normalise.table();
    std::array::from_fn(|i| {
        let (c, value) = (i / 256, table[i / 256][i % 256]);
        if original { value * normalise.std[c] + normalise.mean[c] } else { value }
    })
}

/// Targets of the listed tokens to `out`, f32 `[rows, count, dim]`; padding is zero. The table of bytes
/// is [`target_table`]'s.
///
/// # Errors
/// When the patches do not tile the frames, a target does not fit shared memory, or the batch is
/// empty or too large.
pub fn patch_norm(
    spec: &PatchNormSpec,
    pixels: &Pixels,
    source: Source,
    tokens: &TokenList,
    out: Address,
) -> Result<Launch, GpuError> {
    pixels.check_tiling(spec.patch)?;
    let dim = spec.dim();
    if dim == 0 || dim > (SHARED_BYTES - STATIC_BYTES) / 4 {
        let valid = "a pixel target has 1 to 11264 numbers (frames x rows x columns x 3)";
        return Err(GpuError::shape("target", format!("{dim} numbers"), valid));
    }
    let formula = spec.norm.formula();
    let (standardise, formula) = (formula.is_some(), formula.unwrap_or_default());
    let aligned = spec.patch.w % 4 == 0 && pixels.size.width % 4 == 0;
    let written = token_count(pixels.rows, tokens.count.into())?;
    let (bytes, floats, table) = source.addresses(pixels);
    let params = PatchNormParams {
        pixels: bytes,
        floats,
        table,
        tokens: tokens.address,
        counts: tokens.counts,
        chosen: spec.chosen,
        out,
        inside: formula.inside,
        outside: formula.outside,
        bias: formula.bias,
        mean: spec.normalise.mean,
        deviation: spec.normalise.std,
        max_tokens: tokens.count,
        frames: pixels.frames,
        height: pixels.size.height,
        width: pixels.size.width,
        patch_h: spec.patch.h,
        patch_w: spec.patch.w,
        per_slot: spec.per_slot,
        vector: u32::from(aligned && source.is_aligned(pixels)),
        standardise: u32::from(standardise),
        joint: u32::from(formula.joint),
        written: written as u32,
        per_block: TOKENS,
        put_back: u32::from(floats != Address::NULL && spec.norm.original()),
        channel_first: u32::from(spec.order == PixelOrder::ChannelFirst),
    };
    let launch = Launch::new("patch_norm", written.div_ceil(u64::from(TOKENS)), THREADS, &params)?;
    let traffic = written * u64::from(dim / 3) * (source.pixel_bytes() + 12);
    Ok(launch.with_shared(dim * 4).with_traffic(traffic))
}
