//! `ringway ctl`: asks a broker or gateway, on its admin socket or over HTTPS,
//! and prints the answer as a table, or as JSON with `--json`.

pub(crate) mod histograms;
pub(crate) mod reach;
pub(crate) mod tables;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::core::ids::{HostId, SessionId};
use crate::wire::admin::{AdminRequest, BrokerRequest};
use crate::wire::enroll::MachineRole;

pub use reach::{Reach, Remote, ask};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The admin socket of a broker or gateway; `histograms` takes several
    /// [default: the packaged broker's, or the gateway's where there is no
    /// broker]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Vec<PathBuf>,
    #[command(flatten)]
    pub remote: Remote,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub ask: Ask,
}

#[derive(Debug, clap::Subcommand)]
pub enum Ask {
    /// What runs here, how much of it, and with which configuration
    Status,
    /// Session hosts, their pools and sessions
    Hosts,
    /// Gateways and their load
    Gateways,
    /// Sessions that hold a place
    Sessions,
    /// Why a session is where it is (also a while after its end)
    Explain { session: SessionId },
    /// Enrolment tokens that can still be used (not their secrets)
    Tokens,
    /// What gateways measured: percentiles of every step and of the latency
    /// that the relay adds, since their start
    Histograms {
        /// Logs (.hlog) to merge in; without --socket, only these
        #[arg(value_name = "FILE.hlog")]
        logs: Vec<PathBuf>,
    },
    /// Take a machine's right to connect away and close its channel; sessions
    /// that run go on
    Revoke {
        role: MachineRole,
        name: String,
        /// Let a machine enrol under that name again
        #[arg(long)]
        undo: bool,
    },
    /// Take no new users on a session host
    Drain {
        host: HostId,
        /// Take new users again
        #[arg(long)]
        undo: bool,
    },
}

/// # Errors
/// When nobody answers, or the answer is no.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let request: BrokerRequest = match args.ask {
        Ask::Histograms { logs } => {
            anyhow::ensure!(args.remote.url.is_none(), "gateways have histograms: use --socket");
            return histograms::run(&args.socket, &logs, args.json);
        }
        Ask::Revoke { role, name, undo } => BrokerRequest::Revoke { role, name, undo },
        Ask::Status => AdminRequest::Status.into(),
        Ask::Hosts => AdminRequest::Hosts.into(),
        Ask::Gateways => AdminRequest::Gateways.into(),
        Ask::Sessions => AdminRequest::Sessions.into(),
        Ask::Tokens => AdminRequest::Tokens.into(),
        Ask::Explain { session } => AdminRequest::Explain { session }.into(),
        Ask::Drain { host, undo } => AdminRequest::Drain { host, undo }.into(),
    };
    let socket: Option<&Path> = match args.socket.as_slice() {
        [] => None,
        [socket] => Some(socket),
        _ => anyhow::bail!("give --socket once; only histograms takes several"),
    };
    let response = Reach::new(socket, &args.remote)?.ask(&request)?;
    if args.json {
        println!("{}", serde_json::to_string(&response)?);
    } else {
        print!("{}", tables::render(&response));
    }
    Ok(ExitCode::SUCCESS)
}
