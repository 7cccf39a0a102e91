//! Data sets of every layout, made in a temporary folder and read through [`crate::open`].

mod archives;
mod onramps;
mod strict;
mod videos;

use std::path::Path;
use std::sync::Arc;

use tubelet_core::Size;

use crate::encode::encode_jpeg;
use crate::{Layout, OpenOptions, ShardReader, open};

/// A JPEG file whose bytes depend on `seed`.
fn jpeg(seed: u32) -> Vec<u8> {
    let size = Size::new(24 + seed % 5, 16);
    let pixels: Vec<u8> = (0..size.area() as u32 * 3).map(|n| (n * 3 + seed * 40) as u8).collect();
    encode_jpeg(&pixels, size, 90).expect("encodes")
}

/// Writes a file, and the folders above it.
#[track_caller]
fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().expect("in a folder")).expect("folder");
    std::fs::write(path, bytes).expect("written");
}

/// A tar archive.
fn tar(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).expect("written");
    }
    builder.into_inner().expect("written")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut writer, bytes).expect("written");
    writer.finish().expect("written")
}

fn of_split(split: &str) -> OpenOptions {
    OpenOptions { split: split.to_owned(), ..OpenOptions::default() }
}

#[track_caller]
fn opened(path: &Path, options: &OpenOptions) -> Arc<dyn ShardReader> {
    open(path, options).unwrap_or_else(|e| panic!("{e}"))
}

/// What opening says when it cannot be done.
#[track_caller]
fn refused(path: &Path, options: &OpenOptions) -> String {
    match open(path, options) {
        Ok(_) => panic!("{} opens", path.display()),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn detected(path: &Path, split: &str) -> Layout {
    super::detect(path, split).unwrap_or_else(|e| panic!("{e}"))
}

/// Name, class name and bytes of every sample.
#[track_caller]
fn samples(reader: &dyn ShardReader) -> Vec<(String, Option<String>, Vec<u8>)> {
    let mut buf = Vec::new();
    let sample = |n| {
        let record = reader.record(n);
        let bytes = reader.read(&record, &mut buf).unwrap_or_else(|e| panic!("{e}")).to_vec();
        let class = record.label.and_then(|l| reader.classes().get(l as usize).cloned());
        (record.name, class, bytes)
    };
    (0..reader.len()).map(sample).collect()
}

/// The same with the bytes' place in `known` instead of the bytes.
#[track_caller]
fn summary(reader: &dyn ShardReader, known: &[Vec<u8>]) -> Vec<(String, String, usize)> {
    let place = |bytes: &Vec<u8>| known.iter().position(|k| k == bytes).expect("known bytes");
    let class = |class: Option<String>| class.unwrap_or_else(|| "-".to_owned());
    samples(reader).into_iter().map(|(n, c, b)| (n, class(c), place(&b))).collect()
}

/// Rows of [`summary`] as text.
#[track_caller]
fn table(reader: &dyn ShardReader, known: &[Vec<u8>]) -> Vec<String> {
    summary(reader, known).into_iter().map(|(n, c, k)| format!("{n} {c} {k}")).collect()
}
