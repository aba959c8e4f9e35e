//! At which gateway a user's session of a desktop or application is, or was a
//! moment ago: who returns stays there if that costs little (step 7).

use std::collections::{HashMap, VecDeque};

use crate::core::clock::UnixMillis;
use crate::core::ids::{GatewayId, SessionId};

/// Who lost a connection is back within this time, or comes anew.
const MOMENT_MS: u64 = 60_000;
/// Sessions that were a moment ago; beyond that the oldest is forgotten early.
const LEFT_MAX: usize = 16_384;

/// User and resource.
pub(super) type Whose = (String, String);

/// Where the newest session of each user and resource is that was ever live.
#[derive(Debug, Default)]
pub(super) struct Homes {
    by_owner: HashMap<Whose, Home>,
    /// In the order in which they ended.
    left: VecDeque<(UnixMillis, Whose, SessionId)>,
}

#[derive(Debug)]
struct Home {
    session: SessionId,
    gateway: GatewayId,
    /// Unset while the session is live.
    left_at: Option<UnixMillis>,
}

impl Homes {
    /// A session is live.
    pub(super) fn enter(&mut self, whose: Whose, session: SessionId, gateway: GatewayId) {
        self.by_owner.insert(whose, Home { session, gateway, left_at: None });
    }

    /// It is over. One that a newer session has replaced is no home any more.
    pub(super) fn leave(&mut self, whose: &Whose, session: SessionId, now: UnixMillis) {
        let Some(home) = self.by_owner.get_mut(whose) else { return };
        if home.session == session && home.left_at.is_none() {
            home.left_at = Some(now);
            self.left.push_back((now, whose.clone(), session));
        }
        self.forget(now);
    }

    /// The gateway that a user who comes now comes back to.
    pub(super) fn of(&self, whose: &Whose, now: UnixMillis) -> Option<&GatewayId> {
        let home = self.by_owner.get(whose)?;
        let is_home = home.left_at.is_none_or(|left_at| now.since_ms(left_at) <= MOMENT_MS);
        is_home.then_some(&home.gateway)
    }

    fn forget(&mut self, now: UnixMillis) {
        while let Some((left_at, ..)) = self.left.front()
            && (now.since_ms(*left_at) > MOMENT_MS || self.left.len() > LEFT_MAX)
        {
            let Some((_, whose, session)) = self.left.pop_front() else { return };
            if self.by_owner.get(&whose).is_some_and(|home| home.session == session) {
                self.by_owner.remove(&whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose(user: &str) -> Whose {
        (user.to_owned(), "desktop".to_owned())
    }

    fn gateway(name: &str) -> GatewayId {
        name.parse().unwrap()
    }

    #[test]
    fn a_home_is_where_the_newest_session_is_and_a_moment_longer() {
        let mut homes = Homes::default();
        let now = UnixMillis::now();
        let [first, second] = [1, 2].map(|n| SessionId([n; 16]));
        homes.enter(whose("ann"), first, gateway("gw-1"));
        assert_eq!(homes.of(&whose("ann"), now), Some(&gateway("gw-1")));
        assert_eq!(homes.of(&whose("bob"), now), None);
        homes.enter(whose("ann"), second, gateway("gw-2"));
        homes.leave(&whose("ann"), first, now);
        assert_eq!(homes.of(&whose("ann"), now.plus_ms(999_999)), Some(&gateway("gw-2")));
        homes.leave(&whose("ann"), second, now);
        assert_eq!(homes.of(&whose("ann"), now.plus_ms(MOMENT_MS)), Some(&gateway("gw-2")));
        assert_eq!(homes.of(&whose("ann"), now.plus_ms(MOMENT_MS + 1)), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut homes = Homes::default();
        let now = UnixMillis::now();
        for number in 0..LEFT_MAX + 9 {
            let owner = whose(&number.to_string());
            homes.enter(owner.clone(), SessionId([0; 16]), gateway("gw-1"));
            homes.leave(&owner, SessionId([0; 16]), now);
        }
        assert_eq!((homes.by_owner.len(), homes.left.len()), (LEFT_MAX, LEFT_MAX));
        homes.enter(whose("ann"), SessionId([1; 16]), gateway("gw-1"));
        homes.leave(&whose("ann"), SessionId([1; 16]), now.plus_ms(MOMENT_MS + 1));
        assert_eq!((homes.by_owner.len(), homes.left.len()), (1, 1));
    }
}
