//! Accuracy with several views a sample.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};
use tubelet_augment::{RecipeFile, Stage};
use tubelet_core::Heap;
use tubelet_core::layout::NO_LABEL;
use tubelet_formats::{OpenOptions, open};
use tubelet_loader::{Cursor, Loader, LoaderConfig, LoaderError, Order, RowMakers};

use crate::checkpoint;
use crate::config::{ModelConfig, TrainConfig};
use crate::error::{TrainError, TrainErrorKind};
use crate::feed::{Feed, Floats, Source};
use crate::finetune::averages;
use crate::model::Vit;
use crate::nn::Drops;
use crate::params::{Params, values};

/// How often the network is right.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Samples that were scored.
    pub samples: u64,
    /// Samples that could not be read, or have no label.
    pub left_out: u64,
    /// Views a sample.
    pub views: u32,
    /// Share of samples whose class scores highest, 0 to 1.
    pub top1: f64,
    /// Share of samples whose class is among the five highest, 0 to 1.
    pub top5: f64,
}

/// Evaluates the newest checkpoint of `run` on `data`, whose rows `makers` make in `workers` threads.
///
/// # Errors
/// When there is no fine-tuned checkpoint or the data cannot be used.
pub fn evaluate(
    run: &Path,
    data: &Path,
    options: &OpenOptions,
    workers: usize,
    makers: &Arc<dyn RowMakers>,
) -> Result<Accuracy, TrainError> {
    type B = burn::backend::Flex;
    let missing = || TrainError::checkpoint(run, "no checkpoint in this folder");
    let (state, weights, rest) = checkpoint::load_latest(run)?.ok_or_else(missing)?;
    if state.stage != Stage::Finetune.name() {
        let what = format!("this is a {} run: fine-tune it first", state.stage);
        return Err(TrainError::checkpoint(run, what));
    }
    let broken = |e: tubelet_augment::RecipeError| TrainError::checkpoint(run, e.to_string());
    let file = RecipeFile::parse("checkpoint", &state.recipe, &[]).map_err(broken)?;
    let recipe = file.stage(Stage::Finetune).map_err(broken)?;
    let config = TrainConfig::read(&file, Stage::Finetune)?;
    let model = ModelConfig::read(&file)?.classifier(&recipe, state.classes.len(), &config)?;
    let averaged = averages(&rest);
    let weights = if averaged.is_empty() { weights } else { averaged };
    let params = Params::<B>::new(&model.specs(), &weights, &Default::default())?;
    evaluate_params(&file, &model, &params, data, options, &state.classes, workers, makers)
}

/// Evaluates `params` on the data at `path`; softmax of each view, averaged over a sample's views.
pub(crate) fn evaluate_params<B: Backend>(
    file: &RecipeFile,
    model: &Vit,
    params: &Params<B>,
    path: &Path,
    options: &OpenOptions,
    classes: &[String],
    workers: usize,
    makers: &Arc<dyn RowMakers>,
) -> Result<Accuracy, TrainError> {
    let data = |what: String| TrainError::file(path, TrainErrorKind::Data(what));
    let recipe = file.stage(Stage::Eval).map_err(|e| TrainError::recipe("eval", e.to_string()))?;
    let recipe = Arc::new(recipe);
    let shards = open(path, options).map_err(|e| data(e.to_string()))?;
    if shards.classes() != classes {
        return Err(data(format!(
            "its {} classes are not the {} the network was trained for",
            shards.classes().len(),
            classes.len()
        )));
    }
    let config = LoaderConfig { workers, order: Order::Sequential, ..LoaderConfig::default() };
    let batches = Loader::new(shards, Arc::clone(&recipe), &Heap, config)
        .and_then(|loader| loader.with_makers(Arc::clone(makers)))
        .and_then(|loader| loader.batches(Cursor::default()))
        .map_err(|e: LoaderError| data(e.to_string()))?;
    let mut feed = Feed::new(batches, &recipe, Floats::Host, |_| false)?;
    let mut scores: BTreeMap<u64, (u32, Vec<f64>)> = BTreeMap::new();
    let device = B::Device::default();
    while let Some(batch) = feed.next_batch()? {
        let tensors = &batch.tensors;
        let patches = tensors.all_patches(&model.geometry, &device);
        let logits = model.forward(params, patches, tensors.rows, &mut Drops::none())?;
        let probabilities = values(&softmax(logits, 1));
        let rows = probabilities.chunks_exact(classes.len());
        for ((row, label), sample) in rows.zip(&tensors.labels).zip(&tensors.samples) {
            let entry = scores.entry(*sample).or_insert_with(|| (*label, vec![0.0; classes.len()]));
            for (sum, p) in entry.1.iter_mut().zip(row) {
                *sum += f64::from(*p);
            }
        }
        feed.give_back(batch);
    }
    Ok(summarise(&scores, u32::from(recipe.repeats())))
}

fn summarise(scores: &BTreeMap<u64, (u32, Vec<f64>)>, views: u32) -> Accuracy {
    let mut accuracy = Accuracy { views, ..Accuracy::default() };
    let (mut first, mut five) = (0u64, 0u64);
    for (label, sums) in scores.values() {
        if *label == NO_LABEL {
            accuracy.left_out += 1;
            continue;
        }
        accuracy.samples += 1;
        let own = sums[*label as usize];
        // Ties count against the network.
        let better = sums.iter().enumerate().filter(|(c, s)| *c as u32 != *label && **s >= own);
        let rank = better.count();
        first += u64::from(rank == 0);
        five += u64::from(rank < 5);
    }
    let share = |n: u64| n as f64 / accuracy.samples.max(1) as f64;
    (accuracy.top1, accuracy.top5) = (share(first), share(five));
    accuracy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_become_shares() {
        let scores = [
            (0, (0, vec![0.9, 0.1, 0.0, 0.0, 0.0, 0.0])),
            (1, (0, vec![0.1, 0.9, 0.0, 0.0, 0.0, 0.0])),
            (2, (5, vec![0.5, 0.4, 0.3, 0.2, 0.1, 0.0])),
            (3, (NO_LABEL, vec![0.0; 6])),
        ];
        let accuracy = summarise(&scores.into_iter().collect(), 6);
        assert_eq!((accuracy.samples, accuracy.left_out, accuracy.views), (3, 1, 6));
        assert!((accuracy.top1 - 1.0 / 3.0).abs() < 1e-12);
        assert!((accuracy.top5 - 2.0 / 3.0).abs() < 1e-12);
    }
}
