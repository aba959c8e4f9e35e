//! House rules that a machine can check.

use std::fs;
use std::path::{Path, PathBuf};

use ringway::core::audit::Action;
use ringway::core::codes::Code;
use ringway::observe::close_reason::CloseReason;
use ringway::observe::histograms::Measure;

/// A longer file has more than one purpose. Tests beside the code count.
const FILE_LINES_MAX: usize = 500;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `folders`, with its path from the root and its text.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // What a build of the fuzz crate may leave is nobody's writing.
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for folder in folders {
        walk(&root().join(folder), &mut found);
    }
    assert!(!found.is_empty());
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn unsafe_lives_in_the_ring_and_nowhere_else() {
    for (name, text) in sources(&["src", "tests", "benches", "perf"]) {
        if name.starts_with("src/gateway/relay/ring/") || name == "tests/it/tidy.rs" {
            continue;
        }
        let found = code_lines(&text).find(|line| {
            ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code"]
                .iter()
                .any(|word| line.contains(word))
        });
        assert_eq!(found, None, "in {name}");
    }
}

#[test]
fn nothing_is_left_unfinished_or_skipped_out_of_sight() {
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[ig", "nore")];
    for (name, text) in sources(&["src", "tests", "benches", "perf"]) {
        for mark in marks {
            assert!(!text.contains(mark), "{mark} in {name}");
        }
    }
}

#[test]
fn files_have_one_purpose_and_say_which() {
    for (name, text) in sources(&["src", "tests", "benches", "perf"]) {
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{name} has {lines} lines");
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//!"), "{name} begins with {first:?}, not with its purpose");
    }
}

#[test]
fn what_decides_does_no_io() {
    let io = ["std::net", "std::fs", "tokio", "Instant::now", "thread::", "std::os", "rand::"];
    for (name, text) in sources(&["src/core"]) {
        let production = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code_lines(production) {
            let uses = io.iter().find(|word| line.contains(**word));
            // Addresses are data; `UnixMillis::now` is the one clock and says so.
            let address = line.starts_with("use std::net::") && !line.contains("Tcp");
            assert!(uses.is_none() || address, "{name}: {line}");
        }
    }
}

#[test]
fn the_readme_lists_every_code_with_its_advice() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for facts in Code::ALL {
        let row = format!("| {} | `{}` |", facts.number, facts.name);
        let line = readme.lines().find(|line| line.starts_with(&row));
        let line = line.unwrap_or_else(|| panic!("README.md lacks {row}"));
        assert!(line.contains(facts.advice), "{line}");
        assert!(line.contains(&format!("| {} |", facts.http_status)), "{line}");
    }
    let rows = readme.lines().filter(|l| l.starts_with("| ") && l.contains(" | `")).count();
    let reasons = CloseReason::ALL.len();
    assert!(
        rows >= Code::ALL.len(),
        "{rows} rows for {} codes, {reasons} reasons",
        Code::ALL.len()
    );
}

#[test]
fn the_readme_lists_every_close_reason() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for (_, name, meaning) in CloseReason::ALL {
        assert!(readme.contains(&format!("| `{name}` | {meaning} |")), "{name}");
    }
}

#[test]
fn the_readme_lists_every_action_of_the_audit_trail() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for (_, name, meaning) in Action::ALL {
        assert!(readme.contains(&format!("| `{name}` | {meaning} |")), "{name}");
    }
}

#[test]
fn the_readme_lists_every_measure() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for (_, name, step, meaning) in Measure::ALL {
        assert!(readme.contains(&format!("| `{name}` | {step} | {meaning} |")), "{name}");
    }
}

#[test]
fn every_step_is_named_by_a_test() {
    let tests: String = sources(&["tests"]).into_iter().map(|(_, text)| text).collect();
    for step in 1..=12 {
        assert!(tests.contains(&format!("fn step{step:02}_")), "no test is named for step {step}");
    }
}

#[test]
fn no_path_of_one_machine_is_in_the_tree() {
    let homes = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/home", "/user")];
    for (name, text) in sources(&["src", "tests", "benches", "perf"]) {
        for home in homes {
            assert!(!text.contains(home), "{home} in {name}");
        }
    }
}
