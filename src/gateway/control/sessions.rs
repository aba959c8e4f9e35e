//! What becomes of sessions: reports of the workers, orders of the broker.

use super::Control;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::SessionId;
use crate::gateway::relay::{ClosedSession, Command, Event, Events, RelayWorker};
use crate::gateway::shared::{Reauthentication, Shared, lock};
use crate::observe::close_reason::CloseReason;
use crate::wire::channel::{GatewayToBroker, LIVE_PER_MESSAGE_MAX, VERSION};

/// The first messages of every connection to the broker: with them the broker
/// counts what is relayed right now, whatever it knew before.
pub(super) fn hello(shared: &Shared) -> Vec<GatewayToBroker> {
    let live: Vec<SessionId> = lock(&shared.live).keys().copied().collect();
    let config = shared.config();
    hello_with(&config.url, config.limits.sessions_max, &live)
}

/// No message may be longer than the broker takes, or a gateway with that many
/// sessions could never connect again.
fn hello_with(url: &str, capacity: u32, live: &[SessionId]) -> Vec<GatewayToBroker> {
    let (first, rest) = live.split_at(live.len().min(LIVE_PER_MESSAGE_MAX));
    let mut messages = vec![GatewayToBroker::Hello {
        version: VERSION,
        software: concat!("ringway ", env!("CARGO_PKG_VERSION")).to_owned(),
        url: url.to_owned(),
        capacity,
        live: first.to_vec(),
        more: !rest.is_empty(),
    }];
    let parts = rest.chunks(LIVE_PER_MESSAGE_MAX);
    let last = parts.len().saturating_sub(1);
    messages.extend(parts.enumerate().map(|(index, part)| GatewayToBroker::AlsoLive {
        live: part.to_vec(),
        more: index < last,
    }));
    messages
}

impl Control {
    /// Everything that the workers have told.
    pub(super) fn on_workers(&mut self, events: &Events) {
        while let Ok(event) = events.receiver.try_recv() {
            self.on_worker(event);
        }
    }

    fn on_worker(&mut self, event: Event) {
        match event {
            Event::Closed(closed) => self.on_closed(&closed),
            Event::Histograms { worker, part } => {
                self.histograms.on_worker(worker, part, &self.shared.workers);
            }
        }
    }

    /// The one log line that a session leaves, and the word to the broker.
    fn on_closed(&mut self, closed: &ClosedSession) {
        let entry = lock(&self.shared.live).remove(&closed.id);
        self.reauthentications.session_over(closed.id);
        *self.closed_by_reason.entry(closed.reason.as_str()).or_insert(0) += 1;
        tracing::info!(
            step = 12,
            session = %closed.id,
            host = %closed.host_id,
            client = %closed.client,
            reason = closed.reason.as_str(),
            detail = closed.detail.as_deref().unwrap_or_default(),
            bytes_up = closed.bytes_up,
            bytes_down = closed.bytes_down,
            duration_ms = closed.duration_ms,
            "Session ended"
        );
        if entry.is_some_and(|entry| !entry.announced) {
            // Its end overtook its beginning, which comes over another queue.
            self.tell_broker(GatewayToBroker::SessionStarted { session: closed.id });
        }
        self.tell_broker(GatewayToBroker::SessionEnded {
            session: closed.id,
            close_reason: closed.reason.as_str().to_owned(),
            bytes_up: closed.bytes_up,
            bytes_down: closed.bytes_down,
            duration_ms: closed.duration_ms,
        });
    }

    /// A session is relayed (step 11). One that is over already was announced
    /// with its end.
    pub(super) fn on_started(&mut self, session: SessionId) {
        let mut live = lock(&self.shared.live);
        let Some(entry) = live.get_mut(&session) else { return };
        if !std::mem::replace(&mut entry.announced, true) {
            let reauthentication = entry.reauthentication;
            drop(live);
            if reauthentication == Reauthentication::OnRequest {
                self.expect_to_reauthenticate(session);
            }
            self.tell_broker(GatewayToBroker::SessionStarted { session });
        }
    }

    /// What could not be said because a queue was full.
    pub(super) fn retry_unsaid(&mut self) {
        let began = std::mem::take(&mut *lock(&self.shared.began_unsaid));
        for session in began {
            self.on_started(session);
        }
        self.retry_ends();
    }

    pub(super) fn retry_ends(&mut self) {
        for (session, reason) in std::mem::take(&mut self.ends_unsaid) {
            self.end(session, reason);
        }
    }

    /// An administrator ended sessions. The list first: no leg may slip in
    /// between.
    pub(super) fn revoke(&mut self, sessions: &[SessionId]) {
        let now = UnixMillis::now();
        let mut revoked = lock(&self.shared.revoked);
        for session in sessions {
            revoked.revoke(*session, now);
        }
        drop(revoked);
        for session in sessions {
            self.cancel(*session, Code::SessionRevoked.into());
        }
    }

    /// The broker says that a session cannot come about, or must end.
    pub(super) fn cancel(&mut self, session: SessionId, refusal: Refusal) {
        if self.shared.refuse_waiting(session, refusal.clone()) {
            return;
        }
        if lock(&self.shared.live).contains_key(&session) {
            tracing::info!(%session, code = %refusal.code, "The broker ends a session");
            self.end(session, CloseReason::Disconnected);
        }
    }

    /// Who relays a session, if it is live.
    pub(super) fn worker_of(&self, session: SessionId) -> Option<&RelayWorker> {
        let index = lock(&self.shared.live).get(&session).map(|entry| entry.worker)?;
        self.shared.workers.get(index)
    }

    /// Ends a session if it is live, now or as soon as its worker takes orders.
    pub(super) fn end(&mut self, session: SessionId, reason: CloseReason) {
        if let Some(worker) = self.worker_of(session)
            && worker.tell(Command::End { session, reason }).is_err()
        {
            self.ends_unsaid.insert(session, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::channel::{Envelope, MESSAGE_LENGTH_MAX};

    #[test]
    fn any_number_of_live_sessions_fits_and_only_the_last_message_ends_it() {
        let most = LIVE_PER_MESSAGE_MAX;
        for (count, messages) in [(0, 1), (1, 1), (most, 1), (most + 1, 2), (2 * most + 7, 3)] {
            let ids = (0..count as u128).map(|n| SessionId((u128::MAX - n).to_be_bytes()));
            let ids: Vec<SessionId> = ids.collect();
            let mut told = Vec::new();
            let mut mores = Vec::new();
            for body in hello_with("https://gateway.example:443", 400_000, &ids) {
                let (live, more) = match &body {
                    GatewayToBroker::Hello { live, more, .. } if told.is_empty() => (live, more),
                    GatewayToBroker::AlsoLive { live, more } if !told.is_empty() => (live, more),
                    other => panic!("{other:?}"),
                };
                told.extend_from_slice(live);
                mores.push(*more);
                let text = serde_json::to_string(&Envelope::Body { body }).unwrap();
                assert!(text.len() <= MESSAGE_LENGTH_MAX, "{}", text.len());
            }
            assert_eq!(told, ids);
            assert_eq!(mores.iter().filter(|more| !**more).count(), 1);
            assert_eq!((mores.len(), mores.last()), (messages, Some(&false)));
        }
    }
}
