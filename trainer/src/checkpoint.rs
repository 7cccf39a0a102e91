//! Weights and training state on disk, and weights of others.
//!
//! A run's folder holds `checkpoint-<step>.safetensors` (weights under the reference's names),
//! `checkpoint-<step>.state.safetensors` (optimiser, averages), `checkpoint-<step>.json` (step, cursor,
//! seed, recipe) and `latest`, the name of the newest. Each file is written under another name and
//! renamed; `latest` comes last, so an interruption leaves the previous checkpoint in force.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use tubelet_loader::Cursor;

use crate::error::TrainError;
use crate::init::ParamSpec;
use crate::position::{Scale, resize_bicubic};
use crate::weights::{Array, Weights};

/// Checkpoints kept in a run's folder.
const KEPT: usize = 2;

/// What a checkpoint says besides tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Stage of the run: `pretrain` or `finetune`.
    pub stage: String,
    /// Optimiser steps done.
    pub step: u64,
    /// Where the data goes on.
    pub cursor: Cursor,
    /// Seed of the run.
    pub seed: u64,
    /// Class names, for a classifier.
    pub classes: Vec<String>,
    /// The recipe, as TOML.
    pub recipe: String,
}

/// Writes a checkpoint into `run` and removes all but the newest few.
///
/// # Errors
/// When a file cannot be written.
pub fn save(
    run: &Path,
    state: &State,
    weights: &Weights,
    optimizer: &Weights,
) -> Result<(), TrainError> {
    let name = format!("checkpoint-{:08}", state.step);
    write_weights(&run.join(format!("{name}.safetensors")), weights)?;
    write_weights(&run.join(format!("{name}.state.safetensors")), optimizer)?;
    let json = serde_json::to_string_pretty(state).unwrap_or_default();
    write_text(&run.join(format!("{name}.json")), &json)?;
    write_text(&run.join("latest"), &name)?;
    remove_old(run)
}

/// The newest checkpoint of `run`: state, weights and optimiser state; `None` where there is none.
///
/// # Errors
/// When it is damaged.
pub fn load_latest(run: &Path) -> Result<Option<(State, Weights, Weights)>, TrainError> {
    let Ok(name) = std::fs::read_to_string(run.join("latest")) else { return Ok(None) };
    let name = name.trim();
    let path = run.join(format!("{name}.json"));
    let text = std::fs::read(&path).map_err(|e| TrainError::file(&path, e))?;
    let state = serde_json::from_slice(&text)
        .map_err(|e| TrainError::checkpoint(&path, format!("damaged: {e}")))?;
    let weights = read_weights(&run.join(format!("{name}.safetensors")))?;
    let optimizer = read_weights(&run.join(format!("{name}.state.safetensors")))?;
    Ok(Some((state, weights, optimizer)))
}

/// Reads weights from a run's folder, a `.safetensors` file or a PyTorch file (`.pth`, `.pt`,
/// `.pyth`, `.bin`).
///
/// # Errors
/// When the file is missing, damaged or of another kind.
pub fn read_any(path: &Path) -> Result<Weights, TrainError> {
    if path.is_dir() {
        let what = "no checkpoint in this folder: the file `latest` is missing";
        return match load_latest(path)? {
            Some((_, weights, _)) => Ok(weights),
            None => Err(TrainError::checkpoint(path, what)),
        };
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => read_weights(path),
        Some("pth" | "pt" | "pyth" | "bin") => read_pytorch(path),
        _ => Err(TrainError::checkpoint(
            path,
            "give a run's folder, a .safetensors file or a PyTorch file (.pth, .pt, .pyth, .bin)",
        )),
    }
}

/// Reads a `.safetensors` file; f16 and bf16 become f32, other types are left out.
///
/// # Errors
/// When the file is missing or damaged.
pub fn read_weights(path: &Path) -> Result<Weights, TrainError> {
    let bytes = std::fs::read(path).map_err(|e| TrainError::file(path, e))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| TrainError::checkpoint(path, format!("damaged: {e}")))?;
    let arrays = file.iter().filter_map(|(name, view)| {
        Some((name.to_owned(), Array::new(view.shape().to_vec(), floats(&view)?)))
    });
    Ok(arrays.collect())
}

fn floats(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match view.dtype() {
        Dtype::F32 => {
            let words = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            Some(words.collect())
        }
        Dtype::F16 => Some(pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect()),
        Dtype::BF16 => Some(pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect()),
        _ => None,
    }
}

/// Reads a PyTorch checkpoint, looking for the weights under the keys that repositories use.
///
/// Files that hold objects of other classes beside tensors, numbers, texts and `argparse`'s
/// namespaces are refused.
fn read_pytorch(path: &Path) -> Result<Weights, TrainError> {
    let broken = |e: &dyn std::fmt::Display| {
        let what = format!(
            "cannot be read: {e} (if PyTorch can read it, write the state dict with \
             safetensors.torch.save_file and give that file)"
        );
        TrainError::checkpoint(path, what)
    };
    let open = |key: Option<&str>| match key {
        Some(key) => burn_store::pytorch::PytorchReader::with_top_level_key(path, key),
        None => burn_store::pytorch::PytorchReader::new(path),
    };
    let keys = [Some("model"), Some("module"), Some("model_state"), Some("state_dict"), None];
    let mut last = None;
    for key in keys {
        let reader = match open(key) {
            Ok(reader) => reader,
            Err(error) => {
                last = Some(broken(&error));
                continue;
            }
        };
        let mut weights = Weights::new();
        for (name, snapshot) in reader.tensors() {
            let data = snapshot.to_data().map_err(|e| broken(&format!("{name}: {e:?}")))?;
            let shape = data.shape.to_vec();
            if let Ok(values) = data.convert::<f32>().to_vec::<f32>() {
                weights.insert(name.clone(), Array::new(shape, values));
            }
        }
        if !weights.is_empty() {
            return Ok(weights);
        }
    }
    Err(last.unwrap_or_else(|| TrainError::checkpoint(path, "no tensor in it")))
}

/// What became of somebody's weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct InitReport {
    /// Parameters taken over.
    pub loaded: usize,
    /// Parameters of the model that the file lacks; they keep their first values.
    pub missing: Vec<String>,
    /// Arrays of the file that the model does not have.
    pub unexpected: Vec<String>,
    /// Position tables resampled to the model's grid: name, theirs, ours.
    pub resized: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Arrays of another shape: name, theirs, ours.
    pub mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
}

/// Puts `theirs` into `ours` where names and shapes agree, after taking away the prefixes that
/// pre-training adds (`encoder.`, `backbone.`, `module.`). Learned position tables of another square
/// grid are resampled as MAE's `interpolate_pos_embed` does.
pub fn initialise(ours: &mut Weights, specs: &[ParamSpec], theirs: Weights) -> InitReport {
    let theirs = theirs.renamed(|name| Some(strip_prefixes(name).to_owned()));
    let wanted: BTreeMap<&str, &ParamSpec> = specs.iter().map(|s| (s.name.as_str(), s)).collect();
    let mut report = InitReport::default();
    let mut found = BTreeSet::new();
    for (name, array) in theirs {
        match wanted.get(name.as_str()) {
            None => report.unexpected.push(name),
            Some(spec) if spec.shape == array.shape => {
                found.insert(name.clone());
                report.loaded += 1;
                ours.insert(name, array);
            }
            Some(spec) => match resized_positions(&name, &array, &spec.shape) {
                Some(table) => {
                    found.insert(name.clone());
                    ours.insert(name.clone(), table);
                    report.resized.push((name, array.shape, spec.shape.clone()));
                }
                None => report.mismatched.push((name, array.shape, spec.shape.clone())),
            },
        }
    }
    report.missing =
        wanted.keys().filter(|n| !found.contains(**n)).map(|n| (*n).to_owned()).collect();
    report
}

/// `table` `[1, extra + g·g, dim]` on the grid of `shape`; `None` where it is no position table or
/// only its width differs.
fn resized_positions(name: &str, table: &Array, shape: &[usize]) -> Option<Array> {
    let extra = match name {
        "pos_embed" => 1,
        "pos_embed_spatial" => 0,
        _ => return None,
    };
    let (&[1, rows, dim], &[1, wanted, width]) = (table.shape.as_slice(), shape) else {
        return None;
    };
    let side = |rows: usize| {
        let cells = rows.checked_sub(extra)?;
        let side = cells.isqrt();
        (side > 0 && side * side == cells).then_some([side, side])
    };
    let (from, to) = (side(rows)?, side(wanted)?);
    (dim == width).then(|| resize_bicubic(table, extra, from, to, Scale::Sizes))
}

fn strip_prefixes(mut name: &str) -> &str {
    for prefix in ["module.", "backbone.", "encoder."] {
        name = name.strip_prefix(prefix).unwrap_or(name);
    }
    name
}

fn write_weights(path: &Path, weights: &Weights) -> Result<(), TrainError> {
    let views: Vec<(String, TensorView<'_>)> = weights
        .iter()
        .map(|(name, array)| {
            let bytes = bytemuck::cast_slice(&array.data);
            TensorView::new(Dtype::F32, array.shape.clone(), bytes)
                .map(|view| (name.to_owned(), view))
                .map_err(|e| TrainError::checkpoint(path, format!("{name}: {e}")))
        })
        .collect::<Result<_, _>>()?;
    let facts: Option<HashMap<String, String>> = None;
    let bytes = safetensors::serialize(views, facts)
        .map_err(|e| TrainError::checkpoint(path, e.to_string()))?;
    write_bytes(path, &bytes)
}

fn write_text(path: &Path, text: &str) -> Result<(), TrainError> {
    write_bytes(path, text.as_bytes())
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|e| TrainError::file(path, e))
}

fn remove_old(run: &Path) -> Result<(), TrainError> {
    let entries = std::fs::read_dir(run).map_err(|e| TrainError::file(run, e))?;
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in entries.filter_map(|e| Some(e.ok()?.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(stem) = name.split('.').next().filter(|s| s.starts_with("checkpoint-")) {
            found.entry(stem.to_owned()).or_default().push(path);
        }
    }
    for stem in found.keys().rev().skip(KEPT).cloned().collect::<Vec<_>>() {
        for path in &found[&stem] {
            std::fs::remove_file(path).map_err(|e| TrainError::file(path, e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::Init;

    fn state(step: u64) -> State {
        State {
            stage: "pretrain".to_owned(),
            step,
            cursor: Cursor { epoch: 2, position: 64 },
            seed: 5,
            classes: Vec::new(),
            recipe: "name = \"x\"".to_owned(),
        }
    }

    #[test]
    fn the_newest_checkpoint_comes_back_and_old_ones_go() {
        let run = tempfile::tempdir().expect("temporary folder");
        let weights = |v: f32| [("w".to_owned(), Array::full([2, 3], v))].into_iter().collect();
        for step in [1, 2, 10] {
            save(run.path(), &state(step), &weights(step as f32), &weights(0.5)).expect("writes");
        }
        let (found, w, o) = load_latest(run.path()).expect("reads").expect("is there");
        assert_eq!((found, w, o), (state(10), weights(10.0), weights(0.5)));
        assert!(!run.path().join("checkpoint-00000001.json").exists());
        assert!(read_any(run.path()).is_ok());
        std::fs::write(run.path().join("checkpoint-00000010.safetensors"), b"no").expect("writes");
        assert!(load_latest(run.path()).expect_err("damaged").to_string().contains("00000010"));
    }

    #[test]
    fn prefixes_go_and_differences_are_listed() {
        let specs = [
            ParamSpec::new("blocks.0.w", [2], Init::ZEROS),
            ParamSpec::new("head.w", [3], Init::ZEROS),
            ParamSpec::new("norm.w", [4], Init::ZEROS),
        ];
        let mut ours = crate::init::draw(&specs, 0);
        let theirs: Weights = [
            ("encoder.blocks.0.w".to_owned(), Array::full([2], 7.0)),
            ("norm.w".to_owned(), Array::full([5], 1.0)),
            ("decoder.x".to_owned(), Array::full([1], 1.0)),
        ]
        .into_iter()
        .collect();
        let report = initialise(&mut ours, &specs, theirs);
        assert_eq!(ours.get("blocks.0.w"), Some(&Array::full([2], 7.0)));
        assert_eq!(report.loaded, 1);
        assert_eq!(report.missing, ["head.w", "norm.w"]);
        assert_eq!(report.unexpected, ["decoder.x"]);
        assert_eq!(report.mismatched[0].0, "norm.w");
    }

    #[test]
    fn positions_of_another_grid_are_resampled() {
        let specs = [ParamSpec::new("pos_embed", [1, 10, 4], Init::ZEROS)];
        let mut ours = crate::init::draw(&specs, 0);
        let mut table = Array::full([1, 17, 4], 3.0);
        table.data[..4].fill(9.0);
        let theirs: Weights = [("pos_embed".to_owned(), table)].into_iter().collect();
        let report = initialise(&mut ours, &specs, theirs);
        assert_eq!(report.resized, [("pos_embed".to_owned(), vec![1, 17, 4], vec![1, 10, 4])]);
        assert!(report.missing.is_empty() && report.mismatched.is_empty());
        let found = ours.require("pos_embed").expect("there");
        assert_eq!(found.data[..4], [9.0; 4]);
        assert!(found.data[4..].iter().all(|v| (v - 3.0).abs() < 1e-5));
        let narrow: Weights =
            [("pos_embed".to_owned(), Array::full([1, 17, 8], 0.0))].into_iter().collect();
        assert_eq!(initialise(&mut ours, &specs, narrow).mismatched.len(), 1);
    }
}
