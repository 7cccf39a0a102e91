//! One batch after the other to gradients, and gradients to steps.

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use tubelet_augment::HostTensors;
use tubelet_gpu::HandOver;

use crate::config::TrainConfig;
use crate::device::Sees;
use crate::ema::Ema;
use crate::error::{TrainError, TrainErrorKind};
use crate::feed::{Adopted, DeviceBatch, Fed, FedBatch, Source, TrainBackend};
use crate::optim::{Algorithm, Group, Optimizer, clip_by, exempt_by_shape, norm, squares};
use crate::params::{Gradients, Params, values};
use crate::schedule::Schedule;

/// Parameters, optimiser and schedule of a run.
pub(crate) struct Learner<B: TrainBackend> {
    pub(crate) params: Params<B>,
    pub(crate) optimizer: Optimizer<B::InnerBackend>,
    pub(crate) ema: Option<Ema<B::InnerBackend>>,
    schedule: Schedule,
    clip: Option<f64>,
    accumulate: u32,
    gathered: Gradients<B::InnerBackend>,
    batches: u32,
    /// Parts of the gathered batches' losses, on the device.
    losses: Vec<Tensor<B::InnerBackend, 1>>,
    /// Where the device stage makes the floats.
    pub(crate) hand_over: Option<HandOver>,
}

/// Parts of a batch's loss, to be added up, and its gradients.
type Learned<B> = (Vec<Tensor<B, 1>>, Gradients<B>);

/// One optimiser step.
pub(crate) struct Step {
    pub(crate) loss: f64,
    pub(crate) lr: f64,
    pub(crate) grad_norm: f64,
}

impl<B: TrainBackend> Learner<B> {
    pub(crate) fn new(
        params: Params<B>,
        config: &TrainConfig,
        schedule: Schedule,
        lr_scale: impl Fn(&str) -> f64,
    ) -> Self {
        let groups = params
            .iter()
            .filter(|(_, p)| p.trainable)
            .map(|(name, p)| {
                let exempt = exempt_by_shape(name, &p.shape);
                let weight_decay = if exempt { 0.0 } else { config.weight_decay };
                (name.to_owned(), Group { lr_scale: lr_scale(name), weight_decay })
            })
            .collect();
        let algorithm = Algorithm::AdamW { betas: config.betas, eps: config.eps };
        Self {
            ema: config.ema.map(|momentum| Ema::new(params.inner(), momentum)),
            optimizer: Optimizer::new(algorithm, groups),
            params,
            schedule,
            clip: config.clip_grad,
            accumulate: config.accumulate,
            gathered: Gradients::new(),
            batches: 0,
            losses: Vec::new(),
            hand_over: None,
        }
    }

    /// Batches of a step.
    pub(crate) fn accumulate(&self) -> u32 {
        self.accumulate
    }

    /// Adds the gradients of one batch; a step is made when enough are gathered. Its loss is read when
    /// everything is queued, so that a device does not idle in the middle of a step; where it is not
    /// finite, the parameters are not to be used any more.
    pub(crate) fn learn<O: Objective<B>>(
        &mut self,
        objective: &O,
        batch: &mut FedBatch,
        part_rows: usize,
    ) -> Result<Option<Step>, TrainError> {
        let (losses, grads) = self.gradients_of(objective, batch, part_rows)?;
        add(&mut self.gathered, grads);
        self.losses.extend(losses);
        self.batches += 1;
        if self.batches < self.accumulate {
            return Ok(None);
        }
        let mut grads = std::mem::take(&mut self.gathered);
        let squares = squares(&grads);
        if let Some(most) = self.clip {
            clip_by(&mut grads, squares.as_ref(), most);
        }
        let number = self.optimizer.steps();
        let lr = self.schedule.at(number);
        self.optimizer.step(&mut self.params, grads, lr);
        if let Some(ema) = &mut self.ema {
            ema.update(&self.params);
        }
        self.batches = 0;
        let parts = std::mem::take(&mut self.losses);
        let sum = parts.iter().map(|part| f64::from(values(part)[0])).sum::<f64>();
        let loss = sum / f64::from(self.accumulate);
        if !loss.is_finite() {
            let step = format!("step {number}");
            return Err(TrainError::new(step, TrainErrorKind::Diverged(loss)));
        }
        Ok(Some(Step { loss, lr, grad_norm: norm(squares.as_ref()) }))
    }

    /// Loss and gradients of a batch, wherever its floats are.
    fn gradients_of<O: Objective<B>>(
        &mut self,
        objective: &O,
        batch: &mut FedBatch,
        part_rows: usize,
    ) -> Result<Learned<B::InnerBackend>, TrainError> {
        let device = B::Device::default();
        let lists = &batch.tensors;
        match std::mem::replace(&mut batch.floats, Fed::Taken) {
            Fed::Host => self.gradients(objective, lists, part_rows),
            Fed::Bytes(plan, slot) => {
                let batch = DeviceBatch::new(&plan, &slot, lists, &device);
                self.gradients_at_once(objective, &batch)
            }
            Fed::Stage(tensors) => {
                let none = || TrainError::batch("nothing hands batches of the device stage over");
                let hand_over = self.hand_over.as_mut().ok_or_else(none)?;
                let batch = Adopted::new(hand_over, *tensors, lists, &device)?;
                self.gradients_at_once(objective, &batch)
            }
            Fed::Taken => Err(TrainError::batch("a batch is learned once")),
        }
    }

    /// Number of the batch, over all steps.
    fn number(&self) -> u64 {
        self.optimizer.steps() * u64::from(self.accumulate) + u64::from(self.batches)
    }

    /// [`Self::gradients`] of a batch that is on the device as a whole.
    fn gradients_at_once<O: Objective<B>>(
        &self,
        objective: &O,
        batch: &dyn Source<B>,
    ) -> Result<Learned<B::InnerBackend>, TrainError> {
        terms(objective, batch.lists())?;
        let params = self.params.fork();
        let loss = objective.loss(&params, batch, self.number(), 0)?;
        let value = loss.clone().inner();
        let mut grads = (loss / f64::from(self.accumulate)).backward();
        Ok((vec![value], params.gradients(&mut grads)))
    }

    /// Loss of `batch` and its gradients over the number of gathered batches. The batch is cut into
    /// parts of `part_rows` rows that as many threads as there are cores work on; the parts are
    /// added up in their order, so the sum does not depend on the number of threads.
    fn gradients<O: Objective<B>>(
        &self,
        objective: &O,
        batch: &HostTensors,
        part_rows: usize,
    ) -> Result<Learned<B::InnerBackend>, TrainError> {
        let terms = terms(objective, batch)?;
        let parts = batch.rows.div_ceil(part_rows);
        let number = self.number();
        let work = |part: usize| -> Result<_, TrainError> {
            let rows = part * part_rows..((part + 1) * part_rows).min(batch.rows);
            let batch = batch.slice(rows);
            let share = objective.terms(&batch) / terms;
            if share == 0.0 {
                return Ok((None, Gradients::new()));
            }
            let params = self.params.fork();
            let loss = objective.loss(&params, &batch, number, part as u16)? * share;
            let value = loss.clone().inner();
            let mut grads = (loss / f64::from(self.accumulate)).backward();
            Ok((Some(value), params.gradients(&mut grads)))
        };
        let mut sum = (Vec::new(), Gradients::new());
        for part in in_threads(parts, work) {
            let (value, grads) = part?;
            sum.0.extend(value);
            add(&mut sum.1, grads);
        }
        Ok(sum)
    }
}

/// Terms of the loss of `batch`, at least one.
fn terms<B: TrainBackend, O: Objective<B>>(
    objective: &O,
    batch: &HostTensors,
) -> Result<f64, TrainError> {
    match objective.terms(batch) {
        0.0 => Err(TrainError::batch("no token of the batch is hidden: nothing to learn")),
        terms => Ok(terms),
    }
}

/// What a stage minimises.
pub(crate) trait Objective<B: TrainBackend>: Sync {
    /// Mean loss of `batch`, `[1]`. Drops are drawn for (batch number, part).
    fn loss(
        &self,
        params: &Params<B>,
        batch: &dyn Source<B>,
        number: u64,
        part: u16,
    ) -> Result<Tensor<B, 1>, TrainError>;

    /// The patches that the network looks at.
    fn sees(&self) -> Sees;

    /// How many terms that mean has.
    fn terms(&self, batch: &HostTensors) -> f64;
}

/// Adds `grads` to `sum`.
fn add<B: Backend>(sum: &mut Gradients<B>, grads: Gradients<B>) {
    for (name, grad) in grads {
        let grad = match sum.remove(&name) {
            Some(sum) => sum + grad,
            None => grad,
        };
        sum.insert(name, grad);
    }
}

/// `work(0..count)` on threads of its own (not rayon's: a tensor operation inside may wait there
/// while it holds a lock), results in order.
fn in_threads<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count);
    if threads < 2 {
        return (0..count).map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= count {
                return done;
            }
            done.push((part, work(part)));
        }
    };
    let mut results: Vec<(usize, T)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut all = run();
        for other in others {
            match other.join() {
                Ok(done) => all.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    results.sort_by_key(|(part, _)| *part);
    results.into_iter().map(|(_, result)| result).collect()
}
