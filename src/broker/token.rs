//! `ringway token create|list`: enrolment tokens, on the admin socket or over
//! HTTPS.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::ctl::{Reach, Remote, tables};
use crate::cli::duration::parse_ms;
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
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_ms)]
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
