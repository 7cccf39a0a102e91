//! The rules by which a recipe chooses the frames of a clip.

use serde::{Deserialize, Serialize};

use super::error::Wrong;

/// How the frames of a clip are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ClipRule {
    /// VideoMAE pre-training: `frames` frames `step` apart from a random start; short clips repeat
    /// the last frame that can be reached.
    Videomae {
        /// Frames of the clip.
        frames: u32,
        /// Frames between two of them.
        step: u32,
        /// Each frame moves on by 0 to `step` − 1 of its own, as VideoMAE's `temporal_jitter`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        jitter: bool,
    },
    /// VideoMAE fine-tuning on Kinetics: a random window of `frames * step`, spread evenly.
    VideomaeDense {
        /// Frames of the clip.
        frames: u32,
        /// Window = frames × step.
        step: u32,
    },
    /// VideoMAE on Something-Something: one random frame of each of `frames` equal segments.
    Segments {
        /// Frames of the clip.
        frames: u32,
    },
    /// SlowFast on Something-Something: one random frame of each of `frames` segments, whose rounded
    /// ends both belong to them.
    SegmentsSlowfast {
        /// Frames of the clip.
        frames: u32,
    },
    /// SlowFast: `frames` frames, `step` apart at `target_fps`, from a random start.
    Slowfast {
        /// Frames of the clip.
        frames: u32,
        /// Frames between two of them at the target rate.
        step: u32,
        /// The rate `step` refers to.
        #[serde(default = "default_target_fps")]
        target_fps: f64,
    },
    /// VideoMAE evaluation on Kinetics: `clips` windows of the every-`step`-th-frame sequence.
    ClipsVideomae {
        /// Frames of each clip.
        frames: u32,
        /// Frames between two of them.
        step: u32,
        /// Clips a video.
        clips: u32,
    },
    /// VideoMAE evaluation on Something-Something: 2 interleaved clips of segment middles.
    ClipsSegments {
        /// Frames of each clip.
        frames: u32,
        /// Clips a video.
        clips: u32,
    },
    /// SlowFast evaluation on Something-Something: the middle of each of `frames` segments.
    MiddlesSlowfast {
        /// Frames of the clip.
        frames: u32,
    },
    /// SlowFast evaluation: `clips` windows spread over the video.
    ClipsSlowfast {
        /// Frames of each clip.
        frames: u32,
        /// Frames between two of them at the target rate.
        step: u32,
        /// The rate `step` refers to.
        #[serde(default = "default_target_fps")]
        target_fps: f64,
        /// Clips a video.
        clips: u32,
        /// The first clip starts at the first frame and the last one ends at the last, one alone lies
        /// in the middle (`TEST.USE_OFFSET`); otherwise each starts at its share of the video.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        use_offset: bool,
    },
    /// `frames` frames spread evenly over the whole video.
    Uniform {
        /// Frames of the clip.
        frames: u32,
    },
}

/// Most frames of a clip, far beyond what a network reads.
const MAX_FRAMES: u32 = 4096;
/// Most frames between two of a clip; a span stays below 2³¹.
const MAX_STEP: u32 = 10_000;
/// Most clips of a video.
const MAX_CLIPS: u32 = 1000;
/// Highest rate that a step may refer to, frames a second.
const MAX_FPS: f64 = 1000.0;

const fn default_target_fps() -> f64 {
    30.0
}

impl ClipRule {
    /// Frames of a clip.
    pub const fn frames(self) -> u32 {
        match self {
            Self::Videomae { frames, .. }
            | Self::VideomaeDense { frames, .. }
            | Self::Segments { frames }
            | Self::SegmentsSlowfast { frames }
            | Self::MiddlesSlowfast { frames }
            | Self::Slowfast { frames, .. }
            | Self::ClipsVideomae { frames, .. }
            | Self::ClipsSegments { frames, .. }
            | Self::ClipsSlowfast { frames, .. }
            | Self::Uniform { frames } => frames,
        }
    }

    /// Frames between two of them; 1 for rules that have no step.
    const fn step(self) -> u32 {
        match self {
            Self::Videomae { step, .. }
            | Self::VideomaeDense { step, .. }
            | Self::Slowfast { step, .. }
            | Self::ClipsVideomae { step, .. }
            | Self::ClipsSlowfast { step, .. } => step,
            _ => 1,
        }
    }

    /// Refuses numbers that no video could satisfy.
    pub(super) fn check(self) -> Result<(), Wrong> {
        let limits = [
            ("frames", self.frames(), MAX_FRAMES),
            ("step", self.step(), MAX_STEP),
            ("clips", self.clips(), MAX_CLIPS),
        ];
        for (key, value, most) in limits {
            if !(1..=most).contains(&value) {
                let valid = format!("1 to {most}");
                return Err(Wrong::new(format!("clip.{key}"), value.to_string(), valid));
            }
        }
        match self {
            Self::Slowfast { target_fps, .. } | Self::ClipsSlowfast { target_fps, .. }
                if !(target_fps > 0.0 && target_fps <= MAX_FPS) =>
            {
                let valid = format!("above 0, at most {MAX_FPS}");
                Err(Wrong::new("clip.target_fps", target_fps.to_string(), valid))
            }
            _ => Ok(()),
        }
    }

    /// Clips a sample gives for evaluation; 1 for rules that draw.
    pub const fn clips(self) -> u32 {
        match self {
            Self::ClipsVideomae { clips, .. }
            | Self::ClipsSegments { clips, .. }
            | Self::ClipsSlowfast { clips, .. } => clips,
            _ => 1,
        }
    }
}
