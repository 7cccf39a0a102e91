//! `tubelet convert`, `tubelet merge`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use tubelet_formats::convert::{
    ConvertOptions, ConvertReport, Dropped, Filter, Format, Images, OnBroken, Videos, convert,
    merge,
};
use tubelet_formats::dataset::Layout;
use tubelet_formats::store::{Location, locate};
use tubelet_formats::transcode::{PictureSettings, Pyramid, Rate, VideoSettings};
use tubelet_formats::{OpenOptions, ShardReader, layout, open_as};

use crate::common::{
    DataArgs, EndpointArgs, Usage, bytes_text, default_workers, parse_bytes, report_missing,
};
use crate::progress::progress;

/// How pictures are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ImagesArg {
    /// The encoded bytes as they are
    Keep,
    /// Shorter side limited, JPEG that restarts at every row of blocks; small ones as they are
    Train,
}

/// How videos are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum VideoArg {
    /// The encoded bytes as they are
    Keep,
    /// H.264 made for fast clips: closed groups of 32, references at every stride-th frame only
    Train,
    /// The same with CABAC and deblocking: about a quarter smaller, slower to decode
    TrainSmall,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// Parquet shards
    Parquet,
    /// WebDataset tar shards
    Webdataset,
    /// A folder a class, a file a sample
    Folder,
}

/// What happens with media that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnErrorArg {
    /// Leave them out and name them in the manifest and quarantine.tsv; of damaged tar archives what is
    /// behind the damage
    Skip,
    /// Stop at the first
    Fail,
}

#[derive(Args)]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Folder for the shards and manifest.json, or its URL (s3://, gs://, az://); an interrupted
    /// conversion goes on where it stopped
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// How pictures are stored
    #[arg(long, value_enum, default_value_t = ImagesArg::Keep)]
    images: ImagesArg,
    /// How videos are stored
    #[arg(long, value_enum, default_value_t = VideoArg::Keep)]
    video: VideoArg,
    /// What is written
    #[arg(long, value_enum, default_value_t = FormatArg::Parquet)]
    format: FormatArg,
    /// With a train profile: largest shorter side in pixels, never enlarged [default: 512 for
    /// pictures, 256 for videos]
    #[arg(long, value_name = "PIXELS")]
    short_side: Option<u32>,
    /// Further encodings of each picture at these shorter sides, where they are below its own: columns
    /// image_px128 … of Parquet, members .px128.jpg … of tars, folders SPLIT-px128 … beside
    /// SPLIT. The loader takes the smallest that no crop of the sample enlarges from Parquet
    /// where the recipe says so (--set pretrain.pyramid=true)
    #[arg(long, value_name = "PIXELS,...", value_delimiter = ',')]
    pyramid: Vec<u32>,
    /// With --images train or --pyramid: JPEG quality, 1 to 100 [default: 90]
    #[arg(long, value_name = "Q", value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: Option<u8>,
    /// With a train profile of videos: distance of reference frames, 1, 2, 4, 8 or 16 [default: 2
    /// for Something-Something, else 4]
    #[arg(long, value_name = "FRAMES")]
    stride: Option<u32>,
    /// With a train profile of videos: x264's constant rate factor, 0 to 51 [default: 23]
    #[arg(long, value_name = "CRF", value_parser = clap::value_parser!(u32).range(0..=51))]
    crf: Option<u32>,
    /// With a train profile of videos: a constant number of frames per second, such as 25, 12.5 or
    /// 30000/1001; each tick shows the frame whose time is nearest at or before it, as FFmpeg's fps
    /// filter chooses with round=near [default: the source's own times]
    #[arg(long, value_name = "FPS")]
    fps: Option<Rate>,
    /// With a train profile of videos: leave the sound out instead of copying it
    #[arg(long)]
    drop_audio: bool,
    /// Leave out videos of fewer frames
    #[arg(long, value_name = "FRAMES", default_value_t = 0)]
    min_frames: u32,
    /// Leave out media whose shorter side is smaller
    #[arg(long, value_name = "PIXELS", default_value_t = 0)]
    min_side: u32,
    /// Bytes of sources in a shard, about: a number with KiB, MiB, GiB, kB, MB or GB
    #[arg(long, value_parser = parse_bytes, default_value = "512MiB")]
    shard_size: u64,
    /// Write only part i of n (from 0): run all n, anywhere, to get the whole. `auto` takes i and n
    /// from Slurm's array, `auto/N` takes i from Slurm's or Kubernetes' index
    #[arg(long, value_name = "I/N|auto|auto/N", value_parser = parse_task, default_value = "0/1")]
    task: Task,
    /// What happens with media that cannot be read
    #[arg(long, value_enum, default_value_t = OnErrorArg::Skip)]
    on_error: OnErrorArg,
    /// Go on where an interrupted conversion stopped: what happens anyway
    #[arg(long)]
    resume: bool,
    /// Threads [default: one a core]
    #[arg(long)]
    workers: Option<usize>,
}

/// Which part of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Part and number of parts.
    Part(u32, u32),
    /// As the cluster says, of so many where it does not say.
    Auto(Option<u32>),
}

impl ConvertArgs {
    /// Where the shards go.
    pub(crate) fn output(&self) -> &Path {
        &self.output
    }

    /// Where the data set is.
    pub(crate) fn data(&self) -> &Path {
        &self.data.path
    }

    /// The server of object stores that is asked for.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.data.how.store.endpoint()
    }

    /// Whether the command line names a part.
    pub(crate) fn has_task(&self) -> bool {
        self.task != Task::Part(0, 1)
    }

    /// The options of the library.
    pub(crate) fn options(&self) -> Result<ConvertOptions> {
        Ok(ConvertOptions {
            shard_size: self.shard_size,
            images: self.images()?,
            pyramid: self.pyramid(),
            video: self.videos()?,
            format: match self.format {
                FormatArg::Parquet => Format::Parquet,
                FormatArg::Webdataset => Format::Webdataset,
                FormatArg::Folder => Format::Folder,
            },
            filter: Filter { min_frames: self.min_frames, min_side: self.min_side },
            task: resolve(self.task, |name| std::env::var(name).ok()).map_err(Usage)?,
            on_error: match self.on_error {
                OnErrorArg::Skip => OnBroken::Skip,
                OnErrorArg::Fail => OnBroken::Fail,
            },
            workers: self.workers.unwrap_or_else(default_workers),
            split: self.data.how.options("train").split,
            store: self.data.how.store.options(),
        })
    }

    fn images(&self) -> Result<Images> {
        let usual = PictureSettings::default();
        match self.images {
            ImagesArg::Train => Ok(Images::Train(PictureSettings {
                short_side: self.short_side.unwrap_or(usual.short_side),
                quality: self.quality.unwrap_or(usual.quality),
            })),
            ImagesArg::Keep if self.quality.is_some() && self.pyramid.is_empty() => {
                bail!(Usage("--quality needs --images train or --pyramid".to_owned()))
            }
            ImagesArg::Keep => Ok(Images::Keep),
        }
    }

    fn pyramid(&self) -> Option<Pyramid> {
        let mut sides = self.pyramid.clone();
        sides.sort_unstable();
        sides.dedup();
        let quality = self.quality.unwrap_or(PictureSettings::default().quality);
        (!sides.is_empty()).then_some(Pyramid { sides, quality })
    }

    fn videos(&self) -> Result<Videos> {
        let usual = VideoSettings::default();
        if self.video == VideoArg::Keep {
            let given = [
                ("--stride", self.stride.is_some()),
                ("--crf", self.crf.is_some()),
                ("--drop-audio", self.drop_audio),
                ("--fps", self.fps.is_some()),
                ("--short-side", self.short_side.is_some() && self.images == ImagesArg::Keep),
            ];
            if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
                bail!(Usage(format!("{name} needs a train profile, for example --video train")));
            }
            return Ok(Videos::Keep);
        }
        let stride = self.stride.unwrap_or_else(|| self.usual_stride(usual.stride));
        Ok(Videos::Train(VideoSettings {
            short_side: self.short_side.unwrap_or(usual.short_side),
            stride,
            crf: self.crf.unwrap_or(usual.crf),
            small: self.video == VideoArg::TrainSmall,
            drop_audio: self.drop_audio,
            fps: self.fps,
        }))
    }

    /// 2 for Something-Something, whose recipes take every second frame.
    fn usual_stride(&self, other: u32) -> u32 {
        match layout(&self.data.path, &self.data.how.options("train")) {
            Ok(Layout::Ssv2) => 2,
            _ => other,
        }
    }
}

pub(crate) fn run(args: &ConvertArgs) -> Result<bool> {
    let options = args.options()?;
    let usual = args.data.how.options("train");
    check_places(&args.data.path, &args.output, options.format)?;
    let salvage = options.on_error == OnBroken::Skip;
    let how = OpenOptions { stream: !usual.unpack, salvage, ..usual };
    let (layout, shards) = open_as(&args.data.path, &how)?;
    report_missing(shards.as_ref());
    eprintln!("{}", summary(layout, &options.split, shards.as_ref()));
    let bar = progress(shards.len() as u64, "converting");
    let source = args.data.path.display().to_string();
    let report = convert(shards.as_ref(), &source, &args.output, &options, &|done, total| {
        bar.set(done, total)
    })?;
    bar.finish();
    Ok(print_report(&args.output, &report))
}

/// What is about to be converted, on one line.
fn summary(layout: Layout, split: &str, shards: &dyn ShardReader) -> String {
    let unlabelled = (0..shards.len()).filter(|n| shards.record(*n).label.is_none()).count();
    format!(
        "layout {layout}, split {split}: {} samples, {} classes, {unlabelled} without label",
        shards.len(),
        shards.classes().len()
    )
}

/// Refuses an output that would be mixed with the data set.
fn check_places(data: &Path, output: &Path, format: Format) -> Result<()> {
    let (Ok(Location::Local(data)), Ok(Location::Local(output))) = (locate(data), locate(output))
    else {
        return Ok(());
    };
    let (Ok(data), Ok(output)) = (data.canonicalize(), output.canonicalize()) else {
        return Ok(());
    };
    if data == output || format == Format::Folder && data.starts_with(&output) {
        bail!(Usage(format!(
            "the output {} holds the data set itself: name another folder",
            output.display()
        )));
    }
    Ok(())
}

#[derive(Args)]
pub(crate) struct MergeArgs {
    /// Folder that the tasks wrote to, or that takes the shards of the others; or its URL
    dir: PathBuf,
    /// Folders of tasks that wrote elsewhere
    others: Vec<PathBuf>,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Joins the tasks of a conversion.
pub(crate) fn run_merge(args: &MergeArgs) -> Result<bool> {
    let report = merge(&args.dir, &args.others, &args.endpoint.options())?;
    Ok(print_report(&args.dir, &report))
}

/// Says what was done; whether anything was.
fn print_report(output: &Path, report: &ConvertReport) -> bool {
    print_some("broken", &report.broken);
    print_some("filtered", &report.filtered);
    print_some("note", &report.notes);
    if let Some(psnr) = report.quality.psnr() {
        let ssim = report.quality.ssim().map_or(String::new(), |s| format!(", SSIM {s:.4}"));
        let samples = report.measured;
        eprintln!("PSNR {psnr:.2} dB{ssim} over {samples} samples, against the resized sources");
    }
    if report.complete {
        eprintln!(
            "{} listed = {} written + {} missing + {} broken + {} filtered",
            report.listed,
            report.written,
            report.missing,
            report.broken.len(),
            report.filtered.len()
        );
    } else {
        eprintln!(
            "{} of {} shards are there, {} samples of {}; the manifest is written with the last",
            report.shards, report.planned, report.written, report.listed
        );
    }
    let bytes = bytes_text(report.bytes);
    eprintln!("{} shards, {bytes}, in {}", report.shards, output.display());
    let nothing = report.complete && report.written == 0;
    if nothing {
        eprintln!("nothing was written: all samples were left out");
    }
    !nothing
}

fn print_some(what: &str, dropped: &[Dropped]) {
    for drop in dropped.iter().take(20) {
        eprintln!("{what}: {}: {}", drop.name, drop.why);
    }
    if dropped.len() > 20 {
        eprintln!("{what}: and {} more, all in the manifest", dropped.len() - 20);
    }
}

/// `2/8`, `auto` or `auto/8`.
fn parse_task(text: &str) -> Result<Task, String> {
    let error =
        || format!("`{text}`: write i/n with i below n, for example 0/8, or auto, or auto/8");
    if text == "auto" {
        return Ok(Task::Auto(None));
    }
    let (i, n) = text.split_once('/').ok_or_else(error)?;
    let n = n.parse().ok().filter(|n| *n > 0).ok_or_else(error)?;
    match i.parse() {
        _ if i == "auto" => Ok(Task::Auto(Some(n))),
        Ok(i) if i < n => Ok(Task::Part(i, n)),
        _ => Err(error()),
    }
}

/// Part and number of parts; `variable` looks into the environment.
fn resolve(task: Task, variable: impl Fn(&str) -> Option<String>) -> Result<(u32, u32), String> {
    let parts = match task {
        Task::Part(i, n) => return Ok((i, n)),
        Task::Auto(parts) => parts,
    };
    let number = |name: &str| -> Result<Option<u32>, String> {
        let Some(text) = variable(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{name} is `{text}`, not a number"))
    };
    let (index, source, count) = match number("SLURM_ARRAY_TASK_ID")? {
        Some(id) => {
            let least = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let count = number("SLURM_ARRAY_TASK_COUNT")?;
            (id.saturating_sub(least) / step, "SLURM_ARRAY_TASK_ID", count)
        }
        None => match number("JOB_COMPLETION_INDEX")? {
            Some(index) => (index, "JOB_COMPLETION_INDEX", None),
            None => {
                return Err(
                    "--task auto: neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is \
                            set; write --task i/n"
                        .to_owned(),
                );
            }
        },
    };
    let parts = parts.or(count).ok_or_else(|| {
        format!("--task auto: {source} is set but not the number of tasks; write --task auto/N")
    })?;
    if index < parts {
        return Ok((index, parts));
    }
    Err(format!("--task auto: {source} makes this task {index} of {parts}, counted from 0"))
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
        assert_eq!(parse_task("3/8"), Ok(Task::Part(3, 8)));
        assert_eq!(parse_task("auto/8"), Ok(Task::Auto(Some(8))));
        for wrong in ["8/8", "auto/0", "3", "x/2", "-1/2"] {
            assert!(parse_task(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn clusters_tell_the_task() {
        let with = |set: &'static [(&'static str, &'static str)], task| {
            let find = |name: &str| set.iter().find(|(n, _)| *n == name);
            resolve(task, |name| find(name).map(|(_, v)| (*v).to_owned()))
        };
        let slurm = &[
            ("SLURM_ARRAY_TASK_ID", "7"),
            ("SLURM_ARRAY_TASK_MIN", "1"),
            ("SLURM_ARRAY_TASK_COUNT", "8"),
        ];
        assert_eq!(with(slurm, Task::Auto(None)), Ok((6, 8)));
        assert!(with(slurm, Task::Auto(Some(6))).is_err());
        let kubernetes = &[("JOB_COMPLETION_INDEX", "3")];
        assert_eq!(with(kubernetes, Task::Auto(Some(4))), Ok((3, 4)));
        assert!(with(kubernetes, Task::Auto(None)).unwrap_err().contains("auto/N"));
        assert!(with(&[], Task::Auto(None)).unwrap_err().contains("i/n"));
        assert!(with(&[("JOB_COMPLETION_INDEX", "x")], Task::Auto(Some(4))).is_err());
    }
}
