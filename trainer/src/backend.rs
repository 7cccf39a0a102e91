//! Where the arithmetic runs.

use burn::backend::{Autodiff, Flex};

use crate::error::{TrainError, TrainErrorKind};

/// The host back end with gradients.
pub type Cpu = Autodiff<Flex>;

/// A back end by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendKind {
    /// The host's processors.
    #[default]
    Cpu,
    /// An NVIDIA GPU; needs the build feature `cuda`.
    Cuda,
    /// Any GPU with Vulkan; needs the build feature `vulkan`.
    Vulkan,
}

impl std::str::FromStr for BackendKind {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "vulkan" => Ok(Self::Vulkan),
            other => {
                let what = format!("unknown back end {other:?}; known: cpu, cuda, vulkan");
                Err(TrainError::new("--device", TrainErrorKind::Backend(what)))
            }
        }
    }
}

impl std::fmt::Display for BackendKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Vulkan => "vulkan",
        })
    }
}

/// The error of a back end that this build does not have.
pub fn missing(kind: BackendKind) -> TrainError {
    let what = format!("this build has no {kind} back end: build with --features {kind}");
    TrainError::new("--device", TrainErrorKind::Backend(what))
}

/// Calls `$run::<B>($device, …)` for the back end that `$kind` names: the one place where back ends
/// become types.
macro_rules! dispatch {
    ($kind:expr, $run:ident($($argument:expr),*)) => {
        match $kind {
            $crate::backend::BackendKind::Cpu => {
                $run::<$crate::backend::Cpu>(&burn::backend::flex::FlexDevice, $($argument),*)
            }
            #[cfg(feature = "cuda")]
            $crate::backend::BackendKind::Cuda => {
                let device = burn::backend::cuda::CudaDevice::default();
                $run::<burn::backend::Autodiff<burn::backend::Cuda>>(&device, $($argument),*)
            }
            #[cfg(feature = "vulkan")]
            $crate::backend::BackendKind::Vulkan => {
                let device = burn::backend::wgpu::WgpuDevice::default();
                $run::<burn::backend::Autodiff<burn::backend::Vulkan>>(&device, $($argument),*)
            }
            #[allow(unreachable_patterns, reason = "all back ends may be built in")]
            kind => Err($crate::backend::missing(kind)),
        }
    };
}

pub(crate) use dispatch;
