//! Which gateway carries a session (step 7): the lowest group of 10 ms with
//! room, in it the fewest connections, ties by a hash of the session.

use serde::{Deserialize, Serialize};

use super::ids::{GatewayId, SessionId};

/// Width of a latency group.
pub const GROUP_WIDTH_US: u64 = 10_000;

/// Where a round-trip time comes from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RttSource {
    /// The client measured it and sent it along.
    Client,
    /// This gateway measured the other over its TLS port; the client's own
    /// round trip to this gateway (from the kernel) is added.
    Probe,
    /// The candidate is the gateway that the client asked.
    Entry,
}

/// A measured round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rtt {
    pub us: u64,
    /// How long ago it was measured.
    pub age_ms: u64,
    pub source: RttSource,
}

/// A gateway that could be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub gateway: GatewayId,
    pub url: String,
    pub rtt: Option<Rtt>,
    pub connections: u32,
    /// Sessions placed there that its connection count does not show yet.
    pub in_flight: u32,
    pub capacity: u32,
    pub draining: bool,
}

/// Why a candidate was passed over, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Chosen,
    /// In the chosen group, but with more connections, or behind on the tie.
    MoreConnections,
    HigherGroup,
    Full,
    Draining,
    /// No round trip is known.
    Unmeasured,
    /// The round trip is older than it may be.
    Stale,
}

/// One line of the explain record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainLine {
    pub gateway: GatewayId,
    pub rtt: Option<Rtt>,
    /// `floor(rtt / 10 ms)`.
    pub group: Option<u64>,
    /// Reported connections and in-flight placements together.
    pub connections: u32,
    pub capacity: u32,
    pub verdict: Verdict,
}

/// Why this gateway: kept with the session, shown by `ringway ctl explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explain {
    pub lines: Vec<ExplainLine>,
}

/// Samples older than this are not used while a fresh one exists.
#[derive(Clone, Copy, Debug)]
pub struct SelectionRules {
    pub sample_age_ms_max: u64,
}

/// Chooses. Returns the index of the chosen candidate and the record of why;
/// no index when no candidate has room.
///
/// A gateway without a fresh sample is only chosen when no measured one has
/// room: better an unknown path than none.
#[must_use]
pub fn select(
    candidates: &[Candidate],
    session: SessionId,
    rules: SelectionRules,
) -> (Option<usize>, Explain) {
    let mut lines: Vec<ExplainLine> = candidates.iter().map(|c| judge(c, rules)).collect();
    let chosen = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !matches!(line.verdict, Verdict::Full | Verdict::Draining))
        .min_by_key(|(_, line)| {
            let group = match line.verdict {
                Verdict::Unmeasured | Verdict::Stale => u64::MAX,
                _ => line.group.unwrap_or(u64::MAX),
            };
            (group, line.connections, tie_break(session, &line.gateway))
        })
        .map(|(index, _)| index);

    if let Some(index) = chosen {
        let group = lines.get(index).and_then(|line| line.group);
        for (i, line) in lines.iter_mut().enumerate() {
            if i == index {
                line.verdict = Verdict::Chosen;
            } else if line.verdict == Verdict::Chosen {
                line.verdict = if line.group == group {
                    Verdict::MoreConnections
                } else {
                    Verdict::HigherGroup
                };
            }
        }
    }
    (chosen, Explain { lines })
}

/// A candidate on its own: `Chosen` here means "could be".
fn judge(candidate: &Candidate, rules: SelectionRules) -> ExplainLine {
    let connections = candidate.connections.saturating_add(candidate.in_flight);
    let verdict = if candidate.draining {
        Verdict::Draining
    } else if connections >= candidate.capacity {
        Verdict::Full
    } else {
        match candidate.rtt {
            None => Verdict::Unmeasured,
            Some(rtt) if rtt.age_ms > rules.sample_age_ms_max => Verdict::Stale,
            Some(_) => Verdict::Chosen,
        }
    };
    ExplainLine {
        gateway: candidate.gateway.clone(),
        rtt: candidate.rtt,
        group: candidate.rtt.map(|rtt| rtt.us / GROUP_WIDTH_US),
        connections,
        capacity: candidate.capacity,
        verdict,
    }
}

/// FNV-1a over session and gateway: the same session breaks the same tie the
/// same way everywhere, different sessions spread.
fn tie_break(session: SessionId, gateway: &GatewayId) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in session.0.iter().chain(gateway.as_str().as_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // FNV leaves the last bytes almost unmixed, and names differ just there.
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: SelectionRules = SelectionRules { sample_age_ms_max: 30_000 };

    fn candidate(name: &str, rtt_us: u64, connections: u32) -> Candidate {
        Candidate {
            gateway: name.parse().unwrap(),
            url: format!("https://{name}"),
            rtt: Some(Rtt { us: rtt_us, age_ms: 0, source: RttSource::Probe }),
            connections,
            in_flight: 0,
            capacity: 100,
            draining: false,
        }
    }

    fn chosen(candidates: &[Candidate]) -> Option<&str> {
        let (index, _) = select(candidates, SessionId([5; 16]), RULES);
        index.map(|i| candidates[i].gateway.as_str())
    }

    #[test]
    fn groups_of_10_ms_come_before_connections() {
        let near = candidate("near", 9_999, 50);
        let far = candidate("far", 10_000, 0);
        assert_eq!(chosen(&[far.clone(), near.clone()]), Some("near"));
        let same_group = candidate("same", 1, 51);
        assert_eq!(chosen(&[same_group, near]), Some("near"));
    }

    #[test]
    fn full_and_draining_gateways_push_to_the_next_group() {
        let mut full = candidate("full", 0, 60);
        full.in_flight = 40;
        let draining = Candidate { draining: true, ..candidate("draining", 0, 0) };
        let far = candidate("far", 50_000, 0);
        let all = [full, draining, far];
        let (index, explain) = select(&all, SessionId([5; 16]), RULES);
        assert_eq!(index, Some(2));
        let verdicts: Vec<_> = explain.lines.iter().map(|l| l.verdict).collect();
        assert_eq!(verdicts, [Verdict::Full, Verdict::Draining, Verdict::Chosen]);
        assert_eq!(chosen(&all[..2]), None);
    }

    #[test]
    fn an_unmeasured_gateway_is_the_last_resort() {
        let blank = Candidate { rtt: None, ..candidate("blank", 0, 0) };
        let stale = Candidate {
            rtt: Some(Rtt { us: 0, age_ms: 30_001, source: RttSource::Probe }),
            ..candidate("stale", 0, 3)
        };
        let far = candidate("far", 900_000, 99);
        assert_eq!(chosen(&[blank.clone(), stale.clone(), far]), Some("far"));
        assert_eq!(chosen(&[blank, stale]), Some("blank"));
    }

    #[test]
    fn ties_spread_over_sessions() {
        let all = [candidate("a", 0, 7), candidate("b", 0, 7), candidate("c", 0, 7)];
        let mut counts = [0_u32; 3];
        for n in 0..3_000_u32 {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_le_bytes());
            counts[select(&all, SessionId(id), RULES).0.unwrap()] += 1;
        }
        assert!(counts.iter().all(|c| *c > 800), "{counts:?}");
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        (
            0_u32..30,
            prop::option::of((0_u64..60_000, 0_u64..40_000)),
            0_u32..12,
            0_u32..3,
            any::<bool>(),
        )
            .prop_map(|(name, rtt, connections, in_flight, draining)| Candidate {
                gateway: format!("gw-{name}").parse().unwrap(),
                url: String::new(),
                rtt: rtt.map(|(us, age_ms)| Rtt { us, age_ms, source: RttSource::Probe }),
                connections,
                in_flight,
                capacity: 10,
                draining,
            })
    }

    proptest! {
        #[test]
        fn never_full_never_draining_never_a_higher_group_while_a_lower_has_room(
            candidates in prop::collection::vec(any_candidate(), 0..20),
            session in any::<[u8; 16]>(),
        ) {
            let room = |c: &Candidate| !c.draining && c.connections + c.in_flight < c.capacity;
            let group = |c: &Candidate| match c.rtt {
                Some(rtt) if rtt.age_ms <= RULES.sample_age_ms_max => rtt.us / GROUP_WIDTH_US,
                _ => u64::MAX,
            };
            let (index, explain) = select(&candidates, SessionId(session), RULES);
            prop_assert_eq!(explain.lines.len(), candidates.len());
            match index {
                None => prop_assert!(candidates.iter().all(|c| !room(c))),
                Some(i) => {
                    let best = &candidates[i];
                    prop_assert!(room(best));
                    for other in candidates.iter().filter(|c| room(c)) {
                        prop_assert!(group(best) <= group(other));
                        if group(best) == group(other) {
                            prop_assert!(best.connections + best.in_flight <= other.connections + other.in_flight);
                        }
                    }
                    let chosen = explain.lines.iter().filter(|l| l.verdict == Verdict::Chosen).count();
                    prop_assert_eq!(chosen, 1);
                }
            }
        }
    }
}
