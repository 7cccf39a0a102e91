//! The devices that a test runs on.

use std::ffi::CString;
use std::sync::Arc;

use bytemuck::{AnyBitPattern, NoUninit};
use cudarc::driver::CudaStream;

use crate::context::{Gpu, Kernels};
use crate::kernels::{Address, Launch};
use crate::memory::{DeviceBuffer, DeviceMemory};

use super::skip::or_skip;

/// Bytes around every buffer on the host that must stay as they are.
const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xa5;

/// Something that runs kernels.
pub(super) enum Device {
    /// The host; threads of a block run in ascending or descending order.
    Host { descending: bool },
    /// A GPU.
    Gpu { kernels: Kernels, stream: Arc<CudaStream>, memory: Arc<DeviceMemory> },
}

/// Memory of a device.
pub(super) enum Buffer {
    Host { words: Vec<u64>, bytes: usize },
    Gpu(DeviceBuffer),
}

/// The GPU, `None` where there is none and that is allowed.
pub(super) fn gpu() -> Option<Gpu> {
    or_skip("GPU", crate::REQUIRE_GPU, Gpu::probe())
}

/// Runs `body` on each device there is.
pub(super) fn on_each_device(body: impl Fn(&Device)) {
    if cfg!(host_kernels) {
        body(&Device::Host { descending: false });
        body(&Device::Host { descending: true });
    }
    if let Some(gpu) = gpu() {
        let stream = gpu.context().new_stream().expect("a stream");
        let memory = DeviceMemory::new(&stream).expect("a pool");
        body(&Device::Gpu { kernels: Kernels::load(&gpu).expect("kernels"), stream, memory });
    }
}

impl Device {
    /// A copy of `values` there.
    pub(super) fn copy<T: NoUninit>(&self, values: &[T]) -> Buffer {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        match self {
            Self::Host { .. } => {
                let mut words = vec![0u64; (bytes.len() + 2 * GUARD).div_ceil(8) + 8];
                let all: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
                all.fill(GUARD_BYTE);
                let start = start_of(all);
                all[start..start + bytes.len()].copy_from_slice(bytes);
                Buffer::Host { words, bytes: bytes.len() }
            }
            Self::Gpu { memory, .. } => {
                Buffer::Gpu(DeviceBuffer::from_slice(memory, values).expect("a copy"))
            }
        }
    }

    /// Room for `len` values, filled with bytes that no kernel writes by itself.
    pub(super) fn room<T>(&self, len: usize) -> Buffer {
        self.copy(&vec![0xcdu8; len * size_of::<T>()])
    }

    /// Runs `launch` and waits for it.
    pub(super) fn run(&self, launch: &Launch) {
        match self {
            Self::Host { descending } => run_on_host(launch, *descending),
            Self::Gpu { kernels, stream, .. } => {
                // SAFETY: tests keep the buffers that they made for the launch.
                unsafe { kernels.run(launch, stream) }.expect("starts");
                stream.synchronize().expect("runs");
            }
        }
    }
}

/// First byte of a host buffer, aligned to 16 after the guard.
fn start_of(all: &[u8]) -> usize {
    let address = all.as_ptr() as usize + GUARD;
    address.next_multiple_of(16) - all.as_ptr() as usize
}

impl Buffer {
    pub(super) fn address(&self) -> Address {
        match self {
            Self::Host { words, .. } => {
                let all: &[u8] = bytemuck::cast_slice(words);
                Address(all[start_of(all)..].as_ptr() as u64)
            }
            Self::Gpu(buffer) => buffer.address(),
        }
    }

    /// Its values; on the host, after a look at the guards.
    pub(super) fn read<T: AnyBitPattern + NoUninit>(&self) -> Vec<T> {
        match self {
            Self::Host { words, bytes } => {
                let all: &[u8] = bytemuck::cast_slice(words);
                let (start, end) = (start_of(all), start_of(all) + bytes);
                let mut guards = all[..start].iter().chain(&all[end..]);
                assert!(guards.all(|b| *b == GUARD_BYTE), "a kernel wrote outside its buffer");
                let mut values = vec![T::zeroed(); bytes / size_of::<T>()];
                bytemuck::cast_slice_mut(&mut values).copy_from_slice(&all[start..end]);
                values
            }
            Self::Gpu(buffer) => buffer.to_vec().expect("a copy"),
        }
    }
}

#[cfg(host_kernels)]
fn run_on_host(launch: &Launch, descending: bool) {
    unsafe extern "C" {
        fn tubelet_host_launch(
            name: *const std::ffi::c_char,
            blocks: u32,
            threads: u32,
            shared_bytes: usize,
            params: *const u64,
            params_bytes: usize,
            descending: i32,
        ) -> i32;
    }
    let name = CString::new(launch.kernel).expect("a name");
    let params = launch.params();
    // SAFETY: the name is a C string, the parameters as long as said (the callee checks that it is
    // the kernel's length), and tests keep the buffers that they made for the launch.
    let outcome = unsafe {
        tubelet_host_launch(
            name.as_ptr(),
            launch.blocks,
            launch.threads,
            launch.shared_bytes as usize,
            params.as_ptr(),
            size_of_val(params),
            i32::from(descending),
        )
    };
    let meaning =
        ["", "no such kernel", "other parameters", "some threads pass a barrier", "memory"];
    assert_eq!(outcome, 0, "{}: {}", launch.kernel, meaning[outcome as usize]);
}

#[cfg(not(host_kernels))]
fn run_on_host(launch: &Launch, _descending: bool) {
    panic!("{}: kernels are not compiled for this host", launch.kernel);
}
