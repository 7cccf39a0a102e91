//! A batch as bytes on the training device: the slot's pixels are copied there once, and patches and
//! pixel targets are made of them by tensor operations.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::{AllocationProperty, Bytes, DType, Int, Tensor, TensorData};
use tubelet_augment::normalise::Normalise;
use tubelet_augment::target::pixels::{Formula, PatchNorm, PixelOrder};
use tubelet_augment::{HostTensors, Recipe, TargetSpec};
use tubelet_core::{PatchSize, ViewLayout};
use tubelet_loader::Batch;

use super::Source;
use crate::model::{Geometry, MaskedTokens};
use crate::nn::index;

/// What is made of a batch's bytes on the device.
#[derive(Clone, Debug)]
pub struct OnDevice {
    normalise: Normalise,
    patch: PatchSize,
    /// The formula of the targets, and the frames that they are made of.
    target: Option<(PatchNorm, Vec<u32>)>,
}

impl OnDevice {
    /// The plan of `recipe`.
    ///
    /// # Errors
    /// What of the recipe is made on the host only.
    pub fn new(recipe: &Recipe) -> Result<Self, &'static str> {
        let target = match recipe.target() {
            TargetSpec::None => None,
            TargetSpec::Pixels(spec) if spec.order == PixelOrder::ChannelLast => {
                Some((spec.norm, spec.frames.indices(recipe.frames())))
            }
            TargetSpec::Pixels(_) => return Err("pixel targets with the channel first"),
            TargetSpec::Hog(_) | TargetSpec::HogPicture => return Err("HOG targets"),
        };
        let only_on_host = [
            (recipe.views().count() > 1, "further views of a row"),
            (recipe.mask().passes() > 0, "further passes of the mask"),
            (recipe.erase().is_some(), "random erasing"),
            (recipe.mix().is_some(), "mixup or CutMix"),
            (recipe.shapes().count() > 1, "several shapes"),
        ];
        if let Some((_, what)) = only_on_host.into_iter().find(|(is_so, _)| *is_so) {
            return Err(what);
        }
        Ok(Self { normalise: recipe.normalise(), patch: recipe.patch(), target })
    }
}

/// The pixels of a slot, lent until nobody reads them any more.
struct SlotPixels(Arc<Batch>);

impl AsRef<[u8]> for SlotPixels {
    fn as_ref(&self) -> &[u8] {
        let batch: &Batch = &self.0;
        batch.as_ref().pixels(0)
    }
}

/// A batch whose pixels are on the device.
pub struct DeviceBatch<'a, B: Backend> {
    lists: &'a HostTensors,
    plan: &'a OnDevice,
    /// u8 `[rows · tokens, patch t · h · w · 3]`: frame, row, column, channel.
    patches: Tensor<B, 2, Int>,
    device: B::Device,
}

impl<'a, B: Backend> DeviceBatch<'a, B> {
    /// Copies the pixels of `batch` to `device`. `lists` are the batch's masks and labels.
    pub fn new(
        plan: &'a OnDevice,
        batch: &Arc<Batch>,
        lists: &'a HostTensors,
        device: &B::Device,
    ) -> Self {
        let bytes = bytes::Bytes::from_owner(SlotPixels(Arc::clone(batch)));
        let slot: &Batch = batch;
        let view = &slot.as_ref().layout().views[0];
        let bytes = Bytes::from_shared(bytes, AllocationProperty::Other);
        Self::from_bytes(plan, bytes, view, lists, device)
    }

    /// The same from pixels u8 `[rows, frames, height, width, 3]` of `view`'s shape.
    fn from_bytes(
        plan: &'a OnDevice,
        bytes: Bytes,
        view: &ViewLayout,
        lists: &'a HostTensors,
        device: &B::Device,
    ) -> Self {
        let PatchSize { t, h, w } = plan.patch;
        let [t, h, w] = [t, h, w].map(|n| n as usize);
        let (frames, width) = (view.frames as usize, view.size.width as usize);
        let (slots, rows, columns) = (frames / t, view.size.height as usize / h, width / w);
        let all = [lists.rows * slots, t, rows, h, columns, w * 3];
        // With one axis the copy to a device is one piece; with six it is padded line by line.
        let data = TensorData::from_bytes(bytes, [all.iter().product::<usize>()], DType::U8);
        let pixels = Tensor::<B, 1, Int>::from_data(data, (device, DType::U8)).reshape(all);
        let tokens = lists.rows * slots * rows * columns;
        let patches = pixels.permute([0, 2, 4, 1, 3, 5]).reshape([tokens, t * h * w * 3]);
        Self { lists, plan, patches, device: device.clone() }
    }

    /// f32 `[n, pixels, 3]`, 0 to 1, of the patches `tokens` (row · tokens + token).
    fn unit(&self, tokens: &[u32]) -> Tensor<B, 3> {
        let chosen = self.patches.clone().select(0, index(tokens, &self.device));
        let [count, bytes] = chosen.dims();
        chosen.float().reshape([count, bytes / 3, 3]) / 255.0
    }

    fn normalised(&self, unit: Tensor<B, 3>) -> Tensor<B, 3> {
        let channels = |values: [f32; 3]| Tensor::<B, 3>::from_data([[values]], &self.device);
        let Normalise { mean, std } = self.plan.normalise;
        (unit - channels(mean)) / channels(std)
    }

    /// `[n, 3 · pixels]`, the channel first, as the embedding's weights have it.
    fn patches(&self, tokens: &[u32]) -> Tensor<B, 2> {
        let values = self.normalised(self.unit(tokens)).permute([0, 2, 1]);
        let [count, channels, pixels] = values.dims();
        values.reshape([count, channels * pixels])
    }

    /// The chosen frames of the patches `tokens`, 0 to 1: `[n, pixels, 3]`.
    fn chosen(&self, tokens: &[u32], chosen: &[u32]) -> Tensor<B, 3> {
        let PatchSize { t, h, w } = self.plan.patch;
        let slots = self.lists.frames as u32 / t;
        let per_slot = chosen.len() / slots as usize;
        if per_slot == t as usize {
            return self.unit(tokens);
        }
        let cells = self.lists.tokens as u32 / slots;
        let frames = tokens.iter().flat_map(|token| {
            let slot = token % self.lists.tokens as u32 / cells;
            let own = &chosen[slot as usize * per_slot..][..per_slot];
            own.iter().map(move |frame| token * t + frame % t)
        });
        let frames: Vec<u32> = frames.collect();
        let pixels = (h * w) as usize;
        let [all, _] = self.patches.dims();
        let lines = self.patches.clone().reshape([all * t as usize, pixels * 3]);
        let lines = lines.select(0, index(&frames, &self.device));
        lines.float().reshape([tokens.len(), per_slot * pixels, 3]) / 255.0
    }
}

impl<B: Backend> Source<B> for DeviceBatch<'_, B> {
    fn lists(&self) -> &HostTensors {
        self.lists
    }

    fn all_patches(&self, _: &Geometry, _: &B::Device) -> Tensor<B, 2> {
        let all: Vec<u32> = (0..(self.lists.rows * self.lists.tokens) as u32).collect();
        self.patches(&all)
    }

    fn visible_patches(&self, _: &Geometry, tokens: &MaskedTokens, _: &B::Device) -> Tensor<B, 2> {
        let rows = tokens.visible.chunks(tokens.visible_count.max(1)).enumerate();
        let flat = |(row, own): (usize, &[u32])| -> Vec<u32> {
            own.iter().map(|token| (row * tokens.tokens) as u32 + token).collect()
        };
        self.patches(&rows.flat_map(flat).collect::<Vec<u32>>())
    }

    fn hidden_targets(&self, device: &B::Device) -> Tensor<B, 2> {
        let Some((norm, chosen)) = &self.plan.target else {
            return Tensor::zeros([0, 0], device);
        };
        let hidden = self.lists.mask.iter().zip(0u32..).filter(|(hidden, _)| **hidden);
        let hidden: Vec<u32> = hidden.map(|(_, token)| token).collect();
        let unit = self.chosen(&hidden, chosen);
        let values = if norm.original() { unit } else { self.normalised(unit) };
        let [count, pixels, channels] = values.dims();
        standardised(*norm, values).reshape([count, pixels * channels])
    }
}

/// The formula of a target on `[n, pixels, 3]`.
fn standardised<B: Backend>(norm: PatchNorm, values: Tensor<B, 3>) -> Tensor<B, 3> {
    let [count, pixels, channels] = values.dims();
    let Some(Formula { joint, bias, inside, outside }) = norm.formula() else { return values };
    let shape = if joint { [count, pixels * channels, 1] } else { [count, pixels, channels] };
    let values = values.reshape(shape);
    let off = values.clone() - values.mean_dim(1);
    let squares = (off.clone() * off.clone()).sum_dim(1);
    let deviation = (squares / (shape[1] as f64 - bias) + inside).sqrt() + outside;
    (off / deviation).reshape([count, pixels, channels])
}

#[cfg(test)]
mod tests;
