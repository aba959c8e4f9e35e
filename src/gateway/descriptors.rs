//! How many descriptors a gateway needs, from its configuration alone, and
//! whether it may have as many.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::gateway::GatewayConfig;

/// A session has two legs.
const PER_SESSION: u64 = 2;
/// A relay worker: its ring and its bell.
const PER_WORKER: u64 = 2;
/// A lobby thread: its port, its ring, what tokio watches with.
const PER_LOBBY_THREAD: u64 = 8;
/// The channel to the broker, the admin socket and its connections, probes of
/// other gateways, standard streams, files that are being read.
const OTHERS: u64 = 128;

/// With as many sessions and connections as the limits allow.
#[must_use]
pub fn needed(config: &GatewayConfig) -> u64 {
    PER_SESSION * u64::from(config.limits.sessions_max)
        + u64::from(config.limits.lobby_connections_max)
        + PER_WORKER * config.relay_workers() as u64
        + PER_LOBBY_THREAD * u64::from(config.threads.lobby_threads)
        + OTHERS
}

/// Raises this process's limit to what is needed, as far as it may, and warns
/// when that is not enough.
pub fn make_room(config: &GatewayConfig) {
    let needed = needed(config);
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: raised(found, needed), maximum: found.maximum };
    if raised.current != found.current
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "Could not raise the limit of descriptors");
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && limit < needed
    {
        let for_sessions = limit.saturating_sub(needed - sessions(config));
        tracing::warn!(
            limit,
            needed,
            sessions_max = config.limits.sessions_max,
            // With the lobby full.
            enough_for_sessions = for_sessions / PER_SESSION,
            "Too few descriptors for the configured limits; raise LimitNOFILE= of the unit"
        );
    }
}

fn sessions(config: &GatewayConfig) -> u64 {
    PER_SESSION * u64::from(config.limits.sessions_max)
}

/// The soft limit to ask for; none is no limit.
fn raised(found: Rlimit, needed: u64) -> Option<u64> {
    let current = found.current?;
    let wanted = current.max(needed);
    Some(found.maximum.map_or(wanted, |hard| wanted.min(hard.max(current))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_to_what_is_needed_and_allowed() {
        let limit = |current, maximum| Rlimit { current, maximum };
        assert_eq!(raised(limit(Some(1_024), Some(4_096)), 3_000), Some(3_000));
        assert_eq!(raised(limit(Some(1_024), Some(2_048)), 3_000), Some(2_048));
        assert_eq!(raised(limit(Some(1_024), None), 3_000), Some(3_000));
        assert_eq!(raised(limit(Some(8_192), Some(8_192)), 3_000), Some(8_192));
        assert_eq!(raised(limit(None, None), 3_000), None);
    }

    #[test]
    fn each_limit_counts() {
        let need = |limits: &str| {
            let text = format!(
                "listen = \"127.0.0.1:0\"\nurl = \"https://gw:443\"\nstate_dir = \"/x\"\n\
                 [limits]\n{limits}"
            );
            needed(&toml::from_str(&text).unwrap())
        };
        let least = need("sessions_max = 1\nlobby_connections_max = 1");
        assert_eq!(need("sessions_max = 101\nlobby_connections_max = 1") - least, 200);
        assert_eq!(need("sessions_max = 1\nlobby_connections_max = 101") - least, 100);
    }
}
