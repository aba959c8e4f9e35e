//! One leg of a session: dial a gateway, ask for the relay with a ticket, and
//! from its `101` on carry raw bytes (steps 7 and 10).

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::{DialError, DialErrorKind, Dialer, Endpoint, Phase, Purpose};
use crate::core::tickets::{Role, TEXT_LENGTH_MAX};
use crate::tls::record::MAX_PLAINTEXT_LEN;
use crate::wire::relay_answer::{self, Answer, HEAD_LENGTH_MAX};
use crate::wire::{tsgu, websocket};

/// What a session host puts into one record of its leg. The gateway adds its
/// client's framing (MS-TSGU 2.2.10.6 in a WebSocket frame at most), and a record
/// that was full before would become two.
pub const HOST_RECORD_DATA_MAX: usize =
    MAX_PLAINTEXT_LEN - websocket::SERVER_HEADER_LEN_MAX - tsgu::DATA_HEADER_LEN;

/// A refusal's body may be this long.
const BODY_LENGTH_MAX: usize = 64 * 1024;

/// Asks the gateway at `gateway_url` for the leg that the ticket is for.
/// Returns when both legs are there.
///
/// # Errors
/// [`DialErrorKind::Refused`] with the gateway's own code, or the phase that
/// failed.
pub async fn open_leg(
    dialer: &Dialer,
    gateway_url: &str,
    role: Role,
    ticket: &str,
) -> Result<RelayLeg, DialError> {
    let purpose = match role {
        Role::Client => Purpose::CLIENT_LEG,
        Role::Host => Purpose::HOST_LEG,
    };
    let endpoint: Endpoint =
        gateway_url.parse().map_err(|error: super::endpoint::EndpointError| {
            DialError::new(
                purpose,
                gateway_url,
                DialErrorKind::Address { error: error.to_string() },
            )
        })?;
    let fail = |kind| DialError::new(purpose, &endpoint, kind);
    let request = request_head(&endpoint, role, ticket).map_err(fail)?;

    let mut stream = dialer.connect(&endpoint, purpose).await?;
    let after_ms = dialer.limits().answer_timeout_ms;
    let asked = timeout(Duration::from_millis(after_ms), ask(&mut stream, &request));
    match asked.await {
        Ok(Ok(replay)) => Ok(RelayLeg { replay, stream }),
        Ok(Err(kind)) => Err(fail(kind)),
        Err(_elapsed) => Err(fail(DialErrorKind::Deadline { phase: Phase::Answer, after_ms })),
    }
}

/// The request. A ticket comes from another machine's JSON: one that could end
/// a header line is not sent.
///
/// # Errors
/// When the ticket cannot be one.
pub fn request_head(
    endpoint: &Endpoint,
    role: Role,
    ticket: &str,
) -> Result<String, DialErrorKind> {
    if ticket.len() > TEXT_LENGTH_MAX || !ticket.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(DialErrorKind::Protocol { what: "the ticket is not one".into() });
    }
    Ok(format!(
        "GET /relay/{} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
         Upgrade: {}\r\nRingway-Ticket: {ticket}\r\n\r\n",
        role.as_str(),
        endpoint.authority(),
        relay_answer::PROTOCOL,
    ))
}

/// Sends the request and reads the answer. Returns what followed its head.
async fn ask(stream: &mut TlsStream<TcpStream>, request: &str) -> Result<Bytes, DialErrorKind> {
    let broke = |error| DialErrorKind::Transport { error };
    stream.write_all(request.as_bytes()).await.map_err(broke)?;
    stream.flush().await.map_err(broke)?;

    let mut received = BytesMut::with_capacity(2_048);
    let answer = loop {
        let misread = |what| DialErrorKind::Protocol { what };
        if let Some(answer) = relay_answer::parse(&received).map_err(misread)? {
            break answer;
        }
        if received.len() >= HEAD_LENGTH_MAX {
            let what = format!("its head is longer than {HEAD_LENGTH_MAX} bytes");
            return Err(DialErrorKind::Protocol { what });
        }
        if stream.read_buf(&mut received).await.map_err(broke)? == 0 {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the answer");
            return Err(broke(error));
        }
    };
    match answer {
        Answer::Switched { head_length } => {
            received.advance(head_length.min(received.len()));
            Ok(received.freeze())
        }
        Answer::Refused { head_length, status, body_length } => {
            received.advance(head_length.min(received.len()));
            let wanted = body_length.unwrap_or(BODY_LENGTH_MAX).min(BODY_LENGTH_MAX);
            while received.len() < wanted {
                // A body that breaks off is judged as far as it came.
                match stream.read_buf(&mut received).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            received.truncate(wanted);
            Err(super::http::refusal_of(status, &received))
        }
    }
}

/// A leg that is joined to its other half. Writing is flushed by
/// [`AsyncWrite::poll_flush`]; shutting down sends TLS `close_notify`; reading
/// ends with an error of kind `UnexpectedEof` when the gateway vanished
/// without one (RFC 8446 6.1).
pub struct RelayLeg {
    /// What arrived together with the gateway's answer.
    replay: Bytes,
    stream: TlsStream<TcpStream>,
}

impl AsyncRead for RelayLeg {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.replay.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.replay.len().min(buffer.remaining());
        buffer.put_slice(&self.replay.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RelayLeg {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl fmt::Debug for RelayLeg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayLeg").field("replay", &self.replay.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
