//! The gateway.

use std::path::Path;
use std::process::ExitCode;

pub mod lobby;
pub mod relay;
pub mod shared;

pub fn run(_config: &Path) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
