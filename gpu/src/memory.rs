//! Memory on the device.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, result, sys};

use crate::error::GpuError;
use crate::kernels::Address;

/// Where buffers come from: a pool of its own, in the order of one stream. What is freed stays in the
/// pool for the next batch, and goes back to the system when the pool and its buffers are gone; other
/// users of the device keep their pools as they set them up.
#[derive(Debug)]
pub struct DeviceMemory {
    stream: Arc<CudaStream>,
    /// `None` on a device without pools, where every call waits for the device.
    pool: Option<Pool>,
}

/// A pool of the driver's.
#[derive(Debug)]
struct Pool {
    handle: sys::CUmemoryPool,
    context: Arc<CudaContext>,
}

// SAFETY: the driver's pools may be used from any thread.
unsafe impl Send for Pool {}
// SAFETY: likewise, from several at once.
unsafe impl Sync for Pool {}

impl DeviceMemory {
    /// Memory that is allocated and freed in the order of `stream`.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Arc<Self>, GpuError> {
        let context = stream.context();
        let pool = context.has_async_alloc().then(|| Pool::new(context)).transpose()?;
        Ok(Arc::new(Self { stream: Arc::clone(stream), pool }))
    }

    /// The stream that orders the life of its buffers.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }
}

impl Pool {
    fn new(context: &Arc<CudaContext>) -> Result<Self, GpuError> {
        use sys::{CUmemAllocationType, CUmemLocationType, CUmemPool_attribute};
        // SAFETY: a plain struct of numbers and null pointers; zero means the default in all fields.
        let mut properties: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
        properties.allocType = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        properties.location.id = context.cu_device();
        let mut all = u64::MAX;
        let keep = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let failed = || GpuError::driver("make a memory pool");
        context.bind_to_thread().map_err(failed())?;
        // SAFETY: the properties live during the call.
        let handle = unsafe { result::mem_pool::create(&raw const properties) }.map_err(failed())?;
        let pool = Self { handle, context: Arc::clone(context) };
        // SAFETY: a live pool; the attribute is a 64-bit number.
        unsafe { result::mem_pool::set_attribute(handle, keep, (&raw mut all).cast()) }
            .map_err(failed())?;
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once; buffers that are still being freed keep what
        // they need (cuMemPoolDestroy).
        let destroyed = self
            .context
            .bind_to_thread()
            .and_then(|()| unsafe { result::mem_pool::destroy(self.handle) });
        if let Err(error) = destroyed {
            tracing::warn!("a memory pool is lost: {error}");
        }
    }
}

/// Bytes on the device, allocated and freed in the order of one stream.
#[derive(Debug)]
pub struct DeviceBuffer {
    address: sys::CUdeviceptr,
    bytes: usize,
    memory: Arc<DeviceMemory>,
}

impl DeviceBuffer {
    /// `bytes` bytes (at least 1), not initialised, ready for work that is queued on the memory's
    /// stream after this.
    ///
    /// # Errors
    /// When there is not that much memory.
    pub fn new(memory: &Arc<DeviceMemory>, bytes: usize) -> Result<Self, GpuError> {
        let failed = GpuError::driver("allocate device memory");
        let (stream, size) = (memory.stream.cu_stream(), bytes.max(1));
        let bound = memory.stream.context().bind_to_thread();
        // SAFETY: the context is current; the size is not 0; nobody reads the bytes before writing.
        let address = bound.and_then(|()| unsafe {
            match &memory.pool {
                Some(pool) => result::mem_pool::alloc_async(pool.handle, size, stream),
                None => result::malloc_sync(size),
            }
        });
        Ok(Self { address: address.map_err(failed)?, bytes, memory: Arc::clone(memory) })
    }

    /// A copy of `values` on the device; waits until it is there.
    ///
    /// # Errors
    /// When there is not that much memory or the copy fails.
    pub fn from_slice<T: bytemuck::NoUninit>(
        memory: &Arc<DeviceMemory>,
        values: &[T],
    ) -> Result<Self, GpuError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = Self::new(memory, bytes.len())?;
        let stream = &memory.stream;
        let copied = match bytes {
            [] => Ok(()),
            // SAFETY: the buffer has as many bytes; `values` is borrowed until the copy is done,
            // which is waited for even where the call failed.
            _ => unsafe { result::memcpy_htod_async(buffer.address, bytes, stream.cu_stream()) },
        };
        stream.synchronize().map_err(GpuError::driver("wait for a copy"))?;
        copied.map_err(GpuError::driver("copy to the device"))?;
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
        let stream = self.stream();
        stream.context().bind_to_thread().map_err(GpuError::driver("enter the context"))?;
        let copied = if values.is_empty() {
            Ok(())
        } else {
            // SAFETY: `values` is no longer than the buffer and borrowed until the copy is done, which
            // is waited for even where the call failed.
            unsafe { result::memcpy_dtoh_async(&mut values, self.address, stream.cu_stream()) }
        };
        stream.synchronize().map_err(GpuError::driver("wait for a copy"))?;
        copied.map_err(GpuError::driver("copy from the device"))?;
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
        &self.memory.stream
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        let stream = self.stream();
        // SAFETY: allocated by `new` in the same way, freed once. What is queued on the stream runs
        // before; others' use is ordered by their owner (`DeviceTensors::release_after`).
        let freed = stream.context().bind_to_thread().and_then(|()| unsafe {
            if self.memory.pool.is_some() {
                result::free_async(self.address, stream.cu_stream())
            } else {
                // An immediate free must not overtake queued work.
                stream.synchronize().and_then(|()| result::free_sync(self.address))
            }
        });
        if let Err(error) = freed {
            tracing::warn!("device memory is lost: {error}");
        }
    }
}
