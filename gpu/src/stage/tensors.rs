//! What a batch becomes on the device.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream};
use tubelet_core::BatchRef;

use crate::error::GpuError;
use crate::kernels::{Address, DType};
use crate::memory::DeviceBuffer;
use crate::plan::{BatchAddresses, BatchShape, StagePlan};

/// A dense, row-major array on the device.
#[derive(Debug)]
pub struct DeviceTensor {
    buffer: DeviceBuffer,
    dtype: DType,
    shape: Vec<usize>,
}

impl DeviceTensor {
    fn new(stream: &Arc<CudaStream>, dtype: DType, shape: Vec<usize>) -> Result<Self, GpuError> {
        let elements: usize = shape.iter().product();
        let buffer = DeviceBuffer::new(stream, elements * dtype.bytes())?;
        Ok(Self { buffer, dtype, shape })
    }

    /// Its address, aligned to 256 bytes. Reading there is right only in the order of
    /// [`DeviceTensors::wait_on`] and [`DeviceTensors::release_after`].
    pub fn address(&self) -> Address {
        self.buffer.address()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes of its axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
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
    /// The input, in the plan's form and type.
    pub input: DeviceTensor,
    /// u32 `[rows, max_visible]`, ascending; shorter rows repeat their last index. Without a mask
    /// this and the next three have no elements.
    pub visible: DeviceTensor,
    /// u32 `[rows, max_masked]`, likewise.
    pub masked: DeviceTensor,
    /// u32 `[rows]`, real entries of `masked`.
    pub masked_count: DeviceTensor,
    /// f32 `[rows, max_masked, target_dim]`; padding is zero.
    pub targets: DeviceTensor,
    /// `[rows]`, class; [`tubelet_core::layout::NO_LABEL`] where there is none.
    pub labels: Vec<u32>,
    /// `[rows]`, sample number.
    pub samples: Vec<u64>,
    ready: CudaEvent,
}

impl DeviceTensors {
    /// Room for the tensors of `batch`.
    pub(super) fn new(
        plan: &StagePlan,
        stream: &Arc<CudaStream>,
        shape: &BatchShape,
        batch: BatchRef<'_>,
    ) -> Result<Self, GpuError> {
        let indices = |sizes: &[usize]| DeviceTensor::new(stream, DType::U32, sizes.to_vec());
        let targets = vec![shape.rows, shape.max_masked, shape.target_dim];
        let ready = stream.context().new_event(None);
        Ok(Self {
            input: DeviceTensor::new(stream, plan.dtype(), plan.input_shape(shape))?,
            visible: indices(&[shape.rows, shape.max_visible])?,
            masked: indices(&[shape.rows, shape.max_masked])?,
            masked_count: indices(&[if shape.masked { shape.rows } else { 0 }])?,
            targets: DeviceTensor::new(stream, DType::F32, targets)?,
            labels: batch.labels().to_vec(),
            samples: batch.samples().to_vec(),
            ready: ready.map_err(GpuError::driver("make an event"))?,
        })
    }

    pub(super) fn addresses(&self, slot: Address) -> BatchAddresses {
        BatchAddresses {
            slot,
            input: self.input.address(),
            visible: self.visible.address(),
            masked: self.masked.address(),
            masked_count: self.masked_count.address(),
            targets: self.targets.address(),
        }
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
    /// instead is right once the consumer's work is known to be done.
    ///
    /// # Errors
    /// When the driver refuses; the memory is then freed after `consumer` has been waited for.
    pub fn release_after(self, consumer: &CudaStream) -> Result<(), GpuError> {
        let stream = self.input.buffer().stream();
        if let Err(source) = stream.join(consumer) {
            consumer.synchronize().map_err(GpuError::driver("wait for a stream"))?;
            return Err(GpuError::Driver { doing: "order streams", source });
        }
        Ok(())
    }
}
