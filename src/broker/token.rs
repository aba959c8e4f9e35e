//! `ringway token create|list`: enrolment tokens, on the admin socket or over
//! HTTPS.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::ctl::{Reach, Remote, tables};
use crate::core::ids::PoolId;
use crate::wire::admin::{AdminRequest, AdminResponse};
use crate::wire::enroll::MachineRole;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token that enrols session hosts of a pool, or gateways
    Create(CreateArgs),
    /// Show the tokens that can still be used (not their secrets)
    List(SocketArgs),
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The pool that session hosts of this token join
    #[arg(long, required_if_eq("role", "agent"))]
    pub pool: Option<PoolId>,
    #[arg(long, value_enum, default_value = "agent")]
    pub role: MachineRole,
    /// How long it can be used, such as 30m, 1h or 2d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_ttl_ms)]
    pub ttl: u64,
    /// How many machines it enrols
    #[arg(long, default_value_t = 1)]
    pub uses: u32,
    /// DNS name or address under which gateways of this token serve, for their
    /// certificates; may be repeated
    #[arg(long, value_name = "DNS")]
    pub server_name: Vec<String>,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Debug, clap::Args)]
pub struct SocketArgs {
    /// The broker's admin socket
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
    /// The broker's configuration, to find the socket by
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub remote: Remote,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl SocketArgs {
    fn reach(&self) -> anyhow::Result<Reach> {
        let socket = match (&self.socket, &self.config) {
            (Some(socket), _) => Some(socket.clone()),
            (None, Some(config)) => {
                let file = crate::config::read(config)?;
                let broker = file.broker.ok_or_else(|| crate::config::ConfigError::NoRole {
                    path: config.clone(),
                    tables: "[broker]",
                })?;
                Some(broker.admin_socket())
            }
            (None, None) => None,
        };
        Reach::new(socket.as_deref(), &self.remote)
    }
}

/// # Errors
/// When the broker does not answer, or refuses.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    let (request, socket) = match command {
        Command::Create(CreateArgs { pool, role, ttl, uses, server_name, socket }) => {
            let server_names = server_name;
            (AdminRequest::CreateToken { role, pool, ttl_ms: ttl, uses, server_names }, socket)
        }
        Command::List(socket) => (AdminRequest::Tokens, socket),
    };
    let response = socket.reach()?.ask(&request)?;
    if socket.json {
        println!("{}", serde_json::to_string(&response)?);
    } else {
        print!("{}", tables::render(&response));
        if let AdminResponse::Token(token) = &response {
            println!(
                "\nOn the machine, within the token's lifetime:\n\n  ringway enroll --broker {} --token {} --role {role} --state-dir /var/lib/ringway/{role}",
                token.broker_url,
                token.token,
                role = token.role.as_str(),
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `90s`, `30m`, `1h`, `2d` in milliseconds.
fn parse_ttl_ms(text: &str) -> Result<u64, String> {
    let unit = text.chars().last().filter(char::is_ascii_lowercase);
    let ms = match unit {
        Some('s') => 1_000,
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => 86_400_000,
        _ => return Err("end it with s, m, h or d, such as 1h".into()),
    };
    let number = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let number: u64 = number.parse().map_err(|_| "start it with a number, such as 1h")?;
    number.checked_mul(ms).ok_or_else(|| "too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_a_number_and_a_unit() {
        assert_eq!(parse_ttl_ms("90s"), Ok(90_000));
        assert_eq!(parse_ttl_ms("1h"), Ok(3_600_000));
        assert_eq!(parse_ttl_ms("2d"), Ok(172_800_000));
        for bad in ["", "1", "h", "-1h", "1w", "1.5h", "99999999999999999999d"] {
            assert!(parse_ttl_ms(bad).is_err(), "{bad}");
        }
    }
}
