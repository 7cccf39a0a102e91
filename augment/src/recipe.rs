//! A recipe: everything that decides what a batch holds.
//!
//! It is read twice: [`RecipeFile`] is exactly what the TOML file says; [`RecipeFile::stage`]
//! resolves and checks one of its stages into a [`Recipe`], after which nothing asks "was it set?".

mod augment;
mod crop_rule;
mod phase;
mod target;
mod view;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tubelet_core::key::MAX_VIEWS;
use tubelet_core::layout::ViewShape;
use tubelet_core::{BatchLayout, PatchGrid, PatchSize, Size};

use crate::erase::EraseSpec;
use crate::mask::MaskFile;
use crate::mix::MixSpec;
use crate::normalise::{DALLE, IMAGENET, INCEPTION, NONE, Normalise, SLOWFAST};
use crate::policy::{MaskPolicy, MaskProblem};
use crate::resample::Filter;

pub use augment::{AugmentFile, ColorSpec, Place};
pub use crop_rule::CropRule;
pub use phase::{Multigrid, Phase, PhaseFile, ShapeFile};
pub use target::{TargetFile, TargetSpec};
pub use view::{Region, ViewFile, ViewSpec};

/// A recipe cannot be used: which key, what it says, what would be valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// Not TOML, an unknown key, a missing key or a wrong type.
    #[error("recipe {recipe}: {message}")]
    Syntax {
        /// Name or file of the recipe.
        recipe: String,
        /// What the parser says, with the place.
        message: String,
    },
    /// A value that cannot work.
    #[error("recipe {recipe}: {key} = {value}: {valid}")]
    Value {
        /// Name of the recipe.
        recipe: String,
        /// Dotted key.
        key: String,
        /// What it says.
        value: String,
        /// What would be valid.
        valid: String,
    },
    /// A `--set` that is not `key=value`.
    #[error("--set {0}: write key=value, for example pretrain.train.epochs=10")]
    Override(String),
}

/// What a part of a stage finds wrong: the key inside the stage, its value, what would be valid.
#[derive(Debug)]
struct Wrong {
    key: String,
    value: String,
    valid: String,
}

impl Wrong {
    /// The same for a part that lies in `place`.
    fn inside(self, place: &str) -> Self {
        Self { key: format!("{place}.{}", self.key), ..self }
    }

    fn new(key: impl Into<String>, value: impl Into<String>, valid: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), valid: valid.into() }
    }
}

/// Which part of the flow a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Masked pre-training.
    Pretrain,
    /// Supervised fine-tuning.
    Finetune,
    /// Evaluation: every sample, all its views, in order.
    Eval,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 3] = [Self::Pretrain, Self::Finetune, Self::Eval];

    /// Its table in the recipe.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Finetune => "finetune",
            Self::Eval => "eval",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|stage| stage.name() == s)
            .ok_or_else(|| format!("unknown stage `{s}`; known: pretrain, finetune, eval"))
    }
}

/// Pictures or videos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// Still pictures: one frame a sample.
    Image,
    /// Videos: clips of several frames.
    Video,
}

/// Mean and standard deviation by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormaliseName {
    /// [`IMAGENET`].
    Imagenet,
    /// [`SLOWFAST`].
    Slowfast,
    /// [`INCEPTION`].
    Inception,
    /// [`NONE`]: pixels from 0 to 1.
    None,
    /// [`DALLE`]: what the tokenizer of BEiT reads.
    Dalle,
}

impl NormaliseName {
    /// The numbers.
    pub const fn values(self) -> Normalise {
        match self {
            Self::Imagenet => IMAGENET,
            Self::Slowfast => SLOWFAST,
            Self::Inception => INCEPTION,
            Self::None => NONE,
            Self::Dalle => DALLE,
        }
    }
}

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

/// Which arithmetic resizes the pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// Pillow's bilinear filter (antialiased).
    Bilinear,
    /// Pillow's bicubic filter (antialiased, a = −0.5).
    Bicubic,
    /// Pillow's Lanczos filter.
    Lanczos,
    /// torch's bilinear interpolation without antialiasing (`align_corners=False`), rounded to the
    /// nearest grey level: SlowFast and mae_st resize float tensors.
    TorchBilinear,
}

impl Resize {
    /// The Pillow filter, where it is one.
    pub const fn pillow(self) -> Option<Filter> {
        match self {
            Self::Bilinear => Some(Filter::Bilinear),
            Self::Bicubic => Some(Filter::Bicubic),
            Self::Lanczos => Some(Filter::Lanczos),
            Self::TorchBilinear => None,
        }
    }
}

/// One stage as the file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageFile {
    /// Rows of a batch.
    pub batch_size: u32,
    /// Clips (or crops) taken from one decoded sample.
    #[serde(default = "one")]
    pub repeats: u16,
    /// How frames are chosen; needed for videos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<ClipRule>,
    /// How the region is chosen.
    pub crop: CropRule,
    /// Probability of mirroring.
    #[serde(default)]
    pub flip: f64,
    /// How pixels are resized.
    pub resize: Resize,
    /// Pictures may be taken from the smaller encodings of a pyramid that shards hold, where no crop
    /// of the sample is enlarged by that: see [`crate::plan::SamplePlan::at_level`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pyramid: bool,
    /// Which tokens are hidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskFile>,
    /// What is predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetFile>,
    /// Other changes of the pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<AugmentFile>,
    /// Further views of a row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<ViewFile>,
    /// Shapes by epoch and batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhaseFile>,
    /// Shapes by SlowFast's multigrid schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multigrid: Option<Multigrid>,
    /// The trainer's table; not looked at here.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub train: toml::Table,
}

const fn one() -> u16 {
    1
}

/// A recipe as its file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeFile {
    /// Its name.
    pub name: String,
    /// The pre-training method, for the trainer.
    pub method: String,
    /// Where the numbers come from.
    pub source: String,
    /// What deviates from the source, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deviations: Vec<String>,
    /// Pictures or videos.
    pub media: Media,
    /// Extent of a token: frames, rows, columns.
    pub patch: [u32; 3],
    /// Mean and standard deviation of the pixels.
    pub normalise: NormaliseName,
    /// The trainer's table; not looked at here.
    pub model: toml::Table,
    /// Masked pre-training.
    pub pretrain: StageFile,
    /// Supervised fine-tuning.
    pub finetune: StageFile,
    /// Evaluation.
    pub eval: StageFile,
}

impl RecipeFile {
    /// Reads `text`; `name` is for errors, `overrides` are `key=value` with dotted keys, applied
    /// before anything is checked. A value that is not TOML is taken as a string.
    ///
    /// # Errors
    /// On bad TOML, unknown or missing keys, and values no stage can use.
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let syntax = |message: String| RecipeError::Syntax { recipe: name.to_owned(), message };
        let mut table: toml::Table =
            toml::from_str(text).map_err(|e| syntax(e.to_string().trim_end().to_owned()))?;
        for item in overrides {
            apply_override(&mut table, item)?;
        }
        let text = toml::to_string(&table).map_err(|e| syntax(e.to_string()))?;
        let file: Self =
            toml::from_str(&text).map_err(|e| syntax(e.to_string().trim_end().to_owned()))?;
        for stage in Stage::ALL {
            file.stage(stage)?;
        }
        Ok(file)
    }

    /// The file's text again, with what was set.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|e| format!("# cannot be written: {e}\n"))
    }

    /// One stage as it is in the file.
    pub fn stage_file(&self, stage: Stage) -> &StageFile {
        match stage {
            Stage::Pretrain => &self.pretrain,
            Stage::Finetune => &self.finetune,
            Stage::Eval => &self.eval,
        }
    }

    /// Resolves and checks one stage.
    ///
    /// # Errors
    /// When a value is impossible: the error names the key, the value and what would be valid.
    pub fn stage(&self, stage: Stage) -> Result<Recipe, RecipeError> {
        let checker = Checker { file: self, stage, table: self.stage_file(stage) };
        let phases = checker.phases()?;
        match phases.first() {
            None => checker.recipe(),
            // The first shape speaks for the whole where a shape is not asked for.
            Some(first) => Ok(Recipe { phases: phases.clone(), ..(*first.shapes[0]).clone() }),
        }
    }
}

/// One stage, checked: what a batch holds and how it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    name: String,
    stage: Stage,
    media: Media,
    patch: PatchSize,
    batch_size: u32,
    repeats: u16,
    pub(crate) clip: Option<ClipRule>,
    /// Crops of a frame in evaluation.
    pub(crate) crops: u32,
    first: ViewSpec,
    others: Vec<ViewSpec>,
    target: TargetSpec,
    erase: Option<EraseSpec>,
    mix: Option<MixSpec>,
    pyramid: bool,
    phases: Vec<Phase>,
}

impl Recipe {
    /// Name of the recipe it comes from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which stage.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Pictures or videos.
    pub fn media(&self) -> Media {
        self.media
    }

    /// Extent of a token.
    pub fn patch(&self) -> PatchSize {
        self.patch
    }

    /// Views of a row, the first one first.
    pub fn views(&self) -> impl Iterator<Item = &ViewSpec> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Tokens of a row's first view.
    pub fn grid(&self) -> PatchGrid {
        self.first.grid
    }

    /// Mean and standard deviation of the first view.
    pub fn normalise(&self) -> Normalise {
        self.first.normalise
    }

    /// How rows are erased.
    pub fn erase(&self) -> Option<&EraseSpec> {
        self.erase.as_ref()
    }

    /// How rows are mixed.
    pub fn mix(&self) -> Option<&MixSpec> {
        self.mix.as_ref()
    }

    /// Whether pictures may be taken from smaller encodings.
    pub fn pyramid(&self) -> bool {
        self.pyramid
    }

    /// Rows of a batch.
    pub fn batch_size(&self) -> u32 {
        self.batch_size
    }

    /// Rows one decoded sample gives: repeated augmentation, or clips × crops of an evaluation.
    pub fn repeats(&self) -> u16 {
        self.repeats
    }

    /// Frames of a row; 1 for pictures.
    pub fn frames(&self) -> u32 {
        self.clip.map_or(1, ClipRule::frames)
    }

    /// Size of every frame of the first view.
    pub fn size(&self) -> Size {
        self.first.size
    }

    /// Which tokens of the first view are hidden.
    pub fn mask(&self) -> &MaskPolicy {
        &self.first.mask
    }

    /// What is predicted.
    pub fn target(&self) -> TargetSpec {
        self.target
    }

    /// The phases, by their first epoch; empty where all batches have one shape. Every other
    /// number of a recipe with phases is that of its first shape.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// The recipe of batch `number` (from 0) of `epoch`: itself where it has no phases.
    pub fn shape(&self, epoch: u32, number: u64) -> &Self {
        let phase = self.phases.iter().rev().find(|phase| phase.from <= epoch);
        phase.map_or(self, |phase| &phase.shapes[(number % phase.shapes.len() as u64) as usize])
    }

    /// Every shape a batch may have; itself alone where it has no phases.
    pub fn shapes(&self) -> impl Iterator<Item = &Self> {
        let own = self.phases.is_empty().then_some(self);
        own.into_iter().chain(self.phases.iter().flat_map(|p| p.shapes.iter().map(AsRef::as_ref)))
    }

    /// The bytes of the first batch of `epoch`.
    pub fn layout(&self, epoch: u32) -> BatchLayout {
        let shape = self.shape(epoch, 0);
        shape.layout_of(epoch, shape.batch_size)
    }

    /// The bytes of `rows` rows of the first batch's shape in `epoch`: one rank's part of it.
    pub fn layout_of(&self, epoch: u32, rows: u32) -> BatchLayout {
        self.shape(epoch, 0).rows_layout(rows)
    }

    /// The bytes of `rows` rows of this shape.
    pub fn rows_layout(&self, rows: u32) -> BatchLayout {
        let shape = |view: &ViewSpec| ViewShape {
            frames: self.frames(),
            size: view.size,
            grid: view.grid,
            masked: !matches!(view.mask, MaskPolicy::None),
        };
        let shapes: Vec<ViewShape> = self.views().map(shape).collect();
        let boxes = self.erase.map_or(0, |erase| erase.count);
        BatchLayout::new(rows, &shapes).with_erase(boxes)
    }
}

/// Sets `a.b.c=value` in `table`.
fn apply_override(table: &mut toml::Table, item: &str) -> Result<(), RecipeError> {
    let bad = || RecipeError::Override(item.to_owned());
    let (key, value) = item.split_once('=').ok_or_else(bad)?;
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last = path.pop().filter(|k| !k.is_empty()).ok_or_else(bad)?;
    let value = format!("v = {}", value.trim())
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.trim().to_owned()));
    let mut at = table;
    for key in path {
        let next = at.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = next.as_table_mut().ok_or_else(bad)?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

/// Turns one stage of a file into a [`Recipe`].
struct Checker<'a> {
    file: &'a RecipeFile,
    stage: Stage,
    table: &'a StageFile,
}

impl Checker<'_> {
    fn recipe(&self) -> Result<Recipe, RecipeError> {
        self.check_plain_numbers()?;
        let clip = self.clip()?;
        let frames = clip.map_or(1, ClipRule::frames);
        let patch = self.patch(frames)?;
        let first = self.first_view(patch, frames)?;
        let augment = self.table.augment.clone().unwrap_or_default();
        let (stage, rows) = (self.stage, self.table.batch_size);
        Ok(Recipe {
            name: self.file.name.clone(),
            stage,
            media: self.file.media,
            patch,
            batch_size: rows,
            repeats: self.repeats(clip)?,
            clip,
            crops: self.table.crop.crops(),
            others: self.other_views(patch, frames, &first)?,
            target: self.target(patch, frames, &first.mask)?,
            first,
            erase: augment.erase(stage).map_err(|wrong| self.wrong(wrong))?,
            mix: augment.mix(stage, rows).map_err(|wrong| self.wrong(wrong))?,
            pyramid: self.table.pyramid,
            phases: Vec::new(),
        })
    }

    /// The phases with every shape checked; none where the stage has one shape.
    fn phases(&self) -> Result<Vec<Phase>, RecipeError> {
        let wrong = |wrong| self.wrong(wrong);
        let files = match &self.table.multigrid {
            None => self.table.phases.clone(),
            Some(_) if !self.table.phases.is_empty() => {
                return Err(self.error("multigrid", "set", "not beside phases"));
            }
            Some(multigrid) => {
                let [t, h, w] = self.file.patch;
                multigrid.phases(self.table, PatchSize { t, h, w }).map_err(wrong)?
            }
        };
        if !files.is_empty() && self.stage == Stage::Eval {
            return Err(self.error("phases", "set", "an evaluation has one shape"));
        }
        if !files.is_empty() && !self.table.views.is_empty() {
            return Err(self.error("phases", "set", "not beside further views"));
        }
        phase::check(&files).map_err(wrong)?;
        let phase = |(n, file): (usize, &PhaseFile)| {
            let shapes = file.shapes.iter().enumerate();
            let shapes =
                shapes.map(|(m, shape)| self.shape(shape, &format!("phases[{n}].shapes[{m}]")));
            Ok(Phase { from: file.from, shapes: shapes.collect::<Result<_, _>>()? })
        };
        files.iter().enumerate().map(phase).collect()
    }

    /// One shape as a recipe of its own; `place` names it in errors.
    fn shape(&self, shape: &ShapeFile, place: &str) -> Result<Arc<Recipe>, RecipeError> {
        let table = shape.applied(self.table).map_err(|w| self.wrong(w.inside(place)))?;
        let recipe = Checker { table: &table, ..*self }.recipe();
        recipe.map(Arc::new).map_err(|error| match error {
            RecipeError::Value { recipe, key, value, valid } => {
                RecipeError::Value { recipe, key, value, valid: format!("{valid} (in {place})") }
            }
            other => other,
        })
    }

    fn first_view(&self, patch: PatchSize, frames: u32) -> Result<ViewSpec, RecipeError> {
        let grid = self.grid(patch, frames)?;
        let normalise = self.file.normalise.values();
        if self.stage == Stage::Eval && self.table.augment.is_some() {
            return Err(self.error("augment", "set", "an evaluation changes no pixels"));
        }
        let colors = self.colors("augment", self.table.augment.as_ref(), &normalise)?;
        Ok(ViewSpec {
            region: Region::Own(self.crop()?),
            size: Size::square(self.table.crop.size()),
            grid,
            flip: self.table.flip,
            resize: self.table.resize,
            normalise,
            colors,
            mask: self.mask(grid, patch)?,
        })
    }

    fn colors(
        &self,
        key: &str,
        augment: Option<&AugmentFile>,
        normalise: &Normalise,
    ) -> Result<Option<ColorSpec>, RecipeError> {
        let Some(augment) = augment else { return Ok(None) };
        augment.colors(key, self.file.media, normalise).map_err(|wrong| self.wrong(wrong))
    }

    fn other_views(
        &self,
        patch: PatchSize,
        frames: u32,
        first: &ViewSpec,
    ) -> Result<Vec<ViewSpec>, RecipeError> {
        let mut views = Vec::new();
        for (n, file) in self.table.views.iter().enumerate() {
            let key = format!("views[{n}]");
            if self.stage != Stage::Pretrain {
                return Err(self.error(&key, "set", "several views are for pretrain"));
            }
            let room = (MAX_VIEWS - 1).saturating_sub(views.len());
            if file.count == 0 || file.count as usize > room {
                let valid = format!("at least 1, and at most {MAX_VIEWS} views in all");
                return Err(self.error(&format!("{key}.count"), file.count, valid));
            }
            let view = self.other_view(&key, file, patch, frames, first)?;
            views.resize(views.len() + file.count as usize, view);
        }
        Ok(views)
    }

    fn other_view(
        &self,
        key: &str,
        file: &ViewFile,
        patch: PatchSize,
        frames: u32,
        first: &ViewSpec,
    ) -> Result<ViewSpec, RecipeError> {
        let wrong = |wrong| self.wrong(wrong);
        let side = file.side(key).map_err(wrong)?;
        file.check_shared(key, &self.table.crop).map_err(wrong)?;
        if let Some(crop) = &file.crop {
            crop.check(self.stage).map_err(|w| wrong(w.inside(key)))?;
        }
        let flip = file.flip.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&flip) {
            return Err(self.error(&format!("{key}.flip"), flip, "must be a probability, 0 to 1"));
        }
        if file.mask && (side % patch.h != 0 || side % patch.w != 0) {
            let valid = format!("patch {}x{} must divide {side}", patch.h, patch.w);
            return Err(self.error(&format!("{key}.mask"), true, valid));
        }
        if let Some(augment) = &file.augment {
            let only_colors =
                augment.erase.is_none() && augment.mixup == 0.0 && augment.cutmix == 0.0;
            if !only_colors {
                let valid = "a view has colour operations only";
                return Err(self.error(&format!("{key}.augment"), "erase or mix", valid));
            }
        }
        let rows = |side: u32, patch: u32| (side / patch).max(1);
        let grid = PatchGrid::new(frames / patch.t, rows(side, patch.h), rows(side, patch.w));
        let normalise = file.normalise.unwrap_or(self.file.normalise).values();
        let colors = match &file.crop {
            Some(_) => self.colors(&format!("{key}.augment"), file.augment.as_ref(), &normalise)?,
            None => first.colors.clone(),
        };
        Ok(ViewSpec {
            region: file.crop.clone().map_or(Region::First, Region::Own),
            size: Size::square(side),
            grid,
            flip,
            resize: file.resize,
            normalise,
            colors,
            mask: if file.mask { self.mask(grid, patch)? } else { MaskPolicy::None },
        })
    }

    fn error(&self, key: &str, value: impl fmt::Debug, valid: impl Into<String>) -> RecipeError {
        RecipeError::Value {
            recipe: self.file.name.clone(),
            key: format!("{}.{key}", self.stage),
            value: format!("{value:?}"),
            valid: valid.into(),
        }
    }

    fn check_plain_numbers(&self) -> Result<(), RecipeError> {
        if self.table.batch_size == 0 {
            return Err(self.error("batch_size", 0, "must be at least 1"));
        }
        if self.table.pyramid && self.file.media == Media::Video {
            return Err(self.error("pyramid", true, "videos have no smaller encodings"));
        }
        if !(0.0..=1.0).contains(&self.table.flip) {
            return Err(self.error("flip", self.table.flip, "must be a probability, 0 to 1"));
        }
        Ok(())
    }

    fn clip(&self) -> Result<Option<ClipRule>, RecipeError> {
        match (self.file.media, self.table.clip) {
            (Media::Video, None) => {
                Err(self.error("clip", "absent", "a video recipe needs a clip rule"))
            }
            (Media::Image, Some(clip)) => {
                Err(self.error("clip", clip, "an image recipe has no clip rule"))
            }
            (_, Some(clip)) if clip.frames() == 0 || clip.clips() == 0 => {
                Err(self.error("clip", clip, "frames and clips must be at least 1"))
            }
            (_, Some(clip)) if clip.clips() > 1 && self.stage != Stage::Eval => {
                Err(self.error("clip", clip, "several fixed clips are for eval"))
            }
            (_, clip) => Ok(clip),
        }
    }

    fn patch(&self, frames: u32) -> Result<PatchSize, RecipeError> {
        let [t, h, w] = self.file.patch;
        let size = self.table.crop.size();
        let fits = t > 0 && h > 0 && w > 0 && frames % t == 0 && size % h == 0 && size % w == 0;
        if !fits || size == 0 {
            let valid = format!("must divide the {frames} frames of {size}x{size} pixels");
            return Err(self.error("crop.size and patch", [t, h, w], valid));
        }
        Ok(PatchSize { t, h, w })
    }

    fn grid(&self, patch: PatchSize, frames: u32) -> Result<PatchGrid, RecipeError> {
        let size = self.table.crop.size();
        Ok(PatchGrid::new(frames / patch.t, size / patch.h, size / patch.w))
    }

    /// Rows a sample gives; for evaluation the product of clips and crops.
    fn repeats(&self, clip: Option<ClipRule>) -> Result<u16, RecipeError> {
        let views = clip.map_or(1, ClipRule::clips) * self.table.crop.crops();
        let rows = match self.stage {
            Stage::Eval if self.table.repeats != 1 => {
                let valid = "eval takes its views from clip.clips and crop.crops";
                return Err(self.error("repeats", self.table.repeats, valid));
            }
            Stage::Eval => views,
            _ => u32::from(self.table.repeats),
        };
        match u16::try_from(rows) {
            Ok(rows) if rows > 0 && self.table.batch_size % u32::from(rows) == 0 => Ok(rows),
            _ => {
                let valid = format!(
                    "batch_size {} must be a multiple of the rows of one sample",
                    self.table.batch_size
                );
                Err(self.error("repeats", rows, valid))
            }
        }
    }

    fn crop(&self) -> Result<CropRule, RecipeError> {
        self.table.crop.check(self.stage).map_err(|wrong| self.wrong(wrong))?;
        Ok(self.table.crop.clone())
    }

    /// A part's complaint as an error of this stage.
    fn wrong(&self, Wrong { key, value, valid }: Wrong) -> RecipeError {
        let key = format!("{}.{key}", self.stage);
        RecipeError::Value { recipe: self.file.name.clone(), key, value, valid }
    }

    fn mask(&self, grid: PatchGrid, patch: PatchSize) -> Result<MaskPolicy, RecipeError> {
        let Some(mask) = &self.table.mask else {
            if self.stage == Stage::Pretrain {
                return Err(self.error("mask", "absent", "masked pre-training needs a mask"));
            }
            return Ok(MaskPolicy::None);
        };
        if self.stage != Stage::Pretrain {
            return Err(self.error("mask", mask, "only pre-training masks"));
        }
        MaskPolicy::resolve(mask, grid, patch).map_err(|MaskProblem { key, value, valid }| {
            let (recipe, key) = (self.file.name.clone(), format!("{}.mask.{key}", self.stage));
            RecipeError::Value { recipe, key, value, valid }
        })
    }

    fn target(
        &self,
        patch: PatchSize,
        frames: u32,
        mask: &MaskPolicy,
    ) -> Result<TargetSpec, RecipeError> {
        let target = match (self.stage, self.table.target) {
            (Stage::Pretrain, None) if !mask.reconstructs() => return Ok(TargetSpec::None),
            (Stage::Pretrain, None) => {
                return Err(self.error("target", "absent", "pre-training needs a target"));
            }
            (Stage::Pretrain, Some(target)) => target,
            (_, Some(target)) => return Err(self.error("target", target, "only for pretrain")),
            (_, None) => return Ok(TargetSpec::None),
        };
        target.check(patch, frames, self.table.crop.size()).map_err(|wrong| self.wrong(wrong))
    }
}

#[cfg(test)]
mod tests;
