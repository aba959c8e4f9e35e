//! What operators ask a running role: on its admin socket one JSON line asks
//! and one answers; over HTTPS ([`HTTPS_PATH`], brokers only) a body each.
//!
//! Who may ask is decided before: by the account at the other end of the
//! socket, or by an admin token. Adding a request or a field with a default is
//! compatible.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::audit::Record;
use crate::core::clock::UnixMillis;
use crate::core::codes::Refusal;
use crate::core::health::HostCheck;
use crate::core::ids::{GatewayId, HostId, Label, PoolId, SessionId};
use crate::core::placement::Phase;
use crate::core::selection::Explain;
use crate::observe::histogram_log;
use crate::observe::histograms::{Measure, Merged, Percentiles};

use super::enroll::MachineRole;

/// A longer line is not read, in either direction.
pub const LINE_LENGTH_MAX: u64 = 16 * 1024 * 1024;

/// On the broker's port: `POST`, with `Authorization: Bearer` and an admin
/// token.
pub const HTTPS_PATH: &str = "/api/admin";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    Status,
    Hosts,
    Gateways,
    Sessions,
    /// Why this session is where it is; works for a while after its end.
    Explain {
        session: SessionId,
    },
    /// Take no new users on a host, or take them again.
    Drain {
        host: HostId,
        #[serde(default)]
        undo: bool,
    },
    CreateToken {
        role: MachineRole,
        pool: Option<PoolId>,
        ttl_ms: u64,
        uses: u32,
        /// Names that gateways of this token may serve under.
        #[serde(default)]
        server_names: Vec<String>,
    },
    Tokens,
    /// What was measured since the start (gateways).
    Histograms,
}

/// What a broker understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum BrokerRequest {
    /// Take a machine's right to connect away, end its sessions and close its
    /// channel; or let another one enrol under its name again.
    Revoke {
        role: MachineRole,
        name: String,
        #[serde(default)]
        undo: bool,
    },
    /// Take no new users on any host with this label, those included that
    /// connect later; or take them again.
    DrainLabel {
        label: Label,
        #[serde(default)]
        undo: bool,
    },
    /// Give a user of a personal pool this host, or take it away again.
    Assign {
        pool: PoolId,
        user: String,
        host: HostId,
        #[serde(default)]
        undo: bool,
    },
    /// Which hosts of personal pools are whose.
    Assignments,
    /// End sessions so that none of their tickets works again.
    Disconnect { whom: Whom },
    /// Publish the next ticket key, which signs a moment later.
    RotateKeys,
    /// Records of the audit trail, oldest first: those behind number `after`,
    /// or the `last` ones.
    Audit {
        #[serde(default)]
        after: u64,
        #[serde(default)]
        last: Option<u32>,
        #[serde(default)]
        since: Option<UnixMillis>,
        limit: u32,
    },
    #[serde(untagged)]
    Common(AdminRequest),
}

impl From<AdminRequest> for BrokerRequest {
    fn from(request: AdminRequest) -> Self {
        Self::Common(request)
    }
}

/// Whose sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
pub enum Whom {
    User { user: String },
    Host { host: HostId },
    Gateway { gateway: GatewayId },
    Session { session: SessionId },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum AdminResponse {
    Status(StatusView),
    Hosts {
        hosts: Vec<HostView>,
    },
    Gateways {
        gateways: Vec<GatewayView>,
    },
    Sessions {
        sessions: Vec<SessionView>,
    },
    Assignments {
        assignments: Vec<AssignmentView>,
    },
    Explained {
        session: SessionView,
        explain: Explain,
    },
    Token(TokenView),
    Tokens {
        tokens: Vec<TokenListing>,
    },
    GatewayStatus(Box<GatewayStatusView>),
    Relayed {
        sessions: Vec<RelayedView>,
    },
    /// How a gateway would judge all gateways for a client right beside it.
    Judged {
        explain: Explain,
    },
    Histograms(HistogramsView),
    Disconnected {
        /// Sessions that were relayed.
        live: u32,
        /// Sessions that were on their way.
        pending: u32,
        /// Asked by user: sessions of which nobody knows whose they are.
        #[serde(default)]
        of_unknown_users: u32,
    },
    Keys(KeysView),
    Audit {
        records: Vec<Record>,
    },
    Done,
    Refused {
        refusal: Refusal,
    },
    /// The request makes no sense here.
    Invalid {
        problem: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    pub role: String,
    pub version: String,
    pub address: String,
    pub public_url: String,
    pub started_at: UnixMillis,
    pub hosts_connected: u32,
    pub gateways_connected: u32,
    pub sessions: u32,
    #[serde(default)]
    pub audit: AuditView,
    /// Absent when it was started without a file.
    #[serde(default)]
    pub config: Option<ConfigView>,
}

/// How the audit trail is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// `NUMBER:HASH` of the last record. Noted elsewhere, it proves all before.
    pub head: String,
    /// Records that are not on the disk yet.
    pub waiting: u64,
    /// Records that could not be kept since the start.
    pub lost: u64,
    /// Why none is written at the moment.
    pub problem: Option<String>,
}

/// The ticket keys, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysView {
    pub signing: String,
    pub since: UnixMillis,
    /// Published; signs from then on.
    pub next: Option<String>,
    pub next_signs_from: Option<UnixMillis>,
    /// Published until then, for tickets that are about.
    pub retiring: Option<String>,
    pub retired_at: Option<UnixMillis>,
}

/// A role's configuration file, and whether it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigView {
    pub file: String,
    /// When what is in force was taken over.
    pub loaded_at: UnixMillis,
    /// The file was read since and could not be used.
    pub rejected: Option<RejectedView>,
    /// Settings that are not in force before a restart.
    pub needs_restart: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedView {
    pub at: UnixMillis,
    /// File, line, key, problem and remedy, a line each.
    pub problems: Vec<String>,
}

/// A gateway and what it has done since its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatusView {
    pub gateway: GatewayId,
    pub version: String,
    pub url: String,
    pub started_at: UnixMillis,
    pub broker_connected: bool,
    pub draining: bool,
    /// What keeps it from working; absent when nothing does.
    #[serde(default)]
    pub ailment: Option<String>,
    /// Absent when it was started without a file.
    #[serde(default)]
    pub config: Option<ConfigView>,
    pub sessions: u64,
    pub waiting: u64,
    /// Connections that are not relayed: handshake, request, waiting.
    pub lobby_connections: u64,
    pub accepted: u64,
    /// Times accepting paused because no descriptor was left.
    pub accept_pauses: u64,
    pub turned_away: u64,
    pub handshakes: u64,
    pub handshakes_failed: u64,
    pub timeouts: u64,
    pub refusals: BTreeMap<String, u64>,
    pub close_reasons: BTreeMap<String, u64>,
    #[serde(default)]
    pub ring: RingView,
    pub workers: Vec<WorkerView>,
}

/// What the relay's rings use of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingView {
    pub kernel: String,
    /// The configuration wants nothing newer than Linux 6.1.
    pub masked: bool,
    /// Multishot receives end after a number of bytes.
    pub bounded_receive: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    pub sessions: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub enters: u64,
    pub completions: u64,
    pub starved: u64,
    pub held_back: u64,
    pub arena_overflows: u64,
    /// Output slots that hold bytes now.
    #[serde(default)]
    pub slots_used: u64,
}

/// A session that a gateway relays now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayedView {
    pub session: SessionId,
    pub host: HostId,
    pub client_address: String,
    pub worker: usize,
    pub started_at: UnixMillis,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

/// What was measured, in microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistogramsView {
    /// Added by the relay.
    pub up_us: Percentiles,
    pub down_us: Percentiles,
    /// Everything, those two included. Older gateways do not send it.
    #[serde(default)]
    pub measured: Vec<MeasuredView>,
}

impl HistogramsView {
    #[must_use]
    pub fn of(all: &Merged) -> Self {
        let percentiles = |of: Measure| all.get(of.as_str()).map(Percentiles::of);
        let measured = all.iter().map(|(measure, values)| MeasuredView {
            measure: measure.to_owned(),
            us: Percentiles::of(values),
            histogram: histogram_log::encode(values),
        });
        Self {
            up_us: percentiles(Measure::RelayUp).unwrap_or_default(),
            down_us: percentiles(Measure::RelayDown).unwrap_or_default(),
            measured: measured.collect(),
        }
    }
}

/// One measure of all threads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredView {
    pub measure: String,
    pub us: Percentiles,
    /// As in an interval log: V2 with DEFLATE, base64.
    pub histogram: String,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BrokerSnapshot {
    pub hosts: Vec<HostView>,
    pub gateways: Vec<GatewayView>,
    pub sessions: Vec<SessionView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    pub host: HostId,
    pub pool: PoolId,
    pub connected: bool,
    pub draining: bool,
    /// It failed an order a moment ago: others go first.
    #[serde(default)]
    pub paused: bool,
    pub sessions: u32,
    pub sessions_max: u32,
    #[serde(default)]
    pub labels: Vec<Label>,
    /// What its agent last said about it; empty for one that says nothing.
    #[serde(default)]
    pub checks: Vec<HostCheck>,
}

/// A host that is one user's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentView {
    pub pool: PoolId,
    pub user: String,
    pub host: HostId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayView {
    pub gateway: GatewayId,
    pub url: String,
    pub connections: u32,
    pub waiting: u32,
    pub in_flight: u32,
    pub capacity: u32,
    pub draining: bool,
    /// Age of the load report.
    pub age_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    pub session: SessionId,
    /// Absent when the session is over.
    pub phase: Option<Phase>,
    pub user: Option<String>,
    pub resource: Option<String>,
    pub client_address: Option<String>,
    pub host: Option<HostId>,
    pub gateway: Option<GatewayId>,
    pub placed_at: Option<UnixMillis>,
    pub started_at: Option<UnixMillis>,
    pub ended_at: Option<UnixMillis>,
    /// Why it ended.
    pub end: Option<String>,
    #[serde(default)]
    pub bytes_up: u64,
    #[serde(default)]
    pub bytes_down: u64,
}

/// A new enrolment token: shown once, stored nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    pub token: String,
    pub role: MachineRole,
    pub pool: Option<PoolId>,
    pub expires_at: UnixMillis,
    pub uses: u32,
    pub broker_url: String,
}

impl std::fmt::Debug for TokenView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenView")
            .field("role", &self.role)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// A token that can still be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenListing {
    /// First digits of its hash, to tell tokens apart.
    pub id: String,
    pub role: MachineRole,
    pub pool: Option<PoolId>,
    pub expires_at: UnixMillis,
    pub uses_left: u32,
    #[serde(default)]
    pub server_names: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::histograms::latency;

    #[test]
    fn a_gateway_that_sends_no_histograms_is_still_understood() {
        let empty = r#"{"count":0,"p50":0,"p90":0,"p99":0,"p999":0,"max":0}"#;
        let old = format!(r#"{{"answer":"histograms","up_us":{empty},"down_us":{empty}}}"#);
        let AdminResponse::Histograms(view) = serde_json::from_str(&old).unwrap() else {
            panic!("taken for something else");
        };
        assert_eq!((view.up_us, view.measured.len()), (Percentiles::default(), 0));
    }

    #[test]
    fn the_most_that_can_be_measured_fits_one_line() {
        let mut all = Merged::default();
        let mut full = latency();
        let mut us = 1;
        while us < full.high() {
            // Counts that hardly compress.
            full.saturating_record_n(us, us.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 30);
            us += 1 + us / 2_048;
        }
        for (_, measure, ..) in Measure::ALL {
            all.add(measure, &full).unwrap();
        }
        let answer = AdminResponse::Histograms(HistogramsView::of(&all));
        let length = serde_json::to_string(&answer).unwrap().len() as u64;
        assert!(length < LINE_LENGTH_MAX, "{length}");
    }
}
