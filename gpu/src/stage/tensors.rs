//! What a batch becomes on the device.

use std::convert::Infallible;
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream};
use tubelet_augment::mix::MixedLabels;
use tubelet_core::BatchRef;

use crate::error::GpuError;
use crate::kernels::{Address, DType};
use crate::memory::{DeviceBuffer, DeviceMemory};
use crate::plan::{BatchAddresses, BatchPlan, BatchTensors, Scratch, TensorShape};

/// A dense, row-major array on the device.
#[derive(Debug)]
pub struct DeviceTensor {
    buffer: DeviceBuffer,
    shape: TensorShape,
}

impl DeviceTensor {
    fn new(memory: &Arc<DeviceMemory>, shape: &TensorShape) -> Result<Self, GpuError> {
        let buffer = DeviceBuffer::new(memory, shape.bytes())?;
        Ok(Self { buffer, shape: shape.clone() })
    }

    /// Its address, aligned to 256 bytes. Reading there is right only in the order of
    /// [`DeviceTensors::wait_on`] and [`DeviceTensors::release_after`].
    pub fn address(&self) -> Address {
        self.buffer.address()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.shape.dtype
    }

    /// Sizes of its axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape.sizes
    }

    /// The memory.
    pub fn buffer(&self) -> &DeviceBuffer {
        &self.buffer
    }
}

/// A batch on the device, as [`tubelet_augment::HostTensors`] on the host.
///
/// Another stream uses it in three steps: [`DeviceTensors::wait_on`], its own work with the
/// addresses, [`DeviceTensors::release_after`]. The CPU waits in none of them.
#[derive(Debug)]
pub struct DeviceTensors {
    /// The input, the mask with its lists and targets, further passes, further views.
    pub batch: BatchTensors<DeviceTensor>,
    /// `[rows]`, class; [`tubelet_core::layout::NO_LABEL`] where there is none.
    pub labels: Vec<u32>,
    /// `[rows]`, sample number.
    pub samples: Vec<u64>,
    /// Targets of mixed rows; absent where the recipe mixes none or the batch had no key.
    pub mixed: Option<MixedLabels>,
    ready: CudaEvent,
}

impl DeviceTensors {
    /// Room for tensors of the shapes `shapes`, which `batch` becomes by `work`.
    pub(super) fn new(
        memory: &Arc<DeviceMemory>,
        shapes: &BatchTensors<TensorShape>,
        work: &BatchPlan,
        batch: BatchRef<'_>,
    ) -> Result<Self, GpuError> {
        let ready = memory.stream().context().new_event(None);
        Ok(Self {
            batch: shapes.try_map(|shape| DeviceTensor::new(memory, shape))?,
            labels: batch.labels().to_vec(),
            samples: batch.samples().to_vec(),
            mixed: work.mixed.clone(),
            ready: ready.map_err(GpuError::driver("make an event"))?,
        })
    }

    pub(super) fn addresses(
        &self,
        slot: Address,
        scratch: &Scratch<DeviceBuffer>,
    ) -> BatchAddresses {
        let of_tensor = |tensor: &DeviceTensor| Ok::<_, Infallible>(tensor.address());
        let of_buffer = |buffer: &DeviceBuffer| Ok::<_, Infallible>(buffer.address());
        let (Ok(tensors), Ok(scratch)) =
            (self.batch.try_map(of_tensor), scratch.try_map(of_buffer));
        BatchAddresses { slot, tensors, scratch }
    }

    /// Fires when the tensors are complete.
    pub fn ready(&self) -> &CudaEvent {
        &self.ready
    }

    /// Makes what is queued on `consumer` after this wait until the tensors are complete. A foreign
    /// stream of the primary context comes as `CudaContext::wrap_borrowed_stream`.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn wait_on(&self, consumer: &CudaStream) -> Result<(), GpuError> {
        consumer.wait(&self.ready).map_err(GpuError::driver("order streams"))
    }

    /// Frees the tensors when everything that is queued on `consumer` by now has run. Dropping them
    /// instead is right once the consumer's work is known to be done. The stage's own stream waits
    /// with what is submitted after this: submit the next batch first.
    ///
    /// # Errors
    /// When the driver refuses; the memory is then freed after `consumer` has been waited for.
    pub fn release_after(self, consumer: &CudaStream) -> Result<(), GpuError> {
        let stream = self.batch.input.buffer().stream();
        if let Err(source) = stream.join(consumer) {
            consumer.synchronize().map_err(GpuError::driver("wait for a stream"))?;
            return Err(GpuError::Driver { doing: "order streams", source });
        }
        Ok(())
    }
}
