//! What a selection looks at of each gateway. It looks at ten thousand for one
//! session, so this is made when something changes, and kept in columns: they
//! stay in the cache, and the compiler does several gateways in one step.

use crate::core::selection::{GROUP_WIDTH_US, Rank};

#[expect(clippy::cast_possible_truncation, reason = "it is 10,000")]
const WIDTH_US: u16 = GROUP_WIDTH_US as u16;
/// So many are seen at once to have nothing stale among them.
const BLOCK: usize = 64;
/// In the column of what goes into a group: the client's way changes nothing.
const STAYS: u16 = u16::MAX;

/// One gateway.
#[derive(Clone, Copy, Debug)]
pub(super) enum Digest {
    Measured {
        /// Its rank if there were no way to it.
        without_way: Rank,
        /// From here.
        rtt_us: u64,
        /// From then on the round trip does not count,
        stale_from_ms: u64,
        /// and this is its rank.
        stale: Rank,
    },
    /// In no group, whoever asks.
    Unmeasured(Rank),
}

/// All gateways, in the order of the table.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// Ranks for a client that is here.
    fresh: Vec<Rank>,
    /// How far the round trip goes into its group, or [`STAYS`].
    into_group_us: Vec<u16>,
    stale_from_ms: Vec<u64>,
    stale: Vec<Rank>,
    /// Of each block, when the first of it is stale.
    first_stale_ms: Vec<u64>,
}

impl FromIterator<Digest> for Digests {
    fn from_iter<T: IntoIterator<Item = Digest>>(digests: T) -> Self {
        let mut all = Self::default();
        for (fresh, into_group_us, stale_from_ms, stale) in digests.into_iter().map(Digest::columns)
        {
            all.fresh.push(fresh);
            all.into_group_us.push(into_group_us);
            all.stale_from_ms.push(stale_from_ms);
            all.stale.push(stale);
        }
        all.first_stale_ms = all.stale_from_ms.chunks(BLOCK).map(first).collect();
        all
    }
}

impl Digests {
    /// Replaces one; nothing if there is no such index.
    pub(super) fn set(&mut self, index: usize, digest: Digest) {
        let (fresh, into_group_us, stale_from_ms, stale) = digest.columns();
        put(&mut self.fresh, index, fresh);
        put(&mut self.into_group_us, index, into_group_us);
        put(&mut self.stale_from_ms, index, stale_from_ms);
        put(&mut self.stale, index, stale);
        let block = self.stale_from_ms.chunks(BLOCK).nth(index / BLOCK).unwrap_or_default();
        put(&mut self.first_stale_ms, index / BLOCK, first(block));
    }

    /// All ranks, for a client that is so far from here.
    pub(super) fn ranks(&self, client_rtt_us: u64, now_ms: u64) -> Vec<Rank> {
        let (groups, rest_us) = split(client_rtt_us);
        let next_group_from_us = WIDTH_US - rest_us;
        let rank = |(fresh, into_group_us): (&Rank, &u16)| {
            let farther = groups + u32::from(*into_group_us >= next_group_from_us);
            fresh.farther(if *into_group_us == STAYS { 0 } else { farther })
        };
        let mut ranks: Vec<Rank> = self.fresh.iter().zip(&self.into_group_us).map(rank).collect();
        let blocks = ranks.chunks_mut(BLOCK).zip(self.stale_from_ms.chunks(BLOCK));
        let blocks = blocks.zip(self.stale.chunks(BLOCK)).zip(&self.first_stale_ms);
        for ((block, stale), _) in blocks.filter(|(_, first)| now_ms >= **first) {
            let (ranks, stale_from_ms) = block;
            for ((rank, stale_from_ms), stale) in ranks.iter_mut().zip(stale_from_ms).zip(stale) {
                if now_ms >= *stale_from_ms {
                    *rank = *stale;
                }
            }
        }
        ranks
    }
}

impl Digest {
    /// One cell for each column.
    fn columns(self) -> (Rank, u16, u64, Rank) {
        match self {
            Self::Measured { without_way, rtt_us, stale_from_ms, stale } => {
                let (groups, into_group_us) = split(rtt_us);
                (without_way.farther(groups), into_group_us, stale_from_ms, stale)
            }
            Self::Unmeasured(rank) => (rank, STAYS, u64::MAX, rank),
        }
    }
}

/// Whole groups, and how far it goes into the next one.
fn split(us: u64) -> (u32, u16) {
    // Nobody's way is longer than this can say, and a rank holds more.
    let us = us.min(u32::MAX.into());
    let groups = u32::try_from(us / GROUP_WIDTH_US).unwrap_or(u32::MAX);
    (groups, u16::try_from(us % GROUP_WIDTH_US).unwrap_or(0))
}

fn first(stale_from_ms: &[u64]) -> u64 {
    stale_from_ms.iter().copied().min().unwrap_or(u64::MAX)
}

fn put<T>(column: &mut [T], index: usize, value: T) {
    if let Some(cell) = column.get_mut(index) {
        *cell = value;
    }
}
