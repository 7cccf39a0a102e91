//! The checked layer over FFmpeg's C interface: owned handles, results instead of codes. Nothing
//! above this module and [`crate::encode`] sees a pointer.

mod codec;
mod frame;
mod input;
mod packet;
mod scaler;

use std::ffi::CStr;
use std::os::raw::c_int;
use std::sync::Once;

use ffmpeg_next::ffi as c;

pub(crate) use codec::{Answer, Codec, CodecSetup};
pub(crate) use frame::Frame;
pub(crate) use input::Input;
pub(crate) use packet::Packet;
pub(crate) use scaler::Scaler;

use crate::error::DecodeError;

/// Silences FFmpeg's own log, once a process.
pub(crate) fn init() {
    static ONCE: Once = Once::new();
    // SAFETY: setting the log level is thread safe.
    ONCE.call_once(|| unsafe { c::av_log_set_level(c::AV_LOG_QUIET) });
}

/// FFmpeg's words for an error code.
pub(crate) fn message(code: c_int) -> String {
    let mut text = [0; 128];
    // SAFETY: the buffer has the length given; the result is terminated.
    unsafe {
        c::av_strerror(code, text.as_mut_ptr(), text.len());
        CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
    }
}

/// FFmpeg's static strings.
fn static_text(text: *const std::os::raw::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and FFmpeg's tables are terminated and live for ever.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn check(code: c_int) -> Result<c_int, DecodeError> {
    if code < 0 { Err(DecodeError::Damaged(message(code))) } else { Ok(code) }
}

fn time(value: i64) -> Option<i64> {
    (value != c::AV_NOPTS_VALUE).then_some(value)
}

fn ratio(value: c::AVRational) -> f64 {
    if value.num > 0 && value.den > 0 { f64::from(value.num) / f64::from(value.den) } else { 0.0 }
}

/// # Safety
/// `data` must be null or valid for `len` bytes during `'a`.
unsafe fn slice<'a>(data: *const u8, len: c_int) -> &'a [u8] {
    if data.is_null() || len <= 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(data, len as usize) }
}
