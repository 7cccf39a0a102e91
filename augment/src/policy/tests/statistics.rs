//! Statistics of 100,000 draws beside what the rules say of them: within four standard errors.

use super::*;

const DRAWS: u64 = 100_000;

/// Sums over many draws of one pass of a mask.
struct Sums {
    /// How often each token is hidden, and how often together with token 0.
    tokens: Vec<[u64; 2]>,
    /// How often each number of tokens is hidden.
    counts: Vec<u64>,
}

impl Sums {
    fn new(tokens: usize) -> Self {
        Self { tokens: vec![[0; 2]; tokens], counts: vec![0; tokens + 1] }
    }

    fn add(&mut self, hidden: &[bool]) {
        for (sums, is) in self.tokens.iter_mut().zip(hidden) {
            sums[0] += u64::from(*is);
            sums[1] += u64::from(*is && hidden[0]);
        }
        self.counts[hidden.iter().filter(|is| **is).count()] += 1;
    }

    /// All numbers, for one comparison after the other.
    fn all(&self) -> impl Iterator<Item = u64> {
        self.tokens.iter().flatten().chain(&self.counts).copied()
    }
}

/// The first pass and the further ones of `policy` over [`DRAWS`] samples.
fn drawn(policy: &MaskPolicy, grid: PatchGrid, seed: u64) -> Vec<Sums> {
    let mut sums: Vec<Sums> = (0..=policy.passes()).map(|_| Sums::new(grid.len())).collect();
    for sample in 0..DRAWS {
        let mask = draw(policy, grid, seed, sample);
        let others = mask.passes().iter().map(AsRef::as_ref);
        let passes = [mask.as_slice()].into_iter().chain(others);
        sums.iter_mut().zip(passes).for_each(|(sums, pass)| sums.add(pass));
    }
    sums
}

/// Whether an event of probability `p` may have happened `count` times.
fn near(count: u64, p: f64) -> bool {
    let draws = DRAWS as f64;
    (count as f64 - draws * p).abs() <= 4.0 * (draws * p * (1.0 - p)).sqrt()
}

/// Tokens hidden in pairs without preference: of `all` things, `hidden(k)` of which are hidden with
/// probability `share(k)`, the n-th token being of thing `thing(n)`.
fn are_without_preference(
    text: &str,
    sums: &Sums,
    (all, counts): (usize, &[(usize, f64)]),
    thing: impl Fn(usize) -> usize,
) {
    let mean = |of: &dyn Fn(f64) -> f64| counts.iter().map(|(k, p)| of(*k as f64) * p).sum::<f64>();
    let all_f = all as f64;
    let one = mean(&|k| k / all_f);
    let two = mean(&|k| k * (k - 1.0) / (all_f * (all_f - 1.0)));
    for (token, [alone, paired]) in sums.tokens.iter().enumerate() {
        assert!(near(*alone, one), "{text}: token {token} hidden {alone} times, not {one}");
        let both = if thing(token) == thing(0) { one } else { two };
        assert!(near(*paired, both), "{text}: 0 and {token} {paired} times, not {both}");
    }
    let each = sums.tokens.len() / all;
    for (tokens, drawn) in sums.counts.iter().enumerate() {
        let expected = counts.iter().filter(|(k, _)| k * each == tokens).map(|(_, p)| p).sum();
        assert!(near(*drawn, expected), "{text}: {tokens} hidden {drawn} times, not {expected}");
    }
}

/// Families that hide a fixed number of single tokens, in every pass.
#[test]
fn probabilities_of_single_tokens_are_those_of_the_rules() {
    let grid = PatchGrid::new(1, 4, 4);
    let families: [(&str, &[usize]); 4] = [
        ("policy = \"multi-fold\"\nratio = 0.75\nfolds = 3", &[12, 12, 12, 12]),
        ("policy = \"halves\"", &[8, 8]),
        ("policy = \"drop-token\"", &[8]),
        ("policy = \"random\"\nratio = 0.6\ncount = \"masked-ceil\"", &[10]),
    ];
    for (text, hidden) in families {
        let passes = drawn(&policy(text, grid), grid, 21);
        assert_eq!(passes.len(), hidden.len(), "{text}");
        for (sums, hidden) in passes.iter().zip(hidden) {
            are_without_preference(text, sums, (16, &[(*hidden, 1.0)]), |token| token);
        }
    }
}

/// MaskFeat hides 3 of 8 time slots at 0.4; all tokens of a slot go together.
#[test]
fn probabilities_of_slots_are_those_of_the_rule() {
    let grid = PatchGrid::new(8, 2, 2);
    let text = "policy = \"frame\"\nratio = 0.4";
    let sums = drawn(&policy(text, grid), grid, 23);
    are_without_preference(text, &sums[0], (8, &[(3, 1.0)]), |token| token / 4);
}

/// SimMIM hides ceil(0.6 · 16) = 10 of 16 units; the four tokens of a unit go together.
#[test]
fn probabilities_of_units_are_those_of_the_rule() {
    let grid = PatchGrid::new(1, 8, 8);
    let text = "policy = \"grid\"\nunit = 32\nratio = 0.6";
    let sums = drawn(&policy(text, grid), grid, 24);
    let unit = |token: usize| token / 16 * 4 + token % 8 / 2;
    are_without_preference(text, &sums[0], (16, &[(10, 1.0)]), unit);
}

/// iBOT's single tokens: none in half of the crops, else the floor of U(0.1, 0.5) · 16 = U(1.6, 8).
#[test]
fn probabilities_of_ibots_tokens_are_those_of_the_rule() {
    let grid = PatchGrid::new(1, 4, 4);
    let text = "policy = \"ibot\"\nratio = [0.0, 0.3]\nvariance = [0.0, 0.2]\nshape = \"random\"";
    let sums = drawn(&policy(text, grid), grid, 25);
    let mut counts = vec![(0, 0.5), (1, 0.5 * 0.4 / 6.4)];
    counts.extend((2..8).map(|count| (count, 0.5 / 6.4)));
    are_without_preference(text, &sums[0], (16, &counts), |token| token);
}

/// V-JEPA's blocks beside the rule written down once more, cell by cell and with other random
/// numbers.
#[test]
fn probabilities_of_multi_block_are_those_of_the_rule() {
    let grid = PatchGrid::new(4, 6, 5);
    let text = "policy = \"multi-block\"\ngroups = [
        { blocks = 4, scale = [0.15, 0.15] },
        { blocks = 2, scale = [0.2, 0.7], time = [0.3, 0.9], aspect = [0.5, 2.0], context = 0.75 }]";
    let ours = drawn(&policy(text, grid), grid, 26);
    let mut numbers = SplitMix(7);
    let groups =
        [(4, [0.15, 0.15], [1.0, 1.0], [0.75, 1.5], 4), (2, [0.2, 0.7], [0.3, 0.9], [0.5, 2.0], 3)];
    for ((group, ours), number) in groups.into_iter().zip(&ours).zip(1..) {
        let mut plain = Sums::new(grid.len());
        for _ in 0..DRAWS {
            plain.add(&plain_blocks(grid, group, &mut numbers));
        }
        for (n, (a, b)) in ours.all().zip(plain.all()).enumerate() {
            let p = (a + b) as f64 / (2.0 * DRAWS as f64);
            let sigma = (2.0 * DRAWS as f64 * p * (1.0 - p)).sqrt();
            assert!(a.abs_diff(b) as f64 <= 4.0 * sigma, "mask {number}, number {n}: {a} {b}");
        }
    }
}

/// Number of blocks, shares of the plane and of the time, aspects, slots that may be seen.
type Group = (u32, [f64; 2], [f64; 2], [f64; 2], u32);

/// One mask: cells of blocks of one size, drawn again until anything is left to see.
fn plain_blocks(
    grid: PatchGrid,
    (blocks, scale, time, aspect, seen): Group,
    numbers: &mut SplitMix,
) -> Vec<bool> {
    loop {
        let mut between = |[low, high]: [f64; 2]| low + (high - low) * numbers.unit();
        let long = ((f64::from(grid.t) * between(time)).floor() as u32).max(1);
        let (area, aspect) =
            ((f64::from(grid.h * grid.w) * between(scale)).floor(), between(aspect));
        let high = ((area * aspect).sqrt().round() as u32).min(grid.h);
        let wide = ((area / aspect).sqrt().round() as u32).min(grid.w);
        let corners: Vec<[u32; 3]> = (0..blocks)
            .map(|_| [(grid.t, long), (grid.h, high), (grid.w, wide)])
            .map(|sides| sides.map(|(whole, side)| numbers.below(whole - side + 1)))
            .collect();
        let inside = |cell: [u32; 3], corner: &[u32; 3]| {
            (0..3).all(|n| (corner[n]..corner[n] + [long, high, wide][n]).contains(&cell[n]))
        };
        let cells = (0..grid.len() as u32).map(|n| {
            let cell = [n / (grid.h * grid.w), n / grid.w % grid.h, n % grid.w];
            cell[0] >= seen || corners.iter().any(|corner| inside(cell, corner))
        });
        let hidden: Vec<bool> = cells.collect();
        if hidden.contains(&false) {
            return hidden;
        }
    }
}

/// SplitMix64.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: u32) -> u32 {
        (self.unit() * f64::from(n)) as u32
    }
}
