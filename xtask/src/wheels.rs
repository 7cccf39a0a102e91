//! Parts of CUDA from their Python packages: fetched once, and kept in the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::gpu::{files_in, io};
use crate::{Failure, Outcome, apt, run, target_dir};

/// A Python package with a part of CUDA.
pub(crate) struct Wheel {
    package: &'static str,
    version: &'static str,
    /// What is wanted of it: a folder.
    folder: &'static str,
}

/// NVRTC's library.
pub(crate) const NVRTC: Wheel = Wheel {
    package: "nvidia-cuda-nvrtc-cu12",
    version: "12.9.86",
    folder: "nvidia/cuda_nvrtc/lib",
};
/// nvJPEG's library.
pub(crate) const NVJPEG: Wheel =
    Wheel { package: "nvidia-nvjpeg-cu12", version: "12.4.0.76", folder: "nvidia/nvjpeg/lib" };
/// CUDA's headers, which the kernels of Burn include.
pub(crate) const HEADERS: [Wheel; 3] = [
    Wheel {
        package: "nvidia-cuda-runtime-cu12",
        version: "12.9.79",
        folder: "nvidia/cuda_runtime/include",
    },
    Wheel {
        package: "nvidia-cuda-cccl-cu12",
        version: "12.9.27",
        folder: "nvidia/cuda_cccl/include",
    },
    Wheel {
        package: "nvidia-cuda-nvcc-cu12",
        version: "12.9.86",
        folder: "nvidia/cuda_nvcc/include",
    },
];

impl Wheel {
    /// Fetches it, unless it is here; its folder.
    pub(crate) fn fetch(&self, install: bool) -> Result<PathBuf, Failure> {
        let Self { package, version, folder } = self;
        let home = target_dir().join(format!("{package}-{version}"));
        let wanted = home.join(folder);
        if wanted.exists() {
            return Ok(wanted);
        }
        need_pip(install)?;
        let (wheels, unpacked) = (home.join("wheel"), home.join("unpacked"));
        let exact = format!("{package}=={version}");
        run(python()
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"])
            .arg("--dest")
            .args([wheels.as_os_str(), exact.as_ref()]))?;
        let wheel = files_in(&wheels)?
            .into_iter()
            .find(|f| f.extension().is_some_and(|e| e == "whl"))
            .ok_or_else(|| Failure::new(format!("pip left no wheel in `{}`", wheels.display())))?;
        run(python().args(["-m", "zipfile", "-e"]).args([&wheel, &unpacked]))?;
        // Complete at once, so that an interrupted call leaves nothing that looks finished.
        let from = unpacked.join("nvidia");
        fs::rename(&from, home.join("nvidia")).map_err(|e| io(&from, &e))?;
        for folder in [wheels, unpacked] {
            fs::remove_dir_all(&folder).map_err(|e| io(&folder, &e))?;
        }
        Ok(wanted)
    }
}

/// Copies the folder `from` with all below it.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Outcome {
    fs::create_dir_all(to).map_err(|e| io(to, &e))?;
    let entries = fs::read_dir(from).map_err(|e| io(from, &e))?;
    for entry in entries.filter_map(Result::ok) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_tree(&path, &to)?;
        } else {
            fs::copy(&path, &to).map_err(|e| io(&path, &e))?;
        }
    }
    Ok(())
}

/// Installs pip where it is missing.
fn need_pip(install: bool) -> Outcome {
    let works = |mut c: Command| c.output().is_ok_and(|out| out.status.success());
    let mut pip = python();
    pip.args(["-m", "pip", "--version"]);
    if works(pip) {
        return Ok(());
    }
    if !install {
        let what = "fetching parts of CUDA needs `python3 -m pip` (package python3-pip)";
        return Err(Failure::usage(what));
    }
    apt(&["update"])?;
    apt(&["install", "-y", "--no-install-recommends", "python3", "python3-pip"])
}

fn python() -> Command {
    Command::new("python3")
}
