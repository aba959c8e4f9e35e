//! How sessions end: half-close, truncation, failure, deadline, order.

use rustix::net::Shutdown;

use super::engine::{LiveSession, Relay};
use super::flow::FlowError;
use super::framing::Leave;
use super::kernel::Kernel;
use super::leg::OutputEnd;
use super::session::{ClosedSession, Side};

use super::{Event, WorkerStats};
use crate::observe::close_reason::CloseReason;

/// A session that has a reason to end.
#[derive(Debug)]
pub(super) struct Ending {
    pub reason: CloseReason,
    pub detail: Option<String>,
    /// Until then what is queued may still be delivered.
    pub deadline_us: u64,
    /// The sockets are shut down; only the kernel's completions are missing.
    pub cut: bool,
}

impl<K: Kernel> Relay<K> {
    /// `side` sent `close_notify`: tell the other leg, keep its direction.
    pub fn on_closed_by(&mut self, index: usize, side: Side) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.first_to_close.get_or_insert(side);
        let has_two = session.inbound.is_some();
        let (from, to) = session.legs(side);
        from.input_closed = true;
        if has_two && side == Side::Client {
            // Nothing was to come there. What it has sent on its other
            // connection may still be under way.
            return;
        }
        let words = to.framer.farewell(CloseReason::HostClosed);
        if to.finish(&mut self.arena, self.now_us, &words).is_err() {
            self.end(index, CloseReason::GatewayFault, Some("close_notify not sealed".into()));
        } else if side == Side::Inbound {
            // Its other connection is of no use without this one.
            self.end_politely(index, CloseReason::ClientClosed);
        }
    }

    /// The client on `side` took its leave in its own framing. It is answered
    /// in kind, and neither it nor the host has more to say.
    pub fn on_leave(&mut self, index: usize, side: Side, leave: Leave) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.first_to_close.get_or_insert(side);
        session.leg(side).input_closed = true;
        let reason = match session.first_to_close {
            Some(Side::Host) => CloseReason::HostClosed,
            _ => CloseReason::ClientClosed,
        };
        let client = &mut session.client;
        let answer = client.framer.answer(leave);
        if client.finish(&mut self.arena, self.now_us, &answer).is_err() {
            self.end(index, CloseReason::GatewayFault, Some("answer not sealed".into()));
        }
        self.end_politely(index, reason);
    }

    /// FIN. After `close_notify` it says nothing new; without it the stream
    /// was cut, by whoever, and must not look like a clean end to the other.
    pub fn on_end_of_stream(&mut self, index: usize, side: Side) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if !session.leg(side).input_closed {
            let reason = if side.is_client() {
                CloseReason::ClientTruncated
            } else {
                CloseReason::HostTruncated
            };
            self.end(index, reason, None);
        }
    }

    pub fn on_socket_failure(&mut self, index: usize, side: Side, errno: i32) {
        let reason =
            if side.is_client() { CloseReason::ClientReset } else { CloseReason::HostReset };
        // The first reason stays: an ending session fails in more ways than one.
        self.end(index, reason, Some(std::io::Error::from_raw_os_error(errno).to_string()));
        // Nothing more reaches that side; the other may still get its rest.
        if let Some(session) = self.sessions.get_mut(index) {
            discard_output(session, side, &mut self.arena);
        }
        self.after_output(index, side.other());
    }

    pub fn on_flow_error(&mut self, index: usize, side: Side, error: &FlowError) {
        let tls_error = |side: Side| match side.is_client() {
            true => CloseReason::ClientTlsError,
            false => CloseReason::HostTlsError,
        };
        let (reason, alert, detail) = match error {
            FlowError::Sender(error) => (tls_error(side), error.alert(), error.to_string()),
            FlowError::Alert(number) => (tls_error(side), None, format!("fatal alert {number}")),
            FlowError::Receiver(error) => (tls_error(side.other()), None, error.to_string()),
            // Told in the framing, by the farewell.
            FlowError::Framing(error) => (CloseReason::ClientFramingError, None, error.to_string()),
        };
        if let Some(description) = alert
            && let Some(session) = self.sessions.get_mut(index)
        {
            let leg = session.leg(side);
            if leg.output_end == OutputEnd::Open {
                leg.output_end = OutputEnd::Finishing;
                // Without room for an alert the peer sees a cut stream, which
                // is just as final.
                let _ = leg.append_control(&mut self.arena, self.now_us, |records, out| {
                    records.seal_alert(out, description)
                });
            }
        }
        self.end(index, reason, Some(detail));
    }

    /// Ends a session with `close_notify` on both legs: nobody is at fault.
    pub fn end_politely(&mut self, index: usize, reason: CloseReason) {
        if let Some(session) = self.sessions.get_mut(index)
            && session.ending.is_none()
        {
            for side in session.sides() {
                let leg = session.leg(*side);
                let words = leg.framer.farewell(reason);
                // Without room for them the peer sees a cut stream, which is
                // just as final.
                let _ = leg.finish(&mut self.arena, self.now_us, &words);
            }
        }
        self.end(index, reason, None);
    }

    /// Begins the end: nothing is read any more, what is queued is delivered
    /// until a deadline. The first reason stays.
    pub fn end(&mut self, index: usize, reason: CloseReason, detail: Option<String>) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.ending.is_some() {
            return;
        }
        let deadline_us = self.now_us + self.settings.limits.drain_output_ms * 1_000;
        session.ending = Some(Ending { reason, detail, deadline_us, cut: false });
        if session.client.framer.says_goodbye() {
            // Who waits for the framing's word would wait forever for the end
            // of a stream that was cut on the other side.
            let words = session.client.framer.farewell(reason);
            let _ = session.client.finish(&mut self.arena, self.now_us, &words);
        }
        for side in session.sides() {
            self.regulate(index, *side);
            self.mark_dirty(index, *side);
            self.after_output(index, *side);
        }
    }

    /// A leg's output moved on: is a closing step due?
    pub fn after_output(&mut self, index: usize, side: Side) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let leg = session.leg(side);
        if leg.is_drained() && leg.output_end == OutputEnd::Finishing {
            leg.output_end = OutputEnd::Finished;
            self.kernel.shutdown(&leg.socket, Shutdown::Write);
        }
        let all_closed =
            session.all_legs(|leg| leg.input_closed && leg.output_end == OutputEnd::Finished);
        let all_drained = session.all_legs(super::leg::LiveLeg::is_drained);
        if session.ending.is_none() && all_closed {
            let reason = match session.first_to_close {
                Some(Side::Host) => CloseReason::HostClosed,
                _ => CloseReason::ClientClosed,
            };
            self.end(index, reason, None);
        } else if session.ending.is_some() && all_drained {
            self.cut(index);
        }
    }

    /// Shuts both sockets down: whatever is in flight completes now.
    fn cut(&mut self, index: usize) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(ending) = session.ending.as_mut() else { return };
        if std::mem::replace(&mut ending.cut, true) {
            return;
        }
        for side in session.sides() {
            self.kernel.shutdown(&session.leg(*side).socket, Shutdown::Both);
        }
    }

    /// Removes a session that is cut and of which the kernel holds nothing.
    pub fn reap(&mut self, index: usize) {
        let Some(session) = self.sessions.get(index) else { return };
        let cut = session.ending.as_ref().is_some_and(|ending| ending.cut);
        if !cut || !session.all_legs(|leg| leg.operations == 0) {
            return;
        }
        let mut session = self.sessions.remove(index);
        // Unless another of the same name has come since.
        if self.index_of.get(&session.id) == Some(&index) {
            self.index_of.remove(&session.id);
        }
        for side in session.sides() {
            discard_output(&mut session, *side, &mut self.arena);
            let leg = session.leg(*side);
            if leg.partial.capacity() > 0 {
                leg.partial.clear();
                self.partials.push(std::mem::take(&mut leg.partial));
            }
        }
        self.report(session);
    }

    /// The ring is lost: nothing completes any more, so nothing is waited for.
    pub fn abandon_all(&mut self, why: &str) {
        self.index_of.clear();
        for mut session in std::mem::take(&mut self.sessions) {
            session.1.ending = Some(Ending {
                reason: CloseReason::GatewayFault,
                detail: Some(why.to_owned()),
                deadline_us: self.now_us,
                cut: true,
            });
            self.report(session.1);
        }
    }

    /// The one record that a session leaves.
    fn report(&mut self, session: LiveSession<K::Socket>) {
        forget_one(&self.stats);
        let (bytes_up, bytes_down) = session.counters.read();
        let Some(ending) = session.ending else { return };
        self.tell(Event::Closed(ClosedSession {
            id: session.id,
            host_id: session.host_id,
            client: session.client.peer,
            reason: ending.reason,
            detail: ending.detail,
            bytes_up,
            bytes_down,
            duration_ms: self.now_us.saturating_sub(session.started_us) / 1_000,
        }));
    }

    /// The clocks: end of delivery, half-close, silence, age.
    pub fn check_deadlines(&mut self) {
        let limits = self.settings.limits;
        let now_us = self.now_us;
        let past = |since_us: u64, limit_ms: u64| {
            limit_ms > 0 && now_us.saturating_sub(since_us) >= limit_ms * 1_000
        };
        let indices: Vec<usize> = self.sessions.iter().map(|(index, _)| index).collect();
        for index in indices {
            let Some(session) = self.sessions.get(index) else { continue };
            if let Some(ending) = &session.ending {
                if now_us >= ending.deadline_us {
                    self.cut(index);
                    self.reap(index);
                }
            } else if session.first_to_close.is_some()
                && past(session.last_activity_us, limits.half_close_timeout_ms)
            {
                self.end_politely(index, CloseReason::HalfCloseTimeout);
            } else if past(session.last_activity_us, limits.idle_timeout_ms) {
                self.end_politely(index, CloseReason::IdleTimeout);
            } else if past(session.started_us, limits.lifetime_ms) {
                self.end_politely(index, CloseReason::LifetimeReached);
            }
        }
    }
}

fn discard_output<S>(session: &mut LiveSession<S>, side: Side, arena: &mut super::ring::Arena) {
    let leg = session.leg(side);
    for slot in leg.output.drain(..) {
        leg.output_bytes = leg.output_bytes.saturating_sub(slot.unsent().len());
        arena.put(slot);
    }
}

fn forget_one(stats: &WorkerStats) {
    stats.sessions.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
}
