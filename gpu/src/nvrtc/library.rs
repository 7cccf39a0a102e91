//! The library's calls. All `unsafe` of NVRTC is here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use super::{OPTIONS, Target};
use crate::error::GpuError;
use crate::kernels::{COMMON, Program};
use crate::loading::symbol as get;

type Handle = *mut c_void;
type Answer = c_int;
type Size = unsafe extern "C" fn(Handle, *mut usize) -> Answer;
type Text = unsafe extern "C" fn(Handle, *mut c_char) -> Answer;

/// The library and the calls that are used, with nvrtc.h's signatures.
pub(super) struct Library {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Answer,
    error_string: unsafe extern "C" fn(Answer) -> *const c_char,
    arch_count: unsafe extern "C" fn(*mut c_int) -> Answer,
    archs: unsafe extern "C" fn(*mut c_int) -> Answer,
    create: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Answer,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> Answer,
    destroy: unsafe extern "C" fn(*mut Handle) -> Answer,
    log: (Size, Text),
    ptx: (Size, Text),
    cubin: (Size, Text),
    // The calls above live as long as it is loaded.
    _loaded: libloading::Library,
}

impl Library {
    /// Loads the library at `path`, or of that name where the system's loader looks.
    pub(super) fn open(path: &Path) -> Result<Self, GpuError> {
        let failed = |e: libloading::Error| GpuError::NoNvrtc(format!("{}: {e}", path.display()));
        // SAFETY: NVRTC's initialisers have no preconditions.
        let loaded = unsafe { libloading::Library::new(path) }.map_err(failed)?;
        // SAFETY: the types are those of nvrtc.h.
        let calls = unsafe {
            || -> Result<Self, libloading::Error> {
                Ok(Self {
                    version: get(&loaded, "nvrtcVersion")?,
                    error_string: get(&loaded, "nvrtcGetErrorString")?,
                    arch_count: get(&loaded, "nvrtcGetNumSupportedArchs")?,
                    archs: get(&loaded, "nvrtcGetSupportedArchs")?,
                    create: get(&loaded, "nvrtcCreateProgram")?,
                    compile: get(&loaded, "nvrtcCompileProgram")?,
                    destroy: get(&loaded, "nvrtcDestroyProgram")?,
                    log: (
                        get(&loaded, "nvrtcGetProgramLogSize")?,
                        get(&loaded, "nvrtcGetProgramLog")?,
                    ),
                    ptx: (get(&loaded, "nvrtcGetPTXSize")?, get(&loaded, "nvrtcGetPTX")?),
                    cubin: (get(&loaded, "nvrtcGetCUBINSize")?, get(&loaded, "nvrtcGetCUBIN")?),
                    _loaded: loaded,
                })
            }()
        };
        calls.map_err(failed)
    }

    pub(super) fn version(&self) -> Result<(i32, i32), GpuError> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both point to integers.
        let answer = unsafe { (self.version)(&raw mut major, &raw mut minor) };
        self.check(answer, "ask for the version of", "nvrtc")?;
        Ok((major, minor))
    }

    pub(super) fn architectures(&self) -> Result<Vec<u32>, GpuError> {
        let mut count = 0;
        // SAFETY: points to an integer.
        let answer = unsafe { (self.arch_count)(&raw mut count) };
        self.check(answer, "ask for the architectures of", "nvrtc")?;
        let mut archs = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: there is room for the announced number.
        let answer = unsafe { (self.archs)(archs.as_mut_ptr()) };
        self.check(answer, "ask for the architectures of", "nvrtc")?;
        Ok(archs.into_iter().filter_map(|a| u32::try_from(a).ok()).collect())
    }

    pub(super) fn compile(&self, program: Program, target: Target) -> Result<Vec<u8>, GpuError> {
        let job = Job::new(self, program)?;
        let mut options: Vec<CString> = Vec::new();
        for option in
            OPTIONS.map(str::to_owned).into_iter().chain([format!("--gpu-architecture={target}")])
        {
            options.extend(CString::new(option));
        }
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: a live program and as many C strings as announced, alive during the call.
        let answer =
            unsafe { (self.compile)(job.handle, pointers.len() as c_int, pointers.as_ptr()) };
        if answer != 0 {
            let log = job.bytes(self.log, "read the log of")?;
            return Err(GpuError::Compile {
                program: program.name(),
                target: target.to_string(),
                log: format!("{}{}", self.error_text(answer), String::from_utf8_lossy(&log)),
            });
        }
        match target {
            Target::Machine(_) => job.bytes(self.cubin, "read the machine code of"),
            Target::Portable(_) => job.bytes(self.ptx, "read the PTX of"),
        }
    }

    fn check(
        &self,
        answer: Answer,
        doing: &'static str,
        program: &'static str,
    ) -> Result<(), GpuError> {
        if answer == 0 {
            return Ok(());
        }
        Err(GpuError::Nvrtc { doing, program, answer: self.error_text(answer) })
    }

    fn error_text(&self, answer: Answer) -> String {
        // SAFETY: returns a static C string for any number.
        let text = unsafe { CStr::from_ptr((self.error_string)(answer)) };
        format!("{}\n", text.to_string_lossy())
    }
}

/// A program inside the library.
struct Job<'a> {
    library: &'a Library,
    program: Program,
    handle: Handle,
}

impl<'a> Job<'a> {
    fn new(library: &'a Library, program: Program) -> Result<Self, GpuError> {
        let text = |text: &str| {
            CString::new(text).map_err(|e| GpuError::Nvrtc {
                doing: "take the source of",
                program: program.name(),
                answer: e.to_string(),
            })
        };
        let (source, common) = (text(program.source())?, text(COMMON)?);
        let (file, header) = (text(&format!("{}.cu", program.name()))?, text("common.cuh")?);
        let mut handle = ptr::null_mut();
        // SAFETY: all strings are C strings that outlive the call, which copies them; the two
        // arrays have one entry.
        let answer = unsafe {
            (library.create)(
                &raw mut handle,
                source.as_ptr(),
                file.as_ptr(),
                1,
                &common.as_ptr(),
                &header.as_ptr(),
            )
        };
        library.check(answer, "take the source of", program.name())?;
        Ok(Self { library, program, handle })
    }

    /// One result: the log, PTX or machine code.
    fn bytes(&self, (size, text): (Size, Text), doing: &'static str) -> Result<Vec<u8>, GpuError> {
        let mut len = 0;
        // SAFETY: a live program and a place for a size.
        let answer = unsafe { size(self.handle, &raw mut len) };
        self.library.check(answer, doing, self.program.name())?;
        let mut bytes = vec![0u8; len];
        // SAFETY: there is room for the announced size.
        let answer = unsafe { text(self.handle, bytes.as_mut_ptr().cast()) };
        self.library.check(answer, doing, self.program.name())?;
        Ok(bytes)
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        // SAFETY: created by this library and destroyed once.
        let _ = unsafe { (self.library.destroy)(&raw mut self.handle) };
    }
}
