//! What must hold after every step, whatever came before.

use super::HostTable;

impl HostTable {
    /// Says what is wrong with the table. Tests ask after every step.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check_invariants(&self) -> Result<(), String> {
        for (name, host) in &self.hosts {
            let here = || self.slots.values().filter(|slot| slot.host.as_ref() == Some(name));
            let counted = here().count();
            if counted != host.sessions as usize {
                return Err(format!("{name} counts {}, has {counted}", host.sessions));
            }
            let placed = here().filter(|slot| !slot.adopted).count();
            let limit = self.pools.get(&host.pool).map_or(0, |rules| rules.sessions_per_host_max);
            if placed > limit as usize {
                return Err(format!("{name} was given {placed} sessions, its limit is {limit}"));
            }
        }
        for (session, slot) in &self.slots {
            if slot.host.as_ref().is_some_and(|host| !self.hosts.contains_key(host)) {
                return Err(format!("{session} sits on an unknown host"));
            }
            if slot.deadline.is_none() && !self.vouched(slot) {
                return Err(format!("{session} would be held for ever: {slot:?}"));
            }
        }
        self.check_assignments()
    }
}
