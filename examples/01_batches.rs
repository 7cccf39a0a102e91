//! Lesson 1: open a data set, take a recipe, iterate over batches.
//!
//!     cargo run --release --example 01_batches -- /data/imagenet mae-tiny

use std::path::Path;
use std::sync::Arc;

use tubelet_augment::builtin;
use tubelet_loader::{Cursor, Heap, HostStage, Loader, LoaderConfig, OpenOptions, Stage, open};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(data), Some(name)) = (arguments.next(), arguments.next()) else {
        return Err("give a data set and a recipe".into());
    };
    let shards = open(Path::new(&data), &OpenOptions::default())?;
    let recipe = Arc::new(builtin::recipe(&name, &[])?.stage(Stage::Pretrain)?);
    let stage = HostStage::new(&recipe);
    let loader = Loader::new(shards, recipe, &Heap, LoaderConfig::default())?;
    for batch in loader.batches(Cursor::default())?.take(3) {
        let batch = batch?;
        let floats = stage.run(batch.as_ref());
        eprintln!(
            "{} rows, {} hidden tokens of {} with targets of {} numbers; go on at {:?}",
            floats.rows,
            floats.max_masked,
            floats.tokens,
            floats.target_dim,
            batch.cursor()
        );
    }
    Ok(())
}
