//! What parameters a model has and how they start.

use tubelet_core::{Draw, SampleRng};

use crate::weights::{Array, Weights};

/// One parameter of a model.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// Name in the reference repository's state dict.
    pub name: String,
    /// Shape in PyTorch layout.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
    /// Whether it is trained; a fixed position table is not.
    pub trainable: bool,
}

impl ParamSpec {
    /// A trained parameter.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, init: Init) -> Self {
        Self { name: name.into(), shape: shape.into(), init, trainable: true }
    }

    /// A fixed table.
    pub fn fixed(name: impl Into<String>, table: Array) -> Self {
        let shape = table.shape.clone();
        Self { name: name.into(), shape, init: Init::Given(table.data), trainable: false }
    }
}

/// How a parameter starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// All the same value.
    Constant(f32),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Normal with mean 0, redrawn outside `±bound`.
    TruncatedNormal {
        /// Standard deviation before truncation.
        std: f64,
        /// Largest magnitude.
        bound: f64,
    },
    /// Uniform in `±sqrt(6 / (fan_in + fan_out))`, where the first axis is `fan_out` and the rest
    /// together are `fan_in`.
    XavierUniform,
    /// Uniform in `±bound`.
    Uniform {
        /// Largest magnitude.
        bound: f64,
    },
    /// These values.
    Given(Vec<f32>),
}

impl Init {
    /// All zeros.
    pub const ZEROS: Self = Self::Constant(0.0);
    /// All ones.
    pub const ONES: Self = Self::Constant(1.0);

    /// `trunc_normal_` of timm and torch with its default bounds ±2.
    pub const fn trunc_normal(std: f64) -> Self {
        Self::TruncatedNormal { std, bound: 2.0 }
    }

    /// What PyTorch gives a linear or convolution layer (weight and bias alike) that nobody
    /// initialises: uniform in `±1/sqrt(fan_in)`.
    pub fn torch_default(fan_in: usize) -> Self {
        Self::Uniform { bound: 1.0 / (fan_in.max(1) as f64).sqrt() }
    }
}

/// Draws the start of every parameter. Each has a stream of its own, named by `seed` and the
/// parameter's name, so adding one changes no other.
pub fn draw(specs: &[ParamSpec], seed: u64) -> Weights {
    specs.iter().map(|spec| (spec.name.clone(), draw_one(spec, seed))).collect()
}

/// Shortest name hash that [`SampleRng`] takes: 40 bits of 64-bit FNV-1a.
pub(crate) fn name_stream(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 40)) & ((1 << 40) - 1)
}

fn draw_one(spec: &ParamSpec, seed: u64) -> Array {
    let mut rng = SampleRng::new(seed, 0, name_stream(&spec.name), 0, Draw::Model);
    let len: usize = spec.shape.iter().product();
    let mut fill = |value: &mut dyn FnMut(&mut SampleRng) -> f64| -> Vec<f32> {
        (0..len).map(|_| value(&mut rng) as f32).collect()
    };
    let data = match &spec.init {
        Init::Constant(value) => vec![*value; len],
        Init::Given(data) => data.clone(),
        Init::Normal { std } => fill(&mut |rng| rng.normal() * std),
        Init::TruncatedNormal { std, bound } => fill(&mut |rng| truncated(rng, *std, *bound)),
        Init::Uniform { bound } => fill(&mut |rng| rng.uniform(-bound, *bound)),
        Init::XavierUniform => {
            let fan_out = spec.shape.first().copied().unwrap_or(1);
            let fan_in = spec.shape.iter().skip(1).product::<usize>();
            let bound = (6.0 / (fan_in + fan_out).max(1) as f64).sqrt();
            fill(&mut |rng| rng.uniform(-bound, bound))
        }
    };
    Array::new(spec.shape.clone(), data)
}

fn truncated(rng: &mut SampleRng, std: f64, bound: f64) -> f64 {
    loop {
        let value = rng.normal() * std;
        if value.abs() <= bound {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_seed_and_name_only() {
        let specs = |names: &[&str]| -> Vec<ParamSpec> {
            names.iter().map(|n| ParamSpec::new(*n, [8, 4], Init::XavierUniform)).collect()
        };
        let both = draw(&specs(&["a", "b"]), 7);
        let alone = draw(&specs(&["b"]), 7);
        assert_eq!(both.get("b"), alone.get("b"));
        assert_ne!(both.get("a"), both.get("b"));
        assert_ne!(draw(&specs(&["b"]), 8).get("b"), alone.get("b"));
    }

    #[test]
    fn bounds_and_moments_are_as_named() {
        let one = |init: Init| {
            draw(&[ParamSpec::new("x", [60, 40], init)], 1).require("x").expect("x").clone()
        };
        let bound = (6.0f32 / 100.0).sqrt();
        let xavier = one(Init::XavierUniform).data;
        assert!(
            xavier.iter().all(|v| v.abs() <= bound)
                && xavier.iter().any(|v| v.abs() > 0.95 * bound)
        );
        let truncated = one(Init::TruncatedNormal { std: 0.02, bound: 0.02 }).data;
        assert!(truncated.iter().all(|v| v.abs() <= 0.02));
        let normal = one(Init::Normal { std: 0.02 }).data;
        let variance = normal.iter().map(|v| v * v).sum::<f32>() / normal.len() as f32;
        assert!((variance.sqrt() - 0.02).abs() < 1e-3, "{variance}");
    }
}
