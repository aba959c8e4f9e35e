//! When ticket keys come and go.
//!
//! At most two are published. The next one is announced before it signs, for
//! longer than a connected gateway can be behind; the one before it stays
//! published until no ticket of it can be valid. Gateways take what is
//! published whenever they are told, so one that connects in between knows both.
//!
//! ```text
//! announced ──lead──► signing ──ticket_key_days, or by order──► retiring ──► gone
//!                                 the next one is announced ─► …
//! ```

use super::clock::UnixMillis;
use super::tickets::{CLOCK_SKEW_MS_MAX, LIFETIME_MS_MAX};

/// A key that was replaced stays published for as long as a ticket of it can
/// be valid anywhere.
pub const RETIRES_AFTER_MS: u64 = LIFETIME_MS_MAX + 2 * CLOCK_SKEW_MS_MAX;

/// How keys are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRules {
    /// How long a key signs; 0: until it is told to stop.
    pub signs_ms: u64,
    /// From the announcement to the first signature.
    pub lead_ms: u64,
}

/// The keys. `K` is what the owner of the ring signs with.
#[derive(Clone, Debug)]
pub struct KeyRing<K> {
    rules: KeyRules,
    signing: (K, UnixMillis),
    other: Other<K>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Other<K> {
    None,
    Next { key: K, signs_from: UnixMillis },
    Retiring { key: K, gone_at: UnixMillis },
}

/// What happened to the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// A key is due: [`KeyRing::announce`] one.
    NextIsDue,
    /// The next key signs now; the one before retires.
    Signs,
    /// The retired key is published no more.
    Retired,
}

/// The keys as they are stored. Times are those of the state they are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKeys<K> {
    pub signing: (K, UnixMillis),
    pub next: Option<(K, UnixMillis)>,
    pub retiring: Option<(K, UnixMillis)>,
}

impl<K: Clone> KeyRing<K> {
    /// A ring of one key, which signs since then.
    pub const fn new(rules: KeyRules, key: K, since: UnixMillis) -> Self {
        Self { rules, signing: (key, since), other: Other::None }
    }

    /// What [`KeyRing::stored`] gave.
    pub fn restore(rules: KeyRules, stored: StoredKeys<K>) -> Self {
        let other = match (stored.next, stored.retiring) {
            (Some((key, signs_from)), _) => Other::Next { key, signs_from },
            (None, Some((key, gone_at))) => Other::Retiring { key, gone_at },
            (None, None) => Other::None,
        };
        Self { rules, signing: stored.signing, other }
    }

    pub fn stored(&self) -> StoredKeys<K> {
        let (next, retiring) = match &self.other {
            Other::None => (None, None),
            Other::Next { key, signs_from } => (Some((key.clone(), *signs_from)), None),
            Other::Retiring { key, gone_at } => (None, Some((key.clone(), *gone_at))),
        };
        StoredKeys { signing: self.signing.clone(), next, retiring }
    }

    /// What tickets are signed with.
    pub const fn signing(&self) -> &K {
        &self.signing.0
    }

    /// What gateways have to know, the signing key first. One or two.
    pub fn published(&self) -> Vec<&K> {
        let other = match &self.other {
            Other::None => None,
            Other::Next { key, .. } | Other::Retiring { key, .. } => Some(key),
        };
        [Some(&self.signing.0), other].into_iter().flatten().collect()
    }

    /// Does what is due. Ask again until there is nothing.
    pub fn advance(&mut self, now: UnixMillis) -> Option<KeyChange> {
        match &self.other {
            Other::Next { key, signs_from } if *signs_from <= now => {
                let before = std::mem::replace(&mut self.signing, (key.clone(), now));
                self.other =
                    Other::Retiring { key: before.0, gone_at: now.plus_ms(RETIRES_AFTER_MS) };
                Some(KeyChange::Signs)
            }
            Other::Retiring { gone_at, .. } if *gone_at <= now => {
                self.other = Other::None;
                Some(KeyChange::Retired)
            }
            Other::None if self.next_is_due_at().is_some_and(|due| due <= now) => {
                Some(KeyChange::NextIsDue)
            }
            _ => None,
        }
    }

    /// Publishes the next key; it signs from the returned time on.
    ///
    /// # Errors
    /// When two are published already: the time from which on there is room.
    pub fn announce(&mut self, key: K, now: UnixMillis) -> Result<UnixMillis, UnixMillis> {
        match &self.other {
            Other::None => {
                let signs_from = now.plus_ms(self.rules.lead_ms);
                self.other = Other::Next { key, signs_from };
                Ok(signs_from)
            }
            Other::Next { signs_from, .. } => Err(signs_from.plus_ms(RETIRES_AFTER_MS)),
            Other::Retiring { gone_at, .. } => Err(*gone_at),
        }
    }

    /// When [`KeyRing::advance`] has something to do next.
    pub fn next_change(&self) -> Option<UnixMillis> {
        match &self.other {
            Other::Next { signs_from, .. } => Some(*signs_from),
            Other::Retiring { gone_at, .. } => Some(*gone_at),
            Other::None => self.next_is_due_at(),
        }
    }

    fn next_is_due_at(&self) -> Option<UnixMillis> {
        (self.rules.signs_ms > 0).then(|| self.signing.1.plus_ms(self.rules.signs_ms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY_MS: u64 = 86_400_000;
    const START: UnixMillis = UnixMillis(1_800_000_000_000);
    const RULES: KeyRules = KeyRules { signs_ms: 30 * DAY_MS, lead_ms: 20_000 };

    fn published(ring: &KeyRing<u32>) -> Vec<u32> {
        ring.published().into_iter().copied().collect()
    }

    #[test]
    fn the_next_key_is_published_before_it_signs_and_the_old_one_after() {
        let mut ring = KeyRing::new(RULES, 1, START);
        assert_eq!(ring.advance(START.plus_ms(30 * DAY_MS - 1)), None);
        let due = START.plus_ms(30 * DAY_MS);
        assert_eq!(ring.next_change(), Some(due));
        assert_eq!(ring.advance(due), Some(KeyChange::NextIsDue));
        let signs_from = ring.announce(2, due).unwrap();
        assert_eq!(signs_from, due.plus_ms(20_000));
        assert_eq!((*ring.signing(), published(&ring)), (1, vec![1, 2]));
        assert_eq!(ring.advance(UnixMillis(signs_from.0 - 1)), None);
        assert_eq!(ring.advance(signs_from), Some(KeyChange::Signs));
        assert_eq!((*ring.signing(), published(&ring)), (2, vec![2, 1]));
        let gone = signs_from.plus_ms(RETIRES_AFTER_MS);
        assert_eq!(ring.advance(UnixMillis(gone.0 - 1)), None);
        assert_eq!(ring.advance(gone), Some(KeyChange::Retired));
        assert_eq!((published(&ring), ring.advance(gone)), (vec![2], None));
    }

    #[test]
    fn a_rotation_by_order_waits_until_two_keys_are_not_live() {
        let mut ring = KeyRing::new(KeyRules { signs_ms: 0, ..RULES }, 1, START);
        assert_eq!((ring.advance(START.plus_ms(u64::MAX)), ring.next_change()), (None, None));
        let signs_from = ring.announce(2, START).unwrap();
        let room_at = signs_from.plus_ms(RETIRES_AFTER_MS);
        assert_eq!(ring.announce(3, START.plus_ms(1)), Err(room_at));
        assert_eq!(ring.advance(signs_from), Some(KeyChange::Signs));
        assert_eq!(ring.announce(3, signs_from), Err(room_at));
        assert_eq!(ring.advance(room_at), Some(KeyChange::Retired));
        assert!(ring.announce(3, room_at).is_ok());
    }

    #[test]
    fn a_ring_that_was_stored_goes_on_where_it_was() {
        let mut ring = KeyRing::new(RULES, 1, START);
        for _ in 0..3 {
            let again = KeyRing::restore(RULES, ring.stored());
            assert_eq!((again.stored(), again.next_change()), (ring.stored(), ring.next_change()));
            let at = ring.next_change().unwrap();
            if ring.advance(at) == Some(KeyChange::NextIsDue) {
                ring.announce(2, at).unwrap();
            }
        }
    }

    proptest! {
        /// Whenever the owner looks and whatever is ordered: a gateway that
        /// took the published keys within the lead before a ticket was signed,
        /// and keeps up, can verify it until it expires.
        #[test]
        fn every_ticket_can_be_verified_by_who_keeps_up(
            steps in proptest::collection::vec((0_u64..200_000, any::<bool>()), 1..200),
        ) {
            let rules = KeyRules { signs_ms: 300_000, lead_ms: 20_000 };
            let mut ring = KeyRing::new(rules, 0_u32, START);
            let mut now = START;
            let mut next_key = 1;
            // (key, published since, and until)
            let mut published_at = vec![(0_u32, START, None)];
            let mut signed: Vec<(u32, UnixMillis)> = Vec::new();
            for (pause_ms, order) in steps {
                now = now.plus_ms(pause_ms);
                while let Some(change) = ring.advance(now) {
                    if change == KeyChange::NextIsDue {
                        ring.announce(next_key, now).unwrap();
                        next_key += 1;
                    }
                }
                if order && ring.announce(next_key, now).is_ok() {
                    next_key += 1;
                }
                let keys = published(&ring);
                prop_assert!(keys.len() <= 2);
                for key in &keys {
                    if !published_at.iter().any(|(known, ..)| known == key) {
                        published_at.push((*key, now, None));
                    }
                }
                for (key, _, until) in &mut published_at {
                    if until.is_none() && !keys.contains(key) {
                        *until = Some(now);
                    }
                }
                signed.push((*ring.signing(), now));
            }
            for (key, at) in signed {
                let (_, since, until) =
                    published_at.iter().copied().find(|(known, ..)| *known == key).unwrap();
                prop_assert!(key == 0 || at.since_ms(since) >= rules.lead_ms);
                prop_assert!(until.is_none_or(|until| until >= at.plus_ms(LIFETIME_MS_MAX)));
            }
        }
    }
}
