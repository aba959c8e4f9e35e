//! Personal pools: each user has one host of the pool, for ever, and nobody
//! else is placed there.
//!
//! An assignment is decided here, stored by the caller, and only then used: a
//! user is never told of a host that a restart could give to another one.
//!
//! ```text
//! assign, assign_directly ─► Storing ─► Stored ─► Removing ─► gone
//!                               │ not stored  ▲       │ not removed
//!                               ▼             └───────┘
//!                             gone
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Host, HostTable, Phase, PoolKind, PoolRules, Wish, limit};
use crate::core::codes::Code;
use crate::core::health::Fitness;
use crate::core::ids::{HostId, PoolId};

/// Who decides which host of a personal pool is whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssignmentRule {
    /// A user gets a host that nobody ever had at their first connect.
    Automatic,
    /// The operator, host by host.
    Direct,
}

/// A user of a personal pool. Each has at most one host there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssignmentKey {
    pub pool: PoolId,
    pub user: String,
}

/// A host that is somebody's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Assignment {
    host: HostId,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Storing,
    Stored,
    Removing,
}

/// What has to happen before a user of a personal pool can be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assigning {
    /// Nothing: go on with [`HostTable::reserve`].
    Settled,
    /// This host is to become the user's: store it, then say so with
    /// [`HostTable::assignment_stored`].
    Store(HostId),
    /// The store is at work on this user's assignment: ask again afterwards.
    BeingStored,
}

/// Why the operator's assignment cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    #[error("pool {0} is not declared with kind = \"personal\" in the broker's configuration")]
    NotPersonal(PoolId),
    #[error("no session host {host} is enrolled in pool {pool}; see: ringway ctl hosts")]
    HostUnknown { host: HostId, pool: PoolId },
    #[error("{user} has {host} already; take it away first: ringway ctl assign --undo")]
    UserHasHost { user: String, host: HostId },
    #[error("{host} belongs to {user}; take it away first: ringway ctl assign --undo")]
    HostTaken { host: HostId, user: String },
    #[error("this assignment is being changed at this moment; try again")]
    Busy,
    #[error("{host} is not assigned to {user}; see: ringway ctl assignments")]
    NotAssigned { host: HostId, user: String },
}

#[derive(Debug, Default)]
pub(super) struct Assignments {
    by_user: BTreeMap<AssignmentKey, Assignment>,
    owners: BTreeMap<(PoolId, HostId), String>,
}

impl Assignments {
    fn insert(&mut self, key: AssignmentKey, host: HostId, stage: Stage) {
        self.owners.insert((key.pool.clone(), host.clone()), key.user.clone());
        self.by_user.insert(key, Assignment { host, stage });
    }

    fn remove(&mut self, key: &AssignmentKey) {
        if let Some(assignment) = self.by_user.remove(key) {
            self.owners.remove(&(key.pool.clone(), assignment.host));
        }
    }

    fn owner(&self, pool: &PoolId, host: &HostId) -> Option<&String> {
        self.owners.get(&(pool.clone(), host.clone()))
    }
}

impl HostTable {
    /// The store holds this assignment: an earlier run made it.
    pub fn assignment_known(&mut self, key: AssignmentKey, host: HostId) {
        self.assignments.insert(key, host, Stage::Stored);
    }

    /// Before [`reserve`](Self::reserve): sees to it that the user has a host,
    /// where users get one by themselves. Whom two users ask for at once, the
    /// first one has.
    ///
    /// # Errors
    /// [`Code::NoFreeHost`] when every host of the pool is somebody's, else
    /// what is wrong with those that are not: [`Code::NoHostAvailable`],
    /// [`Code::HostDraining`] or [`Code::HostUnhealthy`].
    pub fn assign(&mut self, wish: &Wish, now: u64) -> Result<Assigning, Code> {
        let automatic = PoolKind::Personal(AssignmentRule::Automatic);
        if self.pools.get(&wish.pool).is_none_or(|rules| rules.kind != automatic) {
            return Ok(Assigning::Settled);
        }
        let key = wish.key();
        match self.assignments.by_user.get(&key).map(|assignment| assignment.stage) {
            Some(Stage::Stored) => Ok(Assigning::Settled),
            Some(Stage::Storing | Stage::Removing) => Ok(Assigning::BeingStored),
            None => {
                let host = self.free_host(&wish.pool, now)?;
                self.assignments.insert(key, host.clone(), Stage::Storing);
                Ok(Assigning::Store(host))
            }
        }
    }

    /// The operator's wish. The host then is to be stored, as with
    /// [`Assigning::Store`]. It need not be connected.
    ///
    /// # Errors
    /// What speaks against it.
    pub fn assign_directly(&mut self, key: AssignmentKey, host: HostId) -> Result<(), AssignError> {
        let personal = |rules: &PoolRules| matches!(rules.kind, PoolKind::Personal(_));
        if !self.pools.get(&key.pool).is_some_and(personal) {
            return Err(AssignError::NotPersonal(key.pool));
        }
        if self.hosts.get(&host).is_none_or(|known| known.pool != key.pool) {
            return Err(AssignError::HostUnknown { host, pool: key.pool });
        }
        match self.assignments.by_user.get(&key) {
            Some(has) if has.stage != Stage::Stored => return Err(AssignError::Busy),
            Some(has) => {
                let host = has.host.clone();
                return Err(AssignError::UserHasHost { user: key.user, host });
            }
            None => {}
        }
        if let Some(owner) = self.assignments.owner(&key.pool, &host) {
            return Err(AssignError::HostTaken { user: owner.clone(), host });
        }
        self.assignments.insert(key, host, Stage::Storing);
        Ok(())
    }

    /// The operator takes a host away from its user. Until the store has done
    /// so it is nobody else's.
    ///
    /// # Errors
    /// When it is not assigned, or being changed.
    pub fn unassign(&mut self, key: &AssignmentKey, host: &HostId) -> Result<(), AssignError> {
        match self.assignments.by_user.get_mut(key).filter(|has| has.host == *host) {
            Some(has) if has.stage == Stage::Stored => {
                has.stage = Stage::Removing;
                Ok(())
            }
            Some(_) => Err(AssignError::Busy),
            None => Err(AssignError::NotAssigned { host: host.clone(), user: key.user.clone() }),
        }
    }

    /// The store is done with an assignment: what it was asked to do is so, or
    /// (`succeeded` is false) is not.
    pub fn assignment_stored(&mut self, key: &AssignmentKey, succeeded: bool) {
        let Some(assignment) = self.assignments.by_user.get_mut(key) else { return };
        match (assignment.stage, succeeded) {
            (Stage::Storing, true) | (Stage::Removing, false) => assignment.stage = Stage::Stored,
            (Stage::Storing, false) | (Stage::Removing, true) => self.assignments.remove(key),
            (Stage::Stored, _) => {}
        }
    }

    /// What is stored, of all pools.
    pub fn assignments(&self) -> impl Iterator<Item = (&AssignmentKey, &HostId)> {
        let stored = self.assignments.by_user.iter();
        stored
            .filter(|(_, assignment)| assignment.stage != Stage::Storing)
            .map(|(key, assignment)| (key, &assignment.host))
    }

    pub(super) fn owner(&self, pool: &PoolId, host: &HostId) -> Option<&String> {
        self.assignments.owner(pool, host)
    }

    /// The user's own host, connected or not.
    pub(super) fn assigned_host(&self, wish: &Wish) -> Option<&HostId> {
        let assignment = self.assignments.by_user.get(&wish.key());
        assignment.filter(|has| has.stage == Stage::Stored).map(|has| &has.host)
    }

    pub(super) fn choose_own(&self, wish: &Wish, rules: PoolRules) -> Result<HostId, Code> {
        let name = self.assigned_host(wish).ok_or(Code::NoHostAssigned)?;
        let host = self
            .hosts
            .get(name)
            .filter(|host| host.pool == wish.pool && host.connected)
            .ok_or(Code::AssignedHostAway)?;
        let here = || self.slots.values().filter(|slot| slot.host.as_ref() == Some(name));
        // The one who had it before, until their session is over.
        let is_others = here().any(|slot| slot.user.as_ref().is_some_and(|u| *u != wish.user));
        let returns = here().any(|slot| slot.phase == Phase::Live);
        if host.stopping || (host.draining && !returns) {
            Err(Code::HostDraining)
        } else if host.fitness == Fitness::Unfit && !returns {
            Err(Code::HostUnhealthy)
        } else if is_others || host.sessions >= limit(host, rules) {
            Err(Code::PoolFull)
        } else {
            Ok(name.clone())
        }
    }

    fn free_host(&self, pool: &PoolId, now: u64) -> Result<HostId, Code> {
        let unowned = || {
            self.hosts
                .iter()
                .filter(|(name, host)| host.pool == *pool && self.owner(pool, name).is_none())
        };
        if unowned().next().is_none() {
            return Err(Code::NoFreeHost);
        }
        let takes = |host: &Host| host.connected && !host.draining && !host.stopping;
        let empty = |host: &Host| host.sessions == 0;
        let best = unowned()
            .filter(|(_, host)| takes(host) && empty(host) && host.fitness != Fitness::Unfit)
            .min_by_key(|(name, host)| (now < host.paused_until, host.fitness, *name));
        if let Some((name, _)) = best {
            return Ok(name.clone());
        }
        if unowned().all(|(_, host)| !host.connected) {
            Err(Code::NoHostAvailable)
        } else if !unowned().any(|(_, host)| takes(host)) {
            Err(Code::HostDraining)
        } else if unowned().filter(|(_, host)| takes(host)).all(|(_, host)| !empty(host)) {
            // Somebody whose host it was still sits there.
            Err(Code::NoFreeHost)
        } else {
            Err(Code::HostUnhealthy)
        }
    }

    /// Says what is wrong with the assignments; see
    /// [`check_invariants`](Self::check_invariants).
    pub(super) fn check_assignments(&self) -> Result<(), String> {
        let Assignments { by_user, owners } = &self.assignments;
        if by_user.len() != owners.len() {
            return Err(format!("{} users have {} hosts", by_user.len(), owners.len()));
        }
        for (key, assignment) in by_user {
            if self.owner(&key.pool, &assignment.host) != Some(&key.user) {
                return Err(format!("{key:?} has {assignment:?}, which is not theirs"));
            }
        }
        Ok(())
    }
}

impl Wish {
    /// Whom it is for, where hosts are personal.
    #[must_use]
    pub fn key(&self) -> AssignmentKey {
        AssignmentKey { pool: self.pool.clone(), user: self.user.clone() }
    }
}

#[cfg(test)]
mod tests;
