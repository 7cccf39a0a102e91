//! A place on the device for every byte of a page-locked slot: rows that are made on the device stay
//! there until their batch is.
//!
//! Slots and places are found by addresses, which are unique in a process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result;

use crate::context::Gpu;
use crate::error::GpuError;
use crate::kernels::Address;
use crate::memory::{DeviceBuffer, DeviceMemory};

/// Places by the address of their slot. Whoever copies keeps the place, not the lock.
static PLACES: Mutex<BTreeMap<usize, Arc<DeviceBuffer>>> = Mutex::new(BTreeMap::new());

fn places() -> MutexGuard<'static, BTreeMap<usize, Arc<DeviceBuffer>>> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The place of `bytes`, which lie in one slot; `None` where that has none. It is valid as long as the
/// slot is.
pub fn place(bytes: &[u8]) -> Option<Address> {
    find(bytes).map(|(address, _)| address)
}

fn find(bytes: &[u8]) -> Option<(Address, Arc<DeviceBuffer>)> {
    let start = bytes.as_ptr() as usize;
    let places = places();
    let (slot, buffer) = places.range(..=start).next_back()?;
    let offset = start - slot;
    let inside = offset.checked_add(bytes.len())? <= buffer.len();
    inside.then(|| (Address(buffer.address().0 + offset as u64), Arc::clone(buffer)))
}

/// Copies to `bytes`, which lie in one slot, what is at their place, and waits for it.
///
/// # Errors
/// When they have no place, or the device fails.
pub fn fetch(bytes: &mut [u8]) -> Result<(), GpuError> {
    let valid = "only slots of memory with places have some";
    let found = find(bytes).ok_or_else(|| GpuError::shape("place of a slot", "none", valid));
    let (from, buffer) = found?;
    if bytes.is_empty() {
        return Ok(());
    }
    let stream = buffer.stream();
    stream.context().bind_to_thread().map_err(GpuError::driver("enter the context"))?;
    // SAFETY: as many bytes lie there (`find`); `bytes` is borrowed until the stream was waited for,
    // which happens after a failure, too.
    let copied = unsafe { result::memcpy_dtoh_async(bytes, from.0, stream.cu_stream()) };
    stream.synchronize().map_err(GpuError::driver("wait for rows"))?;
    copied.map_err(GpuError::driver("copy rows from the device"))
}

/// Gives slots their places.
#[derive(Debug)]
pub(crate) struct Twins(Arc<DeviceMemory>);

impl Twins {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        let stream = gpu.context().new_stream().map_err(GpuError::driver("make a stream"))?;
        Ok(Self(DeviceMemory::new(&stream)?))
    }

    /// A place for the `bytes` bytes at `slot`, until it is dropped.
    pub(crate) fn of(&self, slot: usize, bytes: usize) -> Result<Twin, GpuError> {
        let buffer = DeviceBuffer::new(&self.0, bytes)?;
        // Other streams may use it from now on.
        let ready = self.0.stream().synchronize();
        ready.map_err(GpuError::driver("wait for device memory"))?;
        places().insert(slot, Arc::new(buffer));
        Ok(Twin(slot))
    }
}

/// A slot's place.
#[derive(Debug)]
pub(crate) struct Twin(usize);

impl Drop for Twin {
    fn drop(&mut self) {
        // Freed outside of the lock.
        let buffer = places().remove(&self.0);
        drop(buffer);
    }
}
