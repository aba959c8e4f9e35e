//! Which gateway carries a session (step 7): the lowest group of 10 ms with
//! room, in it the fewest connections, ties by a hash of the session.
//!
//! It is decided twice by this same function. The gateway that the client asked
//! knows the round trips, so it puts all gateways in order and sends the best
//! of them to the broker. Its counts are as old as the last table, and other
//! gateways place by theirs at the same time; so the broker, through which
//! every place goes, [settles](settle) it among those with its own counts. A
//! gateway that has just come back with no connections is not trampled, and
//! none is filled beyond its capacity.
//!
//! A user who has a session at a gateway, or had it there a moment ago, stays
//! there while it is at most one group above the best and has room: a round
//! trip that wavers around a multiple of 10 ms moves nobody. A new session is
//! never held to anything.

mod explain;
mod settle;

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

pub use explain::{Explain, ExplainLine, Remark, Verdict};
pub use settle::{Load, settle};

use super::ids::{GatewayId, SessionId};

/// Width of a latency group.
pub const GROUP_WIDTH_US: u64 = 10_000;
/// As many of the best candidates are kept of one selection: what the broker
/// may choose from, and the longest explain record.
pub const RANKED_MAX: usize = 64;

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

/// What is known of the client's way to a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Measured(Rtt),
    /// Measured too long ago to put it into a group.
    Stale(Rtt),
    Unmeasured,
    /// Who tried it last did not get there.
    Unreachable(Option<Rtt>),
}

impl Way {
    /// A round trip, if there is one and it is not older than it may be.
    #[must_use]
    pub fn of(rtt: Option<Rtt>, age_ms_max: u64) -> Self {
        match rtt {
            None => Self::Unmeasured,
            Some(rtt) if rtt.age_ms > age_ms_max => Self::Stale(rtt),
            Some(rtt) => Self::Measured(rtt),
        }
    }

    #[must_use]
    pub const fn rtt(self) -> Option<Rtt> {
        match self {
            Self::Measured(rtt) | Self::Stale(rtt) => Some(rtt),
            Self::Unmeasured => None,
            Self::Unreachable(rtt) => rtt,
        }
    }

    /// `floor(rtt / 10 ms)`, of a round trip that counts.
    #[must_use]
    pub const fn group(self) -> Option<u64> {
        match self {
            Self::Measured(rtt) => Some(rtt.us / GROUP_WIDTH_US),
            _ => None,
        }
    }
}

/// A gateway that could be chosen. Its name stays with the caller: ten
/// thousand of these are looked at for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// [`mark`] of its name.
    pub mark: u64,
    pub way: Way,
    pub connections: u32,
    /// Sessions placed there that its connection count does not show yet.
    pub in_flight: u32,
    pub capacity: u32,
    pub draining: bool,
}

/// A gateway's part in breaking ties: FNV-1a of its name. The same session
/// breaks the same tie the same way everywhere, different sessions spread.
#[must_use]
pub fn mark(gateway: &GatewayId) -> u64 {
    gateway.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Which candidates come first, whatever their group. Only up to
/// [`Class::Unreachable`] they can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Measured,
    /// Better an unknown way than none.
    Unknown,
    /// The last resort: it may be back.
    Unreachable,
    Full,
    Draining,
}

impl Candidate {
    fn total(&self) -> u32 {
        self.connections.saturating_add(self.in_flight)
    }

    fn standing(&self) -> Standing {
        let unreachable = matches!(self.way, Way::Unreachable(_));
        Standing::new(self.total(), self.capacity, self.draining, unreachable)
    }

    fn class(&self) -> Class {
        self.standing().class(self.way.group())
    }

    #[must_use]
    pub fn rank(&self) -> Rank {
        self.standing().rank(self.way.group())
    }
}

/// Class, group, connections, in this order, in one number: 3, 29 and 32 bits.
/// The lowest is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(u64);

/// What a rank is made of besides the way. It changes seldom; ten thousand
/// ranks are made of it for one session.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    in_a_group: Class,
    without_group: Class,
    total: u32,
}

impl Standing {
    /// `total` are connections and placements in flight together.
    #[must_use]
    pub const fn new(total: u32, capacity: u32, draining: bool, unreachable: bool) -> Self {
        let (in_a_group, without_group) = if draining {
            (Class::Draining, Class::Draining)
        } else if total >= capacity {
            (Class::Full, Class::Full)
        } else if unreachable {
            (Class::Measured, Class::Unreachable)
        } else {
            (Class::Measured, Class::Unknown)
        };
        Self { in_a_group, without_group, total }
    }

    /// `group` of a round trip that counts: [`Way::group`].
    #[must_use]
    pub fn rank(&self, group: Option<u64>) -> Rank {
        /// A group beyond that is more than an hour away.
        const GROUP_MAX: u64 = (1 << 29) - 1;
        let class = self.class(group);
        let group = group.unwrap_or(GROUP_MAX).min(GROUP_MAX);
        Rank((class as u64) << 61 | group << 32 | u64::from(self.total))
    }

    fn class(&self, group: Option<u64>) -> Class {
        if group.is_some() { self.in_a_group } else { self.without_group }
    }
}

/// A candidate with its place in the order.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    rank: Rank,
    tie: u64,
    index: usize,
    candidate: Candidate,
}

impl Ranked {
    const fn key(&self) -> (Rank, u64, usize) {
        (self.rank, self.tie, self.index)
    }

    fn can_be_chosen(&self) -> bool {
        self.candidate.class() <= Class::Unreachable
    }

    /// Whether somebody who is here already stays, though `best` comes first.
    fn may_stay(&self, best: &Self) -> bool {
        let within = match (self.candidate.way.group(), best.candidate.way.group()) {
            (Some(own), Some(lowest)) => own <= lowest.saturating_add(1),
            _ => false,
        };
        within && self.candidate.class() == Class::Measured
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// What was chosen, and enough of the others to say why.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Best first; what was chosen is the first of them.
    ranked: Vec<Ranked>,
    /// The session stays where it was, although others come before it.
    stays: bool,
    candidates: usize,
}

/// Chooses. `home` is the candidate where the user's session is, or was a
/// moment ago.
#[must_use]
pub fn select(
    candidates: impl IntoIterator<Item = Candidate>,
    session: SessionId,
    home: Option<usize>,
) -> Selection {
    let candidates: Vec<Candidate> = candidates.into_iter().collect();
    let ranks = candidates.iter().map(|candidate| (candidate.rank(), candidate.mark));
    select_ranked(ranks, |index| candidates.get(index).copied(), session, home)
}

/// Chooses among many: rank and [`mark`] of each are looked at, `candidate`
/// is asked for those that may be among the best.
#[must_use]
pub fn select_ranked(
    ranks: impl IntoIterator<Item = (Rank, u64)>,
    candidate: impl Fn(usize) -> Option<Candidate>,
    session: SessionId,
    home: Option<usize>,
) -> Selection {
    let mut best: BinaryHeap<Ranked> = BinaryHeap::with_capacity(RANKED_MAX);
    let (mut at_home, mut count) = (None, 0);
    let spread = session.spread();
    // The last one kept, once as many are kept as may be.
    let mut limit = (Rank(u64::MAX), u64::MAX);
    for (index, (rank, mark)) in ranks.into_iter().enumerate() {
        count = index + 1;
        if rank > limit.0 && home != Some(index) {
            continue;
        }
        let tie = mix(spread ^ mark);
        if (rank, tie) > limit && home != Some(index) {
            continue;
        }
        let Some(candidate) = candidate(index) else { continue };
        let ranked = Ranked { rank, tie, index, candidate };
        if home == Some(index) {
            at_home = Some(ranked);
        }
        if best.len() < RANKED_MAX {
            best.push(ranked);
        } else if let Some(mut worst) = best.peek_mut()
            && ranked < *worst
        {
            *worst = ranked;
        }
        if best.len() >= RANKED_MAX
            && let Some(worst) = best.peek()
        {
            limit = (worst.rank, worst.tie);
        }
    }
    let mut ranked = best.into_sorted_vec();
    let stays = at_home.filter(|home| {
        ranked.first().is_some_and(|best| best.index != home.index && home.may_stay(best))
    });
    if let Some(home) = stays {
        ranked.retain(|one| one.index != home.index);
        ranked.insert(0, home);
        ranked.truncate(RANKED_MAX);
    }
    Selection { ranked, stays: stays.is_some(), candidates: count }
}

/// The finish of MurmurHash3: FNV leaves the last bytes almost unmixed, and
/// names differ just there.
const fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

impl Selection {
    /// Index of the chosen candidate; none when no candidate has room.
    #[must_use]
    pub fn chosen(&self) -> Option<usize> {
        self.ranked.first().filter(|first| first.can_be_chosen()).map(|first| first.index)
    }

    /// Indices of those that do not drain, best first.
    pub fn in_order(&self) -> impl Iterator<Item = usize> {
        let serving = self.ranked.iter().filter(|one| !one.candidate.draining);
        serving.map(|one| one.index)
    }

    /// Why. `name` gives the name of a candidate; one without is left out.
    #[must_use]
    pub fn explain(&self, name: impl Fn(usize) -> Option<GatewayId>) -> Explain {
        let chosen = self.ranked.first().filter(|first| first.can_be_chosen());
        let lines = self.ranked.iter().filter_map(|one| {
            let (verdict, remark) = match chosen {
                Some(chosen) if chosen.index == one.index => (Verdict::Chosen, None),
                chosen => self.judge(one, chosen),
            };
            let Candidate { way, in_flight, capacity, .. } = one.candidate;
            let unreachable = matches!(way, Way::Unreachable(_)).then_some(Remark::Unreachable);
            Some(ExplainLine {
                gateway: name(one.index)?,
                rtt: way.rtt(),
                group: way.group(),
                connections: one.candidate.total(),
                in_flight,
                capacity,
                verdict,
                remark: unreachable.or(remark),
            })
        });
        let lines: Vec<ExplainLine> = lines.collect();
        let left_out = u32::try_from(self.candidates - lines.len()).unwrap_or(u32::MAX);
        Explain { lines, left_out }
    }

    /// Why one was not chosen.
    fn judge(&self, one: &Ranked, chosen: Option<&Ranked>) -> (Verdict, Option<Remark>) {
        let verdict = match (one.candidate.class(), one.candidate.way) {
            (Class::Draining, _) => Verdict::Draining,
            (Class::Full, _) => Verdict::Full,
            (Class::Unknown, Way::Stale(_)) => Verdict::Stale,
            (Class::Unknown | Class::Unreachable, _) => Verdict::Unmeasured,
            (Class::Measured, way) => match chosen {
                Some(chosen) if way.group() > chosen.candidate.way.group() => Verdict::HigherGroup,
                _ => Verdict::MoreConnections,
            },
        };
        // Only where the session stays, others come before what was chosen.
        let before = self.stays && chosen.is_some_and(|chosen| one < chosen);
        (verdict, before.then_some(Remark::Stays))
    }
}

#[cfg(test)]
mod tests;
