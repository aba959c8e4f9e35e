//! Round trips to the other gateways, measured the way a session would go:
//! over their TLS port, one request on a kept connection.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::core::ids::GatewayId;
use crate::dial::{Dialer, Endpoint, Purpose};
use crate::wire::channel::GatewayEntry;

/// Longest answer to a probe that is read.
const ANSWER_BYTES_MAX: usize = 4_096;
/// A slower answer is no answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests of one measurement: the first wakes both ends up.
const TRIES: usize = 3;
/// Gateways that are probed at most.
const TARGETS_MAX: usize = 1_000;

/// One measured round trip.
#[derive(Debug)]
pub struct ProbeResult {
    pub gateway: GatewayId,
    pub rtt_us: u64,
}

/// One task per other gateway.
#[derive(Debug)]
pub struct Probes {
    dialer: Dialer,
    interval: Duration,
    results: mpsc::Sender<ProbeResult>,
    running: HashMap<GatewayId, (String, AbortHandle)>,
}

impl Probes {
    #[must_use]
    pub fn new(dialer: Dialer, interval: Duration, results: mpsc::Sender<ProbeResult>) -> Self {
        Self { dialer, interval, results, running: HashMap::new() }
    }

    /// Probes exactly the gateways of the table, except our own.
    pub fn follow(&mut self, entries: &[GatewayEntry], own: &GatewayId) {
        self.running.retain(|gateway, (url, task)| {
            let stays = entries.iter().any(|e| e.gateway == *gateway && e.url == *url);
            if !stays {
                task.abort();
            }
            stays
        });
        for entry in entries {
            if entry.gateway == *own
                || self.running.contains_key(&entry.gateway)
                || self.running.len() >= TARGETS_MAX
            {
                continue;
            }
            let Ok(endpoint) = entry.url.parse::<Endpoint>() else {
                tracing::warn!(gateway = %entry.gateway, url = %entry.url, "Not a gateway URL");
                continue;
            };
            let probe = Probe {
                gateway: entry.gateway.clone(),
                endpoint,
                dialer: self.dialer.clone(),
                interval: self.interval,
                results: self.results.clone(),
            };
            let task = tokio::spawn(probe.run()).abort_handle();
            self.running.insert(entry.gateway.clone(), (entry.url.clone(), task));
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for (_, task) in self.running.values() {
            task.abort();
        }
    }
}

struct Probe {
    gateway: GatewayId,
    endpoint: Endpoint,
    dialer: Dialer,
    interval: Duration,
    results: mpsc::Sender<ProbeResult>,
}

impl Probe {
    async fn run(self) {
        let mut failures = 0_u32;
        loop {
            match self.dialer.connect(&self.endpoint, Purpose::CLIENT_LEG).await {
                Ok(mut stream) => {
                    failures = 0;
                    while let Some(rtt_us) = self.measure(&mut stream).await {
                        let result = ProbeResult { gateway: self.gateway.clone(), rtt_us };
                        if self.results.send(result).await.is_err() {
                            return;
                        }
                        sleep(self.interval).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(gateway = %self.gateway, %error, "A probe failed");
                }
            }
            // An unreachable gateway is asked less and less often.
            failures = (failures + 1).min(5);
            sleep(self.interval * failures).await;
        }
    }

    /// The shortest of a few round trips in a row.
    async fn measure(&self, stream: &mut TlsStream<TcpStream>) -> Option<u64> {
        let mut shortest = u64::MAX;
        for _ in 0..TRIES {
            shortest = shortest.min(self.round_trip(stream).await?);
        }
        Some(shortest)
    }

    async fn round_trip(&self, stream: &mut TlsStream<TcpStream>) -> Option<u64> {
        let request = format!("GET /probe HTTP/1.1\r\nHost: {}\r\n\r\n", self.endpoint.authority());
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
}
