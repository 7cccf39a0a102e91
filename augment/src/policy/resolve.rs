//! From a recipe's mask table to a policy with counts, or to what is wrong with it.

use std::fmt;

use tubelet_core::patch::MAX_PASSES;
use tubelet_core::{Draw, PatchGrid, PatchSize, SampleRng};

use super::MaskPolicy;
use crate::mask::{
    self, BlockGroup, BlockSpec, CubeSpec, GroupSpec, IbotShape, IbotSpec, MaskFile, MvmMode,
    ToppedSpec, multi_block, running_cell,
};

/// Why a mask table cannot be used: which of its keys, what it says, what would be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskProblem {
    /// Key inside the mask table.
    pub key: &'static str,
    /// What it says.
    pub value: String,
    /// What would be valid.
    pub valid: String,
}

/// Most rectangles tried for one block.
const MAX_TRIES: u32 = 10_000;

/// Masks drawn at load to see whether a rule can work at all on a grid.
const TRIAL_DRAWS: u64 = 64;

/// The random numbers of trial draw `n`.
fn trial(n: u64) -> SampleRng {
    SampleRng::new(0, 0, n, 0, Draw::Mask)
}

fn problem(key: &'static str, value: impl fmt::Debug, valid: impl Into<String>) -> MaskProblem {
    MaskProblem { key, value: format!("{value:?}"), valid: valid.into() }
}

impl MaskPolicy {
    /// The policy of a recipe for `grid` of `patch`es, with counts rounded as its reference does.
    ///
    /// # Errors
    /// When a value is impossible, or the rule cannot work on this grid.
    pub fn resolve(
        file: &MaskFile,
        grid: PatchGrid,
        patch: PatchSize,
    ) -> Result<Self, MaskProblem> {
        let site = Site { grid, patch };
        match file {
            MaskFile::Random { ratio, count } => {
                let masked = site.count(*ratio, |r| count.masked(grid.len(), r), grid.len())?;
                Ok(Self::Random { masked })
            }
            MaskFile::Tube { ratio } => Ok(Self::Tube { masked: site.tube(*ratio)? }),
            MaskFile::Frame { ratio, count } => {
                let all = grid.t as usize;
                Ok(Self::Frame { slots: site.count(*ratio, |r| count.masked(all, r), all)? })
            }
            MaskFile::Grid { unit, ratio, count } => {
                let (unit, units) = site.units(*unit)?;
                let masked = site.count(*ratio, |r| count.masked(units.len(), r), units.len())?;
                Ok(Self::Grid { unit, masked })
            }
            MaskFile::Block { .. } => site.block(file),
            MaskFile::BlockExact { .. } => site.block_exact(file),
            MaskFile::Ibot { .. } => site.ibot(file),
            MaskFile::Cube { .. } => site.cube(file),
            MaskFile::MultiFold { ratio, folds, count } => {
                let masked = site.count(*ratio, |r| count.masked(grid.len(), r), grid.len())?;
                let folds = *folds as usize;
                if folds == 0 || folds > MAX_PASSES || masked % folds != 0 {
                    let fit: Vec<_> = (1..=MAX_PASSES).filter(|f| masked % f == 0).collect();
                    let valid = format!("folds that divide the {masked} hidden tokens: {fit:?}");
                    return Err(problem("folds", folds, valid));
                }
                Ok(Self::MultiFold { masked, folds })
            }
            MaskFile::Halves {} if grid.len() < 2 => {
                Err(problem("policy", "halves", format!("grid {grid} has no two tokens")))
            }
            MaskFile::Halves {} => Ok(Self::Halves),
            MaskFile::MultiBlock { groups } => site.multi_block(groups),
            MaskFile::RunningCell { ratio, decoder } => site.running_cell(*ratio, *decoder),
            MaskFile::DropToken { keep } => {
                let kept = mask::drop_token::kept(grid.len(), site.share("keep", *keep)?);
                if kept == 0 {
                    return Err(problem("keep", keep, format!("leaves no token of {grid}")));
                }
                Ok(Self::DropToken { keep: kept })
            }
            MaskFile::Mvm { modes, p } => site.mvm(modes, *p),
        }
    }
}

/// Where a mask is to lie.
struct Site {
    grid: PatchGrid,
    patch: PatchSize,
}

impl Site {
    fn share(&self, key: &'static str, value: f64) -> Result<f64, MaskProblem> {
        if value > 0.0 && value < 1.0 {
            return Ok(value);
        }
        Err(problem(key, value, "between 0 and 1, both excluded"))
    }

    /// The hidden ones of `all`: at least one, and one left.
    fn count(
        &self,
        ratio: f64,
        rule: impl Fn(f64) -> usize,
        all: usize,
    ) -> Result<usize, MaskProblem> {
        let masked = rule(self.share("ratio", ratio)?);
        if masked == 0 || masked >= all {
            let valid = format!(
                "hides {masked} of {all} on grid {}; at least 1 must be hidden and 1 left",
                self.grid
            );
            return Err(problem("ratio", ratio, valid));
        }
        Ok(masked)
    }

    fn tube(&self, ratio: f64) -> Result<usize, MaskProblem> {
        let plane = self.grid.plane();
        self.count(ratio, |r| mask::masked_truncated(plane, r), plane)
    }

    /// Tokens of a unit of `side` pixels, and the grid of units.
    fn units(&self, side: u32) -> Result<([u32; 3], PatchGrid), MaskProblem> {
        let (grid, patch) = (self.grid, self.patch);
        let (height, width) = (grid.h * patch.h, grid.w * patch.w);
        let fits = |side: u32| {
            side > 0
                && side % patch.h == 0
                && side % patch.w == 0
                && height % side == 0
                && width % side == 0
        };
        if !fits(side) {
            let valid: Vec<u32> = (1..=height.min(width)).filter(|s| fits(*s)).collect();
            let valid = format!(
                "a unit must be a multiple of the {}x{} patch and divide {height}x{width} pixels: \
                 one of {valid:?}",
                patch.h, patch.w
            );
            return Err(problem("unit", side, valid));
        }
        let (h, w) = (side / patch.h, side / patch.w);
        Ok(([1, h, w], PatchGrid::new(grid.t, grid.h / h, grid.w / w)))
    }

    fn aspect(&self, aspect: [f64; 2]) -> Result<[f64; 2], MaskProblem> {
        let [low, high] = aspect;
        if low > 0.0 && low <= high && high.is_finite() {
            return Ok(aspect);
        }
        Err(problem("aspect", aspect, "0 < smallest <= largest"))
    }

    fn tries(&self, tries: u32) -> Result<u32, MaskProblem> {
        if (1..=MAX_TRIES).contains(&tries) {
            return Ok(tries);
        }
        Err(problem("tries", tries, format!("1 to {MAX_TRIES}")))
    }

    /// Areas of rectangles, smallest and largest, of at most `most`.
    fn areas(
        &self,
        min: Option<u32>,
        max: Option<u32>,
        defaults: [usize; 2],
    ) -> Result<[usize; 2], MaskProblem> {
        let min = min.map_or(defaults[0], |m| m as usize);
        let max = max.map_or(defaults[1], |m| m as usize);
        if max == 0 || min > max {
            return Err(problem("max", max, format!("at least 1 and not below min = {min}")));
        }
        Ok([min, max])
    }

    /// `policy`, unless none of its trial draws hides a token.
    fn tried(
        &self,
        policy: MaskPolicy,
        (key, value): (&'static str, usize),
        valid: &str,
    ) -> Result<MaskPolicy, MaskProblem> {
        let good =
            |n| policy.draw(self.grid, &mut trial(n)).is_some_and(|mask| mask.masked_count() > 0);
        if (0..TRIAL_DRAWS).any(good) {
            return Ok(policy);
        }
        Err(problem(key, value, format!("{valid} on grid {}", self.grid)))
    }

    fn block(&self, file: &MaskFile) -> Result<MaskPolicy, MaskProblem> {
        let MaskFile::Block { ratio, count, min, max, aspect, tries, unit } = file else {
            return Err(problem("policy", file, "block"));
        };
        let (unit, units) = match unit {
            Some(side) => self.units(*side)?,
            None => ([1; 3], self.grid),
        };
        let plane = units.plane();
        let count = match (ratio, count) {
            (Some(ratio), None) => self.count(*ratio, |r| mask::masked_round(plane, r), plane)?,
            (None, Some(count)) if (1..plane as u32).contains(count) => *count as usize,
            (None, Some(count)) => {
                return Err(problem("count", count, format!("1 to {}", plane - 1)));
            }
            _ => return Err(problem("ratio", ratio, "either ratio or count")),
        };
        let [min, max] = self.areas(*min, *max, [count / 5, count])?;
        let spec = BlockSpec {
            count,
            min,
            max,
            aspect: self.aspect(*aspect)?,
            tries: Some(self.tries(*tries)?),
        };
        let valid = "rectangles must fit strictly inside the plane; none did";
        self.tried(MaskPolicy::Block { unit, spec }, ("min", min), valid)
    }

    fn block_exact(&self, file: &MaskFile) -> Result<MaskPolicy, MaskProblem> {
        let MaskFile::BlockExact { ratio, blocks, min, max, aspect, roll } = file else {
            return Err(problem("policy", file, "block-exact"));
        };
        let masked = self.tube(*ratio)?;
        let count = *blocks as usize;
        if count == 0 || count > masked {
            return Err(problem("blocks", blocks, format!("1 to the {masked} hidden tokens")));
        }
        let [min, max] = self.areas(Some(*min), *max, [0, count / 2])?;
        let blocks = BlockSpec { count, min, max, aspect: self.aspect(*aspect)?, tries: None };
        if *roll as usize >= self.grid.plane() {
            return Err(problem("roll", roll, format!("below {} tokens", self.grid.plane())));
        }
        let plane = PatchGrid { t: 1, ..self.grid };
        let reached =
            (0..4).all(|n| mask::block(plane, &blocks, &mut trial(n)).masked_count() == count);
        if !reached {
            let valid = format!(
                "rectangles of {min} to {max} tokens do not reach {count} on grid {}",
                self.grid
            );
            return Err(problem("blocks", count, valid));
        }
        Ok(MaskPolicy::Topped(ToppedSpec { blocks, masked, roll: *roll }))
    }

    fn ibot(&self, file: &MaskFile) -> Result<MaskPolicy, MaskProblem> {
        let MaskFile::Ibot { ratio, variance, shape, min, aspect, tries, pred_start_epoch } = file
        else {
            return Err(problem("policy", file, "ibot"));
        };
        if ratio.is_empty() || ratio.len() != variance.len() {
            let valid = format!("one variance for each of the {} ratios", ratio.len());
            return Err(problem("variance", variance, valid));
        }
        let ratios: Vec<[f64; 2]> = ratio.iter().zip(variance).map(|(r, v)| [*r, *v]).collect();
        let inside = |[r, v]: &[f64; 2]| *v >= 0.0 && r - v >= 0.0 && r + v < 1.0;
        if let Some(bad) = ratios.iter().find(|pair| !inside(pair)) {
            let valid = "ratio - variance at least 0, ratio + variance below 1";
            return Err(problem("ratio", bad, valid));
        }
        if ratios.iter().all(|[r, v]| r + v <= 0.0) {
            return Err(problem("ratio", ratio, "at least one above 0"));
        }
        let spec = IbotSpec {
            ratios,
            shape: *shape,
            min: min.map_or_else(|| mask::ibot::smallest_block(self.grid), |m| m as usize),
            aspect: self.aspect(*aspect)?,
            tries: self.tries(*tries)?,
            from_epoch: *pred_start_epoch,
        };
        let valid = match shape {
            IbotShape::Block => "rectangles must fit strictly inside the plane; none did",
            IbotShape::Random => "the ratios hide no token",
        };
        let min = spec.min;
        self.tried(MaskPolicy::Ibot(spec), ("min", min), valid)
    }

    fn cube(&self, file: &MaskFile) -> Result<MaskPolicy, MaskProblem> {
        let MaskFile::Cube { ratio, unit, min, max, aspect, tries } = file else {
            return Err(problem("policy", file, "cube"));
        };
        let (unit, units) = self.units(*unit)?;
        let all = units.len();
        let count = self.count(*ratio, |r| mask::masked_round(all, r), all)?;
        let published = CubeSpec::new(units, count);
        let plane = units.plane();
        let [min, max] = self.areas(*min, *max, [published.min, plane])?;
        let spec = CubeSpec {
            min,
            max,
            aspect: self.aspect(*aspect)?,
            tries: self.tries(*tries)?,
            ..published
        };
        let valid = "boxes must fit strictly inside the plane of units; none did";
        self.tried(MaskPolicy::Cube { unit, spec }, ("min", min), valid)
    }

    fn multi_block(&self, groups: &[BlockGroup]) -> Result<MaskPolicy, MaskProblem> {
        if groups.is_empty() || groups.len() > MAX_PASSES + 1 {
            let valid = format!("1 to {} groups", MAX_PASSES + 1);
            return Err(problem("groups", groups.len(), valid));
        }
        let checked: Vec<GroupSpec> =
            groups.iter().map(|group| self.group(group)).collect::<Result<_, _>>()?;
        for spec in &checked {
            let good =
                |n: &u64| multi_block::draw_once(self.grid, spec, &mut trial(*n)).contains(&false);
            let good = (0..TRIAL_DRAWS).filter(good).count() as u64;
            if good < TRIAL_DRAWS / 2 {
                let valid = format!(
                    "blocks of {:?} of the plane leave a token visible in {good} of {TRIAL_DRAWS} \
                     draws on grid {}; fewer or smaller ones",
                    spec.scale, self.grid
                );
                return Err(problem("groups.blocks", spec.blocks, valid));
            }
        }
        Ok(MaskPolicy::MultiBlock(checked))
    }

    fn group(&self, group: &BlockGroup) -> Result<GroupSpec, MaskProblem> {
        let share = |[low, high]: [f64; 2]| low > 0.0 && low <= high && high <= 1.0;
        if group.blocks == 0 || group.blocks as usize > self.grid.len() {
            let valid = format!("1 to the {} tokens of the grid", self.grid.len());
            return Err(problem("groups.blocks", group.blocks, valid));
        }
        for (key, range) in [("groups.scale", group.scale), ("groups.time", group.time)] {
            if !share(range) {
                return Err(problem(key, range, "0 < smallest <= largest <= 1"));
            }
        }
        if !(group.context > 0.0 && group.context <= 1.0) {
            return Err(problem("groups.context", group.context, "above 0, at most 1"));
        }
        let context = (f64::from(self.grid.t) * group.context) as u32;
        let spec = GroupSpec {
            blocks: group.blocks,
            scale: group.scale,
            time: group.time,
            aspect: self.aspect(group.aspect)?,
            context: context.max(1),
        };
        let sizes =
            [0.0, 0.5, 1.0].map(|a| multi_block::block_size(self.grid, &spec, [0.0, 0.0, a]));
        let volume = |size: &[u32; 3]| size.iter().product::<u32>() as usize;
        if sizes.iter().any(|size| volume(size) == 0) {
            let valid = format!("a block covers less than one token of grid {}", self.grid);
            return Err(problem("groups.scale", group.scale, valid));
        }
        if sizes.iter().all(|size| volume(size) == self.grid.len()) {
            let valid = format!("one block covers all of grid {}", self.grid);
            return Err(problem("groups.scale", group.scale, valid));
        }
        Ok(spec)
    }

    fn running_cell(&self, ratio: f64, decoder: f64) -> Result<MaskPolicy, MaskProblem> {
        let hidden = running_cell::hidden_of_cell(self.share("decoder", decoder)?);
        if hidden == 0 || hidden as f64 != running_cell::CELL as f64 * decoder {
            return Err(problem("decoder", decoder, "0.25, 0.5 or 0.75 of a cell's four tokens"));
        }
        if self.grid.h % 2 != 0 || self.grid.w % 2 != 0 {
            let valid = format!("cells of 2x2 tokens do not fill grid {}", self.grid);
            return Err(problem("policy", "running-cell", valid));
        }
        Ok(MaskPolicy::RunningCell { masked: self.tube(ratio)?, hidden })
    }

    fn mvm(&self, modes: &[MvmMode], p: f64) -> Result<MaskPolicy, MaskProblem> {
        if modes.is_empty() {
            return Err(problem("modes", modes, "at least one of random, block"));
        }
        if modes.contains(&MvmMode::Attended) {
            let valid = "random and block; attended slots need a model's scores, which a loader \
                         does not have: the model's step draws them with mask::mvm::attended";
            return Err(problem("modes", modes, valid));
        }
        Ok(MaskPolicy::Mvm { modes: modes.to_vec(), p: self.share("p", p)? })
    }
}
