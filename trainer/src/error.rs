//! What can go wrong in training: a place plus a kind.

use std::path::Path;

/// Training could not go on.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {kind}")]
pub struct TrainError {
    /// Where: a file, a recipe key, a parameter, a step.
    pub place: String,
    /// What broke.
    #[source]
    pub kind: TrainErrorKind,
}

/// What broke.
#[derive(Debug, thiserror::Error)]
pub enum TrainErrorKind {
    /// The operating system said no.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The model asks for a parameter that is not there.
    #[error("this parameter is missing")]
    MissingParameter,
    /// A tensor has another shape than the model or the method asks for.
    #[error("has shape {got:?}, expected {expected:?}")]
    Shape {
        /// Shape found.
        got: Vec<usize>,
        /// Shape wanted.
        expected: Vec<usize>,
    },
    /// A recipe says something that cannot be done.
    #[error("{0}")]
    Recipe(String),
    /// A checkpoint or weights file is not what it should be.
    #[error("{0}")]
    Checkpoint(String),
    /// A back end is not in this build or has no device.
    #[error("{0}")]
    Backend(String),
    /// The loss is not a finite number.
    #[error("the loss is {0}: training has diverged")]
    Diverged(f64),
    /// A batch does not fit the model.
    #[error("{0}")]
    Batch(String),
    /// The data could not be read.
    #[error("{0}")]
    Data(String),
}

impl TrainError {
    /// An error of `kind` at `place`.
    pub fn new(place: impl Into<String>, kind: impl Into<TrainErrorKind>) -> Self {
        Self { place: place.into(), kind: kind.into() }
    }

    /// An error about the file or folder `path`.
    pub fn file(path: impl AsRef<Path>, kind: impl Into<TrainErrorKind>) -> Self {
        Self::new(path.as_ref().display().to_string(), kind)
    }

    /// A recipe error at `key`.
    pub fn recipe(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(key, TrainErrorKind::Recipe(what.into()))
    }

    /// A checkpoint error at `path`.
    pub fn checkpoint(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::file(path, TrainErrorKind::Checkpoint(what.into()))
    }

    /// A tensor of the wrong shape.
    pub fn shape(name: impl Into<String>, got: &[usize], expected: &[usize]) -> Self {
        let kind = TrainErrorKind::Shape { got: got.to_vec(), expected: expected.to_vec() };
        Self::new(name, kind)
    }

    /// A batch that does not fit.
    pub fn batch(what: impl Into<String>) -> Self {
        Self::new("batch", TrainErrorKind::Batch(what.into()))
    }
}
