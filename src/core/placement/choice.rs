//! Which host of a pool, and how many places one user may hold.

use std::collections::HashSet;

use super::{FillOrder, Freed, Host, HostTable, Phase, PoolKind, PoolRules, Slot, Wish, limit};
use crate::core::codes::Code;
use crate::core::health::Fitness;
use crate::core::ids::{HostId, SessionId};

impl HostTable {
    pub(super) fn choose(&self, wish: &Wish, rules: PoolRules, now: u64) -> Result<HostId, Code> {
        match rules.kind {
            PoolKind::Pooled(fill_order) => self.choose_any(wish, rules, fill_order, now),
            PoolKind::Personal(_) => self.choose_own(wish, rules),
        }
    }

    fn choose_any(
        &self,
        wish: &Wish,
        rules: PoolRules,
        fill_order: FillOrder,
        now: u64,
    ) -> Result<HostId, Code> {
        let here =
            || self.hosts.iter().filter(|(_, host)| host.pool == wish.pool && host.connected);
        if here().next().is_none() {
            return Err(Code::NoHostAvailable);
        }
        let has_room = |host: &Host| !host.stopping && host.sessions < limit(host, rules);
        if let Some((name, _)) = self.former_host(wish, now).filter(|(_, host)| has_room(host)) {
            return Ok(name.clone());
        }
        let is_paused = |host: &Host| now < host.paused_until;
        let is_unfit = |host: &Host| host.fitness == Fitness::Unfit;
        let own: HashSet<&HostId> = self
            .slots
            .values()
            .filter(|slot| slot.user.as_deref() == Some(wish.user.as_str()))
            .filter_map(|slot| slot.host.as_ref().map(|name| (name, slot.phase)))
            .filter(|(name, phase)| {
                // A desktop that is live is worth a try; a mere place is not.
                let ails = |host: &Host| is_paused(host) || is_unfit(host);
                *phase == Phase::Live || !self.hosts.get(name).is_some_and(ails)
            })
            .map(|(name, _)| name)
            .collect();
        if let Some((name, _)) = here().find(|(name, host)| own.contains(name) && has_room(host)) {
            return Ok(name.clone());
        }
        let staying = || here().filter(|(_, host)| !host.draining && !host.stopping);
        if staying().next().is_none() {
            return Err(Code::HostDraining);
        }
        if staying().all(|(_, host)| is_unfit(host)) {
            return Err(Code::HostUnhealthy);
        }
        let open = staying().filter(|(_, host)| has_room(host) && !is_unfit(host));
        let chosen = open.min_by_key(|(name, host)| {
            let paused_until = if is_paused(host) { host.paused_until } else { 0 };
            let filled = match fill_order {
                FillOrder::BreadthFirst => i64::from(host.sessions),
                FillOrder::DepthFirst => -i64::from(host.sessions),
            };
            (paused_until, host.fitness, filled, *name)
        });
        chosen.map(|(name, _)| name.clone()).ok_or(Code::PoolFull)
    }

    /// Before [`reserve`](Self::reserve): a user who holds as many places as
    /// they may for sessions that are not live gives the oldest one back that
    /// no client has come for. So nobody can take every place.
    ///
    /// # Errors
    /// [`Code::TooManyPlaces`] when hosts are on their way to all of them.
    pub fn make_way(&mut self, user: &str) -> Result<Option<Freed>, Code> {
        if self.pending_of(user).count() < self.rules.reservations_per_user_max {
            return Ok(None);
        }
        let (session, _) = self
            .pending_of(user)
            .filter(|(_, slot)| slot.phase == Phase::Reserved)
            .min_by_key(|(session, slot)| (slot.deadline, **session))
            .ok_or(Code::TooManyPlaces)?;
        let session = *session;
        let slot = self.remove(session).ok_or(Code::Internal)?;
        Ok(Some(Freed { session, slot, code: Code::ReservationExpired }))
    }

    /// What a user holds for sessions that are not live.
    pub(super) fn pending_of(&self, user: &str) -> impl Iterator<Item = (&SessionId, &Slot)> {
        let of_user = move |slot: &Slot| slot.user.as_deref() == Some(user);
        self.slots.iter().filter(move |(_, slot)| slot.phase != Phase::Live && of_user(slot))
    }
}
