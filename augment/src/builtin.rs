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
    "mae-vit-b-linprobe",
    "mae-tiny",
    "mae-st-vit-l",
    "mae-st-tiny",
    "videomae-vit-s-k400",
    "videomae-vit-b-k400",
    "videomae-vit-b-ssv2",
    "videomae-tiny",
    "maskfeat-vit-b-in1k",
    "maskfeat-tiny",
    "maskfeat-mvit-s-k400",
    "simmim-vit-b",
    "simmim-swin-b",
    "beit-vit-b-in1k",
    "ibot-vit-s-in1k",
    "convnextv2-base",
    "omnimae-vit-b-image",
    "omnimae-vit-b-ssv2",
    "bootmae-vit-b",
    "sdae-vit-b",
    "splitmask-vit-b",
    "mvd-vit-b-k400",
    "vatt-base",
    "violet-v2-pixels",
    "violet-v2-hog",
    "fastmim-vit-b",
    "fastmim-swin-b",
    "vjepa-vit-l",
    "videomae-v2-vit-b",
    "mvit-v2-t-in1k",
    "mvit-v2-s-k400",
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
    use crate::recipe::Stage;

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

    /// Counts that the publications give, of the first mask and of what a target holds.
    #[test]
    fn data_recipes_have_the_published_counts() {
        for (name, tokens, hidden, numbers) in [
            ("simmim-vit-b", 196, 120, 768),
            ("simmim-swin-b", 2304, 22 * 64, 48),
            ("beit-vit-b-in1k", 196, 75, 0),
            ("ibot-vit-s-in1k", 196, 98, 0),
            ("convnextv2-base", 49, 30, 3072),
            ("omnimae-vit-b-image", 196, 147, 768),
            ("omnimae-vit-b-ssv2", 1568, 1411, 1536),
            ("bootmae-vit-b", 196, 147, 768),
            ("sdae-vit-b", 196, 147, 0),
            ("splitmask-vit-b", 196, 98, 0),
            ("mvd-vit-b-k400", 1568, 1408, 0),
            ("vatt-base", 1568, 784, 0),
            ("violet-v2-pixels", 196, 196, 3072),
            ("violet-v2-hog", 196, 196, 1024),
            ("fastmim-vit-b", 64, 48, 108),
            ("fastmim-swin-b", 16, 12, 432),
            ("vjepa-vit-l", 1568, 1567, 0),
            ("videomae-v2-vit-b", 1568, 1408, 1536),
            ("maskfeat-mvit-s-k400", 1568, 157 * 4, 108),
        ] {
            let file = recipe(name, &[]).unwrap_or_else(|e| panic!("{e}"));
            let recipe = file.stage(Stage::Pretrain).unwrap_or_else(|e| panic!("{e}"));
            let grid = recipe.grid();
            let dim = recipe.target().dim(recipe.patch(), recipe.frames(), grid.t);
            let got = (grid.len(), recipe.mask().most_masked(grid), dim);
            assert_eq!(got, (tokens, hidden, numbers), "{name}");
        }
        for name in ["vjepa-vit-l", "videomae-v2-vit-b"] {
            let file = recipe(name, &[]).unwrap_or_else(|e| panic!("{e}"));
            let error = file.stage(Stage::Eval).expect_err("pre-training alone").to_string();
            assert!(error.contains("pretrain alone"), "{error}");
        }
    }

    /// Clips times crops of an evaluation, and how often fine-tuning uses a sample at once.
    #[test]
    fn data_recipes_have_the_published_views() {
        for (name, fine, eval, frames) in [
            ("simmim-vit-b", 1, 1, 1),
            ("simmim-swin-b", 1, 1, 1),
            ("beit-vit-b-in1k", 1, 1, 1),
            ("ibot-vit-s-in1k", 1, 1, 1),
            ("convnextv2-base", 1, 1, 1),
            ("omnimae-vit-b-image", 1, 1, 1),
            ("omnimae-vit-b-ssv2", 1, 5 * 3, 16),
            ("bootmae-vit-b", 1, 1, 1),
            ("sdae-vit-b", 1, 1, 1),
            ("splitmask-vit-b", 1, 1, 1),
            ("mvd-vit-b-k400", 2, 5 * 3, 16),
            ("vatt-base", 1, 4 * 3, 32),
            ("violet-v2-pixels", 1, 1, 5),
            ("violet-v2-hog", 1, 1, 5),
            ("fastmim-vit-b", 1, 1, 1),
            ("fastmim-swin-b", 1, 1, 1),
            ("maskfeat-mvit-s-k400", 2, 10, 16),
        ] {
            let file = recipe(name, &[]).unwrap_or_else(|e| panic!("{e}"));
            let stage = |stage| file.stage(stage).unwrap_or_else(|e| panic!("{e}"));
            let (tune, test) = (stage(Stage::Finetune), stage(Stage::Eval));
            assert_eq!((tune.repeats(), test.repeats()), (fine, eval), "{name}");
            assert_eq!((tune.frames(), test.frames()), (frames, frames), "{name}");
            assert_eq!(tune.size(), test.size(), "{name}");
        }
    }

    #[test]
    fn overrides_change_one_key_and_are_checked() {
        let set = |item: &str| recipe("mae-vit-b", &[item.to_owned()]);
        let file = set("pretrain.batch_size=16").expect("valid");
        assert_eq!(file.pretrain.as_ref().and_then(|table| table.batch_size), Some(16));
        assert_eq!(file.finetune, recipe("mae-vit-b", &[]).expect("valid").finetune);
        for (item, says) in [
            ("pretrain.mask.ratio=1.5", "between 0 and 1"),
            ("pretrain.mask.policy=blob", "blob"),
            ("pretrain.batchsize=3", "batchsize"),
            ("pretrain.crop.size=100", "96 or 112"),
            ("pretrain", "key=value"),
        ] {
            let error = set(item).expect_err(item).to_string();
            assert!(error.contains(says), "{item}: {error}");
        }
    }
}
