//! The kernels: their sources, and launches with checked shapes.
//!
//! A launch is a value: which kernel, how many blocks, which parameters. Making one touches no
//! device, so that everything up to the call itself is tested without one. The parameters of a
//! kernel are one struct, the same here and in the `.cu` file of the same name.

mod color;
mod crop_resize;
mod erase;
mod hog;
mod indices;
mod mix;
mod normalize;
mod patch_norm;
mod picture;

use bytemuck::{NoUninit, Pod, Zeroable};
use tubelet_core::{PatchSize, Size};

pub use color::{Change, ColorRow, color};
pub use crop_resize::{CropBatch, Geometry, PlaneLayout};
pub use erase::{Boxes, erase};
pub use hog::hog;
pub use indices::{IndexLists, flags, indices};
pub use mix::{PairMix, mix};
pub use normalize::{PatchOrder, PlaneOrder, patches, planes};
pub use patch_norm::{PatchNormSpec, patch_norm, target_table};
pub use picture::{cells_len, line_table, picture, picture_cells};

use crate::error::GpuError;

/// Dynamic shared memory that every supported device grants a block without asking.
pub const SHARED_BYTES: u32 = 48 << 10;
/// Blocks that one launch may have.
pub const MAX_BLOCKS: u64 = (1 << 31) - 1;
/// Pixels that a frame may have: kernels number them in 32 bits.
pub const MAX_AREA: u64 = 1 << 30;
/// Tokens that the rows of a batch may list together, likewise.
pub const MAX_TOKENS: u64 = 1 << 31;
/// Entries of a table of normalised grey levels, `[3, 256]`.
pub const TABLE_LEN: usize = 768;

/// An address in a device's memory (in the tests, of the host's).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Address(pub u64);

impl Address {
    /// No address.
    pub const NULL: Self = Self(0);

    /// Whether it is a multiple of `bytes`.
    pub fn is_aligned(self, bytes: u64) -> bool {
        self.0 % bytes == 0
    }
}

/// Element type of a tensor on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    #[default]
    F32,
    /// bfloat16, rounded to nearest even.
    Bf16,
    /// IEEE half, rounded to nearest even.
    F16,
    /// Unsigned 32-bit.
    U32,
    /// Bytes: flags of 0 and 1.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::U8 => 1,
        }
    }
}

/// Element types of batches in floats, in the order of each family of kernels.
const FLOATS: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

/// A source file: one program for the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Program {
    /// Bytes to planes or patches.
    Normalize,
    /// Masks to index lists.
    Indices,
    /// Pixel targets.
    PatchNorm,
    /// HOG targets.
    Hog,
    /// Pictures of HOG.
    Picture,
    /// Mixup, CutMix.
    Mix,
    /// Random erasing.
    Erase,
    /// Colour jitter.
    Color,
    /// Decoded frames to pixels.
    CropResize,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Normalize,
        Self::Indices,
        Self::PatchNorm,
        Self::Hog,
        Self::Picture,
        Self::Mix,
        Self::Erase,
        Self::Color,
        Self::CropResize,
    ];

    /// Name of its file, without the ending.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normalize => "normalize",
            Self::Indices => "indices",
            Self::PatchNorm => "patch_norm",
            Self::Hog => "hog",
            Self::Picture => "picture",
            Self::Mix => "mix",
            Self::Erase => "erase",
            Self::Color => "color",
            Self::CropResize => "crop_resize",
        }
    }

    /// Its text, which includes [`COMMON`] as `common.cuh`.
    pub const fn source(self) -> &'static str {
        match self {
            Self::Normalize => include_str!("normalize.cu"),
            Self::Indices => include_str!("indices.cu"),
            Self::PatchNorm => include_str!("patch_norm.cu"),
            Self::Hog => include_str!("hog.cu"),
            Self::Picture => include_str!("picture.cu"),
            Self::Mix => include_str!("mix.cu"),
            Self::Erase => include_str!("erase.cu"),
            Self::Color => include_str!("color.cu"),
            Self::CropResize => include_str!("crop_resize.cu"),
        }
    }

    /// Kernels in it.
    pub const fn kernels(self) -> &'static [&'static str] {
        match self {
            Self::Normalize => &[
                "planes_f32",
                "planes_bf16",
                "planes_f16",
                "patches_f32",
                "patches_bf16",
                "patches_f16",
            ],
            Self::Indices => &["indices", "flags"],
            Self::PatchNorm => &["patch_norm"],
            Self::Hog => &["hog"],
            Self::Picture => &["picture_cells", "picture"],
            Self::Mix => &["mix_f32", "mix_bf16", "mix_f16"],
            Self::Erase => &["erase_f32", "erase_bf16", "erase_f16"],
            Self::Color => &["color_f32", "color_bf16", "color_f16"],
            Self::CropResize => &["crop_resize"],
        }
    }
}

/// What all kernels include.
pub const COMMON: &str = include_str!("common.cuh");

/// One kernel over one grid. Running it is unsafe: its addresses must be valid then.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Name of the kernel, one of [`Program::kernels`].
    pub kernel: &'static str,
    /// Blocks; at least 1.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Bytes that it must at least move to and from memory, for benches.
    pub traffic: u64,
    params: Vec<u64>,
}

impl Launch {
    /// `kernel` over `blocks` blocks.
    fn new<P: NoUninit>(
        kernel: &'static str,
        blocks: u64,
        threads: u32,
        params: &P,
    ) -> Result<Self, GpuError> {
        if blocks == 0 || blocks > MAX_BLOCKS {
            let valid = "a launch has 1 to 2147483647 blocks: use smaller or non-empty batches";
            return Err(GpuError::shape("batch", format!("{blocks} blocks of `{kernel}`"), valid));
        }
        Ok(Self {
            kernel,
            blocks: blocks as u32,
            threads,
            shared_bytes: 0,
            traffic: 0,
            params: words_of(params),
        })
    }

    fn with_shared(self, bytes: u32) -> Self {
        Self { shared_bytes: bytes, ..self }
    }

    fn with_traffic(self, bytes: u64) -> Self {
        Self { traffic: bytes, ..self }
    }

    /// The parameter block.
    pub fn params(&self) -> &[u64] {
        &self.params
    }
}

/// A parameter block as words; every block is made of whole ones, and no longer than every driver
/// takes.
fn words_of<P: NoUninit>(params: &P) -> Vec<u64> {
    const { assert!(size_of::<P>() % 8 == 0 && size_of::<P>() <= 4096) };
    let mut words = vec![0u64; size_of::<P>() / 8];
    bytemuck::cast_slice_mut(&mut words).copy_from_slice(bytemuck::bytes_of(params));
    words
}

/// What a kernel reads pixels from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The bytes at [`Pixels::address`] through the table at this address, f32 `[3, 256]`.
    Bytes {
        /// The table.
        table: Address,
    },
    /// f32 `[rows, 3, frames, height, width]` at this address, taken as it is.
    Floats(Address),
}

impl Source {
    /// Bytes, floats and table of a parameter block.
    fn addresses(self, pixels: &Pixels) -> (Address, Address, Address) {
        match self {
            Self::Bytes { table } => (pixels.address, Address::NULL, table),
            Self::Floats(floats) => (Address::NULL, floats, Address::NULL),
        }
    }

    /// Bytes of one pixel.
    fn pixel_bytes(self) -> u64 {
        match self {
            Self::Bytes { .. } => 3,
            Self::Floats(_) => 12,
        }
    }

    /// Whether four pixels can be read at once, from every fourth one on.
    fn is_aligned(self, pixels: &Pixels) -> bool {
        match self {
            Self::Bytes { .. } => pixels.address.is_aligned(4),
            Self::Floats(floats) => floats.is_aligned(16),
        }
    }
}

/// u8 `[rows, frames, height, width, 3]` on the device, or floats of the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// The first byte.
    pub address: Address,
    /// Rows.
    pub rows: u32,
    /// Frames of a row.
    pub frames: u32,
    /// Size of a frame.
    pub size: Size,
}

impl Pixels {
    /// Bytes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.frames) * self.size.area() as u64 * 3
    }

    /// Frames of all rows.
    fn planes(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.frames)
    }

    /// Whether the patches cover every frame exactly.
    fn check_tiling(&self, patch: PatchSize) -> Result<(), GpuError> {
        check_area(self.size)?;
        let Size { width, height } = self.size;
        let tiles = |length: u32, part: u32| part > 0 && length > 0 && length % part == 0;
        if tiles(self.frames, patch.t) && tiles(height, patch.h) && tiles(width, patch.w) {
            return Ok(());
        }
        let value = format!(
            "{}x{}x{} on {} frames of {width}x{height}",
            patch.t, patch.h, patch.w, self.frames
        );
        Err(GpuError::shape("patch", value, "patches tile the frames exactly"))
    }
}

/// float `[rows, 3, frames, height, width]` on the device, changed in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatBatch {
    /// The first element.
    pub address: Address,
    /// Element type.
    pub dtype: DType,
    /// Rows.
    pub rows: u32,
    /// Frames of a row.
    pub frames: u32,
    /// Size of a frame.
    pub size: Size,
}

/// u32 `[rows, count]` token numbers on the device, ascending in each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenList {
    /// The first number.
    pub address: Address,
    /// Tokens listed a row.
    pub count: u32,
    /// u32 `[rows]`, how many of a row's tokens are real.
    pub counts: Address,
}

/// Whether kernels can number the pixels of a frame of `size`.
fn check_area(size: Size) -> Result<(), GpuError> {
    if u64::from(size.width) * u64::from(size.height) <= MAX_AREA {
        return Ok(());
    }
    let value = format!("{}x{}", size.width, size.height);
    Err(GpuError::shape("frame", value, "a frame has at most 2^30 pixels"))
}

/// `rows` times `tokens`, if kernels can number as many.
fn token_count(rows: u32, tokens: u64) -> Result<u64, GpuError> {
    let all = u64::from(rows) * tokens;
    if all <= MAX_TOKENS {
        return Ok(all);
    }
    Err(GpuError::shape("tokens of a batch", all, "the rows list at most 2^31 tokens together"))
}

/// The kernel of `family` (three, by element type) for `dtype`.
fn by_dtype(family: [&'static str; 3], dtype: DType) -> Result<&'static str, GpuError> {
    let at = FLOATS.iter().position(|d| *d == dtype);
    at.map(|at| family[at]).ok_or_else(|| {
        GpuError::shape("element type", format!("{dtype:?}"), "f32, bf16 and f16 are")
    })
}
