//! A batch's tensors into memory that another library of the process owns, without the host.
//!
//! The copies run on a stream of their own, so that they wait for this batch's kernels only and not for
//! the next batch, which the stage may be working on already.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys};

use crate::context::{Gpu, driver_version};
use crate::error::GpuError;
use crate::kernels::Address;
use crate::stage::{DeviceTensor, DeviceTensors};

/// Drivers from CUDA 12.5 on let a whole context wait for an event.
const CONTEXT_EVENTS: i32 = 12_050;

/// Hands batches over to a consumer in the device's primary context whose stream is not known.
pub struct HandOver {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    start: CudaEvent,
    done: CudaEvent,
    /// Whether the context waits; else the host does.
    context_waits: bool,
    /// Whether the clock runs for a batch that was not counted yet.
    running: bool,
    seconds: f64,
}

/// Where a batch goes.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Room for the input.
    pub input: Address,
    /// Room for the first pass's targets, where they are wanted.
    pub targets: Option<Address>,
}

impl HandOver {
    /// A hand-over on `gpu`.
    ///
    /// # Errors
    /// When the driver refuses a stream or an event.
    pub fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        let context = Arc::clone(gpu.context());
        let version = driver_version().map_err(GpuError::driver("ask for the driver's version"))?;
        let stream = context.new_stream().map_err(GpuError::driver("make a stream"))?;
        let timed = sys::CUevent_flags_enum::CU_EVENT_DEFAULT;
        let event = || context.new_event(Some(timed)).map_err(GpuError::driver("make an event"));
        let (start, done) = (event()?, event()?);
        let context_waits = version >= CONTEXT_EVENTS;
        Ok(Self { context, stream, start, done, context_waits, running: false, seconds: 0.0 })
    }

    /// Copies input and targets of `tensors` to `to` and frees `tensors` behind the copies. What anyone
    /// queues in the primary context after this call runs after the copies. With drivers older than
    /// CUDA 12.5 the call waits for them instead.
    ///
    /// # Safety
    /// The places have room for their tensors and belong to the device of this hand-over; all earlier
    /// work on them is done.
    ///
    /// # Errors
    /// When the driver refuses. Nothing reads `tensors` or writes to the places then.
    pub unsafe fn copy(&mut self, tensors: DeviceTensors, to: Places) -> Result<(), GpuError> {
        self.read_clock();
        let started = self.start.record(&self.stream);
        started.map_err(GpuError::driver("record an event"))?;
        tensors.wait_on(&self.stream)?;
        let batch = &tensors.batch;
        // SAFETY: the caller's promise; the tensors are freed behind this stream's work.
        let queued = unsafe {
            self.queue(&batch.input, Some(to.input))
                .and_then(|()| self.queue(&batch.first.targets, to.targets))
        };
        let ordered = queued.and_then(|()| self.done.record(&self.stream));
        let handed = match ordered {
            Ok(()) => {
                self.running = true;
                self.let_context_wait()
            }
            Err(source) => {
                self.wait()?;
                Err(GpuError::Driver { doing: "hand a batch over", source })
            }
        };
        tensors.release_after(&self.stream)?;
        handed
    }

    /// Seconds, over all batches, from asking for a batch to having it on the consumer's side: what of
    /// copying and making the tensors was not hidden behind the consumer's work, and the hand-over itself.
    pub fn seconds(&mut self) -> f64 {
        self.read_clock();
        self.seconds
    }

    /// # Safety
    /// As [`Self::copy`].
    unsafe fn queue(&self, from: &DeviceTensor, to: Option<Address>) -> Result<(), DriverError> {
        let (Some(to), bytes) = (to, from.buffer().len()) else { return Ok(()) };
        if bytes == 0 {
            return Ok(());
        }
        self.context.bind_to_thread()?;
        // SAFETY: the caller's promise; the tensor has the bytes.
        unsafe { result::memcpy_dtod_async(to.0, from.address().0, bytes, self.stream.cu_stream()) }
    }

    /// Orders everything that is queued in the context from now on behind the copies.
    fn let_context_wait(&mut self) -> Result<(), GpuError> {
        if !self.context_waits {
            return self.wait();
        }
        let context = self.context.cu_ctx();
        // SAFETY: a live context, which is current, and one of its events.
        let waits = self
            .context
            .bind_to_thread()
            .and_then(|()| unsafe { sys::cuCtxWaitEvent(context, self.done.cu_event()) }.result());
        if let Err(error) = waits {
            tracing::info!("the host waits for hand-overs, because the context does not: {error}");
            self.context_waits = false;
            return self.wait();
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), GpuError> {
        self.stream.synchronize().map_err(GpuError::driver("wait for a hand-over"))
    }

    /// Adds the last batch's time, once; waits for its end, which is long past when the next one comes.
    fn read_clock(&mut self) {
        if std::mem::take(&mut self.running)
            && let Ok(ms) = self.start.elapsed_ms(&self.done)
        {
            self.seconds += f64::from(ms) / 1e3;
        }
    }
}
