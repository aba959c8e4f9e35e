//! A seeded generator: the same seed is the same run.

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to choose with.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `bound` - 1.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    /// `low` to `high`, both included; small numbers come as often as large
    /// ones: first a magnitude is drawn, then a number below it.
    pub fn spread(&mut self, low: usize, high: usize) -> usize {
        let span = high - low + 1;
        let magnitudes = usize::BITS - span.leading_zeros();
        let magnitude = self.below(magnitudes as usize + 1);
        let bound = 1_usize.checked_shl(u32::try_from(magnitude).unwrap()).unwrap_or(span);
        low + self.below(bound.min(span))
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}
