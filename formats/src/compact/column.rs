//! A growing array of numbers, or one mapped from a file.

use bytemuck::Pod;
use bytes::Bytes;

/// Numbers of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Column<T> {
    owned: Vec<T>,
    /// Stands for `owned` where it is there: aligned for `T`, and a whole number of them.
    mapped: Option<Bytes>,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { owned: Vec::new(), mapped: None }
    }
}

impl<T: Pod> Column<T> {
    /// The numbers that `bytes` are; `None` where they are not aligned or no whole number.
    pub(crate) fn mapped(bytes: Bytes) -> Option<Self> {
        let fits = bytemuck::try_cast_slice::<u8, T>(&bytes).is_ok();
        fits.then_some(Self { owned: Vec::new(), mapped: Some(bytes) })
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        match &self.mapped {
            None => &self.owned,
            // What cannot be cast was refused by `mapped`.
            Some(bytes) => bytemuck::try_cast_slice(bytes).unwrap_or_default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn get(&self, n: usize) -> Option<T> {
        self.as_slice().get(n).copied()
    }

    /// The numbers to be added to or changed; a mapped column becomes a copy of its own.
    pub(crate) fn to_mut(&mut self) -> &mut Vec<T> {
        if let Some(bytes) = self.mapped.take() {
            self.owned = bytemuck::pod_collect_to_vec(&bytes);
        }
        &mut self.owned
    }

    pub(crate) fn push(&mut self, value: T) {
        self.to_mut().push(value);
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.as_slice())
    }

    /// Gives unused room back.
    pub(crate) fn shrink(&mut self) {
        self.owned.shrink_to_fit();
    }
}
