//! `tubelet parity` on cases written here, whose results follow from the rules by hand.

use std::process::Command;

use serde_json::{Value, json};

fn case(name: &str, kind: &str, params: Value, inputs: Value, expect: Value) -> Value {
    json!({
        "name": name, "kind": kind, "method": "here", "file": "data.json",
        "at": format!("/{name}"), "params": params, "inputs": inputs, "expect": expect,
    })
}

/// One expected output of the same name.
fn exact(name: &str) -> Value {
    json!({"tensor": name, "output": name, "tolerance": {"exact": true}})
}

/// Runs the cases and says which passed, in the order of their names.
fn passes(cases: &[Value], data: &Value) -> Vec<(String, bool)> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let write = |name: &str, value: &Value| {
        std::fs::write(dir.path().join(name), value.to_string()).expect("written");
    };
    write("cases.json", &json!({"version": 1, "cases": cases}));
    write("data.json", data);
    let output = Command::new(env!("CARGO_BIN_EXE_tubelet"))
        .args(["parity", dir.path().to_str().expect("UTF-8")])
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let verdict = |case: &Value| {
        let name = case["name"].as_str().expect("a name").to_owned();
        let line = text.lines().find(|line| line.split(' ').any(|word| word == name));
        let line = line.unwrap_or_else(|| panic!("{name}: {text}"));
        (name, line.starts_with("PASS"))
    };
    cases.iter().map(verdict).collect()
}

#[test]
fn frames_follow_from_given_draws() {
    let inputs = json!({"num_frames": "n", "draws": "draws"});
    let ids = || json!([exact("frame_ids")]);
    let rule = |name: &str| json!({"rule": name, "T": 4});
    let cases = [
        case("segments", "frame_sampling", rule("finetune_segments"), inputs.clone(), ids()),
        case("short", "frame_sampling", rule("finetune_ssv2"), inputs.clone(), ids()),
        case("slowfast", "frame_sampling", rule("slowfast_segments"), inputs, ids()),
        case(
            "middles",
            "frame_sampling",
            rule("slowfast_middles"),
            json!({"num_frames": "n"}),
            ids(),
        ),
        case(
            "wrong",
            "frame_sampling",
            rule("finetune_segments"),
            json!({"num_frames": "n", "draws": "draws"}),
            ids(),
        ),
    ];
    let data = json!({
        "segments": {"n": 43, "draws": [9, 0, 3, 5], "frame_ids": [9, 10, 23, 35]},
        "short": {"n": 3, "draws": [0, 0, 0, 0], "frame_ids": [0, 0, 0, 0]},
        // Segments of 7.75 frames: 0 to 8, 8 to 16, 16 to 23, 23 to 31.
        "slowfast": {"n": 32, "draws": [8, 0, 7, 3], "frame_ids": [8, 8, 23, 26]},
        "middles": {"n": 32, "frame_ids": [4, 12, 19, 27]},
        "wrong": {"n": 43, "draws": [9, 0, 3, 10], "frame_ids": [9, 10, 23, 40]},
    });
    let passed: Vec<bool> = passes(&cases, &data).into_iter().map(|(_, passed)| passed).collect();
    assert_eq!(passed, [true, true, true, true, false]);
}

/// Four rows of one colour each, of 2x2 pixels.
fn rows(values: [f64; 4]) -> Value {
    values.iter().map(|v| json!([[[v, v], [v, v]], [[v, v], [v, v]], [[v, v], [v, v]]])).collect()
}

#[test]
fn rows_are_mixed_alone_and_in_pairs() {
    let mix = |mode: &str, lambda: Value| json!({"mode": mode, "partner": "reversed_batch", "lam": lambda});
    let expect = json!([{"tensor": "out", "output": "batch", "tolerance": {"abs": 1e-6}}]);
    let inputs = json!({"batch": "in"});
    let mut boxed = mix("elem", json!([null, 0.5, 1.0, 0.5]));
    (boxed["box_y"], boxed["box_x"]) =
        (json!([[0, 2], null, null, null]), json!([[0, 2], null, null, null]));
    let cases = [
        case("pair", "mixup", mix("pair", json!([0.25, 1.0])), inputs.clone(), expect.clone()),
        case(
            "elem",
            "mixup",
            mix("elem", json!([0.25, 1.0, 0.5, 0.0])),
            inputs.clone(),
            expect.clone(),
        ),
        case("boxed", "mixup", boxed, inputs.clone(), expect.clone()),
        case("few", "mixup", mix("elem", json!([0.25])), inputs, expect),
    ];
    let given = rows([0.0, 1.0, 2.0, 4.0]);
    let data = json!({
        "pair": {"in": given, "out": rows([3.0, 1.0, 2.0, 1.0])},
        "elem": {"in": given, "out": rows([3.0, 1.0, 1.5, 0.0])},
        "boxed": {"in": given, "out": rows([4.0, 1.5, 2.0, 2.0])},
        "few": {"in": given, "out": given},
    });
    let passed: Vec<bool> = passes(&cases, &data).into_iter().map(|(_, passed)| passed).collect();
    assert_eq!(passed, [true, true, true, false]);
}

#[test]
fn boxes_of_other_sides_and_jittered_crops_are_drawn() {
    let near = |tensor: &str, output: &str| json!({"tensor": tensor, "output": output, "tolerance": {"abs": 0.01}});
    let cuboids = json!({
        "algorithm": "cuboids", "grid": [1, 2, 2], "cuboids": 1,
        "t": [1, 1], "h": [2, 2], "w": [1, 1], "draws": 100_000,
    });
    let jitter = |min: u32| {
        json!({
            "algorithm": "short_side_jitter", "width": 300, "height": 100, "input": 50,
            "min": min, "max": 50, "draws": 100_000,
        })
    };
    let crop = json!([near("p_full_height", "probability"), near("p_top0", "probability")]);
    let cases = [
        case("cuboids", "mask_distribution", cuboids, json!({}), json!([near("p", "probability")])),
        case("jitter", "crop_distribution", jitter(50), json!({}), crop.clone()),
        case("wrong", "crop_distribution", jitter(40), json!({}), crop),
    ];
    let data = json!({
        "cuboids": {"p": [[[0.5, 0.5], [0.5, 0.5]]]},
        "jitter": {"p_full_height": 1.0, "p_top0": 1.0},
        "wrong": {"p_full_height": 1.0, "p_top0": 1.0},
    });
    let passed: Vec<bool> = passes(&cases, &data).into_iter().map(|(_, passed)| passed).collect();
    assert_eq!(passed, [true, true, false]);
}
