//! `tubelet dump`: what the trainer would get, as a file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tubelet_augment::{HostStage, HostTensors, Recipe, Stage};
use tubelet_core::{BatchLayout, BatchRef, Heap, HostMemory};
use tubelet_formats::ShardReader;
use tubelet_loader::{Batch, Cursor, Loader, LoaderConfig, OnError, Order};

use crate::common::{DataArgs, RecipeArgs, Usage, default_workers};

#[derive(Args)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Stage of the recipe: pretrain, finetune or eval
    #[arg(long = "for", value_name = "STAGE", default_value_t = Stage::Pretrain)]
    stage: Stage,
    /// Seed of every draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Epoch whose draws (and order) are used
    #[arg(long, default_value_t = 0)]
    epoch: u32,
    /// Worker threads [default: one a core]
    #[arg(long)]
    workers: Option<usize>,
    /// These samples by number, separated by commas; their rows are not mixed with each other
    #[arg(long, value_delimiter = ',', required_unless_present = "batches")]
    samples: Vec<u64>,
    /// Instead: this many batches of the training order
    #[arg(long, conflicts_with = "samples")]
    batches: Option<u64>,
    /// With --batches: start after this many samples of the epoch, as a resumed run does
    #[arg(long, default_value_t = 0, requires = "batches")]
    position: u64,
    /// With --batches: load this part of every batch
    #[arg(long, default_value_t = 0, requires = "batches")]
    rank: u32,
    /// With --batches: number of parts
    #[arg(long, default_value_t = 1, requires = "batches")]
    world: u32,
    /// Safetensors file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(args: &DumpArgs) -> Result<bool> {
    let shards = args.data.open()?;
    let recipe = args.recipe.stage(args.stage)?;
    let (batches, cursor) = load(args, shards, &recipe)?;
    let rows: usize = batches.iter().map(|b| b.as_ref().rows()).sum();
    let rows = u32::try_from(rows).map_err(|_| Usage("too many rows for one file".to_owned()))?;

    let shape = shape_of(&recipe, &batches)?;
    let layout = shape.rows_layout(rows);
    let mut memory = Heap.allocate(layout.bytes)?;
    gather(&layout, &batches, memory.as_mut_slice());
    let batch = BatchRef::new(&layout, memory.as_slice(), rows as usize);
    let stage = HostStage::new(shape);
    let mut tensors = stage.floats(batch);
    if args.batches.is_some() {
        mix(&stage, &batches, &mut tensors);
    }
    write(args, batch, &tensors, cursor)?;
    eprintln!(
        "{rows} rows of {} written to {}; the next batch starts at epoch {}, position {}",
        recipe.name(),
        args.output.display(),
        cursor.epoch,
        cursor.position
    );
    Ok(true)
}

/// The batches asked for and where the next one starts.
fn load(
    args: &DumpArgs,
    shards: Arc<dyn ShardReader>,
    recipe: &Arc<Recipe>,
) -> Result<(Vec<Batch>, Cursor)> {
    let count = match args.batches {
        Some(count) => count,
        None => {
            let rows = args.samples.len() as u64 * u64::from(recipe.repeats());
            let least = recipe.shapes().map(Recipe::batch_size).min().unwrap_or(1);
            // Of each bucket the last batch may have one row.
            rows.div_ceil(u64::from(least)) + recipe.buckets().map_or(0, |b| b.shapes.len() as u64)
        }
    };
    let order = match args.batches {
        Some(_) if args.stage == Stage::Eval => Order::Sequential,
        Some(_) => Order::Shuffled,
        None => Order::Listed { samples: args.samples.clone(), epoch: args.epoch },
    };
    let config = LoaderConfig {
        seed: args.seed,
        workers: args.workers.unwrap_or_else(default_workers),
        slots: count as usize + 1,
        rank: args.rank,
        world: args.world,
        order,
        on_error: match args.batches {
            Some(_) => LoaderConfig::default().on_error,
            None => OnError::Fail,
        },
    };
    let start = match args.batches {
        Some(_) => Cursor { epoch: args.epoch, position: args.position },
        None => Cursor::default(),
    };
    let stream = Loader::new(shards, Arc::clone(recipe), &Heap, config)?.batches(start)?;
    let batches = stream.take(count as usize).collect::<Result<Vec<_>, _>>()?;
    let cursor = batches.last().map_or(start, Batch::cursor);
    Ok((batches, cursor))
}

/// The shape that all batches have.
fn shape_of<'a>(recipe: &'a Recipe, batches: &[Batch]) -> Result<&'a Recipe> {
    let mut shapes = batches.iter().filter_map(|batch| {
        let key = batch.as_ref().key()?;
        Some(recipe.shape_of(key.epoch, key.number, batch.bucket()))
    });
    let first = shapes.next().unwrap_or(recipe);
    let alike = |shape: &Recipe| shape.rows_layout(1) == first.rows_layout(1);
    if shapes.all(alike) {
        return Ok(first);
    }
    let what = "the batches have several shapes by the recipe's phases or buckets: dump one batch, \
                or samples of one bucket, at a time";
    Err(Usage(what.to_owned()).into())
}

/// Puts the rows of all batches one after the other.
fn gather(layout: &BatchLayout, batches: &[Batch], out: &mut [u8]) {
    let mut copy = |field: tubelet_core::Field, row: usize, bytes: &[u8]| {
        let start = field.offset + row * field.row_bytes;
        out[start..start + bytes.len()].copy_from_slice(bytes);
    };
    let mut row = 0;
    for batch in batches {
        let batch = batch.as_ref();
        for (n, view) in layout.views.iter().enumerate() {
            copy(view.pixels, row, batch.pixels(n));
            if let (Some(field), Some(mask)) = (view.mask, batch.mask(n)) {
                copy(field, row, mask);
            }
        }
        copy(layout.label, row, bytes_of(batch.labels()));
        copy(layout.sample, row, bytes_of(batch.samples()));
        if let (Some(field), Some(erase)) = (layout.erase, batch.erase()) {
            copy(field, row, bytes_of(erase));
        }
        row += batch.rows();
    }
}

/// Mixes the rows of each batch with each other, as training does.
fn mix(stage: &HostStage, batches: &[Batch], tensors: &mut HostTensors) {
    let mut row = 0;
    for batch in batches.iter().map(Batch::as_ref) {
        if let Some(key) = batch.key() {
            stage.mix(tensors, row..row + batch.rows(), key);
        }
        row += batch.rows();
    }
}

/// The bytes of plain numbers.
fn bytes_of<T: bytemuck::NoUninit>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

fn write(args: &DumpArgs, batch: BatchRef<'_>, t: &HostTensors, cursor: Cursor) -> Result<()> {
    let (frames, height, width) = (t.frames, t.height, t.width);
    let mut views: BTreeMap<String, TensorView<'_>> = BTreeMap::new();
    let mut add = |name: &str, dtype, shape: &[usize], bytes| -> Result<()> {
        views.insert(name.to_owned(), TensorView::new(dtype, shape.to_vec(), bytes)?);
        Ok(())
    };
    add("pixels_u8", Dtype::U8, &[t.rows, frames, height, width, 3], batch.pixels(0))?;
    add("pixels", Dtype::F32, &[t.rows, 3, frames, height, width], bytes_of(&t.pixels))?;
    add("labels", Dtype::U32, &[t.rows], bytes_of(&t.labels))?;
    add("samples", Dtype::U64, &[t.rows], bytes_of(&t.samples))?;
    if !t.mask.is_empty() {
        add("mask", Dtype::U8, &[t.rows, t.tokens], bytes_of(&t.mask))?;
        add("visible", Dtype::U32, &[t.rows, t.max_visible], bytes_of(&t.visible))?;
        add("masked", Dtype::U32, &[t.rows, t.max_masked], bytes_of(&t.masked))?;
        add("masked_count", Dtype::U32, &[t.rows], bytes_of(&t.masked_count))?;
    }
    if t.target_dim > 0 {
        let shape = [t.rows, t.max_masked, t.target_dim];
        add("targets", Dtype::F32, &shape, bytes_of(&t.targets))?;
    }
    for (k, pass) in (1..).zip(&t.passes) {
        let name = |what: &str| format!("pass{k}.{what}");
        add(&name("mask"), Dtype::U8, &[t.rows, t.tokens], bytes_of(&pass.mask))?;
        add(&name("visible"), Dtype::U32, &[t.rows, pass.max_visible], bytes_of(&pass.visible))?;
        add(&name("masked"), Dtype::U32, &[t.rows, pass.max_masked], bytes_of(&pass.masked))?;
        add(&name("masked_count"), Dtype::U32, &[t.rows], bytes_of(&pass.masked_count))?;
        if !pass.targets.is_empty() {
            let shape = [t.rows, pass.max_masked, t.target_dim];
            add(&name("targets"), Dtype::F32, &shape, bytes_of(&pass.targets))?;
        }
    }
    for (n, view) in t.views.iter().zip(1..).map(|(view, n)| (n, view)) {
        let (frames, height, width) = (view.frames, view.height, view.width);
        let name = |what: &str| format!("view{n}.{what}");
        let bytes = batch.pixels(n);
        add(&name("pixels_u8"), Dtype::U8, &[t.rows, frames, height, width, 3], bytes)?;
        let shape = [t.rows, 3, frames, height, width];
        add(&name("pixels"), Dtype::F32, &shape, bytes_of(&view.pixels))?;
        if !view.mask.is_empty() {
            let shape = [t.rows, view.mask.len() / t.rows];
            add(&name("mask"), Dtype::U8, &shape, bytes_of(&view.mask))?;
        }
    }
    if let Some(mixed) = &t.mixed {
        add("partner_labels", Dtype::U32, &[t.rows], bytes_of(&mixed.partners))?;
        add("lambda", Dtype::F32, &[t.rows], bytes_of(&mixed.lambda))?;
        add("smoothing", Dtype::F32, &[], bytes_of(std::slice::from_ref(&mixed.smoothing)))?;
    }
    // One entry: the file format keeps several in no fixed order.
    let facts = serde_json::json!({
        "recipe": args.recipe.recipe, "stage": args.stage, "seed": args.seed, "epoch": args.epoch,
        "next_epoch": cursor.epoch, "next_position": cursor.position,
    });
    let facts = std::iter::once(("tubelet".to_owned(), facts.to_string())).collect();
    Ok(safetensors::serialize_to_file(views, Some(facts), &args.output)?)
}
