//! The sum of the done-records: `manifest.json`, `manifest.parquet`, `quarantine.tsv`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{Field, Schema};
use parquet::arrow::ArrowWriter;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use super::place::Place;
use super::records::{FOLDER, JobRecord, Outcome, SampleRecord, ShardRecord, to_json};
use super::{ConvertReport, Dropped, Format};
use crate::error::{FormatError, FormatErrorKind};
use crate::facts::parquet_error;
use crate::store::StoreOptions;
use crate::temporary::sweep;

/// Counts, settings, shards with their hashes, classes, drops.
pub const MANIFEST: &str = "manifest.json";
/// One row for every listed sample.
pub const MANIFEST_TABLE: &str = "manifest.parquet";
/// Samples that could not be read: name, tab, reason.
pub const QUARANTINE: &str = "quarantine.tsv";

/// Adds up the done-records of `out` and writes the manifest when none is absent.
pub(super) fn finish(out: &Place) -> Result<ConvertReport, FormatError> {
    let job = JobRecord::read(out)?;
    let shards: Vec<_> = job.all_finished(out)?.into_iter().flatten().collect();
    let report = report(&job, &shards);
    if report.complete {
        let quarantine = &report.broken;
        let lines = quarantine.iter().map(|d| format!("{}\t{}\n", plain(&d.name), plain(&d.why)));
        out.write(QUARANTINE, lines.collect::<String>().as_bytes())?;
        let table = table(&out.path(MANIFEST_TABLE), &job, &shards)?;
        out.write(MANIFEST_TABLE, &table)?;
        let text = manifest(&job, &shards, &report, &table);
        out.write(MANIFEST, text.as_bytes())?;
        if let Place::Local(folder) = out {
            sweep_all(folder, &shards);
        }
    }
    Ok(report)
}

/// Removes what interrupted processes left in the folders that a finished conversion wrote to.
fn sweep_all(out: &Path, shards: &[ShardRecord]) {
    let written = std::fs::metadata(out.join(MANIFEST)).and_then(|m| m.modified());
    let Ok(now) = written else { return };
    let mut folders = BTreeSet::from([out.to_owned(), out.join(FOLDER)]);
    for sample in shards.iter().flat_map(|s| &s.samples) {
        let levels = sample.levels.iter().map(|(file, _)| file);
        let parents = levels.chain(&sample.file).filter_map(|file| Path::new(file).parent());
        folders.extend(parents.map(|parent| out.join(parent)));
    }
    sweep(&folders, now);
}

/// Joins what tasks wrote: takes the shards of `others` over into `out` and writes the manifest.
///
/// # Errors
/// When a folder holds another conversion, or a shard is in none of them; the error names those.
pub fn merge(
    out: &Path,
    others: &[PathBuf],
    store: &StoreOptions,
) -> Result<ConvertReport, FormatError> {
    let out = &Place::open(out, store)?;
    for other in others {
        let other = &Place::open(other, store)?;
        let job = JobRecord::read(other)?;
        job.claim(out)?;
        let (ours, theirs) = (job.all_finished(out)?, job.all_finished(other)?);
        for (n, (own, shard)) in ours.into_iter().zip(theirs).enumerate() {
            if let (None, Some(shard)) = (own, shard) {
                take_over(&job, &shard, n, other, out)?;
            }
        }
    }
    let job = JobRecord::read(out)?;
    let found = job.all_finished(out)?.into_iter().enumerate();
    let absent: Vec<String> =
        found.filter(|(_, shard)| shard.is_none()).map(|(n, _)| job.file_name(n)).collect();
    if absent.is_empty() {
        return finish(out);
    }
    let some = absent.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = if absent.len() > 5 { ", …" } else { "" };
    let what = format!(
        "{} of {} shards are not there or damaged: {some}{more}; run their tasks again",
        absent.len(),
        job.shards
    );
    Err(FormatError::new(out.path(""), FormatErrorKind::Malformed(what)))
}

/// Copies a shard and its record.
fn take_over(
    job: &JobRecord,
    shard: &ShardRecord,
    n: usize,
    from: &Place,
    to: &Place,
) -> Result<(), FormatError> {
    let files: Vec<&str> = match job.settings.format {
        Format::Folder => {
            let levels = shard.samples.iter().flat_map(|s| &s.levels);
            let own = shard.samples.iter().filter_map(|s| s.file.as_deref());
            levels.map(|(file, _)| file.as_str()).chain(own).collect()
        }
        _ => vec![&shard.file],
    };
    for file in files {
        let working = to.working(file)?;
        from.fetch(file, working.path())?;
        to.publish(file, working)?;
    }
    if job.settings.format == Format::Folder
        && let Some(bytes) = from.read(super::sink::CLASSES)?
    {
        to.write(super::sink::CLASSES, &bytes)?;
    }
    to.write(&job.record_name(n), to_json(shard).as_bytes())
}

fn report(job: &JobRecord, shards: &[ShardRecord]) -> ConvertReport {
    let mut report = ConvertReport {
        listed: job.samples + job.missing.len(),
        missing: job.missing.len(),
        shards: shards.len(),
        planned: job.shards,
        complete: shards.len() == job.shards,
        ..ConvertReport::default()
    };
    for shard in shards {
        report.quality += shard.quality;
        report.measured += shard.measured;
        for sample in &shard.samples {
            let because = || Dropped {
                name: sample.name.clone(),
                why: sample.why.clone().unwrap_or_default(),
            };
            match sample.outcome {
                Outcome::Broken => report.broken.push(because()),
                Outcome::Filtered => report.filtered.push(because()),
                Outcome::Written => {
                    report.written += 1;
                    if sample.why.is_some() {
                        report.notes.push(because());
                    }
                    if job.settings.format == Format::Folder {
                        let levels = sample.levels.iter().map(|(_, bytes)| bytes);
                        report.bytes += sample.payload.0 + levels.sum::<u64>();
                    }
                }
            }
        }
        report.bytes += shard.bytes;
    }
    report
}

fn manifest(
    job: &JobRecord,
    shards: &[ShardRecord],
    report: &ConvertReport,
    table: &[u8],
) -> String {
    let mut classes = BTreeMap::<u32, u64>::new();
    let samples = shards.iter().flat_map(|s| &s.samples);
    for label in samples.filter(|s| s.outcome == Outcome::Written).filter_map(|s| s.label) {
        *classes.entry(label).or_default() += 1;
    }
    let histogram = classes.iter().map(
        |(id, count)| json!({"label": id, "name": job.classes.get(*id as usize), "samples": count}),
    );
    let rows = |s: &ShardRecord| s.samples.iter().filter(|s| s.outcome == Outcome::Written).count();
    let files = shards
        .iter()
        .map(|s| json!({"file": s.file, "rows": rows(s), "bytes": s.bytes, "xxh3": s.xxh3}));
    let quality = report.quality.psnr().map(|psnr| {
        let psnr = psnr.is_finite().then_some(psnr);
        json!({"psnr_db": psnr, "ssim": report.quality.ssim(), "samples": report.measured})
    });
    to_json(&json!({
        "tool": job.tool,
        "source": job.source,
        "listing": job.listing,
        "settings": job.settings,
        "counts": {
            "listed": report.listed, "written": report.written, "missing": report.missing,
            "broken": report.broken.len(), "filtered": report.filtered.len(),
        },
        "quality": quality,
        "table": {
            "file": MANIFEST_TABLE, "bytes": table.len(), "xxh3": format!("{:016x}", xxh3_64(table)),
        },
        "shards": files.collect::<Vec<_>>(),
        "classes": histogram.collect::<Vec<_>>(),
        "missing": job.missing,
        "broken": report.broken,
        "filtered": report.filtered,
        "notes": report.notes,
    }))
}

/// A Parquet file with one row for every listed sample.
fn table(path: &Path, job: &JobRecord, shards: &[ShardRecord]) -> Result<Vec<u8>, FormatError> {
    let rows: Vec<(Option<&str>, &SampleRecord)> = shards
        .iter()
        .flat_map(|shard| shard.samples.iter().map(|s| (Some(shard.file.as_str()), s)))
        .collect();
    let absent = job.missing.len();
    let text = |f: &dyn Fn(&SampleRecord) -> Option<&str>| -> ArrayRef {
        let values = rows.iter().map(|(_, s)| f(s)).chain((0..absent).map(|_| None));
        Arc::new(values.collect::<StringArray>())
    };
    let number = |f: &dyn Fn(&SampleRecord) -> u64| -> ArrayRef {
        let values = rows.iter().map(|(_, s)| Some(f(s))).chain((0..absent).map(|_| None));
        Arc::new(values.collect::<UInt64Array>())
    };
    fn filled(text: &str) -> Option<&str> {
        (!text.is_empty()).then_some(text)
    }
    let names = rows.iter().map(|(_, s)| s.name.as_str());
    let names = names.chain(job.missing.iter().map(String::as_str));
    let outcomes = rows.iter().map(|(_, s)| s.outcome.name());
    let outcomes = outcomes.chain((0..absent).map(|_| "missing"));
    let labels = rows.iter().map(|(_, s)| s.label.map(i64::from)).chain((0..absent).map(|_| None));
    let files = rows.iter().map(|(file, s)| match s.outcome {
        Outcome::Written => s.file.as_deref().or(*file),
        _ => None,
    });
    let files = files.chain((0..absent).map(|_| None));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("name", Arc::new(StringArray::from_iter_values(names))),
        ("outcome", Arc::new(StringArray::from_iter_values(outcomes))),
        ("label", Arc::new(labels.collect::<Int64Array>())),
        ("file", Arc::new(files.collect::<StringArray>())),
        ("source_bytes", number(&|s| s.source.0)),
        ("source_xxh3", text(&|s| filled(&s.source.1))),
        ("bytes", number(&|s| s.payload.0)),
        ("xxh3", text(&|s| filled(&s.payload.1))),
        ("note", text(&|s| s.why.as_deref())),
    ];
    let field =
        |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let failed = |e: &dyn std::fmt::Display| parquet_error(path, e);
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(|e| failed(&e))?;
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).map_err(|e| failed(&e))?;
    writer.write(&batch).map_err(|e| failed(&e))?;
    writer.close().map_err(|e| failed(&e))?;
    Ok(bytes)
}

/// On one line, without tabs.
fn plain(text: &str) -> String {
    text.replace(['\n', '\r', '\t'], " ")
}
