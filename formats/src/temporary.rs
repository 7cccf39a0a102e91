//! Files made under a temporary name and renamed once they are whole.
//!
//! A temporary name is hidden, short whatever the final one is, and unique among processes and
//! machines. The file is locked while it is made, so that who tidies up can tell what is still being
//! written from what an interrupted process left.

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use xxhash_rust::xxh3::xxh3_64;

use crate::error::FormatError;

/// How temporary names begin and end.
const NAME: (&str, &str) = (".tubelet-", ".tmp");
/// Attempts to make a file that others sweep away.
const ATTEMPTS: u32 = 8;
/// Age from which a file of another machine is a left-over: its lock may not be seen from here.
const OLD: Duration = Duration::from_secs(3600);

/// A file that is being made; removed unless it is published.
pub(crate) struct Working {
    path: PathBuf,
    /// Locked where the file system has locks.
    file: File,
    published: bool,
}

impl Working {
    /// A new, empty file in the folder of `path`, which must be there.
    ///
    /// # Errors
    /// When it cannot be made; the error names `path`.
    pub(crate) fn beside(path: &Path) -> Result<Self, FormatError> {
        let error = |e: std::io::Error| FormatError::new(path, e);
        for _ in 0..ATTEMPTS {
            let own = path.with_file_name(new_name());
            let file = File::create(&own).map_err(error)?;
            // Otherwise it was swept away between the two calls.
            if file.lock().is_err() || own.exists() {
                return Ok(Self { path: own, file, published: false });
            }
        }
        Err(error(std::io::ErrorKind::NotFound.into()))
    }

    /// Its path while it is made.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds so far, to be written to.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Renames it to `path`.
    pub(crate) fn publish(mut self, path: &Path) -> Result<(), FormatError> {
        std::fs::rename(&self.path, path).map_err(|e| FormatError::new(path, e))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes a file whole or not at all; several threads and processes may write the same one.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FormatError> {
    let mut working = Working::beside(path)?;
    working.file().write_all(bytes).map_err(|e| FormatError::new(path, e))?;
    working.publish(path)
}

/// Removes from `folders` what interrupted processes left half written: files with our temporary
/// names that nobody locks and that were made on this machine or are old at the time `now`.
pub(crate) fn sweep(folders: &BTreeSet<PathBuf>, now: SystemTime) {
    for folder in folders {
        let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        for path in entries.map(|e| e.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(machine) = machine_of(&name) {
                remove_stale(&path, machine == machine_here(), now);
            }
        }
    }
}

fn remove_stale(path: &Path, here: bool, now: SystemTime) {
    let Ok(file) = File::options().write(true).open(path) else { return };
    let modified = file.metadata().and_then(|m| m.modified());
    let old = modified.is_ok_and(|m| now.duration_since(m).is_ok_and(|age| age > OLD));
    match file.try_lock() {
        Ok(()) if here || old => {}
        // Without locks only age tells.
        Err(std::fs::TryLockError::Error(_)) if old => {}
        _ => return,
    }
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!("{} stays: {error}", path.display());
    }
}

/// A name that no other process or thread uses.
fn new_name() -> String {
    static TURN: AtomicU64 = AtomicU64::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    format!("{}{:08x}-{:016x}-{turn}{}", NAME.0, machine_here(), process(), NAME.1)
}

/// The machine in a temporary name; `None` where it is another name.
fn machine_of(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(NAME.0)?.strip_suffix(NAME.1)?;
    let parts: Vec<&str> = rest.split('-').collect();
    let hex = |text: &str, digits| {
        (text.len() == digits).then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    let [machine, process, turn] = parts.as_slice() else { return None };
    hex(process, 16)?;
    turn.parse::<u64>().ok()?;
    u32::try_from(hex(machine, 8)?).ok()
}

/// A number that this process has alone: process numbers repeat among containers and machines.
fn process() -> u64 {
    static OWN: OnceLock<u64> = OnceLock::new();
    // The standard library seeds each hasher by the system's random numbers.
    *OWN.get_or_init(|| {
        let mut hasher = std::hash::RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        hasher.finish()
    })
}

/// A number for all containers of a running kernel, among which locks are seen.
fn machine_here() -> u32 {
    static OWN: OnceLock<u32> = OnceLock::new();
    *OWN.get_or_init(|| match std::fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(id) => xxh3_64(&id) as u32,
        Err(_) => process() as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_writes_is_swept_away() {
        let root = tempfile::tempdir().expect("folder");
        let at = |name: &str| root.path().join(name);
        let other = |n: u32| format!(".tubelet-{:08x}-{:016x}-{n}.tmp", machine_here() ^ 1, 7);
        let dead = format!(".tubelet-{:08x}-{:016x}-0.tmp", machine_here(), 7);
        let foreign = ["notes.tmp", "a.parquet.10013.tmp", ".tubelet-x.tmp", ".tubelet-1-2-3.tmp"];
        for name in foreign.iter().map(|n| (*n).to_owned()).chain([other(0), dead.clone()]) {
            std::fs::write(at(&name), b"x").expect("written");
        }
        let working = Working::beside(&at("x")).expect("made");
        let folders = BTreeSet::from([root.path().to_owned()]);
        sweep(&folders, SystemTime::now());
        assert!(!at(&dead).exists(), "a process of this machine that ended");
        assert!(at(&other(0)).exists(), "another machine may be writing it");
        assert!(working.path().exists(), "it is being written");
        sweep(&folders, SystemTime::now() + Duration::from_secs(7200));
        assert!(!at(&other(0)).exists() && working.path().exists());
        assert!(foreign.iter().all(|name| at(name).exists()), "files of somebody else");
        working.publish(&at("x")).expect("renamed");
        assert!(at("x").exists());
        drop(Working::beside(&at("y")).expect("made"));
        assert_eq!(std::fs::read_dir(root.path()).expect("read").count(), 5, "nothing is left");
    }
}
