//! Round trips to the other gateways, over and over, each on a kept connection.
//! One that cannot be reached is asked less and less often.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::channel::client::draw;
use crate::core::backoff::Backoff;
use crate::core::ids::GatewayId;
use crate::dial::probe::shortest_round_trip;
use crate::dial::{Dialer, Endpoint, Purpose};
use crate::wire::channel::GatewayEntry;

/// Gateways that are probed at most.
const TARGETS_MAX: usize = 1_000;
/// Longest pause after a probe that did not get there, before jitter.
const PAUSE_MS_MAX: u64 = 60_000;

/// One round trip, or none.
#[derive(Debug)]
pub struct ProbeResult {
    pub gateway: GatewayId,
    pub rtt_us: Option<u64>,
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
        let listed: HashMap<&GatewayId, &str> =
            entries.iter().map(|entry| (&entry.gateway, entry.url.as_str())).collect();
        self.running.retain(|gateway, (url, task)| {
            let stays = listed.get(gateway) == Some(&url.as_str());
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
    /// Until nobody wants to know any more.
    async fn run(self) {
        let interval_ms = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX);
        let mut backoff = Backoff::new(interval_ms, PAUSE_MS_MAX.max(interval_ms));
        loop {
            let got_there = match self.dialer.connect(&self.endpoint, Purpose::CLIENT_LEG).await {
                Ok(mut stream) => {
                    let mut got_there = false;
                    while let Some(rtt_us) = shortest_round_trip(&mut stream, &self.endpoint).await
                    {
                        got_there = true;
                        if !self.tell(Some(rtt_us)).await {
                            return;
                        }
                        sleep(self.interval).await;
                    }
                    got_there
                }
                Err(error) => {
                    tracing::debug!(gateway = %self.gateway, %error, "A probe failed");
                    false
                }
            };
            if got_there {
                // The connection is over, as every one is some day. Whether
                // anything is wrong the next one tells, at once.
                backoff.reset();
                continue;
            }
            if !self.tell(None).await {
                return;
            }
            // Jitter that starts from nothing would ask a dead gateway at once.
            let pause_ms = backoff.next_delay_ms(draw(), Some(interval_ms / 2));
            sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    async fn tell(&self, rtt_us: Option<u64>) -> bool {
        self.results.send(ProbeResult { gateway: self.gateway.clone(), rtt_us }).await.is_ok()
    }
}
