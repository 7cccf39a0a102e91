//! One stage of a file, resolved and checked.

use std::fmt;
use std::sync::Arc;

use tubelet_core::key::MAX_VIEWS;
use tubelet_core::{PatchGrid, PatchSize, Size};

use super::error::Wrong;
use super::{
    AugmentFile, Buckets, ClipRule, ColorSpec, CropRule, Media, Phase, PhaseFile, Pixels, Place,
    Recipe, RecipeError, RecipeFile, Region, ShapeFile, Stage, StageFile, TargetSpec, ViewFile,
    ViewSpec, phase,
};
use crate::normalise::Normalise;
use crate::policy::{MaskPolicy, MaskProblem};

/// Turns one stage of a file into a [`Recipe`].
pub(super) struct Checker<'a> {
    pub(super) file: &'a RecipeFile,
    pub(super) stage: Stage,
    pub(super) table: &'a StageFile,
    /// The first view's size where it is not the square of the crop.
    pub(super) out: Option<Size>,
}

impl Checker<'_> {
    pub(super) fn recipe(&self) -> Result<Recipe, RecipeError> {
        self.check_plain_numbers()?;
        let clip = self.clip()?;
        let frames = clip.map_or(1, ClipRule::frames);
        let patch = self.patch(frames)?;
        let first = self.first_view(patch, frames)?;
        let augment = self.table.augment.clone().unwrap_or_default();
        let others = self.other_views(patch, frames, &first)?;
        let repeats = self.repeats(clip)?;
        let rows = self.rows(first.grid, repeats)?;
        let stage = self.stage;
        Ok(Recipe {
            name: self.file.name.clone(),
            stage,
            media: self.file.media,
            patch,
            batch_size: rows,
            repeats,
            clip,
            share_frames: self.table.share_frames,
            exact_start: self.table.exact_start,
            crops: self.table.crop.crops(),
            pixels: self.pixels(std::iter::once(&first).chain(&others))?,
            others,
            target: self.target(patch, frames, &first.mask)?,
            first,
            erase: augment.erase(stage).map_err(|wrong| self.wrong(wrong))?,
            mix: augment.mix(stage, rows).map_err(|wrong| self.wrong(wrong))?,
            pyramid: self.table.pyramid,
            phases: Vec::new(),
            buckets: None,
        })
    }

    /// The phases with every shape checked; none where the stage has one shape.
    pub(super) fn phases(&self) -> Result<Vec<Phase>, RecipeError> {
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
        Checker { table: &table, ..*self }.placed(place)
    }

    /// The buckets with every shape checked; `None` where the stage has none.
    pub(super) fn buckets(&self) -> Result<Option<Buckets>, RecipeError> {
        let Some(file) = &self.table.buckets else { return Ok(None) };
        let refuse = |valid: &str| Err(self.error("buckets", "set", valid));
        if self.stage == Stage::Eval {
            return refuse("an evaluation has one shape");
        }
        if !self.table.views.is_empty() {
            return refuse("not beside further views");
        }
        if !self.table.phases.is_empty() || self.table.multigrid.is_some() {
            return refuse("not beside phases or multigrid");
        }
        if !self.table.crop.crops_first() {
            return refuse(
                "needs a crop rule that cuts before it resizes: random-resized, \
                 random-resized-once, multi-scale or largest",
            );
        }
        let [t, h, w] = self.file.patch;
        let sizes = file.sizes(PatchSize { t, h, w }).map_err(|w| self.wrong(w))?;
        let table = StageFile { buckets: None, ..self.table.clone() };
        let shape = |size: &Size| {
            let place = format!("bucket {}x{}", size.height, size.width);
            Checker { table: &table, out: Some(*size), ..*self }.placed(&place)
        };
        let shapes = sizes.iter().map(shape).collect::<Result<_, _>>()?;
        Ok(Some(Buckets { shapes, unknown: file.unknown }))
    }

    /// The recipe; `place` says in errors where it lies.
    fn placed(&self, place: &str) -> Result<Arc<Recipe>, RecipeError> {
        self.recipe().map(Arc::new).map_err(|error| match error {
            RecipeError::Value { recipe, key, value, valid } => {
                RecipeError::Value { recipe, key, value, valid: format!("{valid} (in {place})") }
            }
            other => other,
        })
    }

    /// Size of the first view.
    fn out(&self) -> Size {
        self.out.unwrap_or_else(|| Size::square(self.table.crop.size()))
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
            size: self.out(),
            grid,
            flip: self.table.flip,
            resize: self.table.resize,
            normalise,
            colors,
            mask: self.mask(grid, patch)?,
        })
    }

    /// Colours of whole source frames need their RGB.
    fn pixels<'v>(
        &self,
        views: impl IntoIterator<Item = &'v ViewSpec>,
    ) -> Result<Pixels, RecipeError> {
        let of_source =
            |view: &ViewSpec| view.colors.as_ref().is_some_and(|c| c.place == Place::Source);
        let needs_rgb = views.into_iter().any(of_source);
        match self.table.pixels {
            Some(Pixels::Fast) if needs_rgb => {
                let valid = "exact, because colour operations look at the whole source frame";
                Err(self.error("pixels", "fast", valid))
            }
            Some(pixels) => Ok(pixels),
            None if self.stage == Stage::Pretrain && !needs_rgb => Ok(Pixels::Fast),
            None => Ok(Pixels::Exact),
        }
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
        if self.table.pyramid && self.file.media == Media::Video {
            return Err(self.error("pyramid", true, "videos have no smaller encodings"));
        }
        if self.table.share_frames && (self.file.media == Media::Image || self.table.repeats < 2) {
            return Err(self.error("share_frames", true, "for videos with repeats of at least 2"));
        }
        if self.table.exact_start && self.file.media == Media::Image {
            return Err(self.error("exact_start", true, "for videos"));
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
            (_, Some(clip)) => {
                clip.check().map_err(|wrong| self.wrong(wrong))?;
                if clip.clips() > 1 && self.stage != Stage::Eval {
                    return Err(self.error("clip", clip, "several fixed clips are for eval"));
                }
                Ok(Some(clip))
            }
            (_, None) => Ok(None),
        }
    }

    fn patch(&self, frames: u32) -> Result<PatchSize, RecipeError> {
        let [t, h, w] = self.file.patch;
        let Size { width, height } = self.out();
        if t == 0 || h == 0 || w == 0 {
            return Err(self.error("patch", [t, h, w], "at least 1 in each axis"));
        }
        let sides = [
            ("clip.frames", frames, t, "frames"),
            ("crop.size", height, h, "rows"),
            ("crop.size", width, w, "columns"),
        ];
        for (key, side, patch, what) in sides {
            if side == 0 || side % patch > 0 {
                let below = side / patch * patch;
                let near = match below {
                    0 => format!("{patch}"),
                    below => format!("{below} or {}", below.saturating_add(patch)),
                };
                let valid =
                    format!("not a multiple of the patch's {patch} {what}: {near} would be");
                return Err(self.error(key, side, valid));
            }
        }
        Ok(PatchSize { t, h, w })
    }

    fn grid(&self, patch: PatchSize, frames: u32) -> Result<PatchGrid, RecipeError> {
        let size = self.out();
        Ok(PatchGrid::new(frames / patch.t, size.height / patch.h, size.width / patch.w))
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
            Ok(rows) if rows > 0 => Ok(rows),
            _ => Err(self.error("repeats", rows, format!("1 to {} rows of one sample", u16::MAX))),
        }
    }

    /// Rows of a batch whose first views have `grid`, a multiple of the `repeats` of a sample.
    fn rows(&self, grid: PatchGrid, repeats: u16) -> Result<u32, RecipeError> {
        let each = u32::from(repeats);
        match (self.table.batch_size, self.table.token_budget) {
            (None, None) => {
                Err(self.error("batch_size", "absent", "either batch_size or token_budget"))
            }
            (Some(rows), Some(_)) => {
                let valid = "not beside token_budget, which sets the rows";
                Err(self.error("batch_size", rows, valid))
            }
            (None, Some(budget)) => self.rows_of_budget(budget, grid, each),
            (Some(rows), None) if !(1..=MAX_ROWS).contains(&rows) => {
                Err(self.error("batch_size", rows, format!("1 to {MAX_ROWS}")))
            }
            (Some(rows), None) if rows % each != 0 => {
                let valid =
                    format!("batch_size {rows} must be a multiple of the rows of one sample");
                Err(self.error("repeats", each, valid))
            }
            (Some(_), None) if self.table.batch_multiple.is_some() => {
                let valid = "only beside token_budget";
                Err(self.error("batch_multiple", self.table.batch_multiple.unwrap_or(0), valid))
            }
            (Some(rows), None) => Ok(rows),
        }
    }

    /// The most rows that hold no more than `budget` tokens and can be shared as they must be.
    fn rows_of_budget(&self, budget: u32, grid: PatchGrid, each: u32) -> Result<u32, RecipeError> {
        let multiple = self.table.batch_multiple.unwrap_or(1);
        let group = self.table.augment.as_ref().and_then(|augment| augment.mix_group).unwrap_or(1);
        if multiple == 0 {
            return Err(self.error("batch_multiple", 0, "at least 1"));
        }
        let unit = lcm(lcm(u64::from(multiple), u64::from(each)), u64::from(group.max(1)));
        let rows = u64::from(budget) / grid.len() as u64 / unit * unit;
        match u32::try_from(rows) {
            Ok(rows @ 1..=MAX_ROWS) => Ok(rows),
            Ok(0) => {
                let least = unit * grid.len() as u64;
                let valid = format!(
                    "at least {least}: a row has {} tokens, and rows come {unit} at a time",
                    grid.len()
                );
                Err(self.error("token_budget", budget, valid))
            }
            _ => {
                let valid = format!("makes {rows} rows, more than {MAX_ROWS}");
                Err(self.error("token_budget", budget, valid))
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
        target.check(patch, frames, self.out()).map_err(|wrong| self.wrong(wrong))
    }
}

/// Most rows of a batch.
const MAX_ROWS: u32 = 1 << 20;

/// The least common multiple of two numbers above 0.
fn lcm(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}
