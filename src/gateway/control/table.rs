//! What a gateway knows about all gateways, and the candidates it makes of it
//! for the selection.

use std::collections::{HashMap, VecDeque};

use crate::core::ids::GatewayId;
use crate::core::selection::{Candidate, Rtt, RttSource};
use crate::wire::arm::RttSample;
use crate::wire::channel::GatewayEntry;

/// The table from the broker with our own measurements. Times are monotonic
/// milliseconds of the caller's clock.
#[derive(Debug, Default)]
pub struct GatewayTable {
    entries: Vec<GatewayEntry>,
    /// Placed by us since the table came; the broker counts them in its next.
    placed_since: HashMap<GatewayId, u32>,
    probes: HashMap<GatewayId, Probe>,
}

/// The last round trips to one gateway. The shortest is the path; what the
/// others took longer was a queue or a busy core.
#[derive(Clone, Debug, Default)]
struct Probe {
    rtts_us: VecDeque<u64>,
    at_ms: u64,
}

/// Round trips that are remembered of one gateway.
const PROBES_KEPT: usize = 8;

/// What is known about the client that asks.
#[derive(Clone, Copy, Debug)]
pub struct ClientView<'a> {
    /// Round trip of the client to this gateway, if the kernel knows it.
    pub rtt_us: Option<u64>,
    /// What the client measured itself.
    pub samples: &'a [RttSample],
}

impl GatewayTable {
    pub fn replace(&mut self, entries: Vec<GatewayEntry>) {
        self.probes.retain(|gateway, _| entries.iter().any(|e| e.gateway == *gateway));
        self.entries = entries;
        self.placed_since.clear();
    }

    pub fn entries(&self) -> &[GatewayEntry] {
        &self.entries
    }

    pub fn count_placement(&mut self, gateway: &GatewayId) {
        *self.placed_since.entry(gateway.clone()).or_insert(0) += 1;
    }

    pub fn record_probe(&mut self, gateway: GatewayId, rtt_us: u64, now_ms: u64) {
        let probe = self.probes.entry(gateway).or_default();
        if probe.rtts_us.len() >= PROBES_KEPT {
            probe.rtts_us.pop_front();
        }
        probe.rtts_us.push_back(rtt_us);
        probe.at_ms = now_ms;
    }

    /// Gateways that a probe has reached.
    pub fn measured(&self) -> usize {
        self.probes.len()
    }

    /// Round trip and age of the last probe of each gateway, for display.
    pub fn probed(&self, gateway: &GatewayId, now_ms: u64) -> Option<Rtt> {
        let probe = self.probes.get(gateway)?;
        let age_ms = now_ms.saturating_sub(probe.at_ms);
        let us = probe.rtts_us.iter().copied().min()?;
        Some(Rtt { us, age_ms, source: RttSource::Probe })
    }

    /// Every gateway with the best round trip that is known for this client:
    /// what the client measured, else what we measured plus the client's way
    /// to us.
    pub fn candidates(
        &self,
        own: &GatewayId,
        client: ClientView<'_>,
        now_ms: u64,
    ) -> Vec<Candidate> {
        self.entries
            .iter()
            .map(|entry| {
                let placed = self.placed_since.get(&entry.gateway).copied().unwrap_or(0);
                Candidate {
                    gateway: entry.gateway.clone(),
                    url: entry.url.clone(),
                    rtt: self.rtt(&entry.gateway, own, client, now_ms),
                    connections: entry.connections,
                    in_flight: entry.in_flight.saturating_add(placed),
                    capacity: entry.capacity,
                    draining: entry.draining,
                }
            })
            .collect()
    }

    fn rtt(
        &self,
        gateway: &GatewayId,
        own: &GatewayId,
        client: ClientView<'_>,
        now_ms: u64,
    ) -> Option<Rtt> {
        if let Some(sample) = client.samples.iter().find(|s| s.gateway == *gateway) {
            return Some(Rtt { us: sample.rtt_us, age_ms: 0, source: RttSource::Client });
        }
        let to_us = client.rtt_us.unwrap_or(0);
        if gateway == own {
            return Some(Rtt { us: to_us, age_ms: 0, source: RttSource::Entry });
        }
        let probe = self.probed(gateway, now_ms)?;
        Some(Rtt { us: probe.us.saturating_add(to_us), ..probe })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> GatewayEntry {
        GatewayEntry {
            gateway: name.parse().unwrap(),
            url: format!("https://{name}:443"),
            connections: 5,
            in_flight: 1,
            capacity: 100,
            draining: false,
            age_ms: 0,
        }
    }

    #[test]
    fn the_best_source_of_a_round_trip_wins() {
        let mut table = GatewayTable::default();
        table.replace(["own", "probed", "sampled", "unknown"].map(entry).into());
        table.record_probe("probed".parse().unwrap(), 4_000, 100);
        table.record_probe("sampled".parse().unwrap(), 4_000, 100);
        let samples = [RttSample { gateway: "sampled".parse().unwrap(), rtt_us: 77 }];
        let client = ClientView { rtt_us: Some(1_000), samples: &samples };
        let own = "own".parse().unwrap();
        let rtts: Vec<_> = table.candidates(&own, client, 350).into_iter().map(|c| c.rtt).collect();
        let rtt = |us, age_ms, source| Some(Rtt { us, age_ms, source });
        assert_eq!(
            rtts,
            [
                rtt(1_000, 0, RttSource::Entry),
                rtt(5_000, 250, RttSource::Probe),
                rtt(77, 0, RttSource::Client),
                None
            ]
        );
    }

    #[test]
    fn a_busy_core_does_not_make_a_gateway_far() {
        let mut table = GatewayTable::default();
        let a: GatewayId = "a".parse().unwrap();
        table.replace(vec![entry("a")]);
        for rtt_us in [40_000, 900, 30_000] {
            table.record_probe(a.clone(), rtt_us, 5);
        }
        assert_eq!(table.probed(&a, 7).map(|rtt| (rtt.us, rtt.age_ms)), Some((900, 2)));
        // A path that has become longer is believed after a while.
        for _ in 0..PROBES_KEPT {
            table.record_probe(a.clone(), 20_000, 9);
        }
        assert_eq!(table.probed(&a, 9).map(|rtt| rtt.us), Some(20_000));
    }

    #[test]
    fn own_placements_count_until_the_next_table() {
        let mut table = GatewayTable::default();
        table.replace(vec![entry("a")]);
        let a: GatewayId = "a".parse().unwrap();
        table.count_placement(&a);
        let client = ClientView { rtt_us: None, samples: &[] };
        assert_eq!(table.candidates(&a, client, 0)[0].in_flight, 2);
        table.replace(vec![entry("a")]);
        assert_eq!(table.candidates(&a, client, 0)[0].in_flight, 1);
    }
}
