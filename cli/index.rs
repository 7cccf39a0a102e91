//! `tubelet index`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use tubelet_formats::Index;

use crate::common::{DataArgs, default_workers};
use crate::progress::progress;

#[derive(Args)]
pub(crate) struct IndexArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Where to store the index [default: where `open` finds it again: .tubelet/ in the data set, or
    /// the user's cache folder where that cannot be written]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Threads [default: one a core]
    #[arg(long)]
    workers: Option<usize>,
}

pub(crate) fn run(args: &IndexArgs) -> Result<bool> {
    let shards = args.data.open()?;
    let bar = progress(shards.len() as u64, "indexing");
    let workers = args.workers.unwrap_or_else(default_workers);
    let index = Index::build(shards.as_ref(), workers, &|done, total| bar.set(done, total));
    bar.finish();
    let path = match &args.output {
        Some(path) => path.clone(),
        None => Index::default_path(&args.data.path, &args.data.how.options("train").split),
    };
    index.write(&path)?;
    let broken = index.broken();
    for (name, why) in broken.iter().take(50) {
        eprintln!("broken: {name}: {why}");
    }
    if broken.len() > 50 {
        eprintln!("and {} more", broken.len() - 50);
    }
    eprintln!(
        "{} of {} samples indexed, {} broken; written to {}",
        index.len() - broken.len(),
        index.len(),
        broken.len(),
        path.display()
    );
    Ok(broken.is_empty())
}
