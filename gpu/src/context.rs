//! The device: found at run time, with its kernels.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::Ptx;

use crate::error::GpuError;
use crate::kernels::{Launch, Program};
use crate::nvrtc::{Nvrtc, Target, cache_dir, compile_cached};

/// Oldest driver that is used: CUDA 12.0.
pub const OLDEST_DRIVER: i32 = 12_000;
/// Oldest compute capability that is used: 7.0.
pub const OLDEST_CAPABILITY: u32 = 70;

/// The environment variable that makes it a failure, if it is 1, to do without the GPU what was asked of
/// it: in tests, and in runs that are there to show that the GPU does it.
pub const REQUIRE_GPU: &str = "TUBELET_REQUIRE_GPU";

/// Whether [`REQUIRE_GPU`] says so.
pub fn required() -> bool {
    std::env::var(REQUIRE_GPU).is_ok_and(|value| value == "1")
}

/// Why there is no GPU.
#[derive(Debug, thiserror::Error)]
pub enum NoGpu {
    /// No driver library.
    #[error("no CUDA driver: libcuda.so.1 cannot be loaded")]
    NoDriver,
    /// The driver is too old.
    #[error("the CUDA driver is for CUDA {major}.{minor}; 12.0 or newer is needed")]
    OldDriver {
        /// Its CUDA version.
        major: i32,
        /// Its CUDA version.
        minor: i32,
    },
    /// The driver sees no such device.
    #[error("no CUDA device {ordinal}: the driver sees {count}")]
    NoDevice {
        /// Number asked for.
        ordinal: usize,
        /// Devices there are.
        count: usize,
    },
    /// The device is too old.
    #[error("`{name}` has compute capability {major}.{minor}; 7.0 or newer is needed")]
    OldDevice {
        /// Its name.
        name: String,
        /// Its compute capability.
        major: i32,
        /// Its compute capability.
        minor: i32,
    },
    /// The driver refused.
    #[error("the CUDA driver does not start: {0}")]
    Driver(#[from] DriverError),
}

/// A device and its primary context, which other libraries of the process share.
#[derive(Clone, Debug)]
pub struct Gpu {
    context: Arc<CudaContext>,
    name: String,
    capability: u32,
}

impl Gpu {
    /// The first device, or why there is none. Never panics and loads nothing twice.
    ///
    /// # Errors
    /// When there is no driver, none that is new enough, or no device.
    pub fn probe() -> Result<Self, NoGpu> {
        Self::open(0)
    }

    /// Device number `ordinal`.
    ///
    /// # Errors
    /// As [`Gpu::probe`].
    pub fn open(ordinal: usize) -> Result<Self, NoGpu> {
        // SAFETY: loading the driver's library has no preconditions. cudarc panics where it is
        // missing, so it is looked for first.
        if !unsafe { sys::is_culib_present() } {
            return Err(NoGpu::NoDriver);
        }
        let version = driver_version()?;
        if version < OLDEST_DRIVER {
            return Err(NoGpu::OldDriver { major: version / 1000, minor: version % 1000 / 10 });
        }
        let count = usize::try_from(CudaContext::device_count()?).unwrap_or(0);
        if ordinal >= count {
            return Err(NoGpu::NoDevice { ordinal, count });
        }
        let context = CudaContext::new(ordinal)?;
        let (name, (major, minor)) = (context.name()?, context.compute_capability()?);
        let capability = u32::try_from(major * 10 + minor).unwrap_or(0);
        if capability < OLDEST_CAPABILITY {
            return Err(NoGpu::OldDevice { name, major, minor });
        }
        Ok(Self { context, name, capability })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its compute capability: 90 for 9.0.
    pub fn capability(&self) -> u32 {
        self.capability
    }

    /// Its primary context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Its place on the PCI bus as Linux writes it: `0000:3b:00.0`.
    ///
    /// # Errors
    /// When the driver does not tell.
    pub fn pci_address(&self) -> Result<String, GpuError> {
        use sys::CUdevice_attribute as Attribute;
        let ask = |attribute| {
            self.context.attribute(attribute).map_err(GpuError::driver("ask for the PCI address"))
        };
        let domain = ask(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let bus = ask(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
        let device = ask(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
        Ok(format!("{domain:04x}:{bus:02x}:{device:02x}.0"))
    }
}

/// CUDA version of the driver: 12080 for 12.8.
pub(crate) fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: points to an integer; allowed before initialisation.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version)
}

/// All kernels, loaded on one device.
#[derive(Debug)]
pub struct Kernels {
    context: Arc<CudaContext>,
    functions: HashMap<&'static str, CudaFunction>,
}

impl Kernels {
    /// Compiles the kernels for `gpu`, or takes them from the cache on disk, and loads them.
    ///
    /// # Errors
    /// When NVRTC is missing, a kernel does not compile or the driver does not load it.
    pub fn load(gpu: &Gpu) -> Result<Self, GpuError> {
        let nvrtc = Nvrtc::for_driver()?;
        let known = nvrtc.architectures()?;
        let target = Target::of_device(gpu.capability, &known).ok_or_else(|| {
            let valid = "this NVRTC compiles for newer devices only: use an older one";
            GpuError::shape("compute capability", gpu.capability, valid)
        })?;
        let folder = cache_dir();
        let mut functions = HashMap::new();
        for program in Program::ALL {
            let mut code = compile_cached(&nvrtc, program, target, folder.as_deref())?;
            // PTX is text and ends with a zero already; machine code does not mind one more.
            code.push(0);
            let module = gpu
                .context
                .load_module(Ptx::from_binary(code))
                .map_err(GpuError::driver("load the kernels"))?;
            for name in program.kernels() {
                let function =
                    module.load_function(name).map_err(GpuError::driver("find a kernel"))?;
                functions.insert(*name, function);
            }
        }
        Ok(Self { context: Arc::clone(&gpu.context), functions })
    }

    /// Queues `launch` on `stream`.
    ///
    /// # Safety
    /// Every address in the launch must be valid on this device, of the size that the launch's
    /// constructor documents, until the kernel has run; and nothing else may write what it reads or
    /// use what it writes in the meantime, except in `stream`'s order.
    ///
    /// # Errors
    /// When the driver refuses.
    pub unsafe fn run(&self, launch: &Launch, stream: &CudaStream) -> Result<(), GpuError> {
        let function = self.functions.get(launch.kernel).ok_or_else(|| {
            GpuError::shape("kernel", launch.kernel, "kernels are those of `Program::kernels`")
        })?;
        self.context.bind_to_thread().map_err(GpuError::driver("enter the context"))?;
        let mut params = [launch.params().as_ptr().cast::<c_void>().cast_mut()];
        // SAFETY: the function belongs to this context; its one parameter is the struct that the
        // launch holds; the rest is the caller's promise.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                (launch.blocks, 1, 1),
                (launch.threads, 1, 1),
                launch.shared_bytes,
                stream.cu_stream(),
                &mut params,
            )
        }
        .map_err(GpuError::driver("start a kernel"))
    }
}
