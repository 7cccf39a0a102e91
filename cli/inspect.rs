//! `tubelet inspect`.

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::Table;
use tubelet_augment::Stage;
use tubelet_core::{MediaInfo, SampleId, SampleKey};
use tubelet_formats::{Record, ShardReader, decoder, layout};

use crate::common::{DataArgs, Usage, bare_table, bytes_text, recipe_file};

#[derive(Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Show this sample instead of the data set
    #[arg(long)]
    sample: Option<usize>,
    /// With --sample: show the plan this recipe draws (a name or a TOML file)
    #[arg(long, requires = "sample", value_name = "NAME|FILE")]
    recipe: Option<String>,
    /// Change a value of the recipe; may be repeated
    #[arg(long = "set", requires = "recipe", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Stage of the recipe: pretrain, finetune or eval
    #[arg(long = "for", value_name = "STAGE", default_value_t = Stage::Pretrain)]
    stage: Stage,
    /// Seed of the plan
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Epoch of the plan
    #[arg(long, default_value_t = 0)]
    epoch: u32,
}

pub(crate) fn run(args: &InspectArgs) -> Result<bool> {
    let shards = args.data.open()?;
    match args.sample {
        None => println!("{}", data_set(args, shards.as_ref())?),
        Some(n) if n >= shards.len() => {
            bail!(Usage(format!(
                "sample {n} of a data set of {} (numbers start at 0)",
                shards.len()
            )))
        }
        Some(n) => sample(args, shards.as_ref(), n)?,
    }
    Ok(true)
}

fn data_set(args: &InspectArgs, shards: &dyn ShardReader) -> Result<Table> {
    let options = args.data.how.options("train");
    let layout = layout(&args.data.path, &options)?;
    let classes = shards.classes();
    let mut counts = vec![0u64; classes.len()];
    let (mut unlabelled, mut indexed, mut frames) = (0u64, 0u64, 0u64);
    let mut kinds = std::collections::BTreeMap::new();
    for n in 0..shards.len() {
        let record = shards.record(n);
        *kinds.entry(format!("{:?}", record.kind).to_lowercase()).or_insert(0u64) += 1;
        match record.label.and_then(|l| counts.get_mut(l as usize)) {
            Some(count) => *count += 1,
            None => unlabelled += 1,
        }
        if let Some(info) = record.info {
            indexed += 1;
            frames += u64::from(info.frames);
        }
    }
    let mut table = bare_table();
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("layout", format!("{layout}, split {}", options.split));
    row("samples", shards.len().to_string());
    for (kind, count) in kinds {
        row(&format!("  {kind}"), count.to_string());
    }
    row("listed but absent", shards.missing().len().to_string());
    row("with stored media facts", indexed.to_string());
    if indexed > 0 {
        row("  frames in them", frames.to_string());
    }
    row("classes", classes.len().to_string());
    row("  without label", unlabelled.to_string());
    if let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max()) {
        row("  samples a class", format!("{least} to {most}"));
    }
    for (name, count) in classes.iter().zip(&counts).take(12) {
        row(&format!("  {name}"), count.to_string());
    }
    if classes.len() > 12 {
        row("  …", format!("{} more classes", classes.len() - 12));
    }
    Ok(table)
}

fn sample(args: &InspectArgs, shards: &dyn ShardReader, n: usize) -> Result<()> {
    let record = shards.record(n);
    let mut buf = Vec::new();
    let bytes = shards.read(&record, &mut buf)?;
    let info = match &record.info {
        Some(info) => info.as_ref().clone(),
        None => decoder().probe(bytes)?,
    };
    println!("{}", sample_table(shards, &record, &info, bytes.len() as u64));
    if let Some(name) = &args.recipe {
        let recipe = recipe_file(name, &args.set)?.stage(args.stage)?;
        let recipe = recipe.shape_for(args.epoch, 0, info.size);
        for repeat in 0..recipe.repeats() {
            let key = SampleKey {
                seed: args.seed,
                epoch: args.epoch,
                sample: SampleId(n as u64),
                repeat,
            };
            println!("{}", serde_json::to_string_pretty(&recipe.plan(key, &info)?)?);
        }
    }
    Ok(())
}

fn sample_table(shards: &dyn ShardReader, record: &Record, info: &MediaInfo, bytes: u64) -> Table {
    let label = match record.label {
        None => "none".to_owned(),
        Some(l) => match shards.classes().get(l as usize) {
            Some(name) => format!("{l} ({name})"),
            None => l.to_string(),
        },
    };
    let mut keys: Vec<String> = info.keyframes.iter().take(12).map(u32::to_string).collect();
    if info.keyframes.len() > 12 {
        keys.push(format!("… {} in all", info.keyframes.len()));
    }
    let mut table = bare_table();
    table.add_row(["sample".to_owned(), record.id.to_string()]);
    table.add_row(["name".to_owned(), record.name.clone()]);
    table.add_row(["label".to_owned(), label]);
    table.add_row(["bytes".to_owned(), format!("{bytes} ({})", bytes_text(bytes))]);
    table.add_row(["codec".to_owned(), info.codec.clone()]);
    table.add_row(["size".to_owned(), info.size.to_string()]);
    table.add_row(["frames".to_owned(), info.frames.to_string()]);
    if info.frames > 1 {
        let time = format!("{:.3} fps, {:.2} s", info.fps, info.seconds());
        table.add_row(["rate".to_owned(), time]);
        table.add_row(["rotation".to_owned(), format!("{} degrees", info.rotation)]);
        table.add_row(["key frames".to_owned(), keys.join(" ")]);
    }
    table
}
