//! `tubelet parity DIR`: runs the reference cases in `DIR` and says which outputs agree.
//!
//! The frame reads cases, inputs and expected values ([`case`]), hands each case to the runner of
//! its kind and compares what comes back ([`compare`]). A runner sees inputs and parameters only,
//! never the expected values.

mod augment;
pub(crate) mod case;
mod compare;
mod formats;
mod trainer;

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Result, anyhow};
use serde_json::json;

use case::{Case, Expect, Inputs, Row, Value};
use compare::{Check, check, check_exact};

/// What to print and which cases to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// One JSON object a case, and one for the summary.
    pub(crate) json: bool,
    /// Only cases whose name contains this text.
    pub(crate) only: Option<String>,
}

/// What a runner made of a case.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Outputs by role. Two refinements: the output after step n of a role is
    /// `role.step<n>`, and where several expected values share a role each has `role.<tensor>`.
    /// A statistic comes with the number of draws behind it under [`DRAWS`].
    Outputs(BTreeMap<String, Value>),
    /// This build cannot run the case, and why.
    Unsupported(String),
}

/// Role under which a runner tells how many draws its statistics come from.
pub(crate) const DRAWS: &str = "draws";

/// A runner: pure but for the files the case names.
pub(crate) type Runner = fn(&Case, &Inputs) -> Result<Outcome>;

/// Runs the cases in `dir` and prints a line for each to standard output. Returns whether none
/// failed.
///
/// # Errors
/// When `cases.json` cannot be used, or standard output cannot be written.
pub(crate) fn run(dir: &Path, options: &Options) -> Result<bool> {
    let cases = case::read_cases(dir)?;
    let wanted = |case: &&Case| options.only.as_ref().is_none_or(|text| case.name.contains(text));
    let mut counts = Counts::default();
    let mut out = std::io::stdout().lock();
    for case in cases.iter().filter(wanted) {
        let verdict = run_case(case);
        counts.add(&verdict);
        write_verdict(&mut out, case, &verdict, options.json)?;
    }
    counts.write(&mut out, options.json)?;
    Ok(counts.failed == 0)
}

/// The runner for a kind; `None` where this build has none.
fn runner(kind: &str) -> Option<Runner> {
    match kind {
        "hog" | "hog_picture" | "normalise" | "pixel_target" | "mask_distribution"
        | "mask_upsample" | "crop_distribution" | "crop_candidates" | "resample"
        | "frame_sampling" | "augment_op" | "randaugment_level" | "mixup" | "cutmix_box" => {
            Some(augment::run_kind)
        }
        "jpeg_decode" | "video_decode" => Some(formats::run_kind),
        "model" | "loss" | "position_embedding" | "position_resize" | "schedule" | "optimizer"
        | "layer_decay" | "ema" | "grad_clip" => Some(trainer::run_kind),
        _ => None,
    }
}

/// What became of a case.
#[derive(Debug)]
enum Verdict {
    Pass(Check),
    Fail(Option<Check>, String),
    Unsupported(String),
}

fn run_case(case: &Case) -> Verdict {
    let Some(runner) = runner(&case.kind) else {
        return Verdict::Unsupported(format!("kind {} is not covered", case.kind));
    };
    if let Err(name) = case.media() {
        return Verdict::Unsupported(format!("{name} is not there"));
    }
    let rows = match case.rows() {
        Ok(rows) => rows,
        Err(error) => return Verdict::Fail(None, format!("{error:#}")),
    };
    let mut worst: Option<Check> = None;
    for row in &rows {
        match run_row(case, row, runner) {
            Ok(Verdict::Pass(check)) => worst = worse(worst, check),
            Ok(other) => return at_row(row, other),
            Err(error) => return at_row(row, Verdict::Fail(None, format!("{error:#}"))),
        }
    }
    match worst {
        Some(check) => Verdict::Pass(check),
        None => Verdict::Fail(None, "nothing was compared".to_owned()),
    }
}

fn run_row(case: &Case, row: &Row, runner: Runner) -> Result<Verdict> {
    let result = catch_unwind(AssertUnwindSafe(|| runner(case, &row.inputs)));
    let outcome = result.map_err(|panic| anyhow!("panicked: {}", panic_text(&*panic)))??;
    let outputs = match outcome {
        Outcome::Outputs(outputs) => outputs,
        Outcome::Unsupported(why) => return Ok(Verdict::Unsupported(why)),
    };
    let mut worst: Option<Check> = None;
    for expect in &case.expect {
        let check = check_expect(case, row, expect, &outputs)
            .map_err(|e| anyhow!("{}: {e:#}", expect.tensor))?;
        if !check.passed {
            return Ok(Verdict::Fail(Some(check), expect.tensor.clone()));
        }
        worst = worse(worst, check);
    }
    worst.map(Verdict::Pass).ok_or_else(|| anyhow!("the case expects nothing"))
}

fn check_expect(
    case: &Case,
    row: &Row,
    expect: &Expect,
    outputs: &BTreeMap<String, Value>,
) -> Result<Check> {
    if expect.tensor == "*" {
        return check_all_tensors(row, expect, outputs);
    }
    let role = match expect.step {
        Some(step) => format!("{}.step{step}", expect.output),
        None => expect.output.clone(),
    };
    let got = outputs
        .get(&format!("{role}.{}", expect.tensor))
        .or_else(|| outputs.get(&role))
        .ok_or_else(|| anyhow!("no output {role}"))?;
    let draws = outputs.get(DRAWS).and_then(Value::numeric);
    let draws = draws.and_then(|d| d.f64s().first().copied());
    check(case, row, expect, got, draws)
}

fn check_all_tensors(
    row: &Row,
    expect: &Expect,
    outputs: &BTreeMap<String, Value>,
) -> Result<Check> {
    let mut worst: Option<Check> = None;
    for (name, want) in &row.all_tensors {
        let got = outputs.get(name).ok_or_else(|| anyhow!("no output {name}"))?;
        worst = worse(worst, check_exact(want, got, expect)?);
    }
    let extra = outputs.keys().find(|name| !row.all_tensors.contains_key(*name));
    match (worst, extra) {
        (_, Some(name)) => Err(anyhow!("{name} should not be there")),
        (None, None) => Err(anyhow!("the expected file holds no tensor")),
        (Some(check), None) => Ok(check),
    }
}

fn worse(worst: Option<Check>, check: Check) -> Option<Check> {
    match worst {
        Some(worst) if worst.ratio >= check.ratio => Some(worst),
        _ => Some(check),
    }
}

fn at_row(row: &Row, verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Fail(check, text) if !row.key.is_empty() => {
            Verdict::Fail(check, format!("row {}: {text}", row.key))
        }
        other => other,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "?".to_owned())
}

fn write_verdict(out: &mut impl Write, case: &Case, verdict: &Verdict, json: bool) -> Result<()> {
    let (word, check, text) = match verdict {
        Verdict::Pass(check) => ("PASS", Some(check), ""),
        Verdict::Fail(check, text) => ("FAIL", check.as_ref(), text.as_str()),
        Verdict::Unsupported(text) => ("UNSUPPORTED", None, text.as_str()),
    };
    if json {
        let object = json!({
            "result": word, "name": case.name, "kind": case.kind, "method": case.method,
            "error": check.map(|c| c.error), "tolerance": check.map(|c| &c.tolerance),
            "note": text,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    let mut line = format!("{word:<12}{:<58}", case.name);
    if let Some(check) = check {
        line +=
            &format!(" error {:<10} tolerance {}", format!("{:.3e}", check.error), check.tolerance);
    }
    if !text.is_empty() {
        line += &format!(" ({text})");
    }
    writeln!(out, "{}", line.trim_end())?;
    Ok(())
}

#[derive(Debug, Default)]
struct Counts {
    passed: usize,
    failed: usize,
    unsupported: usize,
}

impl Counts {
    fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Pass(_) => self.passed += 1,
            Verdict::Fail(..) => self.failed += 1,
            Verdict::Unsupported(_) => self.unsupported += 1,
        }
    }

    fn write(&self, out: &mut impl Write, json: bool) -> Result<()> {
        let Self { passed, failed, unsupported } = self;
        if json {
            let object = json!({"passed": passed, "failed": failed, "unsupported": unsupported});
            writeln!(out, "{object}")?;
        } else {
            writeln!(out, "{passed} passed, {failed} failed, {unsupported} unsupported")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(expect: serde_json::Value) -> Case {
        serde_json::from_value(json!({
            "name": "n", "kind": "k", "method": "m", "file": "f", "expect": expect,
        }))
        .expect("a case")
    }

    fn row() -> Row {
        let expected = BTreeMap::from([("x".to_owned(), Value::number(1.0))]);
        Row { expected, ..Row::default() }
    }

    fn nothing(_: &Case, _: &Inputs) -> Result<Outcome> {
        Ok(Outcome::Outputs(BTreeMap::new()))
    }

    fn panics(_: &Case, _: &Inputs) -> Result<Outcome> {
        Err(anyhow!("{}", [0u8; 0][std::hint::black_box(1)]))
    }

    #[test]
    fn a_missing_output_or_expectation_is_an_error() {
        let one = json!([{"tensor": "x", "output": "y", "tolerance": {"exact": true}}]);
        assert!(run_row(&case(one), &row(), nothing).is_err());
        assert!(run_row(&case(json!([])), &row(), nothing).is_err());
    }

    #[test]
    fn a_panic_fails_one_case_only() {
        let error = run_row(&case(json!([])), &row(), panics).expect_err("it panics");
        assert!(error.to_string().starts_with("panicked"), "{error}");
    }

    #[test]
    fn a_missing_folder_is_a_clear_error() {
        let error = run(Path::new("/no/such/folder"), &Options::default()).expect_err("no folder");
        assert!(error.to_string().contains("cases.json"), "{error}");
    }
}
