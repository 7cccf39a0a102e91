//! Transformer layers as functions of named parameters.
//!
//! Activations are token rows `[batch · tokens, width]`: linear layers and norms are then single
//! two-dimensional operations, and only attention looks at the batch.

use burn::tensor::activation::{gelu, softmax};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, Int, Tensor, TensorData};
use tubelet_core::{Draw, SampleRng};

use crate::error::TrainError;
use crate::init::{Init, ParamSpec};
use crate::params::{Params, Precision};

/// Epsilon of every layer norm in the systems covered (MAE, VideoMAE, MAE-ST, SlowFast).
pub const LAYER_NORM_EPS: f64 = 1e-6;

/// `x · Wᵀ + b` with `{name}.weight` `[out, in, …]` and, where there is one, `{name}.bias`; f32.
///
/// # Errors
/// When the weight is missing.
pub fn linear<B: Backend>(
    params: &Params<B>,
    name: &str,
    x: Tensor<B, 2>,
) -> Result<Tensor<B, 2>, TrainError> {
    Ok(full(linear_low(params, name, x)?))
}

/// [`linear`], in the numbers of the parameters' products.
fn linear_low<B: Backend>(
    params: &Params<B>,
    name: &str,
    x: Tensor<B, 2>,
) -> Result<Tensor<B, 2>, TrainError> {
    let weight = params.matrix(&format!("{name}.weight"))?;
    let bias = params.flat(&format!("{name}.bias")).ok();
    Ok(affine(x, weight, bias, params.precision()))
}

/// `x` in the numbers of products.
fn low<B: Backend, const D: usize>(x: Tensor<B, D>, precision: Precision) -> Tensor<B, D> {
    match precision {
        Precision::F32 => full(x),
        Precision::Bf16 if x.dtype() == DType::BF16 => x,
        Precision::Bf16 => x.cast(FloatDType::BF16),
    }
}

/// `x` in f32.
fn full<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    if x.dtype() == DType::BF16 { x.cast(FloatDType::F32) } else { x }
}

/// Layer norm over the last axis with `{name}.weight` and `{name}.bias`.
///
/// # Errors
/// When one is missing.
pub fn layer_norm<B: Backend>(
    params: &Params<B>,
    name: &str,
    x: Tensor<B, 2>,
) -> Result<Tensor<B, 2>, TrainError> {
    let weight = params.flat(&format!("{name}.weight"))?;
    let bias = params.flat(&format!("{name}.bias"))?;
    Ok(normalise(x, LAYER_NORM_EPS) * weight.unsqueeze() + bias.unsqueeze())
}

/// Layer norm without weight and bias: mean 0, biased variance 1 in every row.
pub fn normalise<B: Backend>(x: Tensor<B, 2>, eps: f64) -> Tensor<B, 2> {
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().square().mean_dim(1);
    centred * (variance + eps).sqrt().recip()
}

/// Where the query, key and value projections of an attention layer are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projections {
    /// `qkv.weight` and `qkv.bias` (timm, MAE, SlowFast).
    Fused,
    /// `qkv.weight`, `q_bias` and `v_bias`; keys have no bias (BEiT, VideoMAE).
    FusedNoKeyBias,
    /// `q`, `k` and `v`, each with weight and bias (mae_st).
    Separate,
}

/// A stack of pre-norm transformer blocks `{prefix}.{i}.{norm1,attn,norm2,mlp}`.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// Name before the block's number.
    pub prefix: String,
    /// Number of blocks.
    pub depth: usize,
    /// Width.
    pub dim: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width inside the MLP.
    pub hidden: usize,
    /// Form of the projections.
    pub projections: Projections,
}

/// Initial values of the layers of a family.
#[derive(Clone, Debug)]
pub struct LayerInit {
    /// Linear weights.
    pub weight: Init,
    /// Linear biases.
    pub bias: f32,
    /// Layer norm biases.
    pub norm_bias: f32,
}

impl LayerInit {
    /// Xavier-uniform weights, zero biases: MAE, MAE-ST, VideoMAE pre-training.
    pub fn xavier() -> Self {
        Self { weight: Init::XavierUniform, bias: 0.0, norm_bias: 0.0 }
    }

    /// Truncated normal weights of standard deviation 0.02, zero biases: timm, fine-tuning.
    pub fn timm() -> Self {
        Self { weight: Init::trunc_normal(0.02), bias: 0.0, norm_bias: 0.0 }
    }

    /// SlowFast's MViT family: biases of linear layers and norms start at 0.02.
    pub fn slowfast() -> Self {
        Self { weight: Init::trunc_normal(0.02), bias: 0.02, norm_bias: 0.02 }
    }

    /// A linear layer `{name}.{weight,bias}`.
    pub fn linear(&self, name: &str, input: usize, output: usize) -> [ParamSpec; 2] {
        [
            ParamSpec::new(format!("{name}.weight"), [output, input], self.weight.clone()),
            ParamSpec::new(format!("{name}.bias"), [output], Init::Constant(self.bias)),
        ]
    }

    /// A layer norm `{name}.{weight,bias}`.
    pub fn norm(&self, name: &str, dim: usize) -> [ParamSpec; 2] {
        [
            ParamSpec::new(format!("{name}.weight"), [dim], Init::ONES),
            ParamSpec::new(format!("{name}.bias"), [dim], Init::Constant(self.norm_bias)),
        ]
    }
}

impl Blocks {
    /// The parameters of all blocks.
    pub fn specs(&self, init: &LayerInit) -> Vec<ParamSpec> {
        (0..self.depth).flat_map(|i| self.block_specs(i, init)).collect()
    }

    /// Runs all blocks on `batch` sequences of equal length, `x` `[batch · tokens, dim]`.
    ///
    /// # Errors
    /// When a parameter is missing.
    pub fn forward<B: Backend>(
        &self,
        params: &Params<B>,
        mut x: Tensor<B, 2>,
        batch: usize,
        drops: &mut Drops,
    ) -> Result<Tensor<B, 2>, TrainError> {
        for i in 0..self.depth {
            let name = format!("{}.{i}", self.prefix);
            let rate = drops.path_rate(i, self.depth);
            let y = layer_norm(params, &format!("{name}.norm1"), x.clone())?;
            let y = self.attention(params, &format!("{name}.attn"), y, batch)?;
            x = x + drops.path(y, batch, rate);
            let y = layer_norm(params, &format!("{name}.norm2"), x.clone())?;
            let y = gelu(linear_low(params, &format!("{name}.mlp.fc1"), y)?);
            let y = linear(params, &format!("{name}.mlp.fc2"), y)?;
            x = x + drops.path(y, batch, rate);
        }
        Ok(x)
    }

    fn attention<B: Backend>(
        &self,
        params: &Params<B>,
        name: &str,
        x: Tensor<B, 2>,
        batch: usize,
    ) -> Result<Tensor<B, 2>, TrainError> {
        let tokens = x.dims()[0] / batch;
        let head = self.dim / self.heads;
        let split = |y: Tensor<B, 2>| y.reshape([batch, tokens, self.heads, head]).swap_dims(1, 2);
        let [q, k, v] = self.projections(params, name, x)?;
        let scale = (head as f64).powf(-0.5);
        let [q, k, v] = [q * scale, k, v].map(split);
        let scores = q.matmul(k.transpose());
        let weights = low(softmax(full(scores), 3), params.precision());
        let mixed = weights.matmul(v);
        let rows = mixed.swap_dims(1, 2).reshape([batch * tokens, self.dim]);
        linear(params, &format!("{name}.proj"), rows)
    }

    fn projections<B: Backend>(
        &self,
        params: &Params<B>,
        name: &str,
        x: Tensor<B, 2>,
    ) -> Result<[Tensor<B, 2>; 3], TrainError> {
        if self.projections == Projections::Separate {
            let one = |which: &str| linear_low(params, &format!("{name}.{which}"), x.clone());
            return Ok([one("q")?, one("k")?, one("v")?]);
        }
        let dim = self.dim;
        let fused = params.flat(&format!("{name}.qkv.weight"))?;
        let weight = |i: usize| {
            let part = fused.clone().slice([i * dim * dim..(i + 1) * dim * dim]);
            part.reshape([dim, dim])
        };
        let biases = if self.projections == Projections::Fused {
            let bias = params.flat(&format!("{name}.qkv.bias"))?;
            [0, 1, 2].map(|i| Some(bias.clone().slice([i * dim..(i + 1) * dim])))
        } else {
            let one = |which: &str| params.flat(&format!("{name}.{which}"));
            [Some(one("q_bias")?), None, Some(one("v_bias")?)]
        };
        let [q, k, v] = biases;
        let precision = params.precision();
        let x = low(x, precision);
        Ok([
            affine(x.clone(), weight(0), q, precision),
            affine(x.clone(), weight(1), k, precision),
            affine(x, weight(2), v, precision),
        ])
    }

    fn block_specs(&self, i: usize, init: &LayerInit) -> Vec<ParamSpec> {
        let (name, dim) = (format!("{}.{i}", self.prefix), self.dim);
        let attn = format!("{name}.attn");
        let mut specs = Vec::with_capacity(16);
        specs.extend(init.norm(&format!("{name}.norm1"), dim));
        match self.projections {
            Projections::Fused => specs.extend(init.linear(&format!("{attn}.qkv"), dim, 3 * dim)),
            Projections::FusedNoKeyBias => {
                let [weight, _] = init.linear(&format!("{attn}.qkv"), dim, 3 * dim);
                specs.push(weight);
                specs.push(ParamSpec::new(format!("{attn}.q_bias"), [dim], Init::ZEROS));
                specs.push(ParamSpec::new(format!("{attn}.v_bias"), [dim], Init::ZEROS));
            }
            Projections::Separate => {
                for which in ["q", "k", "v"] {
                    specs.extend(init.linear(&format!("{attn}.{which}"), dim, dim));
                }
            }
        }
        specs.extend(init.linear(&format!("{attn}.proj"), dim, dim));
        specs.extend(init.norm(&format!("{name}.norm2"), dim));
        specs.extend(init.linear(&format!("{name}.mlp.fc1"), dim, self.hidden));
        specs.extend(init.linear(&format!("{name}.mlp.fc2"), self.hidden, dim));
        specs
    }
}

/// The random drops of one training step: stochastic depth (Huang et al., 2016) and dropout.
/// Their draws are a pure function of seed, batch, part and call order, so a resumed run repeats them.
#[derive(Debug)]
pub struct Drops {
    path: f64,
    rng: Option<SampleRng>,
}

impl Drops {
    /// No drops: evaluation.
    pub const fn none() -> Self {
        Self { path: 0.0, rng: None }
    }

    /// The drops of part `part` of batch `batch` with stochastic depth rising linearly to `path` at
    /// the last block.
    pub fn new(seed: u64, batch: u64, part: u16, path: f64) -> Self {
        let (high, low) = ((batch >> 32) as u32, batch & 0xffff_ffff);
        let rng = SampleRng::new(seed, high, low, part + 1, Draw::Model);
        Self { path, rng: Some(rng) }
    }

    /// Rate of block `i` of `depth`: 0 at the first, the full rate at the last.
    pub fn path_rate(&self, i: usize, depth: usize) -> f64 {
        if depth < 2 { 0.0 } else { self.path * i as f64 / (depth - 1) as f64 }
    }

    /// Drops the branch `y` `[batch · tokens, dim]` of whole sequences with probability `rate` and
    /// scales the others by `1 / (1 - rate)`.
    pub fn path<B: Backend>(&mut self, y: Tensor<B, 2>, batch: usize, rate: f64) -> Tensor<B, 2> {
        let Some(rng) = self.rng.as_mut().filter(|_| rate > 0.0) else {
            return y;
        };
        let keep = keep_scales(rng, batch, rate);
        let [rows, dim] = y.dims();
        let scale = Tensor::<B, 3>::from_data(TensorData::new(keep, [batch, 1, 1]), &y.device());
        (y.reshape([batch, rows / batch, dim]) * scale).reshape([rows, dim])
    }

    /// Dropout of single values with probability `rate`.
    pub fn values<B: Backend>(&mut self, y: Tensor<B, 2>, rate: f64) -> Tensor<B, 2> {
        let Some(rng) = self.rng.as_mut().filter(|_| rate > 0.0) else {
            return y;
        };
        let shape = y.dims();
        let keep = keep_scales(rng, shape[0] * shape[1], rate);
        let scale = Tensor::<B, 2>::from_data(TensorData::new(keep, shape), &y.device());
        y * scale
    }
}

/// Rows `rows` of `x`.
pub fn select_rows<B: Backend>(x: Tensor<B, 2>, rows: &[u32]) -> Tensor<B, 2> {
    let device = x.device();
    x.select(0, index(rows, &device))
}

/// An index tensor.
pub fn index<B: Backend>(rows: &[u32], device: &B::Device) -> Tensor<B, 1, Int> {
    let rows: Vec<i32> = rows.iter().map(|r| *r as i32).collect();
    let len = rows.len();
    Tensor::from_data(TensorData::new(rows, [len]), device)
}

/// Puts the row `first` `[1, dim]` before each of `batch` sequences of `x` `[batch · tokens, dim]`.
pub fn prepend<B: Backend>(first: Tensor<B, 2>, x: Tensor<B, 2>, batch: usize) -> Tensor<B, 2> {
    let [rows, dim] = x.dims();
    let tokens = rows / batch;
    let first = first.reshape([1, 1, dim]).repeat_dim(0, batch);
    let x = x.reshape([batch, tokens, dim]);
    Tensor::cat(vec![first, x], 1).reshape([batch * (tokens + 1), dim])
}

/// Takes the first row of each of `batch` sequences away.
pub fn drop_first<B: Backend>(x: Tensor<B, 2>, batch: usize) -> Tensor<B, 2> {
    let [rows, dim] = x.dims();
    let tokens = rows / batch;
    let x = x.reshape([batch, tokens, dim]).slice([0..batch, 1..tokens]);
    x.reshape([batch * (tokens - 1), dim])
}

fn affine<B: Backend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
    precision: Precision,
) -> Tensor<B, 2> {
    let y = low(x, precision).matmul(low(weight, precision).transpose());
    match bias {
        Some(bias) => y + low(bias, precision).unsqueeze(),
        None => y,
    }
}

fn keep_scales(rng: &mut SampleRng, len: usize, rate: f64) -> Vec<f32> {
    let scale = (1.0 / (1.0 - rate)) as f32;
    (0..len).map(|_| if rng.coin(rate) { 0.0 } else { scale }).collect()
}
