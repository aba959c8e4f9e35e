//! A seeded simulation of the owner task: the real one, in a world of session
//! hosts, gateways and clients where messages come late, twice or never, and
//! hosts, gateways and the broker itself break down in between. No host is ever
//! given more than its places, and when everybody is well again every place is
//! free and can be taken.
//!
//! `RINGWAY_SIM_SEED=n` runs one seed, `RINGWAY_SIM_SEEDS=n` that many.

mod behaviour;
mod faults;
mod parties;
mod world;

use self::parties::Outcome;
use self::world::{Settings, World};
use crate::core::codes::Code;
use crate::core::placement::{AssignmentRule, FillOrder, PoolKind};
use crate::core::random::Random;

/// Seeds of a normal run.
const SEEDS: u64 = 2_000;
/// A world of a thousand clients takes as long as so many small ones.
const LARGE: u64 = 400;

/// A small world, so that a run is short and every place is fought for.
fn small(random: &mut Random) -> Settings {
    let fill_order =
        if random.chance(50) { FillOrder::BreadthFirst } else { FillOrder::DepthFirst };
    let kind = match random.below(4) {
        0 => PoolKind::Personal(AssignmentRule::Automatic),
        _ => PoolKind::Pooled(fill_order),
    };
    let places = random.between(1, 4);
    Settings {
        kind,
        hosts: 1 + random.below(4),
        gateways: 1 + random.below(3),
        places: u32::try_from(places).unwrap(),
        // An agent's own limit may be missing.
        capacity: if random.chance(50) { usize::try_from(places).unwrap() } else { 1_000 },
        clients: 1 + random.below(40),
        users: 1 + random.below(20),
        late_percent: random.below(20),
        lost_percent: random.below(8),
        repeated_percent: random.below(8),
        breakdowns: random.below(8),
    }
}

/// Nothing is lost and nothing breaks down.
fn sound(hosts: usize, places: u32, clients: usize) -> Settings {
    Settings {
        kind: PoolKind::Pooled(FillOrder::BreadthFirst),
        hosts,
        gateways: 3,
        places,
        capacity: 1_000,
        clients,
        users: clients,
        late_percent: 0,
        lost_percent: 0,
        repeated_percent: 0,
        breakdowns: 0,
    }
}

/// Everything goes wrong; then everybody is well again.
fn run(settings: Settings, seed: u64) {
    let (pooled, all) =
        (matches!(settings.kind, PoolKind::Pooled(_)), settings.hosts * settings.places as usize);
    let mut world = World::new(settings, seed);
    world.run();
    world.heal();
    world.assert_nobody_is_counted();
    if pooled {
        let again = world.fresh_clients(2 * all + 5);
        world.run();
        let outcomes: Vec<_> = again.map(|n| world.outcome(n)).collect();
        let live = outcomes.iter().filter(|outcome| **outcome == Some(Outcome::Live)).count();
        assert_eq!(live, all, "not all places can be taken: {outcomes:?}");
        world.assert_hosts_have(all);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs one seed, or as many as there are: of `every` so many, one.
fn for_seeds(every: u64, run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    if let Some(seed) = number("RINGWAY_SIM_SEED") {
        return run(seed);
    }
    let seeds = number("RINGWAY_SIM_SEEDS").unwrap_or(SEEDS) / every;
    for seed in 0..seeds.max(1) {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "seed {seed} failed; replay it with RINGWAY_SIM_SEED={seed}");
    }
}

#[test]
fn step09_a_thousand_connects_at_ten_hosts_of_ten_places_place_exactly_a_hundred() {
    for_seeds(LARGE, |seed| {
        let mut world = World::new(sound(10, 10, 1_000), seed);
        world.run();
        let (mut live, mut full) = (0, 0);
        for n in 0..1_000 {
            match world.outcome(n) {
                Some(Outcome::Live) => live += 1,
                Some(Outcome::Refused(Code::PoolFull)) => full += 1,
                other => panic!("client {n}: {other:?}"),
            }
        }
        assert_eq!((live, full), (100, 900));
        world.assert_hosts_have(100);
        world.heal();
        world.assert_nobody_is_counted();
    });
}

#[test]
fn step09_of_a_thousand_connects_never_more_than_ten_sit_on_a_host_whatever_fails() {
    for_seeds(LARGE, |seed| {
        let broken = Settings {
            capacity: 10,
            late_percent: 10,
            lost_percent: 3,
            repeated_percent: 5,
            breakdowns: 12,
            ..sound(10, 10, 1_000)
        };
        run(broken, seed);
    });
}

#[test]
fn step09_no_host_is_over_its_limit_and_no_place_is_lost_whatever_fails() {
    for_seeds(1, |seed| run(small(&mut Random::new(seed)), seed));
}
