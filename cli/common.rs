//! Arguments and small things that several subcommands share.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{Table, presets};
use tubelet_augment::{Recipe, RecipeError, RecipeFile, Stage, builtin};
use tubelet_formats::dataset::Layout;
use tubelet_formats::error::FormatErrorKind;
use tubelet_formats::{CacheOptions, FormatError, OpenOptions, ShardReader, StoreOptions, open};
use tubelet_loader::LoaderError;
use tubelet_trainer::error::{TrainError, TrainErrorKind};

/// The command line asks for something that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// 2 where the command line or configuration is wrong, else 1.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    let configuration = error.chain().any(|cause| {
        cause.is::<Usage>()
            || cause.is::<RecipeError>()
            || matches!(cause.downcast_ref(), Some(LoaderError::Config(_)))
            || matches!(
                cause.downcast_ref::<TrainError>().map(|e| &e.kind),
                Some(TrainErrorKind::Recipe(_))
            )
            || matches!(
                cause.downcast_ref::<FormatError>().map(|e| &e.kind),
                Some(FormatErrorKind::Layout(_))
            )
    });
    if configuration { 2 } else { 1 }
}

/// The error and its causes, those left out that an outer message tells already.
pub(crate) fn error_text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// A data set on the command line.
#[derive(Args, Clone)]
pub(crate) struct DataArgs {
    /// Data set: a folder, a list, an archive (.tar, .beton) or a Parquet file; Parquet and tar shards
    /// also by URL (s3://, gs://, az://, http(s)://)
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) how: HowArgs,
}

/// How a data set is laid out.
#[derive(Args, Clone, Default)]
pub(crate) struct HowArgs {
    /// Layout of the data set; found out where it is not given
    #[arg(long, value_name = "LAYOUT", help = layout_help())]
    pub(crate) layout: Option<Layout>,
    /// Which part of the data set [default: train]
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// Annotation file, where it is not at its usual place
    #[arg(long, value_name = "FILE")]
    pub(crate) annotations: Option<PathBuf>,
    /// What separates the fields of a list [default: found out line by line]
    #[arg(long, value_name = "CHARACTER")]
    pub(crate) separator: Option<char>,
    /// Of samples with several media (webdataset, mds, beton): the one to take
    #[arg(long, value_name = "NAME")]
    pub(crate) field: Option<String>,
    /// Decompress archives (.tar.gz, .tar.zst, .mds.zstd, .mds.br …) once, to .tubelet/ beside them:
    /// they have no random access as they are. `convert` reads compressed tar archives without that
    #[arg(long)]
    pub(crate) unpack: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Where an object store is.
#[derive(Args, Clone, Default)]
pub(crate) struct EndpointArgs {
    /// Server of an object store, where it is not the usual one, for example http://localhost:9000
    /// [default: as AWS_ENDPOINT_URL says]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
}

impl EndpointArgs {
    /// The options of the library, without a cache.
    pub(crate) fn options(&self) -> StoreOptions {
        StoreOptions { endpoint: self.endpoint.clone(), ..StoreOptions::default() }
    }
}

/// How an object store is read.
#[derive(Args, Clone, Default)]
pub(crate) struct StoreArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// Keep copies of what is read from an object store in this folder, a new or empty one or one
    /// that was used so before
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Most bytes of the copies [default: 10GiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, requires = "cache")]
    cache_size: Option<u64>,
}

/// Bytes of a cache where the command line has none.
const CACHE_BYTES: u64 = 10 << 30;

impl StoreArgs {
    /// The options of the library.
    pub(crate) fn options(&self) -> StoreOptions {
        let bytes = self.cache_size.unwrap_or(CACHE_BYTES);
        let cache = self.cache.clone().map(|folder| CacheOptions { folder, bytes });
        StoreOptions { cache, ..self.endpoint.options() }
    }

    /// The server that is asked for.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.endpoint.endpoint.as_deref()
    }
}

/// `512MiB` as bytes.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
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

fn layout_help() -> String {
    let names: Vec<String> = Layout::ALL.iter().map(ToString::to_string).collect();
    format!("Layout of the data set: {} [default: found out]", names.join(", "))
}

impl HowArgs {
    /// The options of [`open`], with `split` where the command line has none.
    pub(crate) fn options(&self, split: &str) -> OpenOptions {
        OpenOptions {
            layout: self.layout,
            split: self.split.clone().unwrap_or_else(|| split.to_owned()),
            annotations: self.annotations.clone(),
            separator: self.separator,
            field: self.field.clone(),
            unpack: self.unpack,
            store: self.store.options(),
            stream: false,
            salvage: false,
        }
    }
}

impl DataArgs {
    /// Opens the data set and says how it was listed and what annotations list but the disk lacks.
    pub(crate) fn open(&self) -> Result<Arc<dyn ShardReader>> {
        let shards = open(&self.path, &self.how.options("train"))?;
        report_missing(shards.as_ref());
        Ok(shards)
    }
}

/// Tells what a person should know of how samples were listed, and names up to ten files that are
/// listed but absent.
pub(crate) fn report_missing(shards: &dyn ShardReader) {
    for note in shards.notes() {
        eprintln!("note: {note}");
    }
    let missing = shards.missing();
    if missing.is_empty() {
        return;
    }
    eprintln!("{} listed files are not on disk:", missing.len());
    for name in missing.iter().take(10) {
        eprintln!("  {name}");
    }
    if missing.len() > 10 {
        eprintln!("  and {} more", missing.len() - 10);
    }
}

/// A recipe on the command line.
#[derive(Args, Clone)]
pub(crate) struct RecipeArgs {
    /// Recipe: a name from `tubelet recipes`, or a TOML file
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) recipe: String,
    /// Change a value of the recipe, for example pretrain.batch_size=16; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

impl RecipeArgs {
    /// The recipe with its changes.
    pub(crate) fn file(&self) -> Result<RecipeFile> {
        recipe_file(&self.recipe, &self.set)
    }

    /// One stage of it.
    pub(crate) fn stage(&self, stage: Stage) -> Result<Arc<Recipe>> {
        Ok(Arc::new(self.file()?.stage(stage)?))
    }
}

/// The recipe `name`, built in or a file, with `overrides`.
pub(crate) fn recipe_file(name: &str, overrides: &[String]) -> Result<RecipeFile> {
    let file = if builtin::text(name).is_some() || !name.ends_with(".toml") {
        builtin::recipe(name, overrides)?
    } else {
        let text = std::fs::read_to_string(name)
            .map_err(|e| Usage(format!("cannot read the recipe {name}: {e}")))?;
        RecipeFile::parse(name, &text, overrides).context("bad recipe")?
    };
    tubelet_trainer::config::check(&file).with_context(|| format!("recipe {name}"))?;
    Ok(file)
}

/// Worker threads where the command line has none.
pub(crate) fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A table without lines.
pub(crate) fn bare_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

/// `1234567` bytes as `1.2 MB`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
