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

mod best;
mod explain;
mod settle;

use std::hash::Hasher as _;

use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

pub use explain::{Explain, ExplainLine, Remark, Verdict};
pub use settle::{Load, settle};

use self::best::Place;
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
    let mut hash = FnvHasher::default();
    hash.write(gateway.as_str().as_bytes());
    hash.finish()
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

    fn is_unreachable(&self) -> bool {
        matches!(self.way, Way::Unreachable(_))
    }

    fn class(&self) -> Class {
        if self.draining {
            Class::Draining
        } else if self.total() >= self.capacity {
            Class::Full
        } else if self.way.group().is_some() {
            Class::Measured
        } else if self.is_unreachable() {
            Class::Unreachable
        } else {
            Class::Unknown
        }
    }

    #[must_use]
    pub fn rank(&self) -> Rank {
        let group = self.way.group().unwrap_or(GROUP_MAX).min(GROUP_MAX);
        Rank((self.class() as u64) << 61 | group << 32 | u64::from(self.total()))
    }
}

/// A group beyond that is more than an hour away.
const GROUP_MAX: u64 = (1 << 29) - 1;

/// Class, group, connections, in this order, in one number: 3, 29 and 32 bits.
/// The lowest is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(u64);

impl Rank {
    const WORST: Self = Self(u64::MAX);

    /// What it is that many groups farther away. It has to be in a group, and
    /// to come to one that a rank can hold.
    #[must_use]
    pub const fn farther(self, groups: u32) -> Self {
        Self(self.0 + ((groups as u64) << 32))
    }
}

/// A candidate with its place in the order.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    place: Place,
    candidate: Candidate,
}

impl Ranked {
    const fn index(&self) -> usize {
        self.place.index
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
    let ranks: Vec<Rank> = candidates.iter().map(Candidate::rank).collect();
    let marks: Vec<u64> = candidates.iter().map(|candidate| candidate.mark).collect();
    select_ranked(&ranks, &marks, |index| candidates.get(index).copied(), session, home)
}

/// Chooses among many, of which rank and [`mark`] are known; `candidate` is
/// asked for those that are among the best.
#[must_use]
pub fn select_ranked(
    ranks: &[Rank],
    marks: &[u64],
    candidate: impl Fn(usize) -> Option<Candidate>,
    session: SessionId,
    home: Option<usize>,
) -> Selection {
    let spread = session.spread();
    let tie = |index: usize| mix(spread ^ marks.get(index).copied().unwrap_or(0));
    let ranked = |place: Place| Some(Ranked { place, candidate: candidate(place.index)? });
    let mut best: Vec<Ranked> = best::of(ranks, tie).into_iter().filter_map(ranked).collect();
    let at_home =
        home.and_then(|index| ranked(Place { rank: *ranks.get(index)?, tie: tie(index), index }));
    let stays = at_home.filter(|home| {
        best.first().is_some_and(|best| best.index() != home.index() && home.may_stay(best))
    });
    if let Some(home) = stays {
        best.retain(|one| one.index() != home.index());
        best.insert(0, home);
        best.truncate(RANKED_MAX);
    }
    Selection { ranked: best, stays: stays.is_some(), candidates: ranks.len() }
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
        self.ranked.first().filter(|first| first.can_be_chosen()).map(Ranked::index)
    }

    /// Indices of those that do not drain, best first.
    pub fn in_order(&self) -> impl Iterator<Item = usize> {
        let serving = self.ranked.iter().filter(|one| !one.candidate.draining);
        serving.map(|one| one.index())
    }

    /// Why. `name` gives the name of a candidate; one without is left out.
    #[must_use]
    pub fn explain(&self, name: impl Fn(usize) -> Option<GatewayId>) -> Explain {
        let chosen = self.ranked.first().filter(|first| first.can_be_chosen());
        let lines = self.ranked.iter().filter_map(|one| {
            let (verdict, remark) = match chosen {
                Some(chosen) if chosen.index() == one.index() => (Verdict::Chosen, None),
                chosen => self.judge(one, chosen),
            };
            let Candidate { way, in_flight, capacity, .. } = one.candidate;
            let unreachable = one.candidate.is_unreachable().then_some(Remark::Unreachable);
            Some(ExplainLine {
                gateway: name(one.index())?,
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
        let before = self.stays && chosen.is_some_and(|chosen| one.place < chosen.place);
        (verdict, before.then_some(Remark::Stays))
    }
}

#[cfg(test)]
mod tests;
