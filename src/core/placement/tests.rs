//! The table under ordinary use, and under every order of messages.

use proptest::prelude::*;

use super::*;

pub(super) const RULES: HoldRules = HoldRules {
    reservation_ms: 30_000,
    order_answer_ms: 1_000,
    start_ms: 20_000,
    orphan_ms: 300_000,
    failure_pause_ms: 10_000,
    reservations_per_user_max: 3,
};

pub(super) fn pool() -> PoolId {
    "pool".parse().unwrap()
}

pub(super) fn host(n: u8) -> HostId {
    format!("host-{n}").parse().unwrap()
}

pub(super) fn gateway(n: u8) -> GatewayId {
    format!("gw-{n}").parse().unwrap()
}

pub(super) fn session(n: u16) -> SessionId {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&n.to_le_bytes());
    SessionId(id)
}

pub(super) fn wish(n: u16, user: &str) -> Wish {
    Wish { session: session(n), user: user.into(), pool: pool(), gateway: gateway(0), former: None }
}

pub(super) fn table(fill_order: FillOrder, limit: u32, hosts: u8) -> HostTable {
    table_of(PoolKind::Pooled(fill_order), limit, hosts)
}

pub(super) fn table_of(kind: PoolKind, limit: u32, hosts: u8) -> HostTable {
    let rules = PoolRules { kind, sessions_per_host_max: limit, start_patience_ms: Some(60_000) };
    let mut table = HostTable::new(RULES, [(pool(), rules)].into());
    for n in 0..hosts {
        assert!(table.host_connected(&host(n), &pool(), 0, &[], 0).is_empty());
    }
    table.gateway_connected(&gateway(0), &[], 0);
    table
}

pub(super) fn live(table: &mut HostTable, n: u16, user: &str) -> HostId {
    let host = table.reserve(&wish(n, user), 0).unwrap();
    assert_eq!(table.begin_order(session(n), &gateway(0), 0), Ok(host.clone()));
    assert!(table.order_accepted(session(n), &host, 0));
    assert!(table.started(session(n), &gateway(0)));
    host
}

#[test]
fn breadth_first_spreads_and_depth_first_fills() {
    let mut wide = table(FillOrder::BreadthFirst, 2, 3);
    let spread: Vec<_> = (0..6).map(|n| wide.reserve(&wish(n, &format!("u{n}")), 0)).collect();
    let names = [0, 1, 2, 0, 1, 2].map(|n| Ok(host(n)));
    assert_eq!(spread, names);

    let mut deep = table(FillOrder::DepthFirst, 2, 3);
    let filled: Vec<_> = (0..6).map(|n| deep.reserve(&wish(n, &format!("u{n}")), 0)).collect();
    assert_eq!(filled, [0, 0, 1, 1, 2, 2].map(|n| Ok(host(n))));
    assert_eq!(deep.reserve(&wish(6, "u6"), 0), Err(Code::PoolFull));
}

#[test]
fn each_refusal_says_what_is_missing() {
    let mut table = table(FillOrder::BreadthFirst, 1, 2);
    assert!(table.set_draining(&host(0), true));
    assert_eq!(table.reserve(&wish(0, "a"), 0), Ok(host(1)));
    assert_eq!(table.reserve(&wish(1, "b"), 0), Err(Code::PoolFull));
    assert!(table.set_draining(&host(1), true));
    assert_eq!(table.reserve(&wish(1, "b"), 0), Err(Code::HostDraining));
    table.host_disconnected(&host(0), 0);
    table.host_disconnected(&host(1), 0);
    assert_eq!(table.reserve(&wish(1, "b"), 0), Err(Code::NoHostAvailable));
    let elsewhere = Wish { pool: "other".parse().unwrap(), ..wish(1, "b") };
    assert_eq!(table.reserve(&elsewhere, 0), Err(Code::ResourceUnknown));
    assert!(!table.set_draining(&host(9), true));
}

#[test]
fn the_hosts_own_limit_counts_too() {
    let mut table = table(FillOrder::BreadthFirst, 10, 0);
    table.host_connected(&host(0), &pool(), 1, &[], 0);
    assert!(table.reserve(&wish(0, "a"), 0).is_ok());
    assert_eq!(table.reserve(&wish(1, "b"), 0), Err(Code::PoolFull));
}

#[test]
fn a_user_returns_to_their_desktop_even_while_it_drains() {
    let mut table = table(FillOrder::BreadthFirst, 4, 3);
    live(&mut table, 0, "other");
    let home = live(&mut table, 1, "ann");
    assert_eq!(home, host(1));
    table.set_draining(&home, true);
    assert_eq!(table.reserve(&wish(2, "ann"), 0), Ok(home));
    assert_eq!(table.reserve(&wish(3, "bob"), 0), Ok(host(2)));
}

#[test]
fn a_host_that_fails_is_passed_over_for_a_while() {
    let mut table = table(FillOrder::BreadthFirst, 4, 2);
    live(&mut table, 0, "a");
    live(&mut table, 1, "b");
    live(&mut table, 2, "c");
    // The second host has the fewest sessions and would be chosen every time.
    assert_eq!(table.reserve(&wish(3, "d"), 0), Ok(host(1)));
    table.release(session(3)).unwrap();
    table.host_failed(&host(1), 0);
    assert_eq!(table.reserve(&wish(3, "d"), 9_999), Ok(host(0)));
    assert_eq!(table.reserve(&wish(4, "b"), 9_999), Ok(host(1)), "where their desktop lives");
    assert_eq!(table.reserve(&wish(5, "e"), 9_999), Ok(host(0)));
    // No other has room: better this one than nobody.
    assert_eq!(table.reserve(&wish(6, "f"), 9_999), Ok(host(1)));
    assert_eq!(table.reserve(&wish(7, "g"), 10_000), Ok(host(1)));
    table.check_invariants().unwrap();
}

#[test]
fn of_hosts_that_all_failed_the_first_to_be_ready_is_tried_and_a_start_clears_it() {
    let mut table = table(FillOrder::DepthFirst, 4, 3);
    for (n, at) in [(0, 30), (1, 10), (2, 20)] {
        table.host_failed(&host(n), at);
    }
    assert_eq!(table.reserve(&wish(0, "a"), 50), Ok(host(1)));
    assert_eq!(table.reserve(&wish(1, "a"), 50), Ok(host(1)));
    // A place that is not live does not bind its user to a host that fails.
    table.host_failed(&host(1), 60);
    assert_eq!(table.reserve(&wish(2, "a"), 70), Ok(host(2)));
    table.begin_order(session(0), &gateway(0), 70).unwrap();
    assert!(table.started(session(0), &gateway(0)));
    assert_eq!(table.reserve(&wish(3, "b"), 70), Ok(host(1)), "it works");
}

#[test]
fn a_host_that_does_not_answer_has_failed() {
    let mut table = table(FillOrder::BreadthFirst, 4, 2);
    assert_eq!(table.reserve(&wish(0, "a"), 0), Ok(host(0)));
    table.begin_order(session(0), &gateway(0), 0).unwrap();
    assert_eq!(table.expire(1_000).len(), 1);
    assert_eq!(table.reserve(&wish(1, "a"), 1_000), Ok(host(1)));
    assert_eq!(table.reserve(&wish(2, "b"), 1_000), Ok(host(1)));
}

#[test]
fn a_host_that_stops_gets_nobody_until_its_next_hello() {
    let mut table = table(FillOrder::BreadthFirst, 4, 1);
    live(&mut table, 0, "a");
    table.reserve(&wish(1, "b"), 0).unwrap();
    table.host_stopping(&host(0));
    assert_eq!(table.reserve(&wish(2, "a"), 0), Err(Code::HostDraining));
    assert_eq!(table.begin_order(session(1), &gateway(0), 0), Err(Code::HostDraining));
    assert!(table.slot(session(1)).is_none());
    table.host_connected(&host(0), &pool(), 0, &[session(0)], 0);
    assert_eq!(table.reserve(&wish(2, "a"), 0), Ok(host(0)));
}

#[test]
fn a_host_that_is_unfit_gets_nobody_new_and_an_impaired_one_goes_last() {
    let mut table = table(FillOrder::BreadthFirst, 4, 3);
    live(&mut table, 0, "ann");
    table.set_fitness(&host(0), Fitness::Unfit);
    table.set_fitness(&host(1), Fitness::Impaired);
    assert_eq!(table.reserve(&wish(1, "bob"), 0), Ok(host(2)));
    assert_eq!(table.reserve(&wish(2, "ann"), 0), Ok(host(0)), "her desktop lives there");
    for n in 3..6 {
        assert_eq!(table.reserve(&wish(n, &format!("u{n}")), 0), Ok(host(2)));
    }
    assert_eq!(table.reserve(&wish(6, "u6"), 0), Ok(host(1)), "rather than nobody");
    table.set_fitness(&host(1), Fitness::Unfit);
    assert_eq!(table.reserve(&wish(7, "u7"), 0), Err(Code::PoolFull), "the healthy one is full");
    table.set_draining(&host(2), true);
    assert_eq!(table.reserve(&wish(7, "u7"), 0), Err(Code::HostUnhealthy));
    // A new hello says anew how it is.
    table.host_connected(&host(1), &pool(), 0, &[], 0);
    assert_eq!(table.reserve(&wish(7, "u7"), 0), Ok(host(1)));
}

#[test]
fn a_mere_place_does_not_bind_its_user_to_an_unfit_host() {
    let mut table = table(FillOrder::DepthFirst, 4, 2);
    assert_eq!(table.reserve(&wish(0, "ann"), 0), Ok(host(0)));
    table.set_fitness(&host(0), Fitness::Unfit);
    assert_eq!(table.reserve(&wish(1, "ann"), 0), Ok(host(1)));
}

#[test]
fn a_user_cannot_take_every_place() {
    let mut table = table(FillOrder::BreadthFirst, 9, 1);
    live(&mut table, 0, "a");
    for n in 1..=3 {
        assert_eq!(table.make_way("a"), Ok(None));
        table.reserve(&wish(n, "a"), u64::from(n)).unwrap();
    }
    assert_eq!(table.make_way("b"), Ok(None));
    // The first is on its way; the second is the oldest that nobody came for.
    table.begin_order(session(1), &gateway(0), 4).unwrap();
    let replaced = table.make_way("a").unwrap().unwrap();
    assert_eq!((replaced.session, replaced.code), (session(2), Code::ReservationExpired));
    table.reserve(&wish(4, "a"), 5).unwrap();
    table.begin_order(session(3), &gateway(0), 5).unwrap();
    table.begin_order(session(4), &gateway(0), 5).unwrap();
    assert_eq!(table.make_way("a"), Err(Code::TooManyPlaces));
    assert!(table.started(session(4), &gateway(0)));
    assert_eq!(table.make_way("a"), Ok(None));
}

#[test]
fn only_the_gateway_of_the_reservation_may_order_and_only_in_time() {
    let mut table = table(FillOrder::BreadthFirst, 1, 1);
    table.reserve(&wish(0, "a"), 0).unwrap();
    assert_eq!(table.begin_order(session(0), &gateway(1), 1), Err(Code::ReservationExpired));
    assert_eq!(table.begin_order(session(0), &gateway(0), 30_000), Err(Code::ReservationExpired));
    assert_eq!(table.begin_order(session(0), &gateway(0), 29_999), Ok(host(0)));
    let again = table.begin_order(session(0), &gateway(0), 29_999);
    assert_eq!(again, Err(Code::ReservationExpired), "one order for one reservation");
}

#[test]
fn every_wait_ends() {
    let mut table = table(FillOrder::BreadthFirst, 3, 1);
    for n in 0..3 {
        table.reserve(&wish(n, &format!("u{n}")), 0).unwrap();
    }
    table.begin_order(session(1), &gateway(0), 0).unwrap();
    table.begin_order(session(2), &gateway(0), 0).unwrap();
    assert!(table.order_accepted(session(2), &host(0), 0));
    let mut expired = Vec::new();
    while let Some(deadline) = table.next_deadline() {
        assert!(table.expire(deadline - 1).is_empty());
        expired.extend(table.expire(deadline).into_iter().map(|f| (f.session, f.code)));
        table.check_invariants().unwrap();
    }
    assert_eq!(
        expired,
        [
            (session(1), Code::HostNoAnswer),
            (session(2), Code::HostDidNotArrive),
            (session(0), Code::ReservationExpired)
        ]
    );
    assert!(!table.order_accepted(session(1), &host(0), 1_001), "the late answer is void");
    assert!(!table.started(session(2), &gateway(0)), "the late start is void");
}

#[test]
fn the_start_may_overtake_the_answer() {
    let mut table = table(FillOrder::BreadthFirst, 1, 1);
    table.reserve(&wish(0, "a"), 0).unwrap();
    assert!(!table.started(session(0), &gateway(0)), "nothing was ordered yet");
    table.begin_order(session(0), &gateway(0), 0).unwrap();
    assert!(table.started(session(0), &gateway(0)));
    assert!(table.order_accepted(session(0), &host(0), 5));
    assert_eq!(table.slot(session(0)).unwrap().phase, Phase::Live);
    assert_eq!(table.next_deadline(), None);
}

#[test]
fn a_lost_host_gives_back_what_has_not_started_and_keeps_what_lives() {
    let mut table = table(FillOrder::BreadthFirst, 3, 1);
    live(&mut table, 0, "a");
    table.reserve(&wish(1, "b"), 0).unwrap();
    table.begin_order(session(1), &gateway(0), 0).unwrap();
    table.reserve(&wish(2, "c"), 0).unwrap();
    let freed = table.host_disconnected(&host(0), 10);
    assert_eq!(freed.len(), 1);
    assert_eq!((freed[0].session, freed[0].code), (session(1), Code::HostGone));
    assert_eq!(table.begin_order(session(2), &gateway(0), 11), Err(Code::HostGone));
    assert_eq!(table.hosts().next().unwrap().1.sessions, 1);
    // It comes back without the session: that ended meanwhile.
    let freed = table.host_connected(&host(0), &pool(), 0, &[], 20);
    assert_eq!(freed.len(), 1);
    assert_eq!(table.hosts().next().unwrap().1.sessions, 0);
}

#[test]
fn hellos_rebuild_the_table_after_a_restart() {
    let mut table = table(FillOrder::BreadthFirst, 2, 0);
    table.gateway_connected(&gateway(0), &[session(0), session(1)], 0);
    assert_eq!(table.slots().count(), 2);
    assert!(table.host_connected(&host(0), &pool(), 0, &[session(0), session(1)], 0).is_empty());
    assert_eq!(table.reserve(&wish(2, "c"), 0), Err(Code::PoolFull));
    assert!(table.release(session(0)).is_some());
    assert!(table.release(session(0)).is_none());
    assert_eq!(table.reserve(&wish(2, "c"), 0), Ok(host(0)));
    table.check_invariants().unwrap();
}

#[test]
fn a_session_that_nobody_vouches_for_is_given_up_after_the_grace() {
    let mut table = table(FillOrder::BreadthFirst, 1, 1);
    live(&mut table, 0, "a");
    table.gateway_disconnected(&gateway(0), 0);
    assert_eq!(table.next_deadline(), None, "its host still vouches");
    table.host_disconnected(&host(0), 100);
    table.gateway_connected(&gateway(1), &[], 200);
    assert_eq!(table.next_deadline(), Some(300_100), "another gateway changes nothing");
    table.gateway_connected(&gateway(0), &[session(0)], 300);
    assert_eq!(table.next_deadline(), None);
    table.gateway_disconnected(&gateway(0), 400);
    assert_eq!(table.expire(300_400).len(), 1);
    assert_eq!(table.slots().count(), 0);
}

/// Everything that can reach the table, in any order.
#[derive(Clone, Debug)]
enum Event {
    Reserve { session: u16, user: u8, gateway: u8, former: Option<(u16, u8)> },
    BeginOrder { session: u16, gateway: u8 },
    Accepted { session: u16, host: u8 },
    Started { session: u16, gateway: u8 },
    Released { session: u16 },
    HostHello { host: u8, capacity: u32, live: Vec<u16> },
    HostLost { host: u8 },
    GatewayHello { gateway: u8, live: Vec<u16> },
    GatewayLost { gateway: u8 },
    Drain { host: u8, draining: bool },
    HostFailed { host: u8 },
    HostStopping { host: u8 },
    Fitness { host: u8, fitness: Fitness },
    Wait { ms: u64 },
}

fn any_event() -> impl Strategy<Value = Event> {
    let sessions = 0_u16..24;
    let live = || prop::collection::vec(0_u16..24, 0..4);
    prop_oneof![
        4 => (sessions.clone(), 0_u8..6, 0_u8..2, prop::option::of((0_u16..24, 0_u8..3)))
            .prop_map(|(session, user, gateway, former)| Event::Reserve { session, user, gateway, former }),
        4 => (sessions.clone(), 0_u8..2).prop_map(|(session, gateway)| Event::BeginOrder { session, gateway }),
        3 => (sessions.clone(), 0_u8..3).prop_map(|(session, host)| Event::Accepted { session, host }),
        3 => (sessions.clone(), 0_u8..2).prop_map(|(session, gateway)| Event::Started { session, gateway }),
        2 => sessions.prop_map(|session| Event::Released { session }),
        2 => (0_u8..3, 0_u32..4, live()).prop_map(|(host, capacity, live)| Event::HostHello { host, capacity, live }),
        1 => (0_u8..3).prop_map(|host| Event::HostLost { host }),
        1 => (0_u8..2, live()).prop_map(|(gateway, live)| Event::GatewayHello { gateway, live }),
        1 => (0_u8..2).prop_map(|gateway| Event::GatewayLost { gateway }),
        1 => (0_u8..3, any::<bool>()).prop_map(|(host, draining)| Event::Drain { host, draining }),
        1 => (0_u8..3).prop_map(|host| Event::HostFailed { host }),
        1 => (0_u8..3).prop_map(|host| Event::HostStopping { host }),
        1 => (0_u8..3, any_fitness()).prop_map(|(host, fitness)| Event::Fitness { host, fitness }),
        2 => (0_u64..40_000).prop_map(|ms| Event::Wait { ms }),
    ]
}

fn any_fitness() -> impl Strategy<Value = Fitness> {
    prop::sample::select(vec![Fitness::Good, Fitness::Impaired, Fitness::Unfit])
}

fn apply(table: &mut HostTable, event: Event, now: &mut u64) {
    let sessions = |live: Vec<u16>| live.into_iter().map(session).collect::<Vec<_>>();
    match event {
        Event::Reserve { session: n, user, gateway: g, former } => {
            let former = former.map(|(n, h)| Former { session: session(n), host: host(h) });
            let user = format!("user-{user}");
            let wish = Wish { gateway: gateway(g), former, ..wish(n, &user) };
            if let Some(freed) = table.take_over(&wish, *now) {
                assert_eq!(freed.slot.user, Some(user));
                table.check_invariants().unwrap();
            }
            if table.make_way(&wish.user).is_err() {
                return;
            }
            if let Ok(chosen) = table.reserve(&wish, *now) {
                let (_, host) = table.hosts().find(|(name, _)| **name == chosen).unwrap();
                assert!(host.connected && !host.stopping);
                assert!(host.sessions <= table.limit_of(host), "{host:?}");
                let pending = table.slots().filter(|(_, slot)| {
                    slot.phase != Phase::Live && slot.user.as_ref() == Some(&wish.user)
                });
                assert!(pending.count() <= RULES.reservations_per_user_max);
            }
        }
        Event::BeginOrder { session: n, gateway: g } => {
            let _refusal = table.begin_order(session(n), &gateway(g), *now);
        }
        Event::Accepted { session: n, host: h } => {
            table.order_accepted(session(n), &host(h), *now);
        }
        Event::Started { session: n, gateway: g } => {
            table.started(session(n), &gateway(g));
        }
        Event::Released { session: n } => {
            table.release(session(n));
            assert_eq!(table.release(session(n)), None);
        }
        Event::HostHello { host: h, capacity, live } => {
            table.host_connected(&host(h), &pool(), capacity, &sessions(live), *now);
        }
        Event::HostLost { host: h } => {
            table.host_disconnected(&host(h), *now);
        }
        Event::GatewayHello { gateway: g, live } => {
            table.gateway_connected(&gateway(g), &sessions(live), *now);
        }
        Event::GatewayLost { gateway: g } => table.gateway_disconnected(&gateway(g), *now),
        Event::Drain { host: h, draining } => {
            table.set_draining(&host(h), draining);
        }
        Event::HostFailed { host: h } => table.host_failed(&host(h), *now),
        Event::HostStopping { host: h } => table.host_stopping(&host(h)),
        Event::Fitness { host: h, fitness } => table.set_fitness(&host(h), fitness),
        Event::Wait { ms } => {
            *now += ms;
            table.expire(*now);
            assert!(table.next_deadline().is_none_or(|deadline| deadline > *now));
        }
    }
}

proptest! {
    #[test]
    fn any_order_of_messages_leaves_the_table_right_and_every_slot_is_freed(
        events in prop::collection::vec(any_event(), 0..200),
        deep in any::<bool>(),
    ) {
        let fill_order = if deep { FillOrder::DepthFirst } else { FillOrder::BreadthFirst };
        let mut table = table(fill_order, 3, 2);
        let mut now = 0;
        for event in events {
            apply(&mut table, event.clone(), &mut now);
            if let Err(problem) = table.check_invariants() {
                prop_assert!(false, "after {event:?}: {problem}");
            }
        }
        // Everybody leaves: nothing stays counted.
        for n in 0..3 {
            table.host_disconnected(&host(n), now);
            table.gateway_disconnected(&gateway(n), now);
        }
        table.expire(now + RULES.orphan_ms + RULES.reservation_ms);
        prop_assert_eq!(table.slots().count(), 0);
        prop_assert!(table.hosts().all(|(_, host)| host.sessions == 0));
        table.check_invariants().unwrap();
    }
}
