//! The best few of many. Most of ten thousand are dismissed a block at a time.

use super::{RANKED_MAX, Rank};

/// So many are dismissed at once.
const BLOCK: usize = 16;

/// Where a candidate stands among all. The lowest is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) rank: Rank,
    pub(super) tie: u64,
    pub(super) index: usize,
}

/// The best [`RANKED_MAX`] of `ranks`, best first. `tie` is asked with indices,
/// only of those that may be among them.
pub(super) fn of(ranks: &[Rank], tie: impl Fn(usize) -> u64) -> Vec<Place> {
    let (blocks, rest) = ranks.as_chunks::<BLOCK>();
    let mut lowest: Vec<Rank> = blocks.iter().map(lowest_of).collect();
    lowest.extend(rest.iter().min());
    // Rank and tie: first of the blocks, later of what has been found.
    let mut limit = (limit_of(&lowest), u64::MAX);
    let mut best: Vec<Place> = Vec::with_capacity(2 * RANKED_MAX);
    let blocks = ranks.chunks(BLOCK).zip(lowest).zip((0..).step_by(BLOCK));
    for ((block, lowest), first) in blocks {
        if lowest > limit.0 {
            continue;
        }
        for (rank, index) in block.iter().copied().zip(first..) {
            if rank > limit.0 {
                continue;
            }
            let tie = tie(index);
            if rank == limit.0 && tie > limit.1 {
                continue;
            }
            if best.len() >= 2 * RANKED_MAX {
                let (_, last, _) = best.select_nth_unstable(RANKED_MAX - 1);
                limit = (last.rank, last.tie);
                best.truncate(RANKED_MAX);
            }
            best.push(Place { rank, tie, index });
        }
    }
    best.sort_unstable();
    best.truncate(RANKED_MAX);
    best
}

fn lowest_of([first, others @ ..]: &[Rank; BLOCK]) -> Rank {
    others.iter().fold(*first, |lowest, rank| lowest.min(*rank))
}

/// What is above it is not among the best: there are as many blocks as places,
/// each with something that is not above it.
fn limit_of(lowest: &[Rank]) -> Rank {
    if lowest.len() < RANKED_MAX {
        return Rank::WORST;
    }
    *lowest.to_vec().select_nth_unstable(RANKED_MAX - 1).1
}

#[cfg(test)]
mod tests {
    use super::super::mix;
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_best_are_the_first_of_all_put_in_order(
            seed in proptest::num::u64::ANY,
            count in 0_usize..3_000,
            different_ranks in 1_u64..3_000,
            different_ties in 1_u64..3_000,
            worst_first in proptest::bool::ANY,
        ) {
            let rank = |nth: usize| Rank(mix(seed ^ nth as u64) % different_ranks);
            let mut ranks: Vec<Rank> = (0..count).map(rank).collect();
            if worst_first {
                ranks.sort_unstable_by(|a, b| b.cmp(a));
            }
            let tie = |index: usize| mix(index as u64) % different_ties;
            let place = |(index, rank): (usize, &Rank)| Place { rank: *rank, tie: tie(index), index };
            let mut all: Vec<Place> = ranks.iter().enumerate().map(place).collect();
            all.sort_unstable();
            all.truncate(RANKED_MAX);
            proptest::prop_assert_eq!(of(&ranks, tie), all);
        }
    }
}
