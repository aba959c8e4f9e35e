//! What the operator wrote, checked before anything starts.
//!
//! A file declares one or more roles, each in a table of its own name:
//! `[broker]`, `[gateway]`, `[agent]`. Unknown keys are errors. Durations and
//! sizes carry their unit in the key.

pub mod agent;
pub mod broker;
pub mod gateway;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;

/// A configuration file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub broker: Option<broker::BrokerConfig>,
    pub gateway: Option<gateway::GatewayConfig>,
    pub agent: Option<agent::AgentConfig>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}: {error}")]
    Syntax { path: PathBuf, error: Box<toml::de::Error> },
    #[error("{path} has no [{role}] table")]
    NoRole { path: PathBuf, role: &'static str },
    #[error("{path}: {key}: {problem}; {remedy}")]
    Value { path: PathBuf, key: &'static str, problem: String, remedy: &'static str },
}

/// Reads a file and checks its syntax.
///
/// # Errors
/// Names file, line and what is wrong.
pub fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Read { path: path.into(), error })?;
    toml::from_str(&text)
        .map_err(|error| ConfigError::Syntax { path: path.into(), error: Box::new(error) })
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say whether a file can be used, and where it cannot
    Check { file: PathBuf },
}

pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    let Command::Check { file } = command;
    let checked =
        read(&file).and_then(|content| content.broker.map_or(Ok(()), |broker| broker.check(&file)));
    match checked {
        Ok(()) => {
            println!("{}: ok", file.display());
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("{error}");
            Ok(ExitCode::from(3))
        }
    }
}
