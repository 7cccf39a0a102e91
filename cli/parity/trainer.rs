//! Runners for the kinds that need `tubelet-trainer`: networks, losses, positions, schedules,
//! optimisers.

mod loss;
mod model;

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail, ensure};
use tubelet_trainer::burn::backend::{Autodiff, Flex};
use tubelet_trainer::burn::tensor::{Tensor, TensorData};
use tubelet_trainer::ema::averaged;
use tubelet_trainer::layer_decay::LayerDecay;
use tubelet_trainer::optim::{Algorithm, Group, Optimizer, clip_each, clip_global};
use tubelet_trainer::params::{Gradients, Params, values};
use tubelet_trainer::position::{
    Scale, resize_bicubic, resize_linear_aligned, resize_planes_bicubic, sincos_2d,
    sincos_2d_row_first, sincos_3d, sinusoid_1d,
};
use tubelet_trainer::schedule::Schedule;
use tubelet_trainer::weights::{Array, Weights};

use super::Outcome;
use super::case::{self, Case, Inputs, Value};

/// The back end every case runs on.
type Cpu = Flex;
/// The same with gradients.
type Grad = Autodiff<Flex>;

/// Runs one case of the kinds listed here.
///
/// # Errors
/// When a parameter or an input is missing or of another type than the kind asks for.
pub(crate) fn run_kind(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    match case.kind.as_str() {
        "model" => model::run(case, inputs),
        "loss" => loss::run(case, inputs),
        "position_embedding" => position(case),
        "position_resize" => resize(case, inputs),
        "schedule" => schedule(case),
        "optimizer" => optimizer(case, inputs),
        "layer_decay" => layer_decay(case, inputs),
        "ema" => ema(case, inputs),
        "grad_clip" => grad_clip(case, inputs),
        other => Ok(Outcome::Unsupported(format!("kind {other} is not covered"))),
    }
}

/// Outputs under one role each.
fn outputs<const N: usize>(pairs: [(&str, Value); N]) -> Result<Outcome> {
    Ok(Outcome::Outputs(pairs.into_iter().map(|(role, value)| (role.to_owned(), value)).collect()))
}

fn unsupported(what: impl Into<String>) -> Result<Outcome> {
    Ok(Outcome::Unsupported(what.into()))
}

/// A case's array as the trainer's.
fn host(array: &case::Array) -> Array {
    Array::new(array.shape.clone(), array.f32s())
}

fn value(array: Array) -> Value {
    Value::array(&array.shape, array.data)
}

fn tensor<const D: usize>(array: &case::Array) -> Result<Tensor<Cpu, D>> {
    let shape = <[usize; D]>::try_from(array.shape.as_slice())
        .map_err(|_| anyhow!("{} axes, not {D}", array.shape.len()))?;
    Ok(Tensor::from_data(TensorData::new(array.f32s(), shape), &Default::default()))
}

fn flat(array: &case::Array) -> Tensor<Cpu, 1> {
    let data = array.f32s();
    let len = data.len();
    Tensor::from_data(TensorData::new(data, [len]), &Default::default())
}

fn position(case: &Case) -> Result<Outcome> {
    let dim: usize = case.param("dim")?;
    let cls: bool = case.param("cls")?;
    let form: String = case.param("form")?;
    let table = match form.as_str() {
        "sincos2d" => {
            let grid: [usize; 2] = case.param("grid")?;
            match case.param::<String>("first_half")?.as_str() {
                "column" => sincos_2d(dim, grid, cls),
                "row" => sincos_2d_row_first(dim, grid, cls),
                other => bail!("first half {other}"),
            }
        }
        "sincos3d" => {
            ensure!(case.param::<usize>("temporal_dim")? == dim / 4, "time has not a quarter");
            sincos_3d(dim, case.param("grid")?, cls)
        }
        "sinusoid1d" => sinusoid_1d(case.param("positions")?, dim),
        other => return unsupported(format!("form {other} is not covered")),
    };
    outputs([("embedding", Value::array(&table.shape[1..], table.data))])
}

fn resize(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let [from, to]: [[usize; 2]; 2] = [case.param("from")?, case.param("to")?];
    let filter: String = case.param("filter")?;
    if inputs.has("image") {
        ensure!(filter == "bicubic", "planes are resized by the bicubic filter only");
        let image = host(&inputs.array("image")?);
        let [b, c] = [image.shape[0], image.shape[1]];
        let planes = Array::new([b * c, from[0], from[1]], image.data);
        let out = resize_planes_bicubic(&planes, to);
        return outputs([("image", Value::array(&[b, c, to[0], to[1]], out.data))]);
    }
    let extra: usize = case.param("extra_tokens")?;
    let mut table = host(&inputs.array("embedding")?);
    let axes = table.shape.len();
    if axes == 2 {
        table.shape.insert(0, 1);
    }
    let aligned: bool = case.param("align_corners")?;
    let out = match (filter.as_str(), aligned) {
        ("bicubic", false) => {
            let scale = match case.param::<String>("scale")?.as_str() {
                "given" => Scale::Factor(case.param("scale_factor")?),
                _ => Scale::Sizes,
            };
            resize_bicubic(&table, extra, from, to, scale)
        }
        ("linear" | "bilinear", true) => resize_linear_aligned(&table, extra, from, to),
        _ => return unsupported(format!("filter {filter}, align_corners {aligned}")),
    };
    outputs([("embedding", Value::array(&out.shape[3 - axes..], out.data))])
}

fn schedule(case: &Case) -> Result<Outcome> {
    let rule: String = case.param("rule")?;
    let number = |name: &str| case.param::<f64>(name);
    let count = |name: &str| case.param::<u64>(name);
    let (schedule, len) = match rule.as_str() {
        "warmup_from_0_then_cosine" => {
            let schedule = Schedule::Mae {
                base: number("lr")?,
                min: number("min_lr")?,
                warmup_epochs: number("warmup_epochs")?,
                epochs: number("epochs")?,
                per_epoch: count("iters_per_epoch")?,
            };
            (schedule, count("iterations")?)
        }
        "inclusive_linspace_warmup_then_cosine" | "cosine" => {
            let per_epoch = count("niter_per_ep")?;
            let warmup = case.param_opt::<u64>("warmup_epochs")?.unwrap_or(0) * per_epoch;
            let schedule = Schedule::Beit {
                base: number("base_value")?,
                last: number("final_value")?,
                start: case.param_opt("start_warmup_value")?.unwrap_or(0.0),
                warmup,
                total: count("epochs")? * per_epoch,
            };
            (schedule, count("iterations")?)
        }
        "slowfast_cosine" => {
            let schedule = Schedule::SlowFast {
                base: number("base_lr")?,
                last: number("end_lr")?,
                start: number("warmup_start_lr")?,
                warmup_epochs: number("warmup_epochs")?,
                epochs: number("max_epoch")?,
                per_epoch: count("iters_per_epoch")?,
                after_warmup: case.param("after_warmup")?,
            };
            (schedule, count("iterations")?)
        }
        "multistep" => {
            let schedule = Schedule::MultiStep {
                base: number("base_lr")?,
                start: number("warmup_start")?,
                warmup: count("warmup_steps")?,
                milestones: case.param("milestones")?,
                gamma: number("gamma")?,
            };
            (schedule, count("iterations")?)
        }
        "timm_cosine_no_shift" => {
            let schedule = Schedule::CosineNoShift {
                base: number("base_lr")?,
                min: number("min_lr")?,
                start: number("warmup_start")?,
                warmup: count("warmup_steps")?,
                total: count("steps")?,
            };
            (schedule, count("iterations")?)
        }
        "linspace_then_constant" => {
            let (from, to) = (number("from")?, number("to")?);
            let schedule =
                Schedule::LinearThenConstant { from, to, warmup: count("warmup_epochs")? };
            (schedule, count("epochs")?)
        }
        other => return unsupported(format!("rule {other} is not covered")),
    };
    let values: Vec<f64> = (0..len).map(|i| schedule.at(i)).collect();
    outputs([("values", Value::array(&[values.len()], values))])
}

fn optimizer(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let algorithm = match case.param::<String>("algorithm")?.as_str() {
        "adamw" => Algorithm::AdamW { betas: case.param("betas")?, eps: case.param("eps")? },
        "sgd" => {
            Algorithm::Sgd { momentum: case.param("momentum")?, nesterov: case.param("nesterov")? }
        }
        "lars" => Algorithm::Lars {
            momentum: case.param("momentum")?,
            trust: case.param("trust_coefficient")?,
        },
        other => return unsupported(format!("algorithm {other} is not covered")),
    };
    let decays: Vec<f64> = case.param("weight_decay")?;
    let (lr, steps): (f64, usize) = (case.param("lr")?, case.param("steps")?);
    let names: Vec<String> = (0..decays.len()).map(|i| format!("p{i}")).collect();
    let groups = names
        .iter()
        .zip(&decays)
        .map(|(name, decay)| (name.clone(), Group { lr_scale: 1.0, weight_decay: *decay }));
    let mut optimizer = Optimizer::<Cpu>::new(algorithm, groups.collect());
    let first: Result<Weights> =
        names.iter().map(|name| Ok((name.clone(), host(&inputs.array(name)?)))).collect();
    let mut params = Params::<Grad>::from_weights(&first?, &Default::default());
    let mut out = BTreeMap::new();
    for step in 0..steps {
        let mut grads = Gradients::new();
        for (i, name) in names.iter().enumerate() {
            let all = inputs.all(&format!("g{i}"))?;
            let grad = all.get(step).and_then(Value::numeric);
            grads.insert(name.clone(), flat(&grad.ok_or_else(|| anyhow!("no gradient {step}"))?));
        }
        optimizer.step(&mut params, grads, lr);
        for (name, array) in params.to_weights() {
            out.insert(format!("{name}.step{}", step + 1), value(array));
        }
    }
    Ok(Outcome::Outputs(out))
}

fn layer_decay(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let depth = || case.param::<usize>("depth");
    let depths = || case.param::<Vec<usize>>("depths");
    let rule = match case.param::<String>("scheme")?.as_str() {
        "mae" => LayerDecay::Mae { depth: depth()? },
        "beit" => LayerDecay::Beit { depth: depth()? },
        "swin" => LayerDecay::Swin { depths: depths()? },
        "convnext_group" => {
            LayerDecay::ConvNextGroup { group: case.param("group")?, groups: case.param("groups")? }
        }
        "convnext_single" => LayerDecay::ConvNextSingle { depths: depths()? },
        other => return unsupported(format!("scheme {other} is not covered")),
    };
    ensure!(rule.layers() == case.param::<usize>("layers")?, "{} layers", rule.layers());
    let names: Vec<String> = inputs.get("parameter")?;
    let ids: serde_json::Map<String, serde_json::Value> =
        names.iter().map(|name| (name.clone(), rule.layer(name).into())).collect();
    let scales = rule.scales(case.param("decay")?);
    outputs([("ids", Value::json(ids)), ("scales", Value::array(&[scales.len()], scales))])
}

fn ema(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let average = inputs.array("ema")?;
    let out = averaged(flat(&average), flat(&inputs.array("param")?), case.param("momentum")?);
    outputs([("ema", Value::array(&average.shape, values(&out)))])
}

fn grad_clip(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let most: f64 = case.param("max_norm")?;
    let arrays = [inputs.array("g0")?, inputs.array("g1")?];
    let mut grads: Gradients<Cpu> =
        arrays.iter().enumerate().map(|(i, g)| (format!("g{i}"), flat(g))).collect();
    let norm = match case.param::<String>("mode")?.as_str() {
        "global_norm" => Some(clip_global(&mut grads, most)),
        "per_tensor_norm" => {
            clip_each(&mut grads, most);
            None
        }
        other => return unsupported(format!("mode {other} is not covered")),
    };
    let mut out: BTreeMap<String, Value> = grads
        .iter()
        .zip(&arrays)
        .map(|((name, g), array)| (name.clone(), Value::array(&array.shape, values(g))))
        .collect();
    out.extend(norm.map(|norm| ("norm".to_owned(), Value::number(norm))));
    Ok(Outcome::Outputs(out))
}
