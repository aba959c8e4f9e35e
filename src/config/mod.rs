//! What the operator wrote, checked before anything starts.
//!
//! A file declares one or more roles, each in a table of its own name:
//! `[broker]`, `[gateway]`, `[agent]`. Unknown keys are errors. Durations and
//! sizes carry their unit in the key.

pub mod agent;
pub mod broker;
pub mod gateway;
pub mod state_dir;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};

/// A configuration file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub broker: Option<broker::BrokerConfig>,
    pub gateway: Option<gateway::GatewayConfig>,
    pub agent: Option<agent::AgentConfig>,
}

impl File {
    /// Checks every role in the file and says which there are.
    ///
    /// # Errors
    /// The first value that cannot work, or a file without a role.
    pub fn check(&self, path: &Path) -> Result<Vec<&'static str>, ConfigError> {
        let mut roles = Vec::new();
        if let Some(broker) = &self.broker {
            broker.check(path)?;
            roles.push("broker");
        }
        if let Some(gateway) = &self.gateway {
            gateway.check(path)?;
            roles.push("gateway");
        }
        if let Some(agent) = &self.agent {
            agent.check(path)?;
            roles.push("agent");
        }
        if roles.is_empty() {
            return Err(ConfigError::NoRole {
                path: path.into(),
                role: "broker, gateway or agent",
            });
        }
        Ok(roles)
    }
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
    Check {
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    let Command::Check { file, json } = command;
    let outcome = read(&file).and_then(|content| content.check(&file));
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
        Err(error) => {
            let key = match error {
                ConfigError::Value { key, .. } => Some(*key),
                _ => None,
            };
            json!({ "file": file, "valid": false, "key": key, "error": error.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_the_key() {
        let file = Path::new("broker.toml");
        let of = |text: &str| {
            let content: File = toml::from_str(text).unwrap();
            as_json(file, &content.check(file))
        };
        let broker = |extra: &str| {
            format!(
                "[broker]\nlisten = '[::]:1'\npublic_url = 'https://b'\nstate_dir = '/s'\n{extra}"
            )
        };
        let right = of(&broker("server_names = ['b']"));
        assert_eq!(right, json!({ "file": "broker.toml", "valid": true, "roles": ["broker"] }));
        let wrong = of(&broker(""));
        assert_eq!(
            (&wrong["valid"], &wrong["key"]),
            (&json!(false), &json!("broker.server_names"))
        );
        assert!(wrong["error"].as_str().unwrap().contains("list the host names"));
    }
}
