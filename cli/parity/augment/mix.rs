//! Mixup and CutMix.

use anyhow::{Result, anyhow, ensure};
use tubelet_augment::mix::{self, Mix, mix_rows};
use tubelet_core::{Rect, Size};

use super::{outputs, unsupported};
use crate::parity::Outcome;
use crate::parity::case::{Case, Inputs, Value};

pub(super) fn batch(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let batch = inputs.array("batch")?;
    let [rows, 3, height, width] = batch.shape[..] else {
        return Err(anyhow!("batch is of shape {:?}", batch.shape));
    };
    let partner: String = case.param("partner")?;
    if partner != "reversed_batch" {
        return Ok(unsupported(format!("partner {partner}")));
    }
    let size = Size::new(width as u32, height as u32);
    let mixes = match case.param::<String>("mode")?.as_str() {
        "batch" => vec![shared_mix(case, size)?; rows],
        mode => return Ok(unsupported(format!("mode {mode}"))),
    };
    let mut data = batch.f32s();
    mix_rows(&mut data, &mixes, size);
    Ok(outputs([("batch", Value::array(&batch.shape, data))]))
}

fn shared_mix(case: &Case, size: Size) -> Result<Mix> {
    let Some([top, bottom]) = case.param_opt::<[u32; 2]>("box_y")? else {
        return Ok(Mix::Mixup(case.param("lam")?));
    };
    let [left, right] = case.param::<[u32; 2]>("box_x")?;
    ensure!(top <= bottom && left <= right, "box {left}..{right} x {top}..{bottom}");
    let region = Rect { x: left, y: top, width: right - left, height: bottom - top };
    ensure!(region.fits(size), "{region:?} in {size}");
    Ok(Mix::Cutmix { region, lambda: 1.0 - region.size().area() as f64 / size.area() as f64 })
}

pub(super) fn cutmix_box(inputs: &Inputs) -> Result<Outcome> {
    let size = Size::new(inputs.get("width")?, inputs.get("height")?);
    let centre = (inputs.get("centre_x")?, inputs.get("centre_y")?);
    let (region, lambda) = mix::cutmix_box(size, inputs.get("lam")?, centre);
    let edge = |v: u32| Value::number(f64::from(v));
    Ok(outputs([
        ("yl", edge(region.y)),
        ("yh", edge(region.y + region.height)),
        ("xl", edge(region.x)),
        ("xh", edge(region.x + region.width)),
        ("lam", Value::number(lambda)),
    ]))
}
