//! The command line: what exists, what it is called, how it ends.
//!
//! Exit codes: 0 done; 1 the command failed and said why; 2 the arguments are
//! wrong (clap); 3 a check ran and found something wrong (`config check`,
//! `login --status`, `rdp verify`).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Remote Desktop to machines that accept no inbound connection.
///
/// Start with `ringway demo`: a broker, two gateways, a session host and a
/// client in one process, on this machine only.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the whole system in one process, for a first look
    Demo(crate::demo::Args),
    /// Run a gateway: relays sessions between clients and session hosts
    Gateway(RoleArgs),
    /// Run a broker: host channels, placement, tickets, feed
    Broker(RoleArgs),
    /// Run an agent on (or beside) a session host
    Agent(RoleArgs),
    /// Exchange an enrolment token for a certificate (once per agent or gateway)
    Enroll(crate::channel::enroll::Args),
    /// Create and list enrolment tokens (on the broker)
    #[command(subcommand)]
    Token(crate::broker::token::Command),
    /// Sign in at a broker's identity provider, for subscribe and connect
    Login(crate::connect::login::Args),
    /// Forget a sign-in
    Logout(crate::connect::login::LogoutArgs),
    /// Fetch your desktops and applications as .rdp files
    Subscribe(crate::connect::subscribe::Args),
    /// Open a desktop: join the session and offer it on a loopback port
    Connect(crate::connect::Args),
    /// Sign and verify .rdp files
    #[command(subcommand)]
    Rdp(crate::cli::rdp::Command),
    /// Load a gateway, or any relay, and measure it
    #[command(subcommand)]
    Bench(crate::bench::Command),
    /// Ask a running broker or gateway for its state, or change it
    Ctl(crate::cli::ctl::Args),
    /// Check a configuration file
    #[command(subcommand)]
    Config(crate::config::Command),
}

/// What every long-running role takes.
#[derive(Debug, Args)]
pub struct RoleArgs {
    /// The TOML file that declares this role (see systemd/ for examples)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

pub mod ctl;
pub mod duration;
pub mod rdp;

/// Runs one command to its end.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    crate::observe::log::start();
    crate::tls::install_provider();
    let outcome = match cli.command {
        Command::Demo(args) => crate::demo::run(args),
        Command::Gateway(args) => crate::gateway::run(&args.config),
        Command::Broker(args) => crate::broker::run(&args.config),
        Command::Agent(args) => crate::agent::run(&args.config),
        Command::Enroll(args) => crate::channel::enroll::run(args),
        Command::Token(command) => crate::broker::token::run(command),
        Command::Login(args) => crate::connect::login::run(args),
        Command::Logout(args) => crate::connect::login::logout(args),
        Command::Subscribe(args) => crate::connect::subscribe::run(args),
        Command::Connect(args) => crate::connect::run(args),
        Command::Rdp(command) => rdp::run(command),
        Command::Bench(command) => crate::bench::run(command),
        Command::Ctl(args) => ctl::run(args),
        Command::Config(command) => crate::config::run(command),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("ringway: {error:#}");
        ExitCode::FAILURE
    })
}
