//! `[agent.health]`: what the agent checks about its host, and how often.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::Findings;
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

    /// Finds every key that cannot be used, says why and what to do.
    pub(super) fn check(&self, found: &mut Findings) {
        found.add_zeros(
            "agent.health",
            [
                ("interval_ms", self.interval_ms),
                ("check_timeout_ms", self.check_timeout_ms),
                ("report_interval_ms", self.report_interval_ms),
                ("failures_until_bad", u64::from(self.failures_until_bad)),
                ("successes_until_good", u64::from(self.successes_until_good)),
            ],
        );
        let load = self.load_per_core_max;
        if !load.is_finite() || load < 0.0 {
            found.add(
                "agent.health.load_per_core_max",
                format!("{load} is not a load average"),
                "write 4.0, or 0 for no check",
            );
        }
    }
}
