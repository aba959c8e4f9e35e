//! The broker.

use std::path::Path;
use std::process::ExitCode;

pub fn run(_config: &Path) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}

pub mod token;
