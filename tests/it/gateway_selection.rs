//! Step 7: which gateway, and why; and who is told what when there is none.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ringway::connect::{SessionOpener, SessionSettings};
use ringway::core::codes::{Code, Refusal};
use ringway::core::selection::{Explain, ExplainLine, Remark, RttSource, Verdict};
use ringway::core::tickets::Role;
use ringway::dial::DialLimits;
use ringway::gateway::control::Question;
use ringway::gateway::shared::lock;
use ringway::observe::histograms::Measure;
use ringway::tls::settings::TlsSettings;
use ringway::wire::arm::{
    ConnectionRequest, ConnectionResponse, GatewayList, RingwayDetails, RttSample,
};
use ringway::wire::channel::{GatewayEntry, GatewayToBroker, PlaceRequest};

use tokio::time::sleep;

use crate::support::fake_broker::{Answer, HOST};
use crate::support::gateway::TestGateway;
use crate::support::legs::{Leg, Reply, dial, knock};
use crate::support::ports::ReservedPort;
use crate::support::slow_path::SlowPath;
use crate::support::wait::{LOOK_EVERY, until, within};
use crate::support::world::World;

const BEARER: &str = "token-of-ann";

fn question(request: &ConnectionRequest, bearer: Option<&str>) -> String {
    let body = serde_json::to_string(request).unwrap();
    let authorization =
        bearer.map(|bearer| format!("Authorization: Bearer {bearer}\r\n")).unwrap_or_default();
    format!(
        "POST /api/arm/v2/connections HTTP/1.1\r\nHost: gateway\r\n{authorization}\
         User-Agent: ringway/test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn ask(world: &World, request: &ConnectionRequest) -> Reply {
    dial(world.gateway.address, &world.tls).await.ask(&question(request, Some(BEARER))).await
}

fn placed(reply: &Reply) -> ConnectionResponse {
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    serde_json::from_slice(&reply.body).unwrap()
}

/// What a client measured.
fn sample(name: &str, rtt_us: u64) -> RttSample {
    RttSample { gateway: name.parse().unwrap(), rtt_us, age_ms: 0 }
}

fn line<'a>(explain: &'a Explain, name: &str) -> &'a ExplainLine {
    explain.lines.iter().find(|line| line.gateway.as_str() == name).unwrap()
}

/// Waits until a gateway's table is as it should be.
async fn table_of(gateway: &TestGateway, is_right: impl Fn(&[ExplainLine]) -> bool) {
    let asking = async {
        while !is_right(&gateway.gateway().desk().ask(Question::Judged).await.unwrap().lines) {
            sleep(LOOK_EVERY).await;
        }
    };
    within("the gateway table", asking).await;
}

async fn table_arrives(world: &World, is_right: impl Fn(&[ExplainLine]) -> bool) {
    table_of(&world.gateway, is_right).await;
}

/// Adds a second gateway; returns when each has measured the other.
async fn with_neighbour() -> (World, TestGateway) {
    let world = World::start().await;
    let second = TestGateway::start(&world.ca, &world.broker.url(), "gw-2", |_| {});
    world.broker.set_table(vec![world.gateway.entry(), second.entry()]);
    world.until_ready(&second).await;
    for gateway in [&world.gateway, &second] {
        let measured =
            |table: &[ExplainLine]| table.len() == 2 && table.iter().all(|c| c.rtt.is_some());
        table_of(gateway, measured).await;
    }
    (world, second)
}

#[tokio::test]
async fn step_7_the_choice_is_explained_and_its_ticket_works_where_it_leads() {
    let (world, second) = with_neighbour().await;
    // More connections here than there, in the same group of 10 ms.
    let busy = GatewayEntry { connections: 7, ..world.gateway.entry() };
    world.broker.set_table(vec![busy, second.entry()]);
    table_arrives(&world, |table| table.iter().any(|c| c.connections == 7)).await;
    let request = ConnectionRequest {
        application: "desktop".into(),
        load_balance_info: "pool=office".into(),
        // The client's own measurements come first; without them the test
        // would depend on how busy the machine is.
        ringway_rtt_samples: ["gw-1", "gw-2"].map(|name| sample(name, 4_000)).into(),
        ringway_unreachable: Vec::new(),
    };
    let response = placed(&ask(&world, &request).await);
    let details = &response.ringway;
    assert_eq!(details.gateway, second.id);
    let there = format!("https://{}/relay/client", second.address);
    assert_eq!(response.gateway_location.expose(), there);
    assert_eq!(response.redirected_server_name, HOST);
    let lines: Vec<_> = details
        .explain
        .lines
        .iter()
        .map(|line| (line.gateway.as_str(), line.group, line.connections, line.verdict))
        .collect();
    assert_eq!(
        lines,
        [("gw-2", Some(0), 0, Verdict::Chosen), ("gw-1", Some(0), 7, Verdict::MoreConnections)]
    );

    let questions: Vec<(String, PlaceRequest)> = world.broker.heard(|heard| match &heard.message {
        GatewayToBroker::Place(place) => Some((heard.gateway.to_string(), place.clone())),
        _ => None,
    });
    let [(asked_by, place)] = &questions[..] else { panic!("{questions:?}") };
    assert_eq!(asked_by, "gw-1");
    assert_eq!((place.bearer.expose(), place.application.as_str()), (BEARER, "desktop"));
    assert_eq!(place.load_balance_info, "pool=office");
    assert_eq!((&place.gateway, place.session), (&second.id, details.session));
    assert_eq!(place.explain, details.explain);
    assert!(place.client_address.starts_with("127.0.0.1:"), "{}", place.client_address);

    // Another gateway than the chosen one does not take the ticket.
    let elsewhere = knock(world.gateway.address, &world.tls, Role::Client, details.ticket.expose())
        .await
        .unwrap_err();
    assert_eq!(elsewhere.code, Code::TicketWrongGateway);
    let client = knock(second.address, &world.tls, Role::Client, details.ticket.expose());
    let host = async {
        let asked = || world.broker.orchestrations().contains(&details.session);
        until("the broker is asked", asked).await;
        let ticket = world.broker.issue_ticket(Role::Host, details.session, &second.id);
        knock(second.address, &world.tls, Role::Host, &ticket).await
    };
    let (client, host): (Result<Leg, _>, Result<Leg, _>) = tokio::join!(client, host);
    let (mut client, mut host) = (client.unwrap(), host.unwrap());
    client.send(b"arrived").await;
    assert_eq!(host.receive(7).await, b"arrived");
}

#[tokio::test]
async fn step_7_without_measurements_of_the_client_both_gateways_are_measured_here() {
    let (world, _second) = with_neighbour().await;
    let response = placed(&ask(&world, &ConnectionRequest::default()).await);
    let explain = &response.ringway.explain;
    for (name, source) in [("gw-1", RttSource::Entry), ("gw-2", RttSource::Probe)] {
        let line = line(explain, name);
        let rtt = line.rtt.unwrap();
        assert!(rtt.us > 0 && line.group == Some(rtt.us / 10_000), "{line:?}");
        assert_eq!(rtt.source, source);
    }
    assert_eq!(explain.lines[0].gateway, response.ringway.gateway);
    assert_eq!(explain.chosen(), explain.lines.first());
}

/// Whoever is not entitled to a place does not make a gateway look full.
#[tokio::test]
async fn step_7_only_places_that_the_broker_granted_count() {
    let world = World::start().await;
    table_arrives(&world, |table| table.len() == 1).await;
    world.broker.on_place(Answer::No(Refusal::new(Code::NotAssigned)));
    for _ in 0..3 {
        let reply = ask(&world, &ConnectionRequest::default()).await;
        assert_eq!(reply.code(), Code::NotAssigned);
    }
    world.broker.on_place(Answer::Yes);
    for _ in 0..2 {
        placed(&ask(&world, &ConnectionRequest::default()).await);
    }
    table_arrives(&world, |table| table[0].in_flight == 2).await;
}

/// A kept connection has its lifetime; the next one goes on measuring, and
/// neither side counts that as anything going wrong.
#[tokio::test]
async fn step_7_measuring_outlives_the_connections_it_is_done_over() {
    let world = World::start().await;
    let second = TestGateway::start(&world.ca, &world.broker.url(), "gw-2", |config| {
        config.limits.lobby_lifetime_ms = 200;
    });
    world.broker.set_table(vec![world.gateway.entry(), second.entry()]);
    let counters = &second.shared().counters;
    until("it is measured again and again", || counters.timeouts.load(Relaxed) >= 2).await;
    let handshakes = counters.handshakes.load(Relaxed);
    until("and again", || counters.handshakes.load(Relaxed) > handshakes).await;
    table_arrives(&world, |table| table.len() == 2 && table.iter().all(|c| c.rtt.is_some())).await;
    assert!(lock(&counters.refusals).is_empty());
}

#[tokio::test]
async fn step_7_a_lower_group_beats_fewer_connections() {
    let (world, second) = with_neighbour().await;
    let far_and_free = sample(second.id.as_str(), 31_000);
    let near_and_busy = sample("gw-1", 1_000);
    let request = ConnectionRequest {
        ringway_rtt_samples: vec![far_and_free, near_and_busy],
        ..ConnectionRequest::default()
    };
    for _ in 0..3 {
        let response = placed(&ask(&world, &request).await);
        assert_eq!(response.ringway.gateway, world.gateway.id);
        let second_line = line(&response.ringway.explain, "gw-2");
        assert_eq!((second_line.group, second_line.verdict), (Some(3), Verdict::HigherGroup));
    }
}

#[tokio::test]
async fn step_7_who_cannot_be_placed_is_told_why() {
    let mut world = World::start_with(|config| config.limits.broker_timeout_ms = 300).await;
    let mut bystander = world.bystander().await;
    let asked_before = world.broker.questions();
    let request = ConnectionRequest::default();

    let mut stranger = dial(world.gateway.address, &world.tls).await;
    let reply = stranger.ask(&question(&request, None)).await;
    assert_eq!(reply.code(), Code::TokenMissing);
    assert!(reply.head.contains("WWW-Authenticate: Bearer\r\n"), "{}", reply.head);

    let mut babbler = dial(world.gateway.address, &world.tls).await;
    let nonsense = question(&request, Some(BEARER)).replace("\"application\"", "application\"\"");
    assert_eq!(babbler.ask(&nonsense).await.code(), Code::RequestMalformed);
    // What it says is quoted in the log, but not all of it.
    let wrong_kind = format!("{{\"ringwayRttSamples\":\"{}\"}}", "x".repeat(20_000));
    let head = format!(
        "POST /api/arm/v2/connections HTTP/1.1\r\nAuthorization: Bearer {BEARER}\r\n\
         User-Agent: ringway/test\r\nContent-Length: {}\r\n\r\n",
        wrong_kind.len()
    );
    let refusal = world.ask(&(head + &wrong_kind)).await.refusal();
    assert_eq!(refusal.code, Code::RequestMalformed);
    assert!(refusal.detail.unwrap().len() < 1_000);

    let full = GatewayEntry { capacity: 0, ..world.gateway.entry() };
    let draining =
        GatewayEntry { gateway: "gw-2".parse().unwrap(), draining: true, ..world.gateway.entry() };
    for table in [vec![full, draining], vec![]] {
        let length = table.len();
        world.broker.set_table(table);
        table_arrives(&world, |table| table.len() == length).await;
        assert_eq!(ask(&world, &request).await.code(), Code::NoGateway);
    }
    assert_eq!(world.broker.questions(), asked_before, "the broker was asked");

    world.broker.set_table(vec![world.gateway.entry()]);
    table_arrives(&world, |table| table.len() == 1).await;
    for code in [Code::TokenExpired, Code::NotAssigned, Code::PoolFull] {
        world.broker.on_place(Answer::No(Refusal::with_detail(code, "because")));
        assert_eq!(ask(&world, &request).await.refusal(), Refusal::with_detail(code, "because"));
    }
    world.broker.on_place(Answer::Silence);
    assert_eq!(ask(&world, &request).await.code(), Code::BrokerUnreachable);
    world.broker.die().await;
    let connected = &world.gateway.shared().broker_connected;
    until("the gateway has noticed", || !connected.load(Relaxed)).await;
    assert_eq!(ask(&world, &request).await.code(), Code::BrokerUnreachable);
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn every_part_of_step_7_is_measured() {
    let (world, _second) = with_neighbour().await;
    let request = ConnectionRequest {
        application: "desktop".into(),
        load_balance_info: "pool=office".into(),
        ..ConnectionRequest::default()
    };
    placed(&ask(&world, &request).await);
    world.broker.on_place(Answer::No(Code::PoolFull.into()));
    assert_eq!(ask(&world, &request).await.code(), Code::PoolFull);
    let all = world.gateway.gateway().desk().ask(Question::Histograms).await.unwrap();
    let count = |measure: Measure| all.get(measure.as_str()).unwrap().len();
    // A refusal is an answer of the broker, but names no place.
    assert_eq!((count(Measure::Place), count(Measure::Answer)), (2, 1));
    assert!(count(Measure::ProbeRtt) > 0);
}

fn opener(world: &World) -> SessionOpener {
    let settings = SessionSettings {
        entry: format!("https://{}", world.gateway.address).parse().unwrap(),
        application: "desktop".into(),
        load_balance_info: "pool=office".into(),
        token: BEARER.parse().unwrap(),
        roots: world.ca.roots(),
        tls: TlsSettings::default(),
        dial: DialLimits::default(),
    };
    SessionOpener::new(settings, None).unwrap()
}

/// A session that our connector opens, at whichever gateway it is sent to.
async fn open(world: &World, opener: &SessionOpener, gateways: &[&TestGateway]) -> RingwayDetails {
    let known = world.broker.orchestrations().len();
    let host = async {
        let asked = || world.broker.orchestrations().len() > known;
        until("the broker is asked", asked).await;
        let session = world.broker.orchestrations()[known];
        for gateway in gateways {
            let ticket = world.broker.issue_ticket(Role::Host, session, &gateway.id);
            if let Ok(leg) = knock(gateway.address, &world.tls, Role::Host, &ticket).await {
                return leg;
            }
        }
        panic!("the client is nowhere");
    };
    let (opened, _host) = tokio::join!(within("a session", opener.open()), host);
    opened.unwrap().1
}

#[tokio::test]
async fn step_7_what_the_connector_measured_decides() {
    let (world, second) = with_neighbour().await;
    // The one that is asked is far by the way that leads to it, which only the
    // client goes.
    let detour = SlowPath::start(world.gateway.address, Duration::from_millis(60)).await;
    let far = GatewayEntry { url: detour.url(), ..world.gateway.entry() };
    let near_and_busy = GatewayEntry { connections: 50, ..second.entry() };
    world.broker.set_table(vec![far, near_and_busy]);
    table_arrives(&world, |table| table.iter().any(|line| line.connections == 50)).await;
    let stranger = placed(&ask(&world, &ConnectionRequest::default()).await).ringway;
    assert_eq!(stranger.gateway, world.gateway.id, "by what the gateways measured");

    let opener = opener(&world);
    // Nobody waits longer for the measurements than a moment: on a busy machine
    // the first session may go without.
    let details = loop {
        let details = open(&world, &opener, &[&world.gateway, &second]).await;
        let sources = details.explain.lines.iter().map(|line| line.rtt.unwrap().source);
        if sources.filter(|source| *source == RttSource::Client).count() == 2 {
            break details;
        }
    };
    assert_eq!(details.gateway, second.id);
    let far = line(&details.explain, "gw-1");
    assert!(far.rtt.unwrap().us >= 60_000 && far.group >= Some(6), "{far:?}");
    assert_eq!(far.verdict, Verdict::HigherGroup);
}

#[tokio::test]
async fn step_7_an_unreachable_gateway_is_the_last_resort() {
    let world = World::start().await;
    let nobody = ReservedPort::new();
    let gone = GatewayEntry {
        gateway: "gw-2".parse().unwrap(),
        url: nobody.url(),
        ..world.gateway.entry()
    };
    let busy = GatewayEntry { connections: 9, ..world.gateway.entry() };
    world.broker.set_table(vec![busy, gone.clone()]);
    let is_gone =
        |table: &[ExplainLine]| table.iter().any(|line| line.remark == Some(Remark::Unreachable));
    table_arrives(&world, is_gone).await;
    let response = placed(&ask(&world, &ConnectionRequest::default()).await);
    assert_eq!(response.ringway.gateway, world.gateway.id);
    assert_eq!(line(&response.ringway.explain, "gw-2").words(), "unreachable");

    // It may be back: better than no gateway.
    let full = GatewayEntry { capacity: 0, ..world.gateway.entry() };
    world.broker.set_table(vec![full, gone]);
    table_arrives(&world, |table| table.iter().any(|line| line.verdict == Verdict::Full)).await;
    let response = placed(&ask(&world, &ConnectionRequest::default()).await);
    assert_eq!(response.ringway.gateway.as_str(), "gw-2");
}

/// Where one client does not get, others may.
#[tokio::test]
async fn step_7_a_client_speaks_for_itself_alone() {
    let (world, second) = with_neighbour().await;
    let both = vec![sample("gw-1", 1_000), sample("gw-2", 1_000)];
    let busy = GatewayEntry { connections: 9, ..world.gateway.entry() };
    world.broker.set_table(vec![busy, second.entry()]);
    table_arrives(&world, |table| table.iter().any(|line| line.connections == 9)).await;
    let content = ConnectionRequest { ringway_rtt_samples: both, ..ConnectionRequest::default() };
    let cut_off = ConnectionRequest {
        ringway_rtt_samples: vec![sample("gw-1", 1_000)],
        ringway_unreachable: vec![second.id.clone()],
        ..ConnectionRequest::default()
    };
    // Nor does it get anywhere by saying what cannot be.
    let boastful = ConnectionRequest {
        ringway_rtt_samples: vec![sample("gw-1", 0), sample("gw-2", 1_000), sample("gw-9", 1)],
        ..ConnectionRequest::default()
    };
    for (request, expected) in
        [(&cut_off, "gw-1"), (&content, "gw-2"), (&boastful, "gw-2"), (&cut_off, "gw-1")]
    {
        let response = placed(&ask(&world, request).await);
        assert_eq!(response.ringway.gateway.as_str(), expected);
    }
}

#[tokio::test]
async fn step_7_the_gateways_are_listed_for_users_and_for_nobody_else() {
    let (world, second) = with_neighbour().await;
    let ask = async |bearer: Option<&str>| {
        let bearer = bearer.map(|bearer| format!("Authorization: Bearer {bearer}\r\n"));
        let request = format!(
            "GET /api/gateways HTTP/1.1\r\nHost: gateway\r\n{}\r\n",
            bearer.unwrap_or_default()
        );
        dial(world.gateway.address, &world.tls).await.ask(&request).await
    };
    let reply = ask(Some(BEARER)).await;
    assert_eq!(reply.status, 200);
    let list: GatewayList = serde_json::from_slice(&reply.body).unwrap();
    let mut urls: Vec<_> = list.gateways.iter().map(|listed| listed.url.clone()).collect();
    urls.sort();
    let mut expected = [world.gateway.entry().url, second.entry().url];
    expected.sort();
    assert_eq!(urls, expected);
    let bearers = world.broker.heard(|heard| match &heard.message {
        GatewayToBroker::CheckToken { bearer, .. } => Some(bearer.expose().to_owned()),
        _ => None,
    });
    assert_eq!(bearers, [BEARER]);

    assert_eq!(ask(None).await.code(), Code::TokenMissing);
    world.broker.on_place(Answer::No(Refusal::new(Code::TokenExpired)));
    assert_eq!(ask(Some("stranger")).await.code(), Code::TokenExpired);
}
