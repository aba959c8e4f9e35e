//! The rest of a request behind its head, and its answer.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use crate::core::codes::{Code, Refusal};
use crate::wire::http_head::{self, RequestHead};

/// What becomes of the connection.
pub enum Next {
    Another,
    Close,
}

/// The whole body of a request, up to the limit.
pub async fn read_body(connection: &mut Connection, head: &RequestHead) -> Result<Vec<u8>, Code> {
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

/// Reads a request to its end and answers it.
pub async fn answer(
    connection: &mut Connection,
    head: &RequestHead,
    bytes: &[u8],
) -> Result<Next, Refusal> {
    if head.content_length > 0 {
        read_body(connection, head).await?;
    }
    send(connection, head, bytes).await
}

/// Answers a request that has been read to its end; a last answer goes out with
/// the connection's end, as one segment.
pub async fn send(
    connection: &mut Connection,
    head: &RequestHead,
    bytes: &[u8],
) -> Result<Next, Refusal> {
    if head.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close")) {
        connection.queue(bytes).map_err(Code::from)?;
        return Ok(Next::Close);
    }
    connection.write(bytes).await.map_err(Code::from)?;
    Ok(Next::Another)
}

/// An answer with this as its body.
pub fn json(body: &impl serde::Serialize) -> Result<Vec<u8>, Refusal> {
    let body =
        serde_json::to_string(body).map_err(|error| Refusal::with_detail(Code::Internal, error))?;
    Ok(http_head::answer(200, Some(&body), &[]))
}
