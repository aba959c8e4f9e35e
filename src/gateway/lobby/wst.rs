//! Where stock clients of AVD mode join their session: raw RDP bytes in
//! WebSocket frames (steps 8 to 11).
//!
//! Such a client is sent here with its place in the address. It may come once
//! more with the same address, when its host declines a kind of security, or
//! later, when it lost the connection; then the place is used up, and another is
//! asked for, at this gateway. One that was given nothing but the address and a
//! token (`/gateway:url:…`) comes like that the first time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::exchange::{Next, answer};
use super::placing::{PLACE_PARAMETER, admit_here};
use super::waiting::{Due, join_host};
use crate::core::codes::{Code, Refusal};
use crate::core::secret::Secret;
use crate::core::tickets::{Claims, Role};
use crate::gateway::relay::framing::{Deframer, Framer};
use crate::wire::http_head::{self, RequestHead};
use crate::wire::resource_name::{ResourceName, WST_PATH};
use crate::wire::websocket_upgrade;

/// From the request to its answer, whatever the answer is. FreeRDP waits for
/// 15 s.
const ANSWERED_WITHIN: Duration = Duration::from_secs(12);

/// The cookie without which FreeRDP gives up. Azure's balancers keep to an
/// instance by it; here the address does.
const AFFINITY_COOKIE: &str = "ARRAffinity";

pub fn is_here(path: &str) -> bool {
    path.strip_prefix(WST_PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The plain request before the one that counts: which instance is this?
/// Nobody is asked; a token must be there, because the client has one.
pub async fn tell_affinity(
    connection: &mut Connection,
    head: &RequestHead,
) -> Result<Next, Refusal> {
    head.bearer_anywhere().ok_or(Code::TokenMissing)?;
    let shared = Arc::clone(&connection.shared);
    if shared.is_draining() {
        return Err(Code::GatewayDraining.into());
    }
    let cookie = format!("{AFFINITY_COOKIE}={}; Path=/; Secure; HttpOnly", shared.id);
    answer(connection, head, &http_head::answer(200, None, &[("Set-Cookie", &cookie)])).await
}

/// The request to become a leg. Answered when the host is there: the client
/// notices a status at once and, after a `101`, nothing at all.
pub async fn join(connection: Connection, head: &RequestHead) {
    let begun = Instant::now();
    let answer_by = begun + ANSWERED_WITHIN;
    match admit(&connection, head, answer_by).await {
        Ok((claims, greeting)) => {
            let limits = connection.shared.config().limits;
            let pairing = Duration::from_millis(limits.pair_timeout_ms);
            let due = Due { begun, deadline: answer_by.min(Instant::now() + pairing) };
            let framing = (Deframer::websocket(), Framer::websocket());
            join_host(connection, claims, due, &greeting, framing).await;
        }
        Err(refusal) => connection.refuse(&refusal).await,
    }
}

async fn admit(
    connection: &Connection,
    head: &RequestHead,
    answer_by: Instant,
) -> Result<(Claims, Vec<u8>), Refusal> {
    let greeting = websocket_upgrade::accept(head)?;
    let bearer = head.bearer_anywhere().ok_or(Code::TokenMissing)?;
    if let Some(ticket) = head.query_parameter(PLACE_PARAMETER)
        && let Some(claims) = admit_ticket(connection, &ticket)?
    {
        return Ok((claims, greeting));
    }
    let name = ResourceName::of_wst_path(head.path.trim_end_matches('/'));
    let name = name.ok_or(Code::ResourceUnknown)?;
    let placing = admit_here(connection, bearer, name.application(), name.load_balance_info());
    match timeout_at(answer_by, placing).await {
        Ok(claims) => Ok((claims?, greeting)),
        Err(_) => Err(Code::BrokerUnreachable.into()),
    }
}

/// The place in the address, unless it was used or is too old: then there is
/// another to be had. What speaks against the client itself stands.
fn admit_ticket(connection: &Connection, ticket: &Secret) -> Result<Option<Claims>, Code> {
    match connection.shared.admit(ticket.expose(), Role::Client) {
        Ok(claims) => Ok(Some(claims)),
        Err(code @ (Code::SessionRevoked | Code::GatewayDraining | Code::GatewayFull)) => Err(code),
        Err(_) => Ok(None),
    }
}
