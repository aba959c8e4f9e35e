//! What a connection may ask for: a probe's answer, the gateways, a place (all
//! step 7), or to become a leg (steps 8 and 10).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, ConnectionError};
use super::exchange::{Next, answer};
use super::{placing, tsgu, waiting, wst};
use crate::config::gateway::GatewayLimits;
use crate::core::codes::Code;
use crate::core::tickets::Role;
use crate::wire::arm::{CONNECTIONS_PATH, GATEWAYS_PATH};
use crate::wire::http_head::{self, CHUNKED_METHOD, HeadStatus, RequestHead};
use crate::wire::websocket_upgrade;

const PROBE_PATH: &str = "/probe";
const CLIENT_PATH: &str = "/relay/client";
const HOST_PATH: &str = "/relay/host";

/// Serves one connection until it leaves, is refused, or becomes a leg.
pub async fn serve(mut connection: Connection) {
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
            ("GET", PROBE_PATH) => {
                let id = [("Ringway-Gateway", shared.id.as_str())];
                answer(&mut connection, &head, &http_head::answer(204, None, &id)).await
            }
            ("POST", CONNECTIONS_PATH) => match placing::place(&mut connection, &head).await {
                Err(refusal) if placing::is_from_stock_client(&head) => {
                    return connection
                        .refuse_in(&http_head::stock_refusal(&refusal), &refusal)
                        .await;
                }
                outcome => outcome,
            },
            ("GET", GATEWAYS_PATH) => placing::list(&mut connection, &head).await,
            ("GET", CLIENT_PATH) => return waiting::relay(connection, &head, Role::Client).await,
            ("GET", HOST_PATH) => return waiting::relay(connection, &head, Role::Host).await,
            ("GET" | tsgu::OUT_METHOD, tsgu::PATH)
                if head.upgrades_to(websocket_upgrade::PROTOCOL) =>
            {
                return tsgu::over_websocket(connection, &head).await;
            }
            (tsgu::OUT_METHOD, tsgu::PATH) => return tsgu::hold_out(connection, &head).await,
            (CHUNKED_METHOD, tsgu::PATH) if head.is_chunked => {
                return tsgu::attach_in(connection, &head).await;
            }
            (CHUNKED_METHOD, tsgu::PATH) => tsgu::answer_first(&mut connection, &head).await,
            ("GET", path) if wst::is_here(path) => {
                if head.upgrades_to(websocket_upgrade::PROTOCOL) {
                    return wst::join(connection, &head).await;
                }
                wst::tell_affinity(&mut connection, &head).await
            }
            (_, path) if wst::is_here(path) => Err(Code::MethodNotAllowed.into()),
            (
                _,
                PROBE_PATH
                | CONNECTIONS_PATH
                | GATEWAYS_PATH
                | CLIENT_PATH
                | HOST_PATH
                | tsgu::PATH,
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
