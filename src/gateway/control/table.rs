//! What a gateway knows about all gateways, and the choice that it makes of it
//! for a client (step 7).

use std::collections::{HashMap, HashSet, VecDeque};

use fnv::FnvBuildHasher;

use super::digests::{Digest, Digests};
use crate::config::gateway::GatewayLimits;
use crate::core::ids::{GatewayId, SessionId};
use crate::core::selection::{
    Candidate, Explain, Rtt, RttSource, Selection, Way, mark, select, select_ranked,
};
use crate::wire::arm::{LISTED_MAX, ListedGateway, RttSample, SAMPLES_MAX};
use crate::wire::channel::GatewayEntry;

/// Round trips that are remembered of one gateway.
const PROBES_KEPT: usize = 8;
/// No way around the earth and no queue takes longer, and no TLS port answers
/// in no time: what a client says beyond that was not measured.
const PLAUSIBLE_US: std::ops::RangeInclusive<u64> = 1..=10_000_000;

/// How old a measurement may be, and when a gateway counts as unreachable.
#[derive(Clone, Copy, Debug)]
pub struct TableRules {
    pub sample_age_ms_max: u64,
    pub client_sample_age_ms_max: u64,
    pub unreachable_after_probes: u32,
}

impl From<&GatewayLimits> for TableRules {
    fn from(limits: &GatewayLimits) -> Self {
        Self {
            sample_age_ms_max: limits.sample_age_ms_max,
            client_sample_age_ms_max: limits.client_sample_age_ms_max,
            unreachable_after_probes: limits.unreachable_after_probes,
        }
    }
}

/// The table from the broker with our own measurements. Times are monotonic
/// milliseconds of the caller's clock.
#[derive(Debug)]
pub struct GatewayTable {
    own: GatewayId,
    rules: TableRules,
    entries: Vec<GatewayEntry>,
    /// Entry by entry, nothing but numbers.
    rows: Vec<Row>,
    /// Of each row, what a selection looks at.
    digests: Digests,
    /// Of each row, for ties.
    marks: Vec<u64>,
    /// The names are the broker's: nobody else could make them collide.
    index: HashMap<GatewayId, usize, FnvBuildHasher>,
    probes: HashMap<GatewayId, Probe>,
}

/// One gateway of the table, in numbers.
#[derive(Clone, Copy, Debug)]
struct Row {
    mark: u64,
    connections: u32,
    /// The broker's, and what was placed by us since the table came: the next
    /// one has those.
    in_flight: u32,
    capacity: u32,
    draining: bool,
    is_own: bool,
    probed: Probed,
}

/// What the probes of a gateway come to.
#[derive(Clone, Copy, Debug, Default)]
struct Probed {
    rtt_us: Option<u64>,
    at_ms: u64,
    is_unreachable: bool,
}

/// The last round trips to one gateway. The shortest is the path; what the
/// others took longer was a queue or a busy core.
#[derive(Clone, Debug, Default)]
struct Probe {
    rtts_us: VecDeque<u64>,
    at_ms: u64,
    /// Since one got there.
    failures: u32,
}

/// What is known about the client that asks.
///
/// Its own measurements are believed within limits, because they can harm
/// nobody else: a client that lies sends itself to a gateway that is farther
/// away. It cannot fill a gateway beyond its capacity, make one look full,
/// unreachable or far to others, or learn of more than the names in the record:
/// connections, capacity and reachability for everybody are our own and the
/// broker's, and nothing that one client said is kept for the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientView<'a> {
    /// Round trip of the client to this gateway, if the kernel knows it.
    pub rtt_us: Option<u64>,
    /// What the client measured itself.
    pub samples: &'a [RttSample],
    /// Where the client did not get.
    pub unreachable: &'a [GatewayId],
}

impl GatewayTable {
    #[must_use]
    pub fn new(own: GatewayId, rules: TableRules) -> Self {
        Self {
            own,
            rules,
            entries: Vec::new(),
            rows: Vec::new(),
            digests: Digests::default(),
            marks: Vec::new(),
            index: HashMap::default(),
            probes: HashMap::new(),
        }
    }

    /// Other rules from now on. Probes are judged by them when the next one
    /// comes, or the next table.
    pub const fn set_rules(&mut self, rules: TableRules) {
        self.rules = rules;
    }

    pub fn replace(&mut self, entries: Vec<GatewayEntry>) {
        let names: HashSet<&GatewayId> = entries.iter().map(|entry| &entry.gateway).collect();
        self.probes.retain(|gateway, _| names.contains(gateway));
        self.index =
            entries.iter().enumerate().map(|(index, e)| (e.gateway.clone(), index)).collect();
        let rules = self.rules;
        let row = |entry: &GatewayEntry| Row {
            mark: mark(&entry.gateway),
            connections: entry.connections,
            in_flight: entry.in_flight,
            capacity: entry.capacity,
            draining: entry.draining,
            is_own: entry.gateway == self.own,
            probed: self
                .probes
                .get(&entry.gateway)
                .map_or(Probed::default(), |probe| probe.summary(&rules)),
        };
        self.rows = entries.iter().map(row).collect();
        self.digests = self.rows.iter().map(|row| row.digest(&rules)).collect();
        self.marks = self.rows.iter().map(|row| row.mark).collect();
        self.entries = entries;
    }

    pub fn entries(&self) -> &[GatewayEntry] {
        &self.entries
    }

    pub fn count_placement(&mut self, gateway: &GatewayId) {
        self.change(gateway, |row| row.in_flight = row.in_flight.saturating_add(1));
    }

    /// A round trip, or `None` for a probe that did not get there.
    pub fn record_probe(&mut self, gateway: GatewayId, rtt_us: Option<u64>, now_ms: u64) {
        let probe = self.probes.entry(gateway.clone()).or_default();
        match rtt_us {
            None => probe.failures = probe.failures.saturating_add(1),
            Some(rtt_us) => {
                if probe.rtts_us.len() >= PROBES_KEPT {
                    probe.rtts_us.pop_front();
                }
                probe.rtts_us.push_back(rtt_us);
                probe.at_ms = now_ms;
                probe.failures = 0;
            }
        }
        let summary = probe.summary(&self.rules);
        if !self.change(&gateway, |row| row.probed = summary) {
            // Its last word came after it had left the table.
            self.probes.remove(&gateway);
        }
    }

    /// Gateways that a probe has reached.
    pub fn measured(&self) -> usize {
        self.rows.iter().filter(|row| row.probed.rtt_us.is_some()).count()
    }

    /// Puts all gateways in order for a session of this client: by what the
    /// client measured, else by what we measured plus the client's way to us.
    #[must_use]
    pub fn select(&self, client: ClientView<'_>, session: SessionId, now_ms: u64) -> Selection {
        let said = self.said_by(client);
        let mut ranks = self.digests.ranks(client.rtt_us.unwrap_or(0), now_ms);
        for (index, way) in &said {
            if let (Some(rank), Some(row)) = (ranks.get_mut(*index), self.rows.get(*index)) {
                *rank = row.candidate(*way).rank();
            }
        }
        let candidate = |index: usize| {
            let row = self.rows.get(index)?;
            let at = said.binary_search_by_key(&index, |(of, _)| *of).ok();
            let said = at.and_then(|at| said.get(at)).map(|(_, way)| *way);
            Some(row.candidate(said.unwrap_or_else(|| self.way(row, client.rtt_us, now_ms))))
        };
        select_ranked(&ranks, &self.marks, candidate, session, None)
    }

    /// Why a selection of this table came out as it did.
    #[must_use]
    pub fn explain(&self, selection: &Selection) -> Explain {
        selection.explain(|index| self.entries.get(index).map(|entry| entry.gateway.clone()))
    }

    /// The same with nothing but this gateway to choose.
    #[must_use]
    pub fn explain_own(&self, client: ClientView<'_>, session: SessionId, now_ms: u64) -> Explain {
        let own = self.rows.iter().find(|row| row.is_own);
        let own = own.map(|row| row.candidate(self.way(row, client.rtt_us, now_ms)));
        select(own, session, None).explain(|_| Some(self.own.clone()))
    }

    /// Where a client may measure its way to: the best, as it looks from here.
    #[must_use]
    pub fn listed(&self, client_rtt_us: Option<u64>, now_ms: u64) -> Vec<ListedGateway> {
        let client = ClientView { rtt_us: client_rtt_us, ..ClientView::default() };
        let selection = self.select(client, SessionId([0; 16]), now_ms);
        let entries = selection.in_order().filter_map(|index| self.entries.get(index));
        let listed = entries
            .map(|entry| ListedGateway { gateway: entry.gateway.clone(), url: entry.url.clone() });
        listed.take(LISTED_MAX).collect()
    }

    /// What the client says of its ways, as far as it is believed, by index.
    fn said_by(&self, client: ClientView<'_>) -> Vec<(usize, Way)> {
        let age_ms_max = self.rules.client_sample_age_ms_max;
        let measured = client.samples.iter().take(SAMPLES_MAX).filter_map(|sample| {
            let rtt = Rtt { us: sample.rtt_us, age_ms: sample.age_ms, source: RttSource::Client };
            let believed = PLAUSIBLE_US.contains(&rtt.us) && rtt.age_ms <= age_ms_max;
            let index = self.index.get(&sample.gateway)?;
            believed.then_some((*index, Way::Measured(rtt)))
        });
        let unreachable = client
            .unreachable
            .iter()
            .take(SAMPLES_MAX)
            .filter_map(|gateway| Some((*self.index.get(gateway)?, Way::Unreachable(None))));
        let mut said: Vec<_> = measured.chain(unreachable).collect();
        // Stable: of several about the same gateway the first counts.
        said.sort_by_key(|(index, _)| *index);
        said.dedup_by_key(|(index, _)| *index);
        said
    }

    /// The way to a gateway of which the client says nothing.
    fn way(&self, row: &Row, client_rtt_us: Option<u64>, now_ms: u64) -> Way {
        let to_us = client_rtt_us.unwrap_or(0);
        if row.is_own {
            return Way::Measured(Rtt { us: to_us, age_ms: 0, source: RttSource::Entry });
        }
        let Probed { rtt_us, at_ms, is_unreachable } = row.probed;
        let rtt = rtt_us.map(|us| Rtt {
            us: us.saturating_add(to_us),
            age_ms: now_ms.saturating_sub(at_ms),
            source: RttSource::Probe,
        });
        if is_unreachable {
            return Way::Unreachable(rtt);
        }
        Way::of(rtt, self.rules.sample_age_ms_max)
    }

    /// Changes a gateway's row; whether it has one.
    fn change(&mut self, gateway: &GatewayId, change: impl FnOnce(&mut Row)) -> bool {
        let Some(index) = self.index.get(gateway) else { return false };
        let Some(row) = self.rows.get_mut(*index) else { return false };
        change(row);
        self.digests.set(*index, row.digest(&self.rules));
        true
    }
}

impl Row {
    fn digest(&self, rules: &TableRules) -> Digest {
        let Probed { rtt_us, at_ms, is_unreachable } = self.probed;
        let unreachable = is_unreachable && !self.is_own;
        let rank = |way| self.candidate(way).rank();
        let stale = rank(if unreachable { Way::Unreachable(None) } else { Way::Unmeasured });
        let (rtt_us, stale_from_ms) = match rtt_us {
            _ if self.is_own => (0, u64::MAX),
            Some(us) if !unreachable => {
                (us, at_ms.saturating_add(rules.sample_age_ms_max).saturating_add(1))
            }
            _ => return Digest::Unmeasured(stale),
        };
        let no_way = Way::Measured(Rtt { us: 0, age_ms: 0, source: RttSource::Probe });
        Digest::Measured { without_way: rank(no_way), rtt_us, stale_from_ms, stale }
    }

    const fn candidate(&self, way: Way) -> Candidate {
        let Self { mark, connections, in_flight, capacity, draining, .. } = *self;
        Candidate { mark, way, connections, in_flight, capacity, draining }
    }
}

impl Probe {
    fn summary(&self, rules: &TableRules) -> Probed {
        Probed {
            rtt_us: self.rtts_us.iter().copied().min(),
            at_ms: self.at_ms,
            is_unreachable: self.failures >= rules.unreachable_after_probes,
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
