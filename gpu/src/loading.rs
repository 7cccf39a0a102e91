//! Libraries that are loaded at run time.

use std::path::{Path, PathBuf};

use crate::error::GpuError;

/// Folders below a toolkit's root that may hold the library.
const TOOLKIT_FOLDERS: [&str; 4] = ["lib64", "lib", "targets/x86_64-linux/lib", "bin"];

/// The function `name` of `library`.
///
/// # Safety
/// `F` must be its type, and the function must not be called when the library is gone.
pub(crate) unsafe fn symbol<F: Copy>(
    library: &libloading::Library,
    name: &str,
) -> Result<F, libloading::Error> {
    // SAFETY: the caller's promise.
    unsafe { library.get::<F>(name) }.map(|symbol| *symbol)
}

/// The first library that `in_folder` finds in the toolkit's folders, or `by_name` where the system's
/// loader looks; else all that was tried, for people.
pub(crate) fn find<L>(
    names: &[&str],
    in_folder: impl Fn(&Path) -> Result<L, GpuError>,
    by_name: impl Fn(&Path) -> Result<L, GpuError>,
) -> Result<L, String> {
    let mut tried = Vec::new();
    for folder in toolkit_folders() {
        match in_folder(&folder) {
            Ok(found) => return Ok(found),
            Err(_) => tried.push(folder.display().to_string()),
        }
    }
    for name in names {
        match by_name(Path::new(name)) {
            Ok(found) => return Ok(found),
            Err(_) => tried.push((*name).to_owned()),
        }
    }
    Err(tried.join(", "))
}

/// Folders of an installed toolkit.
fn toolkit_folders() -> Vec<PathBuf> {
    let named = ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(std::env::var_os);
    let roots = named.map(PathBuf::from).chain([PathBuf::from("/usr/local/cuda")]);
    roots.flat_map(|root| TOOLKIT_FOLDERS.map(|folder| root.join(folder))).collect()
}
