//! What a connection may ask for: a probe's answer, the gateways, a place (all
//! step 7), or to become a leg (steps 8 and 10).

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::accept::Presence;
use super::connection::{Connection, ConnectionError};
use super::waiting;
use crate::config::gateway::GatewayLimits;
use crate::core::codes::{Code, Refusal};
use crate::core::secret::Secret;
use crate::core::tickets::Role;
use crate::gateway::shared::{PlaceQuestion, Placed, Request, Shared};
use crate::wire::arm::{ConnectionRequest, ConnectionResponse, GATEWAYS_PATH, RingwayDetails};
use crate::wire::http_head::{self, HeadStatus, RequestHead};
use crate::wire::relay_answer;

/// The header that carries a leg's ticket.
const TICKET_HEADER: &str = "ringway-ticket";

/// Serves one connection until it leaves, is refused, or becomes a leg.
pub async fn serve(mut connection: Connection, presence: Rc<Presence>) {
    let shared = Arc::clone(&connection.shared);
    let GatewayLimits { lobby_lifetime_ms, requests_per_connection_max, .. } =
        shared.config().limits;
    let over_at = Instant::now() + Duration::from_millis(lobby_lifetime_ms);
    if let Err(error) = connection.handshake().await {
        shared.counters.handshakes_failed.fetch_add(1, Relaxed);
        tracing::debug!(peer = %connection.peer, %error, "A TLS handshake failed");
        return;
    }
    shared.counters.handshakes.fetch_add(1, Relaxed);

    for _ in 0..requests_per_connection_max {
        let head = match read_head(&mut connection, over_at).await {
            Ok(head) => head,
            Err(NoHead::Left) => return,
            Err(NoHead::LifetimeOver) => {
                shared.counters.timeouts.fetch_add(1, Relaxed);
                return connection.close().await;
            }
            Err(NoHead::Refused(code)) => return connection.refuse(&code.into()).await,
        };
        let outcome = match (head.method.as_str(), head.path.trim_end_matches('/')) {
            ("GET", "/probe") => {
                let id = [("Ringway-Gateway", shared.id.as_str())];
                answer(&mut connection, &head, &http_head::answer(204, None, &id)).await
            }
            ("POST", "/api/arm/v2/connections") => place(&mut connection, &head).await,
            ("GET", GATEWAYS_PATH) => list(&mut connection, &head).await,
            ("GET", "/relay/client") => {
                return relay(connection, &head, Role::Client, presence).await;
            }
            ("GET", "/relay/host") => return relay(connection, &head, Role::Host, presence).await,
            (
                _,
                "/probe"
                | "/api/arm/v2/connections"
                | GATEWAYS_PATH
                | "/relay/client"
                | "/relay/host",
            ) => Err(Code::MethodNotAllowed.into()),
            _ => Err(Code::NotFound.into()),
        };
        match outcome {
            Ok(Next::Another) => {}
            Ok(Next::Close) => return connection.close().await,
            Err(refusal) => return connection.refuse(&refusal).await,
        }
    }
    connection.refuse(&Code::TooManyRequests.into()).await;
}

enum Next {
    Another,
    Close,
}

enum NoHead {
    Left,
    LifetimeOver,
    Refused(Code),
}

/// A request that has begun to be answered is answered; the end of the
/// connection's lifetime shows before the next one.
async fn read_head(connection: &mut Connection, over_at: Instant) -> Result<RequestHead, NoHead> {
    let limits = connection.shared.config().limits;
    let deadline = Instant::now() + Duration::from_millis(limits.request_timeout_ms);
    loop {
        if Instant::now() >= over_at {
            return Err(NoHead::LifetimeOver);
        }
        match RequestHead::parse(connection.received(), limits.head_bytes_max) {
            Ok(HeadStatus::Complete(head)) => {
                connection.consume(head.length);
                return Ok(head);
            }
            Ok(HeadStatus::Partial) => {}
            Err(code) => return Err(NoHead::Refused(code)),
        }
        let idle = connection.received().is_empty();
        match timeout_at(deadline.min(over_at), connection.fill()).await {
            Ok(Ok(())) => {}
            Ok(Err(ConnectionError::Gone)) => return Err(NoHead::Left),
            Ok(Err(error)) => {
                tracing::debug!(peer = %connection.peer, %error, "A connection failed");
                return Err(NoHead::Left);
            }
            Err(_) if over_at <= deadline => return Err(NoHead::LifetimeOver),
            // Between requests a silent connection is just over.
            Err(_) if idle && connection.shared.is_draining() => return Err(NoHead::Left),
            Err(_) => return Err(NoHead::Refused(Code::RequestTimeout)),
        }
    }
}

async fn read_body(connection: &mut Connection, head: &RequestHead) -> Result<Vec<u8>, Code> {
    let limits = connection.shared.config().limits;
    if head.content_length > limits.body_bytes_max {
        return Err(Code::RequestTooLarge);
    }
    let deadline = Instant::now() + Duration::from_millis(limits.request_timeout_ms);
    while connection.received().len() < head.content_length {
        match timeout_at(deadline, connection.fill()).await {
            Ok(filled) => filled?,
            Err(_) => return Err(Code::RequestTimeout),
        }
    }
    let body = connection.received().get(..head.content_length).unwrap_or_default().to_vec();
    connection.consume(head.content_length);
    Ok(body)
}

async fn answer(
    connection: &mut Connection,
    head: &RequestHead,
    bytes: &[u8],
) -> Result<Next, Refusal> {
    if head.content_length > 0 {
        read_body(connection, head).await?;
    }
    send(connection, head, bytes).await
}

/// Answers a request that has been read to its end.
async fn send(
    connection: &mut Connection,
    head: &RequestHead,
    bytes: &[u8],
) -> Result<Next, Refusal> {
    connection.write(bytes).await.map_err(Code::from)?;
    let close = head.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
    Ok(if close { Next::Close } else { Next::Another })
}

/// Step 7: which gateway, and a place on a host.
async fn place(connection: &mut Connection, head: &RequestHead) -> Result<Next, Refusal> {
    let begun = Instant::now();
    let shared = Arc::clone(&connection.shared);
    let bearer = Secret::from(head.bearer().ok_or(Code::TokenMissing)?);
    let body = read_body(connection, head).await?;
    let request: ConnectionRequest = serde_json::from_slice(&body)
        .map_err(|error| Refusal::with_detail(Code::RequestMalformed, error))?;
    if shared.is_draining() {
        return Err(Code::GatewayDraining.into());
    }
    shared.teller.tell(7, None, format!("asked at {}", shared.id));
    let (answer_to, answered) = oneshot::channel();
    shared.ask(Request::Place {
        question: PlaceQuestion {
            bearer,
            application: request.application,
            load_balance_info: request.load_balance_info,
            client: connection.peer,
            client_rtt_us: connection.client_rtt_us(),
            samples: request.ringway_rtt_samples,
            unreachable: request.ringway_unreachable,
        },
        answer: answer_to,
    })?;
    let Placed { placement, gateway, explain } = broker_says(&shared, answered).await?;
    let response = ConnectionResponse {
        gateway_location: format!("{}/relay/client", placement.gateway_url),
        redirected_server_name: placement.host.to_string(),
        ringway: RingwayDetails {
            session: placement.session,
            gateway,
            host: placement.host,
            ticket: placement.client_ticket,
            explain,
        },
    };
    let next = send(connection, head, &json(&response)?).await?;
    connection.meter.record(|set| &mut set.answer_us, begun);
    Ok(next)
}

/// Which gateways a user may measure the way to, before step 7. The broker
/// says whether it is a user: a stranger is not shown what there is.
async fn list(connection: &mut Connection, head: &RequestHead) -> Result<Next, Refusal> {
    let shared = Arc::clone(&connection.shared);
    let bearer = Secret::from(head.bearer().ok_or(Code::TokenMissing)?);
    let (answer_to, answered) = oneshot::channel();
    let client_rtt_us = connection.client_rtt_us();
    shared.ask(Request::List { bearer, client_rtt_us, answer: answer_to })?;
    let list = broker_says(&shared, answered).await?;
    answer(connection, head, &json(&list)?).await
}

/// What the control thread has from the broker, within its deadline.
async fn broker_says<T>(
    shared: &Shared,
    answered: oneshot::Receiver<Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let limit = Duration::from_millis(shared.config().limits.broker_timeout_ms);
    match timeout(limit, answered).await {
        Ok(Ok(said)) => said,
        Ok(Err(_)) | Err(_) => Err(Code::BrokerUnreachable.into()),
    }
}

fn json(body: &impl serde::Serialize) -> Result<Vec<u8>, Refusal> {
    let body =
        serde_json::to_string(body).map_err(|error| Refusal::with_detail(Code::Internal, error))?;
    Ok(http_head::answer(200, Some(&body), &[]))
}

/// A request to become a leg.
async fn relay(connection: Connection, head: &RequestHead, role: Role, presence: Rc<Presence>) {
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
        Role::Client => waiting::wait_for_host(connection, claims, begun).await,
        Role::Host => waiting::join_client(connection, claims).await,
    }
    drop(presence);
}
