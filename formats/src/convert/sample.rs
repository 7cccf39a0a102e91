//! One source to one payload.

#[cfg(feature = "video")]
use tubelet_core::Spacing;
use tubelet_core::{Clip, MediaInfo, Size};
use xxhash_rust::xxh3::xxh3_64;

use super::records::{Outcome, Settings};
use super::{Images, Videos};
use crate::decode::{decoder, sniff};
use crate::error::FormatError;
use crate::record::{Decoder, FrameRequest, MediaKind, Record, ShardReader};
#[cfg(feature = "video")]
use crate::transcode::{GOP, VideoSettings, train_video};
use crate::transcode::{Quality, Transcoded, picture_levels, train_picture};
use crate::whole::cut_off;

/// What is stored of a sample.
pub(super) struct Payload {
    pub(super) bytes: Vec<u8>,
    /// Smaller encodings, one for each side of the settings.
    pub(super) levels: Vec<Option<Vec<u8>>>,
    pub(super) info: MediaInfo,
    /// Extension of a file of these bytes.
    pub(super) extension: String,
    /// How far it is from the source, where measured.
    pub(super) quality: Option<Quality>,
    /// What was lost beside pixels.
    pub(super) note: Option<String>,
}

/// What became of a source.
pub(super) struct Prepared {
    /// Its size and hash.
    pub(super) source: (u64, String),
    pub(super) result: Result<Payload, (Outcome, String)>,
}

/// Makes payloads; one a thread.
pub(super) struct Maker<'a> {
    reader: &'a dyn ShardReader,
    settings: &'a Settings,
    decoder: Box<dyn Decoder>,
    buf: Vec<u8>,
}

impl<'a> Maker<'a> {
    pub(super) fn new(reader: &'a dyn ShardReader, settings: &'a Settings) -> Self {
        Self { reader, settings, decoder: decoder(), buf: Vec::new() }
    }

    /// Reads, checks and re-encodes one sample.
    pub(super) fn make(&mut self, record: &Record, measure: bool) -> Prepared {
        let mut buf = std::mem::take(&mut self.buf);
        let reader = self.reader;
        let prepared = self.make_of(record, reader.read(record, &mut buf), measure);
        self.buf = buf;
        prepared
    }

    /// The same for a sample that was read.
    pub(super) fn make_of<T: AsRef<[u8]>>(
        &mut self,
        record: &Record,
        read: Result<T, FormatError>,
        measure: bool,
    ) -> Prepared {
        match read.as_ref().map(AsRef::as_ref) {
            Ok(bytes) => {
                let hash = xxh3_64(bytes);
                let stored = self.reader.stored_hash(record.id.0 as usize);
                let result = match stored.filter(|stored| *stored != hash) {
                    None => self.payload(record, bytes, measure),
                    Some(stored) => {
                        let what =
                            format!("its bytes have hash {hash:016x}, stored is {stored:016x}");
                        Err((Outcome::Broken, what))
                    }
                };
                Prepared { source: (bytes.len() as u64, format!("{hash:016x}")), result }
            }
            Err(error) => Prepared {
                source: (0, String::new()),
                result: Err((Outcome::Broken, error.kind.to_string())),
            },
        }
    }

    fn payload(
        &mut self,
        record: &Record,
        bytes: &[u8],
        measure: bool,
    ) -> Result<Payload, (Outcome, String)> {
        let broken = |what: String| (Outcome::Broken, what);
        let info = self.facts(record, bytes).map_err(broken)?;
        if let Some(why) = self.unwanted(&info) {
            return Err((Outcome::Filtered, why));
        }
        let cut = self.cut_off(bytes, &info).map_err(broken)?;
        let done = self.transcode(bytes, measure).map_err(broken)?;
        let notes: Vec<String> = cut.into_iter().chain(done.note).collect();
        let (quality, note) = (done.quality, (!notes.is_empty()).then(|| notes.join("; ")));
        let Some(new) = done.bytes else {
            let extension = extension(&record.name, bytes);
            let levels = self.levels(bytes, info.size).map_err(broken)?;
            let bytes = bytes.to_vec();
            return Ok(Payload { bytes, levels, info, extension, quality, note });
        };
        let mut after = self.decoder.probe(&new).map_err(|e| broken(e.to_string()))?;
        let wanted = if self.has_own_rate() { done.frames } else { info.frames };
        if after.frames != wanted {
            return Err(broken(format!("{} of {wanted} frames were re-encoded", after.frames)));
        }
        self.mark(&mut after);
        let extension = if self.is_video() { "mp4" } else { "jpg" }.to_owned();
        let levels = self.levels(bytes, after.size).map_err(broken)?;
        Ok(Payload { bytes: new, levels, info: after, extension, quality, note })
    }

    /// What of a file is not there, where it tells its length: a picture must be decodable all the
    /// same, of a video the frames that are there are taken.
    fn cut_off(&mut self, bytes: &[u8], info: &MediaInfo) -> Result<Option<String>, String> {
        let Some(what) = cut_off(bytes) else { return Ok(None) };
        if self.is_video() {
            return Ok(Some(format!("{what}; {} frames are there", info.frames)));
        }
        let want = FrameRequest { frames: vec![0], region: None, planes: false };
        let decoded = self.decoder.decode(bytes, info, &want, &mut Clip::new());
        decoded.map_err(|e| format!("{what}: {e}"))?;
        Ok(Some(what))
    }

    /// The smaller encodings of the picture `bytes`, which is kept in size `stored`.
    fn levels(&mut self, bytes: &[u8], stored: Size) -> Result<Vec<Option<Vec<u8>>>, String> {
        let Some(pyramid) = &self.settings.pyramid else { return Ok(Vec::new()) };
        picture_levels(bytes, self.decoder.as_mut(), stored, pyramid).map_err(|e| e.to_string())
    }

    /// The media facts of a sample, scanned from its bytes whatever an index says.
    fn facts(&mut self, record: &Record, bytes: &[u8]) -> Result<MediaInfo, String> {
        let mut info = self.decoder.probe(bytes).map_err(|e| e.to_string())?;
        let video = sniff(bytes) == Some(MediaKind::Video);
        if video != self.is_video() {
            let what = if video { "a video among pictures" } else { "a picture among videos" };
            return Err(format!("{} is {what}", record.name));
        }
        info.spacing = record.info.as_ref().and_then(|known| known.spacing);
        Ok(info)
    }

    /// Whether videos get another number of frames than they had.
    fn has_own_rate(&self) -> bool {
        matches!(self.settings.video, Videos::Train(video) if self.is_video() && video.fps.is_some())
    }

    fn is_video(&self) -> bool {
        self.settings.kind == MediaKind::Video
    }

    /// Why the filter leaves a sample out.
    fn unwanted(&self, info: &MediaInfo) -> Option<String> {
        let filter = &self.settings.filter;
        if self.is_video() && info.frames < filter.min_frames {
            return Some(format!("{} frames, fewer than {}", info.frames, filter.min_frames));
        }
        let side = info.size.short_side();
        (side < filter.min_side).then(|| format!("{side} pixels, fewer than {}", filter.min_side))
    }

    fn transcode(&mut self, bytes: &[u8], measure: bool) -> Result<Transcoded, String> {
        let kept = Transcoded { bytes: None, quality: None, frames: 0, note: None };
        match (self.is_video(), &self.settings.images, &self.settings.video) {
            (false, Images::Train(settings), _) => {
                train_picture(bytes, self.decoder.as_mut(), settings, measure)
                    .map_err(|e| e.to_string())
            }
            #[cfg(feature = "video")]
            (true, _, Videos::Train(settings)) => {
                train_video(bytes, settings, measure).map_err(|e| e.to_string())
            }
            _ => Ok(kept),
        }
    }

    /// Adds to the facts what the encoder was told.
    fn mark(&self, info: &mut MediaInfo) {
        #[cfg(feature = "video")]
        if let (true, Videos::Train(VideoSettings { stride, .. })) =
            (self.is_video(), self.settings.video)
        {
            info.spacing = Some(Spacing { stride, gop: GOP });
        }
        #[cfg(not(feature = "video"))]
        let _ = info;
    }
}

/// The extension of `name` where it fits the bytes, else the usual one of their kind.
fn extension(name: &str, bytes: &[u8]) -> String {
    let path = std::path::Path::new(name);
    let kind = sniff(bytes);
    let own = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    match own {
        Some(own) if crate::dataset::kind_by_name(path) == kind => own,
        _ => match kind {
            Some(MediaKind::Video) if bytes.starts_with(b"RIFF") => "avi",
            Some(MediaKind::Video) => "mp4",
            Some(MediaKind::Image) => "png",
            Some(MediaKind::Jpeg) | None => "jpg",
        }
        .to_owned(),
    }
}
