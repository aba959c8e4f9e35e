//! A seeded generator: the same seed is the same run. For simulations and load,
//! never for secrets.

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to choose with.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `bound` - 1.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    /// `low` to `high`, both included, all equally likely.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high.saturating_sub(low) + 1).max(1)
    }

    /// `low` to `high`, both included; small numbers come as often as large
    /// ones: first a magnitude is drawn, then a number below it.
    pub fn spread(&mut self, low: usize, high: usize) -> usize {
        let span = high - low + 1;
        let magnitudes = usize::BITS - span.leading_zeros();
        let magnitude = self.below(magnitudes as usize + 1);
        let bound = 1_usize.checked_shl(u32::try_from(magnitude).unwrap_or(0)).unwrap_or(span);
        low + self.below(bound.min(span))
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Above 0, at most 1.
    pub fn fraction(&mut self) -> f64 {
        // 32 bits convert without loss.
        let bits = u32::try_from(self.next() >> 32).unwrap_or(u32::MAX);
        (f64::from(bits) + 1.0) / 4_294_967_296.0
    }

    /// An exponentially distributed time of this mean: the pauses between
    /// events that know nothing of each other. At most ten times the mean.
    pub fn pause(&mut self, mean: u64) -> u64 {
        let mean = f64::from(u32::try_from(mean).unwrap_or(u32::MAX));
        let pause = (-self.fraction().ln()).min(10.0) * mean;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 10 * 2^32, not negative"
        )]
        {
            pause as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_run() {
        let run = |seed| {
            let mut random = Random::new(seed);
            (random.next(), random.below(10), random.between(5, 9), random.spread(1, 1_000))
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn pauses_have_the_mean_that_was_asked_for() {
        let mut random = Random::new(1);
        let total: u64 = (0..100_000).map(|_| random.pause(1_000)).sum();
        assert!((total / 100_000).abs_diff(1_000) < 20, "{total}");
        let drawn: Vec<u64> = (0..1_000).map(|_| random.between(3, 5)).collect();
        assert!(
            [3, 4, 5].iter().all(|n| drawn.contains(n))
                && drawn.iter().all(|n| (3..=5).contains(n))
        );
    }
}
