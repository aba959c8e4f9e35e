//! Two legs become a session (steps 8, 10 and 11).

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::connection::Connection;
use super::meter::Meter;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::SessionId;
use crate::core::pairing::NoWait;
use crate::core::tickets::{Claims, Role};
use crate::gateway::relay::framing::{Deframer, Framer};
use crate::gateway::relay::{Command, Leg, Session, SessionCounters};
use crate::gateway::shared::{Joining, LiveEntry, Reauthentication, Request, Shared, Wake, lock};
use crate::wire::http_head::{self, RequestHead};
use crate::wire::relay_answer;

/// The header that carries a leg's ticket.
const TICKET_HEADER: &str = "ringway-ticket";

/// A request of our connector, or of an agent, to become a leg.
pub async fn relay(connection: Connection, head: &RequestHead, role: Role) {
    let begun = Instant::now();
    if !head.upgrades_to(relay_answer::PROTOCOL) {
        return connection.refuse(&Code::UpgradeRequired.into()).await;
    }
    let ticket = head.header(TICKET_HEADER).unwrap_or_default();
    let claims = match connection.shared.admit(ticket, role) {
        Ok(claims) => claims,
        Err(code) => return connection.refuse(&code.into()).await,
    };
    match role {
        Role::Client => {
            let limit = connection.shared.config().limits.pair_timeout_ms;
            let due = Due { begun, deadline: Instant::now() + Duration::from_millis(limit) };
            let greeting = http_head::switching_protocols(relay_answer::PROTOCOL);
            let raw = (Deframer::Raw, Framer::Raw);
            join_host(connection, claims, due, &greeting, raw).await;
        }
        Role::Host => join_client(connection, claims).await,
    }
}

/// When a client asked for its session, and when it must have been told.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub begun: Instant,
    pub deadline: Instant,
}

/// A client with a good ticket: ask for its host, wait, greet it, hand both
/// over.
pub async fn join_host(
    mut connection: Connection,
    claims: Claims,
    due: Due,
    greeting: &[u8],
    (deframer, framer): (Deframer, Framer),
) {
    let shared = Arc::clone(&connection.shared);
    let arrived = match wait_for_host(&mut connection, &claims, due, pending()).await {
        Ok(arrived) => arrived,
        Err(NoHost::ClientLeft) => return,
        Err(NoHost::Refused(refusal)) => return connection.refuse(&refusal).await,
    };
    let socket = match connection.reserve_socket() {
        Ok(socket) => socket,
        Err(refusal) => {
            give_up(&shared, claims.session, refusal.code);
            return connection.refuse(&refusal).await;
        }
    };
    let meter = Rc::clone(&connection.meter);
    let greeted = connection.write(greeting).await;
    match greeted.and_then(|()| connection.into_leg(socket)) {
        Ok(leg) => {
            let client = Leg { deframer, framer, ..leg };
            begin(&shared, claims, client, arrived, &meter);
        }
        Err(_) => client_left(&shared, claims.session),
    }
}

/// A session's host leg, and the place of the session until a worker has it.
#[derive(Debug)]
pub struct Arrived {
    host: Box<Leg>,
    joining: Joining,
    /// What its client can do.
    pub reauthentication: Reauthentication,
}

/// Why a client gets no host. The broker knows already.
#[derive(Debug)]
pub enum NoHost {
    ClientLeft,
    Refused(Refusal),
}

/// Asks for a client's host and waits for it. `left` is another way to notice
/// that the client is gone, besides its connection.
pub async fn wait_for_host(
    connection: &mut Connection,
    claims: &Claims,
    due: Due,
    left: impl Future<Output = ()>,
) -> Result<Arrived, NoHost> {
    let shared = Arc::clone(&connection.shared);
    let session = claims.session;
    let (waker, mut woken) = oneshot::channel();
    let registered = lock(&shared.pairing).wait(session, connection.peer.ip(), waker);
    match registered {
        Ok(()) => {}
        // Whose place it is, waits for the host.
        Err(NoWait::Taken) => return Err(NoHost::Refused(Code::TicketUsed.into())),
        Err(NoWait::TooMany) => {
            give_up(&shared, session, Code::TooManyWaiting);
            return Err(NoHost::Refused(Code::TooManyWaiting.into()));
        }
    }
    if let Err(code) = shared.ask(Request::Orchestrate { session }) {
        lock(&shared.pairing).take(&session);
        return Err(NoHost::Refused(code.into()));
    }
    let waiting_since = Instant::now();
    connection.meter.record(|set| &mut set.admit_us, due.begun);
    shared.teller.tell(8, Some(session), "ticket verified, broker asked");

    let gone = || {
        client_left(&shared, session);
        Err(NoHost::ClientLeft)
    };
    let time_is_up = sleep_until(due.deadline);
    tokio::pin!(time_is_up, left);
    let outcome = loop {
        tokio::select! {
            wake = &mut woken => break wake.unwrap_or_else(|_| {
                Wake::Refused(Code::Internal.into())
            }),
            () = &mut time_is_up => break Wake::Refused(Code::HostDidNotArrive.into()),
            () = &mut left => return gone(),
            readable = connection.wait_readable(), if connection.has_room() => {
                // Outside the select: a read that is under way must not be
                // given up, or its bytes would be lost.
                if readable.is_err() {
                    return gone();
                }
                match timeout_at(due.deadline, connection.fill()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return gone(),
                    Err(_) => break Wake::Refused(Code::HostDidNotArrive.into()),
                }
            }
        }
    };
    match outcome {
        Wake::Host(host, joining) => {
            connection.meter.record(|set| &mut set.pairing_us, waiting_since);
            Ok(Arrived { host, joining, reauthentication: Reauthentication::Never })
        }
        Wake::Refused(refusal) => {
            lock(&shared.pairing).take(&session);
            give_up(&shared, session, refusal.code);
            Err(NoHost::Refused(refusal))
        }
    }
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

/// Step 11: both legs are in.
pub fn begin(shared: &Shared, claims: Claims, client: Leg, arrived: Arrived, meter: &Meter) {
    let session = claims.session;
    let Arrived { host, joining, reauthentication } = arrived;
    let Some((index, worker)) = shared.choose_worker() else {
        return give_up(shared, session, Code::Internal);
    };
    let counters = Arc::new(SessionCounters::default());
    let entry = LiveEntry {
        worker: index,
        host: claims.host.clone(),
        client: client.peer,
        started_at: UnixMillis::now(),
        counters: Arc::clone(&counters),
        reauthentication,
        announced: false,
    };
    let session_data = Session { id: session, host_id: claims.host, client, host: *host, counters };
    // Held until the worker has it: who ends sessions looks there, and an end
    // that came to the worker before the start would be lost.
    let mut live = lock(&shared.live);
    // Whoever revokes it looks there after: one of the two sees the other.
    if shared.is_revoked(session) {
        drop(live);
        return give_up(shared, session, Code::SessionRevoked);
    }
    let host = session_data.host_id.clone();
    live.insert(session, entry);
    if worker.tell(Command::Start(Box::new(session_data))).is_err() {
        live.remove(&session);
        drop(live);
        return give_up(shared, session, Code::GatewayFull);
    }
    drop(live);
    meter.record(|set| &mut set.join_us, joining.since);
    if shared.ask(Request::Started { session }).is_err() {
        // Never learning of it, the broker would take it for one that did not
        // come about, and end it.
        lock(&shared.began_unsaid).push(session);
    }
    tracing::info!(step = 11, %session, %host, worker = index, "Relaying");
    shared.teller.tell(11, Some(session), "both legs in, relaying");
}

/// The session comes to nothing: its client is gone.
pub fn client_left(shared: &Shared, session: SessionId) {
    lock(&shared.pairing).take(&session);
    shared.count_refusal(Code::ClientDidNotArrive);
    give_up(shared, session, Code::ClientDidNotArrive);
}

/// The session comes to nothing.
pub fn give_up(shared: &Shared, session: SessionId, code: Code) {
    tracing::info!(step = code.facts().step, %session, %code, "A session did not come about");
    if shared.ask(Request::GaveUp { session, code }).is_err() {
        tracing::warn!(%session, "The control thread is behind; a reservation expires by itself");
    }
}
