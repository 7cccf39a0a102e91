//! From batches to tensors: the only module that knows both Burn and slots.
//!
//! The float stage runs on a thread of its own, one batch ahead of the training step: on the host, or on
//! the GPU by kernels, whose tensors a step takes over ([`TrainBackend`]). On other
//! devices batches cross as bytes where the recipe allows it ([`OnDevice`]).

#[cfg(feature = "cuda")]
pub(crate) mod adopt;
mod adopted;
mod backend;
mod on_device;
#[cfg(test)]
mod testing;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use crossbeam_channel::{Receiver, Sender, bounded};
use tubelet_augment::{HostStage, HostTensors, Recipe};
use tubelet_gpu::{DeviceStage, DeviceTensors};
use tubelet_loader::{Batch, Batches, Cursor, Stats};

use crate::error::{TrainError, TrainErrorKind};
use crate::model::{Geometry, MaskedTokens, patchify, patchify_rows};

pub use adopted::Adopted;
pub use backend::TrainBackend;
pub(crate) use backend::device_stage;
pub use on_device::{DeviceBatch, OnDevice};

/// What makes the floats of batches.
pub enum Floats {
    /// The host's stage.
    Host,
    /// Tensor operations on the training device, of a batch's bytes.
    Bytes(Arc<OnDevice>),
    /// Kernels on the GPU.
    Stage(Box<DeviceStage>),
}

/// Where the floats of a batch are, or come from.
pub enum Fed {
    /// In its [`HostTensors`].
    Host,
    /// Made of its bytes by tensor operations.
    Bytes(Arc<OnDevice>, Arc<Batch>),
    /// On the GPU.
    Stage(Box<DeviceTensors>),
    /// Nowhere: a step took them.
    Taken,
}

/// A batch and where to go on after it.
pub struct FedBatch {
    /// Its masks and labels; its floats too where they are made on the host, or were asked for.
    pub tensors: HostTensors,
    /// Its floats.
    pub floats: Fed,
    /// Position after it.
    pub cursor: Cursor,
    /// What the loader did so far.
    pub stats: Stats,
}

/// Batches as floats, one prepared ahead.
pub struct Feed {
    ready: Option<Receiver<Result<FedBatch, TrainError>>>,
    /// Tensors that are filled again.
    used: Sender<HostTensors>,
    thread: Option<JoinHandle<()>>,
    waited: Duration,
}

/// What the feed's thread works with.
struct Work {
    batches: Batches,
    host: HostStage,
    floats: Floats,
}

impl Work {
    /// The next batch; with `shown`, its floats are made on the host as well.
    fn next(
        &mut self,
        mut tensors: HostTensors,
        shown: bool,
    ) -> Option<Result<FedBatch, TrainError>> {
        let batch = self.batches.next()?;
        let stats = self.batches.stats();
        let data = |e: String| TrainError::new("data", TrainErrorKind::Data(e));
        Some(batch.map_err(|e| data(e.to_string())).and_then(|mut batch| {
            let cursor = batch.cursor();
            if shown || !matches!(self.floats, Floats::Stage(_)) {
                batch.to_host().map_err(|e| data(e.to_string()))?;
            }
            if shown || matches!(self.floats, Floats::Host) {
                self.host.run_into(batch.as_ref(), &mut tensors);
            } else {
                self.host.lists_into(batch.as_ref(), &mut tensors);
            }
            let floats = match &mut self.floats {
                Floats::Host => Fed::Host,
                Floats::Bytes(plan) => Fed::Bytes(Arc::clone(plan), Arc::new(batch)),
                Floats::Stage(stage) => {
                    let made = stage.submit(batch, Batch::as_ref).map_err(crate::device::failed)?;
                    tensors.mixed.clone_from(&made.mixed);
                    Fed::Stage(Box::new(made))
                }
            };
            Ok(FedBatch { tensors, floats, cursor, stats })
        }))
    }
}

impl Feed {
    /// Starts the thread that turns `batches` into floats. Those of the batches, counted from 0, that
    /// `shown` names are made on the host in any case.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn new(
        batches: Batches,
        recipe: &Recipe,
        floats: Floats,
        shown: impl Fn(u64) -> bool + Send + 'static,
    ) -> Result<Self, TrainError> {
        let (send, ready) = bounded(1);
        let (used, free) = bounded::<HostTensors>(2);
        let mut work = Work { batches, host: HostStage::new(recipe), floats };
        let work = move || {
            for number in 0.. {
                let tensors = free.try_recv().unwrap_or_default();
                let Some(fed) = work.next(tensors, shown(number)) else { return };
                if send.send(fed).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("tubelet-feed".to_owned())
            .spawn(work)
            .map_err(|e| TrainError::new("feed", e))?;
        let (ready, thread, waited) = (Some(ready), Some(thread), Duration::ZERO);
        Ok(Self { ready, used, thread, waited })
    }

    /// The next batch; `None` at the end of an evaluation.
    ///
    /// # Errors
    /// When the loader failed, or the device that makes the floats.
    pub fn next_batch(&mut self) -> Result<Option<FedBatch>, TrainError> {
        let start = Instant::now();
        let batch = self.ready.as_ref().and_then(|ready| ready.recv().ok());
        self.waited += start.elapsed();
        batch.transpose()
    }

    /// Takes a batch back that is done with, so that its memory is used again.
    pub fn give_back(&self, batch: FedBatch) {
        // When nobody takes it, it is freed.
        drop(self.used.try_send(batch.tensors));
    }

    /// Time spent waiting for batches so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.ready = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the feed thread panicked");
        }
    }
}

/// Where a step's inputs come from.
pub trait Source<B: Backend> {
    /// Masks, labels, sizes.
    fn lists(&self) -> &HostTensors;

    /// All patches of the batch `[rows · tokens, patch values]`.
    fn all_patches(&self, geometry: &Geometry, device: &B::Device) -> Tensor<B, 2>;

    /// The visible patches of the batch `[rows · visible, patch values]`.
    fn visible_patches(
        &self,
        geometry: &Geometry,
        tokens: &MaskedTokens,
        device: &B::Device,
    ) -> Tensor<B, 2>;

    /// Targets of the hidden tokens `[hidden, target dim]`, without the padding of ragged rows.
    fn hidden_targets(&self, device: &B::Device) -> Tensor<B, 2>;
}

/// Floats made on the host.
impl<B: Backend> Source<B> for HostTensors {
    fn lists(&self) -> &HostTensors {
        self
    }

    fn all_patches(&self, geometry: &Geometry, device: &B::Device) -> Tensor<B, 2> {
        let values = patchify(&self.pixels, self.rows, geometry);
        matrix(values, self.rows * geometry.tokens(), device)
    }

    fn visible_patches(
        &self,
        geometry: &Geometry,
        tokens: &MaskedTokens,
        device: &B::Device,
    ) -> Tensor<B, 2> {
        let values = patchify_rows(&self.pixels, self.rows, geometry, &tokens.visible);
        matrix(values, tokens.visible.len(), device)
    }

    fn hidden_targets(&self, device: &B::Device) -> Tensor<B, 2> {
        let dim = self.target_dim;
        let rows = self.targets.chunks_exact((self.max_masked * dim).max(1));
        let values: Vec<f32> = rows
            .zip(&self.masked_count)
            .flat_map(|(row, count)| row[..*count as usize * dim].iter().copied())
            .collect();
        let hidden = values.len() / dim.max(1);
        matrix(values, hidden, device)
    }
}

/// `values` as a matrix of `rows` rows on `device`.
pub fn matrix<B: Backend>(values: Vec<f32>, rows: usize, device: &B::Device) -> Tensor<B, 2> {
    let (count, columns) = (values.len(), values.len() / rows.max(1));
    // With one axis the copy to a device is one piece; with two it is padded row by row.
    Tensor::<B, 1>::from_data(TensorData::new(values, [count]), device).reshape([rows, columns])
}
