//! The rules of step 7, one by one, and what holds for any gateways at all.

use proptest::prelude::*;

use super::*;

const AGE_MS_MAX: u64 = 30_000;

fn id(name: &str) -> GatewayId {
    name.parse().unwrap()
}

fn measured(us: u64) -> Way {
    Way::of(Some(Rtt { us, age_ms: 0, source: RttSource::Probe }), AGE_MS_MAX)
}

/// A gateway and its name.
type Named = (&'static str, Candidate);

fn candidate(name: &'static str, rtt_us: u64, connections: u32) -> Named {
    let candidate = Candidate {
        mark: mark(&id(name)),
        way: measured(rtt_us),
        connections,
        in_flight: 0,
        capacity: 100,
        draining: false,
    };
    (name, candidate)
}

fn with(named: Named, change: impl FnOnce(&mut Candidate)) -> Named {
    let (name, mut candidate) = named;
    change(&mut candidate);
    (name, candidate)
}

fn run(all: &[Named], home: Option<&str>) -> (Option<&'static str>, Explain) {
    let home = home.map(|home| all.iter().position(|(name, _)| *name == home).unwrap());
    let candidates = all.iter().map(|(_, candidate)| *candidate);
    let selection = select(candidates, SessionId([5; 16]), home);
    let explain = selection.explain(|index| Some(id(all[index].0)));
    (selection.chosen().map(|index| all[index].0), explain)
}

fn chosen(all: &[Named]) -> Option<&'static str> {
    run(all, None).0
}

fn words(explain: &Explain) -> Vec<(&str, &str)> {
    explain.lines.iter().map(|line| (line.gateway.as_str(), line.words())).collect()
}

#[test]
fn groups_of_10_ms_come_before_connections() {
    let near = candidate("near", 9_999, 50);
    let far = candidate("far", 10_000, 0);
    assert_eq!(chosen(&[far, near]), Some("near"));
    assert_eq!(chosen(&[candidate("same", 1, 51), near]), Some("near"));
}

#[test]
fn full_and_draining_gateways_push_to_the_next_group() {
    let full = with(candidate("full", 0, 60), |c| c.in_flight = 40);
    let draining = with(candidate("draining", 0, 0), |c| c.draining = true);
    let all = [full, draining, candidate("far", 50_000, 0)];
    let (choice, explain) = run(&all, None);
    assert_eq!(choice, Some("far"));
    assert_eq!(words(&explain), [("far", "chosen"), ("full", "full"), ("draining", "draining")]);
    assert_eq!((explain.lines[1].connections, explain.lines[1].in_flight), (100, 40));
    let (choice, explain) = run(&all[..2], None);
    assert_eq!(choice, None);
    assert_eq!(explain.reason(), "no gateway has room");
}

#[test]
fn an_unknown_way_comes_after_every_known_one_and_an_unreachable_one_last() {
    let blank = with(candidate("blank", 0, 0), |c| c.way = Way::Unmeasured);
    let old = Rtt { us: 0, age_ms: AGE_MS_MAX + 1, source: RttSource::Probe };
    let stale = with(candidate("stale", 0, 3), |c| c.way = Way::of(Some(old), AGE_MS_MAX));
    let gone = with(candidate("gone", 0, 0), |c| c.way = Way::Unreachable(Some(old)));
    let (choice, explain) = run(&[gone, blank, stale, candidate("far", 900_000, 99)], None);
    assert_eq!(choice, Some("far"));
    assert_eq!(
        words(&explain),
        [("far", "chosen"), ("blank", "unmeasured"), ("stale", "stale"), ("gone", "unreachable")]
    );
    assert!(explain.lines[1..].iter().all(|line| line.group.is_none()));
    assert_eq!(chosen(&[gone, blank, stale]), Some("blank"));
    let (choice, explain) = run(&[gone], None);
    assert_eq!(choice, Some("gone"));
    assert_eq!(explain.reason(), "gone: unreachable when last tried, but no other has room");
}

#[test]
fn ties_spread_over_sessions() {
    let all = [candidate("a", 0, 7), candidate("b", 0, 7), candidate("c", 0, 7)];
    let mut counts = [0_u32; 3];
    for n in 0..3_000_u32 {
        let mut session = [0; 16];
        session[..4].copy_from_slice(&n.to_le_bytes());
        let candidates = all.iter().map(|(_, candidate)| *candidate);
        counts[select(candidates, SessionId(session), None).chosen().unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| *count > 800), "{counts:?}");
}

#[test]
fn who_is_there_already_stays_within_one_group() {
    let home = candidate("home", 19_999, 80);
    let best = candidate("best", 5_000, 1);
    assert_eq!(chosen(&[best, home]), Some("best"), "a new session is held to nothing");
    let (choice, explain) = run(&[best, home], Some("home"));
    assert_eq!(choice, Some("home"));
    assert_eq!(words(&explain), [("home", "chosen"), ("best", "better, but the session stays")]);
    assert!(explain.reason().starts_with("home: the session is there"), "{}", explain.reason());
    for (why, gone) in [
        ("too far", candidate("home", 20_000, 0)),
        ("full", with(home, |c| c.capacity = 80)),
        ("draining", with(home, |c| c.draining = true)),
        ("unmeasured", with(home, |c| c.way = Way::Unmeasured)),
        ("unreachable", with(home, |c| c.way = Way::Unreachable(None))),
    ] {
        let (choice, explain) = run(&[best, gone], Some("home"));
        assert_eq!(choice, Some("best"), "{why}");
        assert!(explain.lines.iter().all(|line| line.remark != Some(Remark::Stays)), "{why}");
    }
}

#[test]
fn who_stays_is_explained_however_many_come_before() {
    let names: Vec<GatewayId> = (0..200).map(|n| id(&format!("gw-{n}"))).collect();
    let candidates = names.iter().zip(0..).map(|(name, connections)| Candidate {
        mark: mark(name),
        capacity: 1_000,
        ..candidate("any", 0, connections).1
    });
    let selection = select(candidates, SessionId([1; 16]), Some(150));
    let explain = selection.explain(|index| names.get(index).cloned());
    assert_eq!(selection.chosen(), Some(150));
    assert_eq!((explain.lines.len(), explain.left_out), (RANKED_MAX, 136));
    assert_eq!(explain.chosen().unwrap().gateway, names[150]);
    let next: Vec<_> = explain.lines[1..].iter().map(|line| line.gateway.clone()).collect();
    assert_eq!(next, names[..RANKED_MAX - 1]);
}

#[test]
fn the_reason_is_one_line() {
    let reason = |all: &[Named]| run(all, None).1.reason();
    let near = candidate("near", 12_000, 3);
    assert_eq!(reason(&[near]), "near: lowest group with room (10-19 ms), the only one there");
    assert_eq!(
        reason(&[near, candidate("busy", 13_000, 4), candidate("far", 20_000, 0)]),
        "near: lowest group with room (10-19 ms), fewest of 2 there (3 connections)"
    );
    let reason = reason(&[near, with(near, |c| c.mark = 1)]);
    assert!(reason.ends_with("(10-19 ms), 3 connections like 1 more: drawn by lot"), "{reason}");
}

#[test]
fn the_broker_has_the_last_word_on_counts_and_none_on_ways() {
    let all = [candidate("a", 0, 0), candidate("b", 0, 9), candidate("far", 10_000, 0)];
    let (_, proposal) = run(&all, None);
    let load = |connections| Load { connections, in_flight: 1, capacity: 10, draining: false };
    let settled = |loads: &[(&str, Load)], home: Option<&str>| {
        let load = |gateway: &GatewayId| {
            loads.iter().find(|(name, _)| id(name) == *gateway).map(|(_, load)| *load)
        };
        let home = home.map(id);
        let (choice, explain) = settle(&proposal, load, SessionId([5; 16]), home.as_ref());
        (choice.map(|choice| choice.to_string()), explain)
    };
    let (choice, explain) = settled(&[("a", load(5)), ("b", load(4)), ("far", load(0))], None);
    assert_eq!(choice.as_deref(), Some("b"));
    assert_eq!(
        words(&explain),
        [("b", "chosen"), ("a", "more connections"), ("far", "higher group")]
    );
    assert_eq!((explain.lines[0].connections, explain.lines[0].in_flight), (5, 1));
    // Full, gone, draining.
    let draining = Load { draining: true, ..load(0) };
    let (choice, explain) = settled(&[("a", load(9)), ("far", load(0))], None);
    assert_eq!((choice.as_deref(), explain.left_out), (Some("far"), 1));
    assert_eq!(settled(&[("a", load(9)), ("far", draining)], None).0, None);
    assert_eq!(settled(&[], None).0, None);
    let (choice, _) = settled(&[("a", load(0)), ("far", load(3))], Some("far"));
    assert_eq!(choice.as_deref(), Some("far"));
}

#[test]
fn a_record_of_an_older_version_is_read() {
    let old = r#"{"lines":[{"gateway":"a","rtt":{"us":5,"age_ms":1,"source":"probe"},"group":0,
        "connections":3,"capacity":10,"verdict":"chosen"}]}"#;
    let explain: Explain = serde_json::from_str(old).unwrap();
    let load =
        |_: &GatewayId| Some(Load { connections: 0, in_flight: 0, capacity: 1, draining: false });
    assert_eq!(settle(&explain, load, SessionId([0; 16]), None).0, Some(id("a")));
}

fn any_way() -> impl Strategy<Value = Way> {
    let rtt = (0_u64..60_000, 0_u64..40_000).prop_map(|(us, age_ms)| Rtt {
        us,
        age_ms,
        source: RttSource::Probe,
    });
    prop_oneof![
        6 => rtt.clone().prop_map(|rtt| Way::of(Some(rtt), AGE_MS_MAX)),
        1 => Just(Way::Unmeasured),
        1 => prop::option::of(rtt).prop_map(Way::Unreachable),
    ]
}

fn any_candidate() -> impl Strategy<Value = (GatewayId, Candidate)> {
    (0_u32..300, any_way(), 0_u32..12, 0_u32..3, prop::bool::weighted(0.2)).prop_map(
        |(name, way, connections, in_flight, draining)| {
            let name = id(&format!("gw-{name}"));
            let mark = mark(&name);
            (name, Candidate { mark, way, connections, in_flight, capacity: 10, draining })
        },
    )
}

fn room(c: &Candidate) -> bool {
    !c.draining && c.connections + c.in_flight < c.capacity
}

/// What the letter of step 7 goes by, written down once more.
fn order(c: &Candidate) -> (u64, u64, u32) {
    let total = c.connections + c.in_flight;
    match c.way {
        Way::Measured(rtt) => (0, rtt.us / 10_000, total),
        Way::Stale(_) | Way::Unmeasured => (1, 0, total),
        Way::Unreachable(_) => (2, 0, total),
    }
}

proptest! {
    #[test]
    fn never_full_never_draining_never_a_higher_group_while_a_lower_has_room(
        all in prop::collection::vec(any_candidate(), 0..150),
        session in any::<[u8; 16]>(),
    ) {
        let candidates: Vec<Candidate> = all.iter().map(|(_, candidate)| *candidate).collect();
        let selection = select(candidates.iter().copied(), SessionId(session), None);
        let explain = selection.explain(|index| all.get(index).map(|(name, _)| name.clone()));
        prop_assert_eq!(explain.lines.len(), all.len().min(RANKED_MAX));
        prop_assert_eq!(explain.lines.len() + explain.left_out as usize, all.len());
        let best = candidates.iter().filter(|c| room(c)).map(order).min();
        let choice = selection.chosen().map(|index| candidates[index]);
        prop_assert_eq!(choice.as_ref().map(order), best);
        prop_assert!(choice.is_none_or(|choice| room(&choice)));
        let marked = explain.lines.iter().filter(|line| line.verdict == Verdict::Chosen).count();
        prop_assert_eq!(marked, usize::from(choice.is_some()));
        prop_assert!(!explain.reason().contains('\n'));
    }

    /// Whoever has a home stays at most one group above the best, and only in
    /// a place that has room; for all others nothing changes.
    #[test]
    fn a_home_costs_at_most_one_group(
        all in prop::collection::vec(any_candidate(), 1..40),
        session in any::<[u8; 16]>(),
        home in any::<prop::sample::Index>(),
    ) {
        let candidates: Vec<Candidate> = all.iter().map(|(_, candidate)| *candidate).collect();
        let home = home.index(candidates.len());
        let without = select(candidates.iter().copied(), SessionId(session), None).chosen();
        let with = select(candidates.iter().copied(), SessionId(session), Some(home)).chosen();
        if with == without {
            return Ok(());
        }
        prop_assert_eq!(with, Some(home));
        let (home, best) = (candidates[home], candidates[without.unwrap()]);
        prop_assert!(room(&home));
        prop_assert!(home.way.group().unwrap() <= best.way.group().unwrap() + 1);
    }

    /// With the counts that the entry gateway had, the broker agrees with it.
    #[test]
    fn settling_with_the_same_counts_changes_nothing(
        all in prop::collection::hash_map(0_u32..300, any_candidate(), 0..60),
        session in any::<[u8; 16]>(),
    ) {
        let all: Vec<(GatewayId, Candidate)> = all
            .into_iter()
            .map(|(name, (_, candidate))| {
                let name = id(&format!("gw-{name}"));
                let mark = mark(&name);
                (name, Candidate { mark, ..candidate })
            })
            .collect();
        let session = SessionId(session);
        let selection = select(all.iter().map(|(_, candidate)| *candidate), session, None);
        let proposal = selection.explain(|index| all.get(index).map(|(name, _)| name.clone()));
        let load = |gateway: &GatewayId| {
            let (_, c) = all.iter().find(|(name, _)| name == gateway)?;
            let Candidate { connections, in_flight, capacity, draining, .. } = *c;
            Some(Load { connections, in_flight, capacity, draining })
        };
        let (choice, explain) = settle(&proposal, load, session, None);
        prop_assert_eq!(choice, proposal.chosen().map(|line| line.gateway.clone()));
        prop_assert_eq!(explain, proposal);
    }
}
