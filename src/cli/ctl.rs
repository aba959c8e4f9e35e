//! `ringway ctl`: asks the admin socket of a broker or gateway, prints the
//! answer as a table, or as JSON with `--json`.

mod audit;
pub(crate) mod histograms;
pub(crate) mod tables;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use crate::core::ids::{GatewayId, HostId, Label, PoolId, SessionId};
use crate::wire::admin::{AdminRequest, AdminResponse, BrokerRequest, LINE_LENGTH_MAX, Whom};
use crate::wire::enroll::MachineRole;

/// Where the packaged broker has its socket.
pub const DEFAULT_SOCKET: &str = "/var/lib/ringway/broker/admin.sock";
/// Where the packaged gateway has its socket.
pub const DEFAULT_GATEWAY_SOCKET: &str = "/var/lib/ringway/gateway/admin.sock";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The admin socket of a broker or gateway; `histograms` takes several
    /// [default: /var/lib/ringway/broker/admin.sock, the gateway's for
    /// `histograms`]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Vec<PathBuf>,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub ask: Ask,
}

#[derive(Debug, clap::Subcommand)]
pub enum Ask {
    /// What runs here, and how much of it
    Status,
    /// Session hosts, their pools and sessions
    Hosts,
    /// Gateways and their load
    Gateways,
    /// Sessions that hold a place
    Sessions,
    /// Why a session is where it is (also a while after its end)
    Explain { session: SessionId },
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
/// When the socket does not answer, or answers no.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let socket = || match args.socket.as_slice() {
        [] => Ok(Path::new(DEFAULT_SOCKET)),
        [socket] => Ok(socket.as_path()),
        _ => anyhow::bail!("give --socket once; only histograms takes several"),
    };
    let request = match args.ask {
        Ask::Histograms { logs } => return histograms::run(&args.socket, &logs, args.json),
        Ask::Revoke { role, name, undo } => {
            return tell(socket()?, args.json, &BrokerRequest::Revoke { role, name, undo });
        }
        Ask::Disconnect(whom) => {
            let whom = whom.whom()?;
            return tell(socket()?, args.json, &BrokerRequest::Disconnect { whom });
        }
        Ask::RotateKeys => return tell(socket()?, args.json, &BrokerRequest::RotateKeys),
        Ask::Audit(command) => return audit::run(socket()?, args.json, command),
        Ask::Status => AdminRequest::Status,
        Ask::Hosts => AdminRequest::Hosts,
        Ask::Gateways => AdminRequest::Gateways,
        Ask::Sessions => AdminRequest::Sessions,
        Ask::Explain { session } => AdminRequest::Explain { session },
        Ask::Drain { host: Some(host), undo, .. } => AdminRequest::Drain { host, undo },
        Ask::Drain { label, undo, .. } => {
            let label = label.context("name a host or a --label")?;
            return tell(socket()?, args.json, &BrokerRequest::DrainLabel { label, undo });
        }
        Ask::Assign { pool, user, host, undo } => {
            let request = BrokerRequest::Assign { pool, user, host, undo };
            return tell(socket()?, args.json, &request);
        }
        Ask::Assignments => return tell(socket()?, args.json, &BrokerRequest::Assignments),
    };
    tell(socket()?, args.json, &request)
}

fn tell(socket: &Path, as_json: bool, request: &impl Serialize) -> anyhow::Result<ExitCode> {
    let response = ask(socket, request)?;
    if as_json {
        println!("{}", serde_json::to_string(&response)?);
    } else {
        print!("{}", tables::render(&response));
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks one question. Refusals are errors here, so that scripts see them in
/// the exit code.
///
/// # Errors
/// When the socket does not answer in time, or answers no.
pub fn ask(socket: &Path, request: &impl Serialize) -> anyhow::Result<AdminResponse> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "cannot reach {} (is the broker or gateway running, and are you its user or root? --socket names another)",
            socket.display()
        )
    })?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
    let mut line = zeroize::Zeroizing::new(String::new());
    BufReader::new(stream.take(LINE_LENGTH_MAX)).read_line(&mut line)?;
    match serde_json::from_str(&line).context("the answer is not understood")? {
        AdminResponse::Refused { refusal } => Err(refusal.into()),
        AdminResponse::Invalid { problem } => Err(anyhow::anyhow!(problem)),
        response => Ok(response),
    }
}
