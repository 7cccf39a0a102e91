//! From batches to tensors: the only file that knows both Burn and slots.
//!
//! The float stage runs on a thread of its own, one batch ahead of the training step.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use crossbeam_channel::{Receiver, Sender, bounded};
use tubelet_augment::{HostStage, HostTensors, Recipe};
use tubelet_loader::{Batches, Cursor, LoaderError, Stats};

use crate::error::{TrainError, TrainErrorKind};
use crate::model::{Geometry, MaskedTokens, patchify, patchify_rows};

/// A batch on the host and where to go on after it.
pub struct FedBatch {
    /// Its floats.
    pub tensors: HostTensors,
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
}

impl Feed {
    /// Starts the thread that turns `batches` into floats.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn new(mut batches: Batches, recipe: &Recipe) -> Result<Self, TrainError> {
        let stage = HostStage::new(recipe);
        let (send, ready) = bounded(1);
        let (used, free) = bounded::<HostTensors>(2);
        let work = move || {
            while let Some(batch) = batches.next() {
                let fed = batch.map(|batch| {
                    let mut tensors = free.try_recv().unwrap_or_default();
                    stage.run_into(batch.as_ref(), &mut tensors);
                    FedBatch { tensors, cursor: batch.cursor(), stats: batches.stats() }
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
        Ok(Self { ready: Some(ready), used, thread: Some(thread), waited: Duration::ZERO })
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

/// All patches of the batch `[rows · tokens, patch values]`.
pub fn all_patches<B: Backend>(
    batch: &HostTensors,
    geometry: &Geometry,
    device: &B::Device,
) -> Tensor<B, 2> {
    matrix(patchify(&batch.pixels, batch.rows, geometry), batch.rows * geometry.tokens(), device)
}

/// The visible patches of the batch `[rows · visible, patch values]`.
pub fn visible_patches<B: Backend>(
    batch: &HostTensors,
    geometry: &Geometry,
    tokens: &MaskedTokens,
    device: &B::Device,
) -> Tensor<B, 2> {
    let values = patchify_rows(&batch.pixels, batch.rows, geometry, &tokens.visible);
    matrix(values, tokens.visible.len(), device)
}

/// Targets of the hidden tokens `[hidden, target dim]`, without the padding of ragged rows.
pub fn hidden_targets<B: Backend>(batch: &HostTensors, device: &B::Device) -> Tensor<B, 2> {
    let dim = batch.target_dim;
    let rows = batch.targets.chunks_exact((batch.max_masked * dim).max(1));
    let values: Vec<f32> = rows
        .zip(&batch.masked_count)
        .flat_map(|(row, count)| row[..*count as usize * dim].iter().copied())
        .collect();
    let hidden = values.len() / dim.max(1);
    matrix(values, hidden, device)
}

/// `values` as a matrix of `rows` rows on `device`.
pub fn matrix<B: Backend>(values: Vec<f32>, rows: usize, device: &B::Device) -> Tensor<B, 2> {
    let columns = values.len() / rows.max(1);
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}
