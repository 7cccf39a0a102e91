//! Compares an output with the expected value under each form of tolerance.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail, ensure};
use serde_json::Value as Json;

use super::case::{Array, Case, Data, Expect, Row, Tie, Tolerance, Value};

/// Smallest standard deviation taken for a mean whose sample did not vary.
const LEAST_STD: f64 = 1e-6;

/// How far one output is from what is expected.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    /// Whether it is near enough.
    pub(crate) passed: bool,
    /// Largest error, in the unit of the tolerance.
    pub(crate) error: f64,
    /// The error divided by its limit: what to sort by.
    pub(crate) ratio: f64,
    /// The tolerance in words.
    pub(crate) tolerance: String,
}

/// Compares `got` with the expected value of `expect`. `draws` is the number of draws behind `got`
/// where it is a statistic.
///
/// # Errors
/// When shapes or types differ, or the tolerance cannot be applied.
pub(crate) fn check(
    case: &Case,
    row: &Row,
    expect: &Expect,
    got: &Value,
    draws: Option<f64>,
) -> Result<Check> {
    let want = row
        .expected
        .get(&expect.tensor)
        .ok_or_else(|| anyhow!("nothing expected under {}", expect.tensor))?;
    let tolerance = &expect.tolerance;
    if let Some(limit) = tolerance.standard_errors {
        let draws = draws.ok_or_else(|| anyhow!("the number of draws is not known"))?;
        return standard_errors(case, row, expect, (want, got), (limit, draws));
    }
    if let Some(limit) = tolerance.total_variation {
        return total_variation(&numbers(want)?, &numbers(got)?, limit);
    }
    if tolerance.same_support {
        return same_support(&numbers(want)?, &numbers(got)?);
    }
    match (want.numeric(), got.numeric()) {
        (Some(want), Some(got)) => compare_arrays(row, expect, &want, &got),
        _ => compare_json(expect, &want.to_json(), &got.to_json()),
    }
}

/// Compares two values that must be equal, element by element.
///
/// # Errors
/// When shapes differ.
pub(crate) fn check_exact(want: &Value, got: &Value, expect: &Expect) -> Result<Check> {
    let (want, got) = (numeric(want)?, numeric(got)?);
    ensure_same_shape(&want, &got)?;
    Ok(limited(&expect.tolerance, pairs(&want, &got)))
}

fn compare_arrays(row: &Row, expect: &Expect, want: &Array, got: &Array) -> Result<Check> {
    ensure_same_shape(want, got)?;
    let mut kept = vec![true; want.len()];
    drop_tokens(&expect.ignore_tokens, want, &mut kept)?;
    drop_items(expect.items, want, &mut kept)?;
    if let Some(tie) = &expect.tie {
        drop_ties(tie, row, want, &mut kept)?;
    }
    ensure!(kept.contains(&true) || kept.is_empty(), "nothing is left to compare");
    if let (true, Data::I64(a), Data::I64(b)) =
        (expect.tolerance.exact == Some(true), &want.data, &got.data)
    {
        let off = a.iter().zip(b).zip(&kept).filter(|((x, y), kept)| **kept && x != y);
        let error = off.map(|((x, y), _)| x.abs_diff(*y)).max().unwrap_or(0) as f64;
        return Ok(limited(&expect.tolerance, std::iter::once((0.0, error))));
    }
    let pairs = pairs(want, got).zip(kept).filter(|(_, kept)| *kept).map(|(pair, _)| pair);
    Ok(limited(&expect.tolerance, pairs))
}

/// Applies abs, rel, rel_to_max, exact and fraction to (expected, got) pairs.
fn limited(tolerance: &Tolerance, pairs: impl Iterator<Item = (f64, f64)>) -> Check {
    let pairs: Vec<_> = pairs.collect();
    let largest = pairs.iter().fold(0.0f64, |m, (want, _)| m.max(want.abs()));
    let (mut error, mut ratio, mut within) = (0.0f64, 0.0f64, 0usize);
    for &(want, got) in &pairs {
        let off = if want == got { 0.0 } else { nan_is_far((want - got).abs()) };
        let limit = limit_of(tolerance, want, largest);
        let this = if off <= limit { off / limit.max(f64::MIN_POSITIVE) } else { far(off, limit) };
        within += usize::from(off <= limit);
        error = error.max(off);
        ratio = ratio.max(this);
    }
    let fraction = tolerance.fraction.unwrap_or(1.0);
    let passed = within as f64 >= fraction * pairs.len() as f64;
    Check { passed, error, ratio, tolerance: describe(tolerance, largest) }
}

fn limit_of(tolerance: &Tolerance, want: f64, largest: f64) -> f64 {
    if tolerance.exact == Some(true) {
        return 0.0;
    }
    tolerance.abs.unwrap_or(0.0)
        + tolerance.rel.unwrap_or(0.0) * want.abs()
        + tolerance.rel_to_max.unwrap_or(0.0) * largest
}

fn describe(tolerance: &Tolerance, largest: f64) -> String {
    let mut parts = Vec::new();
    if tolerance.exact == Some(true) {
        parts.push("exact".to_owned());
    }
    if let Some(abs) = tolerance.abs {
        parts.push(format!("{abs:e}"));
    }
    if let Some(rel) = tolerance.rel {
        parts.push(format!("{rel:e} relative"));
    }
    if let Some(rel) = tolerance.rel_to_max {
        parts.push(format!("{:.2e} (of the largest)", rel * largest));
    }
    let mut text = parts.join(" + ");
    if let Some(fraction) = tolerance.fraction {
        text += &format!(" for {}%", fraction * 100.0);
    }
    text
}

fn nan_is_far(x: f64) -> f64 {
    if x.is_nan() { f64::INFINITY } else { x }
}

/// The ratio of an error beyond its limit, kept finite for a limit of zero.
fn far(off: f64, limit: f64) -> f64 {
    if limit > 0.0 { off / limit } else { 1e9 * (1.0 + off.min(1e9)) }
}

/// Standard errors of the difference of two samples; `Expect::output` says of what.
fn standard_errors(
    case: &Case,
    row: &Row,
    expect: &Expect,
    (want, got): (&Value, &Value),
    (limit, own): (f64, f64),
) -> Result<Check> {
    let (want, got) = (numeric(want)?, numeric(got)?);
    ensure_same_shape(&want, &got)?;
    let theirs: f64 = case.param("draws")?;
    let spread = match row.expected.get("std") {
        Some(std) if expect.output == "mean" => Some(numbers(std)?),
        _ => None,
    };
    let mut distances = Vec::with_capacity(want.len());
    for (i, (p, q)) in pairs(&want, &got).enumerate() {
        let variance = match &spread {
            Some(std) => std.get(i).copied().unwrap_or(0.0).max(LEAST_STD).powi(2),
            None => {
                let pooled = (p * theirs + q * own + 1.0) / (theirs + own + 2.0);
                pooled * (1.0 - pooled)
            }
        };
        let error = (variance * (1.0 / theirs + 1.0 / own)).sqrt();
        distances.push(nan_is_far((p - q).abs() / error));
    }
    let outside = distances.iter().filter(|d| **d > limit).count();
    let largest = distances.iter().fold(0.0f64, |m, d| m.max(*d));
    Ok(Check {
        passed: outside <= expect.tolerance.outliers && (outside == 0 || largest <= limit + 1.0),
        error: largest,
        ratio: largest / limit,
        tolerance: format!("{limit} standard errors"),
    })
}

fn total_variation(want: &[f64], got: &[f64], limit: f64) -> Result<Check> {
    let distance = |p: &[f64], q: &[f64]| -> f64 {
        let (sum_p, sum_q) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
        0.5 * p.iter().zip(q).map(|(a, b)| (a / sum_p - b / sum_q).abs()).sum::<f64>()
    };
    ensure!(want.len() == got.len(), "{} bins, {} expected", got.len(), want.len());
    let error = nan_is_far(distance(want, got));
    Ok(Check {
        passed: error <= limit,
        error,
        ratio: error / limit,
        tolerance: format!("total variation {limit}"),
    })
}

fn same_support(want: &[f64], got: &[f64]) -> Result<Check> {
    ensure!(want.len() == got.len(), "{} bins, {} expected", got.len(), want.len());
    let differing = want.iter().zip(got).filter(|(a, b)| (**a > 0.0) != (**b > 0.0)).count();
    Ok(Check {
        passed: differing == 0,
        error: differing as f64,
        ratio: if differing == 0 { 0.0 } else { far(differing as f64, 0.0) },
        tolerance: "same support".to_owned(),
    })
}

fn compare_json(expect: &Expect, want: &Json, got: &Json) -> Result<Check> {
    let mut pairs = Vec::new();
    walk(expect, "", want, got, &mut pairs)?;
    Ok(limited(&expect.tolerance, pairs.into_iter()))
}

/// Pairs up the numbers of two JSON values; anything else must be equal.
fn walk(
    expect: &Expect,
    place: &str,
    want: &Json,
    got: &Json,
    pairs: &mut Vec<(f64, f64)>,
) -> Result<()> {
    match (want, got) {
        (Json::Number(a), Json::Number(b)) => {
            pairs.push((a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN)));
        }
        (Json::Array(a), Json::Array(b)) => {
            ensure!(a.len() == b.len(), "{place}: {} items, {} expected", b.len(), a.len());
            let innermost = a.iter().all(Json::is_number);
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                if !innermost || expect.items.is_none_or(|[from, to]| (from..=to).contains(&i)) {
                    walk(expect, &format!("{place}/{i}"), a, b, pairs)?;
                }
            }
        }
        (Json::Object(a), Json::Object(b)) => {
            let keys = |m: &serde_json::Map<String, Json>| {
                m.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>()
            };
            ensure!(keys(a).keys().eq(keys(b).keys()), "{place}: other keys");
            for (key, value) in a {
                walk(expect, &format!("{place}/{key}"), value, &b[key], pairs)?;
            }
        }
        (a, b) if a == b => {}
        (a, b) => bail!("{place}: {b} instead of {a}"),
    }
    Ok(())
}

fn drop_tokens(tokens: &[[usize; 2]], want: &Array, kept: &mut [bool]) -> Result<()> {
    for [batch, token] in tokens {
        let [batches, length, ..] = want.shape[..] else { bail!("no token axis") };
        ensure!(*batch < batches && *token < length, "no token {batch}, {token}");
        let width = want.len() / (batches * length);
        let first = (batch * length + token) * width;
        kept[first..first + width].fill(false);
    }
    Ok(())
}

fn drop_items(items: Option<[usize; 2]>, want: &Array, kept: &mut [bool]) -> Result<()> {
    let Some([from, to]) = items else { return Ok(()) };
    let length = want.shape.last().copied().unwrap_or(1).max(1);
    ensure!(from <= to && to < length, "items {from} to {to} of {length}");
    for (i, kept) in kept.iter_mut().enumerate() {
        *kept &= (from..=to).contains(&(i % length));
    }
    Ok(())
}

fn drop_ties(tie: &Tie, row: &Row, want: &Array, kept: &mut [bool]) -> Result<()> {
    let scores = row.expected.get(&tie.tensor).ok_or_else(|| anyhow!("no {}", tie.tensor))?;
    let scores = numeric(scores)?;
    ensure!(tie.axis < scores.shape.len(), "{} has no axis {}", tie.tensor, tie.axis);
    let classes = scores.shape[tie.axis];
    let inner: usize = scores.shape[tie.axis + 1..].iter().product();
    ensure!(classes > 0 && scores.len() / classes == want.len(), "{} does not fit", tie.tensor);
    let values = scores.f64s();
    for (i, kept) in kept.iter_mut().enumerate() {
        let start = i / inner * classes * inner + i % inner;
        let (mut first, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
        for class in 0..classes {
            let value = values[start + class * inner];
            if value > first {
                (first, second) = (value, first);
            } else {
                second = second.max(value);
            }
        }
        *kept &= first - second >= tie.margin;
    }
    Ok(())
}

fn ensure_same_shape(want: &Array, got: &Array) -> Result<()> {
    ensure!(
        want.squeezed() == got.squeezed() && want.len() == got.len(),
        "shape {:?}, {:?} expected",
        got.shape,
        want.shape
    );
    Ok(())
}

fn pairs(want: &Array, got: &Array) -> impl Iterator<Item = (f64, f64)> + use<> {
    want.f64s().into_iter().zip(got.f64s())
}

fn numeric(value: &Value) -> Result<Array> {
    value.numeric().ok_or_else(|| anyhow!("not an array of numbers"))
}

fn numbers(value: &Value) -> Result<Vec<f64>> {
    Ok(numeric(value)?.f64s())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict(tolerance: &Json, extra: &Json, want: Value, got: &Value) -> Result<Check> {
        let mut expect = json!({"tensor": "x", "output": "y", "tolerance": tolerance});
        if let (Some(expect), Some(extra)) = (expect.as_object_mut(), extra.as_object()) {
            expect.extend(extra.clone());
        }
        let case: Case = serde_json::from_value(json!({
            "name": "n", "kind": "k", "method": "m", "file": "f",
            "params": {"draws": 1000}, "expect": [expect],
        }))
        .expect("a case");
        let row = Row { expected: BTreeMap::from([("x".to_owned(), want)]), ..Row::default() };
        check(&case, &row, &case.expect[0], got, Some(1000.0))
    }

    fn passed(tolerance: Json, want: &[f64], got: &[f64]) -> bool {
        let array = |v: &[f64]| Value::array(&[v.len()], v.to_vec());
        verdict(&tolerance, &json!({}), array(want), &array(got)).expect("comparable").passed
    }

    #[test]
    fn limits_hold_and_add_up() {
        assert!(passed(json!({"abs": 0.1}), &[1.0, 2.0], &[1.05, 2.0]));
        assert!(!passed(json!({"abs": 0.1}), &[1.0, 2.0], &[1.0, 2.2]));
        assert!(passed(json!({"abs": 0.1, "rel": 0.1}), &[1.0, 2.0], &[1.0, 2.25]));
        assert!(passed(json!({"rel_to_max": 0.1}), &[0.0, 10.0], &[0.9, 10.0]));
        assert!(!passed(json!({"exact": true}), &[1.0], &[1.000_000_1]));
        assert!(passed(json!({"abs": 0.1, "fraction": 0.5}), &[1.0, 1.0], &[1.0, 9.0]));
        assert!(!passed(json!({"abs": 0.1, "fraction": 0.6}), &[1.0, 1.0], &[1.0, 9.0]));
    }

    #[test]
    fn nothing_that_is_not_a_number_passes() {
        for tolerance in [json!({"abs": 1e9}), json!({"rel": 1.0}), json!({"exact": true})] {
            assert!(!passed(tolerance, &[1.0], &[f64::NAN]));
        }
        assert!(!passed(json!({"standard_errors": 4.0}), &[0.5], &[f64::NAN]));
        assert!(!passed(json!({"total_variation": 0.5}), &[1.0, 1.0], &[0.0, 0.0]));
    }

    #[test]
    fn statistics_count_both_samples() {
        // p(1-p)(1/1000 + 1/1000) = 0.0005: one standard error is 0.0224.
        assert!(passed(json!({"standard_errors": 4}), &[0.5], &[0.58]));
        assert!(!passed(json!({"standard_errors": 4}), &[0.5], &[0.6]));
        assert!(passed(json!({"standard_errors": 4, "outliers": 1}), &[0.5; 2], &[0.5, 0.6]));
        assert!(!passed(json!({"standard_errors": 4, "outliers": 1}), &[0.5; 2], &[0.6, 0.6]));
        assert!(passed(json!({"total_variation": 0.1}), &[5.0, 5.0], &[55.0, 45.0]));
        assert!(!passed(json!({"same_support": true}), &[5.0, 0.0], &[5.0, 1.0]));
    }

    #[test]
    fn shapes_must_agree_and_items_are_left_out() {
        let array = |shape: &[usize]| Value::array(shape, vec![0.0; shape.iter().product()]);
        let exact = json!({"exact": true});
        assert!(verdict(&exact, &json!({}), array(&[2, 3]), &array(&[3, 2])).is_err());
        assert!(verdict(&exact, &json!({}), array(&[1, 2, 3]), &array(&[2, 3])).is_ok());
        let lists = |last: f64| Value::json(json!({"a": [9.0, 1.0, last]}));
        let items = json!({"items": [1, 1]});
        assert!(verdict(&exact, &items, lists(2.0), &lists(3.0)).expect("comparable").passed);
        assert!(!verdict(&exact, &json!({}), lists(2.0), &lists(3.0)).expect("comparable").passed);
    }

    #[test]
    fn ignored_tokens_are_not_looked_at() {
        let want = Value::array(&[1, 2, 2], vec![1.0, 1.0, 2.0, 2.0]);
        let got = Value::array(&[1, 2, 2], vec![9.0, 9.0, 2.0, 2.0]);
        let ignore = json!({"ignore_tokens": [[0, 0]]});
        let exact = json!({"exact": true});
        assert!(verdict(&exact, &ignore, want.clone(), &got).expect("comparable").passed);
        assert!(!verdict(&exact, &json!({}), want, &got).expect("comparable").passed);
    }
}
