//! The published settings, embedded.

use crate::recipe::{RecipeError, RecipeFile};

macro_rules! recipes {
    ($($name:literal),* $(,)?) => {
        /// Name and TOML text of every built-in recipe, in reading order.
        pub const ALL: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../recipes/", $name, ".toml")))),*];
    };
}

recipes!(
    "mae-vit-b",
    "mae-vit-l",
    "mae-vit-h",
    "mae-tiny",
    "mae-st-vit-l",
    "mae-st-tiny",
    "videomae-vit-s-k400",
    "videomae-vit-b-k400",
    "videomae-vit-b-ssv2",
    "videomae-tiny",
    "maskfeat-vit-b-in1k",
    "maskfeat-tiny",
);

/// The text of the recipe `name`.
pub fn text(name: &str) -> Option<&'static str> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The recipe `name` with `overrides` (see [`RecipeFile::parse`]).
///
/// # Errors
/// When there is no such recipe (the error lists all) or an override does not fit.
pub fn recipe(name: &str, overrides: &[String]) -> Result<RecipeFile, RecipeError> {
    let text = text(name).ok_or_else(|| {
        let known: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        RecipeError::Syntax {
            recipe: name.to_owned(),
            message: format!(
                "no such recipe; known: {}, or a path to a .toml file",
                known.join(", ")
            ),
        }
    })?;
    RecipeFile::parse(name, text, overrides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_loads_and_survives_writing() {
        for (name, _) in ALL {
            let file = recipe(name, &[]).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(file.name, *name);
            let again =
                RecipeFile::parse(name, &file.to_toml(), &[]).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(file, again);
        }
    }

    #[test]
    fn overrides_change_one_key_and_are_checked() {
        let set = |item: &str| recipe("mae-vit-b", &[item.to_owned()]);
        let file = set("pretrain.batch_size=16").expect("valid");
        assert_eq!(file.pretrain.batch_size, Some(16));
        assert_eq!(file.finetune, recipe("mae-vit-b", &[]).expect("valid").finetune);
        for (item, says) in [
            ("pretrain.mask.ratio=1.5", "between 0 and 1"),
            ("pretrain.mask.policy=blob", "blob"),
            ("pretrain.batchsize=3", "batchsize"),
            ("pretrain.crop.size=100", "must divide"),
            ("pretrain", "key=value"),
        ] {
            let error = set(item).expect_err(item).to_string();
            assert!(error.contains(says), "{item}: {error}");
        }
    }
}
