//! Page-locked memory and the device stage: CUDA, loaded at run time.
//!
//! The crate has no feature and needs nothing of CUDA to be built. [`Gpu::probe`] says at run time
//! whether there is a device, and if not, why. It does not know the loader: batches come as
//! [`tubelet_core::BatchRef`], page-locked slots go as [`tubelet_core::HostMemory`].
//!
//! [`kernels`] describes launches and touches no device; [`plan`] strings them together for a
//! batch; [`stage`] copies and launches. The same kernel sources run on the host in the tests.

pub mod context;
pub mod crop;
pub mod error;
pub mod hand_over;
pub mod kernels;
mod loading;
pub mod memory;
mod numa;
pub mod nvjpeg;
pub mod nvrtc;
pub mod pinned;
pub mod plan;
pub mod stage;
pub mod twin;

#[cfg(test)]
mod tests;

pub use context::{Gpu, Kernels, NoGpu, REQUIRE_GPU, required};
pub use crop::{Cropper, CutFrames, Nv12Clip};
pub use error::GpuError;
pub use hand_over::{HandOver, Places};
pub use kernels::{DType, Launch};
pub use nvjpeg::{JpegDecoder, JpegPlanes, JpegRequest, JpegService};
pub use pinned::{PinnedMemory, host_memory};
pub use plan::{Input, StagePlan};
pub use stage::{CopyClock, DeviceStage, DeviceTensor, DeviceTensors};
