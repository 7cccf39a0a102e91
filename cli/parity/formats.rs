//! Runners for the kinds that need only `tubelet-formats`: decoding photos and clips.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, anyhow};
use sha2::{Digest, Sha256};
use tubelet_core::{Clip, Size};
use tubelet_formats::decode::video::decode_native;
use tubelet_formats::{ColorConversion, Decoder, FrameRequest, MediaDecoder};

use super::Outcome;
use super::case::{Case, Inputs, Value};

/// Runs one case of the kinds `jpeg_decode` and `video_decode`.
///
/// # Errors
/// When a medium cannot be read or decoded, or a parameter or input is missing.
pub(crate) fn run_kind(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let outputs = match case.kind.as_str() {
        "jpeg_decode" => jpeg(case, inputs)?,
        "video_decode" => match case.param::<String>("check")?.as_str() {
            "stream" => stream(&clip_bytes(case)?)?,
            "frames" => frame(case, inputs, false)?,
            "swscale" if cfg!(target_arch = "x86_64") => frame(case, inputs, true)?,
            other => return Ok(Outcome::Unsupported(format!("no check {other} on this machine"))),
        },
        kind => return Ok(Outcome::Unsupported(format!("kind {kind} is not covered"))),
    };
    let named = outputs.into_iter().map(|(role, value)| (role.to_owned(), value));
    Ok(Outcome::Outputs(named.collect()))
}

type Outputs = BTreeMap<&'static str, Value>;

/// The photo of this row: `inputs.file` names it where the case has several.
fn jpeg(case: &Case, inputs: &Inputs) -> Result<Outputs> {
    let media = case.media().map_err(|name| anyhow!("{name} is not there"))?;
    let path = match inputs.get::<String>("file") {
        Ok(name) => media.iter().find(|p| p.ends_with(&name)).context("the photo is not named")?,
        Err(_) => media.first().context("the case names no photo")?,
    };
    let bytes = std::fs::read(path)?;
    let mut decoder = MediaDecoder::new(ColorConversion::Plain);
    let info = decoder.probe(&bytes)?;
    let mut clip = Clip::new();
    decoder.decode(
        &bytes,
        &info,
        &FrameRequest { frames: vec![0], region: None, planes: false },
        &mut clip,
    )?;
    let size = clip.size();
    let shape = [size.height, size.width, 3].map(f64::from).to_vec();
    let (mean, _) = statistics(clip.nth(0));
    let start: Vec<[u8; 3]> =
        clip.nth(0).chunks_exact(3).take(8).map(|p| [p[0], p[1], p[2]]).collect();
    Ok(BTreeMap::from([
        ("sha256", Value::json(sha256(clip.nth(0)))),
        ("shape", Value::array(&[3], shape)),
        ("mean", Value::array(&[3], mean)),
        ("pixels", Value::json(serde_json::to_value(start)?)),
    ]))
}

/// Counts and times of all frames, by decoding all; key frames as [`Decoder::probe`] tells them.
fn stream(bytes: &[u8]) -> Result<Outputs> {
    let info = MediaDecoder::new(ColorConversion::Plain).probe(bytes)?;
    let (mut count, mut pts, mut guessed) = (0u32, Vec::new(), Vec::new());
    decode_native(bytes, &mut |frame| {
        count += 1;
        pts.push(frame.pts);
        guessed.push(frame.best_effort);
        true
    })?;
    let keys: Vec<f64> = info.keyframes.iter().copied().map(f64::from).collect();
    anyhow::ensure!(info.frames == count, "{} frames probed, {count} decoded", info.frames);
    Ok(BTreeMap::from([
        ("frame_count", Value::number(f64::from(count))),
        ("pts", Value::json(pts)),
        ("timestamps", Value::json(guessed)),
        ("keyframes", Value::array(&[keys.len()], keys)),
    ]))
}

/// One frame: native bytes and an accurate conversion, or both of swscale's conversions.
fn frame(case: &Case, inputs: &Inputs, swscale: bool) -> Result<Outputs> {
    let bytes = clip_bytes(case)?;
    let key = inputs.value("frame")?.to_json();
    let number = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
    let wanted: u32 = number.parse().with_context(|| format!("frame {number}"))?;
    let accurate = rgb(&bytes, wanted, ColorConversion::Accurate)?;
    let (mean, deviation) = statistics(&accurate);
    if !swscale {
        return Ok(BTreeMap::from([
            ("native_sha256", Value::json(sha256(&native(&bytes, wanted)?))),
            ("rgb_mean", Value::array(&[3], mean)),
        ]));
    }
    let plain = rgb(&bytes, wanted, ColorConversion::Plain)?;
    let size = MediaDecoder::new(ColorConversion::Plain).probe(&bytes)?.size;
    let (plain_mean, plain_deviation) = statistics(&plain);
    Ok(BTreeMap::from([
        ("rgb_plain_sha256", Value::json(sha256(&plain))),
        ("rgb_accurate_sha256", Value::json(sha256(&accurate))),
        ("rgb_plain_pixels", Value::json(some_pixels(&plain, size))),
        ("rgb_plain_mean", Value::array(&[3], plain_mean)),
        ("rgb_plain_std", Value::array(&[3], plain_deviation)),
        ("rgb_accurate_mean", Value::array(&[3], mean)),
        ("rgb_accurate_std", Value::array(&[3], deviation)),
    ]))
}

fn clip_bytes(case: &Case) -> Result<Vec<u8>> {
    let media = case.media().map_err(|name| anyhow!("{name} is not there"))?;
    let path = media.first().context("the case names no clip")?;
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn rgb(bytes: &[u8], frame: u32, conversion: ColorConversion) -> Result<Vec<u8>> {
    let mut decoder = MediaDecoder::new(conversion);
    let info = decoder.probe(bytes)?;
    let mut clip = Clip::new();
    decoder.decode(
        bytes,
        &info,
        &FrameRequest { frames: vec![frame], region: None, planes: false },
        &mut clip,
    )?;
    Ok(clip.nth(0).to_vec())
}

fn native(bytes: &[u8], wanted: u32) -> Result<Vec<u8>> {
    let mut found = None;
    decode_native(bytes, &mut |frame| {
        let more = frame.index < wanted;
        if frame.index == wanted {
            found = Some(frame.bytes);
        }
        more
    })?;
    found.with_context(|| format!("there is no frame {wanted}"))
}

/// Four pixels by `row,column`: first, middle, last, and one at a third down and a fifth across.
fn some_pixels(rgb: &[u8], size: Size) -> serde_json::Value {
    let (h, w) = (size.height as usize, size.width as usize);
    let places = [(0, 0), (h / 2, w / 2), (h - 1, w - 1), (h / 3, w / 5)];
    let pixel = |(y, x): (usize, usize)| {
        let at = (y * w + x) * 3;
        (format!("{y},{x}"), serde_json::json!(rgb[at..at + 3]))
    };
    serde_json::Value::Object(places.into_iter().map(pixel).collect())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Mean and standard deviation of each channel.
fn statistics(rgb: &[u8]) -> (Vec<f64>, Vec<f64>) {
    let count = (rgb.len() / 3).max(1) as f64;
    let channel = |c: usize| rgb.iter().skip(c).step_by(3).map(|v| f64::from(*v));
    let mean: Vec<f64> = (0..3).map(|c| channel(c).sum::<f64>() / count).collect();
    let spread = |c: usize| channel(c).map(|v| (v - mean[c]).powi(2)).sum::<f64>() / count;
    let deviation = (0..3).map(|c| spread(c).sqrt()).collect();
    (mean, deviation)
}
