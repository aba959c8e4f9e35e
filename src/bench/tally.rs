//! What the engine counts while it runs.

use hdrhistogram::Histogram;

use crate::core::tickets::Role;
use crate::observe::histograms::latency;

/// Faults that are kept word for word; the rest are counted.
const FAULTS_KEPT: usize = 20;

/// Counters since the last [`Tally::restart`].
#[derive(Debug)]
pub struct Tally {
    /// Microseconds from the moment a message was meant to be sent to the
    /// arrival of its last byte, by direction.
    pub up_us: Histogram<u64>,
    pub down_us: Histogram<u64>,
    /// How late the engine itself was with sending.
    pub late_us: Histogram<u64>,
    /// Full handshakes with one answered request each.
    pub handshake_us: Histogram<u64>,
    pub handshakes_failed: u64,
    pub messages_planned: u64,
    pub messages_up: u64,
    pub messages_down: u64,
    /// Bytes that arrived and were compared.
    pub bytes_up: u64,
    pub bytes_down: u64,
}

impl Tally {
    #[must_use]
    pub fn new() -> Self {
        Self {
            up_us: latency(),
            down_us: latency(),
            late_us: latency(),
            handshake_us: latency(),
            handshakes_failed: 0,
            messages_planned: 0,
            messages_up: 0,
            messages_down: 0,
            bytes_up: 0,
            bytes_down: 0,
        }
    }

    pub fn restart(&mut self) {
        *self = Self::new();
    }

    /// A whole message arrived, this old.
    pub fn message(&mut self, sender: Role, age_ns: u64) {
        let age_us = age_ns / 1_000;
        match sender {
            Role::Client => {
                self.messages_up += 1;
                self.up_us.saturating_record(age_us);
            }
            Role::Host => {
                self.messages_down += 1;
                self.down_us.saturating_record(age_us);
            }
        }
    }

    pub const fn bytes(&mut self, sender: Role, bytes: u64) {
        match sender {
            Role::Client => self.bytes_up += bytes,
            Role::Host => self.bytes_down += bytes,
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

/// What went wrong, for the whole run.
#[derive(Debug, Default)]
pub struct Faults {
    kept: Vec<String>,
    count: u64,
}

impl Faults {
    pub fn add(&mut self, fault: String) {
        self.count += 1;
        if self.kept.len() < FAULTS_KEPT {
            self.kept.push(fault);
        }
    }

    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The first of them, and how many more there were.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        let mut list = self.kept.clone();
        let more = self.count - list.len() as u64;
        if more > 0 {
            list.push(format!("and {more} more"));
        }
        list
    }
}
