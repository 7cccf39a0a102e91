//! Object stores: `s3://`, `gs://`, `az://`, `http(s)://`, and `file://` for local paths.
//!
//! Everything here blocks; the client's async code stays inside `client` (feature `store`), on a
//! small runtime of its own. Reads ask for exact byte ranges, check what comes back, and are tried
//! again a bounded number of times. A [`CacheOptions`] keeps copies of what was read on a local
//! disk.
//!
//! | module | what it does |
//! |---|---|
//! | `folder` | a folder of a store: listed, read, written |
//! | `object` | one object: ranges of it, directly or through the cache |
//! | `ahead` | an object read through from front to back, payloads skipped |
//! | `cache` | copies of ranges on a local disk, within a bound |
//! | `retry` | tries again what may pass |
//! | `find` | which shards a URL means |
//! | `client` | the only place that names the client library |

mod ahead;
mod cache;
#[cfg(feature = "store")]
mod client;
mod find;
mod folder;
mod object;
mod retry;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{FormatError, FormatErrorKind};

pub(crate) use ahead::ReadAhead;
pub(crate) use find::{AT_ONCE, Found, find};
pub(crate) use folder::Folder;
pub(crate) use object::Object;

/// How object stores are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// URL of a server that speaks the store's protocol, where it is not the usual one.
    pub endpoint: Option<String>,
    /// Where copies of what is read are kept; nowhere where absent.
    pub cache: Option<CacheOptions>,
    /// Folder for what is found out about shards; the user's cache folder where absent.
    pub tables: Option<PathBuf>,
    /// How long a request may take, and how often it is tried.
    pub limits: Limits,
}

/// A folder of copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// The folder: a new or empty one, or one that was a cache before.
    pub folder: PathBuf,
    /// Most bytes of disk that the copies take together.
    pub bytes: u64,
}

/// When a request is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most attempts of one request, the first included.
    pub attempts: u32,
    /// After this no further attempt is begun.
    pub total: Duration,
    /// Longest wait for a connection.
    pub connect: Duration,
    /// Longest wait for an answer, or for more of it.
    pub stall: Duration,
    /// Wait before the second attempt; it doubles with every further one, up to 10 s.
    pub back_off: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempts: 8,
            total: Duration::from_secs(180),
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            back_off: Duration::from_millis(200),
        }
    }
}

/// Schemes that are read.
const SCHEMES: [&str; 6] = ["s3", "gs", "az", "http", "https", "file"];

/// Where a path on a command line points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// To a local disk.
    Local(PathBuf),
    /// Into an object store: the URL without slashes at its end.
    Remote(String),
}

/// Whether `path` is the URL of an object store.
pub fn is_remote(path: &Path) -> bool {
    matches!(locate(path), Ok(Location::Remote(_)))
}

/// What `path` means: a local path as it is, `file://` as the local path it names, or a URL.
///
/// # Errors
/// When it is a URL of an unknown scheme or without a bucket or host.
pub fn locate(path: &Path) -> Result<Location, FormatError> {
    let text = path.to_string_lossy();
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(Location::Local(path.to_owned()));
    };
    let wrong = |what: String| Err(FormatError::new(path, FormatErrorKind::Layout(what)));
    if !SCHEMES.contains(&scheme) {
        let known = SCHEMES.map(|s| format!("{s}://")).join(", ");
        return wrong(format!("unknown scheme `{scheme}://`; known: {known}, or a local path"));
    }
    if scheme == "file" {
        let local = rest.strip_prefix("localhost").unwrap_or(rest);
        if !local.starts_with('/') {
            return wrong("a file URL has three slashes and a full path: file:///data".to_owned());
        }
        return Ok(Location::Local(PathBuf::from(percent_decoded(local))));
    }
    if rest.contains(['?', '#']) {
        return wrong("`?` and `#` in a URL are not supported (signed URLs neither)".to_owned());
    }
    let url = text.trim_end_matches('/');
    if rest.starts_with('/') || rest.trim_end_matches('/').is_empty() {
        return wrong(format!("a bucket or host must follow `{scheme}://`"));
    }
    Ok(Location::Remote(url.to_owned()))
}

/// `path` itself where it is local, as [`locate`] finds it.
///
/// # Errors
/// When it is a URL of an object store; `what` says what cannot be done with one.
pub fn local(path: &Path, what: &str) -> Result<PathBuf, FormatError> {
    match locate(path)? {
        Location::Local(path) => Ok(path),
        Location::Remote(_) => Err(FormatError::new(path, FormatErrorKind::Layout(what.into()))),
    }
}

/// `%20` as a space; what is no such code stays.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
