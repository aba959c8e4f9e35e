//! How much memory a gateway needs, from its configuration alone: what it takes
//! with everybody's sessions as they usually are, and what it can be made to
//! take by peers that all behave as badly as they may.

use super::lobby::{BUFFER_BYTES, BUFFERS};
use super::relay::ring::{RX_BUFFER_BYTES, SLOT_BYTES};
use crate::config::gateway::GatewayConfig;
use crate::tls::handshake::{INCOMING_LIMIT, OUTGOING_LIMIT, PLAINTEXT_LIMIT};
use crate::tls::record::MAX_PLAINTEXT_LEN;

/// A pair of legs that is idle or whose readers keep up: measured.
const SESSION_TYPICAL: u64 = 12 * 1024;
/// A connection of the lobby between its handshake and its ticket: the state of
/// rustls, what was received, a task. Estimated generously.
const CONNECTION_TYPICAL: u64 = 64 * 1024;
/// Handshake messages that rustls joins.
const HANDSHAKE_MAX: u64 = 64 * 1024;
/// One output slot of a worker.
const OUTPUT_SLOT: u64 = SLOT_BYTES as u64;
/// A receive buffer's worth of records, as they are sealed for the other leg:
/// with a few bytes more each, and the rest of one that was kept.
const SEALED_BUFFER: u64 = (RX_BUFFER_BYTES + 32 * 1024) as u64;

/// Bytes, besides the kernel's socket buffers and the program itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    pub typical: u64,
    pub at_most: u64,
}

impl MemoryNeed {
    /// With as many sessions and connections as the limits allow.
    #[must_use]
    pub fn of(config: &GatewayConfig) -> Self {
        let limits = &config.limits;
        let rx_buffers = u64::from(config.threads.rx_buffers);
        // A receive buffer may become a slot and is as large.
        let worker = (rx_buffers + u64::from(config.threads.output_slots)) * OUTPUT_SLOT;
        let lobby_thread = (BUFFERS * BUFFER_BYTES) as u64;
        let fixed = worker * config.relay_workers() as u64
            + lobby_thread * u64::from(config.threads.lobby_threads);

        let sessions = u64::from(limits.sessions_max);
        let connections = u64::from(limits.lobby_connections_max);
        // A sender is stopped when the output for its peer is above the limit;
        // what the worker had received by then, every buffer at worst, is
        // relayed still. On top comes a record that has not arrived whole.
        let leg = limits.leg_output_bytes_max as u64
            + rx_buffers * SEALED_BUFFER
            + MAX_PLAINTEXT_LEN as u64;
        let connection = HANDSHAKE_MAX
            + (INCOMING_LIMIT + PLAINTEXT_LIMIT + MAX_PLAINTEXT_LEN + OUTGOING_LIMIT) as u64
            + (limits.head_bytes_max + limits.body_bytes_max) as u64;
        Self {
            typical: fixed + sessions * SESSION_TYPICAL + connections * CONNECTION_TYPICAL,
            at_most: fixed
                + sessions * (SESSION_TYPICAL + 2 * leg)
                + connections * (CONNECTION_TYPICAL + connection),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(limits: &str) -> MemoryNeed {
        let text = format!(
            "listen = \"127.0.0.1:0\"\nurl = \"https://gw:443\"\nstate_dir = \"/x\"\n\
             [threads]\nrelay_workers = 2\n[limits]\n{limits}"
        );
        MemoryNeed::of(&toml::from_str(&text).unwrap())
    }

    #[test]
    fn each_limit_counts() {
        let least = need("sessions_max = 1\nlobby_connections_max = 1");
        let worker = (8 + 256) * 288 * 1024;
        assert!(least.typical > 2 * worker && least.typical < 2 * worker + 2 * 1024 * 1024);

        let sessions = need("sessions_max = 1001\nlobby_connections_max = 1");
        assert_eq!(sessions.typical - least.typical, 1_000 * 12 * 1024);
        // Both legs full, each with what was received when its sender stopped.
        let leg = 512 * 1024 + 8 * 288 * 1024 + 16 * 1024;
        assert_eq!(sessions.at_most - least.at_most, 1_000 * (12 * 1024 + 2 * leg));

        let connections = need("sessions_max = 1\nlobby_connections_max = 1001");
        assert!(connections.at_most - least.at_most > 1_000 * (512 + 72 + 64) * 1024);
        let output =
            need("sessions_max = 1\nlobby_connections_max = 1\nleg_output_bytes_max = 1048576");
        assert_eq!(output.at_most - least.at_most, 2 * 512 * 1024);
    }
}
