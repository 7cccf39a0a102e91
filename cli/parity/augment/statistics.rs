//! Masks and crops as distributions over many draws.

use anyhow::{Result, anyhow, ensure};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tubelet_augment::crop::{self, Places};
use tubelet_augment::mask::{self, BlockSpec, CubeSpec, IbotShape, IbotSpec, ToppedSpec, mvm};
use tubelet_core::{Draw, Mask, PatchGrid, Rect, SampleRng, Size};

use super::{grid_of, outputs, unsupported};
use crate::parity::case::{Case, Value};
use crate::parity::{DRAWS, Outcome};

/// Own draws behind each statistic.
const OWN_DRAWS: u64 = 100_000;
/// Seed of those draws.
const SEED: u64 = 20_240;
/// Bins of the histogram of connected components; the last holds all larger numbers.
const COMPONENT_BINS: usize = 64;
/// What is measured of a box.
const QUANTITIES: [&str; 6] = ["area", "log_aspect", "cx", "cy", "w", "h"];

type DrawMask = Box<dyn Fn(&mut SampleRng) -> Mask + Sync>;

pub(super) fn masks(case: &Case) -> Result<Outcome> {
    let grid = grid_of(&case.param::<Vec<u32>>("grid")?)?;
    let draw: DrawMask = match case.param::<String>("algorithm")?.as_str() {
        "random" => {
            let masked: usize = case.param("count")?;
            Box::new(move |rng| mask::random(grid, grid.len() - masked, rng))
        }
        "tube" => {
            let masked = case.param("count_per_slot")?;
            Box::new(move |rng| mask::tube(grid, masked, rng))
        }
        "frames" => {
            let slots = case.param("count")?;
            Box::new(move |rng| mask::frame(grid, slots, rng))
        }
        "blocks" => {
            let spec = block_spec(&case.params)?;
            Box::new(move |rng| mask::block(grid, &spec, rng))
        }
        "blocks_tube" => {
            let spec = block_spec(nested_blocks(case)?)?;
            Box::new(move |rng| mask::block(grid, &spec, rng))
        }
        "blocks_topped_up" => {
            let blocks = block_spec(nested_blocks(case)?)?;
            let [_, roll] = case.param("roll")?;
            let spec = ToppedSpec { blocks, masked: case.param("final_count")?, roll };
            Box::new(move |rng| mask::topped(grid, &spec, rng))
        }
        "ibot_block" => ibot(case, grid, IbotShape::Block)?,
        "ibot_rand" => ibot(case, grid, IbotShape::Random)?,
        "cubes" => cubes(case, grid)?,
        "cuboids" => cuboids(case, grid)?,
        "bernoulli" => {
            let p = case.param("p")?;
            Box::new(move |rng| mvm::bernoulli(grid, p, rng))
        }
        other => return Ok(unsupported(format!("algorithm {other}"))),
    };
    Ok(mask_outputs(grid, &draw))
}

fn nested_blocks(case: &Case) -> Result<&Json> {
    case.params.get("blocks").ok_or_else(|| anyhow!("no parameter blocks"))
}

/// The counts of the rule; `tries` null is for as many as it takes.
fn block_spec(params: &Json) -> Result<BlockSpec> {
    #[derive(serde::Deserialize)]
    struct Counts {
        count: usize,
        min_block: usize,
        max_block: usize,
        aspect: [f64; 2],
        tries: Option<u32>,
    }
    let Counts { count, min_block: min, max_block: max, aspect, tries } =
        Counts::deserialize(params)?;
    Ok(BlockSpec { count, min, max, aspect, tries })
}

fn ibot(case: &Case, grid: PatchGrid, shape: IbotShape) -> Result<DrawMask> {
    let (ratio, half): (Vec<f64>, Vec<f64>) = (case.param("ratio")?, case.param("ratio_var")?);
    ensure!(!ratio.is_empty() && ratio.len() == half.len(), "ratios {ratio:?} with {half:?}");
    let spec = IbotSpec {
        ratios: ratio.into_iter().zip(half).map(|(r, v)| [r, v]).collect(),
        shape,
        min: case.param_opt("min_block")?.unwrap_or_else(|| mask::ibot::smallest_block(grid)),
        aspect: case.param_opt("aspect")?.unwrap_or(mask::block::ASPECT),
        tries: case.param_opt("tries")?.unwrap_or(mask::block::TRIES),
        from_epoch: 0,
    };
    Ok(Box::new(move |rng| mask::ibot(grid, &spec, rng)))
}

fn cubes(case: &Case, grid: PatchGrid) -> Result<DrawMask> {
    let spec = CubeSpec {
        count: case.param("count")?,
        min: case.param("min_block")?,
        max: case.param("max_block")?,
        aspect: case.param("aspect")?,
        time: case.param("time_span")?,
        tries: case.param("tries")?,
    };
    let [first, last] = spec.time;
    ensure!(0 < first && first <= last && last <= grid.t, "time_span {first}..={last}");
    Ok(Box::new(move |rng| mask::cube(grid, &spec, rng)))
}

fn cuboids(case: &Case, grid: PatchGrid) -> Result<DrawMask> {
    let count = case.param("cuboids")?;
    let sides: [[u32; 2]; 3] = [case.param("t")?, case.param("h")?, case.param("w")?];
    for ([least, most], whole) in sides.into_iter().zip([grid.t, grid.h, grid.w]) {
        ensure!(0 < least && least <= most && most <= whole, "sides {sides:?} on grid {grid}");
    }
    // The published sides go through the rule that finds them out by itself.
    if sides == mvm::longest(grid).map(|longest| [1, longest]) {
        return Ok(Box::new(move |rng| mvm::cuboids(grid, count, rng)));
    }
    Ok(Box::new(move |rng| mvm::cuboids_of(grid, count, sides, rng)))
}

/// Sums over the draws of one thread.
struct MaskSums {
    hits: Vec<u64>,
    counts: Vec<u64>,
    pairs: [u64; 3],
    components: Vec<u64>,
}

impl MaskSums {
    fn new(grid: PatchGrid) -> Self {
        Self {
            hits: vec![0; grid.len()],
            counts: vec![0; grid.len() + 1],
            pairs: [0; 3],
            components: vec![0; COMPONENT_BINS],
        }
    }

    fn add(&mut self, mask: &Mask) {
        for token in mask.masked() {
            self.hits[token as usize] += 1;
        }
        self.counts[mask.masked_count()] += 1;
        let mut groups = Groups::new(mask.as_slice().len());
        let mut components = mask.masked_count();
        for (axis, (a, b)) in neighbours(mask.grid()) {
            if mask.as_slice()[a] && mask.as_slice()[b] {
                self.pairs[axis] += 1;
                components -= usize::from(groups.join(a, b));
            }
        }
        self.components[components.min(COMPONENT_BINS - 1)] += 1;
    }

    fn merge(&mut self, other: &Self) {
        let add = |to: &mut [u64], from: &[u64]| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        };
        add(&mut self.hits, &other.hits);
        add(&mut self.counts, &other.counts);
        add(&mut self.pairs, &other.pairs);
        add(&mut self.components, &other.components);
    }
}

fn mask_outputs(grid: PatchGrid, draw: &(dyn Fn(&mut SampleRng) -> Mask + Sync)) -> Outcome {
    let sums = over_draws(
        |range| {
            let mut sums = MaskSums::new(grid);
            for sample in range {
                sums.add(&draw(&mut SampleRng::new(SEED, 0, sample, 0, Draw::Mask)));
            }
            sums
        },
        |sums, other| sums.merge(&other),
    );
    let draws = OWN_DRAWS as f64;
    let mut pairs = [0usize; 3];
    neighbours(grid).for_each(|(axis, _)| pairs[axis] += 1);
    let pair = |axis: usize| sums.pairs[axis] as f64 / (draws * pairs[axis].max(1) as f64);
    let floats = |counts: &[u64]| counts.iter().map(|c| *c as f64).collect::<Vec<_>>();
    let probability = sums.hits.iter().map(|h| *h as f64 / draws).collect::<Vec<_>>();
    let shape = [grid.t as usize, grid.h as usize, grid.w as usize];
    outputs([
        ("probability", Value::array(&shape, probability)),
        ("count_histogram", Value::array(&[sums.counts.len()], floats(&sums.counts))),
        ("neighbour_pair_probability", Value::array(&[3], vec![pair(0), pair(1), pair(2)])),
        ("component_histogram", Value::array(&[COMPONENT_BINS], floats(&sums.components))),
        (DRAWS, Value::number(draws)),
    ])
}

/// Pairs of neighbouring tokens with the axis between them: 0 along a row, 1 along a column, 2 in
/// time.
fn neighbours(grid: PatchGrid) -> impl Iterator<Item = (usize, (usize, usize))> {
    let (h, w) = (grid.h as usize, grid.w as usize);
    (0..grid.len()).flat_map(move |at| {
        let right = (at % w + 1 < w).then_some((0, (at, at + 1)));
        let below = (at / w % h + 1 < h).then_some((1, (at, at + w)));
        let next = (at + h * w < grid.len()).then_some((2, (at, at + h * w)));
        [right, below, next].into_iter().flatten()
    })
}

/// Disjoint sets of tokens.
struct Groups(Vec<usize>);

impl Groups {
    fn new(tokens: usize) -> Self {
        Self((0..tokens).collect())
    }

    fn root(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    /// Whether the two were apart.
    fn join(&mut self, a: usize, b: usize) -> bool {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a] = b;
        a != b
    }
}

/// A box and the size of the picture that it is cut out of.
type Cut = (Size, Rect);
type DrawCut = Box<dyn Fn(&mut SampleRng) -> Cut + Sync>;

pub(super) fn crops(case: &Case) -> Result<Outcome> {
    let size = Size::new(case.param("width")?, case.param("height")?);
    let draw: DrawCut = match case.param::<String>("algorithm")?.as_str() {
        "random_resized_crop" => {
            let (scale, ratio) = (case.param("scale")?, case.param("ratio")?);
            let fallback: String = case.param("fallback")?;
            match (case.param::<u32>("tries")?, fallback.as_str()) {
                (crop::TRIES, "central_crop_clamped_aspect") => {
                    Box::new(move |rng| (size, crop::random_resized_crop(size, scale, ratio, rng)))
                }
                (1, "clamp_to_image") => Box::new(move |rng| {
                    (size, crop::random_resized_crop_once(size, scale, ratio, rng))
                }),
                other => return Ok(unsupported(format!("tries and fallback {other:?}"))),
            }
        }
        "multi_scale_crop" => {
            let out = Size::square(case.param("input")?);
            let scales: Vec<f64> = case.param("scales")?;
            let distort = case.param("max_distort")?;
            let places = multi_scale_places(case)?;
            Box::new(move |rng| {
                (size, crop::multi_scale_crop(size, out, &scales, distort, places, rng))
            })
        }
        "short_side_jitter" | "random_short_side_scale_jitter" => short_side_jitter(case, size)?,
        other => return Ok(unsupported(format!("algorithm {other}"))),
    };
    let cuts = over_draws(
        |range| {
            let draw_one = |n| draw(&mut SampleRng::new(SEED, 0, n, 0, Draw::Crop));
            range.map(draw_one).collect::<Vec<_>>()
        },
        |cuts, more| cuts.extend(more),
    );
    Ok(crop_outputs(&cuts))
}

/// SlowFast's crop: the shorter side drawn between `min` and `max`, then a square of `input` (or
/// `size`) pixels anywhere. The box is measured in the resized picture.
fn short_side_jitter(case: &Case, size: Size) -> Result<DrawCut> {
    let (min, max): (u32, u32) = (case.param("min")?, case.param("max")?);
    let side = match case.param_opt("input")? {
        Some(side) => side,
        None => case.param("size")?,
    };
    let inverse = case.param_opt("inverse")?.unwrap_or(false);
    ensure!(0 < side && side <= min && min <= max, "sides {min}..={max} for crops of {side}");
    Ok(Box::new(move |rng| {
        let short = crop::jittered_side(min, max, inverse, rng);
        let resized = crop::slowfast_short_side(size, short);
        (resized, crop::slowfast_random_crop(resized, side, rng))
    }))
}

/// Where the case lets a box lie.
fn multi_scale_places(case: &Case) -> Result<Places> {
    Ok(match (case.param_opt("fix_crop")?, case.param_opt("more_fix_crop")?) {
        (Some(false), _) => Places::Anywhere,
        (_, Some(false)) => Places::Five,
        _ => Places::Thirteen,
    })
}

fn crop_outputs(cuts: &[Cut]) -> Outcome {
    let draws = cuts.len() as f64;
    let (mut means, mut deciles) = (Vec::new(), serde_json::Map::new());
    for (index, name) in QUANTITIES.iter().enumerate() {
        let mut values: Vec<f64> = cuts.iter().map(|cut| measure(*cut)[index]).collect();
        values.sort_by(f64::total_cmp);
        means.push(values.iter().sum::<f64>() / draws);
        let decile = |k: usize| quantile(&values, k as f64 / 10.0);
        deciles.insert((*name).to_owned(), (0..=10).map(decile).collect());
    }
    let share = |is: &dyn Fn(&Cut) -> bool| {
        Value::number(cuts.iter().filter(|cut| is(cut)).count() as f64 / draws)
    };
    outputs([
        ("mean", Value::array(&[QUANTITIES.len()], means)),
        ("deciles", Value::Json(Json::Object(deciles))),
        ("probability.p_full_width", share(&|(size, r)| r.width == size.width)),
        ("probability.p_full_height", share(&|(size, r)| r.height == size.height)),
        ("probability.p_left0", share(&|(_, r)| r.x == 0)),
        ("probability.p_top0", share(&|(_, r)| r.y == 0)),
        (DRAWS, Value::number(draws)),
    ])
}

/// The quantities of [`QUANTITIES`], relative to the picture.
fn measure((size, rect): Cut) -> [f64; 6] {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    let (w, h) = (f64::from(rect.width), f64::from(rect.height));
    let (x, y) = (f64::from(rect.x), f64::from(rect.y));
    let area = w * h / (width * height);
    [area, (w / h).ln(), (x + w / 2.0) / width, (y + h / 2.0) / height, w / width, h / height]
}

/// Linear interpolation between the order statistics.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

pub(super) fn crop_candidates(case: &Case) -> Result<Outcome> {
    let size = Size::new(case.param("width")?, case.param("height")?);
    let scales: Vec<f64> = case.param("scales")?;
    let candidates = crop::multi_scale_candidates(
        size,
        Size::square(case.param("input")?),
        &scales,
        case.param("max_distort")?,
    );
    let among = match multi_scale_places(case)? {
        Places::Thirteen => 13,
        Places::Five => 5,
        Places::Anywhere => return Ok(unsupported("a box anywhere has no list of places")),
    };
    let sizes: Vec<Json> = candidates.iter().map(|(w, h)| json!([w, h])).collect();
    let with_offsets: Vec<Json> = candidates
        .iter()
        .map(|(w, h)| {
            let offsets = &crop::fixed_offsets(size, Size::new(*w, *h))[..among];
            json!({"w": w, "h": h, "offsets": offsets})
        })
        .collect();
    Ok(outputs([("sizes", Value::json(sizes)), ("sizes_and_offsets", Value::json(with_offsets))]))
}

/// Shares [`OWN_DRAWS`] samples out to the processor's threads and merges what they return.
fn over_draws<T: Send>(
    work: impl Fn(std::ops::Range<u64>) -> T + Sync,
    mut merge: impl FnMut(&mut T, T),
) -> T {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let chunk = OWN_DRAWS.div_ceil(threads);
    let range = |n: u64| (n * chunk).min(OWN_DRAWS)..((n + 1) * chunk).min(OWN_DRAWS);
    std::thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = (1..threads).map(|n| scope.spawn(move || work(range(n)))).collect();
        let mut total = work(range(0));
        for other in others {
            match other.join() {
                Ok(part) => merge(&mut total, part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        total
    })
}
