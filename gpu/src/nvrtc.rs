//! NVRTC, the run-time compiler: found, loaded and called; compiled kernels are kept on disk.
//!
//! cudarc has NVRTC too, but looks only where the system's loader looks, under names of its own
//! CUDA version, and panics where there is none; so these few calls are our own.

mod cache;
mod library;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::context::driver_version;
use crate::error::GpuError;
use crate::kernels::Program;
use crate::loading;

pub use cache::{cache_dir, compile_cached};
use library::Library;

/// Environment variable: a folder with NVRTC's library, before all other places.
pub const NVRTC_VARIABLE: &str = "TUBELET_NVRTC";
/// Environment variable: the folder that keeps compiled kernels.
pub const CACHE_VARIABLE: &str = "TUBELET_KERNEL_CACHE";

/// Compiler options of every kernel: products and sums are rounded one by one, division and square
/// root correctly, as on the host.
pub const OPTIONS: [&str; 5] =
    ["--std=c++17", "--fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false"];

/// Names that the system's loader may know, newest first.
const SYSTEM_NAMES: [&str; 4] =
    ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2"];

/// What to compile for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Machine code of one architecture: 90 for `sm_90`. The driver loads it as it is.
    Machine(u32),
    /// Portable code: 90 for `compute_90`. The driver compiles it for a newer device.
    Portable(u32),
}

impl Target {
    /// The best target for compute capability `capability` (90 for 9.0) of a compiler that knows
    /// `known`; `None` where it knows nothing that old.
    pub fn of_device(capability: u32, known: &[u32]) -> Option<Self> {
        if known.contains(&capability) {
            return Some(Self::Machine(capability));
        }
        known.iter().filter(|k| **k < capability).max().map(|k| Self::Portable(*k))
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Machine(arch) => write!(f, "sm_{arch}"),
            Self::Portable(arch) => write!(f, "compute_{arch}"),
        }
    }
}

/// The loaded compiler.
pub struct Nvrtc {
    library: Library,
    version: (i32, i32),
}

impl Nvrtc {
    /// Finds the library: in the folder `TUBELET_NVRTC` names, else in the toolkit that `CUDA_PATH`
    /// or `CUDA_HOME` names or in `/usr/local/cuda`, else where the system's loader looks.
    ///
    /// # Errors
    /// When it is nowhere, with all places; when `TUBELET_NVRTC` names a folder without it.
    pub fn find() -> Result<Self, GpuError> {
        Self::find_up_to(i32::MAX)
    }

    /// As [`Nvrtc::find`], of a major version up to `major`: a driver loads what compilers of its own
    /// major version and of older ones made.
    ///
    /// # Errors
    /// As [`Nvrtc::find`].
    pub fn find_up_to(major: i32) -> Result<Self, GpuError> {
        let fits = |found: Self| match found.version {
            (own, _) if own <= major => Ok(found),
            (own, minor) => Err(GpuError::NoNvrtc(format!(
                "version {own}.{minor} is too new for this driver, which is for CUDA {major}"
            ))),
        };
        if let Some(folder) = std::env::var_os(NVRTC_VARIABLE) {
            return Self::in_folder(Path::new(&folder)).and_then(fits);
        }
        let in_folder = |folder: &Path| Self::in_folder(folder).and_then(fits);
        let by_name = |name: &Path| Library::open(name).and_then(Self::new).and_then(fits);
        let newest = if major == i32::MAX { String::new() } else { format!(" up to {major}") };
        loading::find(&SYSTEM_NAMES, in_folder, by_name).map_err(|tried| {
            GpuError::NoNvrtc(format!(
                "no version{newest} in {tried}; set {NVRTC_VARIABLE} to the folder of libnvrtc.so.*"
            ))
        })
    }

    /// As [`Self::find`], of versions that this driver loads.
    pub(crate) fn for_driver() -> Result<Self, GpuError> {
        let driver = driver_version().map_err(GpuError::driver("ask for the driver's version"))?;
        Self::find_up_to(driver / 1000)
    }

    /// The library in `folder`.
    ///
    /// # Errors
    /// When there is none, or it cannot be loaded.
    pub fn in_folder(folder: &Path) -> Result<Self, GpuError> {
        let path = library_in(folder).ok_or_else(|| {
            GpuError::NoNvrtc(format!("no libnvrtc.so.* in `{}`", folder.display()))
        })?;
        Library::open(&path).and_then(Self::new)
    }

    fn new(library: Library) -> Result<Self, GpuError> {
        let version = library.version()?;
        Ok(Self { library, version })
    }

    /// Major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Architectures it knows: 80, 86, 90, …
    ///
    /// # Errors
    /// When the library does not tell.
    pub fn architectures(&self) -> Result<Vec<u32>, GpuError> {
        self.library.architectures()
    }

    /// Compiles all kernels of `program`: machine code, or PTX text for [`Target::Portable`].
    ///
    /// # Errors
    /// When it does not compile, with the compiler's log.
    pub fn compile(&self, program: Program, target: Target) -> Result<Vec<u8>, GpuError> {
        self.library.compile(program, target)
    }
}

/// Makes NVRTC loadable for other libraries of the process that look where the system's loader looks, and
/// under few names: cudarc's, and so CubeCL's, which panics without it.
///
/// # Errors
/// When it is nowhere, or has a name that they do not try.
pub fn load_for_others() -> Result<(), GpuError> {
    // SAFETY: NVRTC's initialisers have no preconditions.
    let present = || unsafe { cudarc::nvrtc::sys::is_culib_present() };
    if present() {
        return Ok(());
    }
    let found = Nvrtc::for_driver()?;
    let (major, minor) = found.version();
    // Who asks for a loaded library by its own name gets it: it stays loaded.
    std::mem::forget(found);
    if present() {
        return Ok(());
    }
    Err(GpuError::NoNvrtc(format!(
        "version {major}.{minor} is here, but Burn looks for libnvrtc.so and libnvrtc.so.12 alone: make a \
         link of that name in a folder of LD_LIBRARY_PATH"
    )))
}

/// NVRTC's library in `folder`; the newest name where there are several.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let is_nvrtc = |name: &OsStr| {
        let name = name.to_string_lossy();
        let unix = name == "libnvrtc.so" || name.starts_with("libnvrtc.so.");
        let windows = name.starts_with("nvrtc64_") && name.ends_with(".dll");
        unix || (windows && !name.contains("builtins") && !name.contains("alt"))
    };
    let entries = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    entries.filter(|e| is_nvrtc(&e.file_name())).map(|e| e.path()).max()
}
