//! Networks: forward passes, losses and gradients with the reference's weights.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail, ensure};
use tubelet_augment::normalise::IMAGENET;
use tubelet_augment::target::hog::{HogScratch, HogSpec, hog_targets};
use tubelet_augment::target::pixels::{FrameChoice, PatchNorm, pixel_targets};
use tubelet_core::{PatchSize, Size};
use tubelet_trainer::burn::tensor::{Tensor, TensorData};
use tubelet_trainer::checkpoint::read_weights;
use tubelet_trainer::loss::mse;
use tubelet_trainer::model::{
    Geometry, Mae, MaeSt, MaeStForm, MaskFeat, MaskedTokens, Pool, VideoMae, Vit, VitForm, Width,
    argsort_mask, patch_values, patchify, patchify_rows,
};
use tubelet_trainer::nn::{Drops, select_rows};
use tubelet_trainer::params::{Params, values};

use super::{Grad, Outcome, unsupported};
use crate::parity::case::{Case, Inputs, Value};

/// Runs a case of kind `model`.
///
/// # Errors
/// When a parameter, an input or a weight is missing or of another shape.
pub(super) fn run(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let Some(family) = case.param_opt::<String>("family")? else {
        return unsupported("a case that is not about a network's own family");
    };
    let network = match family.as_str() {
        "mae" => Network::Mae(Mae {
            geometry: geometry(case)?,
            encoder: width(case)?,
            decoder: decoder_width(case)?,
            mlp_ratio: case.param("mlp_ratio")?,
            target_dim: 0,
        }),
        "videomae" => Network::VideoMae(VideoMae {
            geometry: geometry(case)?,
            encoder: width(case)?,
            decoder: decoder_width(case)?,
            mlp_ratio: case.param("mlp_ratio")?,
            target_dim: 0,
        }),
        "mae_st" | "slowfast_mae" => {
            let slowfast = family == "slowfast_mae";
            let separable = case.params["decoder"]["separable_position"].as_bool();
            if slowfast && separable == Some(true) {
                return unsupported("separable decoder positions in SlowFast's form");
            }
            Network::MaeSt(MaeSt {
                form: if slowfast { MaeStForm::SlowFast } else { MaeStForm::MaeSt },
                geometry: geometry(case)?,
                encoder: width(case)?,
                decoder: decoder_width(case)?,
                mlp_ratio: case.param("mlp_ratio")?,
                target_dim: 0,
            })
        }
        "maskfeat" if is_plain_vit(case) => Network::MaskFeat(MaskFeat {
            geometry: geometry(case)?,
            encoder: width(case)?,
            mlp_ratio: case.param("mlp_ratio")?,
            target_dim: 0,
        }),
        "vit" => return classifier(case, inputs),
        _ => return unsupported(format!("the network {family} with these settings")),
    };
    masked(case, inputs, &network)
}

/// A network that predicts what is hidden.
enum Network {
    Mae(Mae),
    VideoMae(VideoMae),
    MaeSt(MaeSt),
    MaskFeat(MaskFeat),
}

type Matrix = Tensor<Grad, 2>;

/// What a forward pass gives.
struct Forward {
    /// Encoder output as the reference has it.
    latent: Matrix,
    /// Predictions of every token, or of the hidden ones where the reference gives only those.
    pred: Matrix,
    /// Predictions of the hidden tokens.
    hidden: Matrix,
}

impl Network {
    fn geometry(&self) -> &Geometry {
        match self {
            Self::Mae(m) => &m.geometry,
            Self::VideoMae(m) => &m.geometry,
            Self::MaeSt(m) => &m.geometry,
            Self::MaskFeat(m) => &m.geometry,
        }
    }

    fn forward(&self, params: &Params<Grad>, x: Matrix, tokens: &MaskedTokens) -> Result<Forward> {
        Ok(match self {
            Self::Mae(m) => {
                let latent = m.encode(params, x, tokens)?;
                let all = m.decode(params, latent.clone(), tokens)?;
                let pred = m.predict(params, all)?;
                let hidden = select_rows(pred.clone(), &tokens.masked);
                Forward { latent, pred, hidden }
            }
            Self::VideoMae(m) => {
                let latent = m.encode(params, x, tokens)?;
                let decoded = m.decode(params, latent.clone(), tokens)?;
                let pred = m.predict(params, decoded)?;
                Forward { latent, hidden: pred.clone(), pred }
            }
            Self::MaeSt(m) => {
                let latent = m.encode(params, x, tokens)?;
                let all = m.decode(params, latent.clone(), tokens)?;
                let pred = m.predict(params, all)?;
                let hidden = select_rows(pred.clone(), &tokens.masked);
                let latent = m.reference_latent(latent, tokens.rows);
                let only_hidden = m.form == MaeStForm::SlowFast;
                let pred = if only_hidden { hidden.clone() } else { pred };
                Forward { latent, pred, hidden }
            }
            Self::MaskFeat(m) => {
                let latent = m.encode(params, x, tokens, &mut Drops::none())?;
                let hidden = m.predict(params, select_rows(latent.clone(), &tokens.masked))?;
                Forward { latent, pred: hidden.clone(), hidden }
            }
        })
    }

    /// Rows of `pred` a sample has in the reference's output; `None` where they are not grouped.
    fn pred_rows(&self, tokens: &MaskedTokens) -> Option<usize> {
        match self {
            Self::Mae(_) => Some(tokens.tokens),
            Self::MaeSt(m) if m.form == MaeStForm::MaeSt => Some(tokens.tokens),
            Self::VideoMae(_) => Some(tokens.masked.len() / tokens.rows),
            Self::MaeSt(_) | Self::MaskFeat(_) => None,
        }
    }
}

fn masked(case: &Case, inputs: &Inputs, network: &Network) -> Result<Outcome> {
    let geometry = network.geometry();
    let pixels = pixels(inputs)?;
    let rows = pixels.len() / geometry.sample_values();
    ensure!(rows * geometry.sample_values() == pixels.len(), "pixels of other sizes");
    let (tokens, ranks) = tokens(case, inputs, rows, geometry)?;
    let patches = match network {
        Network::MaskFeat(_) => patchify(&pixels, rows, geometry),
        _ => patchify_rows(&pixels, rows, geometry, &tokens.visible),
    };
    let params = params(case)?;
    let out = network.forward(&params, matrix(patches, patch_values(geometry)), &tokens)?;
    match case.param::<String>("part")?.as_str() {
        "forward" => Ok(Outcome::Outputs(forward_outputs(network, &out, &tokens, ranks))),
        "loss" => losses(case, network, &out, &tokens, &pixels),
        "gradient" => {
            let norm = Norm::of(case)?;
            let loss = loss(network, &out, &tokens, &pixels, &norm)?;
            gradients(case, &params, loss)
        }
        other => unsupported(format!("part {other} is not covered")),
    }
}

fn forward_outputs(
    network: &Network,
    out: &Forward,
    tokens: &MaskedTokens,
    ranks: Option<Vec<u32>>,
) -> BTreeMap<String, Value> {
    let mut hidden = vec![0f32; tokens.rows * tokens.tokens];
    tokens.masked.iter().for_each(|token| hidden[*token as usize] = 1.0);
    let shape = [tokens.rows, tokens.tokens];
    let latent = grouped(&out.latent, Some(out.latent.dims()[0] / tokens.rows));
    let mut all = BTreeMap::from([
        ("mask".to_owned(), Value::array(&shape, hidden.clone())),
        ("output_mask".to_owned(), Value::array(&shape, hidden)),
        ("latent".to_owned(), latent.clone()),
        ("encoder_out".to_owned(), latent),
        ("pred".to_owned(), grouped(&out.pred, network.pred_rows(tokens))),
    ]);
    if let Some(ranks) = ranks {
        let ranks: Vec<i64> = ranks.into_iter().map(i64::from).collect();
        all.insert("ids_restore".to_owned(), Value::array(&shape, ranks));
    }
    all
}

fn losses(
    case: &Case,
    network: &Network,
    out: &Forward,
    tokens: &MaskedTokens,
    pixels: &[f32],
) -> Result<Outcome> {
    let mut all = BTreeMap::new();
    for expect in &case.expect {
        let norm = match expect.output.as_str() {
            "loss_raw_pixels" => Norm { raw: true, ..Norm::of(case)? },
            _ => Norm::of(case)?,
        };
        let loss = loss(network, out, tokens, pixels, &norm)?;
        all.insert(expect.output.clone(), Value::number(f64::from(values(&loss)[0])));
    }
    Ok(Outcome::Outputs(all))
}

fn gradients(case: &Case, params: &Params<Grad>, loss: Tensor<Grad, 1>) -> Result<Outcome> {
    let mut grads = loss.backward();
    let grads = params.gradients(&mut grads);
    let mut all = BTreeMap::new();
    for expect in &case.expect {
        let name = expect.output.trim_start_matches("grad.");
        let grad = grads.get(name).ok_or_else(|| anyhow!("{name} has no gradient"))?;
        let shape = &params.param(name)?.shape;
        all.insert(expect.output.clone(), Value::array(shape, values(grad)));
    }
    Ok(Outcome::Outputs(all))
}

/// What the hidden tokens' targets are.
struct Norm {
    target: String,
    raw: bool,
    frames: Option<Vec<u32>>,
    hog: Option<HogSpec>,
}

impl Norm {
    fn of(case: &Case) -> Result<Self> {
        let hog = case.params.get("hog").map(|hog| HogSpec {
            bins: hog["bins"].as_u64().unwrap_or(9) as u32,
            cell: hog["cell"].as_u64().unwrap_or(8) as u32,
            gaussian_window: hog["gaussian_window"].as_u64().unwrap_or(0) as u32,
            normalise: true,
        });
        Ok(Self {
            target: case.param("target")?,
            raw: case.param_opt("normalise_target")? == Some(false),
            frames: case.param_opt("target_frames")?,
            hog,
        })
    }

    fn patch_norm(&self) -> Result<PatchNorm> {
        match self.target.as_str() {
            _ if self.raw => Ok(PatchNorm::Raw),
            "patch_norm" => Ok(PatchNorm::Mae),
            "cube_norm_per_channel" => Ok(PatchNorm::Videomae),
            other => bail!("target {other}"),
        }
    }

    fn choice(&self, frames: u32) -> Result<FrameChoice> {
        let Some(wanted) = &self.frames else { return Ok(FrameChoice::All) };
        [FrameChoice::All, FrameChoice::MaeSt, FrameChoice::Slowfast]
            .into_iter()
            .find(|choice| choice.indices(frames) == *wanted)
            .ok_or_else(|| anyhow!("no rule gives the frames {wanted:?}"))
    }
}

fn loss(
    network: &Network,
    out: &Forward,
    tokens: &MaskedTokens,
    pixels: &[f32],
    norm: &Norm,
) -> Result<Tensor<Grad, 1>> {
    let geometry = network.geometry();
    let dim = out.hidden.dims()[1];
    let [frames, height, width] = geometry.input.map(|v| v as u32);
    let [t, h, w] = geometry.patch.map(|v| v as u32);
    let (size, patch) = (Size { width, height }, PatchSize { t, h, w });
    let mut targets = vec![0f32; tokens.masked.len() * dim];
    let mut rest = targets.as_mut_slice();
    let mut scratch = HogScratch::default();
    for (row, pixels) in pixels.chunks_exact(geometry.sample_values()).enumerate() {
        let first = (row * tokens.tokens) as u32;
        let own: Vec<u32> = tokens
            .masked
            .iter()
            .filter(|m| **m as usize / tokens.tokens == row)
            .map(|m| m - first)
            .collect();
        let (here, later) = rest.split_at_mut(own.len() * dim);
        rest = later;
        match &norm.hog {
            Some(spec) if norm.target == "hog" => {
                hog_targets(spec, pixels, frames, size, patch, &own, here, &mut scratch);
            }
            _ => {
                let (rule, choice) = (norm.patch_norm()?, norm.choice(frames)?);
                pixel_targets(rule, pixels, frames, size, patch, &IMAGENET, choice, &own, here);
            }
        }
    }
    Ok(mse(out.hidden.clone(), matrix(targets, dim)))
}

fn tokens(
    case: &Case,
    inputs: &Inputs,
    rows: usize,
    geometry: &Geometry,
) -> Result<(MaskedTokens, Option<Vec<u32>>)> {
    if inputs.has("noise") {
        let noise = inputs.array("noise")?;
        ensure!(noise.len() == rows * geometry.tokens(), "noise of {} values", noise.len());
        let ratio: f64 = case.param("mask_ratio")?;
        let keep = (geometry.tokens() as f64 * (1.0 - ratio)) as usize;
        let (tokens, ranks) = argsort_mask(&noise.f32s(), rows, keep);
        return Ok((tokens, Some(ranks)));
    }
    let mask = inputs.array("mask")?.bools();
    Ok((MaskedTokens::from_mask(&mask, rows, geometry.tokens())?, None))
}

fn classifier(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let vit = match case.param::<String>("position")?.as_str() {
        "in_weights" => VitForm::Mae,
        "sinusoid1d_not_in_weights" => VitForm::VideoMae,
        other => return unsupported(format!("a ViT with positions {other}")),
    };
    let plain = case.param_opt::<String>("activation")?.as_deref() == Some("gelu_erf");
    if !plain || case.param::<String>("part")? != "forward" {
        return unsupported("a ViT of another form");
    }
    let model = Vit {
        form: vit,
        geometry: geometry(case)?,
        encoder: width(case)?,
        mlp_ratio: case.param("mlp_ratio")?,
        pool: match case.param::<String>("pool")?.as_str() {
            "cls" => Pool::Cls,
            "mean" | "mean_of_patches" => Pool::Mean,
            other => return unsupported(format!("pooling {other}")),
        },
        classes: case.param("classes")?,
        head_std: 0.02,
        head_scale: 1.0,
        dropout: 0.0,
    };
    let final_norm: String = case.param("final_norm")?;
    if final_norm != model.norm_name() {
        return unsupported(format!("a final norm called {final_norm}"));
    }
    let pixels = pixels(inputs)?;
    let rows = pixels.len() / model.geometry.sample_values();
    let params = params(case)?;
    let patches = matrix(patchify(&pixels, rows, &model.geometry), patch_values(&model.geometry));
    let none = &mut Drops::none();
    let features = model.features(&params, patches.clone(), rows, none)?;
    let logits = model.forward(&params, patches, rows, none)?;
    super::outputs([("features", grouped(&features, None)), ("logits", grouped(&logits, None))])
}

fn is_plain_vit(case: &Case) -> bool {
    let empty = |name: &str| case.params[name].as_array().is_some_and(Vec::is_empty);
    let flag = |name: &str| case.params[name].as_bool();
    ["dim_mul", "head_mul", "pool_q_stride"].into_iter().all(empty)
        && flag("absolute_position") == Some(true)
        && flag("separable_position") == Some(false)
        && flag("relative_position_spatial") == Some(false)
        && flag("patch_2d") == Some(true)
        && flag("final_norm") == Some(false)
        && flag("cls_token") == Some(true)
}

fn geometry(case: &Case) -> Result<Geometry> {
    let size: usize = case.param("image_size")?;
    let frames = case.param_opt("frames")?.unwrap_or(1);
    ensure!(case.param_opt("channels")?.unwrap_or(3) == 3, "three channels only");
    let patch = match case.param_opt::<Vec<usize>>("patch_kernel")?.as_deref() {
        Some([h, w]) => [1, *h, *w],
        Some([t, h, w]) => [*t, *h, *w],
        Some(other) => bail!("patches of {other:?}"),
        None => {
            let side: usize = case.param("patch")?;
            [case.param_opt("tubelet")?.unwrap_or(1), side, side]
        }
    };
    let video = patch[0] > 1 || case.params.get("tubelet").is_some();
    Ok(Geometry::new([frames, size, size], patch, video)?)
}

fn width(case: &Case) -> Result<Width> {
    let width =
        Width { dim: case.param("dim")?, depth: case.param("depth")?, heads: case.param("heads")? };
    Ok(width.check("encoder")?)
}

fn decoder_width(case: &Case) -> Result<Width> {
    let number = |name: &str| {
        let value = case.params["decoder"][name].as_u64();
        value.map(|v| v as usize).ok_or_else(|| anyhow!("decoder.{name} is missing"))
    };
    let width = Width { dim: number("dim")?, depth: number("depth")?, heads: number("heads")? };
    Ok(width.check("decoder")?)
}

fn params(case: &Case) -> Result<Params<Grad>> {
    let weights = read_weights(&case.weights("model")?)?;
    Ok(Params::from_weights(&weights, &Default::default()))
}

fn pixels(inputs: &Inputs) -> Result<Vec<f32>> {
    let role = if inputs.has("video") { "video" } else { "image" };
    Ok(inputs.array(role)?.f32s())
}

fn matrix(values: Vec<f32>, columns: usize) -> Matrix {
    let rows = values.len() / columns.max(1);
    Tensor::from_data(TensorData::new(values, [rows, columns]), &Default::default())
}

/// A matrix as `[samples, rows, columns]`, or as it is.
fn grouped(x: &Matrix, rows: Option<usize>) -> Value {
    let [all, columns] = x.dims();
    match rows {
        Some(rows) => Value::array(&[all / rows.max(1), rows, columns], values(x)),
        None => Value::array(&[all, columns], values(x)),
    }
}
