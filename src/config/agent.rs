//! The `[agent]` table. Only `state_dir` is required.

mod health;

use std::path::PathBuf;

use serde::Deserialize;

use super::Findings;
use crate::channel::pump::PumpRules;
use crate::core::ids::Label;
use crate::dial::DialLimits;
use crate::dial::pipe::PipeLimits;
use crate::dial::relay::HOST_RECORD_DATA_MAX;
use crate::tls::settings::TlsSettings;

pub use health::HealthSettings;

/// More names of one host say nothing more.
const LABELS_MAX: usize = 32;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Key and certificate from `ringway enroll`.
    pub state_dir: PathBuf,
    /// `host:port` of the RDP server: this machine's, or that of a machine
    /// that cannot run an agent.
    #[serde(default = "default_target")]
    pub target: String,
    /// Leaves logons by token (RDSAAD) to the RDP server, as long as it takes
    /// them. Otherwise clients are told to come back with a password.
    #[serde(default)]
    pub rdsaad: bool,
    /// Sessions at once; a further order is refused with `host_busy`.
    #[serde(default = "default_sessions_max")]
    pub sessions_max: u32,
    /// What operators call the set of hosts that this one belongs to: they
    /// drain all that share a label at once.
    #[serde(default)]
    pub labels: Vec<Label>,
    /// PEM file with the CA of the gateways. Default: the broker's CA.
    pub gateway_ca: Option<PathBuf>,
    #[serde(default)]
    pub health: HealthSettings,
    #[serde(default)]
    pub tls: TlsSettings,
    #[serde(default)]
    pub limits: Limits,
}

fn default_target() -> String {
    "127.0.0.1:3389".into()
}

const fn default_sessions_max() -> u32 {
    64
}

/// Every limit of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The target must accept within this. A broker waits a second for the
    /// answer to an order, and this is most of it.
    pub target_timeout_ms: u64,
    /// How long a client may take over its first PDU. Afterwards its bytes pass
    /// as they come.
    pub first_pdu_timeout_ms: u64,
    /// TCP to broker or gateway, over all addresses of the name.
    pub connect_timeout_ms: u64,
    /// TLS with broker or gateway.
    pub handshake_timeout_ms: u64,
    /// The gateway's answer: it comes when both legs are there.
    pub answer_timeout_ms: u64,
    pub heartbeat_interval_ms: u64,
    /// A beat that is not answered within this ends the channel.
    pub heartbeat_timeout_ms: u64,
    /// First bound of the random pause before the channel is dialled again.
    pub reconnect_base_ms: u64,
    /// Last bound of that pause.
    pub reconnect_cap_ms: u64,
    /// Per direction of a session.
    pub pipe_buffer_bytes: usize,
    /// A session of which one direction has ended is over when the other one
    /// carries nothing for this long.
    pub half_closed_idle_ms: u64,
    /// How long live sessions may go on after SIGTERM.
    pub shutdown_grace_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let (dial, rules, pipe) =
            (DialLimits::default(), PumpRules::default(), PipeLimits::default());
        Self {
            target_timeout_ms: 700,
            first_pdu_timeout_ms: 20_000,
            connect_timeout_ms: dial.connect_timeout_ms,
            handshake_timeout_ms: dial.handshake_timeout_ms,
            answer_timeout_ms: dial.answer_timeout_ms,
            heartbeat_interval_ms: rules.heartbeat_interval_ms,
            heartbeat_timeout_ms: rules.heartbeat_timeout_ms,
            reconnect_base_ms: 200,
            reconnect_cap_ms: 30_000,
            // Whole records.
            pipe_buffer_bytes: 4 * HOST_RECORD_DATA_MAX,
            half_closed_idle_ms: pipe.half_closed_idle_ms,
            shutdown_grace_ms: 30_000,
        }
    }
}

impl Limits {
    #[must_use]
    pub const fn dial(&self) -> DialLimits {
        DialLimits {
            connect_timeout_ms: self.connect_timeout_ms,
            handshake_timeout_ms: self.handshake_timeout_ms,
            answer_timeout_ms: self.answer_timeout_ms,
        }
    }

    #[must_use]
    pub const fn pipe(&self) -> PipeLimits {
        PipeLimits {
            buffer_bytes: self.pipe_buffer_bytes,
            half_closed_idle_ms: self.half_closed_idle_ms,
        }
    }

    #[must_use]
    pub fn channel(&self) -> PumpRules {
        PumpRules {
            heartbeat_interval_ms: self.heartbeat_interval_ms,
            heartbeat_timeout_ms: self.heartbeat_timeout_ms,
            ..PumpRules::default()
        }
    }
}

impl AgentConfig {
    /// The defaults, with keys in this directory.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            target: default_target(),
            rdsaad: false,
            sessions_max: default_sessions_max(),
            labels: Vec::new(),
            gateway_ca: None,
            health: HealthSettings::default(),
            tls: TlsSettings::default(),
            limits: Limits::default(),
        }
    }

    /// Host and port of the target; an IPv6 address stands in brackets.
    #[must_use]
    pub fn target_parts(&self) -> Option<(&str, u16)> {
        let (host, port) = self.target.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        (!host.is_empty()).then_some((host, port))
    }

    /// Finds every key that cannot be used, says why and what to do.
    pub fn check(&self, found: &mut Findings) {
        if self.target_parts().is_none() {
            found.add(
                "agent.target",
                format!("{:?} is not host:port", self.target),
                "write the address of the RDP server, e.g. 127.0.0.1:3389",
            );
        }
        if self.sessions_max == 0 {
            found.add(
                "agent.sessions_max",
                "is 0",
                "allow at least one session, or do not run an agent",
            );
        }
        if self.labels.len() > LABELS_MAX {
            found.add(
                "agent.labels",
                format!("has {} names, more than {LABELS_MAX}", self.labels.len()),
                "keep those that you drain by",
            );
        }
        if self.rdsaad && self.health.certificate.is_some() {
            found.add(
                "agent.rdsaad",
                "the RDP server is not asked what it takes while agent.health.certificate is set",
                "leave agent.health.certificate out: the RDP server shows its certificate as well",
            );
        }
        self.health.check(found);
        let limits = &self.limits;
        found.add_zeros(
            "agent.limits",
            [
                ("target_timeout_ms", limits.target_timeout_ms),
                ("first_pdu_timeout_ms", limits.first_pdu_timeout_ms),
                ("connect_timeout_ms", limits.connect_timeout_ms),
                ("handshake_timeout_ms", limits.handshake_timeout_ms),
                ("answer_timeout_ms", limits.answer_timeout_ms),
                ("heartbeat_interval_ms", limits.heartbeat_interval_ms),
                ("heartbeat_timeout_ms", limits.heartbeat_timeout_ms),
                ("reconnect_base_ms", limits.reconnect_base_ms),
                ("half_closed_idle_ms", limits.half_closed_idle_ms),
            ],
        );
        if limits.reconnect_cap_ms < limits.reconnect_base_ms {
            found.add(
                "agent.limits.reconnect_cap_ms",
                format!("is below reconnect_base_ms ({})", limits.reconnect_base_ms),
                "make it the larger of the two",
            );
        }
        let buffer = limits.pipe_buffer_bytes as u64;
        found.add_out_of_range("agent.limits.pipe_buffer_bytes", 1_024, 16 * 1024 * 1024, buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(toml: &str) -> AgentConfig {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn a_state_directory_is_enough() {
        let config = parse("state_dir = '/var/lib/ringway/agent'");
        assert!(Findings::of(|found| config.check(found)).is_empty());
        assert_eq!(config.target_parts(), Some(("127.0.0.1", 3389)));
        assert!(toml::from_str::<AgentConfig>("state_dir = '/x'\ntypo = 1").is_err());
    }

    #[test]
    fn logons_by_token_need_a_server_that_is_asked() {
        let is_sound = |toml: &str| {
            let config = parse(toml);
            Findings::of(|found| config.check(found)).is_empty()
        };
        assert!(is_sound("state_dir = '/x'\nrdsaad = true"));
        let file = "[health]\ncertificate = '/x/rdp.pem'";
        assert!(!is_sound(&format!("state_dir = '/x'\nrdsaad = true\n{file}")));
        assert!(is_sound(&format!("state_dir = '/x'\n{file}")));
    }

    #[test]
    fn labels_are_names() {
        let labels = parse("state_dir = '/x'\nlabels = ['rack-1', 'gpu']").labels;
        assert_eq!(labels, ["rack-1", "gpu"].map(|label| label.parse().unwrap()));
        assert!(toml::from_str::<AgentConfig>("state_dir = '/x'\nlabels = ['Rack 1']").is_err());
    }

    #[test]
    fn targets_may_be_names_and_addresses() {
        let parts = |target: &str| {
            let config = parse(&format!("state_dir = '/x'\ntarget = '{target}'"));
            config.target_parts().map(|(host, port)| (host.to_owned(), port))
        };
        assert_eq!(parts("[::1]:3389"), Some(("::1".into(), 3389)));
        assert_eq!(parts("desk-7.example:13389"), Some(("desk-7.example".into(), 13389)));
        assert_eq!(parts("desk:0"), None);
    }
}
