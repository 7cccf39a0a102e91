//! Runners for the kinds that need only `tubelet-augment`.

mod color;
mod frames;
mod mix;
mod statistics;

use anyhow::{Result, anyhow, ensure};
use tubelet_augment::mask;
use tubelet_augment::normalise::{IMAGENET, Normalise};
use tubelet_augment::resample::{Filter, Resampler, TorchFilter, torch_resize};
use tubelet_augment::target::hog::{HogScratch, HogSpec, gaussian_window, hog_cells, hog_targets};
use tubelet_augment::target::hog_picture::CellHistograms;
use tubelet_augment::target::pixels::{FrameChoice, PatchNorm, PixelOrder, pixel_targets};
use tubelet_core::{Mask, PatchGrid, PatchSize, Rect, Size};

use super::Outcome;
use super::case::{Array, Case, Inputs, Value};

/// Runs one case of the kinds listed here.
///
/// # Errors
/// When a parameter or an input is missing or of another type than the kind asks for.
pub(crate) fn run_kind(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    match case.kind.as_str() {
        "hog" => hog(case, inputs),
        "hog_picture" => hog_picture(inputs),
        "normalise" => normalise(case, inputs),
        "pixel_target" => pixel_target(case, inputs),
        "resample" => resample(case, inputs),
        "mask_upsample" => mask_upsample(case, inputs),
        "mask_distribution" => statistics::masks(case),
        "crop_distribution" => statistics::crops(case),
        "crop_candidates" => statistics::crop_candidates(case),
        "augment_op" => color::operation(case, inputs),
        "randaugment_level" => color::level(case, inputs),
        "mixup" => mix::batch(case, inputs),
        "cutmix_box" => mix::cutmix_box(inputs),
        "frame_sampling" => frames::run(case, inputs),
        kind => Ok(unsupported(format!("kind {kind} is not covered"))),
    }
}

fn unsupported(why: impl Into<String>) -> Outcome {
    Outcome::Unsupported(why.into())
}

fn outputs(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Outcome {
    Outcome::Outputs(pairs.into_iter().map(|(role, value)| (role.to_owned(), value)).collect())
}

/// A batch of clips or pictures as f32 `[batch, 3, frames, height, width]`.
struct Clips {
    batch: usize,
    frames: u32,
    size: Size,
    data: Vec<f32>,
}

impl Clips {
    /// The input `video` or `image`; pictures repeated `repeat` times in time.
    fn read(inputs: &Inputs, repeat: u32) -> Result<Self> {
        let role = if inputs.has("video") { "video" } else { "image" };
        let array = inputs.array(role)?;
        let (batch, frames, height, width) = match array.shape[..] {
            [b, 3, t, h, w] => (b, t, h, w),
            [b, 3, h, w] => (b, 1, h, w),
            _ => return Err(anyhow!("{role} is of shape {:?}", array.shape)),
        };
        let size = Size::new(width as u32, height as u32);
        let data = array.f32s();
        if repeat == 1 {
            return Ok(Self { batch, frames: frames as u32, size, data });
        }
        ensure!(frames == 1, "only pictures are repeated");
        let repeated = data
            .chunks_exact(size.area())
            .flat_map(|plane| std::iter::repeat_n(plane, repeat as usize).flatten().copied());
        Ok(Self { batch, frames: repeat, size, data: repeated.collect() })
    }

    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(3 * self.frames as usize * self.size.area())
    }
}

fn hog(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let window: u32 = case.param("gaussian_window")?;
    if !inputs.has("image") && !inputs.has("video") {
        let side = window as usize;
        return Ok(outputs([(
            "gaussian_window",
            Value::array(&[side, side], gaussian_window(window)),
        )]));
    }
    let spec = HogSpec {
        bins: case.param("bins")?,
        cell: case.param("cell")?,
        gaussian_window: window,
        normalise: case.param::<String>("normalise")? != "none",
    };
    let clips = Clips::read(inputs, 1)?;
    match case.param_opt::<u32>("token_cells")? {
        Some(cells) => hog_tokens(case, inputs, &spec, &clips, cells),
        None => Ok(hog_maps(&spec, &clips)),
    }
}

fn hog_picture(inputs: &Inputs) -> Result<Outcome> {
    let image = inputs.array("image")?;
    let [height, width, 3] = image.shape[..] else {
        return Err(anyhow!("image is of shape {:?}", image.shape));
    };
    let cells = CellHistograms::new(&image.f32s(), Size::new(width as u32, height as u32));
    let descriptor = cells.block_descriptor();
    Ok(outputs([
        ("picture", Value::array(&[height, width], cells.picture())),
        ("block_descriptor", Value::array(&[descriptor.len()], descriptor)),
    ]))
}

fn hog_maps(spec: &HogSpec, clips: &Clips) -> Outcome {
    let (mut all, mut cells) = (Vec::new(), Vec::new());
    for row in clips.rows() {
        hog_cells(spec, row, clips.size.area(), clips.size, &mut cells);
        all.extend_from_slice(&cells);
    }
    let (rows, columns) = (clips.size.height / spec.cell, clips.size.width / spec.cell);
    let (bins, rows, columns) = (spec.bins as usize, rows as usize, columns as usize);
    let map = Value::array(&[clips.batch, 3 * bins, rows, columns], all.clone());
    let cells = Value::array(&[clips.batch, 3, bins, rows, columns], all);
    outputs([("map", map), ("cells", cells)])
}

fn hog_tokens(
    case: &Case,
    inputs: &Inputs,
    spec: &HogSpec,
    clips: &Clips,
    cells: u32,
) -> Result<Outcome> {
    let stride = case.param_opt("frame_stride")?;
    let t = stride.unwrap_or(if clips.frames > 1 { 2 } else { 1 });
    let patch = PatchSize { t, h: cells * spec.cell, w: cells * spec.cell };
    let dim = spec.token_dim(patch);
    let mut scratch = HogScratch::default();
    let target = |row: &[f32], tokens: &[u32], out: &mut [f32]| {
        hog_targets(spec, row, clips.frames, clips.size, patch, tokens, out, &mut scratch);
    };
    token_outputs(
        inputs,
        clips,
        patch,
        dim,
        ["tokens", "masked_tokens"],
        (None, flat_rows(case)),
        target,
    )
}

/// Whether the masked rows of the whole batch follow each other without a batch axis.
fn flat_rows(case: &Case) -> bool {
    case.params.get("rows").is_some_and(serde_json::Value::is_string)
}

/// Runs `target` over all tokens, or over the masked ones where there is a mask.
fn token_outputs(
    inputs: &Inputs,
    clips: &Clips,
    patch: PatchSize,
    dim: usize,
    [all_role, masked_role]: [&'static str; 2],
    (limits, flat): (Option<[u32; 2]>, bool),
    mut target: impl FnMut(&[f32], &[u32], &mut [f32]),
) -> Result<Outcome> {
    let plane = (clips.size.height / patch.h) * (clips.size.width / patch.w);
    let count = clips.frames / patch.t * plane;
    let [from, to] = limits.unwrap_or([0, count]);
    ensure!(from < to && to <= count, "tokens {from}..{to} of {count}");
    let mask = if inputs.has("mask") { Some(inputs.array("mask")?.bools()) } else { None };
    if let Some(mask) = &mask {
        ensure!(mask.len() == clips.batch * count as usize, "a mask of {} tokens", mask.len());
    }
    let mut data = Vec::new();
    for (b, row) in clips.rows().enumerate() {
        let hidden = |t: &u32| mask.as_ref().is_none_or(|m| m[b * count as usize + *t as usize]);
        let tokens: Vec<u32> = (from..to).filter(hidden).collect();
        let start = data.len();
        data.resize(start + tokens.len() * dim, 0.0);
        target(row, &tokens, &mut data[start..]);
    }
    let rows = data.len() / dim;
    if mask.is_none() {
        return Ok(outputs([(
            all_role,
            Value::array(&[clips.batch, rows / clips.batch, dim], data),
        )]));
    }
    ensure!(flat || rows.is_multiple_of(clips.batch), "clips differ in their masked tokens");
    // Some references gather the masked rows of the whole batch, some keep the batch axis.
    let shape = if flat { vec![rows, dim] } else { vec![clips.batch, rows / clips.batch, dim] };
    Ok(outputs([(masked_role, Value::array(&shape, data))]))
}

fn normalise(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let norm = Normalise { mean: case.param("mean")?, std: case.param("std")? };
    let array = inputs.array("image_u8")?;
    let [3, height, width] = array.shape[..] else {
        return Err(anyhow!("image_u8 is of shape {:?}", array.shape));
    };
    let planes = array.u8s()?;
    let area = height * width;
    let packed: Vec<u8> = (0..area).flat_map(|i| [0, 1, 2].map(|c| planes[c * area + i])).collect();
    let mut out = vec![0.0f32; 3 * area];
    norm.apply(&packed, 1, Size::new(width as u32, height as u32), &mut out);
    Ok(outputs([("image", Value::array(&[3, height, width], out))]))
}

fn pixel_target(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    if let Some(side) = case.param_opt::<u32>("pixel_shuffle")? {
        return pixel_shuffle(case, inputs, side);
    }
    if inputs.has("mask") && case.params.get("rule").is_some() {
        return weights(case, inputs);
    }
    let eps_place: String = case.param("eps_place")?;
    let denormalise = case.params.get("denormalise").is_some();
    let variance: String = case.param("variance")?;
    let per_channel: bool = case.param("per_channel")?;
    let norm = match (case.param("normalise")?, per_channel, variance.as_str(), eps_place.as_str())
    {
        (false, ..) if denormalise => PatchNorm::Unit,
        (false, ..) => PatchNorm::Raw,
        (true, false, "unbiased", "inside_sqrt") if !denormalise => PatchNorm::Mae,
        (true, true, "unbiased", "outside_sqrt") if denormalise => PatchNorm::Videomae,
        (true, true, "unbiased", "inside_sqrt") if denormalise => PatchNorm::Omnimae,
        (true, true, "biased", "inside_sqrt") if !denormalise => PatchNorm::Bootmae,
        other => return Ok(unsupported(format!("formula {other:?}"))),
    };
    let clips = Clips::read(inputs, case.param_opt("repeat_frames")?.unwrap_or(1))?;
    let tubelet = case.param_opt::<u32>("tubelet")?.unwrap_or(1);
    let choice = frame_choice(case, clips.frames)?;
    let slots = choice.indices(clips.frames).len() as u32 / tubelet;
    ensure!(slots > 0 && clips.frames % slots == 0, "{slots} slots of {} frames", clips.frames);
    let side = case.param("patch")?;
    let patch = PatchSize { t: clips.frames / slots, h: side, w: side };
    let dim = (tubelet * side * side * 3) as usize;
    let target = |row: &[f32], tokens: &[u32], out: &mut [f32]| {
        let (frames, size) = (clips.frames, clips.size);
        pixel_targets(norm, row, frames, size, patch, &IMAGENET, choice, tokens, out);
    };
    let limits = (case.param_opt("tokens")?, flat_rows(case));
    let roles = ["target", "masked_target"];
    let outcome = token_outputs(inputs, &clips, patch, dim, roles, limits, target)?;
    match (case.param_opt::<String>("output_layout")?, outcome) {
        (Some(_), Outcome::Outputs(roles)) => {
            let tokens = roles["target"].numeric().map(|a| a.f32s()).unwrap_or_default();
            Ok(outputs([("target_image", unpatchify(&clips, side as usize, &tokens))]))
        }
        (_, outcome) => Ok(outcome),
    }
}

fn frame_choice(case: &Case, frames: u32) -> Result<FrameChoice> {
    let Some(wanted) = case.param_opt::<Vec<u32>>("frames")? else {
        return Ok(FrameChoice::All);
    };
    [FrameChoice::All, FrameChoice::MaeSt, FrameChoice::Slowfast]
        .into_iter()
        .find(|choice| choice.indices(frames) == wanted)
        .ok_or_else(|| anyhow!("no rule chooses the frames {wanted:?}"))
}

/// Tokens `[1, dim, rows, columns]` to the picture that they are the pixels of.
fn pixel_shuffle(case: &Case, inputs: &Inputs, side: u32) -> Result<Outcome> {
    let order: String = case.param("order")?;
    ensure!(order == "channel_row_col", "order {order}");
    let (order, patch) = (PixelOrder::ChannelFirst, PatchSize { t: 1, h: side, w: side });
    let array = inputs.array("tokens")?;
    let [1, dim, rows, columns] = array.shape[..] else {
        return Err(anyhow!("tokens are of shape {:?}", array.shape));
    };
    ensure!(dim == 3 * (side * side) as usize, "tokens of {dim} numbers");
    let (values, width) = (array.f32s(), columns * side as usize);
    let mut image = Vec::with_capacity(values.len());
    for (c, i) in (0..3).flat_map(|c| (0..rows * side as usize * width).map(move |i| (c, i))) {
        let [y, x] = [i / width, i % width].map(|v| v as u32);
        let token = (y / side) as usize * columns + (x / side) as usize;
        let number = order.index(patch, [1, 0], [y % side, x % side], c);
        image.push(values[number * rows * columns + token]);
    }
    Ok(outputs([("image", Value::array(&[1, 3, rows * side as usize, width], image))]))
}

/// BootMAE's weights of the loss.
fn weights(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let rule: String = case.param("rule")?;
    if !rule.starts_with("m*avgpool3x3(m, pad 1, padding counted)+m") {
        return Ok(unsupported(format!("the weights {rule}")));
    }
    let array = inputs.array("mask")?;
    let [.., height, width] = array.shape[..] else {
        return Err(anyhow!("mask is of shape {:?}", array.shape));
    };
    let grid = PatchGrid::new(
        (array.bools().len() / (height * width)) as u32,
        height as u32,
        width as u32,
    );
    let weights = mask::unit::centre_weights(&Mask::new(grid, array.bools())?);
    Ok(outputs([("weights", Value::array(&array.shape, weights))]))
}

/// `[batch, tokens, row · column · channel]` back to `[batch, 3, height, width]`.
fn unpatchify(clips: &Clips, side: usize, tokens: &[f32]) -> Value {
    let (height, width) = (clips.size.height as usize, clips.size.width as usize);
    let columns = width / side;
    let mut image = vec![0.0f32; clips.batch * 3 * height * width];
    for (n, value) in tokens.iter().enumerate() {
        let (token, inside) = (n / (side * side * 3), n % (side * side * 3));
        let (batch, token) = (token / (height / side * columns), token % (height / side * columns));
        let (y, x) = (
            token / columns * side + inside / 3 / side,
            token % columns * side + inside / 3 % side,
        );
        image[((batch * 3 + inside % 3) * height + y) * width + x] = *value;
    }
    Value::array(&[clips.batch, 3, height, width], image)
}

fn resample(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let image = inputs.array("image")?;
    let [height, width, 3] = image.shape[..] else {
        return Err(anyhow!("image is of shape {:?}", image.shape));
    };
    let size = Size::new(width as u32, height as u32);
    let to = Size::new(case.param("width")?, case.param("height")?);
    let filter: String = case.param("filter")?;
    match case.param::<String>("library")?.as_str() {
        "pillow" => resample_pillow(image.u8s()?, size, &filter, to),
        "torch" => resample_torch(case, &image, size, &filter, to),
        other => Ok(unsupported(format!("library {other}"))),
    }
}

fn resample_pillow(bytes: &[u8], size: Size, filter: &str, to: Size) -> Result<Outcome> {
    let filter = match filter {
        "bilinear" => Filter::Bilinear,
        "bicubic" => Filter::Bicubic,
        "lanczos" => Filter::Lanczos,
        other => return Ok(unsupported(format!("filter {other}"))),
    };
    let mut out = vec![0u8; to.area() * 3];
    Resampler::default().resize(bytes, size, Rect::full(size), filter, to, false, &mut out);
    Ok(outputs([("image", Value::array(&[to.height as usize, to.width as usize, 3], out))]))
}

fn resample_torch(
    case: &Case,
    image: &Array,
    size: Size,
    filter: &str,
    to: Size,
) -> Result<Outcome> {
    let filter = match filter {
        "bilinear" => TorchFilter::Bilinear,
        "bicubic" => TorchFilter::Bicubic,
        other => return Ok(unsupported(format!("filter {other}"))),
    };
    let antialias: bool = case.param("antialias")?;
    let bytes = image.u8s()?;
    let plane = |c: usize| {
        let floats: Vec<f32> =
            bytes.iter().skip(c).step_by(3).map(|b| f32::from(*b) / 255.0).collect();
        torch_resize(&floats, size, to, filter, antialias, None)
    };
    let data: Vec<f32> = (0..3).flat_map(plane).collect();
    Ok(outputs([("image", Value::array(&[3, to.height as usize, to.width as usize], data))]))
}

fn mask_upsample(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let array = inputs.array("mask")?;
    let (grid, fine) = match case.param_opt::<Vec<u32>>("factor")? {
        Some(factor) => {
            let (by, grid) = (grid_of(&factor)?, grid_of(&case.param::<Vec<u32>>("grid")?)?);
            (grid, PatchGrid::new(grid.t * by.t, grid.h * by.h, grid.w * by.w))
        }
        None => {
            (grid_of(&case.param::<Vec<u32>>("from")?)?, grid_of(&case.param::<Vec<u32>>("to")?)?)
        }
    };
    let whole = fine.t % grid.t == 0 && fine.h % grid.h == 0 && fine.w % grid.w == 0;
    let factor = [fine.t / grid.t, fine.h / grid.h, fine.w / grid.w];
    let nearest = case.param::<String>("mode")? == "nearest";
    ensure!(nearest || whole, "{grid} cannot be repeated to {fine}");
    // Some files hold fine masks only: every `take_every`-th token is the coarse one.
    let every = case.param_opt::<usize>("take_every")?.unwrap_or(1);
    let given = array.bools();
    let (given_h, given_w) = (grid.h as usize * every, grid.w as usize * every);
    let stored = grid.t as usize * given_h * given_w;
    ensure!(given.len() % stored == 0, "a mask of {} tokens", given.len());
    let [from, to] = case.param_opt("rows")?.unwrap_or([0, given.len() / stored]);
    let mut data = Vec::new();
    for mask in given.chunks_exact(stored).take(to).skip(from) {
        let coarse: Vec<bool> = mask
            .chunks_exact(given_w)
            .step_by(every)
            .flat_map(|row| row.iter().step_by(every).copied())
            .collect();
        let coarse = Mask::new(grid, coarse)?;
        let mask = match nearest {
            true => mask::nearest(&coarse, fine),
            false => mask::repeat_units(&coarse, factor),
        };
        data.extend_from_slice(mask.as_slice());
    }
    let shape = [to - from, fine.t as usize, fine.h as usize, fine.w as usize];
    Ok(outputs([("mask", Value::array(&shape, data))]))
}

/// `[t, h, w]` or `[h, w]` as a grid.
fn grid_of(extents: &[u32]) -> Result<PatchGrid> {
    match *extents {
        [t, h, w] if t * h * w > 0 => Ok(PatchGrid::new(t, h, w)),
        [h, w] if h * w > 0 => Ok(PatchGrid::new(1, h, w)),
        _ => Err(anyhow!("grid {extents:?}")),
    }
}
