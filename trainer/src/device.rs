//! Where and in which numbers a run computes.

use tubelet_augment::Recipe;
use tubelet_core::{Heap, HostMemory};
use tubelet_gpu::HandOver;
use tubelet_loader::{LoaderConfig, RowMakers};

use crate::error::{TrainError, TrainErrorKind};
use crate::feed::{Floats, OnDevice, device_stage};
use crate::params::Precision;

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// Burn's flex back end.
    #[default]
    Cpu,
    /// CUDA; needs the feature `cuda`.
    Cuda,
    /// Vulkan; needs the feature `vulkan`.
    Vulkan,
}

/// The patches that a network looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// Those of all tokens.
    All,
    /// Those of the visible tokens.
    Visible,
}

/// Rows of a part on the processor. Part of what a seed promises: another value adds the same
/// gradients in another order.
const PART_ROWS: usize = 8;
/// Slots for each batch that waits as bytes until it is trained on: one in use, one fed ahead, one
/// handed from the loader.
const HELD_SLOTS: usize = 2;

impl Device {
    /// Rows that one thread works on at a time: a few on the processor, so that all cores have
    /// work; the whole batch on a device that is parallel itself.
    pub(crate) fn part_rows(self, batch: usize) -> usize {
        match self {
            Self::Cpu => batch.min(PART_ROWS),
            Self::Cuda | Self::Vulkan => batch,
        }
    }

    /// Slots of a loader. On Vulkan batches keep theirs until they are trained on; elsewhere a slot is
    /// free when its floats are made, or its bytes on the device, unless CUDA has to do without the
    /// stage: then the loader waits while a batch is trained on.
    pub(crate) fn slot_count(self) -> usize {
        let usual = LoaderConfig::default().slots;
        if self == Self::Vulkan { usual + HELD_SLOTS } else { usual }
    }

    /// Memory for slots: page-locked where CUDA copies from them, with a place for pixels on the device
    /// where `makers` leave some there.
    pub(crate) fn slots(self, makers: &dyn RowMakers) -> Box<dyn HostMemory> {
        match self {
            Self::Cuda => makers.memory().unwrap_or_else(tubelet_gpu::host_memory),
            Self::Cpu | Self::Vulkan => Box::new(Heap),
        }
    }

    /// What makes the floats of a network's batches, and what hands them over where that is the device
    /// stage. The log tells what is made where, and why not on the device.
    ///
    /// # Errors
    /// When that is not the stage although the GPU is required ([`tubelet_gpu::required`]).
    pub(crate) fn floats(
        self,
        recipe: &Recipe,
        sees: Sees,
        precision: Precision,
    ) -> Result<(Floats, Option<HandOver>), TrainError> {
        if self == Self::Cuda {
            match device_stage(recipe, sees, precision) {
                Ok((stage, hand_over)) => {
                    tracing::info!("pixels and targets are made by kernels on the GPU");
                    return Ok((Floats::Stage(Box::new(stage)), Some(hand_over)));
                }
                Err(what) if tubelet_gpu::required() => {
                    return Err(failed(format!("the device stage cannot be used: {what}")));
                }
                Err(what) => tracing::info!("the device stage cannot be used: {what}"),
            }
        }
        if self == Self::Cpu {
            return Ok((Floats::Host, None));
        }
        Ok(match OnDevice::new(recipe) {
            Ok(plan) => {
                tracing::info!("batches cross as bytes; patches and targets are made there");
                (Floats::Bytes(std::sync::Arc::new(plan)), None)
            }
            Err(what) => {
                tracing::info!("floats are made on the host and copied: the recipe has {what}");
                (Floats::Host, None)
            }
        })
    }
}

/// An error of the device.
pub(crate) fn failed(what: impl ToString) -> TrainError {
    TrainError::new("device", TrainErrorKind::Backend(what.to_string()))
}

/// Runs `$body` with `$backend` bound to the autodiff back end of a device.
macro_rules! on_device {
    ($device:expr, $backend:ident => $body:expr) => {
        match $device {
            $crate::device::Device::Cpu => {
                type $backend = burn::backend::Autodiff<burn::backend::Flex>;
                $body
            }
            #[cfg(feature = "cuda")]
            $crate::device::Device::Cuda => {
                type $backend = burn::backend::Autodiff<burn::backend::Cuda>;
                $crate::feed::adopt::check_machine().and_then(|_gpu| $body)
            }
            #[cfg(feature = "vulkan")]
            $crate::device::Device::Vulkan => {
                type $backend = burn::backend::Autodiff<burn::backend::Vulkan>;
                $body
            }
            #[cfg(not(all(feature = "cuda", feature = "vulkan")))]
            #[allow(unreachable_patterns)]
            other => Err($crate::error::TrainError::new(
                "device",
                $crate::error::TrainErrorKind::Backend(format!(
                    "{other:?} is not in this build: build with --features {}",
                    format!("{other:?}").to_lowercase()
                )),
            )),
        }
    };
}
pub(crate) use on_device;
