//! Videos by NVDEC, through FFmpeg's `cuda` hardware device; frames stay in the device's memory.
//!
//! Which packets are decoded is planned as in [`super::video`]. Whatever is not plain (a codec or a
//! sample format the hardware has not, a stream that must be decoded from its beginning, a damaged
//! frame) is [`DecodeError::Hardware`], for the processor to decode.
//!
//! This crate knows no CUDA library: a context, a stream and frames are plain addresses.

use std::ffi::{CString, c_int, c_void};

use ffmpeg_next::ffi as c;
use tubelet_core::{Chroma, MediaInfo, Size, Upsampling, Yuv};

use super::av::{self, Codec, Frame, Input};
use super::video::{Idle, Scan, each_wanted};
use crate::error::DecodeError;

/// A CUDA context and one of its streams, as the driver's handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaQueue {
    /// `CUcontext`: the device's primary context, where others of the process shall read the frames.
    pub context: u64,
    /// `CUstream` that frames are made ready on.
    pub stream: u64,
}

/// A decoded frame in the device's memory: 8-bit NV12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFrame {
    /// Its place among the wanted frames.
    pub slot: usize,
    /// Size in pixels.
    pub size: Size,
    /// How its planes are coded.
    pub yuv: Yuv,
    /// First bytes of luma and of chroma, in which U and V take turns.
    pub planes: [u64; 2],
    /// Bytes from row to row of each.
    pub pitch: [u32; 2],
}

/// What is done with a frame: see [`HwVideoDecoder::decode`].
pub type Visit<'a> = dyn FnMut(&DeviceFrame) -> Result<(), DecodeError> + 'a;

/// Decodes videos on a device; keeps some decoders from call to call.
pub struct HwVideoDecoder {
    device: Device,
    /// Most recently used last.
    idle: Idle,
    decoded: u64,
}

impl HwVideoDecoder {
    /// A decoder on the device of `queue`.
    ///
    /// # Errors
    /// When this FFmpeg has no CUDA, or the driver's libraries are missing.
    ///
    /// # Safety
    /// The handles must be those of a live context and of a stream of it, and outlive the decoder.
    pub unsafe fn new(queue: CudaQueue) -> Result<Self, DecodeError> {
        av::init();
        // SAFETY: the caller's promise.
        let device = unsafe { Device::new(queue) }?;
        Ok(Self { device, idle: Idle::new(), decoded: 0 })
    }

    /// Pictures that were given to the hardware for wanted frames so far, themselves included.
    pub fn frames_decoded(&self) -> u64 {
        self.decoded
    }

    /// Decodes the frames `frames` (presentation indices, ascending) and shows each to `visit`, in
    /// order of presentation.
    ///
    /// A frame's addresses are valid until `visit` returns: by then, what reads them must have run,
    /// not only be queued. They are ready for work on the queue's stream.
    ///
    /// # Errors
    /// When the container cannot be opened, the hardware cannot decode the stream in a plain way, or
    /// `visit` fails.
    pub fn decode(
        &mut self,
        encoded: &[u8],
        info: &MediaInfo,
        frames: &[u32],
        visit: &mut Visit<'_>,
    ) -> Result<(), DecodeError> {
        if info.rotation != 0 {
            return Err(refuse("frames that are turned"));
        }
        let mut input = Input::open(encoded, false)?;
        let scan = Scan::new(&mut input);
        let segments = scan.plan(&input, frames);
        let segments = segments.ok_or_else(|| refuse("no clean place to start at"))?;
        let setup = input.codec_setup(scan.reorder_depth(&input));
        let mut codec = match self.idle.take(&setup) {
            Some(codec) => codec,
            None => self.device.codec(&input, setup.reorder)?,
        };
        for segment in &segments {
            let mut given = 0;
            let left = each_wanted(&mut codec, &scan, segment, &mut given, |frame, slot| {
                visit(&on_device(frame, info, slot)?)?;
                Ok(true)
            });
            self.decoded += given;
            if left? > 0 {
                return Err(refuse("a wanted frame did not come out"));
            }
        }
        self.idle.keep(setup, codec);
        Ok(())
    }
}

/// The frame's place in the device's memory.
fn on_device(frame: &Frame, info: &MediaInfo, slot: usize) -> Result<DeviceFrame, DecodeError> {
    let f = frame.get();
    if frame.is_damaged() {
        return Err(refuse("a damaged frame"));
    }
    if f.format != c::AVPixelFormat::AV_PIX_FMT_CUDA as c_int || f.hw_frames_ctx.is_null() {
        return Err(refuse("a frame that is not on the device"));
    }
    // SAFETY: a hardware frame's reference holds the context of its pool.
    let samples = unsafe { (*(*f.hw_frames_ctx).data.cast::<c::AVHWFramesContext>()).sw_format };
    if samples != c::AVPixelFormat::AV_PIX_FMT_NV12 {
        return Err(refuse("samples that are not 8-bit 4:2:0"));
    }
    // What is cut off on the right and below shows in the size, but addresses are not moved.
    if f.crop_left != 0 || f.crop_top != 0 {
        return Err(refuse("frames cut on the left or above"));
    }
    let size = frame.size();
    if size != info.size {
        return Err(refuse("frames of another size than promised"));
    }
    let pitch = [f.linesize[0], f.linesize[1]].map(|p| u32::try_from(p).unwrap_or(0));
    let planes = [f.data[0] as u64, f.data[1] as u64];
    if planes.contains(&0) || pitch.iter().any(|p| *p < size.width) {
        return Err(refuse("a frame without planes"));
    }
    let matrix = frame.matrix().into();
    let yuv = Yuv { chroma: Chroma::HalfBoth, upsampling: Upsampling::Repeat, matrix };
    Ok(DeviceFrame { slot, size, yuv, planes, pitch })
}

fn refuse(what: &str) -> DecodeError {
    DecodeError::Hardware(what.to_owned())
}

/// Surfaces for frames between decoder and caller.
const EXTRA_SURFACES: c_int = 8;

/// FFmpeg's hardware device over a context that others own.
struct Device(*mut c::AVBufferRef);

// SAFETY: a reference-counted object without thread affinity; FFmpeg enters the context itself.
unsafe impl Send for Device {}

/// `AVCUDADeviceContext` of libavutil/hwcontext_cuda.h, whose header needs CUDA's own.
#[repr(C)]
struct CudaDeviceContext {
    context: *mut c_void,
    stream: *mut c_void,
    internal: *mut c_void,
}

impl Device {
    /// A device over the queue's own context and stream. FFmpeg's flag for the primary context is not
    /// used: it refuses a context that another library has made with other scheduling.
    ///
    /// # Safety
    /// As [`HwVideoDecoder::new`].
    unsafe fn new(queue: CudaQueue) -> Result<Self, DecodeError> {
        let kind = c::AVHWDeviceType::AV_HWDEVICE_TYPE_CUDA;
        // SAFETY: a new device context of the kind CUDA has FFmpeg's own set-up struct, which is
        // filled before the context is initialised; FFmpeg frees what it allocated alone.
        unsafe {
            let device = Self(c::av_hwdevice_ctx_alloc(kind));
            if device.0.is_null() {
                return Err(refuse("this FFmpeg is built without CUDA"));
            }
            let context = (*device.0).data.cast::<c::AVHWDeviceContext>();
            let cuda = (*context).hwctx.cast::<CudaDeviceContext>();
            (*cuda).context = queue.context as *mut c_void;
            (*cuda).stream = queue.stream as *mut c_void;
            match c::av_hwdevice_ctx_init(device.0) {
                code if code < 0 => {
                    let why = av::message(code);
                    Err(DecodeError::Hardware(format!("FFmpeg's CUDA device: {why}")))
                }
                _ => Ok(device),
            }
        }
    }

    /// The stream's decoder with this device.
    fn codec(&self, input: &Input<'_>, reorder: Option<usize>) -> Result<Codec, DecodeError> {
        let name = input.codec_name();
        let found = decoder_of(&name);
        let found = found.ok_or_else(|| refuse(&format!("FFmpeg has none for {name}")))?;
        input.open_codec(found, reorder, |context| {
            context.get_format = Some(choose);
            // Frames that wait to be put in order hold surfaces beyond those that the codec counts.
            context.extra_hw_frames = EXTRA_SURFACES;
            // SAFETY: a live reference; the codec owns and frees the new one.
            context.hw_device_ctx = unsafe { c::av_buffer_ref(self.0) };
        })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: owned; null is accepted.
        unsafe { c::av_buffer_unref(&mut self.0) }
    }
}

/// FFmpeg's decoder of the codec `name` that can use a CUDA device. The one it takes by itself need not
/// be it: AV1's is dav1d.
fn decoder_of(name: &str) -> Option<*const c::AVCodec> {
    let name = CString::new(name).ok()?;
    // SAFETY: FFmpeg's tables are static; names are terminated; the loop ends at null.
    unsafe {
        let descriptor = c::avcodec_descriptor_get_by_name(name.as_ptr());
        if descriptor.is_null() {
            return None;
        }
        let usual = c::avcodec_find_decoder((*descriptor).id);
        let own = c::avcodec_find_decoder_by_name(name.as_ptr());
        [usual, own].into_iter().find(|codec| !codec.is_null() && takes_cuda(*codec))
    }
}

/// # Safety
/// `codec` must be one of FFmpeg's.
unsafe fn takes_cuda(codec: *const c::AVCodec) -> bool {
    let method = c::AV_CODEC_HW_CONFIG_METHOD_HW_DEVICE_CTX as c_int;
    // SAFETY: the caller's promise; entries are static, null ends them.
    (0..).map(|n| unsafe { c::avcodec_get_hw_config(codec, n) }).take_while(|e| !e.is_null()).any(
        |entry| {
            // SAFETY: not null.
            let entry = unsafe { &*entry };
            entry.device_type == c::AVHWDeviceType::AV_HWDEVICE_TYPE_CUDA
                && entry.methods & method != 0
        },
    )
}

/// Takes CUDA among the formats offered, and none where it is not: the processor has a path of its
/// own.
unsafe extern "C" fn choose(
    _: *mut c::AVCodecContext,
    offered: *const c::AVPixelFormat,
) -> c::AVPixelFormat {
    let (none, cuda) = (c::AVPixelFormat::AV_PIX_FMT_NONE, c::AVPixelFormat::AV_PIX_FMT_CUDA);
    let mut at = offered.cast::<c_int>();
    // SAFETY: FFmpeg's list ends with `none`; read as numbers, so that unknown ones do no harm.
    unsafe {
        while *at != none as c_int {
            if *at == cuda as c_int {
                return cuda;
            }
            at = at.add(1);
        }
    }
    none
}

#[cfg(test)]
mod tests {
    use super::*;
    use c::AVPixelFormat::{
        AV_PIX_FMT_CUDA, AV_PIX_FMT_NONE, AV_PIX_FMT_VAAPI, AV_PIX_FMT_YUV420P,
    };

    #[test]
    fn only_frames_on_the_device_are_taken() {
        let chosen = |offered: &[c::AVPixelFormat]| {
            // SAFETY: the list ends with none.
            unsafe { choose(std::ptr::null_mut(), offered.as_ptr()) }
        };
        let all = [AV_PIX_FMT_VAAPI, AV_PIX_FMT_CUDA, AV_PIX_FMT_YUV420P, AV_PIX_FMT_NONE];
        assert_eq!(chosen(&all), AV_PIX_FMT_CUDA);
        assert_eq!(chosen(&[AV_PIX_FMT_YUV420P, AV_PIX_FMT_NONE]), AV_PIX_FMT_NONE);
        assert_eq!(chosen(&[AV_PIX_FMT_NONE]), AV_PIX_FMT_NONE);
    }

    #[test]
    fn decoders_without_hardware_are_not_taken() {
        assert_eq!(decoder_of("no such codec"), None);
        assert_eq!(decoder_of("ffv1"), None);
    }

    #[test]
    fn without_a_driver_the_reason_is_told() {
        if std::path::Path::new("/dev/nvidiactl").exists() {
            return;
        }
        // SAFETY: without a driver nothing is done with the handles.
        let outcome = unsafe { HwVideoDecoder::new(CudaQueue { context: 0, stream: 0 }) };
        let error = outcome.err().expect("no driver").to_string();
        assert!(error.contains("hardware decoder") && error.contains("CUDA"), "{error}");
    }
}
