//! Why a recipe cannot be used.

/// A recipe cannot be used: which key, what it says, what would be valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// Not TOML, an unknown key, a missing key or a wrong type.
    #[error("recipe {recipe}: {message}")]
    Syntax {
        /// Name or file of the recipe.
        recipe: String,
        /// What the parser says, with the place.
        message: String,
    },
    /// A value that cannot work.
    #[error("recipe {recipe}: {key} = {value}: {valid}")]
    Value {
        /// Name of the recipe.
        recipe: String,
        /// Dotted key.
        key: String,
        /// What it says.
        value: String,
        /// What would be valid.
        valid: String,
    },
    /// A `--set` that is not `key=value`.
    #[error("--set {0}: write key=value, for example pretrain.train.epochs=10")]
    Override(String),
}

/// What a part of a stage finds wrong: the key inside the stage, its value, what would be valid.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) valid: String,
}

impl Wrong {
    /// The same for a part that lies in `place`.
    pub(super) fn inside(self, place: &str) -> Self {
        Self { key: format!("{place}.{}", self.key), ..self }
    }

    pub(super) fn new(
        key: impl Into<String>,
        value: impl Into<String>,
        valid: impl Into<String>,
    ) -> Self {
        Self { key: key.into(), value: value.into(), valid: valid.into() }
    }
}
