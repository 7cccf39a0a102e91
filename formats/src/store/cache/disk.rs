//! The cache's files, its bound, and what makes room.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use xxhash_rust::xxh3::xxh3_64;

use super::Id;
use super::journal::{Block, Blocks, RECORD, rounded};
use crate::error::{FormatError, FormatErrorKind};

/// File that marks a folder as a cache; locked by who changes what is in it.
const MARK: &str = "tubelet-cache";
/// What it says; the number of bytes in use follows.
const TEXT: &[u8] = b"tubelet cache 1: copies of remote data, may be deleted as a whole.\n";
/// Start of the names of files that tell what living processes have open.
const LEASE: &str = "tubelet-lease-";
/// Disk for the mark and the leases.
const BASE: u64 = 16 << 10;

/// The folder.
pub(super) struct Disk {
    folder: PathBuf,
    pub(super) limit: u64,
    ledger: Mutex<File>,
    lease: Mutex<Lease>,
}

/// The objects that this process keeps; the file is locked for as long as it lives.
struct Lease {
    path: PathBuf,
    file: File,
    ids: HashSet<Id>,
}

impl Disk {
    pub(super) fn open(folder: &Path, limit: u64) -> Result<Self, FormatError> {
        let io = |e: std::io::Error| FormatError::new(folder, e);
        std::fs::create_dir_all(folder).map_err(io)?;
        let mark = folder.join(MARK);
        if !mark.is_file() && std::fs::read_dir(folder).map_err(io)?.next().is_some() {
            let what = "it has files in it and is no cache: give a new or an empty folder";
            return Err(FormatError::new(folder, FormatErrorKind::Layout(what.to_owned())));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let ledger = options.open(&mark).map_err(io)?;
        // Nobody may take the lease for a dead one before it is locked.
        ledger.lock().map_err(io)?;
        let lease = Lease::new(folder);
        ledger.unlock().map_err(io)?;
        let disk = Self {
            folder: folder.to_owned(),
            limit,
            ledger: Mutex::new(ledger),
            lease: Mutex::new(lease.map_err(io)?),
        };
        disk.locked(|used| {
            *used = disk.count()?;
            disk.make_room(used, 0)
        })
        .map_err(io)?;
        Ok(disk)
    }

    pub(super) fn keep(&self, id: Id) -> Result<(), FormatError> {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if !lease.ids.insert(id) {
            return Ok(());
        }
        let line = format!("{id}\n");
        let kept = self.locked(|_| {
            lease.file.write_all(line.as_bytes())?;
            match File::options().append(true).open(self.journal(id)) {
                Ok(journal) => journal.set_modified(SystemTime::now()),
                Err(_) => Ok(()),
            }
        });
        kept.map_err(|e| FormatError::new(&self.folder, e))
    }

    /// Reads `bytes` bytes of the copy at `start`.
    pub(super) fn read(&self, id: Id, start: u64, bytes: usize) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(self.data(id))?;
        file.seek(SeekFrom::Start(start))?;
        let mut buf = vec![0; bytes];
        file.read_exact(&mut buf)?;
        Ok(buf)
    }

    /// Adds what the journal of `id` has beyond what `blocks` knows.
    pub(super) fn load(&self, id: Id, blocks: &mut Blocks) {
        let _ = load(&self.journal(id), blocks);
    }

    /// Keeps a copy if there is room, and adds it to `blocks`.
    pub(super) fn store(
        &self,
        id: Id,
        start: u64,
        bytes: &[u8],
        blocks: &mut Blocks,
    ) -> Result<(), FormatError> {
        let block = Block { start, bytes: bytes.len() as u64, hash: xxh3_64(bytes) };
        let stored = self.locked(|used| {
            self.load(id, blocks);
            if bytes.is_empty() || blocks.has(start, block.bytes) {
                return Ok(());
            }
            let journal = self.journal(id);
            let records = std::fs::metadata(&journal).map_or(0, |m| m.len()) / RECORD;
            let (before, after) = (records * RECORD, (records + 1) * RECORD);
            let need = block.pages() + rounded(after) - rounded(before);
            self.make_room(used, need)?;
            if *used + need > self.limit {
                return Ok(());
            }
            // Counted before it is written: who is killed between leaves a count too high.
            *used += need;
            self.write_used(*used)?;
            write_at(&self.data(id), start, bytes)?;
            write_at(&journal, before, &block.record())?;
            blocks.insert(block);
            blocks.read = after;
            Ok(())
        });
        stored.map_err(|e| FormatError::new(&self.folder, e))
    }

    /// Removes objects that nobody has open, those opened longest ago first, until `need` more
    /// bytes fit.
    fn make_room(&self, used: &mut u64, need: u64) -> std::io::Result<()> {
        if *used + need <= self.limit || need > self.limit {
            return Ok(());
        }
        let kept = self.kept()?;
        let mut idle: Vec<(SystemTime, Id)> = self
            .objects()?
            .into_iter()
            .filter(|id| !kept.contains(id))
            .map(|id| {
                let meta = std::fs::metadata(self.journal(id)).and_then(|m| m.modified());
                (meta.unwrap_or(SystemTime::UNIX_EPOCH), id)
            })
            .collect();
        if idle.is_empty() {
            return Ok(());
        }
        idle.sort_by_key(|(time, id)| (*time, id.0));
        for (_, id) in idle {
            if *used + need <= self.limit {
                break;
            }
            let freed = self.count_one(id);
            // The data first: a journal alone tells of copies that are fetched anew.
            for path in [self.data(id), self.journal(id)] {
                match std::fs::remove_file(path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            *used = used.saturating_sub(freed);
        }
        Ok(())
    }

    /// Objects that living processes have open; leases of those that ended are removed.
    fn kept(&self) -> std::io::Result<HashSet<Id>> {
        let mut kept = HashSet::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.starts_with(LEASE) {
                continue;
            }
            let Ok(mut file) = File::open(&path) else { continue };
            match file.try_lock() {
                Ok(()) => std::fs::remove_file(&path)?,
                Err(std::fs::TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text)?;
                    let ids = text.lines().filter_map(|l| u128::from_str_radix(l, 16).ok());
                    kept.extend(ids.map(Id));
                }
                Err(std::fs::TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(kept)
    }

    /// Bytes of disk in use.
    fn count(&self) -> std::io::Result<u64> {
        Ok(BASE + self.objects()?.into_iter().map(|id| self.count_one(id)).sum::<u64>())
    }

    fn count_one(&self, id: Id) -> u64 {
        let mut blocks = Blocks::default();
        self.load(id, &mut blocks);
        let journal = std::fs::metadata(self.journal(id)).map_or(0, |m| rounded(m.len()));
        blocks.pages().max(allocated(&self.data(id))) + journal
    }

    /// The objects that have files here, by their names.
    fn objects(&self) -> std::io::Result<HashSet<Id>> {
        let mut ids = HashSet::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            ids.extend(id_of(&name.to_string_lossy()));
        }
        Ok(ids)
    }

    /// Runs `task` while no other thread or process changes anything; it is given the bytes in use.
    fn locked<T>(&self, task: impl FnOnce(&mut u64) -> std::io::Result<T>) -> std::io::Result<T> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.lock()?;
        let done = (|| {
            let mut used = read_used(&mut ledger)?;
            let done = task(&mut used);
            write_ledger(&ledger, used)?;
            done
        })();
        ledger.unlock()?;
        done
    }

    /// Notes the bytes in use; for who holds the lock.
    fn write_used(&self, used: u64) -> std::io::Result<()> {
        let mark = File::options().write(true).open(self.folder.join(MARK))?;
        write_ledger(&mark, used)
    }

    fn data(&self, id: Id) -> PathBuf {
        self.folder.join(format!("{id}.data"))
    }

    fn journal(&self, id: Id) -> PathBuf {
        self.folder.join(format!("{id}.journal"))
    }
}

impl Lease {
    fn new(folder: &Path) -> std::io::Result<Self> {
        static TURN: AtomicU32 = AtomicU32::new(0);
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{LEASE}{}-{turn}", std::process::id()));
        let file = File::create(&path)?;
        file.lock()?;
        Ok(Self { path, file, ids: HashSet::new() })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The object whose file this is; `None` for names that are not the cache's.
fn id_of(name: &str) -> Option<Id> {
    let stem = name.strip_suffix(".data").or_else(|| name.strip_suffix(".journal"))?;
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    (stem.len() == 32 && stem.bytes().all(hex)).then_some(())?;
    u128::from_str_radix(stem, 16).ok().map(Id)
}

fn load(journal: &Path, blocks: &mut Blocks) -> std::io::Result<()> {
    let mut file = File::open(journal)?;
    if file.metadata()?.len() >= blocks.read + RECORD {
        file.seek(SeekFrom::Start(blocks.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        blocks.extend(&bytes);
    }
    Ok(())
}

fn write_at(path: &Path, start: u64, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(false).open(path)?;
    file.seek(SeekFrom::Start(start))?;
    file.write_all(bytes)
}

fn read_used(ledger: &mut File) -> std::io::Result<u64> {
    let mut bytes = Vec::new();
    ledger.seek(SeekFrom::Start(0))?;
    ledger.read_to_end(&mut bytes)?;
    let used = bytes.get(TEXT.len()..TEXT.len() + 8).and_then(|b| b.try_into().ok());
    Ok(used.map_or(BASE, u64::from_le_bytes))
}

fn write_ledger(mut ledger: &File, used: u64) -> std::io::Result<()> {
    ledger.seek(SeekFrom::Start(0))?;
    ledger.write_all(&[TEXT, &used.to_le_bytes()].concat())
}

/// Bytes of disk that a file takes, as the system says; 0 where it does not.
fn allocated(path: &Path) -> u64 {
    #[cfg(unix)]
    let blocks = std::fs::metadata(path).map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m));
    #[cfg(not(unix))]
    let blocks = std::fs::metadata(path).map_or(0, |m| m.len().div_ceil(512));
    blocks * 512
}
