//! `ringway bench`: plays both ends of many sessions against a relay, compares
//! every byte at its far end, and says what the relay took for it.
//!
//! [`profile`] says what users do, [`flow`] and [`pattern`] what must arrive,
//! [`framing`] and [`greeting`] how a client reaches the gateway,
//! [`engine`] does the I/O of both ends, [`deployment`] is the gateway to load
//! and its users and session host the parties,
//! [`sample`] looks at processes from outside, [`report`] tells.

pub mod deployment;
pub mod disconnect;
pub mod engine;
pub mod flow;
pub mod framing;
pub mod greeting;
pub mod leg;
pub mod options;
mod parties;
pub mod pattern;
pub mod profile;
pub mod report;
pub mod run;
pub mod sample;
pub mod session;
pub mod storm;
pub mod tally;
pub mod target;
pub mod verifier;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

pub use self::options::Command;
use self::options::Common;
use self::report::write_hlog;
use self::run::Outcome;

/// Runs one bench. Exit code 3: a byte was wrong, or a session failed.
///
/// # Errors
/// When the run cannot be made.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    let common = command.common().clone();
    common.pin()?;
    let outcome = match command {
        Command::Relay(args) => run::relay(&args)?,
        Command::Sessions(args) => run::sessions(&args)?,
        Command::Handshake(args) => run::handshake(&args)?,
        Command::Disconnect(args) => {
            let report = disconnect::run(&args)?;
            return print(&common, &report, &report.render(), report.faults.is_empty());
        }
    };
    tell(&common, outcome)
}

fn tell(common: &Common, outcome: Outcome) -> anyhow::Result<ExitCode> {
    let Outcome { report, tally, began, elapsed } = outcome;
    if let Some(path) = &common.hlog {
        write_hlog(path, &tally, began, elapsed)?;
    }
    print(common, &report, &report.render(), report.faults.is_empty())
}

fn print(
    common: &Common,
    report: &impl serde::Serialize,
    text: &str,
    is_well: bool,
) -> anyhow::Result<ExitCode> {
    if common.json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{text}");
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// A bar on a terminal, nothing elsewhere.
fn progress(what: &'static str, steps: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(steps).with_message(what);
    // A constant that is a valid template.
    if let Ok(style) = ProgressStyle::with_template("{msg:<22} {bar:40} {pos}/{len}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
