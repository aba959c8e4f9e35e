//! Clients that come back before their last session is quite over. They belong
//! to the host that they were at: there is the desktop they left, and its is the
//! certificate that they were told to expect.

use super::{Freed, Host, HostTable, Phase, Wish, limit};
use crate::core::codes::Code;
use crate::core::health::Fitness;
use crate::core::ids::{HostId, SessionId};

/// What a client that comes back has left: a session of the same user for the
/// same resource, over or about to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former {
    pub session: SessionId,
    pub host: HostId,
}

impl HostTable {
    /// Before [`make_way`](Self::make_way): a client that comes back gives the
    /// place up that it still holds, if without that it would find none at its
    /// host, or be refused for holding too many.
    pub fn take_over(&mut self, wish: &Wish, now: u64) -> Option<Freed> {
        let former = wish.former.as_ref()?;
        let (name, host) = self.former_host(wish, now)?;
        let slot = self.slots.get(&former.session)?;
        if slot.user.as_ref() != Some(&wish.user) || slot.host.as_ref() != Some(name) {
            return None;
        }
        let places = limit(host, *self.pools.get(&wish.pool)?);
        let is_full = host.sessions == places;
        let holds_too_many = slot.phase != Phase::Live
            && self.pending_of(&wish.user).count() >= self.rules.reservations_per_user_max;
        // Above a limit that was lowered one place less changes nothing.
        if !(is_full || holds_too_many && host.sessions < places) {
            return None;
        }
        let session = former.session;
        let slot = self.remove(session)?;
        Some(Freed { session, slot, code: Code::ClientDidNotArrive })
    }

    /// The host that the client comes back to, unless it takes nobody now.
    pub(super) fn former_host(&self, wish: &Wish, now: u64) -> Option<(&HostId, &Host)> {
        let (name, host) = self.hosts.get_key_value(&wish.former.as_ref()?.host)?;
        let takes = host.pool == wish.pool && host.connected && !host.stopping;
        let is_well = host.fitness != Fitness::Unfit && now >= host.paused_until;
        (takes && is_well).then_some((name, host))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{RULES, gateway, host, live, session, table, table_of, wish};
    use super::super::{AssignmentRule, FillOrder, PoolKind, PoolRules};
    use super::*;

    /// The user is back from that session.
    fn back(n: u16, user: &str, from: u16, at: HostId) -> Wish {
        let former = Some(Former { session: session(from), host: at });
        Wish { former, ..wish(n, user) }
    }

    #[test]
    fn who_comes_back_to_the_only_seat_takes_it_over() {
        let mut table = table(FillOrder::BreadthFirst, 1, 1);
        let home = live(&mut table, 0, "ann");
        assert_eq!(
            table.reserve(&wish(1, "ann"), 0),
            Err(Code::PoolFull),
            "another client of hers"
        );
        let wish = back(1, "ann", 0, home.clone());
        let freed = table.take_over(&wish, 0).unwrap();
        assert_eq!((freed.session, freed.slot.phase), (session(0), Phase::Live));
        assert_eq!(table.reserve(&wish, 0), Ok(home));
        table.check_invariants().unwrap();
        assert!(!table.started(session(0), &gateway(0)), "the old one is over");
    }

    #[test]
    fn nothing_is_taken_over_where_there_is_room_or_nothing_left() {
        let mut table = table(FillOrder::BreadthFirst, 2, 2);
        let home = live(&mut table, 0, "ann");
        let wish = back(1, "ann", 0, home.clone());
        assert_eq!(table.take_over(&wish, 0), None);
        table.release(session(0)).unwrap();
        assert_eq!(table.take_over(&wish, 0), None);
        // It was her desktop all the same, however full the others are.
        live(&mut table, 2, "bob");
        assert_eq!(table.reserve(&wish, 0), Ok(home));
    }

    #[test]
    fn a_place_of_somebody_else_is_never_taken() {
        let mut table = table(FillOrder::BreadthFirst, 1, 1);
        let home = live(&mut table, 0, "ann");
        let wish = back(1, "bob", 0, home);
        assert_eq!(table.take_over(&wish, 0), None);
        assert_eq!(table.reserve(&wish, 0), Err(Code::PoolFull));
    }

    #[test]
    fn who_comes_back_while_a_host_is_on_its_way_does_not_hold_too_many() {
        let mut table = table(FillOrder::BreadthFirst, 9, 1);
        for n in 0..3 {
            table.reserve(&wish(n, "ann"), 0).unwrap();
            table.begin_order(session(n), &gateway(0), 0).unwrap();
        }
        assert_eq!(table.make_way("ann"), Err(Code::TooManyPlaces));
        let wish = back(3, "ann", 2, host(0));
        assert_eq!(table.take_over(&wish, 0).unwrap().session, session(2));
        assert_eq!(table.make_way("ann"), Ok(None));
        assert_eq!(table.reserve(&wish, 0), Ok(host(0)));
    }

    #[test]
    fn a_host_that_takes_nobody_is_no_place_to_come_back_to() {
        for ail in [
            |table: &mut HostTable| table.host_stopping(&host(0)),
            |table: &mut HostTable| table.set_fitness(&host(0), Fitness::Unfit),
            |table: &mut HostTable| table.host_failed(&host(0), 0),
            |table: &mut HostTable| drop(table.host_disconnected(&host(0), 0)),
        ] {
            let mut table = table(FillOrder::DepthFirst, 1, 2);
            let home = live(&mut table, 0, "ann");
            ail(&mut table);
            let wish = back(1, "ann", 0, home);
            assert_eq!(table.take_over(&wish, 0), None);
            assert_eq!(table.reserve(&wish, 0), Ok(host(1)));
        }
    }

    #[test]
    fn the_users_own_machine_is_taken_over_too() {
        let mut table = table_of(PoolKind::Personal(AssignmentRule::Automatic), 1, 1);
        table.assign(&wish(0, "ann"), 0).unwrap();
        table.assignment_stored(&wish(0, "ann").key(), true);
        let home = live(&mut table, 0, "ann");
        let wish = back(1, "ann", 0, home.clone());
        assert!(table.take_over(&wish, 0).is_some());
        assert_eq!(table.reserve(&wish, 0), Ok(home));
    }

    #[test]
    fn above_a_lowered_limit_nothing_is_taken_over_in_vain() {
        let mut table = table(FillOrder::BreadthFirst, 2, 1);
        let home = live(&mut table, 0, "ann");
        live(&mut table, 1, "bob");
        let kind = PoolKind::Pooled(FillOrder::BreadthFirst);
        let rules = PoolRules { kind, sessions_per_host_max: 1, start_patience_ms: None };
        table.set_rules(RULES, [(wish(0, "ann").pool, rules)].into());
        assert_eq!(table.take_over(&back(2, "ann", 0, home), 0), None);
    }
}
