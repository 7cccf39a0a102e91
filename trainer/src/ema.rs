//! Exponential moving averages of the weights.

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use crate::params::Params;

/// `momentum · average + (1 - momentum) · value`.
pub fn averaged<B: Backend>(
    average: Tensor<B, 1>,
    value: Tensor<B, 1>,
    momentum: f64,
) -> Tensor<B, 1> {
    average * momentum + value * (1.0 - momentum)
}

/// An average of a model's parameters.
#[derive(Debug)]
pub struct Ema<B: Backend> {
    /// The averaged parameters.
    pub params: Params<B>,
    momentum: f64,
}

impl<B: Backend> Ema<B> {
    /// Starts from `params`.
    pub fn new(params: Params<B>, momentum: f64) -> Self {
        Self { params, momentum }
    }

    /// Moves towards `params`, which has the same names.
    pub fn update<A: AutodiffBackend<InnerBackend = B>>(&mut self, params: &Params<A>) {
        let momentum = self.momentum;
        for ((_, average), (_, param)) in self.params.iter_mut().zip(params.iter()) {
            average.value.inplace(|a| averaged(a, param.value.clone().inner(), momentum));
        }
    }
}
