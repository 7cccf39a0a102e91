//! From batches to tensors: the only module that knows both Burn and slots.
//!
//! The float stage runs on a thread of its own, one batch ahead of the training step. On a device
//! that is no processor, batches cross as bytes where the recipe allows it ([`OnDevice`]).

mod on_device;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use crossbeam_channel::{Receiver, Sender, bounded};
use tubelet_augment::{HostStage, HostTensors, Recipe};
use tubelet_loader::{Batch, Batches, Cursor, LoaderError, Stats};

use crate::error::{TrainError, TrainErrorKind};
use crate::model::{Geometry, MaskedTokens, patchify, patchify_rows};

pub use on_device::{DeviceBatch, OnDevice};

/// A batch on the host and where to go on after it.
pub struct FedBatch {
    /// Its masks and labels; its floats too, unless they are made on the device.
    pub tensors: HostTensors,
    /// Its bytes, where the floats are made on the device.
    pub slot: Option<Arc<Batch>>,
    /// Position after it.
    pub cursor: Cursor,
    /// What the loader did so far.
    pub stats: Stats,
}

/// Batches as floats, one prepared ahead.
pub struct Feed {
    ready: Option<Receiver<Result<FedBatch, LoaderError>>>,
    /// Tensors that are filled again.
    used: Sender<HostTensors>,
    thread: Option<JoinHandle<()>>,
    waited: Duration,
    stage: Arc<HostStage>,
}

impl Feed {
    /// Starts the thread that turns `batches` into floats, or, where they are made `on_device`, into
    /// masks and labels.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn new(mut batches: Batches, recipe: &Recipe, on_device: bool) -> Result<Self, TrainError> {
        let stage = Arc::new(HostStage::new(recipe));
        let own = Arc::clone(&stage);
        let (send, ready) = bounded(1);
        let (used, free) = bounded::<HostTensors>(2);
        let work = move || {
            while let Some(batch) = batches.next() {
                let fed = batch.map(|batch| {
                    let mut tensors = free.try_recv().unwrap_or_default();
                    let (cursor, stats) = (batch.cursor(), batches.stats());
                    let slot = if on_device {
                        stage.lists_into(batch.as_ref(), &mut tensors);
                        Some(Arc::new(batch))
                    } else {
                        stage.run_into(batch.as_ref(), &mut tensors);
                        None
                    };
                    FedBatch { tensors, slot, cursor, stats }
                });
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
        Ok(Self { ready, used, thread, waited, stage: own })
    }

    /// Makes the floats of a batch on the host, where it has none yet.
    pub fn fill(&self, batch: &mut FedBatch) {
        if let Some(slot) = &batch.slot {
            let slot: &Batch = slot;
            self.stage.run_into(slot.as_ref(), &mut batch.tensors);
        }
    }

    /// The next batch; `None` at the end of an evaluation.
    ///
    /// # Errors
    /// When the loader failed.
    pub fn next_batch(&mut self) -> Result<Option<FedBatch>, TrainError> {
        let start = Instant::now();
        let batch = self.ready.as_ref().and_then(|ready| ready.recv().ok());
        self.waited += start.elapsed();
        batch.transpose().map_err(|e| TrainError::new("data", TrainErrorKind::Data(e.to_string())))
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

/// `values` as numbers on `device`.
fn numbers<B: Backend>(values: &[u32], device: &B::Device) -> Tensor<B, 1, Int> {
    let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// `values` as a matrix of `rows` rows on `device`.
pub fn matrix<B: Backend>(values: Vec<f32>, rows: usize, device: &B::Device) -> Tensor<B, 2> {
    let columns = values.len() / rows.max(1);
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}
