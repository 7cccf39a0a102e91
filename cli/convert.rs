//! `tubelet convert`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use tubelet_formats::convert::{ConvertOptions, ConvertReport, OnBroken, Profile, convert};

use crate::common::{DataArgs, Usage, bytes_text, default_workers, progress};

/// What is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProfileArg {
    /// The encoded bytes as they are
    Keep,
    /// Re-encoded for training
    Train,
}

impl From<ProfileArg> for Profile {
    fn from(arg: ProfileArg) -> Self {
        match arg {
            ProfileArg::Keep => Self::Keep,
            ProfileArg::Train => Self::Train,
        }
    }
}

/// What happens with media that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnErrorArg {
    /// Leave them out and name them in the manifest
    Skip,
    /// Stop at the first
    Fail,
}

#[derive(Args)]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Folder for the shards and manifest.json
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// How pictures are stored
    #[arg(long, value_enum, default_value_t = ProfileArg::Keep)]
    images: ProfileArg,
    /// How videos are stored
    #[arg(long, value_enum, default_value_t = ProfileArg::Keep)]
    video: ProfileArg,
    /// Bytes of a shard, about: a number with KiB, MiB, GiB, kB, MB or GB
    #[arg(long, value_parser = parse_bytes, default_value = "512MiB")]
    shard_size: u64,
    /// Write only part i of n (from 0): run all n, anywhere, to get the whole
    #[arg(long, value_name = "I/N", value_parser = parse_task, default_value = "0/1")]
    task: (u32, u32),
    /// What happens with media that cannot be read
    #[arg(long, value_enum, default_value_t = OnErrorArg::Skip)]
    on_error: OnErrorArg,
    /// Threads [default: one a core]
    #[arg(long)]
    workers: Option<usize>,
}

pub(crate) fn run(args: &ConvertArgs) -> Result<bool> {
    if args.images == ProfileArg::Train || args.video == ProfileArg::Train {
        bail!(Usage(
            "the train profile is not there yet: use --images keep --video keep".to_owned()
        ));
    }
    let shards = args.data.open()?;
    let options = ConvertOptions {
        shard_size: args.shard_size,
        images: args.images.into(),
        video: args.video.into(),
        task: args.task,
        on_error: match args.on_error {
            OnErrorArg::Skip => OnBroken::Skip,
            OnErrorArg::Fail => OnBroken::Fail,
        },
        workers: args.workers.unwrap_or_else(default_workers),
        split: args.data.how.options("train").split,
    };
    let bar = progress(shards.len() as u64, "converting");
    let source = args.data.path.display().to_string();
    let report = convert(shards.as_ref(), &source, &args.output, &options, &|done, _| {
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    print_report(args, &report);
    Ok(true)
}

fn print_report(args: &ConvertArgs, report: &ConvertReport) {
    for drop in report.drops.iter().take(50) {
        eprintln!("left out: {}: {}", drop.name, drop.why);
    }
    if report.drops.len() > 50 {
        eprintln!("and {} more, all in manifest.json", report.drops.len() - 50);
    }
    eprintln!(
        "{} listed = {} written + {} missing + {} broken",
        report.listed,
        report.written,
        report.missing,
        report.drops.len()
    );
    eprintln!(
        "{} shards, {}, in {}",
        report.shards,
        bytes_text(report.bytes),
        args.output.display()
    );
}

/// `512MiB` as bytes.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "" | "B" => 1u64,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => return Err(format!("unit `{other}`: use KiB, MiB, GiB, kB, MB or GB")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is not a size"))?;
    let bytes = number * scale as f64;
    if bytes >= 1.0 { Ok(bytes as u64) } else { Err("must be at least one byte".to_owned()) }
}

/// `2/8` as (2, 8).
fn parse_task(text: &str) -> Result<(u32, u32), String> {
    let error = || format!("`{text}`: write i/n with i below n, for example 0/8");
    let (i, n) = text.split_once('/').ok_or_else(error)?;
    match (i.parse(), n.parse()) {
        (Ok(i), Ok(n)) if i < n => Ok((i, n)),
        _ => Err(error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_tasks_are_read() {
        assert_eq!(parse_bytes("512MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("1.5kB"), Ok(1500));
        assert!(parse_bytes("12 parsecs").is_err());
        assert!(parse_bytes("0").is_err());
        assert_eq!(parse_task("3/8"), Ok((3, 8)));
        assert!(parse_task("8/8").is_err());
    }
}
