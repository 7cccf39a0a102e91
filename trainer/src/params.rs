//! The parameters of a model on a device: a flat map of names, so that checkpoints, layer-wise
//! learning rates, weight-decay exemptions, averaging and clipping are plain loops over names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData};

use crate::error::{TrainError, TrainErrorKind};
use crate::init::ParamSpec;
use crate::weights::{Array, Weights};

/// One parameter: a flat tensor and the shape it is read in.
#[derive(Clone, Debug)]
pub struct Param<B: Backend> {
    /// Shape in PyTorch layout.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub value: Tensor<B, 1>,
    /// Whether gradients are wanted.
    pub trainable: bool,
}

/// The numbers in which matrices are multiplied. Parameters, their gradients, the optimiser's state,
/// sums of the residual stream, norms, softmax and losses are f32 with either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16: linear layers, attention's products and GELU.
    Bf16,
}

/// All parameters of a model.
#[derive(Clone, Debug)]
pub struct Params<B: Backend> {
    entries: BTreeMap<String, Param<B>>,
    precision: Precision,
    /// Tables that follow from the network's sizes, made and copied to the device once.
    tables: Tables<B>,
}

/// Tables by name, shared by the forks of parameters.
type Tables<B> = Arc<Mutex<BTreeMap<String, Tensor<B, 2>>>>;

impl<B: Backend> Params<B> {
    /// Puts `weights` on `device` as the parameters that `specs` lists. Arrays that no spec names
    /// are ignored.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn new(
        specs: &[ParamSpec],
        weights: &Weights,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        let mut entries = BTreeMap::new();
        for spec in specs {
            let array = weights.require(&spec.name)?;
            if array.shape != spec.shape {
                return Err(TrainError::shape(&spec.name, &array.shape, &spec.shape));
            }
            let value = tensor_1d::<B>(array, device)
                .set_require_grad(spec.trainable && B::ad_enabled(device));
            let param = Param { shape: spec.shape.clone(), value, trainable: spec.trainable };
            entries.insert(spec.name.clone(), param);
        }
        Ok(Self { entries, precision: Precision::F32, tables: Tables::<B>::default() })
    }

    /// The same, multiplied in `precision`.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The numbers in which they are multiplied.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Puts all of `weights` on `device`, every one trainable.
    pub fn from_weights(weights: &Weights, device: &B::Device) -> Self {
        let entries = weights.iter().map(|(name, array)| {
            let value = tensor_1d::<B>(array, device).set_require_grad(B::ad_enabled(device));
            (name.to_owned(), Param { shape: array.shape.clone(), value, trainable: true })
        });
        Self {
            entries: entries.collect(),
            precision: Precision::F32,
            tables: Tables::<B>::default(),
        }
    }

    /// The parameter `name` with its `D` axes.
    ///
    /// # Errors
    /// When it is missing or has another number of axes.
    pub fn get<const D: usize>(&self, name: &str) -> Result<Tensor<B, D>, TrainError> {
        let param = self.param(name)?;
        let Ok(shape) = <[usize; D]>::try_from(param.shape.as_slice()) else {
            return Err(TrainError::shape(name, &param.shape, &[0; D]));
        };
        Ok(param.value.clone().reshape(shape))
    }

    /// The parameter `name` as one vector.
    ///
    /// # Errors
    /// When it is missing.
    pub fn flat(&self, name: &str) -> Result<Tensor<B, 1>, TrainError> {
        Ok(self.param(name)?.value.clone())
    }

    /// The parameter `name`, its axes after the first taken together.
    ///
    /// # Errors
    /// When it is missing.
    pub fn matrix(&self, name: &str) -> Result<Tensor<B, 2>, TrainError> {
        let param = self.param(name)?;
        let rows = param.shape.first().copied().unwrap_or(1);
        let columns = param.shape.iter().skip(1).product::<usize>();
        Ok(param.value.clone().reshape([rows, columns]))
    }

    /// The matrix `name`, `[1, rows, columns]`, as `[rows, columns]`; `make` makes it when it is asked
    /// for first. It has no gradients.
    ///
    /// # Errors
    /// When it has another number of axes.
    pub fn table(
        &self,
        name: &str,
        device: &B::Device,
        make: impl FnOnce() -> Array,
    ) -> Result<Tensor<B, 2>, TrainError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(name) {
            return Ok(table.clone());
        }
        let table: Tensor<B, 2> = tensor::<B, 3>(&make(), device)?.squeeze_dim(0);
        tables.insert(name.to_owned(), table.clone());
        Ok(table)
    }

    /// The parameter `name`.
    ///
    /// # Errors
    /// When it is missing.
    pub fn param(&self, name: &str) -> Result<&Param<B>, TrainError> {
        self.entries
            .get(name)
            .ok_or_else(|| TrainError::new(name, TrainErrorKind::MissingParameter))
    }

    /// Names and parameters, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Param<B>)> {
        self.entries.iter().map(|(name, param)| (name.as_str(), param))
    }

    /// Names and parameters, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Param<B>)> {
        self.entries.iter_mut().map(|(name, param)| (name.as_str(), param))
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of trained values.
    pub fn trainable_values(&self) -> usize {
        self.entries
            .values()
            .filter(|p| p.trainable)
            .map(|p| p.shape.iter().product::<usize>())
            .sum()
    }

    /// Copies everything back to the host.
    pub fn to_weights(&self) -> Weights {
        self.iter().map(|(name, p)| (name.to_owned(), to_array(&p.value, &p.shape))).collect()
    }
}

impl<B: AutodiffBackend> Params<B> {
    /// The same values without gradient tracking.
    pub fn inner(&self) -> Params<B::InnerBackend> {
        let entries = self.entries.iter().map(|(name, p)| {
            let value = p.value.clone().inner();
            (name.clone(), Param { shape: p.shape.clone(), value, trainable: p.trainable })
        });
        Params {
            entries: entries.collect(),
            precision: self.precision,
            tables: Tables::<B::InnerBackend>::default(),
        }
    }

    /// The same values as leaves of a graph of their own, so that several threads can each compute
    /// a loss and its gradients.
    pub fn fork(&self) -> Self {
        let entries = self.entries.iter().map(|(name, p)| {
            let value = Tensor::from_inner(p.value.clone().inner()).set_require_grad(p.trainable);
            (name.clone(), Param { shape: p.shape.clone(), value, trainable: p.trainable })
        });
        let tables = Arc::clone(&self.tables);
        Self { entries: entries.collect(), precision: self.precision, tables }
    }

    /// Takes the gradient of every trained parameter that took part in the loss.
    pub fn gradients(&self, grads: &mut B::Gradients) -> Gradients<B::InnerBackend> {
        let entries = self.iter().filter(|(_, p)| p.trainable);
        entries
            .filter_map(|(name, p)| Some((name.to_owned(), p.value.grad_remove(grads)?)))
            .collect()
    }
}

/// Gradients by parameter name, flat.
pub type Gradients<B> = BTreeMap<String, Tensor<B, 1>>;

/// `array` as a vector on `device`.
pub fn tensor_1d<B: Backend>(array: &Array, device: &B::Device) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::new(array.data.clone(), [array.data.len()]), device)
}

/// `array` as a tensor of `D` axes on `device`.
///
/// # Errors
/// When it has another number of axes.
pub fn tensor<B: Backend, const D: usize>(
    array: &Array,
    device: &B::Device,
) -> Result<Tensor<B, D>, TrainError> {
    let Ok(shape) = <[usize; D]>::try_from(array.shape.as_slice()) else {
        return Err(TrainError::shape("tensor", &array.shape, &[0; D]));
    };
    Ok(tensor_1d(array, device).reshape(shape))
}

/// The values of `tensor` on the host, f32.
pub fn values<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> Vec<f32> {
    tensor.to_data().convert::<f32>().to_vec().expect("converted to f32")
}

fn to_array<B: Backend>(value: &Tensor<B, 1>, shape: &[usize]) -> Array {
    Array::new(shape.to_vec(), values(value))
}
