//! What the syntax cannot say: keys that need or contradict each other.

use super::GatewayConfig;
use crate::config::Findings;
use crate::config::admin::{check_peers, check_socket};
use crate::config::certificates::check_pair;
use crate::dial::endpoint::is_origin;
use crate::tls::handshake::PLAINTEXT_LIMIT;

/// Of relayed sessions: more than a machine has descriptors for.
const SESSIONS_MAX: u64 = 400_000;
/// Shorter dumps would wear the disk.
const DUMP_INTERVAL_MS_MIN: u64 = 1_000;

impl GatewayConfig {
    /// Finds every key that cannot be used, says why and what to do.
    pub fn check(&self, found: &mut Findings) {
        if !is_origin(&self.url) {
            found.add(
                "gateway.url",
                format!("{:?} is not https://name:port", self.url),
                "write https://name:port without a path",
            );
        }
        check_pair(found, "gateway", self.tls_certificate.as_ref(), self.tls_key.as_ref());
        check_socket(found, "gateway", &self.admin_socket());
        check_peers(found, "gateway", self.admin_socket.as_deref(), &self.admin_peers());
        self.check_limits(found);
        self.check_times(found);
        self.check_threads(found);
        self.check_histograms(found);
    }

    fn check_limits(&self, found: &mut Findings) {
        let limits = &self.limits;
        let table = "gateway.limits";
        let most = limits.sessions_max.into();
        found.add_out_of_range(format!("{table}.sessions_max"), 1, SESSIONS_MAX, most);
        let lobby_keeps = PLAINTEXT_LIMIT as u64;
        let (head, body) = (limits.head_bytes_max as u64, limits.body_bytes_max as u64);
        found.add_out_of_range(format!("{table}.head_bytes_max"), 1_024, lobby_keeps, head);
        found.add_out_of_range(format!("{table}.body_bytes_max"), 1, lobby_keeps, body);
        let output = limits.leg_output_bytes_max as u64;
        found.add_out_of_range(format!("{table}.leg_output_bytes_max"), 32 * 1024, 1 << 30, output);
        found.add_zeros(
            table,
            [
                ("lobby_connections_max", limits.lobby_connections_max),
                ("lobby_connections_per_address_max", limits.lobby_connections_per_address_max),
                ("waiting_max", limits.waiting_max),
                ("waiting_per_address_max", limits.waiting_per_address_max),
                ("requests_per_connection_max", limits.requests_per_connection_max),
                ("unreachable_after_probes", limits.unreachable_after_probes),
            ]
            .map(|(name, number)| (name, number.into())),
        );
    }

    fn check_times(&self, found: &mut Findings) {
        let limits = &self.limits;
        let table = "gateway.limits";
        found.add_zeros(
            table,
            [
                ("handshake_timeout_ms", limits.handshake_timeout_ms),
                ("request_timeout_ms", limits.request_timeout_ms),
                ("pair_timeout_ms", limits.pair_timeout_ms),
                ("write_timeout_ms", limits.write_timeout_ms),
                ("broker_timeout_ms", limits.broker_timeout_ms),
                ("half_close_timeout_ms", limits.half_close_timeout_ms),
                ("reauthentication_timeout_ms", limits.reauthentication_timeout_ms),
                ("lobby_lifetime_ms", limits.lobby_lifetime_ms),
                ("sample_age_ms_max", limits.sample_age_ms_max),
                ("client_sample_age_ms_max", limits.client_sample_age_ms_max),
            ],
        );
        if limits.lobby_lifetime_ms < limits.handshake_timeout_ms {
            found.add(
                format!("{table}.lobby_lifetime_ms"),
                format!("is below handshake_timeout_ms ({})", limits.handshake_timeout_ms),
                "make it the larger of the two",
            );
        }
        if limits.lifetime_ms > 0 && limits.idle_timeout_ms > limits.lifetime_ms {
            found.add(
                format!("{table}.idle_timeout_ms"),
                format!(
                    "is above lifetime_ms ({}), which ends a session first",
                    limits.lifetime_ms
                ),
                "make it the smaller of the two, or 0",
            );
        }
        let channel = &self.channel;
        found.add_zeros(
            "gateway.channel",
            [
                ("heartbeat_interval_ms", channel.heartbeat_interval_ms),
                ("heartbeat_timeout_ms", channel.heartbeat_timeout_ms),
                ("reconnect_base_ms", channel.reconnect_base_ms),
                ("reconnect_cap_ms", channel.reconnect_cap_ms),
            ],
        );
        if channel.reconnect_cap_ms < channel.reconnect_base_ms {
            found.add(
                "gateway.channel.reconnect_cap_ms",
                format!("is below reconnect_base_ms ({})", channel.reconnect_base_ms),
                "make it the larger of the two",
            );
        }
    }

    fn check_threads(&self, found: &mut Findings) {
        let threads = &self.threads;
        found.add_zeros(
            "gateway.threads",
            [
                ("lobby_threads", u64::from(threads.lobby_threads)),
                ("output_slots", u64::from(threads.output_slots)),
                ("probe_interval_ms", threads.probe_interval_ms),
            ],
        );
        if !threads.rx_buffers.is_power_of_two() {
            found.add(
                "gateway.threads.rx_buffers",
                format!("{} is not a power of two", threads.rx_buffers),
                "choose 4, 8 or 16, or leave it out for the default",
            );
        }
    }

    fn check_histograms(&self, found: &mut Findings) {
        let histograms = &self.histograms;
        if (1..DUMP_INTERVAL_MS_MIN).contains(&histograms.interval_ms) {
            found.add(
                "gateway.histograms.interval_ms",
                format!("{} is too short for the disk", histograms.interval_ms),
                "choose at least 1000, or 0 for dumps on SIGUSR1 alone",
            );
        }
        let bytes = histograms.file_bytes_max;
        found.add_out_of_range("gateway.histograms.file_bytes_max", 4_096, 1 << 30, bytes);
        let files = histograms.files_max.into();
        found.add_out_of_range("gateway.histograms.files_max", 1, 10_000, files);
    }
}
