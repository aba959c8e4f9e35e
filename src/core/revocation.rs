//! Sessions that an administrator ended: none of their tickets lets anybody in
//! again (steps 8 and 10), and no machine brings them back.
//!
//! A list of them is needed only for as long as a ticket can live, or a machine
//! can be away; it is bounded in number and in time.

use std::collections::{HashMap, VecDeque};

use super::clock::UnixMillis;
use super::codes::Code;
use super::ids::SessionId;
use super::tickets::{CLOCK_SKEW_MS_MAX, Claims, LIFETIME_MS_MAX};

/// A ticket that a gateway takes now was issued at most a skew in its future,
/// and lives no longer than this from now on.
pub const TICKETS_GONE_AFTER_MS: u64 = LIFETIME_MS_MAX + 2 * CLOCK_SKEW_MS_MAX;

/// Sessions, each until a time.
#[derive(Debug)]
pub struct RevokedSessions {
    until: HashMap<SessionId, UnixMillis>,
    in_order: VecDeque<(SessionId, UnixMillis)>,
    capacity: usize,
}

impl RevokedSessions {
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { until: HashMap::new(), in_order: VecDeque::new(), capacity }
    }

    /// `false` when there is no room for one more.
    pub fn insert(&mut self, session: SessionId, until: UnixMillis, now: UnixMillis) -> bool {
        self.forget_expired(now);
        if self.in_order.len() >= self.capacity {
            return false;
        }
        self.until.insert(session, until);
        self.in_order.push_back((session, until));
        true
    }

    #[must_use]
    pub fn contains(&self, session: SessionId, now: UnixMillis) -> bool {
        self.until.get(&session).is_some_and(|until| now < *until)
    }

    /// Those that are revoked beyond `now`, with their end.
    pub fn iter(&self, now: UnixMillis) -> impl Iterator<Item = (SessionId, UnixMillis)> {
        self.until.iter().map(|(session, until)| (*session, *until)).filter(move |(_, u)| now < *u)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.until.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    fn forget_expired(&mut self, now: UnixMillis) {
        while let Some((session, until)) = self.in_order.front().copied()
            && until <= now
        {
            self.in_order.pop_front();
            // Unless it was revoked again, for longer.
            if self.until.get(&session) == Some(&until) {
                self.until.remove(&session);
            }
        }
    }
}

/// A gateway's part: which tickets are void.
#[derive(Debug)]
pub struct RevokedTickets {
    sessions: RevokedSessions,
    /// Void without a look at the session: everything issued up to here.
    issued_until: UnixMillis,
}

impl RevokedTickets {
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { sessions: RevokedSessions::new(capacity), issued_until: UnixMillis(0) }
    }

    /// Voids every ticket of a session that exists now. Without room, all
    /// tickets that exist now are void: their bearers ask for new ones, which
    /// those who were ended do not get.
    pub fn revoke(&mut self, session: SessionId, now: UnixMillis) {
        if !self.sessions.insert(session, now.plus_ms(TICKETS_GONE_AFTER_MS), now) {
            self.issued_until = now.plus_ms(CLOCK_SKEW_MS_MAX);
        }
    }

    /// # Errors
    /// [`Code::SessionRevoked`].
    pub fn check(&self, claims: &Claims, now: UnixMillis) -> Result<(), Code> {
        if claims.issued_at <= self.issued_until || self.contains(claims.session, now) {
            return Err(Code::SessionRevoked);
        }
        Ok(())
    }

    #[must_use]
    pub fn contains(&self, session: SessionId, now: UnixMillis) -> bool {
        self.sessions.contains(session, now)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tickets::Role;
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn session(number: u8) -> SessionId {
        SessionId([number; 16])
    }

    fn claims(number: u8, issued_at: UnixMillis) -> Claims {
        Claims {
            id: session(100),
            session: session(number),
            gateway: "gw-1".parse().unwrap(),
            host: "host-1".parse().unwrap(),
            role: Role::Client,
            issued_at,
            expires_at: issued_at.plus_ms(LIFETIME_MS_MAX),
        }
    }

    #[test]
    fn a_ticket_is_void_for_as_long_as_it_could_be_used() {
        let mut revoked = RevokedTickets::new(10);
        revoked.revoke(session(1), NOW);
        // The broker's clock may be ahead.
        let issued_at = NOW.plus_ms(CLOCK_SKEW_MS_MAX);
        let last_moment = issued_at.plus_ms(LIFETIME_MS_MAX - 1);
        for now in [NOW, last_moment] {
            let check = |number| revoked.check(&claims(number, issued_at), now);
            assert_eq!((check(1), check(2)), (Err(Code::SessionRevoked), Ok(())));
        }
        revoked.revoke(session(2), NOW.plus_ms(TICKETS_GONE_AFTER_MS));
        assert_eq!(revoked.len(), 1, "the first is forgotten");
    }

    #[test]
    fn without_room_every_ticket_of_the_past_is_void() {
        let mut revoked = RevokedTickets::new(1);
        revoked.revoke(session(1), NOW);
        revoked.revoke(session(2), NOW);
        for number in [1, 2, 3] {
            let check = |issued_at| revoked.check(&claims(number, issued_at), NOW);
            assert_eq!(check(NOW), Err(Code::SessionRevoked));
            let later = check(NOW.plus_ms(CLOCK_SKEW_MS_MAX + 1));
            assert_eq!(later.is_err(), number == 1, "{number}");
        }
    }

    #[test]
    fn revoked_again_is_revoked_for_longer() {
        let mut sessions = RevokedSessions::new(10);
        assert!(sessions.insert(session(1), NOW.plus_ms(10), NOW));
        assert!(sessions.insert(session(1), NOW.plus_ms(30), NOW.plus_ms(5)));
        assert!(sessions.insert(session(2), NOW.plus_ms(40), NOW.plus_ms(20)));
        assert!(sessions.contains(session(1), NOW.plus_ms(29)));
        assert!(!sessions.contains(session(1), NOW.plus_ms(30)));
    }

    proptest! {
        #[test]
        fn what_was_revoked_is_refused_and_the_list_stays_small(
            capacity in 1_usize..6,
            steps in proptest::collection::vec((0_u8..10, 0_u64..TICKETS_GONE_AFTER_MS), 1..60),
        ) {
            let mut revoked = RevokedTickets::new(capacity);
            let mut now = NOW;
            for (number, pause_ms) in steps {
                revoked.revoke(session(number), now);
                prop_assert!(revoked.len() <= capacity);
                // Any ticket of before, at any time at which it is still good.
                let ticket = claims(number, now);
                now = now.plus_ms(pause_ms);
                if now < ticket.issued_at.plus_ms(LIFETIME_MS_MAX) {
                    prop_assert_eq!(revoked.check(&ticket, now), Err(Code::SessionRevoked));
                }
            }
        }
    }
}
