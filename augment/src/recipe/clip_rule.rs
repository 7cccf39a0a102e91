//! The rules by which a recipe chooses the frames of a clip.

use serde::{Deserialize, Serialize};

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
    },
    /// VideoMAE fine-tuning on Kinetics: a random window of `frames * step`, spread evenly.
    VideomaeDense {
        /// Frames of the clip.
        frames: u32,
        /// Window = frames × step.
        step: u32,
    },
    /// Something-Something: one random frame of each of `frames` equal segments.
    Segments {
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
    },
    /// `frames` frames spread evenly over the whole video.
    Uniform {
        /// Frames of the clip.
        frames: u32,
    },
}

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
            | Self::Slowfast { frames, .. }
            | Self::ClipsVideomae { frames, .. }
            | Self::ClipsSegments { frames, .. }
            | Self::ClipsSlowfast { frames, .. }
            | Self::Uniform { frames } => frames,
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
