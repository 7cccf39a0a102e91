//! Frame sampling with given draws.

use anyhow::{Result, anyhow, ensure};
use tubelet_augment::temporal;

use super::{outputs, unsupported};
use crate::parity::Outcome;
use crate::parity::case::{Case, Inputs, Value};

pub(super) fn run(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let n = number(case, inputs, "num_frames")?;
    match case.param::<String>("rule")?.as_str() {
        "pretrain" => {
            let (frames, step) = (case.param("T")?, inputs.get("step")?);
            let bound = temporal::videomae_bound(n, frames, step);
            let ids = temporal::videomae_indices(n, frames, step, inputs.get("offset")?);
            Ok(outputs([("randint_upper", Value::json(bound)), ("frame_ids", list(&ids))]))
        }
        "finetune_dense" => {
            let (frames, step) = (case.param("T")?, case.param("rate")?);
            let end = inputs.get::<Option<u32>>("end")?;
            Ok(frame_ids(&temporal::videomae_dense_indices(n, frames, step, end)))
        }
        "test_k400" => test_k400(case, n),
        "finetune_segments" | "finetune_ssv2" => segments(case, inputs, n),
        "slowfast_segments" | "slowfast_ssv2" => slowfast_segments(case, inputs, n),
        "slowfast_middles" | "slowfast_ssv2_test" => {
            Ok(frame_ids(&temporal::middles_slowfast(n, number(case, inputs, "T")?)))
        }
        "test_ssv2" => test_ssv2(case, n),
        "uniform_subsample" => Ok(frame_ids(&temporal::uniform(n, number(case, inputs, "T")?))),
        "slowfast_clip" => {
            let (clip, clips) = (inputs.get("clip_idx")?, inputs.get("num_clips")?);
            let span = inputs.get("clip_size")?;
            let offset = inputs.get("use_offset")?;
            slowfast(inputs, n, temporal::slowfast_test_start(n, span, clip, clips, offset))
        }
        "slowfast_given_start" => slowfast(inputs, n, inputs.get("start")?),
        other => Ok(unsupported(format!("rule {other}"))),
    }
}

/// VideoMAE's training on Something-Something: `draws` of each segment, below `randint_upper`; all 0
/// where a segment is empty.
fn segments(case: &Case, inputs: &Inputs, n: u32) -> Result<Outcome> {
    let frames = number(case, inputs, "T")?;
    ensure!(frames > 0, "T is 0");
    let bound = temporal::segments_bound(n, frames);
    let draws = if bound > 0 { draws(inputs, frames)? } else { Vec::new() };
    ensure!(draws.iter().all(|draw| *draw < bound), "draws {draws:?}: below {bound}");
    let ids = temporal::segments_indices(n, frames, |k| draws[k as usize]);
    Ok(outputs([("randint_upper", Value::json(bound)), ("frame_ids", list(&ids))]))
}

/// SlowFast's training on Something-Something: `draws` are frames from a segment's first on, the last
/// included.
fn slowfast_segments(case: &Case, inputs: &Inputs, n: u32) -> Result<Outcome> {
    let frames = number(case, inputs, "T")?;
    ensure!(frames > 0, "T is 0");
    let ends: Vec<[u32; 2]> =
        (0..frames).map(|k| temporal::slowfast_segment(n, frames, k)).collect();
    let (first, last): (Vec<u32>, Vec<u32>) = ends.iter().map(|[a, b]| (*a, *b)).unzip();
    let draws = draws(inputs, frames)?;
    for (draw, [first, last]) in draws.iter().zip(&ends) {
        ensure!(*draw <= last - first, "draw {draw} of the segment {first}..={last}");
    }
    let ids: Vec<u32> = first.iter().zip(draws).map(|(first, draw)| first + draw).collect();
    Ok(outputs([("first", list(&first)), ("last", list(&last)), ("frame_ids", list(&ids))]))
}

/// The draw of each segment.
fn draws(inputs: &Inputs, frames: u32) -> Result<Vec<u32>> {
    let draws: Vec<u32> = inputs.array("draws")?.f64s().into_iter().map(|x| x as u32).collect();
    ensure!(draws.len() == frames as usize, "{} draws for {frames} segments", draws.len());
    Ok(draws)
}

fn test_k400(case: &Case, n: u32) -> Result<Outcome> {
    let (frames, clips): (u32, u32) = (case.param("T")?, case.param("clips")?);
    let all = temporal::videomae_test_sequence(n, frames, case.param("rate")?);
    let start = |clip| temporal::videomae_test_start(all.len(), frames, clip, clips) as u32;
    let starts: Vec<u32> = (0..clips).map(start).collect();
    Ok(named([
        ("all_index".to_owned(), list(&all)),
        (format!("clip_starts_{clips}"), list(&starts)),
    ]))
}

fn test_ssv2(case: &Case, n: u32) -> Result<Outcome> {
    let (frames, clips) = (case.param("T")?, case.param_opt("clips")?.unwrap_or(2));
    let all = temporal::segments_test_indices(n, frames);
    let clip = |clip| {
        let ids = temporal::segments_test_clip(n, frames, clip, clips);
        (format!("clip{clip}"), list(&ids))
    };
    let whole = (format!("indices_{}", all.len()), list(&all));
    Ok(named([whole].into_iter().chain((0..clips).map(clip))))
}

/// Outputs whose names say a number of the case.
fn named(pairs: impl IntoIterator<Item = (String, Value)>) -> Outcome {
    Outcome::Outputs(pairs.into_iter().collect())
}

fn slowfast(inputs: &Inputs, n: u32, start: f64) -> Result<Outcome> {
    let span: f64 = inputs.get("clip_size")?;
    let ids = temporal::slowfast_indices(n, inputs.get("T")?, span, start);
    if ids.is_empty() {
        return Err(anyhow!("no frame"));
    }
    let end = Value::number(start + span - 1.0);
    Ok(outputs([("start", Value::number(start)), ("end", end), ("frame_ids", list(&ids))]))
}

/// A quantity that is an input in some cases and a parameter in others.
fn number(case: &Case, inputs: &Inputs, name: &str) -> Result<u32> {
    if inputs.has(name) { inputs.get(name) } else { case.param(name) }
}

fn frame_ids(ids: &[u32]) -> Outcome {
    outputs([("frame_ids", list(ids))])
}

fn list(ids: &[u32]) -> Value {
    Value::array(&[ids.len()], ids.iter().map(|i| i64::from(*i)).collect::<Vec<_>>())
}
