//! Which session host takes a user (step 9), and who sits where.
//!
//! One table, one writer: the broker that holds the hosts' channels. A place
//! is reserved before the client is told anything, so the limit per host is
//! strict; it is confirmed by the session's start, or given back by an answer,
//! an end, a loss or a deadline, whichever comes first. Every message may come
//! late, twice or never.
//!
//! ```text
//! reserve ─► Reserved ─► Ordered ─► Accepted ─► Live ─► free
//!               │ expires    │ no answer │ no start  │ ended by gateway or host,
//!               ▼            ▼           ▼           ▼ or nobody vouches for it
//!              free         free        free        free
//! ```

mod choice;
mod draining;
mod invariants;
mod machines;
mod personal;
mod returning;
mod starting;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::codes::Code;
use super::health::Fitness;
use super::ids::{GatewayId, HostId, Label, PoolId, SessionId};
use draining::Drains;
use personal::Assignments;
use starting::Starting;

pub use personal::{AssignError, Assigning, AssignmentKey, AssignmentRule};
pub use returning::Former;
pub use starting::Start;

/// In which order the hosts of a pool are filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FillOrder {
    /// The host with the fewest sessions.
    #[default]
    BreadthFirst,
    /// The fullest host that has room.
    DepthFirst,
}

/// Whose the hosts of a pool are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// Anybody's: a user gets whichever has room.
    Pooled(FillOrder),
    /// One user's each, for ever.
    Personal(AssignmentRule),
}

/// What the operator declared about a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolRules {
    pub kind: PoolKind,
    pub sessions_per_host_max: u32,
    /// How long a host that is being started may take to connect. `None` when
    /// hosts of this pool cannot be started from here.
    pub start_patience_ms: Option<u64>,
}

/// How long a place is held for whom.
#[derive(Clone, Copy, Debug)]
pub struct HoldRules {
    /// From the placement to the client's arrival at its gateway.
    pub reservation_ms: u64,
    /// From the order to the host's answer.
    pub order_answer_ms: u64,
    /// From the host's answer to the start of the relay.
    pub start_ms: u64,
    /// For a live session while neither its gateway nor its host is connected
    /// to vouch for it.
    pub orphan_ms: u64,
    /// How long a host that failed an order is passed over.
    pub failure_pause_ms: u64,
    /// Places that one user may hold for sessions that are not live yet.
    pub reservations_per_user_max: usize,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Reserved,
    Ordered,
    Accepted,
    Live,
}

/// One place, taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub phase: Phase,
    /// Unknown for a session that only its gateway has told us about.
    pub host: Option<HostId>,
    /// Unknown for a session that only its host has told us about.
    pub gateway: Option<GatewayId>,
    /// Unknown for sessions that an earlier run of the broker placed.
    pub user: Option<String>,
    /// The slot is free at this time unless something happens.
    pub deadline: Option<u64>,
    /// Taken because a machine reported it, not because it was placed here.
    pub adopted: bool,
}

/// A slot that is free again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    pub session: SessionId,
    pub slot: Slot,
    /// What the waiting side is told.
    pub code: Code,
}

/// A session host as the table knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub pool: PoolId,
    pub connected: bool,
    /// It was enrolled once and may not come back.
    pub revoked: bool,
    /// It takes nobody new: it is drained itself, or a label of its is.
    pub draining: bool,
    /// As its agent declared them.
    pub labels: Vec<Label>,
    /// What its agent's checks say.
    pub fitness: Fitness,
    /// The host's own limit, from its hello; zero when it names none.
    pub capacity: u32,
    pub sessions: u32,
    /// It said that it stops: it refuses every order until its next hello.
    pub stopping: bool,
    /// It failed an order: others go first until then.
    pub paused_until: u64,
}

/// What a user is to be placed with.
#[derive(Clone, Debug)]
pub struct Wish {
    pub session: SessionId,
    pub user: String,
    pub pool: PoolId,
    pub gateway: GatewayId,
    /// What they come back from, if they do.
    pub former: Option<Former>,
}

/// The live state of all session hosts. All times are milliseconds on one
/// monotonic clock of the caller's.
#[derive(Debug)]
pub struct HostTable {
    rules: HoldRules,
    pools: BTreeMap<PoolId, PoolRules>,
    hosts: BTreeMap<HostId, Host>,
    /// In an order that does not change from run to run: a simulation must be
    /// repeatable.
    slots: BTreeMap<SessionId, Slot>,
    gateways_connected: BTreeSet<GatewayId>,
    drains: Drains,
    assignments: Assignments,
    starting: BTreeMap<HostId, Starting>,
}

impl HostTable {
    #[must_use]
    pub fn new(rules: HoldRules, pools: BTreeMap<PoolId, PoolRules>) -> Self {
        Self {
            rules,
            pools,
            hosts: BTreeMap::new(),
            slots: BTreeMap::new(),
            gateways_connected: BTreeSet::new(),
            drains: Drains::default(),
            assignments: Assignments::default(),
            starting: BTreeMap::new(),
        }
    }

    /// Other rules from now on. Places that are taken stay taken, also above a
    /// lower limit and in a pool that is gone; their deadlines stay as well.
    pub fn set_rules(&mut self, rules: HoldRules, pools: BTreeMap<PoolId, PoolRules>) {
        self.rules = rules;
        self.pools = pools;
    }

    /// Reserves one place on a host of the pool.
    ///
    /// A user returns to a host where they have a session already or had one a
    /// moment ago, even to one that drains: it is the desktop they left. A host that failed an order a
    /// moment ago is passed over, or it would swallow its pool: an empty host
    /// is the first choice every time. When there is no other, the one whose
    /// pause ends first is tried rather than nobody. A host whose fatal check
    /// fails gets nobody new; one with a lesser ailment is passed over while
    /// others have room.
    ///
    /// In a personal pool the host is the user's own; see
    /// [`assign`](Self::assign).
    ///
    /// # Errors
    /// [`Code::NoHostAvailable`] when none is connected, [`Code::HostDraining`]
    /// when all that are connected drain or stop, [`Code::HostUnhealthy`] when
    /// none of those that do not is fit, else [`Code::PoolFull`]. In a personal
    /// pool also [`Code::NoHostAssigned`] and [`Code::AssignedHostAway`].
    pub fn reserve(&mut self, wish: &Wish, now: u64) -> Result<HostId, Code> {
        if self.slots.contains_key(&wish.session) {
            return Err(Code::RequestMalformed);
        }
        let rules = *self.pools.get(&wish.pool).ok_or(Code::ResourceUnknown)?;
        let host = self.choose(wish, rules, now)?;
        self.insert(
            wish.session,
            Slot {
                phase: Phase::Reserved,
                host: Some(host.clone()),
                gateway: Some(wish.gateway.clone()),
                user: Some(wish.user.clone()),
                deadline: Some(now.saturating_add(self.rules.reservation_ms)),
                adopted: false,
            },
        );
        Ok(host)
    }

    /// The client has arrived at its gateway: the host may be ordered.
    ///
    /// # Errors
    /// [`Code::ReservationExpired`] when this gateway holds no reservation for
    /// the session; [`Code::HostGone`] when the host's channel is lost and
    /// [`Code::HostDraining`] when it stops, and then the place is free again.
    pub fn begin_order(
        &mut self,
        session: SessionId,
        gateway: &GatewayId,
        now: u64,
    ) -> Result<HostId, Code> {
        let answer_by = now.saturating_add(self.rules.order_answer_ms);
        let slot = self
            .slots
            .get_mut(&session)
            .filter(|slot| slot.phase == Phase::Reserved)
            .filter(|slot| slot.gateway.as_ref() == Some(gateway))
            .filter(|slot| slot.deadline.is_some_and(|deadline| now < deadline))
            .ok_or(Code::ReservationExpired)?;
        let host = slot.host.clone().ok_or(Code::Internal)?;
        let gone = match self.hosts.get(&host).filter(|host| host.connected) {
            None => Some(Code::HostGone),
            Some(host) => host.stopping.then_some(Code::HostDraining),
        };
        if let Some(code) = gone {
            self.remove(session);
            return Err(code);
        }
        slot.phase = Phase::Ordered;
        slot.deadline = Some(answer_by);
        Ok(host)
    }

    /// The host accepted the order. `false` when it was not asked, or too
    /// late: then the host must be told that the order is void.
    pub fn order_accepted(&mut self, session: SessionId, host: &HostId, now: u64) -> bool {
        let start_by = now.saturating_add(self.rules.start_ms);
        match self.slots.get_mut(&session) {
            Some(slot) if slot.host.as_ref() == Some(host) => {
                if slot.phase == Phase::Ordered {
                    slot.phase = Phase::Accepted;
                    slot.deadline = Some(start_by);
                }
                slot.phase != Phase::Reserved
            }
            _ => false,
        }
    }

    /// The session's gateway relays. Its report may overtake the host's
    /// answer. `false` when the session holds no place at this gateway: then
    /// it must be ended there.
    pub fn started(&mut self, session: SessionId, gateway: &GatewayId) -> bool {
        match self.slots.get_mut(&session) {
            Some(slot)
                if slot.phase != Phase::Reserved && self.gateways_connected.contains(gateway) =>
            {
                if *slot.gateway.get_or_insert_with(|| gateway.clone()) != *gateway {
                    return false;
                }
                slot.phase = Phase::Live;
                slot.deadline = None;
                if let Some(host) = slot.host.as_ref().and_then(|name| self.hosts.get_mut(name)) {
                    host.paused_until = 0; // it works
                }
                true
            }
            _ => false,
        }
    }

    /// The session is over, or came to nothing. Nothing happens the second
    /// time.
    pub fn release(&mut self, session: SessionId) -> Option<Slot> {
        self.remove(session)
    }

    /// Frees every slot whose deadline has passed.
    pub fn expire(&mut self, now: u64) -> Vec<Freed> {
        let due: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(session, slot)| {
                let code = match slot.phase {
                    Phase::Reserved => Code::ReservationExpired,
                    Phase::Ordered => Code::HostNoAnswer,
                    Phase::Accepted => Code::HostDidNotArrive,
                    Phase::Live => Code::HostGone,
                };
                (*session, code)
            })
            .collect();
        due.into_iter()
            .filter_map(|(session, code)| {
                let slot = self.remove(session)?;
                if let (Code::HostNoAnswer | Code::HostDidNotArrive, Some(host)) =
                    (code, &slot.host)
                {
                    self.host_failed(host, now);
                }
                Some(Freed { session, slot, code })
            })
            .collect()
    }

    /// When [`expire`](Self::expire) has something to do next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.slots.values().filter_map(|slot| slot.deadline).min()
    }

    #[must_use]
    pub fn slot(&self, session: SessionId) -> Option<&Slot> {
        self.slots.get(&session)
    }

    pub fn slots(&self) -> impl Iterator<Item = (&SessionId, &Slot)> {
        self.slots.iter()
    }

    pub fn hosts(&self) -> impl Iterator<Item = (&HostId, &Host)> {
        self.hosts.iter()
    }

    /// How many sessions a host may carry; zero when its pool is not declared.
    #[must_use]
    pub fn limit_of(&self, host: &Host) -> u32 {
        self.pools.get(&host.pool).map_or(0, |rules| limit(host, *rules))
    }

    #[must_use]
    pub fn host(&self, name: &HostId) -> Option<&Host> {
        self.hosts.get(name)
    }

    fn free_where(&mut self, code: Code, applies: impl Fn(SessionId, &Slot) -> bool) -> Vec<Freed> {
        let sessions: Vec<_> = self
            .slots
            .iter()
            .filter(|(session, slot)| applies(**session, slot))
            .map(|(session, _)| *session)
            .collect();
        sessions
            .into_iter()
            .filter_map(|session| {
                let slot = self.remove(session)?;
                Some(Freed { session, slot, code })
            })
            .collect()
    }

    fn insert(&mut self, session: SessionId, slot: Slot) {
        if let Some(host) = slot.host.clone() {
            self.count(&host, true);
        }
        self.slots.insert(session, slot);
    }

    fn remove(&mut self, session: SessionId) -> Option<Slot> {
        let slot = self.slots.remove(&session)?;
        if let Some(host) = &slot.host {
            self.count(host, false);
        }
        Some(slot)
    }

    fn count(&mut self, host: &HostId, up: bool) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.sessions =
                if up { host.sessions.saturating_add(1) } else { host.sessions.saturating_sub(1) };
        }
    }
}

fn limit(host: &Host, rules: PoolRules) -> u32 {
    match host.capacity {
        0 => rules.sessions_per_host_max,
        own => own.min(rules.sessions_per_host_max),
    }
}

#[cfg(test)]
mod tests;
