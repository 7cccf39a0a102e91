//! Compiled kernels on disk: one file for each source, architecture and compiler.

use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{CACHE_VARIABLE, Nvrtc, OPTIONS, Target};
use crate::error::GpuError;
use crate::kernels::{COMMON, Program};

/// Bytes of the checksum in front of the code.
const CHECKSUM: usize = 32;

/// Where compiled kernels are kept: `TUBELET_KERNEL_CACHE`, else `tubelet/kernels` in the user's
/// cache folder; `None` where there is neither.
pub fn cache_dir() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    folder(CACHE_VARIABLE).or_else(|| {
        let user = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
        Some(user.join("tubelet/kernels"))
    })
}

/// The code of `program` for `target`: from `folder` if it is there and whole, else compiled and,
/// where that is possible, left there. Several processes may do this at once.
///
/// # Errors
/// When it does not compile.
pub fn compile_cached(
    nvrtc: &Nvrtc,
    program: Program,
    target: Target,
    folder: Option<&Path>,
) -> Result<Vec<u8>, GpuError> {
    let Some(folder) = folder else { return nvrtc.compile(program, target) };
    let path = folder.join(file_name(program, target, nvrtc.version()));
    if let Some(code) = read(&path) {
        return Ok(code);
    }
    let code = nvrtc.compile(program, target)?;
    if let Err(error) = write(folder, &path, &code) {
        tracing::warn!("compiled kernels are not kept: `{}`: {error}", path.display());
    }
    Ok(code)
}

/// `hog-sm_90-nvrtc12.9-<hash of the source and the options>.bin`.
fn file_name(program: Program, target: Target, (major, minor): (i32, i32)) -> String {
    let mut hash = Sha256::new();
    for text in [COMMON, program.source()].into_iter().chain(OPTIONS) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let short: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("{}-{target}-nvrtc{major}.{minor}-{short}.bin", program.name())
}

/// The code in the file; `None` where there is no file or its checksum is wrong.
fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let (sum, code) = bytes.split_at_checked(CHECKSUM)?;
    if sum == Sha256::digest(code).as_slice() {
        return Some(code.to_vec());
    }
    tracing::warn!("a damaged compiled kernel is made anew: `{}`", path.display());
    None
}

/// Writes the file under another name and renames it, so that nobody sees half of it.
fn write(folder: &Path, path: &Path, code: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&Sha256::digest(code))?;
    file.write_all(code)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(file_name(Program::Hog, Target::Machine(90), (12, 9)));
        write(folder.path(), &path, b"code").expect("writes");
        assert_eq!(read(&path).as_deref(), Some(&b"code"[..]));
        let mut bytes = std::fs::read(&path).expect("reads");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(&path, &bytes).expect("writes");
        assert_eq!(read(&path), None);
        std::fs::write(&path, b"short").expect("writes");
        assert_eq!(read(&path), None);
    }

    #[test]
    fn a_name_tells_source_architecture_and_compiler() {
        let names = [
            file_name(Program::Hog, Target::Machine(90), (12, 9)),
            file_name(Program::Hog, Target::Portable(90), (12, 9)),
            file_name(Program::Hog, Target::Machine(90), (13, 0)),
            file_name(Program::Mix, Target::Machine(90), (12, 9)),
        ];
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }
}
