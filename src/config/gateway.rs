//! The `[gateway]` table.

mod check;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::admin::Peers;
use crate::tls::settings::TlsSettings;

/// A gateway. Everything but `listen`, `url` and `state_dir` has a default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where clients, session hosts and other gateways connect.
    pub listen: SocketAddr,
    /// `https://name:port` under which all of those reach this very instance.
    pub url: String,
    /// Where `ringway enroll` put key and certificate.
    pub state_dir: PathBuf,
    /// Certificate chain and key (PEM) of the TLS port. Absent: the
    /// certificate from enrolment, which only those trust who trust the
    /// broker's CA.
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// CA (PEM) of the other gateways' certificates, for probes. Absent: the
    /// broker's CA and the public web's.
    pub peer_ca: Option<PathBuf>,
    #[serde(default)]
    pub tls: TlsSettings,
    /// Unix socket for `ringway ctl`. Absent: `admin.sock` in `state_dir`.
    pub admin_socket: Option<PathBuf>,
    /// Accounts and primary groups that may use it, besides root and the
    /// service's own account.
    #[serde(default)]
    pub admin_uids: Vec<u32>,
    #[serde(default)]
    pub admin_gids: Vec<u32>,
    #[serde(default)]
    pub limits: GatewayLimits,
    #[serde(default)]
    pub threads: GatewayThreads,
    #[serde(default)]
    pub channel: ChannelTiming,
    #[serde(default)]
    pub histograms: HistogramSettings,
}

/// A limit on everything.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayLimits {
    /// Relayed sessions of the whole gateway.
    pub sessions_max: u32,
    /// Connections that are not relayed yet: handshake, request, waiting.
    pub lobby_connections_max: u32,
    /// The same from one address (IPv6: from one /64). Users behind one NAT
    /// share it, so a large office may need more: count its sign-ins at nine
    /// o'clock, not its sessions.
    pub lobby_connections_per_address_max: u32,
    /// How long a connection may ask without becoming a leg, whatever it does.
    /// Other gateways' probes just connect again.
    pub lobby_lifetime_ms: u64,
    /// Clients that wait for their session host.
    pub waiting_max: u32,
    /// The same from one address.
    pub waiting_per_address_max: u32,
    /// From the accepted connection to the end of the TLS handshake.
    pub handshake_timeout_ms: u64,
    /// From there, or from the last answer, to the end of a request.
    pub request_timeout_ms: u64,
    /// How long a client waits for its session host.
    pub pair_timeout_ms: u64,
    /// For writing an answer to somebody who does not read.
    pub write_timeout_ms: u64,
    /// For an answer of the broker.
    pub broker_timeout_ms: u64,
    /// Request head.
    pub head_bytes_max: usize,
    /// Request body.
    pub body_bytes_max: usize,
    /// Requests on one connection before it is closed.
    pub requests_per_connection_max: u32,
    /// Bytes queued towards one leg before its peer is not read any more.
    pub leg_output_bytes_max: usize,
    /// With one direction closed, silence of the other that ends the session.
    pub half_close_timeout_ms: u64,
    /// Silence both ways that ends a session; 0: never.
    pub idle_timeout_ms: u64,
    /// Age that ends a session; 0: never.
    pub lifetime_ms: u64,
    /// Time after which an RD Gateway client that can is asked to authenticate
    /// again (MS-TSGU 2.2.10.12), since its session began or since it last did;
    /// 0: never.
    pub reauthenticate_after_ms: u64,
    /// How long it has for that before its session ends.
    pub reauthentication_timeout_ms: u64,
    /// For delivering what is queued once a session is ending.
    pub drain_output_ms: u64,
    /// On SIGTERM: how long live sessions may go on.
    pub shutdown_grace_ms: u64,
    /// Round trips that this gateway measured and that are older are not used
    /// for selection.
    pub sample_age_ms_max: u64,
    /// The same for those that a client measured, which it does every few
    /// minutes.
    pub client_sample_age_ms_max: u64,
    /// Probes in a row that do not get to a gateway make it the last resort.
    pub unreachable_after_probes: u32,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            sessions_max: 10_000,
            lobby_connections_max: 4_096,
            lobby_connections_per_address_max: 512,
            lobby_lifetime_ms: 600_000,
            waiting_max: 2_048,
            waiting_per_address_max: 256,
            handshake_timeout_ms: 5_000,
            request_timeout_ms: 10_000,
            pair_timeout_ms: 10_000,
            write_timeout_ms: 5_000,
            broker_timeout_ms: 4_000,
            // AVD-mode clients send the access token twice in one head.
            head_bytes_max: 32 * 1024,
            body_bytes_max: 64 * 1024,
            requests_per_connection_max: 1_000,
            leg_output_bytes_max: 512 * 1024,
            half_close_timeout_ms: 60_000,
            idle_timeout_ms: 0,
            lifetime_ms: 0,
            reauthenticate_after_ms: 0,
            reauthentication_timeout_ms: 120_000,
            drain_output_ms: 5_000,
            shutdown_grace_ms: 30_000,
            sample_age_ms_max: 30_000,
            client_sample_age_ms_max: 300_000,
            unreachable_after_probes: 2,
        }
    }
}

/// How many threads of each kind, and what they own.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayThreads {
    /// 0: one per core. Each is pinned to its core.
    pub relay_workers: u16,
    pub lobby_threads: u16,
    /// Receive buffers of 256 KiB per relay worker; a power of two. Small
    /// messages take one each; of large ones no more are under way at a time than
    /// the cache holds.
    pub rx_buffers: u16,
    /// Output slots of 288 KiB per relay worker.
    pub output_slots: u32,
    /// What the relay's rings use of kernels newer than Linux 6.1.
    pub ring_features: RingFeatures,
    /// Pin relay workers to cores.
    pub pin: bool,
    /// Time between two probes of another gateway; where none gets through, it
    /// doubles up to a minute.
    pub probe_interval_ms: u64,
}

impl Default for GatewayThreads {
    fn default() -> Self {
        Self {
            relay_workers: 0,
            lobby_threads: 1,
            rx_buffers: 8,
            output_slots: 256,
            ring_features: RingFeatures::Probed,
            pin: true,
            probe_interval_ms: 5_000,
        }
    }
}

/// A way back from a kernel whose newer features misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum RingFeatures {
    /// What a trial at the start finds.
    #[serde(rename = "probed")]
    Probed,
    /// Nothing.
    #[serde(rename = "linux-6.1")]
    Linux61,
}

/// Heartbeats on the channel to the broker.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelTiming {
    pub heartbeat_interval_ms: u64,
    pub heartbeat_timeout_ms: u64,
    /// First reconnect delay; doubles up to the cap, with full jitter.
    pub reconnect_base_ms: u64,
    pub reconnect_cap_ms: u64,
}

impl Default for ChannelTiming {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 5_000,
            heartbeat_timeout_ms: 10_000,
            reconnect_base_ms: 200,
            reconnect_cap_ms: 30_000,
        }
    }
}

/// Where measured latencies are written, as `.hlog` files, and how much of
/// that is kept: with the defaults 32 MiB.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistogramSettings {
    /// Absent: `histograms` in `state_dir`. Made when there is something to
    /// write.
    pub folder: Option<PathBuf>,
    /// Time between two dumps; 0: only on SIGUSR1, and at the end.
    pub interval_ms: u64,
    /// A file that would become larger is followed by a new one.
    pub file_bytes_max: u64,
    /// Files of this gateway; the oldest is removed for a new one.
    pub files_max: u32,
}

impl Default for HistogramSettings {
    fn default() -> Self {
        Self { folder: None, interval_ms: 60_000, file_bytes_max: 4 * 1024 * 1024, files_max: 8 }
    }
}

impl HistogramSettings {
    /// Time between two dumps, if they are made without being asked for.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        (self.interval_ms > 0).then_some(Duration::from_millis(self.interval_ms))
    }
}

impl GatewayConfig {
    /// Relay workers to start: as configured, or one per core.
    #[must_use]
    pub fn relay_workers(&self) -> usize {
        match self.threads.relay_workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => usize::from(n),
        }
    }

    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.admin_socket.clone().unwrap_or_else(|| self.state_dir.join("admin.sock"))
    }

    #[must_use]
    pub fn histogram_folder(&self) -> PathBuf {
        self.histograms.folder.clone().unwrap_or_else(|| self.state_dir.join("histograms"))
    }

    #[must_use]
    pub fn admin_peers(&self) -> Peers {
        Peers { uids: self.admin_uids.clone(), gids: self.admin_gids.clone() }
    }
}
