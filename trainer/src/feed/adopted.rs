//! A batch that the device stage made, as tensors of the back end that trains.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use tubelet_augment::HostTensors;
use tubelet_gpu::{DeviceTensors, HandOver};

use super::Source;
use super::TrainBackend;
use crate::error::TrainError;
use crate::model::{Geometry, MaskedTokens};
use crate::nn::select_rows;

/// Input and targets of a batch.
pub struct Adopted<'a, B: Backend> {
    lists: &'a HostTensors,
    /// The patches that the stage was asked for, `[rows · tokens, patch values]`.
    input: Tensor<B, 2>,
    /// `[hidden, target dim]`.
    targets: Option<Tensor<B, 2>>,
}

impl<'a, B: TrainBackend> Adopted<'a, B> {
    /// Takes `tensors` over. `lists` are the batch's masks and labels.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn new(
        hand_over: &mut HandOver,
        tensors: DeviceTensors,
        lists: &'a HostTensors,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        let shape = tensors.batch.input.shape().to_vec();
        let values = shape.last().copied().unwrap_or(1).max(1);
        let count = shape.iter().product::<usize>() / values;
        let (input, targets) = B::adopt(hand_over, tensors, device)?;
        let targets = targets.map(|targets| without_padding(targets, lists));
        Ok(Self { lists, input: input.reshape([count, values]), targets })
    }
}

/// `[rows · max_masked · dim]` as the targets of the hidden tokens alone, `[hidden, dim]`.
fn without_padding<B: Backend>(targets: Tensor<B, 1>, lists: &HostTensors) -> Tensor<B, 2> {
    let (most, dim) = (lists.max_masked, lists.target_dim);
    let targets = targets.reshape([lists.rows * most, dim]);
    if lists.masked_count.iter().all(|count| *count as usize == most) {
        return targets;
    }
    let rows = lists.masked_count.iter().zip(0u32..);
    let real: Vec<u32> =
        rows.flat_map(|(count, row)| (0..*count).map(move |n| row * most as u32 + n)).collect();
    select_rows(targets, &real)
}

/// The stage was asked for the patches that the network sees, so both are the same.
impl<B: Backend> Source<B> for Adopted<'_, B> {
    fn lists(&self) -> &HostTensors {
        self.lists
    }

    fn all_patches(&self, _: &Geometry, _: &B::Device) -> Tensor<B, 2> {
        self.input.clone()
    }

    fn visible_patches(&self, _: &Geometry, _: &MaskedTokens, _: &B::Device) -> Tensor<B, 2> {
        self.input.clone()
    }

    fn hidden_targets(&self, device: &B::Device) -> Tensor<B, 2> {
        self.targets.clone().unwrap_or_else(|| Tensor::zeros([0, 0], device))
    }
}

#[cfg(test)]
mod tests;
