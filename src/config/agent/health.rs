//! `[agent.health]`: what the agent checks about its host, and how often.

use std::path::PathBuf;

use serde::Deserialize;

use crate::core::health::SteadyRules;

/// Every setting has a default.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthSettings {
    /// From the end of one round of checks to the next.
    pub interval_ms: u64,
    /// One check; what takes longer has failed.
    pub check_timeout_ms: u64,
    /// The broker is told of every change, and of everything this often.
    pub report_interval_ms: u64,
    /// Failures in a row that make a check fail.
    pub failures_until_bad: u32,
    /// Successes in a row that make it good again.
    pub successes_until_good: u32,
    /// Load average of one minute per core; 0 switches the check off.
    pub load_per_core_max: f64,
    /// Whether a host with more load gets nobody new. Otherwise others go
    /// first.
    pub load_is_fatal: bool,
    /// PEM file of the RDP server's certificate. Default: the RDP server is
    /// asked for it.
    pub certificate: Option<PathBuf>,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            interval_ms: 10_000,
            check_timeout_ms: 2_000,
            report_interval_ms: 60_000,
            failures_until_bad: 3,
            successes_until_good: 2,
            load_per_core_max: 4.0,
            load_is_fatal: false,
            certificate: None,
        }
    }
}

impl HealthSettings {
    #[must_use]
    pub const fn steady(&self) -> SteadyRules {
        SteadyRules {
            failures_until_bad: self.failures_until_bad,
            successes_until_good: self.successes_until_good,
        }
    }

    /// The first key that cannot be used, why, and what to do.
    pub(super) fn problem(&self) -> Option<(&'static str, String, &'static str)> {
        let none_is_zero = [
            ("agent.health.interval_ms", self.interval_ms),
            ("agent.health.check_timeout_ms", self.check_timeout_ms),
            ("agent.health.report_interval_ms", self.report_interval_ms),
            ("agent.health.failures_until_bad", u64::from(self.failures_until_bad)),
            ("agent.health.successes_until_good", u64::from(self.successes_until_good)),
        ];
        if let Some((key, _)) = none_is_zero.into_iter().find(|(_, value)| *value == 0) {
            return Some((key, "is 0".into(), "leave it out for the default"));
        }
        let load = self.load_per_core_max;
        (!load.is_finite() || load < 0.0).then(|| {
            let problem = format!("{load} is not a load average");
            ("agent.health.load_per_core_max", problem, "write 4.0, or 0 for no check")
        })
    }
}
