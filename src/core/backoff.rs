//! How long to wait before dialling again: full jitter, doubling, capped, and
//! never earlier than the other side asked for.

/// Reconnect delays. Full jitter (a uniform draw from zero to the current
/// bound) spreads a crowd that lost its broker at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    base_ms: u64,
    cap_ms: u64,
    failures: u32,
}

impl Backoff {
    #[must_use]
    pub const fn new(base_ms: u64, cap_ms: u64) -> Self {
        Self { base_ms, cap_ms, failures: 0 }
    }

    /// A connection worked: the next failure starts from the base again.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The delay after one more failure. `draw` is uniform over all of `u64`;
    /// `retry_after_ms` is the other side's wish, added below the jitter so
    /// that a crowd told the same number still spreads.
    pub fn next_delay_ms(&mut self, draw: u64, retry_after_ms: Option<u64>) -> u64 {
        let bound = self
            .base_ms
            .saturating_mul(1_u64.checked_shl(self.failures).unwrap_or(u64::MAX))
            .clamp(1, self.cap_ms.max(1));
        self.failures = self.failures.saturating_add(1);
        let jitter = draw % (bound + 1);
        retry_after_ms.unwrap_or(0).min(self.cap_ms.saturating_mul(10)).saturating_add(jitter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stays_between_the_wish_and_the_cap(draws in prop::collection::vec(any::<u64>(), 1..80), wish in 0_u64..5_000) {
            let mut backoff = Backoff::new(200, 30_000);
            for draw in draws {
                let delay = backoff.next_delay_ms(draw, Some(wish));
                prop_assert!(delay >= wish && delay <= wish + 30_000);
            }
        }
    }

    #[test]
    fn doubles_until_the_cap_and_starts_over_after_success() {
        let mut backoff = Backoff::new(200, 1_000);
        let bounds: Vec<_> = (0..5)
            .map(|_| {
                let bound = backoff.clone();
                let full = (0..4_000).map(|d| bound.clone().next_delay_ms(d, None)).max().unwrap();
                backoff.next_delay_ms(0, None);
                full
            })
            .collect();
        assert_eq!(bounds, [200, 400, 800, 1_000, 1_000]);
        backoff.reset();
        assert!(backoff.next_delay_ms(u64::MAX, None) <= 200);
    }
}
