//! HDR histograms of a gateway, one set per worker: written by one thread
//! without a lock, exchanged for an empty set when somebody wants to read.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest time told apart, microseconds: one minute.
const LONGEST_US: u64 = 60_000_000;

/// What one relay worker measures.
#[derive(Clone, Debug)]
pub struct RelayHistograms {
    /// Added latency client to host, microseconds: from the completion of the
    /// receive to the completion of the send of the same bytes.
    pub up_us: Histogram<u64>,
    /// The same, host to client.
    pub down_us: Histogram<u64>,
}

impl RelayHistograms {
    #[must_use]
    pub fn new() -> Self {
        Self { up_us: latency(), down_us: latency() }
    }

    /// Adds another worker's values.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds: adding cannot fail.
        let _ = self.up_us.add(&other.up_us);
        let _ = self.down_us.add(&other.down_us);
    }

    pub fn clear(&mut self) {
        self.up_us.clear();
        self.down_us.clear();
    }
}

impl Default for RelayHistograms {
    fn default() -> Self {
        Self::new()
    }
}

/// An empty latency histogram: 1 µs to a minute, three significant digits.
#[must_use]
#[expect(clippy::expect_used, reason = "the bounds are constants and valid")]
pub fn latency() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds")
}

/// Percentiles as they are printed and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Percentiles {
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_merge() {
        let mut all = RelayHistograms::new();
        let mut one = RelayHistograms::new();
        for us in 1..=100 {
            one.up_us.saturating_record(us);
        }
        all.merge(&one);
        all.merge(&one);
        let percentiles = Percentiles::of(&all.up_us);
        assert_eq!((percentiles.count, percentiles.p50, percentiles.max), (200, 50, 100));
        assert_eq!(Percentiles::of(&all.down_us).count, 0);
    }
}
