//! Which machine to switch on for a user for whom none is connected.

use std::collections::BTreeSet;

use super::{Host, HostTable, PoolKind, PoolRules, Wish, limit};
use crate::core::ids::HostId;

/// A host that was told to start and has not connected yet.
#[derive(Debug)]
pub(super) struct Starting {
    /// Forgotten at this time: then it may be told again.
    until: u64,
    /// It could not be started, so nobody waits for it.
    failed: bool,
    /// Who waits for it: no more than it has places for.
    users: BTreeSet<String>,
}

/// What becomes of a user for whom no host is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Start this host now.
    Begin(HostId),
    /// It was told to start and is expected.
    Underway(HostId),
    /// There is one, but none may be told to start right now.
    Later,
}

impl HostTable {
    /// After [`reserve`](Self::reserve) or [`assign`](Self::assign) found
    /// nothing: the host that could take the user if it were on. `None` when
    /// there is none, or the pool's hosts cannot be started.
    ///
    /// Users who come while hosts start share those that have places left, so
    /// that a crowd starts as many as it needs and not one more. `may_begin`:
    /// whether another one can be told to start now.
    pub fn host_to_start(&mut self, wish: &Wish, may_begin: bool, now: u64) -> Option<Start> {
        let rules = *self.pools.get(&wish.pool)?;
        let until = now.saturating_add(rules.start_patience_ms?);
        self.starting.retain(|_, starting| now < starting.until);
        let off =
            self.hosts.iter().filter(|(name, host)| self.could_start(wish, rules, name, host));
        let off: Vec<_> = off.map(|(name, host)| (name.clone(), room(host, rules))).collect();

        let waits_for = |name: &HostId, waits: &dyn Fn(&Starting) -> bool| {
            self.starting.get(name).is_some_and(|starting| !starting.failed && waits(starting))
        };
        let already =
            off.iter().find(|(name, _)| waits_for(name, &|s| s.users.contains(&wish.user)));
        let shared = || off.iter().find(|(name, room)| waits_for(name, &|s| s.users.len() < *room));
        if let Some((name, _)) = already.or_else(shared) {
            if let Some(starting) = self.starting.get_mut(name) {
                starting.users.insert(wish.user.clone());
            }
            return Some(Start::Underway(name.clone()));
        }
        let (name, _) = off.into_iter().find(|(name, _)| !self.starting.contains_key(name))?;
        if !may_begin {
            return Some(Start::Later);
        }
        let users = [wish.user.clone()].into();
        self.starting.insert(name.clone(), Starting { until, failed: false, users });
        Some(Start::Begin(name))
    }

    /// A host could not be started: users are told as if it could not be, until
    /// the pause after a failure is over.
    pub fn start_failed(&mut self, name: &HostId, now: u64) {
        let until = now.saturating_add(self.rules.failure_pause_ms);
        if let Some(starting) = self.starting.get_mut(name) {
            *starting = Starting { until, failed: true, users: BTreeSet::new() };
        }
    }

    /// It is here: the next time that it is off it is started again.
    pub(super) fn start_is_over(&mut self, name: &HostId) {
        self.starting.remove(name);
    }

    fn could_start(&self, wish: &Wish, rules: PoolRules, name: &HostId, host: &Host) -> bool {
        let is_theirs = || match (rules.kind, self.assigned_host(wish)) {
            (PoolKind::Pooled(_), _) => true,
            (PoolKind::Personal(_), Some(own)) => own == name,
            (PoolKind::Personal(_), None) => self.owner(&wish.pool, name).is_none(),
        };
        let is_off = !host.connected && !host.revoked && !host.draining;
        host.pool == wish.pool && is_off && is_theirs()
    }
}

/// How many users may wait for one host.
fn room(host: &Host, rules: PoolRules) -> usize {
    match rules.kind {
        PoolKind::Pooled(_) => usize::try_from(limit(host, rules)).unwrap_or(usize::MAX),
        PoolKind::Personal(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, pool, table, table_of, wish};
    use super::super::{AssignmentKey, AssignmentRule, FillOrder};
    use super::*;
    use crate::core::codes::Code;

    /// Hosts that are enrolled and off.
    fn switch_off(table: &mut HostTable, hosts: u8) {
        for n in 0..hosts {
            table.host_known(host(n), pool());
            table.host_disconnected(&host(n), 0);
        }
    }

    #[test]
    fn a_crowd_starts_as_many_hosts_as_it_needs() {
        let mut table = table(FillOrder::BreadthFirst, 2, 0);
        switch_off(&mut table, 3);
        let mut start = |n: u16| table.host_to_start(&wish(n, &format!("u{n}")), true, 0);
        assert_eq!(start(0), Some(Start::Begin(host(0))));
        assert_eq!(start(0), Some(Start::Underway(host(0))), "who asks again waits for the same");
        assert_eq!(start(1), Some(Start::Underway(host(0))));
        assert_eq!(start(2), Some(Start::Begin(host(1))));
        assert_eq!(start(3), Some(Start::Underway(host(1))));
        assert_eq!(start(4), Some(Start::Begin(host(2))));
        assert_eq!(start(5), Some(Start::Underway(host(2))));
        assert_eq!(start(6), None, "there are no more");
    }

    #[test]
    fn a_host_is_started_again_when_it_was_here_or_did_not_come_in_time() {
        let mut table = table(FillOrder::BreadthFirst, 2, 0);
        switch_off(&mut table, 1);
        assert_eq!(table.host_to_start(&wish(0, "a"), true, 0), Some(Start::Begin(host(0))));
        assert_eq!(
            table.host_to_start(&wish(0, "a"), true, 59_999),
            Some(Start::Underway(host(0)))
        );
        assert_eq!(table.host_to_start(&wish(0, "a"), true, 60_000), Some(Start::Begin(host(0))));
        table.host_connected(&host(0), &pool(), 0, &[], 60_001);
        assert_eq!(table.host_to_start(&wish(0, "a"), true, 60_002), None, "it is on");
        table.host_disconnected(&host(0), 60_003);
        assert_eq!(table.host_to_start(&wish(0, "a"), true, 60_004), Some(Start::Begin(host(0))));
    }

    #[test]
    fn a_start_that_failed_is_not_repeated_at_once_and_another_host_is_tried() {
        let mut table = table(FillOrder::BreadthFirst, 2, 0);
        switch_off(&mut table, 2);
        assert_eq!(table.host_to_start(&wish(0, "a"), true, 0), Some(Start::Begin(host(0))));
        table.start_failed(&host(0), 10);
        assert_eq!(table.host_to_start(&wish(0, "a"), true, 20), Some(Start::Begin(host(1))));
        table.start_failed(&host(1), 30);
        assert_eq!(table.host_to_start(&wish(0, "a"), true, 40), None);
        assert_eq!(table.host_to_start(&wish(0, "a"), true, 10_010), Some(Start::Begin(host(0))));
    }

    #[test]
    fn a_user_who_comes_when_too_much_starts_is_told_to_come_again() {
        let mut table = table(FillOrder::BreadthFirst, 1, 0);
        switch_off(&mut table, 2);
        assert_eq!(table.host_to_start(&wish(0, "a"), true, 0), Some(Start::Begin(host(0))));
        assert_eq!(table.host_to_start(&wish(1, "b"), false, 0), Some(Start::Later));
        assert_eq!(table.host_to_start(&wish(0, "a"), false, 0), Some(Start::Underway(host(0))));
        assert_eq!(table.host_to_start(&wish(1, "b"), true, 0), Some(Start::Begin(host(1))));
    }

    #[test]
    fn drained_and_revoked_hosts_and_those_of_other_pools_stay_off() {
        let mut table = table(FillOrder::BreadthFirst, 2, 0);
        switch_off(&mut table, 2);
        table.host_revoked(&host(1));
        table.host_known(host(5), "elsewhere".parse().unwrap());
        table.set_draining(&host(0), true);
        assert_eq!(table.host_to_start(&wish(0, "a"), true, 0), None);
        // Enrolled again.
        table.host_known(host(1), pool());
        assert_eq!(table.host_to_start(&wish(0, "a"), true, 0), Some(Start::Begin(host(1))));
    }

    #[test]
    fn in_a_personal_pool_only_the_users_own_machine_is_started() {
        let automatic = PoolKind::Personal(AssignmentRule::Automatic);
        let mut table = table_of(automatic, 4, 0);
        switch_off(&mut table, 3);
        let key = AssignmentKey { pool: pool(), user: "ann".into() };
        table.assignment_known(key, host(1));
        assert_eq!(table.reserve(&wish(0, "ann"), 0), Err(Code::AssignedHostAway));
        assert_eq!(table.host_to_start(&wish(0, "ann"), true, 0), Some(Start::Begin(host(1))));
        // Who has none yet: one that is nobody's, each another one.
        assert_eq!(table.assign(&wish(1, "bob"), 0), Err(Code::NoHostAvailable));
        assert_eq!(table.host_to_start(&wish(1, "bob"), true, 0), Some(Start::Begin(host(0))));
        assert_eq!(table.host_to_start(&wish(2, "eve"), true, 0), Some(Start::Begin(host(2))));
        assert_eq!(table.host_to_start(&wish(3, "mal"), true, 0), None);
    }
}
