//! The library's calls. All `unsafe` of nvJPEG is here, but for the decoder's promise that its
//! addresses are valid.

use std::ffi::{c_int, c_uchar, c_uint, c_void};
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::CudaContext;

use crate::error::GpuError;
use crate::loading::symbol as get;

pub(super) type Handle = *mut c_void;
type Status = c_int;
type Create = unsafe extern "C" fn(Handle, *mut Handle) -> Status;
type Destroy = unsafe extern "C" fn(Handle) -> Status;
type Batched = unsafe extern "C" fn(
    Handle,
    Handle,
    *const *const c_uchar,
    *const usize,
    *mut Image,
    Handle,
) -> Status;
type BatchedEx = unsafe extern "C" fn(
    Handle,
    Handle,
    *const *const c_uchar,
    *const usize,
    *mut Image,
    *mut Handle,
    Handle,
) -> Status;

/// Components an [`Image`] has room for.
const COMPONENTS: usize = 4;
/// `NVJPEG_OUTPUT_YUV`: planes as they are coded.
const OUTPUT_YUV: c_int = 1;
/// `NVJPEG_FLAGS_BITSTREAM_STRICT`: damage is an error.
const STRICT: c_uint = 1 << 2;

/// Which part of a device decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// `NVJPEG_BACKEND_DEFAULT`: the multiprocessors, with help of the CPU.
    Default = 0,
    /// `NVJPEG_BACKEND_GPU_HYBRID`: the multiprocessors, for the entropy code of batches, too.
    Hybrid = 2,
    /// `NVJPEG_BACKEND_HARDWARE`: engines of their own, where the device has some.
    Hardware = 3,
}

/// Planes to be written: addresses on the device, and bytes from row to row.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Image {
    pub(super) channel: [*mut c_uchar; COMPONENTS],
    pub(super) pitch: [usize; COMPONENTS],
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) components: c_int,
    /// As nvJPEG numbers it: 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0, 6 for grey.
    pub(super) subsampling: c_int,
    pub(super) width: c_int,
    pub(super) height: c_int,
}

/// The library and the calls that are used, with nvjpeg.h's signatures.
pub(super) struct Library {
    create: unsafe extern "C" fn(c_int, Handle, Handle, c_uint, *mut Handle) -> Status,
    destroy: Destroy,
    state_create: Create,
    state_destroy: Destroy,
    image_info: unsafe extern "C" fn(
        Handle,
        *const c_uchar,
        usize,
        *mut c_int,
        *mut c_int,
        *mut c_int,
        *mut c_int,
    ) -> Status,
    decode: unsafe extern "C" fn(
        Handle,
        Handle,
        *const c_uchar,
        usize,
        c_int,
        *mut Image,
        Handle,
    ) -> Status,
    initialize: unsafe extern "C" fn(Handle, Handle, c_int, c_int, c_int) -> Status,
    batched: Batched,
    stream_create: Create,
    stream_destroy: Destroy,
    parse_header: unsafe extern "C" fn(Handle, *const c_uchar, usize, Handle) -> Status,
    params_create: Create,
    params_destroy: Destroy,
    set_format: unsafe extern "C" fn(Handle, c_int) -> Status,
    set_region: unsafe extern "C" fn(Handle, c_int, c_int, c_int, c_int) -> Status,
    /// Whether a batch of whole pictures is possible; of nvJPEG 11.0 and newer.
    supported: Option<unsafe extern "C" fn(Handle, Handle, *mut c_int) -> Status>,
    /// Of nvJPEG 11.4 and newer.
    with_regions: Option<Regions>,
    // The calls above live as long as it is loaded.
    _loaded: libloading::Library,
}

/// Batches of regions.
struct Regions {
    supported: unsafe extern "C" fn(Handle, Handle, Handle, *mut c_int) -> Status,
    batched: BatchedEx,
}

impl Library {
    /// Loads the library at `path`, or of that name where the system's loader looks.
    pub(super) fn open(path: &Path) -> Result<Self, GpuError> {
        let failed = |e: libloading::Error| GpuError::NoNvjpeg(format!("{}: {e}", path.display()));
        // SAFETY: nvJPEG's initialisers have no preconditions.
        let loaded = unsafe { libloading::Library::new(path) }.map_err(failed)?;
        // SAFETY: the types are those of nvjpeg.h.
        let calls = unsafe {
            || -> Result<Self, libloading::Error> {
                let regions = || -> Result<Regions, libloading::Error> {
                    Ok(Regions {
                        supported: get(&loaded, "nvjpegDecodeBatchedSupportedEx")?,
                        batched: get(&loaded, "nvjpegDecodeBatchedEx")?,
                    })
                };
                Ok(Self {
                    create: get(&loaded, "nvjpegCreateEx")?,
                    destroy: get(&loaded, "nvjpegDestroy")?,
                    state_create: get(&loaded, "nvjpegJpegStateCreate")?,
                    state_destroy: get(&loaded, "nvjpegJpegStateDestroy")?,
                    image_info: get(&loaded, "nvjpegGetImageInfo")?,
                    decode: get(&loaded, "nvjpegDecode")?,
                    initialize: get(&loaded, "nvjpegDecodeBatchedInitialize")?,
                    batched: get(&loaded, "nvjpegDecodeBatched")?,
                    stream_create: get(&loaded, "nvjpegJpegStreamCreate")?,
                    stream_destroy: get(&loaded, "nvjpegJpegStreamDestroy")?,
                    parse_header: get(&loaded, "nvjpegJpegStreamParseHeader")?,
                    params_create: get(&loaded, "nvjpegDecodeParamsCreate")?,
                    params_destroy: get(&loaded, "nvjpegDecodeParamsDestroy")?,
                    set_format: get(&loaded, "nvjpegDecodeParamsSetOutputFormat")?,
                    set_region: get(&loaded, "nvjpegDecodeParamsSetROI")?,
                    supported: get(&loaded, "nvjpegDecodeBatchedSupported").ok(),
                    with_regions: regions().ok(),
                    _loaded: loaded,
                })
            }()
        };
        calls.map_err(failed)
    }
}

/// One back end of the library with a state of its own; used by one thread at a time.
pub(super) struct Engine {
    library: Arc<Library>,
    context: Arc<CudaContext>,
    handle: Handle,
    state: Handle,
    /// A parsed header.
    stream: Handle,
    /// One for each picture of a batch.
    params: Vec<Handle>,
}

// SAFETY: the library's objects have no thread affinity beyond the current context, and one owner.
unsafe impl Send for Engine {}

impl Engine {
    /// The back end; the device's primary context must be current, here and in every other call.
    pub(super) fn new(
        library: &Arc<Library>,
        context: &Arc<CudaContext>,
        backend: Backend,
    ) -> Result<Self, GpuError> {
        let null = ptr::null_mut();
        let (library, context) = (Arc::clone(library), Arc::clone(context));
        let (handle, state, stream, params) = (null, null, null, Vec::new());
        let mut engine = Self { library, context, handle, state, stream, params };
        let create = |handle: &mut Handle, flags| {
            // SAFETY: default allocators are null; the handle is a place for a pointer.
            unsafe { (engine.library.create)(backend as c_int, null, null, flags, handle) }
        };
        let mut handle = null;
        // Older libraries do not know the flag.
        if create(&mut handle, STRICT) != 0 {
            check(create(&mut handle, 0), "start")?;
        }
        engine.handle = handle;
        let (mut state, mut stream) = (null, null);
        // SAFETY: the handle is valid; `Drop` frees what was made.
        check(unsafe { (engine.library.state_create)(handle, &raw mut state) }, "make a state")?;
        engine.state = state;
        // SAFETY: as above.
        check(unsafe { (engine.library.stream_create)(handle, &raw mut stream) }, "make a parser")?;
        engine.stream = stream;
        Ok(engine)
    }

    /// What the header says; `None` for one that the library cannot read.
    pub(super) fn info(&self, encoded: &[u8]) -> Option<Info> {
        let (mut components, mut subsampling) = (0, -1);
        let (mut widths, mut heights) = ([0; COMPONENTS], [0; COMPONENTS]);
        // SAFETY: the bytes have the length given; the arrays have room for all components.
        let status = unsafe {
            (self.library.image_info)(
                self.handle,
                encoded.as_ptr(),
                encoded.len(),
                &raw mut components,
                &raw mut subsampling,
                widths.as_mut_ptr(),
                heights.as_mut_ptr(),
            )
        };
        let (width, height) = (widths[0], heights[0]);
        (status == 0).then_some(Info { components, subsampling, width, height })
    }

    /// Whether it decodes `region` (left, top, width, height; all where absent) of this picture as the
    /// `n`-th of a batch; remembers the region.
    pub(super) fn supports(
        &mut self,
        n: usize,
        encoded: &[u8],
        region: Option<[c_int; 4]>,
    ) -> bool {
        self.try_supports(n, encoded, region).unwrap_or(false)
    }

    fn try_supports(
        &mut self,
        n: usize,
        encoded: &[u8],
        region: Option<[c_int; 4]>,
    ) -> Result<bool, GpuError> {
        let library = Arc::clone(&self.library);
        if region.is_some() && library.with_regions.is_none() {
            return Ok(false);
        }
        let (bytes, len, mut answer) = (encoded.as_ptr(), encoded.len(), -1);
        // SAFETY: handles are valid, the bytes have the length given.
        let parsed = unsafe { (library.parse_header)(self.handle, bytes, len, self.stream) };
        check(parsed, "parse a header")?;
        let Some(regions) = &library.with_regions else {
            let Some(supported) = library.supported else { return Ok(false) };
            // SAFETY: handles are valid; the header was parsed.
            let asked = unsafe { supported(self.handle, self.stream, &raw mut answer) };
            return check(asked, "ask what it supports").map(|()| answer == 0);
        };
        while self.params.len() <= n {
            let mut params = ptr::null_mut();
            // SAFETY: the handle is valid; `Drop` frees the parameters.
            let status = unsafe { (library.params_create)(self.handle, &raw mut params) };
            check(status, "make parameters")?;
            self.params.push(params);
        }
        let (params, [x, y, width, height]) = (self.params[n], region.unwrap_or(WHOLE));
        // SAFETY: as above.
        unsafe {
            check((library.set_format)(params, OUTPUT_YUV), "set the format")?;
            check((library.set_region)(params, x, y, width, height), "set the region")?;
            let asked = (regions.supported)(self.handle, self.stream, params, &raw mut answer);
            check(asked, "ask what it supports")?;
        }
        Ok(answer == 0)
    }

    /// Queues the decoding of all `pictures` on `stream`; with `asked`, of what [`Engine::supports`] was
    /// asked for, else whole.
    ///
    /// # Safety
    /// The addresses of `images` must be valid on the device, for planes as large as the headers (or
    /// the regions) say; `pictures` must live until the stream has done the work.
    pub(super) unsafe fn decode_batch(
        &mut self,
        pictures: &[&[u8]],
        images: &mut [Image],
        asked: bool,
        stream: Handle,
    ) -> Result<(), GpuError> {
        let count = pictures.len().min(images.len());
        let data: Vec<*const c_uchar> = pictures.iter().map(|p| p.as_ptr()).collect();
        let lengths: Vec<usize> = pictures.iter().map(|p| p.len()).collect();
        let (data, lengths, images) = (data.as_ptr(), lengths.as_ptr(), images.as_mut_ptr());
        let library = &self.library;
        // SAFETY: all arrays have `count` entries; the rest is the caller's promise.
        unsafe {
            let start =
                (library.initialize)(self.handle, self.state, count as c_int, 1, OUTPUT_YUV);
            check(start, "set up a batch")?;
            let status = match &library.with_regions {
                Some(ex) if asked && self.params.len() >= count => {
                    let params = self.params.as_mut_ptr();
                    (ex.batched)(self.handle, self.state, data, lengths, images, params, stream)
                }
                Some(_) if asked => return check(UNSUPPORTED, "decode regions"),
                _ => (library.batched)(self.handle, self.state, data, lengths, images, stream),
            };
            check(status, "decode a batch")
        }
    }

    /// Queues the decoding of one picture.
    ///
    /// # Safety
    /// As [`Engine::decode_batch`].
    pub(super) unsafe fn decode(
        &mut self,
        picture: &[u8],
        image: &mut Image,
        stream: Handle,
    ) -> Result<(), GpuError> {
        let (data, len) = (picture.as_ptr(), picture.len());
        // SAFETY: the caller's promise.
        let status = unsafe {
            (self.library.decode)(self.handle, self.state, data, len, OUTPUT_YUV, image, stream)
        };
        check(status, "decode a picture")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.context.bind_to_thread() {
            tracing::warn!("nvJPEG's memory is lost: {error}");
            return;
        }
        // SAFETY: each was made by this library and is freed once, the handle last.
        unsafe {
            for params in self.params.drain(..) {
                (self.library.params_destroy)(params);
            }
            if !self.stream.is_null() {
                (self.library.stream_destroy)(self.stream);
            }
            if !self.state.is_null() {
                (self.library.state_destroy)(self.state);
            }
            if !self.handle.is_null() {
                (self.library.destroy)(self.handle);
            }
        }
    }
}

/// A region that is none.
const WHOLE: [c_int; 4] = [0, 0, -1, -1];
/// `NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED`.
const UNSUPPORTED: Status = 9;

fn check(status: Status, doing: &'static str) -> Result<(), GpuError> {
    let answer = match status {
        0 => return Ok(()),
        1 => "not initialised",
        2 => "an invalid parameter",
        3 => "a damaged JPEG file",
        4 => "a kind of JPEG file that it does not support",
        5 => "out of memory",
        6 => "the device failed",
        7 => "this device cannot",
        8 => "an internal error",
        UNSUPPORTED => "this back end cannot",
        10 => "a JPEG file that ends early",
        _ => "an unknown error",
    };
    Err(GpuError::Nvjpeg { doing, answer })
}
