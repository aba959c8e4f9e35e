//! `ringway ctl`: asks a broker or gateway, on its admin socket or over HTTPS,
//! and prints the answer as a table, or as JSON with `--json`.

mod audit;
pub(crate) mod histograms;
pub(crate) mod reach;
pub(crate) mod tables;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::core::ids::{GatewayId, HostId, Label, PoolId, SessionId};
use crate::wire::admin::{AdminRequest, BrokerRequest, Whom};
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
    /// End sessions at once; none of their tickets works again
    Disconnect(WhomArgs),
    /// Replace the key that signs tickets: publish the next one, which signs
    /// a moment later
    RotateKeys,
    /// The audit trail: read it, and check that nobody changed it
    #[command(subcommand)]
    Audit(audit::Command),
    /// Take a machine's right to connect away, end its sessions, close its
    /// channel
    Revoke {
        role: MachineRole,
        name: String,
        /// Let a machine enrol under that name again
        #[arg(long)]
        undo: bool,
    },
    /// Take no new users on a session host, or on all that carry a label
    Drain {
        #[arg(required_unless_present = "label")]
        host: Option<HostId>,
        /// Every host with this label, also those that connect later
        #[arg(long, conflicts_with = "host")]
        label: Option<Label>,
        /// Take new users again
        #[arg(long)]
        undo: bool,
    },
    /// Give a user a host of a personal pool, for good
    Assign {
        #[arg(long)]
        pool: PoolId,
        /// As the identity provider calls them; see: ringway ctl sessions
        #[arg(long)]
        user: String,
        #[arg(long)]
        host: HostId,
        /// Take it away again; a session that runs goes on
        #[arg(long)]
        undo: bool,
    },
    /// Which hosts of personal pools are whose
    Assignments,
}

/// Whose sessions; exactly one.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct WhomArgs {
    /// All sessions of a user, also those that they are opening
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// All sessions on a session host
    #[arg(long, value_name = "HOST")]
    host: Option<HostId>,
    /// All sessions of a gateway
    #[arg(long, value_name = "GATEWAY")]
    gateway: Option<GatewayId>,
    /// One session
    #[arg(long, value_name = "SESSION")]
    session: Option<SessionId>,
}

impl WhomArgs {
    fn whom(self) -> anyhow::Result<Whom> {
        match self {
            Self { user: Some(user), .. } => Ok(Whom::User { user }),
            Self { host: Some(host), .. } => Ok(Whom::Host { host }),
            Self { gateway: Some(gateway), .. } => Ok(Whom::Gateway { gateway }),
            Self { session: Some(session), .. } => Ok(Whom::Session { session }),
            // clap has asked for one.
            _ => anyhow::bail!("name whose sessions: --user, --host, --gateway or --session"),
        }
    }
}

/// # Errors
/// When nobody answers, or the answer is no.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let request: BrokerRequest = match args.ask {
        Ask::Histograms { logs } => {
            anyhow::ensure!(args.remote.url.is_none(), "gateways have histograms: use --socket");
            return histograms::run(&args.socket, &logs, args.json);
        }
        Ask::Audit(command) => {
            return audit::run(socket(&args.socket)?, &args.remote, args.json, command);
        }
        Ask::Revoke { role, name, undo } => BrokerRequest::Revoke { role, name, undo },
        Ask::Disconnect(whom) => BrokerRequest::Disconnect { whom: whom.whom()? },
        Ask::RotateKeys => BrokerRequest::RotateKeys,
        Ask::Status => AdminRequest::Status.into(),
        Ask::Hosts => AdminRequest::Hosts.into(),
        Ask::Gateways => AdminRequest::Gateways.into(),
        Ask::Sessions => AdminRequest::Sessions.into(),
        Ask::Tokens => AdminRequest::Tokens.into(),
        Ask::Explain { session } => AdminRequest::Explain { session }.into(),
        Ask::Drain { host: Some(host), undo, .. } => AdminRequest::Drain { host, undo }.into(),
        Ask::Drain { label, undo, .. } => {
            let label = label.context("name a host or a --label")?;
            BrokerRequest::DrainLabel { label, undo }
        }
        Ask::Assign { pool, user, host, undo } => BrokerRequest::Assign { pool, user, host, undo },
        Ask::Assignments => BrokerRequest::Assignments,
    };
    let response = Reach::new(socket(&args.socket)?, &args.remote)?.ask(&request)?;
    if args.json {
        println!("{}", serde_json::to_string(&response)?);
    } else {
        print!("{}", tables::render(&response));
    }
    Ok(ExitCode::SUCCESS)
}

fn socket(named: &[PathBuf]) -> anyhow::Result<Option<&Path>> {
    match named {
        [] => Ok(None),
        [socket] => Ok(Some(socket)),
        _ => anyhow::bail!("give --socket once; only histograms takes several"),
    }
}
