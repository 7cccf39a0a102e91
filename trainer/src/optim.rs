//! Optimisers with PyTorch's semantics over named parameters.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use crate::error::TrainError;
use crate::params::{Gradients, Params, tensor_1d, values};
use crate::weights::{Array, Weights};

/// An optimiser's rule and constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Algorithm {
    /// `torch.optim.AdamW`: decoupled weight decay, bias correction.
    AdamW {
        /// Decay rates of the two moments.
        betas: [f64; 2],
        /// Added to the root of the second moment.
        eps: f64,
    },
    /// `torch.optim.SGD`: weight decay added to the gradient.
    Sgd {
        /// Momentum.
        momentum: f64,
        /// Nesterov's form.
        nesterov: bool,
    },
    /// MAE's LARS (`util/lars.py`): layer-wise rates; one-axis parameters follow plain momentum.
    Lars {
        /// Momentum.
        momentum: f64,
        /// Trust coefficient.
        trust: f64,
    },
}

/// What differs between parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Factor on the learning rate.
    pub lr_scale: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// An optimiser and its state.
#[derive(Debug)]
pub struct Optimizer<B: Backend> {
    algorithm: Algorithm,
    groups: BTreeMap<String, Group>,
    slots: BTreeMap<String, Vec<Tensor<B, 1>>>,
    step: u64,
}

impl<B: Backend> Optimizer<B> {
    /// A fresh optimiser. Parameters that `groups` does not name are not updated.
    pub fn new(algorithm: Algorithm, groups: BTreeMap<String, Group>) -> Self {
        Self { algorithm, groups, slots: BTreeMap::new(), step: 0 }
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// One step: every parameter that has a gradient and a group moves.
    pub fn step<A: AutodiffBackend<InnerBackend = B>>(
        &mut self,
        params: &mut Params<A>,
        mut grads: Gradients<B>,
        lr: f64,
    ) {
        self.step += 1;
        for (name, param) in params.iter_mut() {
            let (Some(grad), Some(group)) = (grads.remove(name), self.groups.get(name).copied())
            else {
                continue;
            };
            let one_axis = param.shape.len() < 2;
            let value = param.value.clone().inner();
            let value = self.update(name, value, grad, group, lr * group.lr_scale, one_axis);
            param.value = Tensor::from_inner(value).require_grad();
        }
    }

    /// The optimiser's tensors as `{slot}.{parameter}`, for checkpoints: `exp_avg` and
    /// `exp_avg_sq` (AdamW) or `momentum`.
    pub fn state(&self) -> Weights {
        let names = self.slot_names();
        let slots = self.slots.iter().flat_map(|(name, slots)| {
            slots.iter().zip(names).map(move |(slot, kind)| {
                let data = values(slot);
                (format!("{kind}.{name}"), Array::new([data.len()], data))
            })
        });
        slots.collect()
    }

    /// Puts back what [`Self::state`] gave, after `step` steps.
    ///
    /// # Errors
    /// When a slot of a parameter is missing.
    pub fn restore(
        &mut self,
        state: &Weights,
        step: u64,
        device: &B::Device,
    ) -> Result<(), TrainError> {
        self.step = step;
        self.slots.clear();
        let names = self.slot_names();
        for name in self.groups.keys() {
            if !state.contains(&format!("{}.{name}", names[0])) {
                continue;
            }
            let slots = names
                .iter()
                .map(|kind| Ok(tensor_1d(state.require(&format!("{kind}.{name}"))?, device)));
            self.slots.insert(name.clone(), slots.collect::<Result<_, TrainError>>()?);
        }
        Ok(())
    }

    fn slot_names(&self) -> &'static [&'static str] {
        match self.algorithm {
            Algorithm::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
            Algorithm::Sgd { .. } | Algorithm::Lars { .. } => &["momentum"],
        }
    }

    fn update(
        &mut self,
        name: &str,
        value: Tensor<B, 1>,
        grad: Tensor<B, 1>,
        group: Group,
        lr: f64,
        one_axis: bool,
    ) -> Tensor<B, 1> {
        let slots = self.slots.remove(name);
        let (value, slots) = match self.algorithm {
            Algorithm::AdamW { betas, eps } => {
                adamw(value, grad, slots, betas, eps, group.weight_decay, lr, self.step)
            }
            Algorithm::Sgd { momentum, nesterov } => {
                let grad = decayed(grad, &value, group.weight_decay);
                sgd(value, grad, slots, momentum, nesterov, lr)
            }
            Algorithm::Lars { momentum, trust } => {
                let grad = if one_axis {
                    grad
                } else {
                    trusted(decayed(grad, &value, group.weight_decay), &value, trust)
                };
                sgd(value, grad, slots, momentum, false, lr)
            }
        };
        self.slots.insert(name.to_owned(), slots);
        value
    }
}

/// Scales all gradients so that their common norm is at most `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_` does; returns the norm before.
pub fn clip_global<B: Backend>(grads: &mut Gradients<B>, max_norm: f64) -> f64 {
    let squares = squares(grads);
    clip_by(grads, squares.as_ref(), max_norm);
    norm(squares.as_ref())
}

/// Sums of squares, one for each gradient; `None` where there is none.
pub fn squares<B: Backend>(grads: &Gradients<B>) -> Option<Tensor<B, 1>> {
    let sums: Vec<_> = grads.values().map(|g| g.clone().square().sum()).collect();
    (!sums.is_empty()).then(|| Tensor::cat(sums, 0))
}

/// [`clip_global`] by the gradients' [`squares`], which stay on the device: nothing waits for it.
pub fn clip_by<B: Backend>(
    grads: &mut Gradients<B>,
    squares: Option<&Tensor<B, 1>>,
    max_norm: f64,
) {
    let Some(squares) = squares else { return };
    let norm = squares.clone().sum().sqrt();
    let scale = ((norm + CLIP_EPS).recip() * max_norm).clamp_max(1.0);
    for grad in grads.values_mut() {
        grad.inplace(|g| g * scale.clone());
    }
}

/// The norm of all gradients taken together, from their [`squares`]; waits for the device.
pub fn norm<B: Backend>(squares: Option<&Tensor<B, 1>>) -> f64 {
    let sums = squares.map(values).unwrap_or_default();
    sums.iter().map(|s| f64::from(*s)).sum::<f64>().sqrt()
}

/// Scales each gradient whose own norm is above `max_norm` (iBOT, `utils.clip_gradients`).
pub fn clip_each<B: Backend>(grads: &mut Gradients<B>, max_norm: f64) {
    for grad in grads.values_mut() {
        let norm = f64::from(values(&grad.clone().square().sum())[0]).sqrt();
        let scale = max_norm / (norm + CLIP_EPS);
        if scale < 1.0 {
            grad.inplace(|g| g * scale);
        }
    }
}

/// Added to a norm before dividing by it.
const CLIP_EPS: f64 = 1e-6;

/// Whether the shared rule exempts a parameter from weight decay: one axis, or a bias.
pub fn exempt_by_shape(name: &str, shape: &[usize]) -> bool {
    shape.len() <= 1 || name.ends_with(".bias")
}

type Updated<B> = (Tensor<B, 1>, Vec<Tensor<B, 1>>);

fn adamw<B: Backend>(
    value: Tensor<B, 1>,
    grad: Tensor<B, 1>,
    slots: Option<Vec<Tensor<B, 1>>>,
    [beta1, beta2]: [f64; 2],
    eps: f64,
    weight_decay: f64,
    lr: f64,
    step: u64,
) -> Updated<B> {
    let first = grad.clone() * (1.0 - beta1);
    let second = grad.square() * (1.0 - beta2);
    let (mean, square) = match slots.and_then(|s| <[_; 2]>::try_from(s).ok()) {
        Some([mean, square]) => (mean * beta1 + first, square * beta2 + second),
        None => (first, second),
    };
    let correction1 = 1.0 - beta1.powf(step as f64);
    let correction2 = 1.0 - beta2.powf(step as f64);
    let root = square.clone().sqrt() / correction2.sqrt() + eps;
    let value = if weight_decay == 0.0 { value } else { value * (1.0 - lr * weight_decay) };
    let value = value - mean.clone() / root * (lr / correction1);
    (value, vec![mean, square])
}

fn sgd<B: Backend>(
    value: Tensor<B, 1>,
    grad: Tensor<B, 1>,
    slots: Option<Vec<Tensor<B, 1>>>,
    momentum: f64,
    nesterov: bool,
    lr: f64,
) -> Updated<B> {
    let velocity = match slots.and_then(|s| s.into_iter().next()) {
        Some(velocity) => velocity * momentum + grad.clone(),
        None => grad.clone(),
    };
    let move_by = if nesterov { grad + velocity.clone() * momentum } else { velocity.clone() };
    (value - move_by * lr, vec![velocity])
}

fn decayed<B: Backend>(
    grad: Tensor<B, 1>,
    value: &Tensor<B, 1>,
    weight_decay: f64,
) -> Tensor<B, 1> {
    if weight_decay == 0.0 { grad } else { grad + value.clone() * weight_decay }
}

/// LARS: scales the update by `trust · |value| / |update|` where both norms are above 0.
fn trusted<B: Backend>(update: Tensor<B, 1>, value: &Tensor<B, 1>, trust: f64) -> Tensor<B, 1> {
    let norm = |x: &Tensor<B, 1>| f64::from(values(&x.clone().square().sum())[0]).sqrt();
    let (value, length) = (norm(value), norm(&update));
    if value > 0.0 && length > 0.0 { update * (trust * value / length) } else { update }
}
