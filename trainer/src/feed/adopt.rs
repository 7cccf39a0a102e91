//! The tensors of the device stage as Burn's, without the host: both use the device's primary context.
//!
//! Burn cannot take foreign memory over, so its own is allocated and filled by a copy inside the device.

use std::path::{Path, PathBuf};

use burn::backend::{Autodiff, Cuda};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use tubelet_gpu::kernels::Address;
use tubelet_gpu::{DeviceTensor, DeviceTensors, Gpu, HandOver, Places};

use super::backend::{TrainBackend, dtype, elements};
use crate::device::failed;
use crate::error::TrainError;

impl TrainBackend for Autodiff<Cuda> {
    fn adopt(
        hand_over: &mut HandOver,
        tensors: DeviceTensors,
        device: &Self::Device,
    ) -> Result<(Tensor<Self, 1>, Option<Tensor<Self, 1>>), TrainError> {
        let targets = &tensors.batch.first.targets;
        let input = room(&tensors.batch.input, device)?;
        let targets = (elements(targets) > 0).then(|| room(targets, device)).transpose()?;
        // Memory may come back from kernels that still run. After a step, whose loss was read, this
        // returns at once.
        Cuda::<f32, i32>::sync(device).map_err(|e| failed(format!("cannot wait for Burn: {e}")))?;
        let places = Places { input: input.1, targets: targets.as_ref().map(|room| room.1) };
        // SAFETY: Burn allocated as many elements of the same type at each place, on the device's
        // primary context, and its stream was waited for; the tensors are held until after the call.
        unsafe { hand_over.copy(tensors, places) }.map_err(failed)?;
        Ok((Tensor::from_inner(input.0), targets.map(|room| Tensor::from_inner(room.0))))
    }
}

/// A vector as long as `tensor`, of its type, and where it is.
fn room(
    tensor: &DeviceTensor,
    device: &<Cuda as burn::tensor::backend::BackendTypes>::Device,
) -> Result<(Tensor<Cuda, 1>, Address), TrainError> {
    // One axis is never padded.
    let room = Tensor::<Cuda, 1>::empty([elements(tensor)], (device, dtype(tensor)?));
    let primitive = room.clone().into_primitive().tensor();
    let memory = primitive.client.get_resource(primitive.handle.clone());
    let memory = memory.map_err(|e| failed(format!("Burn does not tell an address: {e}")))?;
    let bytes = tensor.buffer().len() as u64;
    let resource = memory.resource();
    if resource.size < bytes {
        return Err(failed(format!("Burn gave {} bytes of {bytes}", resource.size)));
    }
    let address = Address(resource.ptr);
    Ok((room, address))
}

/// Folders where Burn's compiler looks for CUDA's headers, as CubeCL does.
const TOOLKITS: [&str; 2] = ["/usr/local/cuda", "/opt/cuda"];
/// A header that its kernels include.
const HEADER: &str = "cuda_fp16.h";

/// Whether Burn will find what it needs to compute on a GPU: it panics on the way where it does not. Who
/// keeps the GPU keeps the context that Burn uses too, which is made once then.
pub(crate) fn check_machine() -> Result<Gpu, TrainError> {
    let gpu = Gpu::probe().map_err(failed)?;
    tubelet_gpu::nvrtc::load_for_others().map_err(failed)?;
    let toolkit = toolkit(std::env::var_os("CUDA_PATH").map(PathBuf::from), Path::exists);
    let toolkit = toolkit.ok_or_else(|| {
        failed(format!(
            "no CUDA toolkit, whose headers Burn's kernels need: set CUDA_PATH to a folder with \
             include/{HEADER}, or install it at {}",
            TOOLKITS[0]
        ))
    })?;
    let header = toolkit.join("include").join(HEADER);
    if header.exists() {
        return Ok(gpu);
    }
    Err(failed(format!("{} is missing: Burn's kernels include it", header.display())))
}

/// The toolkit that CubeCL takes.
fn toolkit(named: Option<PathBuf>, exists: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let usual = || TOOLKITS.map(PathBuf::from).into_iter().find(|path| exists(path));
    let by_compiler = || exists(Path::new("/usr/bin/nvcc")).then(|| PathBuf::from("/usr"));
    named.or_else(usual).or_else(by_compiler)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toolkit_is_the_one_that_cubecl_takes() {
        let at = |found: &'static str| move |path: &Path| path == Path::new(found);
        let named = Some(PathBuf::from("/x"));
        assert_eq!(toolkit(named.clone(), at("/opt/cuda")), named);
        assert_eq!(toolkit(None, at("/opt/cuda")), Some(PathBuf::from("/opt/cuda")));
        assert_eq!(toolkit(None, at("/usr/bin/nvcc")), Some(PathBuf::from("/usr")));
        assert_eq!(toolkit(None, at("/elsewhere")), None);
    }
}
