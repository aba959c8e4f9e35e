//! An administrator ends sessions, and they stay ended: the place is free at
//! once, the gateways hear of it and take none of the tickets, and no machine
//! that was away brings the session back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::{Core, Judged};
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{GatewayId, SessionId};
use crate::core::placement::{Phase, Slot};
use crate::core::revocation::{RevokedSessions, TICKETS_GONE_AFTER_MS};
use crate::observe::close_reason::CloseReason;
use crate::wire::admin::Whom;
use crate::wire::channel::{BrokerToGateway, LIVE_PER_MESSAGE_MAX};
use crate::wire::enroll::MachineRole;

/// The end of a session that an administrator ended, until its gateway says
/// how much it carried.
pub(super) const DISCONNECTED: &str = CloseReason::Disconnected.as_str();
/// A machine that was away for longer than this and still carries a session
/// that was ended brings it back.
pub const COMES_BACK_WITHIN_MS: u64 = 24 * 3_600_000;
/// Sessions remembered as ended: as many as a gateway may say that it relays.
const REVOKED_MAX: usize = 1_000_000;
/// Judging a request takes less than this: two questions to the identity
/// provider, each with its own deadline.
const JUDGED_WITHIN: Duration = Duration::from_secs(60);
/// Users whose requests under way are refused; beyond it the oldest is
/// forgotten.
const BARRED_MAX: usize = 10_000;

/// What was ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub sessions: Vec<SessionId>,
    /// Of them, those that were relayed.
    pub live: u32,
    /// Of them, those that were on their way.
    pub pending: u32,
    /// Sessions that may be this user's: nobody knows whose they are.
    pub of_unknown_users: u32,
}

/// What must not come back.
#[derive(Debug)]
pub(super) struct Revocations {
    sessions: RevokedSessions,
    /// Requests of these users that came before then are refused.
    barred: HashMap<String, Instant>,
}

impl Revocations {
    pub(super) fn new(known: Vec<(SessionId, UnixMillis)>) -> Self {
        let mut sessions = RevokedSessions::new(REVOKED_MAX);
        for (session, until) in known {
            sessions.insert(session, until, UnixMillis(0));
        }
        Self { sessions, barred: HashMap::new() }
    }

    fn revoke(&mut self, session: SessionId, now: UnixMillis) {
        if !self.sessions.insert(session, now.plus_ms(COMES_BACK_WITHIN_MS), now) {
            tracing::error!(%session, "More sessions were ended in a day than are remembered");
        }
    }

    fn bar(&mut self, user: &str, now: Instant) {
        self.barred.retain(|_, since| now.duration_since(*since) < JUDGED_WITHIN);
        if self.barred.len() >= BARRED_MAX {
            let oldest = self.barred.iter().min_by_key(|(_, since)| **since);
            if let Some(oldest) = oldest.map(|(user, _)| user.clone()) {
                self.barred.remove(&oldest);
            }
        }
        self.barred.insert(user.to_owned(), now);
    }

    /// Those of which a ticket may still be about, and those of `live`.
    fn of_interest(&self, live: &[SessionId], now: UnixMillis) -> Vec<SessionId> {
        let recent = now.plus_ms(COMES_BACK_WITHIN_MS.saturating_sub(TICKETS_GONE_AFTER_MS));
        let mut all: Vec<_> = self.sessions.iter(recent).map(|(session, _)| session).collect();
        all.extend(live.iter().filter(|session| self.sessions.contains(**session, now)));
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Core {
    pub(super) fn disconnect(&mut self, whom: &Whom) -> Ended {
        let mut ended = Ended::default();
        let slots = self.table.slots();
        let meant = slots.filter(|(session, slot)| is_meant(whom, **session, slot));
        ended.sessions = meant.map(|(session, _)| *session).collect();
        match whom {
            Whom::User { user } => {
                self.revocations.bar(user, Instant::now());
                let unknown = self.table.slots().filter(|(_, slot)| slot.user.is_none()).count();
                ended.of_unknown_users = u32::try_from(unknown).unwrap_or(u32::MAX);
            }
            // Its ticket may be about although its place is not held any more.
            Whom::Session { session } if ended.sessions.is_empty() => {
                ended.sessions.push(*session);
            }
            _ => {}
        }
        let now = UnixMillis::now();
        let mut by_gateway: BTreeMap<GatewayId, Vec<SessionId>> = BTreeMap::new();
        for session in &ended.sessions {
            self.revocations.revoke(*session, now);
            let slot = self.table.release(*session);
            match slot.as_ref().map(|slot| slot.phase) {
                Some(Phase::Live) => ended.live += 1,
                Some(_) => ended.pending += 1,
                None => {}
            }
            match slot.as_ref().and_then(|slot| slot.gateway.clone()) {
                Some(gateway) => by_gateway.entry(gateway).or_default().push(*session),
                None => {
                    for gateway in self.gateways.keys() {
                        by_gateway.entry(gateway.clone()).or_default().push(*session);
                    }
                }
            }
            if let Some(slot) = slot {
                self.let_go(*session, &slot, whom);
            }
        }
        for (gateway, sessions) in by_gateway {
            self.tell_revoked(&gateway, &sessions);
        }
        tracing::warn!(
            ?whom,
            live = ended.live,
            pending = ended.pending,
            "An administrator ended sessions"
        );
        ended
    }

    /// After its sessions, the machine itself.
    pub(super) fn expel_revoked(&mut self, whom: &Whom) {
        let why = Refusal::with_detail(Code::MachineUnknown, "revoked");
        match whom {
            Whom::Host { host } => self.expel(MachineRole::Agent, host.as_str(), true, why),
            Whom::Gateway { gateway } => {
                self.expel(MachineRole::Gateway, gateway.as_str(), true, why);
            }
            Whom::User { .. } | Whom::Session { .. } => {}
        }
    }

    /// Everybody but the gateway's list hears that a session was ended.
    fn let_go(&mut self, session: SessionId, slot: &Slot, whom: &Whom) {
        self.records.ended(session, DISCONNECTED, None);
        self.answer_order(session, Err(Code::SessionRevoked.into()));
        // The gateway ends what it relays, and says why. Without it the host
        // does, and when it is the gateway that is not trusted any more.
        let gateway_ends_it = slot.phase == Phase::Live
            && !matches!(whom, Whom::Gateway { .. })
            && slot.gateway.as_ref().is_some_and(|gateway| self.gateways.contains_key(gateway));
        if let Some(host) = slot.host.as_ref().filter(|_| slot.phase != Phase::Reserved)
            && !gateway_ends_it
        {
            self.cancel_at_agent(host, session, Code::SessionRevoked);
        }
    }

    fn tell_revoked(&self, gateway: &GatewayId, sessions: &[SessionId]) {
        for part in sessions.chunks(LIVE_PER_MESSAGE_MAX) {
            self.tell_gateway(gateway, BrokerToGateway::Revoked { sessions: part.to_vec() });
        }
    }

    /// A gateway that was away learns what it missed.
    pub(super) fn send_revoked(&self, gateway: &GatewayId, live: &[SessionId]) {
        let missed = self.revocations.of_interest(live, UnixMillis::now());
        self.tell_revoked(gateway, &missed);
    }

    /// What a machine says it carries: what it may, and what was ended.
    pub(super) fn part_revoked(&self, live: &[SessionId]) -> (Vec<SessionId>, Vec<SessionId>) {
        let now = UnixMillis::now();
        let is_revoked = |session: &SessionId| self.revocations.sessions.contains(*session, now);
        live.iter().partition(|session| !is_revoked(session))
    }

    /// Sessions of an earlier run of the broker get their users and hosts back.
    pub(super) fn identify(&mut self, live: &[SessionId]) {
        for session in live {
            if let Some(placed) = self.placed_before.remove(session) {
                self.table.identify(*session, &placed.user, placed.host.as_ref());
                self.records.adopted(placed);
            }
        }
    }

    /// Whether a request was not overtaken by an order to end what its user has.
    pub(super) fn may_place(&self, judged: &Judged) -> Result<(), Refusal> {
        let barred = self.revocations.barred.get(&judged.user);
        if barred.is_some_and(|since| judged.asked_at <= *since)
            || self.revocations.sessions.contains(judged.session, UnixMillis::now())
        {
            return Err(Code::SessionRevoked.into());
        }
        Ok(())
    }
}

fn is_meant(whom: &Whom, session: SessionId, slot: &Slot) -> bool {
    match whom {
        Whom::User { user } => slot.user.as_ref() == Some(user),
        Whom::Host { host } => slot.host.as_ref() == Some(host),
        Whom::Gateway { gateway } => slot.gateway.as_ref() == Some(gateway),
        Whom::Session { session: meant } => session == *meant,
    }
}
