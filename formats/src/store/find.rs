//! Which shards a URL means.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::folder::{Folder, Meta, split};
use super::object::Object;
use crate::convert::MANIFEST;
use crate::dataset::{Layout, braces, check_complete, files_of_split, split_names};
use crate::error::{FormatError, FormatErrorKind};
use crate::index::in_parallel;
use crate::shard::OpenOptions;
use crate::shard::parquet::is_shard;
use crate::shard::tar::is_tar;
use crate::shard::unpack::is_packed_tar;

/// Requests at once while shards are looked for and opened.
pub(crate) const AT_ONCE: usize = 16;

/// Shards of one kind.
pub(crate) struct Found {
    pub(crate) layout: Layout,
    pub(crate) objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Manifest {
    shards: Vec<ManifestShard>,
}

#[derive(Deserialize)]
struct ManifestShard {
    file: String,
    bytes: u64,
    #[serde(default)]
    xxh3: String,
}

/// The shards that `url` means: itself, those that its braces count, or those of the split in the
/// folder it is.
///
/// # Errors
/// When there is none, or the store cannot be asked.
pub(crate) fn find(url: &str, options: &OpenOptions) -> Result<Found, FormatError> {
    let named = braces(Path::new(url)).unwrap_or_else(|| vec![PathBuf::from(url)]);
    let found = if is_shard(&named[0]) || is_tar(&named[0]) {
        let (parent, _) = split(url.split('{').next().unwrap_or(url))?;
        let folder = Folder::open(parent, &options.store)?;
        named_shards(&folder, &named)?
    } else if is_packed_tar(Path::new(url)) {
        let what = "a compressed archive has no random access, so it is not read from a store";
        return Err(FormatError::new(url, FormatErrorKind::Layout(what.to_owned())));
    } else {
        shards_in(&Folder::open(url, &options.store)?, options)?
    };
    match options.layout {
        Some(layout) if layout != found.layout => Err(not_remote(url, layout)),
        _ => Ok(found),
    }
}

/// Shards that a URL names.
fn named_shards(folder: &Folder, urls: &[PathBuf]) -> Result<Found, FormatError> {
    let layout = if is_tar(&urls[0]) { Layout::Webdataset } else { Layout::Parquet };
    let objects = in_parallel(urls.len(), AT_ONCE, &|_, _| (), || {
        |n| {
            let url = urls[n].to_string_lossy();
            folder.object(url.strip_prefix(&format!("{}/", folder.url)).unwrap_or(&url))
        }
    });
    Ok(Found { layout, objects: objects.into_iter().collect::<Result<_, _>>()? })
}

/// Shards of the split in a folder: Parquet files, also those of its folder `data`, or tar files,
/// also those of its folder for the split.
fn shards_in(folder: &Folder, options: &OpenOptions) -> Result<Found, FormatError> {
    let mut metas = Vec::new();
    if folder.backend.lists() {
        for below in ["", "data"].into_iter().chain(split_names(&options.split)) {
            metas = folder.list(below)?;
            metas.retain(|m| is_shard(Path::new(&m.name)) || is_tar(Path::new(&m.name)));
            if !metas.is_empty() {
                break;
            }
        }
    } else {
        metas.extend(of_manifest(folder)?);
    }
    let of = |wanted: fn(&Path) -> bool| -> Vec<PathBuf> {
        metas.iter().map(|m| PathBuf::from(&m.name)).filter(|p| wanted(p)).collect()
    };
    let (parquet, tars) = (of(is_shard), of(is_tar));
    let (layout, names) = match options.layout {
        Some(Layout::Webdataset) => (Layout::Webdataset, tars),
        _ if parquet.is_empty() => (Layout::Webdataset, tars),
        _ => (Layout::Parquet, parquet),
    };
    let names = files_of_split(Path::new(&folder.url), names, &options.split)?;
    // Who looks for every shard there is also looks for gaps, as `verify` does.
    if !options.split.is_empty() {
        check_complete(Path::new(&folder.url), &names)?;
    }
    if names.is_empty() {
        let what = format!(
            "no .parquet or .tar file for split `{}` in it, the formats that are read from a store",
            options.split
        );
        return Err(FormatError::new(&folder.url, FormatErrorKind::Layout(what)));
    }
    let wanted = |meta: &Meta| names.iter().any(|n| n.as_os_str() == meta.name.as_str());
    let objects = metas.into_iter().filter(wanted).map(|meta| folder.known(meta));
    Ok(Found { layout, objects: objects.collect::<Result<_, _>>()? })
}

/// The shards that the manifest of a folder names.
fn of_manifest(folder: &Folder) -> Result<Vec<Meta>, FormatError> {
    let url = folder.url_of(MANIFEST);
    let Some(text) = folder.read(MANIFEST)? else {
        let what = format!(
            "a web server lists no folders, and there is no {MANIFEST} as `convert` writes it: put it \
             there, or name the shards, as in {}/train-{{00000..00009}}-of-00010.parquet",
            folder.url
        );
        return Err(FormatError::new(&folder.url, FormatErrorKind::Layout(what)));
    };
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|e| FormatError::malformed(&url, format!("not a manifest: {e}")))?;
    let meta = |shard: ManifestShard| Meta {
        name: shard.file,
        bytes: shard.bytes,
        tag: None,
        version: shard.xxh3,
    };
    Ok(manifest.shards.into_iter().map(meta).collect())
}

fn not_remote(url: &str, layout: Layout) -> FormatError {
    let what = format!(
        "layout {layout} is not what lies there or is read from local disks only: convert it to \
         Parquet or tar shards first"
    );
    FormatError::new(url, FormatErrorKind::Layout(what))
}
