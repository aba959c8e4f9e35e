//! How the host is: a round of checks now and then, each with a deadline. The
//! broker is told when one changes, with every hello, and now and then.
//!
//! A check that is fatal keeps new users away while it fails: there is one,
//! whether the RDP server answers. Others (its certificate, the load, the
//! places that are left) only let other hosts go first.

mod certificate;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::{Instant, sleep, timeout};

use self::certificate::Server;
use super::front::Rdsaad;
use super::seats::Seats;
use super::target::Target;
use crate::channel::client::ChannelHandle;
use crate::config::agent::HealthSettings;
use crate::core::clock::UnixMillis;
use crate::core::health::{HostCheck, Steady};
use crate::wire::channel::{AgentToBroker, CERTIFICATE_LENGTH_MAX};
use crate::wire::x224::{FailureCode, Protocols};

/// What the last round found. The hello tells it as well.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings(Arc<Mutex<Found>>);

#[derive(Debug, Default)]
struct Found {
    checks: Vec<HostCheck>,
    /// The last that was seen; a look that fails changes nothing.
    certificate: Option<Vec<u8>>,
    /// What the server chose of what the agent offered.
    chose: Protocols,
}

impl Findings {
    fn lock(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn checks(&self) -> Vec<HostCheck> {
        self.lock().checks.clone()
    }

    /// For clients that pin it.
    pub(super) fn certificate(&self) -> Option<AgentToBroker> {
        let der = STANDARD.encode(self.lock().certificate.as_ref()?);
        (der.len() <= CERTIFICATE_LENGTH_MAX).then_some(AgentToBroker::RdpCertificate { der })
    }

    /// What becomes of logons by token.
    pub(super) fn rdsaad(&self) -> Rdsaad {
        let chose = self.lock().chose;
        if chose.contain(Protocols::RDSAAD) {
            Rdsaad::Pass
        } else if chose.contain(Protocols::HYBRID) {
            Rdsaad::Decline(FailureCode::HYBRID_REQUIRED)
        } else {
            Rdsaad::Decline(FailureCode::SSL_REQUIRED)
        }
    }

    /// Whether it is another one than before.
    fn found_certificate(&self, server: Server) -> bool {
        let mut found = self.lock();
        if found.chose != server.chose && server.chose.contain(Protocols::RDSAAD) {
            tracing::info!("The RDP server takes logons by token");
        }
        found.chose = server.chose;
        let is_new = found.certificate.as_ref() != Some(&server.certificate);
        found.certificate = Some(server.certificate);
        is_new
    }
}

/// Looks after the host until it is dropped.
pub(super) struct Watch {
    pub(super) settings: HealthSettings,
    /// Whether the RDP server may be one that takes logons by token.
    pub(super) rdsaad: bool,
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
            self.findings.lock().checks.clone_from(&checks);
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
            let read = self.note(certificate::in_file(path));
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

    /// Judges a certificate, and tells the broker when it is another one.
    fn note(&self, looked: Result<Option<Server>, String>) -> Result<String, String> {
        let Some(server) = looked? else { return Ok("the RDP server speaks no TLS".into()) };
        let outcome = certificate::judge(&server.certificate, UnixMillis::now());
        if self.findings.found_certificate(server)
            && let Some(word) = self.findings.certificate()
        {
            // Without a channel, the next hello tells it.
            let _no_channel = self.channel.send(word);
        }
        outcome
    }

    fn offer(&self) -> Protocols {
        let all = Protocols::SSL | Protocols::HYBRID;
        if self.rdsaad { all | Protocols::RDSAAD } else { all }
    }

    /// One connection serves both: does the RDP server answer, and which
    /// certificate has it.
    async fn look_at_target(&self) -> Vec<Seen> {
        // An RDP server inside this process is as well as the process.
        let Some(target) = self.target.tcp() else {
            if let Some(certificate) = self.target.certificate() {
                let chose =
                    if self.target.takes_rdsaad() { Protocols::RDSAAD } else { Protocols::SSL };
                let _judged = self.note(Ok(Some(Server { certificate, chose })));
            }
            return Vec::new();
        };
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
                    let asked = timeout(within, certificate::of_server(stream, self.offer())).await;
                    let late = |_| Err(format!("no certificate within {} ms", within.as_millis()));
                    self.note(asked.unwrap_or_else(late))
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
