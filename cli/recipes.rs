//! `tubelet recipes`.

use anyhow::Result;
use clap::Args;
use comfy_table::Table;
use tubelet_augment::{RecipeFile, Stage, builtin};

use crate::common::{bare_table, recipe_file};

#[derive(Args)]
pub(crate) struct RecipesArgs {
    /// Print this recipe (built in, or a TOML file) instead of the list
    name: Option<String>,
    /// Change a value first, for example pretrain.batch_size=16; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub(crate) fn run(args: &RecipesArgs) -> Result<bool> {
    match &args.name {
        Some(name) => print!("{}", text(name, &args.set)?),
        None => println!("{}", table()?),
    }
    Ok(true)
}

/// The recipe with its comments where nothing is changed, else as it reads after the change.
fn text(name: &str, set: &[String]) -> Result<String> {
    match builtin::text(name) {
        Some(text) if set.is_empty() => Ok(text.to_owned()),
        _ => Ok(recipe_file(name, set)?.to_toml()),
    }
}

fn table() -> Result<Table> {
    let mut table = bare_table();
    table.set_header(["recipe", "method", "input", "tokens", "hidden", "batch", "source"]);
    for (name, text) in builtin::ALL {
        let file = RecipeFile::parse(name, text, &[])?;
        // The first one that it has.
        let recipe = file.stage(file.stages().next().unwrap_or(Stage::Pretrain))?;
        let grid = recipe.grid();
        let hidden = recipe.mask().most_masked(grid);
        let source = file.source.split(['.', ';']).next().unwrap_or_default().to_owned();
        table.add_row([
            file.name.clone(),
            file.method.to_string(),
            format!("{} x {}", recipe.frames(), recipe.size()),
            format!("{} = {grid}", grid.len()),
            format!("{hidden}"),
            recipe.batch_size().to_string(),
            source,
        ]);
    }
    Ok(table)
}
