//! `tubelet`: a data engine and trainer for masked visual pre-training.
//!
//! One file a subcommand. Machine output goes to standard output, everything for people to standard
//! error. Exit codes: 0 done, 1 something was found wrong, 2 the command line or configuration is
//! wrong.

#![expect(clippy::print_stdout, reason = "this is the program; libraries stay silent")]

mod bench;
mod common;
mod convert;
mod decode;
mod demo;
mod dump;
mod index;
mod inspect;
mod motion;
mod parity;
mod plan;
mod preview;
mod progress;
mod recipes;
mod train;
mod verify;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Data engine and trainer for masked visual pre-training.
#[derive(Parser)]
#[command(name = "tubelet", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log more: once for information, twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Find frame counts, sizes, frame rates and key frames once, and store them
    Index(index::IndexArgs),
    /// Write a data set as shards, as it is or re-encoded for training
    Convert(convert::ConvertArgs),
    /// Join what the tasks of a conversion wrote; refuse gaps
    Merge(convert::MergeArgs),
    /// Print a conversion as many tasks: a script for Slurm or a Kubernetes Indexed Job
    Plan(plan::PlanArgs),
    /// Check shards: checksums, decodability, counts
    Verify(verify::VerifyArgs),
    /// Show what a data set or one of its samples is, and the plan a recipe draws for it
    Inspect(inspect::InspectArgs),
    /// Draw crops, masks, targets, views and mixed rows of samples as one picture
    Preview(preview::PreviewArgs),
    /// Measure samples a second and where the time goes
    Bench(bench::BenchArgs),
    /// Write exactly what the trainer would get to a safetensors file
    Dump(dump::DumpArgs),
    /// Run reference cases and compare: one line a case
    Parity {
        /// Folder with cases.json
        dir: PathBuf,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Only cases whose name contains this text
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
    },
    /// List the recipes, or print one as TOML
    Recipes(recipes::RecipesArgs),
    /// Masked pre-training
    Pretrain(train::PretrainArgs),
    /// Fine-tune a classifier
    Finetune(train::FinetuneArgs),
    /// Evaluate a fine-tuned run with several views a sample
    Eval(train::EvalArgs),
    /// Make a small video data set, convert it, pre-train, fine-tune, evaluate, report
    Demo(demo::DemoArgs),
}

/// A reader of the output that goes away, as `head` does, ends the program as it ends others.
#[cfg(unix)]
fn end_with_the_reader() {
    // SAFETY: restores the default action, before any thread is started.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

fn main() -> ExitCode {
    #[cfg(unix)]
    end_with_the_reader();
    let cli = Cli::parse();
    let level = ["warn", "info", "debug"][usize::from(cli.verbose.min(2))];
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    match run(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {}", common::error_text(&error));
            ExitCode::from(common::exit_code(&error))
        }
    }
}

/// Whether nothing was found wrong.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Index(args) => index::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Merge(args) => convert::run_merge(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Preview(args) => preview::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Parity { dir, json, only } => parity::run(&dir, &parity::Options { json, only }),
        Command::Recipes(args) => recipes::run(&args),
        Command::Pretrain(args) => train::pretrain(&args),
        Command::Finetune(args) => train::finetune(&args),
        Command::Eval(args) => train::eval(&args),
        Command::Demo(args) => demo::run(&args),
    }
}
