//! What of a changed configuration a running agent takes over: see
//! [`crate::config::reload`]. Sessions that run keep what they began with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Agent, Request, Target, gateway_dialer, tcp_target};
use crate::channel::enroll::{CERTIFICATE_FILE, Enrolment, KEY_FILE, RECORD_FILE};
use crate::config::File;
use crate::config::agent::{AgentConfig, Limits};
use crate::config::reload::{RoleConfig, Unusable};
use crate::dial::Dialer;
use crate::dial::pipe::PipeLimits;
use crate::wire::enroll::MachineRole;

/// What the next order is carried out with.
pub(super) struct Changes {
    pub target: Arc<dyn Target>,
    pub limits: Limits,
    pub dialer: Dialer,
    pub pipe: PipeLimits,
    pub grace: Duration,
}

impl RoleConfig for AgentConfig {
    const TABLE: &'static str = "[agent]";

    // The broker hears of `sessions_max` in a hello.
    const LIVE: &'static [&'static str] = &[
        "agent.gateway_ca",
        "agent.limits.first_pdu_timeout_ms",
        "agent.limits.half_closed_idle_ms",
        "agent.limits.pipe_buffer_bytes",
        "agent.limits.shutdown_grace_ms",
        "agent.limits.target_timeout_ms",
        "agent.target",
    ];

    fn of(file: File) -> Option<Self> {
        file.agent
    }

    fn files(&self) -> Vec<PathBuf> {
        let enrolment = [RECORD_FILE, CERTIFICATE_FILE, KEY_FILE];
        let enrolment = enrolment.map(|name| self.state_dir.join(name));
        self.gateway_ca.iter().cloned().chain(enrolment).collect()
    }
}

impl Agent {
    /// Takes over what [`RoleConfig::LIVE`] names, or nothing.
    ///
    /// # Errors
    /// What cannot be used.
    pub async fn adopt(&self, new: AgentConfig) -> Result<(), Unusable> {
        let next = merged(&self.config, new);
        let remedy = "the certificate in use stays; run ringway enroll --force";
        let unusable =
            |problem: &dyn ToString| Unusable::new("agent.state_dir", problem.to_string(), remedy);
        let enrolment = Enrolment::load_as(&next.state_dir, MachineRole::Agent)
            .map_err(|error| unusable(&error))?;
        if !enrolment.is_same_machine(&self.enrolment) {
            return Err(Unusable::new(
                "agent.state_dir",
                "holds the enrolment of another name or broker",
                "restart the agent to use it",
            ));
        }
        let certificate = enrolment.certificate(next.tls).map_err(|error| unusable(&error))?;
        let dialer = gateway_dialer(&next, &enrolment).map_err(|error| {
            Unusable::new("agent.gateway_ca", error, "name a PEM file with CA certificates")
        })?;
        let target = tcp_target(&next)
            .map_err(|error| Unusable::new("agent.target", error, "write host:port"))?;

        // Nothing fails from here on.
        self.certificate.become_like(&certificate);
        let changes = Changes {
            target: Arc::new(target),
            limits: next.limits,
            dialer,
            pipe: next.limits.pipe(),
            grace: Duration::from_millis(next.limits.shutdown_grace_ms),
        };
        let (done, is_done) = oneshot::channel();
        if self.requests.send(Request::Adopt(Box::new(changes), done)).await.is_ok() {
            let _stopping = is_done.await;
        }
        Ok(())
    }
}

/// The old configuration with all of the new one that can change.
fn merged(old: &AgentConfig, new: AgentConfig) -> AgentConfig {
    AgentConfig {
        target: new.target,
        gateway_ca: new.gateway_ca,
        limits: Limits {
            first_pdu_timeout_ms: new.limits.first_pdu_timeout_ms,
            half_closed_idle_ms: new.limits.half_closed_idle_ms,
            pipe_buffer_bytes: new.limits.pipe_buffer_bytes,
            shutdown_grace_ms: new.limits.shutdown_grace_ms,
            target_timeout_ms: new.limits.target_timeout_ms,
            ..old.limits
        },
        ..old.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reload::testing::assert_live_is_what_is_merged;

    #[test]
    fn what_is_taken_over_is_what_is_declared_to_be() {
        assert_live_is_what_is_merged(merged);
    }
}
