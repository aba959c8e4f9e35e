//! Programs that are not ours: found, or the test says that it was skipped.

use std::path::PathBuf;
use std::process::{Command, Output};

/// The `ringway` binary under test.
pub fn ringway() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringway"))
}

/// Whether all of them are installed. If not, says which are missing; in CI,
/// where everything has to be there, that fails the test.
#[must_use]
pub fn available(names: &[&str]) -> bool {
    let missing: Vec<_> = names.iter().filter(|name| find(name).is_none()).collect();
    if missing.is_empty() {
        return true;
    }
    skip(&format!("not installed: {missing:?} (.ci/run names the packages)"));
    false
}

/// Reports why a test does not run; in CI nothing may be skipped.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot be skipped in CI: {reason}");
    eprintln!("SKIPPED: {reason}");
}

pub fn find(name: &str) -> Option<PathBuf> {
    // Daemons live in sbin, which is not in everybody's PATH.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Both streams of a finished program, for messages and checks.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
