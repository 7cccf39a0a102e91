//! Operations on 8-bit pictures and RandAugment's tables.

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value as Json, json};
use tubelet_augment::color::randaugment::{self, OpName};
use tubelet_augment::color::{Canvas, ColorOp, ColorScratch, Interpolation, apply};
use tubelet_core::Size;

use super::{outputs, unsupported};
use crate::parity::Outcome;
use crate::parity::case::{Case, Inputs, Value};

pub(super) fn operation(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let image = inputs.array("image")?;
    let [height, width, 3] = image.shape[..] else {
        return Err(anyhow!("image is of shape {:?}", image.shape));
    };
    let (name, args) = (case.param::<String>("op")?, case.param::<Vec<f64>>("args")?);
    let Some(op) = operation_of(&name, args.first().copied())? else {
        return Ok(unsupported(format!("operation {name}")));
    };
    let interpolation = match case.param_opt::<String>("interpolation")?.as_deref() {
        None | Some("bicubic") => Interpolation::Bicubic,
        Some("bilinear") => Interpolation::Bilinear,
        Some(other) => return Ok(unsupported(format!("interpolation {other}"))),
    };
    let canvas = Canvas { interpolation, fill: case.param_opt("fill")?.unwrap_or_default() };
    let mut pixels = image.u8s()?.to_vec();
    let size = Size::new(width as u32, height as u32);
    apply(op, canvas, &mut pixels, size, &mut ColorScratch::default());
    Ok(outputs([("image", Value::array(&[height, width, 3], pixels))]))
}

/// The operation with this name and argument; `None` where there is none of that name.
fn operation_of(name: &str, argument: Option<f64>) -> Result<Option<ColorOp>> {
    let plain = match name {
        "auto_contrast" => Some(ColorOp::AutoContrast),
        "equalize" => Some(ColorOp::Equalize),
        "invert" => Some(ColorOp::Invert),
        "grayscale3" => Some(ColorOp::Grayscale),
        "solarize128" => Some(ColorOp::Solarize(128)),
        _ => None,
    };
    if plain.is_some() {
        return Ok(plain);
    }
    let x = argument.ok_or_else(|| anyhow!("operation {name} has no argument"))?;
    Ok(Some(match name {
        "rotate" => ColorOp::Rotate(x),
        "posterize" => ColorOp::Posterize(x as u8),
        "solarize" => ColorOp::Solarize(x as u16),
        "solarize_add" => ColorOp::SolarizeAdd(x as i16),
        "color" | "saturation" => ColorOp::Saturation(x),
        "contrast" | "tv_contrast" => ColorOp::Contrast(x),
        "brightness" | "tv_brightness" => ColorOp::Brightness(x),
        "sharpness" => ColorOp::Sharpness(x),
        "shear_x" => ColorOp::ShearX(x),
        "shear_y" => ColorOp::ShearY(x),
        "translate_x_rel" => ColorOp::TranslateX(x),
        "translate_y_rel" => ColorOp::TranslateY(x),
        "translate_x_abs" => ColorOp::TranslateXPixels(x),
        "translate_y_abs" => ColorOp::TranslateYPixels(x),
        "hue" => ColorOp::Hue(x),
        "gaussian_blur_pil" => ColorOp::GaussianBlur(x),
        _ => return Ok(None),
    }))
}

pub(super) fn level(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    if let Some(set) = case.param_opt::<String>("set")? {
        let increasing = set == "increasing";
        ensure!(increasing || set == "default", "set {set}");
        let names: Vec<Json> = OpName::ALL.iter().map(|op| op.name(increasing).into()).collect();
        return Ok(outputs([("operations", Value::json(names))]));
    }
    let (table, sign) = (case.param::<String>("table")?, case.param::<f64>("sign")?);
    let mut args = serde_json::Map::new();
    for key in inputs.get::<Vec<String>>("level")? {
        let level: f64 = key.parse()?;
        let Some(argument) = argument(&table, level, sign) else {
            return Ok(unsupported(format!("table {table}")));
        };
        args.insert(key, json!([argument]));
    }
    Ok(outputs([("args_by_level", Value::json(args))]))
}

/// The argument a table gives at `level`; tables that negate take `sign`.
fn argument(table: &str, level: f64, sign: f64) -> Option<f64> {
    Some(match table {
        "rotate" => sign * randaugment::rotate(level),
        "enhance" => randaugment::enhance(level),
        "enhance_increasing" => randaugment::enhance_increasing(level, sign),
        "shear" => sign * randaugment::shear(level),
        "translate_rel" => sign * randaugment::translate_share(level),
        "posterize" => randaugment::posterize(level).into(),
        "posterize_increasing" => randaugment::posterize_increasing(level).into(),
        "posterize_original" => randaugment::posterize_original(level).into(),
        "solarize" => randaugment::solarize(level).into(),
        "solarize_increasing" => randaugment::solarize_increasing(level).into(),
        "solarize_add" => randaugment::solarize_add(level).into(),
        _ => return None,
    })
}
