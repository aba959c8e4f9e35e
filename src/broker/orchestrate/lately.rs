//! Where somebody's newest session is, or was a moment ago: who lost a
//! connection comes back to that.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::core::clock::UnixMillis;
use crate::core::ids::SessionId;

/// Who lost a connection is back within this time, or comes anew.
const MOMENT_MS: u64 = 60_000;
/// Sessions that were a moment ago; beyond that the oldest is forgotten early.
const LEFT_MAX: usize = 16_384;

/// By whose session it is, where the newest one is.
#[derive(Debug)]
pub(super) struct Lately<K, W> {
    by_owner: HashMap<K, Place<W>>,
    /// In the order in which they ended.
    left: VecDeque<(UnixMillis, K, SessionId)>,
}

#[derive(Debug)]
struct Place<W> {
    session: SessionId,
    at: W,
    /// Unset while the session goes on.
    left_at: Option<UnixMillis>,
}

impl<K, W> Default for Lately<K, W> {
    fn default() -> Self {
        Self { by_owner: HashMap::new(), left: VecDeque::new() }
    }
}

impl<K: Hash + Eq + Clone, W> Lately<K, W> {
    /// A session begins.
    pub(super) fn enter(&mut self, whose: K, session: SessionId, at: W) {
        self.by_owner.insert(whose, Place { session, at, left_at: None });
    }

    /// It is over. One that a newer session has replaced is nobody's place any
    /// more.
    pub(super) fn leave(&mut self, whose: &K, session: SessionId, now: UnixMillis) {
        let Some(place) = self.by_owner.get_mut(whose) else { return };
        if place.session == session && place.left_at.is_none() {
            place.left_at = Some(now);
            self.left.push_back((now, whose.clone(), session));
        }
        self.forget(now);
    }

    /// What somebody who comes now comes back to.
    pub(super) fn of(&self, whose: &K, now: UnixMillis) -> Option<(SessionId, &W)> {
        let place = self.by_owner.get(whose)?;
        let counts = place.left_at.is_none_or(|left_at| now.since_ms(left_at) <= MOMENT_MS);
        counts.then_some((place.session, &place.at))
    }

    fn forget(&mut self, now: UnixMillis) {
        while let Some((left_at, ..)) = self.left.front()
            && (now.since_ms(*left_at) > MOMENT_MS || self.left.len() > LEFT_MAX)
        {
            let Some((_, whose, session)) = self.left.pop_front() else { return };
            if self.by_owner.get(&whose).is_some_and(|place| place.session == session) {
                self.by_owner.remove(&whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_where_the_newest_session_is_and_a_moment_longer() {
        let mut places = Lately::default();
        let now = UnixMillis::now();
        let [first, second] = [1, 2].map(|n| SessionId([n; 16]));
        places.enter("ann", first, "gw-1");
        assert_eq!(places.of(&"ann", now), Some((first, &"gw-1")));
        assert_eq!(places.of(&"bob", now), None);
        places.enter("ann", second, "gw-2");
        places.leave(&"ann", first, now);
        assert_eq!(places.of(&"ann", now.plus_ms(999_999)), Some((second, &"gw-2")));
        places.leave(&"ann", second, now);
        assert_eq!(places.of(&"ann", now.plus_ms(MOMENT_MS)), Some((second, &"gw-2")));
        assert_eq!(places.of(&"ann", now.plus_ms(MOMENT_MS + 1)), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut places = Lately::default();
        let now = UnixMillis::now();
        for number in 0..LEFT_MAX + 9 {
            let owner = number.to_string();
            places.enter(owner.clone(), SessionId([0; 16]), ());
            places.leave(&owner, SessionId([0; 16]), now);
        }
        assert_eq!((places.by_owner.len(), places.left.len()), (LEFT_MAX, LEFT_MAX));
        let ann = "ann".to_owned();
        places.enter(ann.clone(), SessionId([1; 16]), ());
        places.leave(&ann, SessionId([1; 16]), now.plus_ms(MOMENT_MS + 1));
        assert_eq!((places.by_owner.len(), places.left.len()), (1, 1));
    }
}
