//! Losses on given predictions.

use anyhow::{Result, anyhow, bail, ensure};
use tubelet_augment::normalise::{IMAGENET, Normalise};
use tubelet_augment::target::pixels::{FrameChoice, PatchNorm, pixel_targets};
use tubelet_core::{PatchSize, Size};
use tubelet_trainer::burn::tensor::{Tensor, TensorData};
use tubelet_trainer::loss::{
    cosine_similarity, cross_entropy, l1, masked_mse, mixup_targets, mse, smooth_l1,
    smoothed_one_hot, soft_cross_entropy,
};
use tubelet_trainer::params::values;

use super::{Cpu, Grad, Outcome, outputs, tensor, unsupported};
use crate::parity::case::{Case, Inputs, Value};

/// Runs a case of kind `loss`.
///
/// # Errors
/// When a parameter or an input is missing or of another shape.
pub(super) fn run(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let Some(loss) = case.param_opt::<String>("loss")? else {
        return unsupported(format!("the loss of {}", case.method));
    };
    match (case.method.as_str(), loss.as_str()) {
        ("mae" | "mae_st" | "fcmae" | "videomae" | "omnimae", "mse") => pixels(case, inputs),
        (_, "label_smoothing_cross_entropy" | "cross_entropy") => labels(case, inputs),
        (_, "soft_target_cross_entropy") => soft(case, inputs),
        (_, "smoothed_one_hot") => {
            let (labels, classes) = (class_ids(inputs)?, case.param("classes")?);
            let targets = smoothed_one_hot(&labels, classes, case.param("smoothing")?);
            outputs([("target", Value::array(&[labels.len(), classes], targets))])
        }
        ("torch", _) if inputs.has("x") => pair(case, inputs, &loss),
        (method, other) => unsupported(format!("the loss {other} of {method}")),
    }
}

fn scalar<B: tubelet_trainer::burn::tensor::backend::Backend>(x: &Tensor<B, 1>) -> Value {
    Value::number(f64::from(values(x)[0]))
}

fn pair(case: &Case, inputs: &Inputs, loss: &str) -> Result<Outcome> {
    let (x, y) = (tensor::<2>(&inputs.array("x")?)?, tensor::<2>(&inputs.array("y")?)?);
    let value = match loss {
        "mse" => mse(x, y),
        "l1" => l1(x, y),
        "smooth_l1" => smooth_l1(x, y, case.param("beta")?),
        "cosine_similarity" => {
            let axis: usize = case.param("axis")?;
            ensure!(axis < 2, "axis {axis}");
            let cosine = cosine_similarity(x, y, axis, case.param("eps")?);
            let len = cosine.dims().into_iter().product();
            return outputs([("loss", Value::array(&[len], values(&cosine)))]);
        }
        other => return unsupported(format!("the loss {other}")),
    };
    outputs([("loss", scalar(&value))])
}

fn labels(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let array = inputs.array("logits")?;
    let inner = tensor::<2>(&array)?;
    let logits = Tensor::<Grad, 2>::from_inner(inner).require_grad();
    let smoothing = case.param_opt("smoothing")?.unwrap_or(0.0);
    let loss = cross_entropy(logits.clone(), &class_ids(inputs)?, smoothing);
    let grads = loss.backward();
    let grad = logits.grad(&grads).ok_or_else(|| anyhow!("no gradient"))?;
    outputs([("loss", scalar(&loss)), ("grad.logits", Value::array(&array.shape, values(&grad)))])
}

fn soft(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let logits = tensor::<2>(&inputs.array("logits")?)?;
    ensure!(case.param::<String>("partner")? == "reversed_batch", "another partner");
    let [classes, smoothing] = [case.param::<f64>("classes")?, case.param("smoothing")?];
    let targets =
        mixup_targets(&class_ids(inputs)?, classes as usize, smoothing, case.param("lam")?);
    let shape = logits.dims();
    let tensor = Tensor::from_data(TensorData::new(targets.clone(), shape), &logits.device());
    let loss = soft_cross_entropy(logits, tensor);
    outputs([("target", Value::array(&shape, targets)), ("loss", scalar(&loss))])
}

fn class_ids(inputs: &Inputs) -> Result<Vec<u32>> {
    Ok(inputs.array("labels")?.f64s().into_iter().map(|label| label as u32).collect())
}

/// Mean squared error on pixel targets: predictions of every token and a mask, or (VideoMAE) of the
/// hidden tokens only.
fn pixels(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let input = inputs.array(if inputs.has("video") { "video" } else { "image" })?;
    let repeat: usize = case.param_opt("repeat_frames")?.unwrap_or(1);
    let (rows, frames, height, width) = match input.shape[..] {
        [rows, 3, height, width] => (rows, repeat, height, width),
        [rows, 3, frames, height, width] if repeat == 1 => (rows, frames, height, width),
        _ => bail!("pixels of shape {:?}", input.shape),
    };
    let pixels = repeated(&input.f32s(), height * width, repeat);
    let chosen = case.param_opt::<Vec<u32>>("frames")?;
    let choice = frame_choice(chosen.as_deref(), frames as u32)?;
    let per_slot: u32 = case.param_opt("tubelet")?.unwrap_or(1);
    let share = if chosen.is_some() {
        frames as u32 / choice.indices(frames as u32).len() as u32
    } else {
        1
    };
    let side: u32 = case.param("patch")?;
    let patch = PatchSize { t: per_slot * share, h: side, w: side };
    let size = Size { width: width as u32, height: height as u32 };
    let tokens = (frames as u32 / patch.t) * (size.height / side) * (size.width / side);
    let dim = (3 * per_slot * side * side) as usize;
    let all: Vec<u32> = (0..tokens).collect();
    let mut targets = vec![0f32; rows * tokens as usize * dim];
    let (norm, normalise) = (patch_norm(case)?, normalise(case)?);
    for (pixels, out) in pixels
        .chunks_exact(3 * frames * height * width)
        .zip(targets.chunks_exact_mut(tokens as usize * dim))
    {
        pixel_targets(norm, pixels, frames as u32, size, patch, &normalise, choice, &all, out);
    }
    let mask = inputs.array("mask")?;
    let shape = [rows, tokens as usize, dim];
    let loss = match case.param::<String>("reduction")?.as_str() {
        "mean_over_masked_tokens" => {
            let targets =
                Tensor::<Cpu, 3>::from_data(TensorData::new(targets, shape), &Default::default());
            masked_mse(predictions(case, inputs, shape)?, targets, tensor::<2>(&mask)?)
        }
        "mean" => {
            let hidden: Vec<f32> = targets
                .chunks_exact(dim)
                .zip(mask.bools())
                .filter(|(_, hidden)| *hidden)
                .flat_map(|(target, _)| target.iter().copied())
                .collect();
            let pred = tensor::<3>(&inputs.array("pred")?)?;
            ensure!(pred.dims().iter().product::<usize>() == hidden.len(), "other hidden tokens");
            let targets = TensorData::new(hidden, pred.dims());
            mse(pred, Tensor::from_data(targets, &Default::default()))
        }
        other => return unsupported(format!("the reduction {other}")),
    };
    outputs([("loss", scalar(&loss))])
}

/// Predictions `[rows, tokens, values]`, also from a convolution's map.
fn predictions(case: &Case, inputs: &Inputs, shape: [usize; 3]) -> Result<Tensor<Cpu, 3>> {
    let pred = inputs.array("pred")?;
    match case.param_opt::<String>("pred_layout")?.as_deref() {
        None => tensor::<3>(&pred),
        Some("B,D,h,w") => {
            let [rows, tokens, dim] = shape;
            Ok(tensor::<4>(&pred)?.reshape([rows, dim, tokens]).swap_dims(1, 2))
        }
        Some(other) => bail!("predictions laid out {other}"),
    }
}

fn repeated(pixels: &[f32], plane: usize, times: usize) -> Vec<f32> {
    pixels
        .chunks_exact(plane)
        .flat_map(|p| std::iter::repeat_n(p, times).flatten().copied())
        .collect()
}

fn frame_choice(wanted: Option<&[u32]>, frames: u32) -> Result<FrameChoice> {
    let Some(wanted) = wanted else { return Ok(FrameChoice::All) };
    [FrameChoice::All, FrameChoice::MaeSt, FrameChoice::Slowfast]
        .into_iter()
        .find(|choice| choice.indices(frames) == wanted)
        .ok_or_else(|| anyhow!("no rule gives the frames {wanted:?}"))
}

fn patch_norm(case: &Case) -> Result<PatchNorm> {
    if !case.param::<bool>("normalise")? {
        let unit = case.params.get("denormalise").is_some();
        return Ok(if unit { PatchNorm::Unit } else { PatchNorm::Raw });
    }
    let place: String = case.param("eps_place")?;
    match (case.param::<bool>("per_channel")?, place.as_str()) {
        (false, "inside_sqrt") => Ok(PatchNorm::Mae),
        (true, "outside_sqrt") => Ok(PatchNorm::Videomae),
        (true, "inside_sqrt") => Ok(PatchNorm::Omnimae),
        (joint, place) => bail!("no formula with per_channel {joint} and eps {place}"),
    }
}

fn normalise(case: &Case) -> Result<Normalise> {
    let Some(values) = case.params.get("denormalise") else { return Ok(IMAGENET) };
    let three =
        |name: &str| -> Result<[f32; 3]> { Ok(serde_json::from_value(values[name].clone())?) };
    Ok(Normalise { mean: three("mean")?, std: three("std")? })
}
