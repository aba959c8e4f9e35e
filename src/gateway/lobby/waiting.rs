//! Two legs become a session (steps 8, 10 and 11).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::connection::Connection;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::SessionId;
use crate::core::tickets::Claims;
use crate::gateway::relay::{Command, Leg, Session, SessionCounters};
use crate::gateway::shared::{LiveEntry, Request, Shared, Wake, lock};
use crate::wire::{http_head, relay_answer};

/// A client with a good ticket: ask for its host, wait, hand both over. `begun`
/// is when it had asked to.
pub async fn wait_for_host(mut connection: Connection, claims: Claims, begun: Instant) {
    let shared = Arc::clone(&connection.shared);
    let session = claims.session;
    let (waker, mut woken) = oneshot::channel();
    let registered = lock(&shared.pairing).wait(session, connection.peer.ip(), waker);
    if let Err(code) = registered {
        // Whoever waits for this session already goes on waiting.
        return connection.refuse(&code.into()).await;
    }
    if let Err(code) = shared.ask(Request::Orchestrate { session }) {
        lock(&shared.pairing).take(session);
        return connection.refuse(&code.into()).await;
    }
    let waiting_since = Instant::now();
    connection.meter.record(|set| &mut set.admit_us, begun);
    shared.teller.tell(8, Some(session), "ticket verified, broker asked");

    let limit = Duration::from_millis(shared.config().limits.pair_timeout_ms);
    let deadline = Instant::now() + limit;
    let time_is_up = sleep_until(deadline);
    tokio::pin!(time_is_up);
    let outcome = loop {
        tokio::select! {
            wake = &mut woken => break wake.unwrap_or_else(|_| {
                Wake::Refused(Code::Internal.into())
            }),
            () = &mut time_is_up => break Wake::Refused(Code::HostDidNotArrive.into()),
            readable = connection.wait_readable(), if connection.has_room() => {
                // Outside the select: a read that is under way must not be
                // given up, or its bytes would be lost.
                if readable.is_err() {
                    return client_left(&shared, session);
                }
                match timeout_at(deadline, connection.fill()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return client_left(&shared, session),
                    Err(_) => break Wake::Refused(Code::HostDidNotArrive.into()),
                }
            }
        }
    };
    let (host, joining) = match outcome {
        Wake::Host(host, joining) => {
            connection.meter.record(|set| &mut set.pairing_us, waiting_since);
            (host, joining)
        }
        Wake::Refused(refusal) => {
            lock(&shared.pairing).take(session);
            give_up(&shared, session, refusal.code);
            return connection.refuse(&refusal).await;
        }
    };
    let socket = match connection.reserve_socket() {
        Ok(socket) => socket,
        Err(refusal) => {
            give_up(&shared, session, refusal.code);
            return connection.refuse(&refusal).await;
        }
    };
    let meter = Rc::clone(&connection.meter);
    let switched = connection.write(&http_head::switching_protocols(relay_answer::PROTOCOL)).await;
    match switched.and_then(|()| connection.into_leg(socket)) {
        Ok(client) => {
            if begin(&shared, claims, client, *host) {
                meter.record(|set| &mut set.join_us, joining.since);
            }
        }
        Err(_) => client_left(&shared, session),
    }
    drop(joining);
}

/// A session host with a good ticket: its client must be waiting.
pub async fn join_client(mut connection: Connection, claims: Claims) {
    let shared = Arc::clone(&connection.shared);
    let Some((waker, joining)) = shared.take_waiting(claims.session) else {
        return connection.refuse(&Code::SessionUnknown.into()).await;
    };
    let socket = match connection.reserve_socket() {
        Ok(socket) => socket,
        Err(refusal) => {
            let _ = waker.send(Wake::Refused(refusal.clone()));
            return connection.refuse(&refusal).await;
        }
    };
    connection.meter.record(|set| &mut set.host_leg_us, connection.accepted_at);
    shared.teller.tell(10, Some(claims.session), "host leg admitted");
    let switched = connection.write(&http_head::switching_protocols(relay_answer::PROTOCOL)).await;
    let wake = match switched.and_then(|()| connection.into_leg(socket)) {
        Ok(leg) => Wake::Host(Box::new(leg), joining),
        Err(error) => Wake::Refused(Refusal::with_detail(Code::HostDidNotArrive, error)),
    };
    // A client that left meanwhile has given up the session already; dropping
    // the leg tells the host.
    let _ = waker.send(wake);
}

/// Step 11: both legs are in. Whether a worker has them now.
fn begin(shared: &Shared, claims: Claims, client: Leg, host: Leg) -> bool {
    let session = claims.session;
    let Some((index, worker)) = shared.choose_worker() else {
        give_up(shared, session, Code::Internal);
        return false;
    };
    let counters = Arc::new(SessionCounters::default());
    let entry = LiveEntry {
        worker: index,
        host: claims.host.clone(),
        client: client.peer,
        started_at: UnixMillis::now(),
        counters: Arc::clone(&counters),
        announced: false,
    };
    // Entered first: the worker may end it before the next line runs.
    lock(&shared.live).insert(session, entry);
    // Whoever revokes it looks there after: one of the two sees the other.
    if shared.is_revoked(session) {
        lock(&shared.live).remove(&session);
        give_up(shared, session, Code::SessionRevoked);
        return false;
    }
    if shared.ask(Request::Started { session }).is_err() {
        // Never learning of it, the broker would take it for one that did not
        // come about, and end it.
        lock(&shared.began_unsaid).push(session);
    }
    tracing::info!(step = 11, %session, host = %claims.host, worker = index, "Relaying");
    shared.teller.tell(11, Some(session), "both legs in, relaying");
    let session_data = Session { id: session, host_id: claims.host, client, host, counters };
    let handed_over = worker.tell(Command::Start(Box::new(session_data))).is_ok();
    if !handed_over {
        lock(&shared.live).remove(&session);
        give_up(shared, session, Code::GatewayFull);
    }
    handed_over
}

fn client_left(shared: &Shared, session: SessionId) {
    lock(&shared.pairing).take(session);
    shared.count_refusal(Code::ClientDidNotArrive);
    give_up(shared, session, Code::ClientDidNotArrive);
}

fn give_up(shared: &Shared, session: SessionId, code: Code) {
    tracing::info!(step = code.facts().step, %session, %code, "A session did not come about");
    if shared.ask(Request::GaveUp { session, code }).is_err() {
        tracing::warn!(%session, "The control thread is behind; a reservation expires by itself");
    }
}
