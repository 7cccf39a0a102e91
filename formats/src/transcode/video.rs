//! Videos for training: H.264 in MP4, closed groups of [`GOP`] pictures, a reference picture at
//! every `stride`-th place.
//!
//! x264 is told to put exactly `stride - 1` B-pictures between two references, to refer to none of
//! them, to place key pictures by counting alone and to close every group. The one exception that
//! a closed group forces: the last picture of a group has no later one to lean on, so it is a
//! reference too, for the B-pictures before it. Nothing at a multiple of the stride needs it.
//!
//! At a constant rate, frame times are rounded to the nearest tick, and each tick shows the last
//! frame at or before it, from the first frame's tick until the last frame's duration ends: as
//! FFmpeg's `fps` filter does with `round=near`.

use std::os::raw::c_int;
use std::ptr;

use ffmpeg_next::ffi as c;

use super::resize::{Colour, Picture, Resizer};
use super::{GOP, Quality, Rate, TranscodeError, Transcoded, VideoSettings, limited};
use crate::decode::av::{Frame, Input, Packet};
use crate::decode::video::each_shown;
use crate::error::DecodeError;
use crate::mux::{Muxer, check, text};

/// Frames whose error is measured, from the beginning.
const MEASURED: usize = 64;
/// Frames per second of streams that tell none.
const DEFAULT_RATE: c::AVRational = c::AVRational { num: 25, den: 1 };

/// Longest time without a frame that a constant rate fills, in seconds.
const MAX_GAP: u32 = 600;

/// Re-encodes a video; time stamps are kept unless a constant rate is asked for, rotation metadata is applied, the first sound stream
/// is copied where MP4 can hold it. `measure` asks for the quality of the first 64 frames' brightness
/// against the resized source.
///
/// # Errors
/// When a frame cannot be decoded or changes its format, or the encoder fails.
pub fn train_video(
    encoded: &[u8],
    settings: &VideoSettings,
    measure: bool,
) -> Result<Transcoded, TranscodeError> {
    let mut writer = Writer::new(settings, measure)?;
    let mut failure = None;
    let frames = each_shown(encoded, &mut |input, frame, time| {
        writer.push(encoded, input, frame, time).map_err(|error| {
            let what = error.to_string();
            failure = Some(error);
            DecodeError::Damaged(what)
        })
    });
    match (frames, failure) {
        (_, Some(error)) => return Err(error),
        (Err(error), None) => return Err(error.into()),
        (Ok(0), None) => {
            let what = "the video stream is empty".to_owned();
            return Err(DecodeError::NoFrames(what).into());
        }
        (Ok(_), None) => {}
    }
    let Finished { bytes, kept, frames, note } = writer.finish(encoded)?;
    let quality = if measure { Some(quality(&bytes, &kept)?) } else { None };
    Ok(Transcoded { bytes: Some(bytes), quality, frames, note })
}

/// How far the first frames' brightness is from `kept`.
fn quality(bytes: &[u8], kept: &[Vec<u8>]) -> Result<Quality, DecodeError> {
    let (mut quality, mut frames) = (Quality::default(), kept.iter());
    each_shown(bytes, &mut |_, frame, _| {
        if let Some(wanted) = frames.next() {
            let width = frame.size().width as usize;
            quality.compare(wanted, &frame.native_bytes()?[..wanted.len()], width);
        }
        Ok(())
    })?;
    Ok(quality)
}

/// How long the last frame is shown, in the stream's time base, where the container tells.
fn last_duration(encoded: &[u8]) -> Result<Option<i64>, DecodeError> {
    let packets = Input::open(encoded, true)?.packets();
    let last = packets.iter().filter(|p| !p.is_hidden()).max_by_key(|p| p.pts());
    Ok(last.and_then(Packet::duration))
}

/// A video that was written.
struct Finished {
    bytes: Vec<u8>,
    /// Brightness of the first frames, where they are to be measured.
    kept: Vec<Vec<u8>>,
    frames: u32,
    /// What was lost.
    note: Option<String>,
}

/// Encoder and file.
struct Writer<'a> {
    settings: &'a VideoSettings,
    mux: Muxer,
    codec: *mut c::AVCodecContext,
    packet: *mut c::AVPacket,
    resizer: Option<Resizer>,
    base: c::AVRational,
    rate: c::AVRational,
    /// Time base of the source's frames.
    source_base: c::AVRational,
    /// The usual length of one of them in seconds, and whether they have times of their own.
    source_frame: c::AVRational,
    timed: bool,
    /// Frames of the source.
    frames: i64,
    /// Frames written.
    written: u32,
    /// At a constant rate: the frame that waits for the next, and its tick.
    waiting: Option<(Picture, i64)>,
    /// Time of the source's last frame.
    last: i64,
    kept: Vec<Vec<u8>>,
    keep: bool,
    note: Option<String>,
}

impl<'a> Writer<'a> {
    fn new(settings: &'a VideoSettings, keep: bool) -> Result<Self, TranscodeError> {
        let mux = Muxer::new("mp4")?;
        // SAFETY: allocation only; `Drop` frees it.
        let packet = unsafe { c::av_packet_alloc() };
        if packet.is_null() {
            return Err(TranscodeError::Encode("out of memory".to_owned()));
        }
        Ok(Self {
            settings,
            mux,
            codec: ptr::null_mut(),
            packet,
            resizer: None,
            base: DEFAULT_RATE,
            rate: DEFAULT_RATE,
            source_base: DEFAULT_RATE,
            source_frame: DEFAULT_RATE,
            timed: false,
            frames: 0,
            written: 0,
            waiting: None,
            last: 0,
            kept: Vec::new(),
            keep,
            note: None,
        })
    }

    fn push(
        &mut self,
        encoded: &[u8],
        input: &Input<'_>,
        frame: &Frame,
        time: Option<i64>,
    ) -> Result<(), TranscodeError> {
        if self.resizer.is_none() {
            self.open(encoded, input, frame, time.is_some())?;
        }
        let resizer = self.resizer.as_mut();
        let resizer = resizer.ok_or_else(|| TranscodeError::Encode("not open".to_owned()))?;
        let picture = resizer.convert(frame)?.share()?;
        let time = time.unwrap_or(self.frames);
        self.frames += 1;
        match self.settings.fps {
            None => self.encode(&picture, time),
            Some(_) => self.wait(picture, time),
        }
    }

    /// Writes `picture` at `time` of the encoder's time base.
    fn encode(&mut self, picture: &Picture, time: i64) -> Result<(), TranscodeError> {
        if self.keep && self.kept.len() < MEASURED {
            self.kept.push(picture.luma());
        }
        let raw = picture.raw();
        // SAFETY: the encoder is open, the picture has its size and format.
        unsafe {
            (*raw).pts = time;
            (*raw).pict_type = c::AVPictureType::AV_PICTURE_TYPE_NONE;
            check(c::avcodec_send_frame(self.codec, raw))?;
        }
        self.written += 1;
        self.drain()
    }

    /// Writes the frame before `picture` at the ticks until that of `time`; `picture` waits then.
    fn wait(&mut self, picture: Picture, time: i64) -> Result<(), TranscodeError> {
        let at = self.tick(time);
        let at = self.waiting.as_ref().map_or(at, |(_, before)| at.max(*before));
        self.show_until(at)?;
        (self.waiting, self.last) = (Some((picture, at)), time);
        Ok(())
    }

    /// The tick nearest to `time` of the source.
    fn tick(&self, time: i64) -> i64 {
        let near = c::AVRounding::AV_ROUND_NEAR_INF;
        // SAFETY: arithmetic on fractions above zero.
        unsafe { c::av_rescale_q_rnd(time, self.source_base, self.base, near) }
    }

    /// Writes the waiting frame at its ticks before `end`.
    fn show_until(&mut self, end: i64) -> Result<(), TranscodeError> {
        let Some((picture, from)) = self.waiting.take() else { return Ok(()) };
        let ticks = end.saturating_sub(from);
        let most = self
            .settings
            .fps
            .map_or(0, |r| i64::from(MAX_GAP) * i64::from(r.frames) / i64::from(r.seconds.max(1)));
        if ticks > most {
            let what =
                format!("no frame for more than {MAX_GAP} seconds: too long for a constant rate");
            return Err(TranscodeError::Encode(what));
        }
        (from..end).try_for_each(|time| self.encode(&picture, time))
    }

    /// Opens everything for frames like the first.
    fn open(
        &mut self,
        encoded: &[u8],
        input: &Input<'_>,
        frame: &Frame,
        timed: bool,
    ) -> Result<(), TranscodeError> {
        let rotation = input.rotation();
        let across = matches!(rotation, 90 | 270);
        let flat = frame.size();
        let shown = if across { tubelet_core::Size::new(flat.height, flat.width) } else { flat };
        let size = limited(shown, self.settings.short_side, 2);
        let resizer = Resizer::new(frame, rotation, size)?;
        // SAFETY: the stream is open.
        let (base, rate) = unsafe {
            let stream = &*input.raw_stream();
            (stream.time_base, stream.avg_frame_rate)
        };
        self.rate = if rate.num > 0 && rate.den > 0 { rate } else { DEFAULT_RATE };
        let counted = c::AVRational { num: self.rate.den, den: self.rate.num };
        (self.source_base, self.timed) = (if timed { base } else { counted }, timed);
        self.source_frame = counted;
        self.base = match self.settings.fps {
            None => self.source_base,
            Some(Rate { frames, seconds }) => {
                self.rate = c::AVRational { num: frames as c_int, den: seconds as c_int };
                c::AVRational { num: self.rate.den, den: self.rate.num }
            }
        };
        self.open_codec(size, resizer.colour())?;
        self.resizer = Some(resizer);
        // SAFETY: the codec is open, the stream is the muxer's.
        unsafe {
            let stream = self.mux.add_stream()?;
            check(c::avcodec_parameters_from_context((*stream).codecpar, self.codec))?;
            (*stream).time_base = self.base;
            (*stream).avg_frame_rate = self.rate;
        }
        let sound = match self.settings.drop_audio {
            true => None,
            false => Sound::open(encoded, &mut self.mux, &mut self.note)?,
        };
        self.mux.start()?;
        sound.map_or(Ok(()), |mut sound| sound.copy(&mut self.mux))
    }

    fn open_codec(
        &mut self,
        size: tubelet_core::Size,
        colour: Colour,
    ) -> Result<(), TranscodeError> {
        // SAFETY: the encoder was found, the context allocated; strings are terminated.
        unsafe {
            let found = c::avcodec_find_encoder_by_name(c"libx264".as_ptr());
            if found.is_null() {
                let what = "this FFmpeg has no libx264, which --video train needs";
                return Err(TranscodeError::Encode(what.to_owned()));
            }
            self.codec = c::avcodec_alloc_context3(found);
            let codec = &mut *self.codec;
            (codec.width, codec.height) = (size.width as c_int, size.height as c_int);
            codec.pix_fmt = c::AVPixelFormat::AV_PIX_FMT_YUV420P;
            (codec.time_base, codec.framerate) = (self.base, self.rate);
            (codec.gop_size, codec.keyint_min) = (GOP as c_int, GOP as c_int);
            codec.max_b_frames = self.settings.stride as c_int - 1;
            codec.thread_count = 1;
            codec.color_range = match colour.full_range {
                true => c::AVColorRange::AVCOL_RANGE_JPEG,
                false => c::AVColorRange::AVCOL_RANGE_MPEG,
            };
            (codec.colorspace, codec.color_primaries, codec.color_trc) =
                (colour.space, colour.primaries, colour.transfer);
            codec.flags |= (c::AV_CODEC_FLAG_BITEXACT | c::AV_CODEC_FLAG_CLOSED_GOP) as c_int;
            if self.mux.wants_global_header() {
                codec.flags |= c::AV_CODEC_FLAG_GLOBAL_HEADER as c_int;
            }
            let mut options = ptr::null_mut();
            for (key, value) in self.settings.x264() {
                c::av_dict_set(&mut options, key.as_ptr(), text(&value)?.as_ptr(), 0);
            }
            let code = c::avcodec_open2(self.codec, found, &mut options);
            c::av_dict_free(&mut options);
            Ok(check(code)?)
        }
    }

    fn drain(&mut self) -> Result<(), TranscodeError> {
        // SAFETY: all handles are open.
        unsafe {
            while c::avcodec_receive_packet(self.codec, self.packet) == 0 {
                let stream = self.mux.stream(0);
                (*self.packet).stream_index = 0;
                let one = c::AVRational { num: self.rate.den, den: self.rate.num };
                (*self.packet).duration = c::av_rescale_q(1, one, self.base).max(1);
                c::av_packet_rescale_ts(self.packet, self.base, (*stream).time_base);
                self.mux.write(self.packet)?;
            }
        }
        Ok(())
    }

    /// Ends the streams and the file.
    fn finish(mut self, encoded: &[u8]) -> Result<Finished, TranscodeError> {
        if let Some((_, from)) = &self.waiting {
            let length = match last_duration(encoded)? {
                Some(duration) if self.timed => duration,
                // SAFETY: as in `tick`.
                _ => unsafe { c::av_rescale_q(1, self.source_frame, self.source_base) },
            };
            // The only frame is shown once, however short it is.
            let least = from + i64::from(self.written == 0);
            self.show_until(self.tick(self.last.saturating_add(length)).max(least))?;
        }
        // SAFETY: null ends the stream.
        unsafe { check(c::avcodec_send_frame(self.codec, ptr::null()))? };
        self.drain()?;
        let (kept, note) = (std::mem::take(&mut self.kept), self.note.take());
        Ok(Finished { bytes: self.mux.finish()?, kept, frames: self.written, note })
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // SAFETY: owned and freed once; null is accepted.
        unsafe {
            c::avcodec_free_context(&mut self.codec);
            c::av_packet_free(&mut self.packet);
        }
    }
}

impl VideoSettings {
    /// Options of FFmpeg's libx264 that make the promised structure. Without macroblock-tree rate
    /// control: its AVX-512 code reads memory that nobody wrote, and its results differ from one
    /// instruction set to the next, so the same video would not give the same bytes.
    fn x264(&self) -> Vec<(&'static std::ffi::CStr, String)> {
        let structure = format!(
            "keyint={GOP}:min-keyint={GOP}:scenecut=0:open-gop=0:bframes={}:b-adapt=0:b-pyramid=none:\
             mbtree=0",
            self.stride - 1
        );
        let plain = if self.small { "" } else { ":cabac=0:no-deblock=1" };
        vec![
            (c"preset", "fast".to_owned()),
            (c"crf", self.crf.to_string()),
            (c"x264-params", format!("{structure}{plain}")),
        ]
    }
}

/// The source's first sound stream, to be copied.
struct Sound<'a> {
    input: Input<'a>,
    from: usize,
    to: usize,
}

impl<'a> Sound<'a> {
    /// `None` where there is no sound, or none that MP4 can hold: `note` then says so.
    fn open(
        encoded: &'a [u8],
        mux: &mut Muxer,
        note: &mut Option<String>,
    ) -> Result<Option<Self>, TranscodeError> {
        let input = Input::open(encoded, true)?;
        // SAFETY: the context is open and has nb_streams streams, each with parameters.
        unsafe {
            let streams =
                (0..(*input.raw()).nb_streams as usize).map(|n| *(*input.raw()).streams.add(n));
            let sound = c::AVMediaType::AVMEDIA_TYPE_AUDIO;
            let Some((from, stream)) =
                streams.enumerate().find(|(_, s)| (*(**s).codecpar).codec_type == sound)
            else {
                return Ok(None);
            };
            let parameters = (*stream).codecpar;
            if !mux.can_hold((*parameters).codec_id) {
                let name = c::avcodec_get_name((*parameters).codec_id);
                let name = std::ffi::CStr::from_ptr(name).to_string_lossy();
                *note = Some(format!("sound left out: MP4 cannot hold {name}"));
                return Ok(None);
            }
            (*input.raw_stream()).discard = c::AVDiscard::AVDISCARD_ALL;
            (*stream).discard = c::AVDiscard::AVDISCARD_DEFAULT;
            let target = mux.add_stream()?;
            check(c::avcodec_parameters_copy((*target).codecpar, parameters))?;
            (*(*target).codecpar).codec_tag = 0;
            (*target).time_base = (*stream).time_base;
            Ok(Some(Self { input, from, to: (*target).index as usize }))
        }
    }

    /// Writes all packets, their times as they were.
    fn copy(&mut self, mux: &mut Muxer) -> Result<(), TranscodeError> {
        // SAFETY: the container and both streams are open; the packet is unreferenced by the
        // muxer or by the next read, and freed at the end.
        unsafe {
            let mut packet = c::av_packet_alloc();
            let base = (**(*self.input.raw()).streams.add(self.from)).time_base;
            let mut done = Ok(());
            while done.is_ok()
                && !packet.is_null()
                && c::av_read_frame(self.input.raw(), packet) >= 0
            {
                let timed = (*packet).dts != c::AV_NOPTS_VALUE;
                if (*packet).stream_index as usize == self.from && timed {
                    (*packet).stream_index = self.to as c_int;
                    c::av_packet_rescale_ts(packet, base, (*mux.stream(self.to)).time_base);
                    done = mux.write(packet);
                }
                c::av_packet_unref(packet);
            }
            c::av_packet_free(&mut packet);
            Ok(done?)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests;
