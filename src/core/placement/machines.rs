//! Hosts and gateways come and go; what they say about their sessions is
//! believed, because they are the ones who carry them.

use std::collections::HashSet;

use super::{Freed, Host, HostTable, Phase, Slot};
use crate::core::codes::Code;
use crate::core::health::Fitness;
use crate::core::ids::{GatewayId, HostId, PoolId, SessionId};

impl HostTable {
    /// A host said hello: it is placeable, and `live` is all that it carries.
    /// Returns the sessions that ended while nobody looked.
    pub fn host_connected(
        &mut self,
        name: &HostId,
        pool: &PoolId,
        capacity: u32,
        live: &[SessionId],
        now: u64,
    ) -> Vec<Freed> {
        let mut freed = self.host_disconnected(name, now);
        self.host_known(name.clone(), pool.clone());
        self.start_is_over(name);
        let Some(host) = self.hosts.get_mut(name) else { return freed };
        host.connected = true;
        host.stopping = false;
        host.fitness = Fitness::Good; // until it says otherwise
        host.capacity = capacity;

        let carried: HashSet<_> = live.iter().copied().collect();
        freed.extend(self.free_where(Code::HostGone, |session, slot| {
            slot.phase == Phase::Live
                && slot.host.as_ref() == Some(name)
                && !carried.contains(&session)
        }));
        for session in carried {
            match self.slots.get_mut(&session) {
                None => self.insert(session, adopted(Some(name.clone()), None)),
                Some(slot) if slot.host.is_none() => {
                    slot.host = Some(name.clone());
                    self.count(name, true);
                }
                Some(_) => {}
            }
        }
        self.set_orphan_deadlines(now);
        freed
    }

    /// A host's channel is lost. What was ordered and has not started is
    /// returned as free: nobody will come. Live sessions go on without it.
    pub fn host_disconnected(&mut self, name: &HostId, now: u64) -> Vec<Freed> {
        if let Some(host) = self.hosts.get_mut(name) {
            host.connected = false;
        }
        let freed = self.free_where(Code::HostGone, |_, slot| {
            matches!(slot.phase, Phase::Ordered | Phase::Accepted)
                && slot.host.as_ref() == Some(name)
        });
        self.set_orphan_deadlines(now);
        freed
    }

    /// A gateway said hello; `live` is all that it relays.
    pub fn gateway_connected(
        &mut self,
        name: &GatewayId,
        live: &[SessionId],
        now: u64,
    ) -> Vec<Freed> {
        self.gateways_connected.insert(name.clone());
        let relayed: HashSet<_> = live.iter().copied().collect();
        let freed = self.free_where(Code::SessionUnknown, |session, slot| {
            slot.phase == Phase::Live
                && slot.gateway.as_ref() == Some(name)
                && !relayed.contains(&session)
        });
        for session in relayed {
            match self.slots.get_mut(&session) {
                None => self.insert(session, adopted(None, Some(name.clone()))),
                Some(slot) if slot.gateway.as_ref().is_none_or(|known| known == name) => {
                    slot.gateway = Some(name.clone());
                    slot.phase = Phase::Live;
                }
                Some(_) => {}
            }
        }
        self.set_orphan_deadlines(now);
        freed
    }

    pub fn gateway_disconnected(&mut self, name: &GatewayId, now: u64) {
        self.gateways_connected.remove(name);
        self.set_orphan_deadlines(now);
    }

    /// Whose session it is and where, when only some machine had told of it.
    pub fn identify(&mut self, session: SessionId, user: &str, host: Option<&HostId>) {
        let Some(slot) = self.slots.get_mut(&session) else { return };
        slot.user.get_or_insert_with(|| user.to_owned());
        if let Some(host) = host.filter(|host| self.hosts.contains_key(host))
            && slot.host.is_none()
        {
            slot.host = Some(host.clone());
            self.count(host, true);
        }
    }

    /// Makes a host known that is enrolled, whether it is connected or not.
    pub fn host_known(&mut self, name: HostId, pool: PoolId) {
        let draining = self.drains.cover(&name, &[]);
        let host = self.hosts.entry(name).or_insert_with(|| Host {
            pool: pool.clone(),
            connected: false,
            revoked: false,
            draining,
            labels: Vec::new(),
            fitness: Fitness::Good,
            capacity: 0,
            sessions: 0,
            stopping: false,
            paused_until: 0,
        });
        host.pool = pool;
        host.revoked = false;
    }

    /// A host may not come back unless it is enrolled again.
    pub fn host_revoked(&mut self, name: &HostId) {
        if let Some(host) = self.hosts.get_mut(name) {
            host.revoked = true;
        }
    }

    /// What a host's agent found out about it.
    pub fn set_fitness(&mut self, name: &HostId, fitness: Fitness) {
        if let Some(host) = self.hosts.get_mut(name) {
            host.fitness = fitness;
        }
    }

    /// A host that stops is given nobody, not even who has a session there: it
    /// refuses. Its next hello ends this.
    pub fn host_stopping(&mut self, name: &HostId) {
        if let Some(host) = self.hosts.get_mut(name) {
            host.stopping = true;
        }
    }

    /// A host refused, failed or did not answer an order: it is passed over
    /// for a while.
    pub fn host_failed(&mut self, name: &HostId, now: u64) {
        let until = now.saturating_add(self.rules.failure_pause_ms);
        if let Some(host) = self.hosts.get_mut(name) {
            host.paused_until = until;
        }
    }

    /// Whether somebody who is connected will tell when this session ends.
    pub(super) fn vouched(&self, slot: &Slot) -> bool {
        slot.phase == Phase::Live
            && (slot.gateway.as_ref().is_some_and(|name| self.gateways_connected.contains(name))
                || slot
                    .host
                    .as_ref()
                    .and_then(|name| self.hosts.get(name))
                    .is_some_and(|host| host.connected))
    }

    fn set_orphan_deadlines(&mut self, now: u64) {
        let give_up_at = now.saturating_add(self.rules.orphan_ms);
        let live: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.phase == Phase::Live)
            .map(|(session, slot)| (*session, self.vouched(slot)))
            .collect();
        for (session, vouched) in live {
            if let Some(slot) = self.slots.get_mut(&session) {
                slot.deadline = if vouched { None } else { slot.deadline.or(Some(give_up_at)) };
            }
        }
    }
}

fn adopted(host: Option<HostId>, gateway: Option<GatewayId>) -> Slot {
    Slot { phase: Phase::Live, host, gateway, user: None, deadline: None, adopted: true }
}
