//! The command line of `ringway bench`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::framing::ClientLeg;
use super::profile::{Mix, Profile};

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Without --through it starts a broker and a gateway of its own on loopback, with
real enrolment, tickets and TLS, and ends them afterwards. Exit code 3: a byte
was wrong, missing or too many, or a session failed.

  ringway bench relay --profile bulk --sessions 8 --direction up --leg websocket
  ringway bench relay --sessions 300 --leg tsgu-http
  ringway bench sessions --sessions 10000 --idle --leg tsgu")]
pub enum Command {
    /// Sessions that all stay: what a byte or a message costs, and how long it takes
    Relay(RelayArgs),
    /// Sessions that come and go, or (--idle) stay and are silent
    Sessions(SessionsArgs),
    /// TLS handshakes without a session; the first one is verified
    Handshake(HandshakeArgs),
    /// How long until clients see that an administrator ended their sessions,
    /// while others stay
    Disconnect(DisconnectArgs),
}

impl Command {
    #[must_use]
    pub const fn common(&self) -> &Common {
        match self {
            Self::Relay(args) => &args.common,
            Self::Sessions(args) => &args.common,
            Self::Handshake(args) => &args.common,
            Self::Disconnect(args) => &args.common,
        }
    }
}

/// What every bench takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Write the histograms as a standard HdrHistogram log
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// The same seed plans the same messages
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Pin the generator to this core
    #[arg(long, value_name = "CORE")]
    pub core: Option<usize>,
    /// Confine the gateway that is started to this core
    #[arg(long, value_name = "CORE", conflicts_with = "through")]
    pub gateway_core: Option<usize>,
    /// A setting of [gateway.threads] of the gateway that is started, e.g.
    /// 'rx_buffers = 4', to try it; may be repeated
    #[arg(long = "gateway-thread-setting", value_name = "KEY = VALUE", conflicts_with = "through")]
    pub gateway_thread_settings: Vec<String>,
    /// Cipher suite of both legs
    #[arg(long, value_enum, default_value_t = Cipher::Aes128)]
    pub cipher: Cipher,
    /// Load this relay instead, which terminates TLS (tls:) or not (tcp:) and
    /// dials the sink for every connection; the sink itself: no relay at all
    #[arg(long, value_name = "tls|tcp://ADDR", requires = "sink")]
    pub through: Option<Address>,
    /// Where that relay finds the session host, which the bench plays
    #[arg(long, value_name = "tls|tcp://ADDR", requires = "through")]
    pub sink: Option<Address>,
    /// Sample this process too; may be repeated
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Cipher {
    Aes128,
    Aes256,
}

/// How clients come.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Clients {
    /// How the clients reach the gateway; session hosts stay raw
    #[arg(long, value_enum, default_value_t = ClientLeg::Raw, conflicts_with = "through")]
    pub leg: ClientLeg,
}

/// Who does what.
#[derive(Clone, Debug, clap::Args)]
pub struct Users {
    /// All users do this
    #[arg(long, value_enum)]
    pub profile: Option<Profile>,
    /// Users by what they do, e.g. word=4,web=1 [default: an office]
    #[arg(long, value_name = "PROFILE=WEIGHT,…", conflicts_with = "profile")]
    pub mix: Option<Mix>,
}

impl Users {
    #[must_use]
    pub fn mix(&self) -> Mix {
        match (self.profile, &self.mix) {
            (Some(profile), _) => Mix::of(profile),
            (None, Some(mix)) => mix.clone(),
            (None, None) => Mix::office(),
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct RelayArgs {
    #[command(flatten)]
    pub users: Users,
    #[command(flatten)]
    pub clients: Clients,
    /// Sessions at once
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub sessions: u32,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub seconds: f64,
    /// Load before measuring begins
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    pub warm_up_seconds: f64,
    /// Which way bulk goes
    #[arg(long, value_enum, default_value_t = Direction::Down)]
    pub direction: Direction,
    /// Further sessions with a bulk transfer whose client does not read
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub stalled: u32,
    /// Full handshakes per second on the same port meanwhile
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    pub storm: f64,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// Session host to client
    Down,
    Up,
    Both,
}

#[derive(Debug, clap::Args)]
pub struct SessionsArgs {
    #[command(flatten)]
    pub users: Users,
    #[command(flatten)]
    pub clients: Clients,
    /// Sessions in all
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub sessions: u32,
    /// At most this many at once
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub concurrent: u32,
    /// New sessions per second
    #[arg(long, value_name = "RATE", default_value_t = 100)]
    pub rate: u32,
    /// How long each stays
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    pub hold_seconds: f64,
    /// Open all of them and let them be silent but for heartbeats
    #[arg(long, conflicts_with_all = ["mix", "profile", "concurrent", "rate"])]
    pub idle: bool,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, clap::Args)]
pub struct HandshakeArgs {
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub seconds: f64,
    /// Load before measuring begins
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub warm_up_seconds: f64,
    /// Handshakes at once, as fast as they go
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub concurrent: usize,
    /// Or this many per second, whatever becomes of those before
    #[arg(long, value_name = "RATE", conflicts_with = "concurrent")]
    pub rate: Option<f64>,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, clap::Args)]
pub struct DisconnectArgs {
    #[command(flatten)]
    pub clients: Clients,
    /// Silent sessions at once; as many as the limit of descriptors allows
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub sessions: u32,
    /// Sessions that one order ends
    #[arg(long, value_name = "N", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub end: u32,
    /// Orders, one after the other
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Load before measuring begins
    #[arg(long, value_name = "S", default_value_t = 6.0)]
    pub warm_up_seconds: f64,
    #[command(flatten)]
    pub common: Common,
}

impl Common {
    /// Pins the calling thread, and all that it starts later.
    ///
    /// # Errors
    /// When there is no such core.
    pub fn pin(&self) -> anyhow::Result<()> {
        if let Some(core) = self.core {
            let mut only = CpuSet::new();
            anyhow::ensure!(core < CpuSet::MAX_CPU, "there is no core {core}");
            only.set(core);
            sched_setaffinity(None, &only).with_context(|| format!("there is no core {core}"))?;
        }
        Ok(())
    }
}

/// `tls://ADDR` or `tcp://ADDR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub is_tls: bool,
    pub at: SocketAddr,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, at) = text.split_once("://").unwrap_or(("", text));
        let is_tls = match scheme {
            "tls" => true,
            "tcp" => false,
            _ => return Err("it begins with neither tls:// nor tcp://".into()),
        };
        let at = at.parse().map_err(|_| format!("{at:?} is not an address like 127.0.0.1:443"))?;
        Ok(Self { is_tls, at })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "tls" } else { "tcp" }, self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_whether_there_is_tls() {
        let address: Address = "tls://127.0.0.1:443".parse().unwrap();
        assert!(address.is_tls && address.at.port() == 443);
        assert_eq!(address.to_string(), "tls://127.0.0.1:443");
        for bad in ["127.0.0.1:443", "udp://127.0.0.1:1", "tcp://localhost:1", "tcp://127.0.0.1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
