//! A round trip to a gateway, measured the way a session would go: over its
//! TLS port, one request on an open connection. Gateways measure each other
//! with it, and our connector all of them (step 7).

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::Endpoint;

/// Longest answer to a probe that is read.
const ANSWER_BYTES_MAX: usize = 4_096;
/// A slower answer is no answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests of one measurement: the first wakes both ends up.
const TRIES: usize = 3;

/// The shortest of a few round trips in a row, in microseconds. `None` when
/// one of them got no answer, or another than a gateway's.
pub async fn shortest_round_trip(
    stream: &mut TlsStream<TcpStream>,
    endpoint: &Endpoint,
) -> Option<u64> {
    let mut shortest_us = u64::MAX;
    for _ in 0..TRIES {
        shortest_us = shortest_us.min(round_trip(stream, endpoint).await?);
    }
    Some(shortest_us)
}

async fn round_trip(stream: &mut TlsStream<TcpStream>, endpoint: &Endpoint) -> Option<u64> {
    let request = format!("GET /probe HTTP/1.1\r\nHost: {}\r\n\r\n", endpoint.authority());
    let begun = Instant::now();
    let exchange = async {
        stream.write_all(request.as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
        let mut answer = Vec::new();
        let mut part = [0; 1_024];
        while !answer.ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut part).await.ok()?;
            answer.extend_from_slice(part.get(..read)?);
            if read == 0 || answer.len() > ANSWER_BYTES_MAX {
                return None;
            }
        }
        answer.starts_with(b"HTTP/1.1 204 ").then_some(())
    };
    timeout(ANSWER_TIMEOUT, exchange).await.ok().flatten()?;
    u64::try_from(begun.elapsed().as_micros()).ok()
}
