//! Which round trip counts, and what a client may say.

use super::*;
use crate::core::selection::{ExplainLine, Remark, Verdict};

const RULES: TableRules = TableRules {
    sample_age_ms_max: 30_000,
    client_sample_age_ms_max: 300_000,
    unreachable_after_probes: 2,
};

fn id(name: &str) -> GatewayId {
    name.parse().unwrap()
}

fn entry(name: &str) -> GatewayEntry {
    GatewayEntry {
        gateway: id(name),
        url: format!("https://{name}:443"),
        connections: 5,
        in_flight: 1,
        capacity: 100,
        draining: false,
        age_ms: 0,
    }
}

fn table<const N: usize>(names: [&str; N]) -> GatewayTable {
    let mut table = GatewayTable::new(id("own"), RULES);
    table.replace(names.map(entry).into());
    table
}

fn sample(name: &str, rtt_us: u64, age_ms: u64) -> RttSample {
    RttSample { gateway: id(name), rtt_us, age_ms }
}

fn line(table: &GatewayTable, client: ClientView<'_>, name: &str, now_ms: u64) -> ExplainLine {
    let explain = table.explain(&table.select(client, SessionId([1; 16]), now_ms));
    explain.lines.into_iter().find(|line| line.gateway == id(name)).unwrap()
}

#[test]
fn the_best_source_of_a_round_trip_wins() {
    let mut table = table(["own", "probed", "sampled", "unknown"]);
    table.record_probe(id("probed"), Some(4_000), 100);
    table.record_probe(id("sampled"), Some(4_000), 100);
    let samples = [sample("sampled", 77, 9), sample("sampled", 5, 0), sample("elsewhere", 1, 0)];
    let client = ClientView { rtt_us: Some(1_000), samples: &samples, ..ClientView::default() };
    let rtt = |us, age_ms, source| Some(Rtt { us, age_ms, source });
    for (name, expected) in [
        ("own", rtt(1_000, 0, RttSource::Entry)),
        ("probed", rtt(5_000, 250, RttSource::Probe)),
        ("sampled", rtt(77, 9, RttSource::Client)),
        ("unknown", None),
    ] {
        assert_eq!(line(&table, client, name, 350).rtt, expected, "{name}");
    }
}

#[test]
fn a_sample_beyond_belief_is_replaced_by_what_was_probed() {
    let mut table = table(["own", "other"]);
    table.record_probe(id("other"), Some(4_000), 100);
    for (rtt_us, age_ms, believed) in [
        (1, 300_000, true),
        (1, 300_001, false),
        (0, 0, false),
        (10_000_001, 0, false),
        (u64::MAX, u64::MAX, false),
    ] {
        let samples = [sample("other", rtt_us, age_ms)];
        let client = ClientView { samples: &samples, ..ClientView::default() };
        let source = line(&table, client, "other", 100).rtt.unwrap().source;
        let expected = if believed { RttSource::Client } else { RttSource::Probe };
        assert_eq!(source, expected, "{rtt_us} {age_ms}");
    }
    // What comes after as many as are taken is not looked at.
    let mut many = vec![sample("own", 1, 0); SAMPLES_MAX];
    many.push(sample("other", 1, 0));
    let client = ClientView { samples: &many, ..ClientView::default() };
    assert_eq!(line(&table, client, "other", 100).rtt.unwrap().source, RttSource::Probe);
}

#[test]
fn where_nobody_gets_is_the_last_resort_until_somebody_does() {
    let mut table = table(["own", "other"]);
    let nobody = ClientView::default();
    let remark = |table: &GatewayTable, client| line(table, client, "other", 100).remark;
    table.record_probe(id("other"), Some(4_000), 100);
    table.record_probe(id("other"), None, 100);
    assert_eq!(remark(&table, nobody), None);
    table.record_probe(id("other"), None, 100);
    assert_eq!(remark(&table, nobody), Some(Remark::Unreachable));
    // The next table changes nothing about that.
    table.replace(vec![entry("own"), entry("other")]);
    assert_eq!(remark(&table, nobody), Some(Remark::Unreachable));
    // A client that has been there knows better, for itself.
    let samples = [sample("other", 50, 0)];
    let client = ClientView { samples: &samples, ..nobody };
    assert_eq!(remark(&table, client), None);
    table.record_probe(id("other"), Some(4_000), 100);
    assert_eq!(remark(&table, nobody), None);
    // And one that did not get there, too.
    let failed = [id("other")];
    let client = ClientView { unreachable: &failed, ..nobody };
    assert_eq!(remark(&table, client), Some(Remark::Unreachable));
    assert_eq!(remark(&table, nobody), None);
}

#[test]
fn an_unreachable_gateway_is_chosen_when_no_other_has_room() {
    let mut table = table(["own", "other"]);
    for _ in 0..2 {
        table.record_probe(id("other"), None, 0);
    }
    let nobody = ClientView::default();
    assert_eq!(line(&table, nobody, "own", 0).verdict, Verdict::Chosen);
    table.replace(vec![GatewayEntry { capacity: 6, ..entry("own") }, entry("other")]);
    assert_eq!(line(&table, nobody, "own", 0).verdict, Verdict::Full);
    assert_eq!(line(&table, nobody, "other", 0).verdict, Verdict::Chosen);
}

#[test]
fn a_busy_core_does_not_make_a_gateway_far() {
    let mut table = table(["own", "a"]);
    let rtt = |table: &GatewayTable, now_ms| {
        line(table, ClientView::default(), "a", now_ms).rtt.map(|rtt| (rtt.us, rtt.age_ms))
    };
    for rtt_us in [40_000, 900, 30_000] {
        table.record_probe(id("a"), Some(rtt_us), 5);
    }
    assert_eq!(rtt(&table, 7), Some((900, 2)));
    // A path that has become longer is believed after a while.
    for _ in 0..PROBES_KEPT {
        table.record_probe(id("a"), Some(20_000), 9);
    }
    assert_eq!(rtt(&table, 9), Some((20_000, 0)));
}

#[test]
fn own_placements_count_until_the_next_table() {
    let mut table = table(["own"]);
    let in_flight = |table: &GatewayTable| line(table, ClientView::default(), "own", 0).in_flight;
    table.count_placement(&id("own"));
    table.count_placement(&id("nobody"));
    assert_eq!(in_flight(&table), 2);
    table.replace(vec![entry("own")]);
    assert_eq!(in_flight(&table), 1);
}

#[test]
fn a_gateway_that_left_is_forgotten() {
    let mut table = table(["own", "a"]);
    table.record_probe(id("a"), Some(900), 0);
    assert_eq!(table.measured(), 1);
    table.replace(vec![entry("own")]);
    // A probe that was under way.
    table.record_probe(id("a"), Some(900), 0);
    assert_eq!((table.measured(), table.probes.len()), (0, 0));
}

#[test]
fn clients_are_shown_the_nearest_that_serve() {
    let names: Vec<String> = (0..100).map(|n| format!("gw-{n}")).collect();
    let mut table = GatewayTable::new(id("own"), RULES);
    table.replace(names.iter().map(|name| entry(name)).collect());
    for (n, name) in names.iter().enumerate() {
        table.record_probe(id(name), Some(10_000 * n as u64), 0);
    }
    let draining = GatewayEntry { draining: true, ..entry("gw-0") };
    let mut entries = table.entries().to_vec();
    entries[0] = draining;
    table.replace(entries);
    let listed = table.listed(Some(500), 0);
    let shown: Vec<_> = listed.iter().map(|listed| listed.gateway.to_string()).collect();
    assert_eq!(shown, names[1..=LISTED_MAX]);
    assert_eq!(listed[0].url, "https://gw-1:443");
}

proptest::proptest! {
    /// What is kept ready beside each entry never orders otherwise than the
    /// entries themselves, looked at one by one.
    #[test]
    fn what_is_summed_up_orders_like_the_whole(
        gateways in proptest::collection::vec(
            (0_u32..4, 0_u32..3, 0_u32..6, proptest::bool::weighted(0.1),
             proptest::option::of(0_u64..60_000), 0_u64..40_000, 0_u32..3, 0_u32..2),
            1..120,
        ),
        client_rtt_us in proptest::option::of(0_u64..50_000),
        now_ms in 0_u64..60_000,
        said in proptest::collection::vec((0_usize..120, 0_u64..40_000), 0..5),
        session in proptest::array::uniform16(proptest::num::u8::ANY),
    ) {
        let mut table = GatewayTable::new(id("gw-0"), RULES);
        let name = |index: usize| format!("gw-{index}");
        let entries = gateways.iter().enumerate().map(|(index, row)| GatewayEntry {
            connections: row.0,
            in_flight: row.1,
            capacity: row.2,
            draining: row.3,
            ..entry(&name(index))
        });
        table.replace(entries.collect());
        for (index, (.., rtt_us, at_ms, failures, placed)) in gateways.iter().enumerate() {
            if rtt_us.is_some() {
                table.record_probe(id(&name(index)), *rtt_us, *at_ms);
            }
            for _ in 0..*failures {
                table.record_probe(id(&name(index)), None, *at_ms);
            }
            for _ in 0..*placed {
                table.count_placement(&id(&name(index)));
            }
        }
        let samples: Vec<_> = said.iter().map(|(of, us)| sample(&name(*of), *us, 0)).collect();
        let client = ClientView { rtt_us: client_rtt_us, samples: &samples, unreachable: &[] };
        let session = SessionId(session);
        let fast = table.select(client, session, now_ms);
        let said = table.said_by(client);
        let candidates = table.rows.iter().enumerate().map(|(index, row)| {
            let said = said.iter().find(|(of, _)| *of == index).map(|(_, way)| *way);
            row.candidate(said.unwrap_or_else(|| table.way(row, client.rtt_us, now_ms)))
        });
        let slow = crate::core::selection::select(candidates, session, None);
        proptest::prop_assert_eq!(table.explain(&fast), table.explain(&slow));
        proptest::prop_assert_eq!(fast.chosen(), slow.chosen());
    }
}

#[test]
fn a_client_that_has_no_choice_is_judged_by_this_gateway_alone() {
    let mut table = table(["better", "own"]);
    let explained = |table: &GatewayTable| {
        let client = ClientView { rtt_us: Some(30_000), ..ClientView::default() };
        let explain = table.explain_own(client, SessionId([1; 16]), 0);
        let [line] = &explain.lines[..] else { panic!("{explain:?}") };
        assert_eq!((line.gateway.as_str(), line.group, explain.left_out), ("own", Some(3), 0));
        line.verdict
    };
    assert_eq!(explained(&table), Verdict::Chosen);
    table.replace(vec![entry("better"), GatewayEntry { capacity: 6, ..entry("own") }]);
    assert_eq!(explained(&table), Verdict::Full);
    table.replace(vec![entry("better"), GatewayEntry { draining: true, ..entry("own") }]);
    assert_eq!(explained(&table), Verdict::Draining);
    table.replace(vec![entry("better")]);
    let none = table.explain_own(ClientView::default(), SessionId([1; 16]), 0);
    assert_eq!(none, Explain::default());
}
