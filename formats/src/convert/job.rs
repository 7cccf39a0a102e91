//! The listing cut into shards, and the threads that write them.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use super::place::Place;
use super::records::{JobRecord, Outcome, SampleRecord, Settings, ShardRecord, to_json};
use super::sample::{Maker, Payload, Prepared};
use super::sink::Sink;
use super::{ConvertOptions, Format, Images, OnBroken, Videos};
use crate::error::{FormatError, FormatErrorKind};
use crate::index::in_parallel;
use crate::record::{MediaKind, Record, ShardReader};
use crate::transcode::{Pyramid, Quality};

/// Bytes of sources that are read ahead of the file being written.
const AHEAD_BYTES: u64 = 32 << 20;
/// Sources that are read ahead of the file being written.
const AHEAD: usize = 64;

/// Most levels of a pyramid.
const MAX_LEVELS: usize = 8;

/// Most class folders that are made for labels without names.
const MAX_FOLDERS: u32 = 1 << 20;

/// A source that was read before its turn; taken once.
type ReadAhead = Mutex<Option<Result<Vec<u8>, FormatError>>>;

/// One conversion.
pub(super) struct Job<'a> {
    reader: &'a dyn ShardReader,
    out: &'a Place,
    options: &'a ConvertOptions,
    record: JobRecord,
    sizes: Vec<u64>,
    /// First and last sample of each shard.
    shards: Vec<Range<usize>>,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        reader: &'a dyn ShardReader,
        source: &str,
        out: &'a Place,
        options: &'a ConvertOptions,
    ) -> Result<Self, FormatError> {
        let kind = kind_of_all(reader, &out.path(""))?;
        check_profiles(kind, options, &out.path(""))?;
        out.takes(options.format)?;
        let sizes = sizes(reader);
        let shards = cut(&sizes, options.shard_size);
        let record = JobRecord {
            tool: format!("tubelet {}", env!("CARGO_PKG_VERSION")),
            source: source.to_owned(),
            listing: hash_of_listing(reader, &sizes),
            settings: Settings {
                split: options.split.clone(),
                shard_size: options.shard_size,
                format: options.format,
                images: options.images,
                pyramid: options.pyramid.clone(),
                video: options.video,
                filter: options.filter,
                kind,
            },
            shards: shards.len(),
            samples: reader.len(),
            missing: reader.missing().to_vec(),
            classes: classes(reader, options.format),
        };
        record.claim(out)?;
        Ok(Self { reader, out, options, record, sizes, shards })
    }

    /// Writes this task's shards, those that are done already excepted.
    pub(super) fn run(&self, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<(), FormatError> {
        let (part, parts) = self.options.task;
        let mine: Vec<usize> =
            (0..self.shards.len()).filter(|n| *n as u32 % parts.max(1) == part).collect();
        let total = mine.iter().map(|n| self.shards[*n].len()).sum();
        let outer = self.options.workers.clamp(1, mine.len().max(1));
        let inner = (self.options.workers / outer).max(1);
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..outer {
                scope.spawn(|| {
                    let tick = &|| progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
                    while let Some(n) = mine.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.shard(*n, inner, tick) {
                            let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                            first.get_or_insert(error);
                            next.store(mine.len(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Writes shard `n` on `threads` threads unless it is done.
    fn shard(&self, n: usize, threads: usize, tick: &(dyn Fn() + Sync)) -> Result<(), FormatError> {
        if self.record.finished(self.out, n)?.is_some() {
            self.shards[n].clone().for_each(|_| tick());
            return Ok(());
        }
        let file = self.record.file_name(n);
        let shown = self.out.path(&file);
        let working = match self.options.format {
            Format::Folder => None,
            _ => Some(self.out.working(&file)?),
        };
        let path = working.as_ref().map_or(shown.as_path(), |w| w.path());
        let mut sink = Sink::create(path, &shown, &self.out.path(""), &self.record)?;
        let (mut samples, mut measured) = (Vec::new(), (Quality::default(), 0));
        for batch in self.batches(n) {
            for (sample, prepared) in self.prepare(batch, n, threads, tick) {
                let record = self.store(sample, prepared, &mut sink, &mut measured)?;
                samples.push(record);
            }
        }
        if measured.1 == 0 {
            measured = self.measure_one(n, &samples);
        }
        let (bytes, xxh3) = sink.finish()?;
        if let Some(working) = working {
            self.out.publish(&file, working)?;
        }
        let (quality, measured) = measured;
        let record = ShardRecord { file, bytes, xxh3, samples, quality, measured };
        self.out.write(&self.record.record_name(n), to_json(&record).as_bytes())
    }

    /// Re-encodes the first sample of shard `n` that was written once more, to measure its error.
    /// For shards whose first sample is left out and that hold none of the drawn ones.
    fn measure_one(&self, n: usize, samples: &[SampleRecord]) -> (Quality, u64) {
        let settings = &self.record.settings;
        let written = samples.iter().position(|s| s.outcome == Outcome::Written);
        let Some(at) = written.filter(|_| settings.reencodes()) else {
            return (Quality::default(), 0);
        };
        let record = self.reader.record(self.shards[n].start + at);
        let prepared = Maker::new(self.reader, settings).make(&record, true);
        match prepared.result {
            Ok(Payload { quality: Some(quality), .. }) => (quality, 1),
            _ => (Quality::default(), 0),
        }
    }

    /// Shard `n` in pieces that fit into memory.
    fn batches(&self, n: usize) -> Vec<Range<usize>> {
        let range = self.shards[n].clone();
        let few = cut(&self.sizes[range.clone()], AHEAD_BYTES).into_iter();
        few.flat_map(|r| {
            let (start, end) = (range.start + r.start, range.start + r.end);
            (start..end).step_by(AHEAD).map(move |at| at..(at + AHEAD).min(end))
        })
        .collect()
    }

    /// Reads and re-encodes the samples of `batch`, in order.
    fn prepare(
        &self,
        batch: Range<usize>,
        n: usize,
        threads: usize,
        tick: &(dyn Fn() + Sync),
    ) -> Vec<(Record, Prepared)> {
        let first = self.shards[n].start;
        let read = self.read_ahead(&batch);
        in_parallel(batch.len(), threads, &|_, _| tick(), || {
            let mut maker = Maker::new(self.reader, &self.record.settings);
            let read = &read;
            move |k| {
                let index = batch.start + k;
                let record = self.reader.record(index);
                let measure = index == first || xxh3_64(record.name.as_bytes()) % 64 == 0;
                let here = read.get(k).and_then(|r| r.lock().ok()?.take());
                let prepared = match here {
                    Some(read) => maker.make_of(&record, read, measure),
                    None => maker.make(&record, measure),
                };
                (record, prepared)
            }
        })
    }

    /// The sources of `batch`, read in order, where another order is slow; else none.
    fn read_ahead(&self, batch: &Range<usize>) -> Vec<ReadAhead> {
        let read = |n: usize| {
            let mut buf = Vec::new();
            let record = self.reader.record(n);
            Mutex::new(Some(self.reader.read(&record, &mut buf).map(<[u8]>::to_vec)))
        };
        if self.reader.in_order() { batch.clone().map(read).collect() } else { Vec::new() }
    }

    /// Adds one sample to a shard, or tells why it is left out.
    fn store(
        &self,
        sample: Record,
        prepared: Prepared,
        sink: &mut Sink,
        measured: &mut (Quality, u64),
    ) -> Result<SampleRecord, FormatError> {
        let mut record = SampleRecord {
            name: sample.name.clone(),
            label: sample.label,
            outcome: Outcome::Written,
            why: None,
            source: prepared.source,
            payload: (0, String::new()),
            file: None,
            levels: Vec::new(),
        };
        match prepared.result {
            Ok(payload) => {
                let hash = format!("{:016x}", xxh3_64(&payload.bytes));
                record.payload = (payload.bytes.len() as u64, hash);
                (record.file, record.levels) = sink.write(&sample, &payload, &record.payload.1)?;
                record.why = payload.note;
                if let Some(quality) = payload.quality {
                    measured.0 += quality;
                    measured.1 += 1;
                }
            }
            Err((Outcome::Broken, why)) if self.options.on_error == OnBroken::Fail => {
                return Err(FormatError::malformed(&sample.name, why));
            }
            Err((outcome, why)) => (record.outcome, record.why) = (outcome, Some(why)),
        }
        Ok(record)
    }
}

/// Whether these are all pictures or all videos.
fn kind_of_all(reader: &dyn ShardReader, out: &Path) -> Result<MediaKind, FormatError> {
    let is_video = |n: &usize| reader.record(*n).kind == MediaKind::Video;
    let videos = (0..reader.len()).filter(is_video).count();
    let pictures = reader.len() - videos;
    if videos > 0 && pictures > 0 {
        let what = format!("{pictures} pictures and {videos} videos are mixed: convert them apart");
        return Err(FormatError::new(out, FormatErrorKind::Layout(what)));
    }
    Ok(if videos > 0 { MediaKind::Video } else { MediaKind::Image })
}

/// Refuses profiles for media that are not there, and values out of range.
fn check_profiles(
    kind: MediaKind,
    options: &ConvertOptions,
    out: &Path,
) -> Result<(), FormatError> {
    let refuse = |what: String| Err(FormatError::new(out, FormatErrorKind::Layout(what)));
    if kind == MediaKind::Video && options.images != Images::Keep {
        return refuse("these are videos: a profile for images does not apply".to_owned());
    }
    if kind != MediaKind::Video && options.video != Videos::Keep {
        return refuse("these are pictures: a profile for videos does not apply".to_owned());
    }
    if let Images::Train(p) = options.images
        && (p.short_side == 0 || !(1..=100).contains(&p.quality))
    {
        return refuse(format!(
            "a shorter side of {} and quality {}: at least 1, and 1 to 100",
            p.short_side, p.quality
        ));
    }
    if let Some(pyramid) = &options.pyramid {
        check_pyramid(kind, pyramid, options.images).or_else(refuse)?;
    }
    if let Videos::Train(v) = options.video {
        #[cfg(not(feature = "video"))]
        return refuse("this build cannot encode videos (feature `video`)".to_owned());
        if !matches!(v.stride, 1 | 2 | 4 | 8 | 16) {
            return refuse(format!("stride {}: use 1, 2, 4, 8 or 16", v.stride));
        }
        if let Some(fps) = v.fps.filter(|fps| !fps.is_usable()) {
            return refuse(format!("{}/{} frames per second", fps.frames, fps.seconds));
        }
        if v.short_side < 2 || v.crf > 51 {
            return refuse(format!(
                "a shorter side of {} and CRF {}: at least 2, and 0 to 51",
                v.short_side, v.crf
            ));
        }
    }
    Ok(())
}

/// Why a pyramid cannot be made.
fn check_pyramid(kind: MediaKind, pyramid: &Pyramid, images: Images) -> Result<(), String> {
    let Pyramid { sides, quality } = pyramid;
    if kind == MediaKind::Video {
        return Err("these are videos: a pyramid is for pictures".to_owned());
    }
    let ascend = sides.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascend || sides.first().is_none_or(|side| *side == 0) || sides.len() > MAX_LEVELS {
        return Err(format!(
            "a pyramid of {sides:?}: up to {MAX_LEVELS} shorter sides, at least 1, ascending"
        ));
    }
    if !(1..=100).contains(quality) {
        return Err(format!("quality {quality}: use 1 to 100"));
    }
    match (images, sides.last()) {
        (Images::Train(p), Some(last)) if *last >= p.short_side => Err(format!(
            "a level of {last}, but pictures are limited to {}: levels are smaller",
            p.short_side
        )),
        _ => Ok(()),
    }
}

/// The classes' names. Folders need one for each label: its number where the data set has none.
fn classes(reader: &dyn ShardReader, format: Format) -> Vec<String> {
    let mut names = reader.classes().to_vec();
    if format == Format::Folder {
        let most = (0..reader.len()).filter_map(|n| reader.record(n).label).max();
        let least = names.len() as u32;
        let most = most.filter(|most| *most < MAX_FOLDERS).map_or(least, |most| most + 1);
        names.extend((least..most).map(|label| label.to_string()));
    }
    names
}

fn hash_of_listing(reader: &dyn ShardReader, sizes: &[u64]) -> String {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for (n, size) in sizes.iter().enumerate() {
        let record = reader.record(n);
        hash.update(record.name.as_bytes());
        hash.update(&[0]);
        hash.update(&size.to_le_bytes());
        hash.update(&record.label.map_or(-1, i64::from).to_le_bytes());
    }
    format!("{:016x}", hash.digest())
}

/// Bytes of each source, about.
pub(super) fn sizes(reader: &dyn ShardReader) -> Vec<u64> {
    (0..reader.len()).map(|n| reader.source_bytes(&reader.record(n))).collect()
}

/// Consecutive samples of about `limit` bytes together, at least one each.
pub(super) fn cut(sizes: &[u64], limit: u64) -> Vec<Range<usize>> {
    let (mut shards, mut start, mut bytes) = (Vec::new(), 0, 0u64);
    for (n, size) in sizes.iter().enumerate() {
        if n > start && bytes + size > limit {
            shards.push(start..n);
            (start, bytes) = (n, 0);
        }
        bytes += size;
    }
    if start < sizes.len() {
        shards.push(start..sizes.len());
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_cut_by_size_and_never_empty() {
        assert_eq!(cut(&[5, 5, 5, 20, 1], 10), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(cut(&[], 10), []);
    }
}
