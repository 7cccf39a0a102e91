//! Memory on the device.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, result, sys};

use crate::error::GpuError;
use crate::kernels::Address;

/// Bytes on the device, allocated and freed in the order of one stream.
#[derive(Debug)]
pub struct DeviceBuffer {
    address: sys::CUdeviceptr,
    bytes: usize,
    stream: Arc<CudaStream>,
}

impl DeviceBuffer {
    /// `bytes` bytes (at least 1), not initialised, ready for work that is queued on `stream` after
    /// this.
    ///
    /// # Errors
    /// When there is not that much memory.
    pub fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self, GpuError> {
        let failed = GpuError::driver("allocate device memory");
        let context = stream.context();
        // SAFETY: the context is current; the size is not 0; nobody reads the bytes before writing.
        let address = context.bind_to_thread().and_then(|()| unsafe {
            if context.has_async_alloc() {
                result::malloc_async(stream.cu_stream(), bytes.max(1))
            } else {
                result::malloc_sync(bytes.max(1))
            }
        });
        Ok(Self { address: address.map_err(failed)?, bytes, stream: Arc::clone(stream) })
    }

    /// A copy of `values` on the device; waits until it is there.
    ///
    /// # Errors
    /// When there is not that much memory or the copy fails.
    pub fn from_slice<T: bytemuck::NoUninit>(
        stream: &Arc<CudaStream>,
        values: &[T],
    ) -> Result<Self, GpuError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = Self::new(stream, bytes.len())?;
        if !bytes.is_empty() {
            // SAFETY: the buffer has as many bytes; `values` is borrowed until the copy is done.
            unsafe { result::memcpy_htod_async(buffer.address, bytes, stream.cu_stream()) }
                .map_err(GpuError::driver("copy to the device"))?;
        }
        stream.synchronize().map_err(GpuError::driver("wait for a copy"))?;
        Ok(buffer)
    }

    /// A copy on the host, after everything queued on the buffer's stream has run.
    ///
    /// # Errors
    /// When the copy fails or earlier work did.
    pub fn to_vec<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
    ) -> Result<Vec<T>, GpuError> {
        let mut values = vec![T::zeroed(); self.bytes / size_of::<T>()];
        let context = self.stream.context();
        context.bind_to_thread().map_err(GpuError::driver("enter the context"))?;
        if !values.is_empty() {
            // SAFETY: `values` is no longer than the buffer and borrowed until the copy is done.
            unsafe {
                result::memcpy_dtoh_async(&mut values, self.address, self.stream.cu_stream())
            }
            .map_err(GpuError::driver("copy from the device"))?;
        }
        self.stream.synchronize().map_err(GpuError::driver("wait for a copy"))?;
        Ok(values)
    }

    /// Its address.
    pub fn address(&self) -> Address {
        Address(self.address)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The stream that orders its life.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        let context = self.stream.context();
        // SAFETY: allocated by `new` in the same way, freed once. What is queued on the stream runs
        // before; others' use is ordered by their owner (`DeviceTensors::release_after`).
        let freed = context.bind_to_thread().and_then(|()| unsafe {
            if context.has_async_alloc() {
                result::free_async(self.address, self.stream.cu_stream())
            } else {
                // An immediate free must not overtake queued work.
                self.stream.synchronize().and_then(|()| result::free_sync(self.address))
            }
        });
        if let Err(error) = freed {
            tracing::warn!("device memory is lost: {error}");
        }
    }
}

/// Lets the device keep freed memory for the next batch instead of giving it back to the system at
/// every synchronisation.
///
/// # Errors
/// When the driver refuses.
pub fn keep_freed_memory(context: &Arc<CudaContext>) -> Result<(), GpuError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut all = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device's own pool; the attribute is a 64-bit number.
    unsafe {
        result::device::get_default_mem_pool(context.cu_device()).and_then(|pool| {
            sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut all).cast()).result()
        })
    }
    .map_err(GpuError::driver("set up the memory pool"))
}
