//! Decoded frames on the device to pixels of rows.

use bytemuck::{NoUninit, Zeroable};
use tubelet_augment::resample::PillowAxis;
use tubelet_augment::resample::planes::{
    Coefficients, Cut, Held, Kernel, PlaneResampler, color_offsets,
};
use tubelet_core::{Rect, Size};

use super::{Address, Launch, SHARED_BYTES};
use crate::error::GpuError;

/// Threads of a block, which makes one row of pixels.
const THREADS: u32 = 256;
/// An axis that is not there.
const NO_AXIS: u32 = u32::MAX;
/// Largest side of a frame: products of sides fit 32 bits.
const MAX_SIDE: u32 = 1 << 15;

#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct CropFrame {
    planes: [Address; 3],
    out: Address,
    geometry: u32,
    unused: u32,
}

#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct CropGeometry {
    luma_pitch: u32,
    chroma_pitch: u32,
    chroma_step: u32,
    width: u32,
    height: u32,
    axes: [u32; 4],
    /// Luma, red from V, green from U and V, blue from U.
    matrix: [i32; 5],
    offset: [i32; 3],
    unused: u32,
}

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct CropParams {
    frames: Address,
    geometries: Address,
    tables: Address,
    rows: u32,
    unused: u32,
}

/// How the planes of a frame lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaneLayout {
    /// Bytes from row to row of luma.
    pub luma_pitch: u32,
    /// Bytes from row to row of chroma.
    pub chroma_pitch: u32,
    /// Whether U and V take turns in one plane (NV12), U first; else they have one each.
    pub interleaved: bool,
}

/// What frames of one layout and one crop share, in a [`CropBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry(u32);

/// Frames that one launch crops, resizes, mirrors and converts, each with a geometry of its own.
///
/// Its tables are made on the host and go to the device with the batch: [`CropBatch::bytes`] is
/// copied there, [`CropBatch::launch`] takes the address.
#[derive(Default)]
pub struct CropBatch {
    frames: Vec<CropFrame>,
    geometries: Vec<CropGeometry>,
    tables: Vec<u32>,
    resampler: PlaneResampler,
    shared_bytes: u32,
    rows: u32,
    /// Bytes read for one frame of each geometry, at least.
    reads: Vec<u64>,
    traffic: u64,
}

impl CropBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets frames and geometries, keeps buffers.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.geometries.clear();
        self.tables.clear();
        self.reads.clear();
        (self.shared_bytes, self.rows, self.traffic) = (0, 0, 0);
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// A geometry for frames of which `held` is held as `layout` says. The pixels are those of
    /// [`PlaneResampler::resize`], to the bit.
    ///
    /// # Errors
    /// When `held` lacks what `cut` looks at, or a line does not fit a block's shared memory.
    pub fn planes(
        &mut self,
        held: &Held,
        layout: PlaneLayout,
        cut: &Cut,
    ) -> Result<Geometry, GpuError> {
        check(cut, held.suffices(cut.region), held.region.size())?;
        let size = cut.window.size();
        let matrix = held.yuv.matrix;
        let factors = [matrix.luma, matrix.red_v, matrix.green_u, matrix.green_v, matrix.blue_u];
        let mut geometry = CropGeometry {
            luma_pitch: layout.luma_pitch,
            chroma_pitch: layout.chroma_pitch,
            chroma_step: if layout.interleaved { 2 } else { 1 },
            width: size.width,
            height: size.height,
            axes: [NO_AXIS; 4],
            matrix: factors.map(i32::from),
            offset: color_offsets(&matrix),
            unused: 0,
        };
        let (mut samples, mut reads) = (0, 0);
        let coefficients = self.resampler.coefficients(held, cut);
        for (n, axes) in coefficients.iter().enumerate() {
            let Some([columns, rows]) = axes else { continue };
            let planes = if n == 0 { 1 } else { 2 };
            samples += planes * columns.range.len();
            reads += (planes * columns.range.len() * rows.range.len()) as u64;
            geometry.axes[2 * n] = push_planes(&mut self.tables, columns);
            geometry.axes[2 * n + 1] = push_planes(&mut self.tables, rows);
        }
        let shared = (samples * size_of::<i16>()).next_multiple_of(8);
        if shared > SHARED_BYTES as usize {
            let valid = "a line of all planes has at most 24576 samples";
            return Err(GpuError::shape("crop", format!("{samples} samples"), valid));
        }
        self.shared_bytes = self.shared_bytes.max(shared as u32);
        self.push(geometry, reads)
    }

    /// A geometry for frames of packed RGB of `size`, rows `pitch` bytes apart. The pixels are those
    /// of [`tubelet_augment::resample::Resampler::resize`], to the bit.
    ///
    /// # Errors
    /// When the region does not lie inside the frame, or the interpolation is in floats.
    pub fn rgb(&mut self, size: Size, pitch: u32, cut: &Cut) -> Result<Geometry, GpuError> {
        let Kernel::Pillow(filter) = cut.kernel else {
            let valid = "packed RGB is resized as Pillow does";
            return Err(GpuError::shape("resize", format!("{:?}", cut.kernel), valid));
        };
        check(cut, cut.region.fits(size), size)?;
        let Rect { x, y, width, height } = cut.region;
        let Cut { resized, window, .. } = *cut;
        let across = (window.x, window.width);
        let columns = PillowAxis::new((width, resized.width), filter, across, cut.flip);
        let down = (window.y, window.height);
        let rows = PillowAxis::new((height, resized.height), filter, down, false);
        let axes = [
            push_rgb(&mut self.tables, x, width, &columns),
            push_rgb(&mut self.tables, y, height, &rows),
            NO_AXIS,
            NO_AXIS,
        ];
        let geometry = CropGeometry {
            luma_pitch: pitch,
            width: window.width,
            height: window.height,
            axes,
            ..CropGeometry::zeroed()
        };
        self.push(geometry, cut.region.size().area() as u64 * 3)
    }

    fn push(&mut self, geometry: CropGeometry, reads: u64) -> Result<Geometry, GpuError> {
        if self.tables.len() >= NO_AXIS as usize {
            let valid = "the tables of a launch have fewer than 2^32 words";
            return Err(GpuError::shape("crop", self.tables.len(), valid));
        }
        self.rows = self.rows.max(geometry.height);
        self.geometries.push(geometry);
        self.reads.push(reads);
        Ok(Geometry(self.geometries.len() as u32 - 1))
    }

    /// Adds a frame: the first sample held of luma, U and V (of packed RGB the first alone; of
    /// interleaved chroma U and V are neighbours), and where its pixels go, `[height, width, 3]` of
    /// the window. Grey has no U and V.
    pub fn frame(&mut self, geometry: Geometry, planes: [Address; 3], out: Address) {
        let Some(shape) = self.geometries.get(geometry.0 as usize) else { return };
        let written = u64::from(shape.width) * u64::from(shape.height) * 3;
        self.traffic += written + self.reads[geometry.0 as usize];
        self.frames.push(CropFrame { planes, out, geometry: geometry.0, unused: 0 });
    }

    /// What the device needs beside the frames, to be copied to an address that is a multiple of 8.
    pub fn bytes(&self) -> Vec<u8> {
        let frames: &[u8] = bytemuck::cast_slice(&self.frames);
        let geometries: &[u8] = bytemuck::cast_slice(&self.geometries);
        [frames, geometries, bytemuck::cast_slice(&self.tables)].concat()
    }

    /// The launch, with [`CropBatch::bytes`] at `tables`.
    ///
    /// # Errors
    /// When there is no frame, or too many.
    pub fn launch(&self, tables: Address) -> Result<Launch, GpuError> {
        let geometries = tables.0 + size_of_val(self.frames.as_slice()) as u64;
        let words = geometries + size_of_val(self.geometries.as_slice()) as u64;
        let params = CropParams {
            frames: tables,
            geometries: Address(geometries),
            tables: Address(words),
            rows: self.rows,
            unused: 0,
        };
        let blocks = self.frames.len() as u64 * u64::from(self.rows);
        let launch = Launch::new("crop_resize", blocks, THREADS, &params)?;
        Ok(launch.with_shared(self.shared_bytes).with_traffic(self.traffic))
    }
}

/// Whether the device can do `cut` of a frame of which `size` is held.
fn check(cut: &Cut, held: bool, size: Size) -> Result<(), GpuError> {
    let small = |size: Size| size.width.max(size.height) <= MAX_SIDE && size.area() > 0;
    let sizes = [cut.region.size(), cut.resized, cut.window.size()];
    if held && cut.window.fits(cut.resized) && sizes.into_iter().all(small) {
        return Ok(());
    }
    let valid = "regions and windows lie inside their frames, which have sides of 1 to 32768";
    Err(GpuError::shape("crop", format!("{cut:?} of {size}"), valid))
}

/// Start, length, room a position, 0, first samples, counts: the head of an axis.
fn push_head(
    tables: &mut Vec<u32>,
    [start, length, per]: [u32; 3],
    first: &[u32],
    count: &[u32],
) -> u32 {
    let at = tables.len() as u32;
    tables.extend([start, length, per, 0]);
    tables.extend_from_slice(first);
    tables.extend_from_slice(count);
    at
}

fn push_planes(tables: &mut Vec<u32>, axis: &Coefficients<'_>) -> u32 {
    let head = [axis.range.start, axis.range.len(), axis.per].map(|n| n as u32);
    let at = push_head(tables, head, axis.first, axis.count);
    let weights = &axis.weights[..axis.first.len() * axis.per];
    let word = |pair: &[i16]| u32::from(pair[0] as u16) | u32::from(pair[1] as u16) << 16;
    tables.extend(weights.chunks_exact(2).map(word));
    at
}

fn push_rgb(tables: &mut Vec<u32>, start: u32, length: u32, axis: &PillowAxis) -> u32 {
    let at = push_head(tables, [start, length, axis.per as u32], &axis.first, &axis.count);
    tables.extend(axis.weights.iter().map(|w| *w as u32));
    at
}
