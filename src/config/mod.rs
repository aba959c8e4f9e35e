//! What the operator wrote, checked before anything starts.
//!
//! A file declares one or more roles, each in a table of its own name:
//! `[broker]`, `[gateway]`, `[agent]`. Unknown keys are errors. Durations and
//! sizes carry their unit in the key. All problems of a file are told at once,
//! each with its line and a remedy.

pub mod admin;
pub mod agent;
pub mod broker;
mod certificates;
pub mod current;
mod document;
pub mod findings;
pub mod gateway;
pub mod log;
mod reader;
pub mod reload;
mod shape;
pub mod state_dir;
pub mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};

pub use self::findings::{Findings, Problem};

/// A configuration file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(default)]
    pub log: log::LogConfig,
    pub broker: Option<broker::BrokerConfig>,
    pub gateway: Option<gateway::GatewayConfig>,
    pub agent: Option<agent::AgentConfig>,
}

impl File {
    /// Checks what the syntax cannot say, in every role of the file.
    fn check(&self, found: &mut Findings) {
        self.log.check(found);
        if let Some(broker) = &self.broker {
            broker.check(found);
        }
        if let Some(gateway) = &self.gateway {
            gateway.check(found);
        }
        if let Some(agent) = &self.agent {
            agent.check(found);
        }
    }

    fn roles(&self) -> Vec<&'static str> {
        let roles = [
            ("broker", self.broker.is_some()),
            ("gateway", self.gateway.is_some()),
            ("agent", self.agent.is_some()),
        ];
        roles.into_iter().filter(|(_, declared)| *declared).map(|(role, _)| role).collect()
    }
}

/// A file that can be used.
#[derive(Debug)]
pub struct Loaded {
    pub file: File,
    written: document::Node,
}

impl Loaded {
    /// Every setting that was written, by key, to compare with another file's.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, String> {
        self.written.settings()
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {error}; check its name and who may read it")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{}", lines(.0))]
    Problems(Vec<Problem>),
    #[error("{path} has no {tables} table; add it, or name another file")]
    NoRole { path: PathBuf, tables: &'static str },
}

impl ConfigError {
    /// One by one, for programs.
    #[must_use]
    pub fn problems(&self, file: &Path) -> Vec<Problem> {
        let of_the_file = |problem: String, remedy: &str| Problem {
            file: file.into(),
            line: None,
            key: None,
            problem,
            remedy: remedy.into(),
        };
        match self {
            Self::Problems(problems) => problems.clone(),
            Self::Read { error, .. } => vec![of_the_file(
                format!("cannot be read: {error}"),
                "check its name and who may read it",
            )],
            Self::NoRole { tables, .. } => {
                vec![of_the_file(format!("has no {tables} table"), "add it, or name another file")]
            }
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Reads a file and checks everything in it.
///
/// # Errors
/// All its problems: file, line, key, what is wrong, what to do.
pub fn read(path: &Path) -> Result<File, ConfigError> {
    load(path).map(|loaded| loaded.file)
}

/// The same, for who will want to know what changed.
///
/// # Errors
/// As [`read`].
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Read { path: path.into(), error })?;
    of_text(path, &text)
}

fn of_text(path: &Path, text: &str) -> Result<Loaded, ConfigError> {
    let written = document::parse(text).map_err(|errors| {
        let problems = errors.into_iter().map(|error| Problem {
            file: path.into(),
            line: Some(error.line),
            key: None,
            problem: format!("not TOML: {}", error.message),
            remedy: "correct the line; https://toml.io has the format".into(),
        });
        ConfigError::Problems(problems.collect())
    })?;
    let mut found = Findings::default();
    let file: Option<File> = shape::read(&written, &mut found);
    if let Some(file) = &file {
        file.check(&mut found);
    }
    match file {
        Some(file) if found.is_empty() && file.roles().is_empty() => {
            Err(ConfigError::NoRole { path: path.into(), tables: "[broker], [gateway] or [agent]" })
        }
        Some(file) if found.is_empty() => Ok(Loaded { file, written }),
        _ => Err(ConfigError::Problems(found.locate(path, &written))),
    }
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say whether a file can be used, and where it cannot
    Check {
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    let Command::Check { file, json } = command;
    let outcome = read(&file).map(|content| content.roles());
    if json {
        println!("{}", as_json(&file, &outcome));
        return Ok(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(3) });
    }
    match outcome {
        Ok(roles) => {
            println!("{}: ok ({})", file.display(), roles.join(", "));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("{error}");
            Ok(ExitCode::from(3))
        }
    }
}

fn as_json(file: &Path, outcome: &Result<Vec<&'static str>, ConfigError>) -> Value {
    match outcome {
        Ok(roles) => json!({ "file": file, "valid": true, "roles": roles }),
        Err(error) => json!({ "file": file, "valid": false, "problems": error.problems(file) }),
    }
}
