//! The device stage for a network, and its tensors in the back end that runs compute on.

use burn::backend::{Autodiff, Flex};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Bytes, DType, Tensor, TensorData};
use tubelet_augment::Recipe;
use tubelet_gpu::kernels::{DType as DeviceType, PatchOrder};
use tubelet_gpu::{DeviceStage, DeviceTensor, DeviceTensors, Gpu, HandOver, Input, StagePlan};

use crate::device::{Sees, failed};
use crate::error::TrainError;
use crate::params::Precision;

/// The stage of `recipe` on the first GPU, which is the one that Burn takes.
pub(crate) fn device_stage(
    recipe: &Recipe,
    sees: Sees,
    precision: Precision,
) -> Result<(DeviceStage, HandOver), String> {
    let gpu = Gpu::probe().map_err(|e| e.to_string())?;
    let plan = stage_plan(recipe, sees, precision)?;
    let stage = DeviceStage::new(&gpu, plan).map_err(|e| e.to_string())?;
    Ok((stage, HandOver::new(&gpu).map_err(|e| e.to_string())?))
}

/// What the stage makes of a batch for a network: patches in the order of its first layer's weights, in
/// the numbers of its products.
pub(crate) fn stage_plan(
    recipe: &Recipe,
    sees: Sees,
    precision: Precision,
) -> Result<StagePlan, String> {
    let order = PatchOrder::ChannelFirst;
    let input = match sees {
        Sees::All => Input::AllPatches(order),
        Sees::Visible => Input::VisiblePatches(order),
    };
    let dtype = match precision {
        Precision::F32 => DeviceType::F32,
        Precision::Bf16 => DeviceType::Bf16,
    };
    StagePlan::new(recipe, input, dtype).map_err(|e| e.to_string())
}

/// A back end that runs compute on.
pub trait TrainBackend: AutodiffBackend {
    /// Input and targets of a batch of the device stage as vectors of this back end; no targets where
    /// the batch has none. By way of the host, unless the back end computes on the same device.
    ///
    /// # Errors
    /// When the driver refuses.
    fn adopt(
        _hand_over: &mut HandOver,
        tensors: DeviceTensors,
        device: &Self::Device,
    ) -> Result<(Tensor<Self, 1>, Option<Tensor<Self, 1>>), TrainError> {
        let fetch = |tensor: &DeviceTensor| -> Result<Tensor<Self, 1>, TrainError> {
            let bytes = tensor.buffer().to_vec::<u8>().map_err(failed)?;
            let (count, dtype) = (elements(tensor), dtype(tensor)?);
            let data = TensorData::from_bytes(Bytes::from_bytes_vec(bytes), [count], dtype);
            Ok(Tensor::from_data(data, (device, dtype)))
        };
        let targets = &tensors.batch.first.targets;
        let targets = (elements(targets) > 0).then(|| fetch(targets)).transpose()?;
        Ok((fetch(&tensors.batch.input)?, targets))
    }
}

impl TrainBackend for Autodiff<Flex> {}

#[cfg(feature = "vulkan")]
impl TrainBackend for Autodiff<burn::backend::Vulkan> {}

/// Elements of a tensor of the stage.
pub(crate) fn elements(tensor: &DeviceTensor) -> usize {
    tensor.shape().iter().product()
}

/// Its element type in Burn.
pub(crate) fn dtype(tensor: &DeviceTensor) -> Result<DType, TrainError> {
    match tensor.dtype() {
        DeviceType::F32 => Ok(DType::F32),
        DeviceType::Bf16 => Ok(DType::BF16),
        DeviceType::F16 => Ok(DType::F16),
        other => Err(failed(format!("tensors of {other:?} are no input or target"))),
    }
}
