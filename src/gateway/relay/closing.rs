//! How sessions end: half-close, truncation, failure, deadline, order.

use rustix::net::Shutdown;

use super::engine::{LiveSession, Relay};
use super::flow::FlowError;
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
        let (from, to) = session.legs(side);
        from.input_closed = true;
        if to.output_end == OutputEnd::Open {
            to.output_end = OutputEnd::Finishing;
            let sealed = to.append_control(&mut self.arena, self.now_us, |records, out| {
                records.seal_close_notify(out)
            });
            if sealed.is_err() {
                self.end(index, CloseReason::GatewayFault, Some("close_notify not sealed".into()));
            }
        }
    }

    /// FIN. After `close_notify` it says nothing new; without it the stream
    /// was cut, by whoever, and must not look like a clean end to the other.
    pub fn on_end_of_stream(&mut self, index: usize, side: Side) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if !session.leg(side).input_closed {
            let reason = match side {
                Side::Client => CloseReason::ClientTruncated,
                Side::Host => CloseReason::HostTruncated,
            };
            self.end(index, reason, None);
        }
    }

    pub fn on_socket_failure(&mut self, index: usize, side: Side, errno: i32) {
        let reason = match side {
            Side::Client => CloseReason::ClientReset,
            Side::Host => CloseReason::HostReset,
        };
        // The first reason stays: an ending session fails in more ways than one.
        self.end(index, reason, Some(std::io::Error::from_raw_os_error(errno).to_string()));
        // Nothing more reaches that side; the other may still get its rest.
        if let Some(session) = self.sessions.get_mut(index) {
            discard_output(session, side, &mut self.arena);
        }
        self.after_output(index, side.other());
    }

    pub fn on_flow_error(&mut self, index: usize, side: Side, error: &FlowError) {
        let tls_error = |side| match side {
            Side::Client => CloseReason::ClientTlsError,
            Side::Host => CloseReason::HostTlsError,
        };
        let (reason, alert, detail) = match error {
            FlowError::Sender(error) => (tls_error(side), error.alert(), error.to_string()),
            FlowError::Alert(number) => (tls_error(side), None, format!("fatal alert {number}")),
            FlowError::Receiver(error) => (tls_error(side.other()), None, error.to_string()),
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
            for side in [Side::Client, Side::Host] {
                let leg = session.leg(side);
                if leg.output_end == OutputEnd::Open {
                    leg.output_end = OutputEnd::Finishing;
                    let _ = leg.append_control(&mut self.arena, self.now_us, |records, out| {
                        records.seal_close_notify(out)
                    });
                }
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
        for side in [Side::Client, Side::Host] {
            self.regulate(index, side);
            self.mark_dirty(index, side);
            self.after_output(index, side);
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
        let both =
            |f: fn(&super::leg::LiveLeg<K::Socket>) -> bool| f(&session.client) && f(&session.host);
        let both_closed = both(|leg| leg.input_closed && leg.output_end == OutputEnd::Finished);
        let both_drained = both(super::leg::LiveLeg::is_drained);
        if session.ending.is_none() && both_closed {
            let reason = match session.first_to_close {
                Some(Side::Host) => CloseReason::HostClosed,
                _ => CloseReason::ClientClosed,
            };
            self.end(index, reason, None);
        } else if session.ending.is_some() && both_drained {
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
        for leg in [&session.client, &session.host] {
            self.kernel.shutdown(&leg.socket, Shutdown::Both);
        }
    }

    /// Removes a session that is cut and of which the kernel holds nothing.
    pub fn reap(&mut self, index: usize) {
        let Some(session) = self.sessions.get(index) else { return };
        let cut = session.ending.as_ref().is_some_and(|ending| ending.cut);
        if !cut || session.client.operations + session.host.operations > 0 {
            return;
        }
        let mut session = self.sessions.remove(index);
        // Unless another of the same name has come since.
        if self.index_of.get(&session.id) == Some(&index) {
            self.index_of.remove(&session.id);
        }
        discard_output(&mut session, Side::Client, &mut self.arena);
        discard_output(&mut session, Side::Host, &mut self.arena);
        for leg in [&mut session.client, &mut session.host] {
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
