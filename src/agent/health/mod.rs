//! How the host is: a round of checks now and then, each with a deadline. The
//! broker is told when one changes, with every hello, and now and then.
//!
//! A check that is fatal keeps new users away while it fails: there is one,
//! whether the RDP server answers. Others (its certificate, the load, the
//! places that are left) only let other hosts go first.

mod certificate;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::seats::Seats;
use super::target::Target;
use crate::channel::client::ChannelHandle;
use crate::config::agent::HealthSettings;
use crate::core::clock::UnixMillis;
use crate::core::health::{HostCheck, Steady};
use crate::wire::channel::AgentToBroker;

/// What the last round found. The hello tells it as well.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings(Arc<Mutex<Vec<HostCheck>>>);

impl Findings {
    pub(super) fn checks(&self) -> Vec<HostCheck> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, checks: Vec<HostCheck>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = checks;
    }
}

/// Looks after the host until it is dropped.
pub(super) struct Watch {
    pub(super) settings: HealthSettings,
    pub(super) target: Arc<dyn Target>,
    pub(super) seats: Arc<Seats>,
    pub(super) channel: ChannelHandle<AgentToBroker>,
    pub(super) findings: Findings,
}

/// One look, before it is believed.
struct Seen {
    name: &'static str,
    fatal: bool,
    /// What was seen, good or bad.
    outcome: Result<String, String>,
}

impl Watch {
    pub(super) async fn run(self) {
        let mut believed = BTreeMap::new();
        let mut told_at = Instant::now();
        let report_interval = Duration::from_millis(self.settings.report_interval_ms);
        loop {
            let seen = self.look().await;
            let checks: Vec<_> =
                seen.into_iter().map(|one| self.judge(one, &mut believed)).collect();
            let verdicts = |checks: &[HostCheck]| -> Vec<_> {
                checks.iter().map(|check| (check.name.clone(), check.fatal, check.ok)).collect()
            };
            let changed = verdicts(&checks) != verdicts(&self.findings.checks());
            self.findings.replace(checks.clone());
            if changed || told_at.elapsed() >= report_interval {
                told_at = Instant::now();
                // Without a channel, the next hello tells it.
                let _no_channel = self.channel.send(AgentToBroker::Health { checks });
            }
            sleep(Duration::from_millis(self.settings.interval_ms)).await;
        }
    }

    fn judge(&self, seen: Seen, believed: &mut BTreeMap<&'static str, Steady>) -> HostCheck {
        let Seen { name, fatal, outcome } = seen;
        let steady = believed.entry(name).or_default();
        let ok = steady.observe(outcome.is_ok(), self.settings.steady());
        if ok != outcome.is_ok() {
            tracing::debug!(check = name, ?outcome, "A check differs from what is believed");
        }
        let (Ok(detail) | Err(detail)) = outcome;
        HostCheck { name: name.into(), fatal, ok, detail }
    }

    async fn look(&self) -> Vec<Seen> {
        let mut seen = self.look_at_target().await;
        if let Some(path) = &self.settings.certificate {
            let read = certificate::in_file(path, UnixMillis::now());
            seen.push(Seen { name: "certificate", fatal: false, outcome: read });
        }
        if self.settings.load_per_core_max > 0.0
            && let Ok(text) = std::fs::read_to_string("/proc/loadavg")
        {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let outcome = judge_load(&text, cores, self.settings.load_per_core_max);
            seen.push(Seen { name: "load", fatal: self.settings.load_is_fatal, outcome });
        }
        let (free, all) = self.seats.free();
        let places = format!("{free} of {all} free");
        let outcome = if free > 0 { Ok(places) } else { Err(places) };
        seen.push(Seen { name: "places", fatal: false, outcome });
        seen
    }

    /// One connection serves both: does the RDP server answer, and which
    /// certificate has it.
    async fn look_at_target(&self) -> Vec<Seen> {
        // An RDP server inside this process is as well as the process.
        let Some(target) = self.target.tcp() else { return Vec::new() };
        let within = Duration::from_millis(self.settings.check_timeout_ms);
        let connected = target.connect_within(within).await;
        let answers = match &connected {
            Ok(_) => Ok(format!("{target} answers")),
            Err(error) => Err(format!("{target}: {error}")),
        };
        let mut seen = vec![Seen { name: "target", fatal: true, outcome: answers }];
        if self.settings.certificate.is_none() {
            let outcome = match connected {
                Ok(stream) => {
                    let asked = certificate::of_server(stream, UnixMillis::now());
                    let late = |_| Err(format!("no certificate within {} ms", within.as_millis()));
                    timeout(within, asked).await.unwrap_or_else(late)
                }
                Err(_) => Err("the RDP server does not answer".into()),
            };
            seen.push(Seen { name: "certificate", fatal: false, outcome });
        }
        seen
    }
}

/// `text` is that of `/proc/loadavg`, see proc_loadavg(5).
fn judge_load(text: &str, cores: usize, per_core_max: f64) -> Result<String, String> {
    let first = text.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
    let load = first.ok_or_else(|| "/proc/loadavg is not understood".to_owned())?;
    let cores = u32::try_from(cores).unwrap_or(u32::MAX);
    let detail = format!("load {load:.2} on {cores} cores");
    if load > per_core_max * f64::from(cores) {
        Err(format!("{detail}, more than {per_core_max} each"))
    } else {
        Ok(detail)
    }
}

#[cfg(test)]
mod tests;
