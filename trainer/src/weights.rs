//! Weights on the host: a flat map from the reference repositories' parameter names to arrays in
//! PyTorch layout (linear weights `[out, in]`, convolution weights `[out, in, (t,) h, w]`).

use std::collections::BTreeMap;

use crate::error::{TrainError, TrainErrorKind};

/// A dense f32 array, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Extent of each axis; empty for a scalar.
    pub shape: Vec<usize>,
    /// The values, last axis fastest.
    pub data: Vec<f32>,
}

impl Array {
    /// An array of `shape` holding `data`.
    ///
    /// # Panics
    /// When the lengths do not agree.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), data.len(), "array length and shape {shape:?}");
        Self { shape, data }
    }

    /// `shape` full of `value`.
    pub fn full(shape: impl Into<Vec<usize>>, value: f32) -> Self {
        let shape = shape.into();
        let len = shape.iter().product();
        Self { shape, data: vec![value; len] }
    }
}

/// Named arrays, ordered by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    arrays: BTreeMap<String, Array>,
}

impl Weights {
    /// No weights.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces an array.
    pub fn insert(&mut self, name: impl Into<String>, array: Array) {
        self.arrays.insert(name.into(), array);
    }

    /// The array called `name`.
    pub fn get(&self, name: &str) -> Option<&Array> {
        self.arrays.get(name)
    }

    /// The array called `name`, to be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn require(&self, name: &str) -> Result<&Array, TrainError> {
        self.get(name).ok_or_else(|| TrainError::new(name, TrainErrorKind::MissingParameter))
    }

    /// Takes the array called `name` out.
    pub fn remove(&mut self, name: &str) -> Option<Array> {
        self.arrays.remove(name)
    }

    /// Whether there is an array called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.arrays.contains_key(name)
    }

    /// Number of arrays.
    pub fn len(&self) -> usize {
        self.arrays.len()
    }

    /// Whether there is no array.
    pub fn is_empty(&self) -> bool {
        self.arrays.is_empty()
    }

    /// Names and arrays, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.arrays.iter().map(|(name, array)| (name.as_str(), array))
    }

    /// The same arrays under the names that `rename` gives; `None` drops one.
    #[must_use]
    pub fn renamed(self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let arrays =
            self.arrays.into_iter().filter_map(|(name, array)| Some((rename(&name)?, array)));
        Self { arrays: arrays.collect() }
    }
}

impl FromIterator<(String, Array)> for Weights {
    fn from_iter<I: IntoIterator<Item = (String, Array)>>(items: I) -> Self {
        Self { arrays: items.into_iter().collect() }
    }
}

impl IntoIterator for Weights {
    type Item = (String, Array);
    type IntoIter = std::collections::btree_map::IntoIter<String, Array>;

    fn into_iter(self) -> Self::IntoIter {
        self.arrays.into_iter()
    }
}
