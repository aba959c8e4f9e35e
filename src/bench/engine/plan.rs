//! When which message is to be sent.

use std::cmp::Ordering;

use super::Engine;
use crate::bench::profile::{PING_BYTES, Profile};
use crate::bench::session::State;
use crate::core::tickets::Role;

/// A message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    at_ns: u64,
    session: u32,
    /// Of [`crate::bench::session::Session::plan`].
    plan: u32,
    source: u16,
    /// How many of its burst it makes.
    nth: u32,
}

/// The earliest is the greatest: a heap gives out its greatest first.
impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at_ns.cmp(&self.at_ns).then_with(|| other.session.cmp(&self.session))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Engine {
    /// Lets all sessions begin, those that open later too.
    pub fn start_traffic(&mut self) {
        self.is_traffic_on = true;
        for number in 0..self.census.asked {
            self.begin(number);
        }
    }

    /// No new messages; what is under way still arrives.
    pub fn stop_traffic(&mut self) {
        self.is_traffic_on = false;
        self.due.clear();
        for session in &mut self.sessions {
            session.plan += 1;
            session.up.set_endless(false);
            session.down.set_endless(false);
        }
    }

    /// The same for one session, which closes once all has arrived.
    pub fn retire(&mut self, number: u32) {
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        if session.state != State::Live {
            return;
        }
        session.state = State::Settling;
        session.plan += 1;
        session.up.set_endless(false);
        session.down.set_endless(false);
        self.close_if_settled(number);
    }

    /// Plans the first message of everything that a session does.
    pub(super) fn begin(&mut self, number: u32) {
        let now_ns = self.now_ns();
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        if session.state != State::Live || !self.is_traffic_on {
            return;
        }
        session.plan += 1;
        match session.profile {
            Profile::Bulk => {
                session.up.set_endless(self.bulk.0);
                session.down.set_endless(self.bulk.1);
                let speak =
                    [Role::Client, Role::Host].map(|side| (number, session.speaks_on(side)));
                self.ready.extend(speak);
            }
            Profile::Ping => {
                self.tally.messages_planned += 1;
                session.up.add(PING_BYTES, now_ns);
                self.ready.push_back((number, session.speaks_on(Role::Client)));
            }
            _ => {
                for (source, index) in session.sources.iter().zip(0..) {
                    let at_ns = now_ns + source.first_us(&mut self.random) * 1_000;
                    self.due.push(Due {
                        at_ns,
                        session: number,
                        plan: session.plan,
                        source: index,
                        nth: 1,
                    });
                }
            }
        }
    }

    pub(super) fn next_due_ns(&self) -> u64 {
        let message = self.due.peek().map_or(u64::MAX, |due| due.at_ns);
        message.min(self.shakes.next_due_ns())
    }

    /// Sends what is due and plans what follows it.
    pub(super) fn send_due(&mut self) {
        let now_ns = self.now_ns();
        while let Some(due) = self.due.peek().copied().filter(|due| due.at_ns <= now_ns) {
            self.due.pop();
            let Some(session) = self.sessions.get_mut(due.session as usize) else { continue };
            if session.plan != due.plan {
                continue;
            }
            let Some(source) = session.sources.get(usize::from(due.source)).copied() else {
                continue;
            };
            self.tally.messages_planned += 1;
            self.tally.late_us.saturating_record((now_ns - due.at_ns) / 1_000);
            session.flow_of(source.sender).add(source.size(&mut self.random), due.at_ns);
            let nth = if due.nth < source.burst { due.nth + 1 } else { 1 };
            let at_ns = due.at_ns + source.delay_us(due.nth, &mut self.random) * 1_000;
            self.due.push(Due { at_ns, nth, ..due });
            self.pump_from(due.session, source.sender);
        }
    }

    /// A ping has arrived: the other side's turn.
    pub(super) fn answer_ping(&mut self, number: u32, receiver: Role, now_ns: u64) {
        if !self.is_traffic_on {
            return;
        }
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        if session.state == State::Live {
            self.tally.messages_planned += 1;
            session.flow_of(receiver).add(PING_BYTES, now_ns);
            self.pump_from(number, receiver);
        }
    }
}
