//! Page-locked memory for slots: the device copies from it without the CPU.

use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::driver::{CudaContext, DriverError, result, sys};
use tubelet_core::memory::ALIGN;
use tubelet_core::{AllocError, Heap, HostBuf, HostMemory};

use crate::context::Gpu;
use crate::error::GpuError;
use crate::twin::Twins;

/// Ordinary (not write-combined) page-locked memory, usable from every context of the process, on
/// the NUMA node of the device where the system tells it. A slot that cannot be locked comes from
/// the heap, with a line in the log: copies are slower then, and correct.
#[derive(Debug)]
pub struct PinnedMemory {
    context: Arc<CudaContext>,
    node: Option<u32>,
    twins: Option<Twins>,
    locked: AtomicUsize,
    heap: AtomicUsize,
}

impl PinnedMemory {
    /// Memory near `gpu`.
    pub fn new(gpu: &Gpu) -> Self {
        let address = gpu.pci_address().ok();
        let node = address.and_then(|a| crate::numa::node_of(Path::new("/sys"), &a));
        let context = Arc::clone(gpu.context());
        let (locked, heap) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { context, node, twins: None, locked, heap }
    }

    /// The same, whose slots have a place on the device ([`crate::twin`]), as far as there is memory.
    ///
    /// # Errors
    /// When the device refuses a stream.
    pub fn with_twins(self, gpu: &Gpu) -> Result<Self, GpuError> {
        Ok(Self { twins: Some(Twins::new(gpu)?), ..self })
    }

    /// NUMA node that slots are placed on, if one is preferred.
    pub fn numa_node(&self) -> Option<u32> {
        self.node
    }

    /// Bytes that were page-locked so far, and bytes that came from the heap instead.
    pub fn allocated(&self) -> (usize, usize) {
        (self.locked.load(Ordering::Relaxed), self.heap.load(Ordering::Relaxed))
    }

    fn lock(&self, bytes: usize) -> Result<HostBuf, DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: the context is current. The driver locks, and so places, the pages in the call.
        let address = crate::numa::on_node(self.node, || unsafe {
            result::malloc_host(bytes.max(1), sys::CU_MEMHOSTALLOC_PORTABLE)
        })?;
        let pages = Pages { address, context: Arc::clone(&self.context) };
        let wrong = DriverError(sys::CUresult::CUDA_ERROR_INVALID_VALUE);
        let ptr = NonNull::new(address.cast::<u8>()).ok_or(wrong)?;
        if ptr.as_ptr() as usize % ALIGN != 0 {
            return Err(wrong);
        }
        let twin = self.twins.as_ref().map(|twins| twins.of(address as usize, bytes)).transpose();
        let twin = twin.unwrap_or_else(|error| {
            tracing::warn!(
                "a slot has no place on the device: rows made there come back ({error})"
            );
            None
        });
        // SAFETY: the driver returned `bytes` writable bytes of which nobody else knows, aligned as
        // just checked; they are zeroed here and freed once, when `pages` is dropped.
        unsafe {
            ptr.as_ptr().write_bytes(0, bytes);
            Ok(HostBuf::from_raw(ptr, bytes, move |_, _| drop((twin, pages))))
        }
    }
}

impl HostMemory for PinnedMemory {
    fn allocate(&self, bytes: usize) -> Result<HostBuf, AllocError> {
        match self.lock(bytes) {
            Ok(buf) => {
                self.locked.fetch_add(bytes, Ordering::Relaxed);
                Ok(buf)
            }
            Err(error) => {
                tracing::warn!(
                    "a slot of {bytes} bytes cannot be page-locked ({error}) and comes from the \
                     heap: copies to the device are slower"
                );
                self.heap.fetch_add(bytes, Ordering::Relaxed);
                Heap.allocate(bytes)
            }
        }
    }
}

/// Page-locked memory, given back when dropped.
struct Pages {
    address: *mut std::ffi::c_void,
    context: Arc<CudaContext>,
}

// SAFETY: owned memory without thread affinity; the pointer is used to free it only.
unsafe impl Send for Pages {}
// SAFETY: nothing can be done with a shared reference.
unsafe impl Sync for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: came from `malloc_host`, freed once.
        let freed =
            self.context.bind_to_thread().and_then(|()| unsafe { result::free_host(self.address) });
        if let Err(error) = freed {
            tracing::warn!("page-locked memory is lost: {error}");
        }
    }
}

/// Memory for slots: page-locked where there is a GPU, else the heap, and a line in the log on
/// which.
pub fn host_memory() -> Box<dyn HostMemory> {
    match Gpu::probe() {
        Ok(gpu) => {
            let memory = PinnedMemory::new(&gpu);
            match memory.node {
                Some(node) => {
                    tracing::info!("slots are page-locked for {}, NUMA node {node}", gpu.name())
                }
                None => tracing::info!("slots are page-locked for {}", gpu.name()),
            }
            Box::new(memory)
        }
        Err(reason) => {
            tracing::warn!("slots are on the heap, not page-locked: {reason}");
            Box::new(Heap)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_memory_with_and_without_a_gpu() {
        let mut buf = host_memory().allocate(4096).expect("small");
        assert_eq!(buf.as_ptr() as usize % ALIGN, 0);
        assert!(buf.as_slice().iter().all(|b| *b == 0));
        buf.as_mut_slice()[4095] = 7;
        assert_eq!(buf.as_slice()[4095], 7);
    }
}
