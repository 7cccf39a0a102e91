//! The kernels against the host's functions. Every body runs on each device: the host, where the
//! kernels are compiled by the host's compiler, always; the GPU when there is one.
//!
//! With `TUBELET_REQUIRE_GPU=1` a missing GPU is a failure.

mod compile;
mod crop;
mod crop_resize;
mod data;
mod device;
mod floats;
mod hand_over;
mod hog;
mod normalize;
#[cfg(host_kernels)]
mod nvjpeg;
mod patch_norm;
mod picture;
mod plan;
#[cfg(host_kernels)]
mod simulated;
mod simulation;
mod skip;
mod stage;
