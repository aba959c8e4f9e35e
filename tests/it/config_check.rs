//! `ringway config check`: what people and programs are told. Every setting is
//! in `config::tests`.

use std::process::Output;

use serde_json::Value;

use crate::support::programs::{ringway, said};

const BAD: &str = "[agent]\nstate_dri = \"/s\"\n\n[agent.limits]\nreconnect_cap_ms = 1\n";

fn check(text: &str, arguments: &[&str]) -> (String, Output) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, text).unwrap();
    let output = ringway().args(["config", "check"]).arg(&file).args(arguments).output().unwrap();
    (file.display().to_string(), output)
}

#[test]
fn every_problem_is_a_line_that_an_editor_can_follow() {
    let (file, output) = check(BAD, &[]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        said(&output),
        format!(
            "{file}:1: agent.state_dir: is missing; add it; the example files show how\n\
             {file}:2: agent.state_dri: is not a setting; did you mean state_dir?\n\
             {file}:5: agent.limits.reconnect_cap_ms: is below reconnect_base_ms (200); make it \
             the larger of the two\n"
        )
    );
    let (file, output) = check("[agent]\nstate_dir = \"/s\"\n", &[]);
    assert_eq!((output.status.code(), said(&output)), (Some(0), format!("{file}: ok (agent)\n")));
}

#[test]
fn programs_get_the_same_as_json() {
    let (file, output) = check(BAD, &["--json"]);
    assert_eq!(output.status.code(), Some(3));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["valid"], false);
    let problems = told["problems"].as_array().unwrap();
    let lines: Vec<_> = problems.iter().map(|one| one["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [1, 2, 5]);
    for one in problems {
        assert_eq!(one["file"], file);
        assert!(one["key"].as_str().unwrap().starts_with("agent."));
        assert!(!one["problem"].as_str().unwrap().is_empty());
        assert!(!one["remedy"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_file_that_is_not_there_or_not_toml_is_said_to_be() {
    let output = ringway().args(["config", "check", "/nowhere/x.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("cannot read /nowhere/x.toml"), "{}", said(&output));
    let (file, output) = check("[agent\n", &[]);
    assert!(said(&output).starts_with(&format!("{file}:1: not TOML: ")), "{}", said(&output));
}
