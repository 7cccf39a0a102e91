//! Where batches live: plain heap here, page-locked in `gpu`.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Memory could not be had.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot allocate {bytes} bytes of {kind} memory: {cause}")]
pub struct AllocError {
    /// Bytes asked for.
    pub bytes: usize,
    /// Kind of memory.
    pub kind: &'static str,
    /// Why not.
    pub cause: String,
}

/// A source of buffers for batches. The loader calls it once a slot, before the first sample.
pub trait HostMemory: Send + Sync {
    /// `bytes` zeroed bytes, aligned to [`ALIGN`].
    ///
    /// # Errors
    /// When there is not that much of this memory.
    fn allocate(&self, bytes: usize) -> Result<HostBuf, AllocError>;
}

/// Alignment of every buffer: a cache line, and enough for any SIMD load.
pub const ALIGN: usize = 64;

/// How a buffer is given back.
type Free = Box<dyn FnOnce(NonNull<u8>, usize) + Send + Sync>;

/// A buffer and the way to free it.
pub struct HostBuf {
    ptr: NonNull<u8>,
    len: usize,
    free: Option<Free>,
}

// SAFETY: the buffer is owned memory without thread affinity; `free` is Send + Sync.
unsafe impl Send for HostBuf {}
// SAFETY: shared access only reads bytes; writing takes `&mut self` or goes through `as_ptr`, whose
// users state why their writes are disjoint.
unsafe impl Sync for HostBuf {}

impl HostBuf {
    /// Takes ownership of `len` initialised bytes at `ptr`, to be given back to `free` on drop.
    ///
    /// # Safety
    /// `ptr` must be valid for reads and writes of `len` bytes until `free` is called, owned by the
    /// caller, and aligned to [`ALIGN`].
    pub unsafe fn from_raw(
        ptr: NonNull<u8>,
        len: usize,
        free: impl FnOnce(NonNull<u8>, usize) + Send + Sync + 'static,
    ) -> Self {
        Self { ptr, len, free: Some(Box::new(free)) }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// All bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `from_raw` promises `len` valid, initialised bytes.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// All bytes, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for HostBuf {
    fn drop(&mut self) {
        if let Some(free) = self.free.take() {
            free(self.ptr, self.len);
        }
    }
}

impl std::fmt::Debug for HostBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostBuf").field("len", &self.len).finish()
    }
}

/// Ordinary memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heap;

impl HostMemory for Heap {
    fn allocate(&self, bytes: usize) -> Result<HostBuf, AllocError> {
        let error = |cause: String| AllocError { bytes, kind: "heap", cause };
        let layout =
            Layout::from_size_align(bytes.max(1), ALIGN).map_err(|e| error(e.to_string()))?;
        // SAFETY: the layout's size is at least 1.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else {
            if bytes < 1 << 20 {
                handle_alloc_error(layout);
            }
            return Err(error("out of memory".to_owned()));
        };
        // SAFETY: freshly allocated with this layout, zeroed, aligned, owned by nobody else; the
        // same layout frees it.
        Ok(unsafe { HostBuf::from_raw(ptr, bytes, move |ptr, _| dealloc(ptr.as_ptr(), layout)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_buffers_are_zeroed_aligned_and_writable() {
        let mut buf = Heap.allocate(1000).expect("small");
        assert_eq!(buf.as_ptr() as usize % ALIGN, 0);
        assert!(buf.as_slice().iter().all(|b| *b == 0));
        buf.as_mut_slice()[999] = 7;
        assert_eq!((buf.as_slice()[999], buf.len()), (7, 1000));
        assert!(Heap.allocate(usize::MAX - 63).is_err());
    }
}
