//! What of a changed configuration a running gateway takes over: see
//! [`crate::config::reload`].

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use super::shared::Shared;
use crate::channel::enroll::{CERTIFICATE_FILE, Enrolment, KEY_FILE, RECORD_FILE};
use crate::config::File;
use crate::config::gateway::{GatewayConfig, GatewayLimits};
use crate::config::reload::{RoleConfig, Unusable};
use crate::tls::identity::{read_chain, read_key};
use crate::tls::live_certificate::LiveCertificate;
use crate::wire::enroll::MachineRole;

/// What a gateway shows of itself, and whose it is.
#[derive(Debug)]
pub struct Certificates {
    /// To who connects: configured, or the machine's.
    pub port: Arc<LiveCertificate>,
    /// To the broker.
    pub machine: Arc<LiveCertificate>,
    enrolment: Enrolment,
}

impl Certificates {
    /// # Errors
    /// When a file cannot be read, or a key is not its certificate's.
    pub fn load(config: &GatewayConfig, enrolment: Enrolment) -> anyhow::Result<Self> {
        let port = match (&config.tls_certificate, &config.tls_key) {
            (Some(chain), Some(key)) => config.tls.certificate(read_chain(chain)?, read_key(key)?),
            _ => enrolment.certificate(config.tls),
        };
        let port = port.context("the gateway's certificate and key")?;
        let machine = enrolment.certificate(config.tls)?;
        Ok(Self { port, machine, enrolment })
    }

    #[must_use]
    pub const fn enrolment(&self) -> &Enrolment {
        &self.enrolment
    }
}

impl RoleConfig for GatewayConfig {
    const TABLE: &'static str = "[gateway]";

    // What memory, descriptors, threads and rings are laid out for is not here.
    const LIVE: &'static [&'static str] = &[
        "gateway.limits.body_bytes_max",
        "gateway.limits.broker_timeout_ms",
        "gateway.limits.client_sample_age_ms_max",
        "gateway.limits.handshake_timeout_ms",
        "gateway.limits.head_bytes_max",
        "gateway.limits.lobby_connections_per_address_max",
        "gateway.limits.lobby_lifetime_ms",
        "gateway.limits.pair_timeout_ms",
        "gateway.limits.reauthenticate_after_ms",
        "gateway.limits.reauthentication_timeout_ms",
        "gateway.limits.request_timeout_ms",
        "gateway.limits.requests_per_connection_max",
        "gateway.limits.sample_age_ms_max",
        "gateway.limits.shutdown_grace_ms",
        "gateway.limits.unreachable_after_probes",
        "gateway.limits.waiting_max",
        "gateway.limits.waiting_per_address_max",
        "gateway.limits.write_timeout_ms",
        "gateway.tls_certificate",
        "gateway.tls_key",
    ];

    fn of(file: File) -> Option<Self> {
        file.gateway
    }

    fn files(&self) -> Vec<PathBuf> {
        let enrolment = [RECORD_FILE, CERTIFICATE_FILE, KEY_FILE];
        let enrolment = enrolment.map(|name| self.state_dir.join(name));
        self.tls_certificate.iter().chain(&self.tls_key).cloned().chain(enrolment).collect()
    }
}

/// Takes over what [`RoleConfig::LIVE`] names, or nothing.
pub(super) fn adopt(shared: &Shared, new: GatewayConfig) -> Result<(), Unusable> {
    let next = merged(&shared.config(), new);
    let remedy = "the certificate in use stays; give a certificate and its key";
    let enrolment = Enrolment::load_as(&next.state_dir, MachineRole::Gateway)
        .map_err(|error| Unusable::new("gateway.state_dir", error, remedy))?;
    if !enrolment.is_same_machine(shared.certificates.enrolment()) {
        return Err(Unusable::new(
            "gateway.state_dir",
            "holds the enrolment of another name or broker",
            "restart the gateway to use it",
        ));
    }
    let certificates = Certificates::load(&next, enrolment)
        .map_err(|error| Unusable::new("gateway.tls_certificate", format!("{error:#}"), remedy))?;

    // Nothing fails from here on.
    shared.certificates.port.become_like(&certificates.port);
    shared.certificates.machine.become_like(&certificates.machine);
    shared.replace_config(next);
    Ok(())
}

/// The old configuration with all of the new one that can change.
fn merged(old: &GatewayConfig, new: GatewayConfig) -> GatewayConfig {
    GatewayConfig {
        tls_certificate: new.tls_certificate,
        tls_key: new.tls_key,
        limits: merged_limits(&old.limits, &new.limits),
        ..old.clone()
    }
}

const fn merged_limits(old: &GatewayLimits, new: &GatewayLimits) -> GatewayLimits {
    GatewayLimits {
        body_bytes_max: new.body_bytes_max,
        broker_timeout_ms: new.broker_timeout_ms,
        client_sample_age_ms_max: new.client_sample_age_ms_max,
        handshake_timeout_ms: new.handshake_timeout_ms,
        head_bytes_max: new.head_bytes_max,
        lobby_connections_per_address_max: new.lobby_connections_per_address_max,
        lobby_lifetime_ms: new.lobby_lifetime_ms,
        pair_timeout_ms: new.pair_timeout_ms,
        reauthenticate_after_ms: new.reauthenticate_after_ms,
        reauthentication_timeout_ms: new.reauthentication_timeout_ms,
        request_timeout_ms: new.request_timeout_ms,
        requests_per_connection_max: new.requests_per_connection_max,
        sample_age_ms_max: new.sample_age_ms_max,
        shutdown_grace_ms: new.shutdown_grace_ms,
        unreachable_after_probes: new.unreachable_after_probes,
        waiting_max: new.waiting_max,
        waiting_per_address_max: new.waiting_per_address_max,
        write_timeout_ms: new.write_timeout_ms,
        ..*old
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
