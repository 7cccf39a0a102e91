//! The float stage on the device: one copy of bytes a batch, then kernels.
//!
//! Rows whose pixels are on the device already come from their places beside the slot
//! ([`crate::twin`]).
//!
//! Two streams: one copies, one computes. Two buffers take turns, so that a batch is copied while
//! the one before is computed. The CPU waits for nothing: streams wait for events, and a thread
//! gives each slot back to the loader when the event of its copy has fired.

mod release;
mod tensors;

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, result, sys};
use tubelet_core::BatchRef;

use crate::context::{Gpu, Kernels};
use crate::error::GpuError;
use crate::kernels::{Address, Launch};
use crate::memory::{DeviceBuffer, DeviceMemory};
use crate::plan::{ConstantAddresses, Constants, StagePlan};
use crate::twin;
pub use release::CopyClock;
use release::{Copied, Release};
pub use tensors::{DeviceTensor, DeviceTensors};

/// Buffers for batches in bytes.
const BUFFERS: usize = 2;

/// Turns batches into [`DeviceTensors`]. Made once; kernels are loaded and constants copied then.
pub struct DeviceStage {
    plan: StagePlan,
    kernels: Kernels,
    constants: ConstantAddresses,
    copies: Arc<CudaStream>,
    compute: Arc<CudaStream>,
    memory: Arc<DeviceMemory>,
    buffers: [Option<Incoming>; BUFFERS],
    next: usize,
    release: Release,
    _constant_memory: Vec<DeviceBuffer>,
}

/// A buffer for a batch in bytes.
struct Incoming {
    bytes: DeviceBuffer,
    /// Fires when the kernels have read it (at first: when it is allocated).
    read: CudaEvent,
}

impl DeviceStage {
    /// The stage of `plan` on `gpu`.
    ///
    /// # Errors
    /// When the kernels cannot be compiled or loaded, or the device is out of memory.
    pub fn new(gpu: &Gpu, plan: StagePlan) -> Result<Self, GpuError> {
        let context = gpu.context();
        let kernels = Kernels::load(gpu)?;
        let stream = || context.new_stream().map_err(GpuError::driver("make a stream"));
        let (copies, compute) = (stream()?, stream()?);
        let memory = DeviceMemory::new(&compute)?;
        let (constant_memory, constants) = copy_constants(&memory, &plan.constants())?;
        Ok(Self {
            plan,
            kernels,
            constants,
            copies,
            compute,
            memory,
            buffers: [const { None }; BUFFERS],
            next: 0,
            release: Release::start()?,
            _constant_memory: constant_memory,
        })
    }

    /// The stream that computes, of the device's primary context.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.compute
    }

    /// Bytes and time of the copies to the device so far.
    pub fn copies(&self) -> &Arc<CopyClock> {
        self.release.clock()
    }

    /// Queues the copy and the kernels of the batch in `slot`, which `batch` looks at, and returns
    /// at once. The slot is dropped, on another thread, as soon as its bytes are on the device. It
    /// should be page-locked ([`crate::PinnedMemory`]): from the heap, the copy is slower and the
    /// call waits for it.
    ///
    /// A batch of the loader goes in as `stage.submit(batch, Batch::as_ref)`. Batches may differ in
    /// shape; buffers grow with them.
    ///
    /// # Errors
    /// When the batch has a shape that the kernels cannot do, or the driver refuses.
    pub fn submit<S: Send + 'static>(
        &mut self,
        slot: S,
        batch: impl for<'a> Fn(&'a S) -> BatchRef<'a>,
    ) -> Result<DeviceTensors, GpuError> {
        let slot = Box::new(slot);
        let seen = batch(&slot);
        let work = self.plan.batch(seen)?;
        let tensors = DeviceTensors::new(&self.memory, &self.plan.tensors(&work), &work, seen)?;
        // Freed at the end of this call, behind the kernels in their stream.
        let scratch =
            self.plan.scratch(&work).try_map(|s| DeviceBuffer::new(&self.memory, s.bytes()))?;
        let turn = self.next;
        let slot_address = self.buffer(turn, seen.bytes().len())?;
        let at = tensors.addresses(slot_address, &scratch);
        let launches = self.plan.launches(&work, &self.constants, &at)?;
        self.next = (turn + 1) % BUFFERS;
        let copied = self.copy(slot, &batch, turn)?;
        if let Err(source) = self.compute.wait(&copied) {
            // Nothing orders the streams now: the buffer must not be freed under the copy.
            self.copies.synchronize().map_err(GpuError::driver("wait for a copy"))?;
            return Err(GpuError::Driver { doing: "order streams", source });
        }
        let ran = self.run(&launches);
        // Recorded even after a failure: some kernels may have been started.
        if let Some(incoming) = &self.buffers[turn]
            && let Err(error) = record(&incoming.read, &self.compute)
        {
            // The next copy to the buffer would not know when they have read it.
            self.finish()?;
            return Err(error);
        }
        ran?;
        record(tensors.ready(), &self.compute)?;
        Ok(tensors)
    }

    /// Waits until everything that was submitted is done.
    ///
    /// # Errors
    /// When any of it failed.
    pub fn finish(&self) -> Result<(), GpuError> {
        self.compute.synchronize().map_err(GpuError::driver("finish the queued batches"))
    }

    /// Makes buffer `turn` large enough and tells its address.
    fn buffer(&mut self, turn: usize, bytes: usize) -> Result<Address, GpuError> {
        let old = self.buffers[turn].take().filter(|b| b.bytes.len() >= bytes);
        let incoming = match old {
            Some(incoming) => incoming,
            None => {
                let bytes = DeviceBuffer::new(&self.memory, bytes)?;
                let read = self.compute.record_event(None);
                Incoming { bytes, read: read.map_err(GpuError::driver("record an event"))? }
            }
        };
        let address = incoming.bytes.address();
        self.buffers[turn] = Some(incoming);
        Ok(address)
    }

    /// Queues the copy of the slot to buffer `turn`; its event. The slot is dropped after it.
    fn copy<S: Send + 'static>(
        &self,
        slot: Box<S>,
        batch: &impl for<'a> Fn(&'a S) -> BatchRef<'a>,
        turn: usize,
    ) -> Result<Arc<CudaEvent>, GpuError> {
        let missing = || GpuError::shape("buffer", turn, "buffers are made before copies");
        let incoming = self.buffers[turn].as_ref().ok_or_else(missing)?;
        let flags = sys::CUevent_flags_enum::CU_EVENT_BLOCKING_SYNC;
        let copied = self.compute.context().new_event(Some(flags));
        let copied = Arc::new(copied.map_err(GpuError::driver("make an event"))?);
        self.copies.wait(&incoming.read).map_err(GpuError::driver("order streams"))?;
        let now = || {
            let timed = sys::CUevent_flags_enum::CU_EVENT_DEFAULT;
            self.copies.record_event(Some(timed)).map_err(GpuError::driver("record an event"))
        };
        let start = now()?;
        let pieces = pieces(batch(&slot));
        let (there, here): (Vec<_>, Vec<_>) = pieces.iter().partition(|piece| piece.on_device);
        let copy = |pieces: &[&Piece<'_>]| {
            pieces.iter().try_for_each(|piece| self.copy_piece(piece, &incoming.bytes))
        };
        let queue = || {
            copy(&here)?;
            let crossed = now()?;
            copy(&there)?;
            record(&copied, &self.copies)?;
            Ok(crossed)
        };
        let crossed = match queue() {
            Ok(crossed) => crossed,
            Err(error) => {
                // Even a call that failed may have queued the copy.
                self.copies.synchronize().map_err(GpuError::driver("wait for a copy"))?;
                return Err(error);
            }
        };
        let bytes = here.iter().map(|piece| piece.bytes.len() as u64).sum();
        let copy = Copied { start, crossed, end: Arc::clone(&copied), bytes };
        self.release.when_copied(copy, slot);
        Ok(copied)
    }

    /// Queues the copy of a piece of a slot to where it belongs in `to`, which has room for the slot.
    fn copy_piece(&self, piece: &Piece<'_>, to: &DeviceBuffer) -> Result<(), GpuError> {
        let Piece { offset, bytes, on_device } = *piece;
        let (to, stream) = (to.address().0 + offset as u64, self.copies.cu_stream());
        let failed = GpuError::driver("copy a batch to the device");
        if !on_device {
            // SAFETY: the buffer has at least the slot's bytes (`buffer`) and is not read before the
            // event behind the copy; the slot's bytes stay where they are, in a box, until the copy is
            // done: `release` waits for the event, the error path for the stream.
            return unsafe { result::memcpy_htod_async(to, bytes, stream) }.map_err(failed);
        }
        let valid = "rows are left at the place of a slot (`PinnedMemory::with_twins`)";
        let from = twin::place(bytes);
        let from = from.ok_or_else(|| GpuError::shape("place of a slot", "none", valid))?;
        // SAFETY: as above; the place is the slot's as long as that is kept, has as many bytes, and who
        // wrote them waited for it.
        unsafe { result::memcpy_dtod_async(to, from.0, bytes.len(), stream) }.map_err(failed)
    }

    fn run(&self, launches: &[Launch]) -> Result<(), GpuError> {
        for launch in launches {
            // SAFETY: the plan made the launch for these buffers, all of the documented sizes: the
            // slot's bytes, which this stream waited for, the constants, and tensors that nobody
            // else knows yet. All of them are freed in this stream's order.
            unsafe { self.kernels.run(launch, &self.compute) }?;
        }
        Ok(())
    }
}

impl Drop for DeviceStage {
    fn drop(&mut self) {
        // The kernels are unloaded with the stage: let them end first.
        if let Err(error) = self.compute.synchronize() {
            tracing::warn!("the device stage ends with an error: {error}");
        }
    }
}

/// Bytes of a slot that one copy moves.
#[derive(Clone, Copy)]
struct Piece<'a> {
    offset: usize,
    /// Of the slot.
    bytes: &'a [u8],
    /// Whether they are at the slot's place on the device instead.
    on_device: bool,
}

/// All of a slot: pixels that are on the device, as few copies as there can be, and what lies between.
fn pieces(batch: BatchRef<'_>) -> Vec<Piece<'_>> {
    let all = batch.bytes();
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    let mut add = |end: usize, on_device: bool| {
        let offset = pieces.last().map_or(0, |last| last.offset + last.bytes.len());
        match pieces.last_mut().filter(|last| last.on_device == on_device) {
            Some(last) => last.bytes = &all[last.offset..end.max(offset)],
            None if end > offset => {
                pieces.push(Piece { offset, bytes: &all[offset..end], on_device })
            }
            None => {}
        }
    };
    // Views lie in their order.
    for view in &batch.layout().views {
        let field = view.pixels;
        for row in (0..batch.rows()).filter(|row| batch.is_elsewhere(*row)) {
            let start = field.offset + row * field.row_bytes;
            add(start, false);
            add(start + field.row_bytes, true);
        }
    }
    add(all.len(), false);
    pieces
}

fn record(event: &CudaEvent, stream: &CudaStream) -> Result<(), GpuError> {
    event.record(stream).map_err(GpuError::driver("record an event"))
}

/// The plan's constants on the device.
fn copy_constants(
    memory: &Arc<DeviceMemory>,
    constants: &Constants,
) -> Result<(Vec<DeviceBuffer>, ConstantAddresses), GpuError> {
    let buffers = [
        DeviceBuffer::from_slice(memory, &constants.tables)?,
        DeviceBuffer::from_slice(memory, &constants.target_table)?,
        DeviceBuffer::from_slice(memory, &constants.chosen)?,
        DeviceBuffer::from_slice(memory, &constants.window)?,
        DeviceBuffer::from_slice(memory, &constants.lines)?,
    ];
    let [tables, target_table, chosen, window, lines] =
        std::array::from_fn(|n| buffers[n].address());
    let addresses = ConstantAddresses { tables, target_table, chosen, window, lines };
    Ok((buffers.into(), addresses))
}
