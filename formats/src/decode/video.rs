//! Exactly the wanted frames of a video, by presentation order: the order in which FFmpeg puts
//! frames out (`-vsync passthrough`).
//!
//! A scan of the packets (no decoding) gives the presentation times; sorted, they number the
//! frames. Wanted frames are grouped by the key frame to start at; each group is decoded forward
//! from there up to the last packet a wanted frame needs, without the pictures that nothing is
//! predicted from and nobody wants; only the wanted region of wanted frames is converted. Where
//! times are missing or repeat, where a key frame is no clean start, or where anything unexpected
//! comes out, the stream is decoded from its beginning instead: slower, never wrong.
//!
//! Rotation metadata in steps of 90 degrees is applied; mirroring is not. The packets of a clip are
//! held in memory while it is decoded.

use tubelet_core::{Chroma, Clip, MediaInfo, PixelForm, Rect, Size, Upsampling, Yuv};

use super::av::{Answer, Codec, Frame, Input, Packet};
use super::nal::{self, Disposable};
use super::{ColorConversion, av, check_size};
use crate::error::DecodeError;
use crate::record::FrameRequest;

/// Frames a stream may be reordered by; no codec here allows more.
const MAX_REORDER: usize = 32;

/// Idle codecs that are kept for the next stream of the same set-up.
const MAX_IDLE: usize = 4;

/// Idle codecs by their set-up, the most recently used last.
pub(super) struct Idle(Vec<(av::CodecSetup, Codec)>);

impl Idle {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// One of the set-up `setup`.
    pub(super) fn take(&mut self, setup: &av::CodecSetup) -> Option<Codec> {
        let at = self.0.iter().position(|(known, _)| known == setup)?;
        Some(self.0.remove(at).1)
    }

    /// Keeps a codec that did nothing unexpected.
    pub(super) fn keep(&mut self, setup: av::CodecSetup, codec: Codec) {
        if !setup.is_complete() {
            return;
        }
        if self.0.len() == MAX_IDLE {
            self.0.remove(0);
        }
        self.0.push((setup, codec));
    }
}

/// Decodes videos; keeps its converter and some codecs with their frame buffers from call to call.
pub struct VideoDecoder {
    conversion: ColorConversion,
    scaler: Option<av::Scaler>,
    turned: Vec<u8>,
    idle: Idle,
    /// Pictures given to codecs by `decode`.
    decoded: u64,
    form: Form,
}

/// How the wanted frames are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As packed RGB.
    Rgb,
    /// As planes, if the first frame has such planes.
    ByFirst,
    /// As planes, as the first frame was.
    Planes(Yuv),
    /// A frame has other planes than the first one.
    Mixed,
}

impl VideoDecoder {
    /// A decoder.
    pub const fn new(conversion: ColorConversion) -> Self {
        Self {
            conversion,
            scaler: None,
            turned: Vec::new(),
            idle: Idle::new(),
            decoded: 0,
            form: Form::Rgb,
        }
    }

    /// Media facts by a packet scan. Streams without usable times (AVI with MPEG-4 and the like)
    /// are decoded once to count their frames.
    ///
    /// # Errors
    /// When the container cannot be opened or holds no frame.
    pub fn probe(&mut self, encoded: &[u8]) -> Result<MediaInfo, DecodeError> {
        let mut input = Input::open(encoded, true)?;
        let scan = Scan::new(&mut input);
        let (frames, keyframes) = match &scan.times {
            Some(times) => (times.len() as u32, scan.keyframes(times)),
            None => count_frames(&input, &scan)?,
        };
        if frames == 0 {
            return Err(DecodeError::NoFrames("the video stream is empty".to_owned()));
        }
        let (width, height) = input.size();
        let size = check_size(width.max(0) as usize, height.max(0) as usize)?;
        let rotation = input.rotation();
        Ok(MediaInfo {
            size: rotated(size, rotation),
            frames,
            fps: frame_rate(&input, &scan),
            codec: input.codec_name(),
            rotation,
            keyframes,
            spacing: None,
        })
    }

    /// Pictures that codecs were given for wanted frames so far, themselves included.
    pub fn frames_decoded(&self) -> u64 {
        self.decoded
    }

    /// Decodes the wanted frames into `clip`.
    ///
    /// # Errors
    /// When the container cannot be opened, a wanted frame does not exist or is damaged, or frames
    /// have another size than `info` says.
    pub fn decode(
        &mut self,
        encoded: &[u8],
        info: &MediaInfo,
        want: &FrameRequest,
        clip: &mut Clip,
    ) -> Result<(), DecodeError> {
        let planes = want.planes && info.rotation == 0 && self.conversion == ColorConversion::Plain;
        self.form = if planes { Form::ByFirst } else { Form::Rgb };
        let done = self.decode_once(encoded, info, want, clip);
        if self.form != Form::Mixed {
            return done;
        }
        self.form = Form::Rgb;
        self.decode_once(encoded, info, want, clip)
    }

    fn decode_once(
        &mut self,
        encoded: &[u8],
        info: &MediaInfo,
        want: &FrameRequest,
        clip: &mut Clip,
    ) -> Result<(), DecodeError> {
        clip.reset_region(info.size, region(info, want.region), &want.frames);
        let mut input = Input::open(encoded, false)?;
        let scan = Scan::new(&mut input);
        if let Some(segments) = scan.plan(&input, &want.frames) {
            let setup = input.codec_setup(scan.reorder_depth(&input));
            let mut codec = match self.idle.take(&setup) {
                Some(codec) => codec,
                None => input.codec(setup.reorder)?,
            };
            if self.decode_segments(&mut codec, &scan, &segments, info, clip)? {
                self.idle.keep(setup, codec);
                return Ok(());
            }
        }
        drop(scan);
        if matches!(self.form, Form::Planes(_)) {
            self.form = Form::ByFirst;
        }
        self.decode_all(encoded, info, &want.frames, clip)
    }

    /// `false` when something unexpected came out.
    fn decode_segments(
        &mut self,
        codec: &mut Codec,
        scan: &Scan,
        segments: &[Segment],
        info: &MediaInfo,
        clip: &mut Clip,
    ) -> Result<bool, DecodeError> {
        for segment in segments {
            let mut given = 0;
            let left = each_wanted(codec, scan, segment, &mut given, |frame, slot| {
                if frame.is_damaged() {
                    return Ok(false);
                }
                self.store(frame, info, slot, clip)?;
                Ok(true)
            });
            self.decoded += given;
            if left? > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// From the beginning, with everything FFmpeg can find out about the stream.
    fn decode_all(
        &mut self,
        encoded: &[u8],
        info: &MediaInfo,
        frames: &[u32],
        clip: &mut Clip,
    ) -> Result<(), DecodeError> {
        let mut input = Input::open(encoded, true)?;
        let scan = Scan::new(&mut input);
        let mut codec = input.codec(None)?;
        let (mut count, mut done, mut given) = (0u32, vec![false; frames.len()], 0);
        let ended = each_frame(&mut codec, scan.packets.iter().inspect(|_| given += 1), |frame| {
            let index = scan.index_of(frame, count);
            count += 1;
            let slot = index.and_then(|i| frames.binary_search(&i).ok());
            if let (Some(slot), Some(index)) = (slot, index)
                && !done[slot]
            {
                if frame.is_damaged() {
                    return Err(DecodeError::Damaged(format!("frame {index} is damaged")));
                }
                self.store(frame, info, slot, clip)?;
                done[slot] = true;
            }
            Ok(done.iter().any(|d| !d))
        });
        self.decoded += given;
        ended?;
        match done.iter().position(|d| !d) {
            Some(slot) => Err(DecodeError::MissingFrame { wanted: frames[slot], have: count }),
            None => Ok(()),
        }
    }

    fn store(
        &mut self,
        frame: &Frame,
        info: &MediaInfo,
        slot: usize,
        clip: &mut Clip,
    ) -> Result<(), DecodeError> {
        let (size, region) = (frame.size(), clip.region());
        if rotated(size, info.rotation) != info.size {
            let promised = info.size;
            let what = format!("a frame of {size} where {promised} is promised");
            return Err(DecodeError::Damaged(what));
        }
        if self.form != Form::Rgb && self.store_planes(frame, slot, clip)? {
            return Ok(());
        }
        let scaler = match &mut self.scaler {
            Some(scaler) => scaler,
            none => none.insert(av::Scaler::new(self.conversion)?),
        };
        let out = clip.nth_mut(slot);
        if info.rotation == 0 {
            return scaler.convert(frame, region, out);
        }
        self.turned.resize(out.len(), 0);
        scaler.convert(frame, Rect::full(size), &mut self.turned)?;
        turn(&self.turned, size, info.rotation, out);
        Ok(())
    }

    /// Whether the frame was stored as planes.
    fn store_planes(
        &mut self,
        frame: &Frame,
        slot: usize,
        clip: &mut Clip,
    ) -> Result<bool, DecodeError> {
        let planes = frame.planes();
        let matrix = frame.matrix().into();
        let yuv = Yuv { chroma: Chroma::HalfBoth, upsampling: Upsampling::Repeat, matrix };
        match (self.form, planes) {
            (Form::ByFirst, None) => {
                self.form = Form::Rgb;
                Ok(false)
            }
            (Form::ByFirst, Some(planes)) => {
                self.form = Form::Planes(yuv);
                let (size, region, frames) = (clip.size(), clip.region(), clip.indices().to_vec());
                clip.reset_form(size, region, PixelForm::Yuv(yuv), &frames);
                clip.fill_planes(slot, |plane, y, x| planes.row_from(plane, y, x));
                Ok(true)
            }
            (Form::Planes(first), Some(planes)) if first == yuv => {
                clip.fill_planes(slot, |plane, y, x| planes.row_from(plane, y, x));
                Ok(true)
            }
            _ => {
                self.form = Form::Mixed;
                Err(DecodeError::Damaged("the pixel format changes within the clip".to_owned()))
            }
        }
    }
}

/// A decoded frame in the decoder's own pixel format.
#[derive(Clone, Debug)]
pub struct NativeFrame {
    /// Presentation index.
    pub index: u32,
    /// Presentation time in the stream's time base.
    pub pts: Option<i64>,
    /// FFmpeg's best guess of it.
    pub best_effort: Option<i64>,
    /// Whether it is a key frame.
    pub key: bool,
    /// Pixel format as FFmpeg calls it.
    pub pixel_format: String,
    /// Size before rotation.
    pub size: Size,
    /// The planes without padding, as FFmpeg's `-f rawvideo` writes them.
    pub bytes: Vec<u8>,
}

/// Decodes a whole video in order and hands each frame to `visit` until it says `false`.
///
/// # Errors
/// When the container cannot be opened or has no decoder.
pub fn decode_native(
    encoded: &[u8],
    visit: &mut dyn FnMut(NativeFrame) -> bool,
) -> Result<(), DecodeError> {
    let mut input = Input::open(encoded, true)?;
    let packets = input.packets();
    let mut index = 0;
    each_frame(&mut input.codec(None)?, packets.iter(), |frame| {
        let native = NativeFrame {
            index,
            pts: frame.pts(),
            best_effort: frame.best_effort(),
            key: frame.is_key(),
            pixel_format: frame.format_name(),
            size: frame.size(),
            bytes: frame.native_bytes()?,
        };
        index += 1;
        Ok(visit(native))
    })
}

/// What [`each_shown`] tells of a frame beside its pixels: the open container and, where times
/// number the stream's frames, its time in the stream's time base.
pub(crate) type Visit<'a> =
    dyn FnMut(&Input<'_>, &Frame, Option<i64>) -> Result<(), DecodeError> + 'a;

/// Decodes every frame of a video that is shown, in order; returns their number.
///
/// # Errors
/// When the container cannot be opened, a frame is damaged or does not come out, or `visit` fails.
pub(crate) fn each_shown(encoded: &[u8], visit: &mut Visit<'_>) -> Result<u32, DecodeError> {
    let mut input = Input::open(encoded, true)?;
    let scan = Scan::new(&mut input);
    let (mut decoded, mut shown) = (0, 0);
    each_frame(&mut input.codec(scan.reorder_depth(&input))?, scan.packets.iter(), |frame| {
        let index = scan.index_of(frame, decoded);
        decoded += 1;
        let Some(index) = index else { return Ok(true) };
        if index != shown || frame.is_damaged() {
            let what = format!("frame {} is damaged or missing", shown.min(index));
            return Err(DecodeError::Damaged(what));
        }
        shown += 1;
        visit(&input, frame, frame.pts().filter(|_| scan.times.is_some()))?;
        Ok(true)
    })?;
    match scan.times.as_ref().map(|t| t.len() as u32) {
        Some(have) if shown < have => Err(DecodeError::MissingFrame { wanted: shown, have: shown }),
        _ => Ok(shown),
    }
}

/// A wanted frame: its time, and its place in the clip.
pub(super) struct Wanted {
    pub(super) pts: i64,
    pub(super) slot: usize,
}

/// Frames to be decoded from one start.
pub(super) struct Segment {
    start: usize,
    pub(super) wanted: Vec<Wanted>,
    /// The packets that takes, in decode order.
    pub(super) packets: Vec<usize>,
}

/// The packets of a stream and, where they number the frames, their sorted times.
pub(super) struct Scan {
    pub(super) packets: Vec<Packet>,
    times: Option<Vec<i64>>,
}

impl Scan {
    pub(super) fn new(input: &mut Input<'_>) -> Self {
        let packets = input.packets();
        let times: Option<Vec<i64>> =
            packets.iter().filter(|p| !p.is_hidden()).map(Packet::pts).collect();
        let times = times.and_then(|mut times| {
            times.sort_unstable();
            times.windows(2).all(|w| w[0] < w[1]).then_some(times)
        });
        Self { packets, times }
    }

    fn keyframes(&self, times: &[i64]) -> Vec<u32> {
        let keys = self.packets.iter().filter(|p| p.is_key() && !p.is_hidden());
        let index = |p: &Packet| times.binary_search(&p.pts()?).ok().map(|i| i as u32);
        let mut keys: Vec<u32> = keys.filter_map(index).collect();
        keys.sort_unstable();
        keys
    }

    /// Groups `frames` by the packet to start at; `None` where the stream must be decoded from
    /// the beginning.
    pub(super) fn plan(&self, input: &Input<'_>, frames: &[u32]) -> Option<Vec<Segment>> {
        let times = self.times.as_ref()?;
        let starts = self.starts(input)?;
        let mut segments: Vec<Segment> = Vec::new();
        for (slot, &frame) in frames.iter().enumerate() {
            let pts = *times.get(frame as usize)?;
            let start = starts.iter().rev().find(|(_, key)| *key <= pts)?.0;
            match segments.last_mut() {
                Some(last) if last.start == start => last.wanted.push(Wanted { pts, slot }),
                _ => segments.push(Segment {
                    start,
                    wanted: vec![Wanted { pts, slot }],
                    packets: Vec::new(),
                }),
            }
        }
        let disposable = self.disposable(input);
        for segment in &mut segments {
            segment.packets = self.needed(segment, disposable);
        }
        Some(segments)
    }

    fn disposable(&self, input: &Input<'_>) -> Disposable {
        let packets = self.packets.iter().map(Packet::data);
        Disposable::new(&input.codec_name(), input.extradata(), packets)
    }

    /// From the start to the last packet with a wanted frame, without the others that nothing
    /// needs: whatever a picture is predicted from comes before it.
    fn needed(&self, segment: &Segment, disposable: Disposable) -> Vec<usize> {
        let is_wanted = |p: &Packet| {
            p.pts().is_some_and(|pts| segment.wanted.binary_search_by_key(&pts, |w| w.pts).is_ok())
        };
        let mut left = segment.wanted.len();
        let mut needed = Vec::new();
        for (n, packet) in self.packets.iter().enumerate().skip(segment.start) {
            let wanted = is_wanted(packet);
            if wanted || !disposable.is(packet.data()) {
                needed.push(n);
            }
            left -= usize::from(wanted && !packet.is_hidden());
            if left == 0 {
                break;
            }
        }
        needed
    }

    /// Packets decoding can start at, with their times, both ascending.
    fn starts(&self, input: &Input<'_>) -> Option<Vec<(usize, i64)>> {
        let codec = input.codec_name();
        if !["h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg"].contains(&codec.as_str()) {
            return None;
        }
        let clean =
            |p: &Packet| codec != "h264" || nal::is_clean_start(input.extradata(), p.data());
        let keys = self.packets.iter().enumerate().filter(|(_, p)| p.is_key() && clean(p));
        let starts: Option<Vec<_>> = keys.map(|(n, p)| Some((n, p.pts()?))).collect();
        starts.filter(|s| s.windows(2).all(|w| w[0].1 < w[1].1))
    }

    /// Number of a decoded frame: by its time, or by counting.
    fn index_of(&self, frame: &Frame, count: u32) -> Option<u32> {
        match &self.times {
            Some(times) => times.binary_search(&frame.pts()?).ok().map(|i| i as u32),
            None => Some(count),
        }
    }

    /// Most frames that come earlier in the file and are shown later, for H.264, whose decoder
    /// otherwise learns it by dropping frames.
    pub(super) fn reorder_depth(&self, input: &Input<'_>) -> Option<usize> {
        if input.codec_name() != "h264" {
            return None;
        }
        let times: Vec<i64> = self.packets.iter().filter_map(Packet::pts).collect();
        let later = |n: usize| {
            times[n.saturating_sub(MAX_REORDER)..n].iter().filter(|t| **t > times[n]).count()
        };
        (0..times.len()).map(later).max().map(|depth| depth.min(16))
    }
}

/// Decodes `segment` and visits its wanted frames with their places, until all have come or `visit` says
/// `false`; how many were not visited to its satisfaction. `given` counts packets, whatever happens.
pub(super) fn each_wanted(
    codec: &mut Codec,
    scan: &Scan,
    segment: &Segment,
    given: &mut u64,
    mut visit: impl FnMut(&Frame, usize) -> Result<bool, DecodeError>,
) -> Result<usize, DecodeError> {
    let mut left = segment.wanted.len();
    codec.flush();
    let packets = segment.packets.iter().map(|n| &scan.packets[*n]);
    each_frame(codec, packets.inspect(|_| *given += 1), |frame| {
        let wanted = |pts: i64| segment.wanted.iter().find(|w| w.pts == pts);
        let Some(wanted) = frame.pts().and_then(wanted) else { return Ok(true) };
        if !visit(frame, wanted.slot)? {
            return Ok(false);
        }
        left -= 1;
        Ok(left > 0)
    })?;
    Ok(left)
}

/// Sends packets and visits frames in presentation order until `visit` says `false`.
pub(super) fn each_frame<'a>(
    codec: &mut Codec,
    packets: impl Iterator<Item = &'a Packet>,
    mut visit: impl FnMut(&Frame) -> Result<bool, DecodeError>,
) -> Result<(), DecodeError> {
    let mut frame = Frame::new()?;
    for packet in packets.map(Some).chain([None]) {
        codec.send(packet);
        loop {
            match codec.receive(&mut frame) {
                Answer::Frame if !visit(&frame)? => return Ok(()),
                Answer::Frame => {}
                Answer::More => break,
                Answer::End => return Ok(()),
            }
        }
    }
    Ok(())
}

fn count_frames(input: &Input<'_>, scan: &Scan) -> Result<(u32, Vec<u32>), DecodeError> {
    let (mut frames, mut keys) = (0, Vec::new());
    each_frame(&mut input.codec(None)?, scan.packets.iter(), |frame| {
        if frame.is_key() {
            keys.push(frames);
        }
        frames += 1;
        Ok(true)
    })?;
    Ok((frames, keys))
}

fn frame_rate(input: &Input<'_>, scan: &Scan) -> f64 {
    let told = input.frame_rate();
    match &scan.times {
        Some(times) if told == 0.0 && times.len() > 1 => {
            let span = (times[times.len() - 1] - times[0]) as f64 * input.time_base();
            if span > 0.0 { (times.len() - 1) as f64 / span } else { 0.0 }
        }
        _ => told,
    }
}

/// What is converted for a wanted region: it with an even left edge, because two columns share
/// their chroma; everything where frames are turned.
fn region(info: &MediaInfo, wanted: Option<Rect>) -> Rect {
    match wanted {
        Some(r) if info.rotation == 0 && r.fits(info.size) => {
            let x = r.x & !1;
            Rect { x, width: r.width + r.x - x, ..r }
        }
        _ => Rect::full(info.size),
    }
}

fn rotated(size: Size, rotation: u16) -> Size {
    if matches!(rotation, 90 | 270) { Size::new(size.height, size.width) } else { size }
}

/// Turns packed RGB of `size` clockwise.
fn turn(from: &[u8], size: Size, rotation: u16, to: &mut [u8]) {
    let (w, h) = (size.width as usize, size.height as usize);
    let width = rotated(size, rotation).width as usize;
    for (n, pixel) in to.chunks_exact_mut(3).enumerate() {
        let (x, y) = (n % width, n / width);
        let (u, v) = match rotation {
            90 => (y, h - 1 - x),
            180 => (w - 1 - x, h - 1 - y),
            270 => (w - 1 - y, x),
            _ => (x, y),
        };
        let at = (v * w + u) * 3;
        pixel.copy_from_slice(&from[at..at + 3]);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests;
