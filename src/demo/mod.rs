//! The embedded world: every role of Ringway in one process, and the parties
//! that it joins but does not own - a session host, a user's RDP client and an
//! identity provider - so that a first look and the tests need nothing from
//! outside.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;

pub mod clock;
pub mod grants;
pub mod issuer;
pub mod picture;
pub mod rdp_client;
pub mod rdp_host;
pub mod report;
pub mod sign_in;
pub mod stage;
pub mod style;
#[cfg(test)]
mod token_logon_tests;
pub mod tokens;
pub mod tour;
pub mod world;

use self::clock::StepClock;
use self::style::Style;
use self::tour::{DEMO_PASSWORD, DEMO_USER, Tour};
use crate::connect::{Connector, ConnectorSettings, SessionSettings};

/// Where `--once` writes the desktop that it saw.
const PICTURE: &str = "ringway-demo.png";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing leaves this machine: everything listens on loopback, with certificates
made for this run. Without --once it stays up until Ctrl-C, and prints the
address where your own RDP client can connect.")]
pub struct Args {
    /// Run one session through all twelve steps, check its pixels, write
    /// ringway-demo.png, and exit
    #[arg(long)]
    pub once: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Run this many sessions at once; the timeline is the first one's
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=60))]
    pub sessions: u32,
}

/// `ringway demo`
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(show(args))
}

async fn show(args: Args) -> anyhow::Result<ExitCode> {
    let no_color = std::env::var_os("NO_COLOR");
    let style = Style::for_output(std::io::stdout().is_terminal(), no_color.as_deref());
    let clock = Arc::new(if args.json { StepClock::silent() } else { StepClock::telling(style) });
    if !args.json {
        print!("{}", report::heading(style));
    }
    let tour = Tour::begin(Arc::clone(&clock)).await?;
    let outcome = tour.sessions(args.sessions).await;
    let seen = match outcome {
        Ok(seen) => seen,
        Err(error) => {
            tour.end().await;
            return Err(error);
        }
    };
    if args.once {
        rdp_client::write_png(Path::new(PICTURE), &seen.picture)
            .with_context(|| format!("cannot write {PICTURE}"))?;
        let report = tour.report(seen).await?;
        if args.json {
            println!("{}", report.json()?);
        } else {
            print!("{}", report.summary(style));
            println!("\nThe desktop as the client saw it: {PICTURE}");
        }
        tour.end().await;
        return Ok(ExitCode::SUCCESS);
    }

    let connector = offer(&tour).await?;
    let address = connector.local_addr();
    let report = tour.report(seen).await?;
    if args.json {
        let ready = json!({
            "report": report, "connect": address, "user": DEMO_USER, "password": DEMO_PASSWORD,
        });
        println!("{ready}");
    } else {
        print!("{}", report.summary(style));
        println!("\n{}", style.bold("The demo stays up. Connect with your own client:"));
        println!("  xfreerdp /v:{address} /u:{DEMO_USER} /p:{DEMO_PASSWORD} /sec:tls /cert:ignore");
        println!("{}", style.faint("  Ctrl-C ends it."));
    }
    tokio::signal::ctrl_c().await?;
    connector.shutdown().await;
    tour.end().await;
    Ok(ExitCode::SUCCESS)
}

/// A loopback port behind which the demo's desktop is, through the gateway.
async fn offer(tour: &Tour) -> anyhow::Result<Connector> {
    let session =
        SessionSettings::from_rdp(tour.rdp_file(), tour.token().clone(), tour.world().roots()?)?;
    Ok(Connector::start(ConnectorSettings::new(session), None).await?)
}
