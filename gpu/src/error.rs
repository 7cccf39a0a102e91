//! What can go wrong on the way to a device.

use cudarc::driver::DriverError;

/// A device call, a compilation or a shape failed.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The driver refused.
    #[error("CUDA: cannot {doing}: {source}")]
    Driver {
        /// What was asked of it.
        doing: &'static str,
        /// Its answer.
        source: DriverError,
    },
    /// No NVRTC library.
    #[error("no NVRTC library, which compiles the kernels: {0}")]
    NoNvrtc(String),
    /// NVRTC refused.
    #[error("NVRTC: cannot {doing} `{program}`: {answer}")]
    Nvrtc {
        /// What was asked of it.
        doing: &'static str,
        /// Kernel file.
        program: &'static str,
        /// Its answer.
        answer: String,
    },
    /// A kernel does not compile.
    #[error("`{program}` does not compile for {target}:\n{log}")]
    Compile {
        /// Kernel file.
        program: &'static str,
        /// Architecture asked for.
        target: String,
        /// The compiler's log.
        log: String,
    },
    /// No nvJPEG library.
    #[error("no nvJPEG library, which decodes JPEG on the device: {0}")]
    NoNvjpeg(String),
    /// nvJPEG refused.
    #[error("nvJPEG: cannot {doing}: {answer}")]
    Nvjpeg {
        /// What was asked of it.
        doing: &'static str,
        /// Its answer.
        answer: &'static str,
    },
    /// A kernel cannot do this shape.
    #[error("{what}: {value} is not possible on the device; {valid}")]
    Shape {
        /// What has the value.
        what: &'static str,
        /// The value.
        value: String,
        /// What would be valid.
        valid: &'static str,
    },
    /// A thread could not be started.
    #[error("cannot start the thread that gives slots back: {0}")]
    Thread(#[source] std::io::Error),
}

impl GpuError {
    /// Names what was asked of the driver, for `map_err`.
    pub(crate) fn driver(doing: &'static str) -> impl FnOnce(DriverError) -> Self {
        move |source| Self::Driver { doing, source }
    }

    /// A value that a kernel cannot do, and what it can.
    pub(crate) fn shape(what: &'static str, value: impl ToString, valid: &'static str) -> Self {
        Self::Shape { what, value: value.to_string(), valid }
    }
}
