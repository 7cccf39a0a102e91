//! Mixup and CutMix.

use anyhow::{Result, anyhow, ensure};
use tubelet_augment::mix::{self, Mix, mix_rows};
use tubelet_core::{Rect, Size};

use super::{outputs, unsupported};
use crate::parity::Outcome;
use crate::parity::case::{Case, Inputs, Value};

pub(super) fn batch(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let batch = inputs.array("batch")?;
    let (rows, height, width) = match batch.shape[..] {
        [rows, 3, height, width] | [rows, 3, _, height, width] => (rows, height, width),
        _ => return Err(anyhow!("batch is of shape {:?}", batch.shape)),
    };
    let partner: String = case.param("partner")?;
    if partner != "reversed_batch" {
        return Ok(unsupported(format!("partner {partner}")));
    }
    let size = Size::new(width as u32, height as u32);
    let mode: String = case.param("mode")?;
    let Some(draws) = draws_of(&mode, rows) else {
        return Ok(unsupported(format!("mode {mode}")));
    };
    let given = Given::read(case, draws)?;
    let mixes: Result<Vec<Mix>> = (0..rows).map(|row| given.mix(&mode, row, rows, size)).collect();
    let mut data = batch.f32s();
    mix_rows(&mut data, &mixes?, size);
    Ok(outputs([("batch", Value::array(&batch.shape, data))]))
}

/// How many draws a batch of `rows` rows has; `None` where there is no such mode.
fn draws_of(mode: &str, rows: usize) -> Option<usize> {
    match mode {
        "batch" => Some(1),
        "pair" => Some(rows / 2),
        "elem" => Some(rows),
        _ => None,
    }
}

/// What was drawn: numbers, or as many of them as there are draws.
struct Given {
    lambda: Vec<Option<f64>>,
    rows: Vec<Option<[u32; 2]>>,
    columns: Vec<Option<[u32; 2]>>,
}

/// One value for all, or a list of values, absent ones included.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum OneOrAll<T> {
    One(T),
    All(Vec<Option<T>>),
}

impl Given {
    fn read(case: &Case, draws: usize) -> Result<Self> {
        Ok(Self {
            lambda: all_of(case, "lam", draws)?,
            rows: all_of(case, "box_y", draws)?,
            columns: all_of(case, "box_x", draws)?,
        })
    }

    /// How row `row` of `all` is mixed.
    fn mix(&self, mode: &str, row: usize, all: usize, size: Size) -> Result<Mix> {
        let at = match mode {
            "batch" => 0,
            "elem" => row,
            // An odd batch's middle row has no partner and no draw.
            _ if 2 * row + 1 == all => return Ok(Mix::None),
            _ => row.min(all - 1 - row),
        };
        let (Some([top, bottom]), Some([left, right])) = (self.rows[at], self.columns[at]) else {
            let lambda = self.lambda[at].ok_or_else(|| anyhow!("row {row}: no lam, no box"))?;
            return Ok(Mix::Mixup(lambda));
        };
        ensure!(top <= bottom && left <= right, "box {left}..{right} x {top}..{bottom}");
        let region = Rect { x: left, y: top, width: right - left, height: bottom - top };
        ensure!(region.fits(size), "{region:?} in {size}");
        Ok(Mix::Cutmix { region, lambda: 1.0 - region.size().area() as f64 / size.area() as f64 })
    }
}

/// The parameter for each draw.
fn all_of<T: Clone + serde::de::DeserializeOwned>(
    case: &Case,
    name: &str,
    draws: usize,
) -> Result<Vec<Option<T>>> {
    match case.param_opt::<OneOrAll<T>>(name)? {
        None => Ok(vec![None; draws]),
        Some(OneOrAll::One(value)) => Ok(vec![Some(value); draws]),
        Some(OneOrAll::All(values)) => {
            ensure!(values.len() == draws, "{} values of {name} for {draws} draws", values.len());
            Ok(values)
        }
    }
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
