//! `tubelet verify`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use tubelet_formats::verify::verify;

use crate::common::{EndpointArgs, bare_table, default_workers};
use crate::progress::progress;

#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// Folder that `convert` wrote in any of its formats, with manifest.json, or its URL
    dir: PathBuf,
    /// Check checksums and counts only; decode nothing
    #[arg(long)]
    no_decode: bool,
    /// Threads [default: one a core]
    #[arg(long)]
    workers: Option<usize>,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

pub(crate) fn run(args: &VerifyArgs) -> Result<bool> {
    let bar = progress(0, "verifying");
    let workers = args.workers.unwrap_or_else(default_workers);
    let (decode, store) = (!args.no_decode, args.endpoint.options());
    let report = verify(&args.dir, workers, decode, &store, &|done, total| bar.set(done, total))?;
    bar.finish();
    if !report.problems.is_empty() {
        let mut table = bare_table();
        table.set_header(["file", "row", "sample", "what is wrong"]);
        for problem in &report.problems {
            table.add_row([
                problem.file.clone(),
                problem.row.map(|r| r.to_string()).unwrap_or_default(),
                problem.name.clone(),
                problem.what.clone(),
            ]);
        }
        println!("{table}");
    }
    eprintln!(
        "{} shards, {} samples, {} problems",
        report.shards,
        report.rows,
        report.problems.len()
    );
    Ok(report.problems.is_empty())
}
