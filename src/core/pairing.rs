//! Who waits for whom at a gateway (between steps 8 and 11).
//!
//! A client that has shown a valid ticket waits here for its session host. A
//! host never waits: it was ordered for a client that is here, so one that
//! finds nobody came too late. In a table of its own, one half of an RD Gateway
//! client waits for the other.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use super::per_address::PerAddress;

/// How many may wait.
#[derive(Clone, Copy, Debug)]
pub struct PairingLimits {
    pub waiting_max: usize,
    /// Of one client address.
    pub waiting_per_address_max: u32,
}

/// Why somebody may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWait {
    /// Somebody waits for the same already, and goes on waiting.
    Taken,
    TooMany,
}

/// Those who wait, by what they wait for, each with what it takes to wake them.
#[derive(Debug)]
pub struct PairingTable<K, W> {
    waiting: HashMap<K, (IpAddr, W)>,
    here: PerAddress,
    limits: PairingLimits,
}

impl<K: Hash + Eq, W> PairingTable<K, W> {
    #[must_use]
    pub fn new(limits: PairingLimits) -> Self {
        let here = PerAddress::new(limits.waiting_per_address_max);
        Self { waiting: HashMap::new(), here, limits }
    }

    /// From now on. Who waits goes on waiting.
    pub fn set_limits(&mut self, limits: PairingLimits) {
        self.here.set_max(limits.waiting_per_address_max);
        self.limits = limits;
    }

    /// Somebody begins to wait.
    ///
    /// # Errors
    /// [`NoWait`].
    pub fn wait(&mut self, key: K, address: IpAddr, waker: W) -> Result<(), NoWait> {
        if self.waiting.contains_key(&key) {
            return Err(NoWait::Taken);
        }
        if self.waiting.len() >= self.limits.waiting_max || !self.here.enter(address) {
            return Err(NoWait::TooMany);
        }
        self.waiting.insert(key, (address, waker));
        Ok(())
    }

    /// Ends a wait: who was waited for came or will not come, who waited left,
    /// or their time is up. `None` when nobody waits any more.
    pub fn take(&mut self, key: &K) -> Option<W> {
        let (address, waker) = self.waiting.remove(key)?;
        self.here.leave(address);
        Some(waker)
    }

    /// The same, if it is this one who waits: after a wait somebody else may have
    /// begun another for the same.
    pub fn take_if(&mut self, key: &K, is_this_one: impl FnOnce(&W) -> bool) -> Option<W> {
        let (_, waker) = self.waiting.get(key)?;
        if is_this_one(waker) { self.take(key) } else { None }
    }

    /// Ends every wait: the gateway stops.
    pub fn take_all(&mut self) -> Vec<W> {
        self.here.clear();
        self.waiting.drain().map(|(_, (_, waker))| waker).collect()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::ids::SessionId;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, n])
    }

    #[test]
    fn a_host_finds_its_client_once() {
        let limits = PairingLimits { waiting_max: 10, waiting_per_address_max: 10 };
        let mut table = PairingTable::new(limits);
        let session = SessionId([1; 16]);
        assert_eq!(table.wait(session, address(1), "client"), Ok(()));
        assert_eq!(table.wait(session, address(2), "again"), Err(NoWait::Taken));
        assert_eq!(table.take(&session), Some("client"));
        assert_eq!(table.take(&session), None);
        assert_eq!(table.wait(session, address(1), "client"), Ok(()));
        assert_eq!(table.take_all(), ["client"]);
        assert!(table.is_empty() && table.here.is_empty());
    }

    proptest! {
        /// Whatever comes and goes: no limit is passed, and the count per
        /// address is always the number of those who wait.
        #[test]
        fn limits_hold_and_counts_agree(steps in prop::collection::vec((any::<bool>(), 0_u8..20, 0_u8..4), 0..300)) {
            let limits = PairingLimits { waiting_max: 8, waiting_per_address_max: 3 };
            let mut table = PairingTable::new(limits);
            for (arrives, session, from) in steps {
                let session = SessionId([session; 16]);
                if arrives {
                    let _ = table.wait(session, address(from), ());
                } else {
                    let _ = table.take(&session);
                }
                prop_assert!(table.len() <= 8);
                for n in 0..4 {
                    let here = table.waiting.values().filter(|(a, ())| *a == address(n)).count();
                    prop_assert!(here <= 3);
                    prop_assert_eq!(here, table.here.count(address(n)) as usize);
                }
            }
        }
    }
}
