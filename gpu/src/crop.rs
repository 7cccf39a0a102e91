//! Frames on the device to rows: kept, and cut straight to their place beside the slot
//! ([`crate::twin`]), or to a buffer from where they are copied to the slot.

use std::sync::Arc;

use cudarc::driver::{CudaStream, result, sys};
use tubelet_core::Size;

use crate::context::{Gpu, Kernels};
use crate::error::GpuError;
use crate::kernels::{Address, CropBatch, PlaneLayout};
use crate::memory::{DeviceBuffer, DeviceMemory};

/// Rows of planes begin on multiples of so many bytes.
const ALIGN: usize = 256;

/// Cuts frames on a stream of its own: one a thread.
pub struct Cropper {
    kernels: Arc<Kernels>,
    stream: Arc<CudaStream>,
    memory: Arc<DeviceMemory>,
}

impl Cropper {
    /// A cropper on `gpu` with its loaded `kernels`.
    ///
    /// # Errors
    /// When there is no further stream.
    pub fn new(gpu: &Gpu, kernels: &Arc<Kernels>) -> Result<Self, GpuError> {
        let stream = gpu.context().new_stream().map_err(GpuError::driver("make a stream"))?;
        let memory = DeviceMemory::new(&stream)?;
        Ok(Self { kernels: Arc::clone(kernels), stream, memory })
    }

    /// Memory in the order of its stream.
    pub fn memory(&self) -> &Arc<DeviceMemory> {
        &self.memory
    }

    /// Its stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The driver's handles of its context, the primary one, and of its stream; they live as long as
    /// it does.
    pub fn handles(&self) -> (u64, u64) {
        let context = self.stream.context().cu_ctx();
        (context as u64, self.stream.cu_stream() as u64)
    }

    /// Starts `batch`, whose frames write to `pixels`, or elsewhere where that is `None`; waits for
    /// nothing.
    ///
    /// # Safety
    /// The batch's frames must be valid on the device until the cut ones are dropped, planes as large as
    /// their geometry says and complete, and write inside `pixels`, or to places that are valid as long and
    /// used by nobody else.
    ///
    /// # Errors
    /// When the device fails.
    pub unsafe fn start(
        &self,
        batch: &CropBatch,
        pixels: Option<DeviceBuffer>,
    ) -> Result<CutFrames<'_>, GpuError> {
        let context = self.stream.context();
        context.bind_to_thread().map_err(GpuError::driver("enter the context"))?;
        let bytes = batch.bytes();
        let tables = DeviceBuffer::new(&self.memory, bytes.len())?;
        let launch = batch.launch(tables.address())?;
        // Made first: it waits for all of this when it is dropped, after a failure too.
        let cut = CutFrames { cropper: self, pixels, tables: bytes };
        let (to, stream) = (tables.address().0, self.stream.cu_stream());
        // SAFETY: the buffer has as many bytes, which `cut` keeps until the stream was waited for.
        unsafe { result::memcpy_htod_async(to, &cut.tables, stream) }
            .map_err(GpuError::driver("copy tables to the device"))?;
        // SAFETY: the caller's promise; the tables are freed in the stream's order.
        unsafe { self.kernels.run(&launch, &self.stream) }?;
        Ok(cut)
    }
}

/// Frames that are being cut. Dropping them waits until that is done.
pub struct CutFrames<'a> {
    cropper: &'a Cropper,
    pixels: Option<DeviceBuffer>,
    /// Is read until the stream was waited for.
    tables: Vec<u8>,
}

impl CutFrames<'_> {
    /// Waits until all frames are cut.
    ///
    /// # Errors
    /// When the device fails.
    pub fn finish(self) -> Result<(), GpuError> {
        let stream = &self.cropper.stream;
        stream.synchronize().map_err(GpuError::driver("wait for cut frames"))
    }

    /// Copies the bytes from `offset` on to `row`, which may be page-locked, and waits for them.
    ///
    /// # Errors
    /// When the row ends behind the pixels, or the device fails.
    pub fn fetch(&self, offset: usize, row: &mut [u8]) -> Result<(), GpuError> {
        let end = offset.checked_add(row.len());
        let inside = |pixels: &&DeviceBuffer| end.is_some_and(|end| end <= pixels.len());
        let Some(pixels) = self.pixels.as_ref().filter(inside) else {
            let valid = "rows end where the cut pixels do";
            return Err(GpuError::shape("row", format!("{} bytes at {offset}", row.len()), valid));
        };
        if row.is_empty() {
            return Ok(());
        }
        let stream = &self.cropper.stream;
        let context = stream.context();
        context.bind_to_thread().map_err(GpuError::driver("enter the context"))?;
        let from = pixels.address().0 + offset as u64;
        // SAFETY: the row lies inside the buffer and is borrowed until the stream was waited for, which
        // happens after a failure, too.
        let copied = unsafe { result::memcpy_dtoh_async(row, from, stream.cu_stream()) };
        stream.synchronize().map_err(GpuError::driver("wait for cut frames"))?;
        copied.map_err(GpuError::driver("copy rows from the device"))
    }
}

impl Drop for CutFrames<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cropper.stream.synchronize() {
            tracing::warn!("cutting frames ended with an error: {error}");
        }
    }
}

/// Copies of decoded frames of one size, 8-bit NV12, in the device's memory: the decoder gets its own
/// few surfaces back at once.
pub struct Nv12Clip {
    memory: DeviceBuffer,
    size: Size,
    pitch: usize,
    frames: usize,
}

impl Nv12Clip {
    /// Room for `frames` frames of `size`, in the order of the memory's stream.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn new(memory: &Arc<DeviceMemory>, size: Size, frames: usize) -> Result<Self, GpuError> {
        // A pair of chroma samples for two columns, rounded up.
        let pitch = (size.width.next_multiple_of(2) as usize).next_multiple_of(ALIGN);
        let memory = DeviceBuffer::new(memory, pitch * lines(size) * frames)?;
        Ok(Self { memory, size, pitch, frames })
    }

    /// Size of every frame.
    pub fn size(&self) -> Size {
        self.size
    }

    /// How every frame lies in memory.
    pub fn layout(&self) -> PlaneLayout {
        let pitch = self.pitch as u32;
        PlaneLayout { luma_pitch: pitch, chroma_pitch: pitch, interleaved: true }
    }

    /// First samples of luma, U and V of frame `n`.
    pub fn planes(&self, n: usize) -> [Address; 3] {
        let luma = self.memory.address().0 + (n * self.pitch * lines(self.size)) as u64;
        let chroma = luma + (self.pitch * self.size.height as usize) as u64;
        [luma, chroma, chroma + 1].map(Address)
    }

    /// Copies a frame, of which luma and chroma are given with the bytes from row to row, to place
    /// `n`, and waits until that is done.
    ///
    /// # Safety
    /// The planes must be valid on the device, as large as the clip's size says, and complete in the
    /// order of the clip's stream.
    ///
    /// # Errors
    /// When there is no place `n`, or the device fails.
    pub unsafe fn store(
        &mut self,
        n: usize,
        planes: [Address; 2],
        pitch: [u32; 2],
    ) -> Result<(), GpuError> {
        if n >= self.frames {
            return Err(GpuError::shape("frame", n, "frames have a place in their clip"));
        }
        let stream = self.memory.stream();
        let context = stream.context();
        context.bind_to_thread().map_err(GpuError::driver("enter the context"))?;
        let to = self.planes(n);
        let Size { width, height } = self.size;
        let shapes = [(width, height), (width.next_multiple_of(2), height.div_ceil(2))];
        let mut queued = Ok(());
        for (k, (width, height)) in shapes.into_iter().enumerate() {
            let copy = sys::CUDA_MEMCPY2D {
                srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
                srcDevice: planes[k].0,
                srcPitch: pitch[k] as usize,
                dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
                dstDevice: to[k].0,
                dstPitch: self.pitch,
                WidthInBytes: width as usize,
                Height: height as usize,
                ..NO_COPY
            };
            queued = queued.and_then(|()| {
                // SAFETY: the caller's promise; the place has room for both planes.
                unsafe { sys::cuMemcpy2DAsync_v2(&copy, stream.cu_stream()) }.result()
            });
        }
        stream.synchronize().map_err(GpuError::driver("wait for a copied frame"))?;
        queued.map_err(GpuError::driver("copy a frame"))
    }
}

/// Rows of luma and chroma together.
fn lines(size: Size) -> usize {
    size.height as usize + size.height.div_ceil(2) as usize
}

/// A copy of nothing.
const NO_COPY: sys::CUDA_MEMCPY2D = sys::CUDA_MEMCPY2D {
    srcXInBytes: 0,
    srcY: 0,
    srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
    srcHost: std::ptr::null(),
    srcDevice: 0,
    srcArray: std::ptr::null_mut(),
    srcPitch: 0,
    dstXInBytes: 0,
    dstY: 0,
    dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
    dstHost: std::ptr::null_mut(),
    dstDevice: 0,
    dstArray: std::ptr::null_mut(),
    dstPitch: 0,
    WidthInBytes: 0,
    Height: 0,
};
