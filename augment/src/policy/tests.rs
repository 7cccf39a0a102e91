//! What holds for every family.

mod statistics;

use proptest::prelude::*;
use tubelet_core::{Draw, Mask, PatchGrid, PatchSize, SampleRng};

use super::MaskPolicy;
use crate::mask::MaskFile;

const PATCH: PatchSize = PatchSize { t: 2, h: 16, w: 16 };

/// Every family at its published setting, on the 8x14x14 grid of a video transformer.
const PUBLISHED: &[&str] = &[
    r#"policy = "random"
ratio = 0.9"#,
    r#"policy = "random"
ratio = 0.9
count = "masked-floor""#,
    r#"policy = "tube"
ratio = 0.9"#,
    r#"policy = "frame"
ratio = 0.4"#,
    r#"policy = "grid"
unit = 32
ratio = 0.6"#,
    r#"policy = "block"
ratio = 0.4"#,
    r#"policy = "block"
count = 75
min = 16"#,
    r#"policy = "block"
ratio = 0.4
unit = 32"#,
    r#"policy = "block-exact"
ratio = 0.75
blocks = 120"#,
    r#"policy = "ibot"
ratio = [0.0, 0.3]
variance = [0.0, 0.2]"#,
    r#"policy = "ibot"
ratio = [0.3]
variance = [0.2]
shape = "random""#,
    r#"policy = "cube"
ratio = 0.4"#,
    r#"policy = "multi-fold"
ratio = 0.75
folds = 3"#,
    r#"policy = "halves""#,
    r#"policy = "multi-block"
groups = [{ blocks = 8, scale = [0.15, 0.15] }, { blocks = 2, scale = [0.7, 0.7] }]"#,
    r#"policy = "running-cell"
ratio = 0.9"#,
    r#"policy = "drop-token""#,
    r#"policy = "mvm""#,
];

fn file(text: &str) -> MaskFile {
    toml::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn policy(text: &str, grid: PatchGrid) -> MaskPolicy {
    MaskPolicy::resolve(&file(text), grid, PATCH).unwrap_or_else(|e| panic!("{text}: {e:?}"))
}

fn draw(policy: &MaskPolicy, grid: PatchGrid, seed: u64, sample: u64) -> Mask {
    let mut rng = SampleRng::new(seed, 0, sample, 0, Draw::Mask);
    policy.draw(grid, &mut rng).expect("it masks")
}

const VIDEO: PatchGrid = PatchGrid::new(8, 14, 14);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn counts_indices_passes_and_keys(which in 0..PUBLISHED.len(), seed: u64, sample in 0u64..1 << 40) {
        let policy = policy(PUBLISHED[which], VIDEO);
        let mask = draw(&policy, VIDEO, seed, sample);
        prop_assert_eq!(&mask, &draw(&policy, VIDEO, seed, sample));
        let most = policy.most_masked(VIDEO);
        if policy.is_exact() {
            prop_assert_eq!(mask.masked_count(), most);
        } else {
            prop_assert!(mask.masked_count() <= most);
        }
        let (masked, visible): (Vec<u32>, Vec<u32>) = (mask.masked().collect(), mask.visible().collect());
        prop_assert!(masked.is_sorted_by(|a, b| a < b) && visible.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(masked.len() + visible.len(), VIDEO.len());
        prop_assert_eq!(mask.passes().len(), policy.passes());
    }
}

#[test]
fn published_counts() {
    let exact = |text: &str, grid| {
        let policy = policy(text, grid);
        assert!(policy.is_exact(), "{text}");
        policy.most_masked(grid)
    };
    let image = PatchGrid::new(1, 14, 14);
    assert_eq!(exact("policy = \"random\"\nratio = 0.75", image), 147);
    assert_eq!(exact("policy = \"random\"\nratio = 0.9", VIDEO), 1412);
    assert_eq!(exact("policy = \"random\"\nratio = 0.9\ncount = \"masked-floor\"", VIDEO), 1411);
    assert_eq!(exact("policy = \"tube\"\nratio = 0.9", VIDEO), 1408);
    assert_eq!(exact("policy = \"tube\"\nratio = 0.75", VIDEO), 147 * 8);
    // 8 · 0.4 = 3.2 slots.
    assert_eq!(exact("policy = \"frame\"\nratio = 0.4", VIDEO), 3 * 196);
    assert_eq!(exact("policy = \"frame\"\nratio = 0.45\ncount = \"masked-floor\"", VIDEO), 3 * 196);
    // SimMIM hides 30 of 49 units; ConvNeXt V2 keeps 19 of them.
    assert_eq!(exact("policy = \"grid\"\nunit = 32\nratio = 0.6", image), 30 * 4);
    let fcmae = "policy = \"grid\"\nunit = 32\nratio = 0.6\ncount = \"keep-floor\"";
    assert_eq!(exact(fcmae, image), 30 * 4);
    assert_eq!(exact("policy = \"block-exact\"\nratio = 0.75\nblocks = 120", image), 147);
    assert_eq!(exact("policy = \"multi-fold\"\nratio = 0.75\nfolds = 3", image), 147);
    assert_eq!(exact("policy = \"drop-token\"", VIDEO), 784);
}

#[test]
fn units_share_a_fate_and_tubes_last() {
    for text in ["policy = \"grid\"\nunit = 32\nratio = 0.6", "policy = \"cube\"\nratio = 0.4"] {
        let mask = draw(&policy(text, VIDEO), VIDEO, 5, 1);
        let at = |t: usize, y: usize, x: usize| mask.as_slice()[(t * 14 + y) * 14 + x];
        for (t, y, x) in
            (0..8).flat_map(|t| (0..14).flat_map(move |y| (0..14).map(move |x| (t, y, x))))
        {
            assert_eq!(at(t, y, x), at(t, y & !1, x & !1), "{text}");
        }
    }
    for text in ["policy = \"tube\"\nratio = 0.9", "policy = \"block\"\nratio = 0.4\nunit = 32"] {
        let mask = draw(&policy(text, VIDEO), VIDEO, 5, 1);
        assert!(mask.as_slice().chunks(196).all(|slot| slot == &mask.as_slice()[..196]), "{text}");
    }
}

/// MViT's tokens of 4 pixels, masked in units of 32.
#[test]
fn cubes_lie_on_any_token_grid() {
    let (grid, patch) = (PatchGrid::new(8, 56, 56), PatchSize { t: 2, h: 4, w: 4 });
    let cube = file("policy = \"cube\"\nratio = 0.4");
    let coarse = policy("policy = \"cube\"\nratio = 0.4", VIDEO);
    let fine = MaskPolicy::resolve(&cube, grid, patch).expect("32 = 8 tokens of 4");
    let (coarse, fine) = (draw(&coarse, VIDEO, 1, 2), draw(&fine, grid, 1, 2));
    assert_eq!(crate::mask::nearest(&coarse, grid), fine);
}

/// Masks of neighbouring samples, of other purposes and of other seeds do not go together: the
/// correlation of single tokens over many samples stays within five standard errors of 0.
#[test]
fn draws_are_independent() {
    let grid = PatchGrid::new(1, 14, 14);
    let policy = policy("policy = \"random\"\nratio = 0.5", grid);
    let streams = [
        (0, 0, Draw::Mask),
        (0, 0, Draw::Crop),
        (0, 0, Draw::Flip),
        (0, 0, Draw::Mix),
        (0, 1, Draw::Mask),
        (1, 0, Draw::Mask),
    ];
    let samples = 400u64;
    let drawn = streams.map(|(seed, repeat, purpose)| {
        let one = |n| policy.draw(grid, &mut SampleRng::new(seed, 0, n, repeat, purpose));
        (0..samples).flat_map(|n| one(n).expect("masks").as_slice().to_vec()).collect::<Vec<bool>>()
    });
    let n = (samples * 196) as f64;
    for a in 0..drawn.len() {
        for b in a + 1..drawn.len() {
            let agree = drawn[a].iter().zip(&drawn[b]).filter(|(a, b)| a == b).count() as f64;
            let correlation = 2.0 * agree / n - 1.0;
            assert!(correlation.abs() < 5.0 / n.sqrt(), "{a} {b}: {correlation}");
        }
    }
    let shifted = drawn[0].iter().zip(&drawn[0][196..]).filter(|(a, b)| a == b).count() as f64;
    let correlation = 2.0 * shifted / (n - 196.0) - 1.0;
    assert!(correlation.abs() < 5.0 / n.sqrt(), "next sample: {correlation}");
}

/// Over many draws the families without a preferred place hide every token alike often.
#[test]
fn no_token_is_preferred() {
    let texts =
        [PUBLISHED[0], PUBLISHED[2], PUBLISHED[3], PUBLISHED[4], PUBLISHED[12], PUBLISHED[13]];
    let grid = PatchGrid::new(4, 4, 4);
    for text in texts {
        let policy = policy(text, grid);
        let share = policy.most_masked(grid) as f64 / grid.len() as f64;
        let mut hits = vec![0.0; grid.len()];
        let draws = 4000u64;
        for n in 0..draws {
            draw(&policy, grid, 11, n).masked().for_each(|t| hits[t as usize] += 1.0);
        }
        let sigma = (draws as f64 * share * (1.0 - share)).sqrt();
        let off = hits.iter().map(|h| (h - share * draws as f64).abs()).fold(0.0, f64::max);
        assert!(off < 5.0 * sigma, "{text}: {off} of {sigma}");
    }
}

/// The place of a running cell's pattern is uniform, and independent of the encoder's tube.
#[test]
fn running_cells_start_anywhere() {
    let grid = PatchGrid::new(2, 4, 4);
    let policy = policy("policy = \"running-cell\"\nratio = 0.5", grid);
    let draws = 100_000u64;
    let (mut left_out, mut both) = (0.0, 0.0);
    for n in 0..draws {
        let mask = draw(&policy, grid, 22, n);
        left_out += f64::from(u8::from(mask.passes()[0][5]));
        both += f64::from(u8::from(mask.passes()[0][5] && mask.as_slice()[5]));
    }
    let near = |count: f64, p: f64| {
        (count - draws as f64 * p).abs() < 4.0 * (draws as f64 * p * (1.0 - p)).sqrt()
    };
    assert!(near(left_out, 0.5) && near(both, 0.25), "{left_out} {both}");
}

#[test]
fn what_cannot_work_is_named() {
    let image = PatchGrid::new(1, 14, 14);
    let cases = [
        ("policy = \"random\"\nratio = 1.0", image, "ratio", "between 0 and 1"),
        ("policy = \"tube\"\nratio = nan", image, "ratio", "between 0 and 1"),
        ("policy = \"tube\"\nratio = 0.001", image, "ratio", "at least 1 must be hidden"),
        ("policy = \"frame\"\nratio = 0.5", image, "ratio", "at least 1 must be hidden"),
        ("policy = \"grid\"\nunit = 24\nratio = 0.5", image, "unit", "[16, 32, 112, 224]"),
        ("policy = \"block\"\nratio = 0.4\ncount = 9", image, "ratio", "either ratio or count"),
        ("policy = \"block\"", image, "ratio", "either ratio or count"),
        ("policy = \"block\"\ncount = 196", image, "count", "1 to 195"),
        ("policy = \"block\"\nratio = 0.4\nmin = 50\nmax = 20", image, "max", "min = 50"),
        ("policy = \"block\"\nratio = 0.4\naspect = [2.0, 1.0]", image, "aspect", "smallest"),
        ("policy = \"block\"\nratio = 0.4\ntries = 0", image, "tries", "1 to 10000"),
        ("policy = \"block\"\nratio = 0.4\ntries = 4000000000", image, "tries", "1 to 10000"),
        ("policy = \"block\"\ncount = 3\nmin = 3", PatchGrid::new(1, 2, 2), "min", "grid 1x2x2"),
        ("policy = \"block-exact\"\nratio = 0.5\nblocks = 120", image, "blocks", "98 hidden"),
        (
            "policy = \"block-exact\"\nratio = 0.8\nblocks = 6",
            PatchGrid::new(1, 3, 3),
            "max",
            "min = 16",
        ),
        ("policy = \"ibot\"\nratio = [0.3]\nvariance = []", image, "variance", "each of the 1"),
        ("policy = \"ibot\"\nratio = [0.1]\nvariance = [0.2]", image, "ratio", "at least 0"),
        ("policy = \"ibot\"\nratio = [0.0]\nvariance = [0.0]", image, "ratio", "above 0"),
        ("policy = \"cube\"\nratio = 0.4\nunit = 48", VIDEO, "unit", "one of"),
        ("policy = \"cube\"\nratio = 0.4\nunit = 224", VIDEO, "min", "strictly inside"),
        ("policy = \"multi-fold\"\nratio = 0.75\nfolds = 4", image, "folds", "[1, 3, 7]"),
        ("policy = \"halves\"", PatchGrid::new(1, 1, 1), "policy", "no two tokens"),
        ("policy = \"multi-block\"\ngroups = []", VIDEO, "groups", "1 to 8"),
        (
            "policy = \"multi-block\"\ngroups = [{ blocks = 2, scale = [1.0, 1.0], aspect = [1.0, 1.0] }]",
            VIDEO,
            "groups.scale",
            "covers all",
        ),
        (
            "policy = \"multi-block\"\ngroups = [{ blocks = 2, scale = [0.001, 0.1] }]",
            VIDEO,
            "groups.scale",
            "less than one token",
        ),
        (
            "policy = \"multi-block\"\ngroups = [{ blocks = 60, scale = [0.7, 0.7] }]",
            VIDEO,
            "groups.blocks",
            "fewer or smaller",
        ),
        (
            "policy = \"multi-block\"\ngroups = [{ blocks = 200000000, scale = [0.15, 0.15] }]",
            VIDEO,
            "groups.blocks",
            "1 to the 1568 tokens",
        ),
        ("policy = \"running-cell\"\nratio = 0.9\ndecoder = 0.2", VIDEO, "decoder", "0.25"),
        ("policy = \"running-cell\"\nratio = 0.9\ndecoder = 0.6", VIDEO, "decoder", "0.25, 0.5"),
        ("policy = \"running-cell\"\nratio = 0.9", PatchGrid::new(8, 7, 7), "policy", "2x2"),
        ("policy = \"drop-token\"\nkeep = 0.001", image, "keep", "no token"),
        ("policy = \"mvm\"\nmodes = [\"attended\"]", VIDEO, "modes", "scores"),
        ("policy = \"mvm\"\nmodes = []", VIDEO, "modes", "at least one"),
    ];
    for (text, grid, key, valid) in cases {
        match MaskPolicy::resolve(&file(text), grid, PATCH) {
            Ok(policy) => panic!("{text} gave {policy:?}"),
            Err(problem) => {
                assert_eq!(problem.key, key, "{text}: {problem:?}");
                assert!(problem.valid.contains(valid), "{text}: {problem:?}");
            }
        }
    }
    assert!(toml::from_str::<MaskFile>("policy = \"tubes\"\nratio = 0.9").is_err());
    assert!(toml::from_str::<MaskFile>("policy = \"tube\"\nratio = 0.9\nratios = 1").is_err());
}

#[test]
fn nothing_is_hidden_before_the_first_epoch_that_masks() {
    let text = "policy = \"ibot\"\nratio = [0.3]\nvariance = [0.0]\npred_start_epoch = 50";
    let grid = PatchGrid::new(1, 14, 14);
    let policy = MaskPolicy::resolve(&file(text), grid, PATCH).expect("valid");
    let hidden = |epoch| {
        let mut rng = SampleRng::new(1, epoch, 7, 0, Draw::Mask);
        policy.draw_in(epoch, grid, &mut rng).expect("a mask").masked_count()
    };
    assert_eq!((hidden(0), hidden(49)), (0, 0));
    assert!(hidden(50) > 0 && hidden(800) > 0);
}
