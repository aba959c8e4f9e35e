//! The user's side: sign in ([`login`], step 2), subscribe to a workspace
//! ([`subscribe`], steps 1 to 6), open a desktop of it ([`session`],
//! [`connector`], steps 7 to 12).

pub mod connector;
mod local_peer;
pub mod login;
pub mod measure;
pub mod session;
pub mod subscribe;
pub mod token;
pub mod trust;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::core::clock::UnixMillis;
use crate::dial::Endpoint;
use crate::tls::identity::{SYSTEM_ROOTS_FILE, read_chain, read_roots};

pub use connector::{Connector, ConnectorError, ConnectorEvent, ConnectorSettings};
pub use session::{ConnectError, SessionOpener, SessionSettings};
use token::TokenArgs;
use trust::{Trust, read_trusted};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The .rdp file, as `ringway subscribe` stored it
    file: PathBuf,
    #[command(flatten)]
    token: TokenArgs,
    /// The broker whose sign-in to use [default: the one whose feed the file
    /// came from]
    #[arg(long, value_name = "URL")]
    broker: Option<Endpoint>,
    /// Where to offer the desktop to an RDP client
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Listen on an address that other machines reach; they connect as you
    #[arg(long)]
    allow_remote: bool,
    /// Let other users of this machine connect to the port; they connect as you
    /// [default: only your own processes, and root's]
    #[arg(long)]
    allow_other_users: bool,
    /// Start this client and end with it; {addr}, {host} and {port} are
    /// replaced, e.g. 'xfreerdp /v:{addr} /u:me'. Ends with the client's exit
    /// code, or 1 when there was no session
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Trust this CA for gateways [default: those of the public web]
    #[arg(long, value_name = "PEM")]
    ca: Option<PathBuf>,
    /// Trust .rdp files signed by this certificate or CA [default: --ca, or
    /// what this system trusts]
    #[arg(long, value_name = "PEM")]
    trust_signer: Option<PathBuf>,
    /// Use the file without a look at its signature
    #[arg(long, conflicts_with = "trust_signer")]
    allow_unsigned: bool,
    /// End after the first session
    #[arg(long)]
    once: bool,
    /// Sessions at once; further clients wait
    #[arg(long, value_name = "N", default_value_t = 64)]
    sessions_max: usize,
    /// How long to wait for a session host that is being started
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    start_wait: u64,
    /// Print one JSON object per event
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let trust = match args.trust_signer.as_deref().or(args.ca.as_deref()) {
        _ if args.allow_unsigned => Trust::Anyone,
        Some(path) => Trust::Signers(read_chain(path)?),
        // A system without the file trusts nobody, and the error says so.
        None => Trust::Signers(read_chain(Path::new(SYSTEM_ROOTS_FILE)).unwrap_or_default()),
    };
    let (file, signer) = read_trusted(&args.file, &trust, UnixMillis::now())
        .map_err(|error| anyhow::anyhow!("{}", error.to_refusal()))?;
    let roots = read_roots(args.ca.as_deref())?;
    let token = match &args.broker {
        Some(broker) => args.token.for_broker(broker)?,
        None => args.token.for_gateway(&session::entry(&file)?)?,
    };
    let session = SessionSettings::from_rdp(&file, token, roots)?;
    tracing::info!(step = 6, entry = %session.entry, signer, "Read the .rdp file");

    let (heard, events) = mpsc::unbounded_channel();
    let settings = ConnectorSettings {
        listen: args.listen,
        allow_remote: args.allow_remote,
        allow_other_users: args.allow_other_users,
        sessions_max: if args.once { 1 } else { args.sessions_max },
        start_wait_ms: args.start_wait.saturating_mul(1_000),
        on_event: Some(Arc::new(move |event| {
            let _printer_is_gone = heard.send(event.clone());
        })),
        ..ConnectorSettings::new(session)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(offer(settings, &args, events))
}

/// Offers the desktop until the client ends, the first session is over
/// (`--once`), or a signal says so.
async fn offer(
    settings: ConnectorSettings,
    args: &Args,
    mut events: mpsc::UnboundedReceiver<ConnectorEvent>,
) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let connector = Connector::start(settings, None).await?;
    let address = connector.local_addr();
    if args.json {
        println!("{}", json!({ "event": "listening", "address": address }));
    } else {
        println!("Listening on {address}; connect an RDP client to it, e.g. xfreerdp /v:{address}");
    }

    let client = run_client(args.exec.as_deref(), address);
    tokio::pin!(client);
    let (mut sessions, mut refused) = (0_u32, false);
    let code = loop {
        tokio::select! {
            ended = &mut client => {
                let code = ended?;
                while let Ok(event) = events.try_recv() {
                    print(&event, args.json);
                    note(&event, &mut sessions, &mut refused);
                }
                break if sessions == 0 { ExitCode::FAILURE } else { code };
            }
            Some(event) = events.recv() => {
                print(&event, args.json);
                note(&event, &mut sessions, &mut refused);
                let over = !matches!(
                    event,
                    ConnectorEvent::Started { .. } | ConnectorEvent::Waiting { .. }
                );
                if args.once && args.exec.is_none() && over {
                    break if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS };
                }
            }
            _ = terminate.recv() => break ExitCode::SUCCESS,
            _ = interrupt.recv() => break ExitCode::SUCCESS,
        }
    };
    connector.shutdown().await;
    while let Ok(event) = events.try_recv() {
        print(&event, args.json);
    }
    Ok(code)
}

fn note(event: &ConnectorEvent, sessions: &mut u32, refused: &mut bool) {
    match event {
        ConnectorEvent::Started { .. } => *sessions = sessions.saturating_add(1),
        ConnectorEvent::Refused { .. } | ConnectorEvent::Failed { .. } => *refused = true,
        ConnectorEvent::Waiting { .. } | ConnectorEvent::Ended { .. } => {}
    }
}

fn print(event: &ConnectorEvent, as_json: bool) {
    if as_json {
        match serde_json::to_string(event) {
            Ok(text) => println!("{text}"),
            Err(error) => tracing::error!(%error, "Cannot print an event"),
        }
        return;
    }
    match event {
        ConnectorEvent::Started { session, gateway, host } => {
            println!("Session {session}: {host} through {gateway}");
        }
        ConnectorEvent::Waiting { retry_in_ms, .. } => {
            let seconds = retry_in_ms.div_ceil(1_000);
            println!("The session host is being started; trying again in {seconds} s");
        }
        ConnectorEvent::Refused { refusal, advice } => {
            println!("No session: {} ({})", refusal.code, refusal.code.facts().number);
            println!("  {advice}");
            if let Some(detail) = &refusal.detail {
                println!("  {detail}");
            }
        }
        ConnectorEvent::Failed { problem } => println!("No session: {problem}"),
        ConnectorEvent::Ended { session, bytes_up, bytes_down, clean } => {
            let how = if *clean { "ended" } else { "was cut off" };
            println!("Session {session}: {how}, {bytes_up} bytes up, {bytes_down} bytes down");
        }
    }
}

/// Runs the client, if there is one, and returns its exit code.
async fn run_client(command: Option<&str>, address: SocketAddr) -> anyhow::Result<ExitCode> {
    let Some(command) = command else {
        return std::future::pending().await;
    };
    let line = client_command(command, address);
    let status = Command::new("sh")
        .args(["-c", &line])
        .env_remove(token::VARIABLE)
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("cannot start {line:?}"))?;
    tracing::info!(%status, "The client ended");
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn client_command(template: &str, address: SocketAddr) -> String {
    // Addresses hold nothing that a shell would read as more than text.
    template
        .replace("{addr}", &address.to_string())
        .replace("{host}", &address.ip().to_string())
        .replace("{port}", &address.port().to_string())
}

#[cfg(test)]
mod tests;
