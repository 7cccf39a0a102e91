//! `--decode`: where samples are decoded.

mod device;
mod measure;
mod planner;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use tubelet_augment::Recipe;
use tubelet_core::HostMemory;
use tubelet_formats::{MediaKind, ShardReader};
use tubelet_gpu::{Gpu, REQUIRE_GPU, twin};
use tubelet_loader::{HostMakers, RowMaker, RowMakers};

use self::device::{Device, DeviceMaker};
use self::planner::Decision;
use crate::common::Usage;

/// Kinds of media that a GPU may decode.
const KINDS: [(MediaKind, &str); 2] = [(MediaKind::Jpeg, "JPEG"), (MediaKind::Video, "video")];

/// Where samples are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DecodeOn {
    /// On the processor
    Cpu,
    /// On the GPU: JPEG by nvJPEG, videos by NVDEC; what these cannot decode goes to the processor
    /// and is counted
    Gpu,
    /// Measures both at the start, for each kind of media, and takes the GPU where it is faster and
    /// one sample's pixels agree to 45 dB
    Auto,
}

/// The argument.
#[derive(Args, Clone)]
pub(crate) struct DecodeArgs {
    /// Where samples are decoded
    #[arg(long, value_enum, default_value_t = DecodeOn::Cpu)]
    decode: DecodeOn,
}

/// What makes rows, and what it did.
pub(crate) struct Decoding {
    /// For the loader.
    pub(crate) makers: Arc<dyn RowMakers>,
    device: Option<Arc<Device>>,
    /// Whether the GPU was asked for by name.
    named: bool,
}

impl DecodeArgs {
    /// Finds the GPU where one is asked for. Without one, `auto` says so in a line and goes on.
    pub(crate) fn open(&self) -> Result<Decoding> {
        let named = self.decode == DecodeOn::Gpu;
        let on_host = || Decoding { makers: HostMakers::shared(), device: None, named };
        if self.decode == DecodeOn::Cpu {
            return Ok(on_host());
        }
        let gpu = Gpu::probe().map_err(|e| e.to_string());
        let device = gpu.and_then(|gpu| Device::new(gpu).map_err(|e| e.to_string()));
        match device {
            Ok(device) => {
                let device = Arc::new(device);
                let makers = Arc::new(DeviceMakers {
                    device: Arc::clone(&device),
                    measures: self.decode == DecodeOn::Auto,
                    decided: Mutex::default(),
                });
                Ok(Decoding { makers, device: Some(device), named })
            }
            Err(reason) if self.decode == DecodeOn::Gpu => {
                Err(Usage(format!("--decode gpu: {reason}")).into())
            }
            Err(reason) => {
                eprintln!("decode: on the CPU ({reason})");
                Ok(on_host())
            }
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        format!("{:?}", self.decode).to_lowercase()
    }
}

impl Decoding {
    /// Says how many samples the GPU decoded, and why others were not, where one was asked.
    ///
    /// # Errors
    /// When some were not, although the GPU was named and is required ([`tubelet_gpu::required`]).
    pub(crate) fn report(&self) -> Result<()> {
        let Some(device) = &self.device else { return Ok(()) };
        let (there, here) = device.tally.counts();
        if there + here == 0 {
            return Ok(());
        }
        let why = device.tally.first_reason().map(|r| format!(", the first: {r}"));
        eprintln!(
            "decode: {there} samples on the GPU, {here} on the CPU although the GPU was asked{}",
            why.unwrap_or_default()
        );
        if here > 0 && self.named && tubelet_gpu::required() {
            bail!("--decode gpu: {here} samples on the CPU, and {REQUIRE_GPU}=1");
        }
        Ok(())
    }
}

/// Makers that use a device for the kinds of media it was chosen for.
struct DeviceMakers {
    device: Arc<Device>,
    /// Whether a kind of media goes there only if it pays.
    measures: bool,
    decided: Mutex<Vec<(MediaKind, bool)>>,
}

impl std::fmt::Debug for DeviceMakers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceMakers").field("measures", &self.measures).finish_non_exhaustive()
    }
}

impl DeviceMakers {
    fn decided(&self) -> std::sync::MutexGuard<'_, Vec<(MediaKind, bool)>> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RowMakers for DeviceMakers {
    /// Decides once for each kind of media in the data.
    fn prepare(
        &self,
        shards: &dyn ShardReader,
        recipe: &Recipe,
        workers: usize,
    ) -> Result<(), String> {
        for (kind, name) in KINDS {
            if self.decided().iter().any(|(known, _)| *known == kind) {
                continue;
            }
            let numbers = measure::some_of(shards, kind, workers);
            if numbers.is_empty() {
                continue;
            }
            let able = self.device.able(kind);
            if !self.measures {
                able.map_err(|reason| format!("--decode gpu: {name}: {reason}"))?;
                self.decided().push((kind, true));
                continue;
            }
            let decision = match able {
                Err(reason) => Decision::Unable(reason),
                Ok(()) => measure::measure(&self.device, kind, shards, (recipe, &numbers), workers),
            };
            eprintln!("{}", decision.line(name));
            self.decided().push((kind, decision.is_gpu()));
        }
        if !self.decided().is_empty() {
            return Ok(());
        }
        let none = "there is no JPEG file and no video in the data";
        if !self.measures {
            return Err(format!("--decode gpu: {none}"));
        }
        eprintln!("decode: on the CPU ({none})");
        Ok(())
    }

    /// Page-locked, with a place on the device.
    fn memory(&self) -> Option<Box<dyn HostMemory>> {
        Some(self.device.memory())
    }

    fn fetch(&self, pixels: &mut [u8]) -> Result<(), String> {
        twin::fetch(pixels).map_err(|e| e.to_string())
    }

    fn maker(&self) -> Box<dyn RowMaker> {
        let chosen = |(kind, on_device): &(MediaKind, bool)| on_device.then_some(*kind);
        let kinds = self.decided().iter().filter_map(chosen).collect();
        Box::new(DeviceMaker::new(&self.device, kinds, &self.device.tally))
    }
}
