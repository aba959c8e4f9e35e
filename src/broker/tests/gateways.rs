//! Which gateway the broker settles on (step 7), and whom it vouches for.

use super::super::testing::{FakeGateway, TOKEN, World, session};
use crate::config::broker::StaticToken;
use crate::core::codes::Code;
use crate::core::selection::{Explain, ExplainLine, Rtt, RttSource, Verdict};
use crate::wire::channel::{BrokerToGateway, GatewayToBroker, PlaceRequest, Placement};
use crate::wire::enroll::MachineRole;

/// Two gateways, of which the first is asked, and its proposal.
async fn with_gateways(world: &World) -> [FakeGateway; 2] {
    let first = world.enrol(MachineRole::Gateway, "gw-1").await;
    let second = world.enrol(MachineRole::Gateway, "gw-2").await;
    [world.gateway(&first, &[]).await, world.gateway(&second, &[]).await]
}

fn proposal(rtts_us: [(&str, u64); 2]) -> Explain {
    let lines = rtts_us.map(|(gateway, us)| ExplainLine {
        gateway: gateway.parse().unwrap(),
        rtt: Some(Rtt { us, age_ms: 7, source: RttSource::Client }),
        group: Some(us / 10_000),
        // Whatever a gateway says of counts, the broker has its own.
        connections: 0,
        in_flight: 0,
        capacity: 1_000_000,
        verdict: Verdict::MoreConnections,
        remark: None,
    });
    Explain { lines: lines.into(), left_out: 0 }
}

/// Asks at the first gateway for the first of the proposal.
fn ask(gateway: &FakeGateway, number: u8, explain: Explain) {
    gateway.outbox.post(GatewayToBroker::Place(PlaceRequest {
        request: u64::from(number),
        bearer: TOKEN.into(),
        application: "||desktop".into(),
        load_balance_info: "ringway:test/desktop".into(),
        client_address: "192.0.2.1:5000".into(),
        gateway: explain.lines[0].gateway.clone(),
        explain,
        session: session(number),
        here_only: false,
    }));
}

async fn placed(gateway: &mut FakeGateway, number: u8, explain: Explain) -> Placement {
    ask(gateway, number, explain);
    match gateway.answer().await {
        BrokerToGateway::Placed { placement, .. } => placement,
        other => panic!("{other:?}"),
    }
}

fn load(gateway: &FakeGateway, connections: u32, draining: bool) {
    gateway.outbox.post(GatewayToBroker::Load { connections, waiting: 0, draining });
}

#[tokio::test]
async fn step_7_the_broker_settles_it_by_its_own_counts() {
    let world = World::start("").await;
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    let _agent = world.agent(&host, &[]).await;
    let [mut first, second] = with_gateways(&world).await;
    load(&first, 5, false);
    load(&second, 4, false);
    let reported = |connections: [u32; 2]| {
        move |now: &crate::wire::admin::BrokerSnapshot| {
            now.gateways.iter().map(|gateway| gateway.connections).eq(connections)
        }
    };
    world.until("both have reported", reported([5, 4])).await;

    // The first one is proposed each time. 4 and 5, then 5 and 5, then 6 and 5:
    // what was placed counts before anybody reports it.
    let same_group = || proposal([("gw-1", 9_000), ("gw-2", 1_000)]);
    let settled = placed(&mut first, 1, same_group()).await.settled.unwrap();
    assert_eq!(settled.gateway.as_str(), "gw-2");
    let lines = settled.explain.lines.iter();
    let lines: Vec<_> = lines.map(|line| (line.gateway.as_str(), line.connections)).collect();
    assert_eq!(lines, [("gw-2", 4), ("gw-1", 5)]);
    let mut both = [2, 3].map(|_| 0);
    for number in [2, 3] {
        let settled = placed(&mut first, number, same_group()).await.settled.unwrap();
        both[usize::from(settled.gateway.as_str() == "gw-2")] += 1;
    }
    assert_eq!(both, [1, 1]);
    // A higher group does not come into it while the lower has room.
    let near = || proposal([("gw-1", 9_000), ("gw-2", 10_000)]);
    assert_eq!(placed(&mut first, 4, near()).await.settled.unwrap().gateway.as_str(), "gw-1");
    load(&first, 1_000, false);
    world.until("it is full", reported([1_000, 4])).await;
    let placement = placed(&mut first, 5, near()).await;
    assert_eq!(placement.settled.unwrap().gateway.as_str(), "gw-2");
    load(&second, 4, true);
    world.until("it drains", |now| now.gateways[1].draining).await;
    ask(&first, 6, near());
    assert_eq!(first.place_refused().await, Code::NoGateway);
}

#[tokio::test]
async fn step_7_who_returns_stays_and_the_record_says_so() {
    let world = World::start("").await;
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    let mut agent = world.agent(&host, &[]).await;
    let [mut first, _second] = with_gateways(&world).await;
    let home = placed(&mut first, 1, proposal([("gw-1", 9_000), ("gw-2", 90_000)])).await;
    assert_eq!(home.settled.unwrap().gateway.as_str(), "gw-1");
    let wavered = || proposal([("gw-2", 1_000), ("gw-1", 11_000)]);
    // A place that nobody came for is no home.
    let settled = placed(&mut first, 2, wavered()).await.settled.unwrap();
    assert_eq!(settled.gateway.as_str(), "gw-2");
    first.orchestrate(1);
    agent.order().await;
    first.started(1);
    assert_eq!(first.answer().await, BrokerToGateway::Orchestrated { request: 101 });
    world.until("live", |now| now.sessions.iter().any(|view| view.started_at.is_some())).await;
    for number in [3, 4] {
        let settled = placed(&mut first, number, wavered()).await.settled.unwrap();
        assert_eq!(settled.gateway.as_str(), "gw-1");
        let (_, kept) = world.broker.explain(session(number)).await.unwrap();
        assert_eq!(kept, settled.explain);
        assert!(kept.reason().contains("the session is there or was a moment ago"));
        first.ended(1);
        world.until("over", |now| now.sessions.iter().all(|view| view.started_at.is_none())).await;
    }
}

#[tokio::test]
async fn a_token_is_checked_without_placing_anybody() {
    let world = World::start("").await;
    let gateway = world.enrol(MachineRole::Gateway, "gw-1").await;
    let mut gateway = world.gateway(&gateway, &[]).await;
    for (request, bearer, expected) in
        [(1, TOKEN, None), (2, "nobody's", Some(())), (3, "", Some(()))]
    {
        gateway.outbox.post(GatewayToBroker::CheckToken {
            request,
            bearer: bearer.into(),
            session: None,
        });
        match gateway.answer().await {
            BrokerToGateway::TokenChecked { request: of, refusal } => {
                assert_eq!((of, refusal.map(|_| ())), (request, expected));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(world.broker.snapshot().await.sessions.is_empty());
}

#[tokio::test]
async fn step_11_a_session_is_authenticated_again_by_its_user_alone() {
    const BOBS: &str = "token-of-bob";
    let world = World::start_adjusted("", |config| {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, BOBS.as_bytes());
        config.identity.static_tokens.push(StaticToken {
            user: "bob".into(),
            groups: vec![],
            token_sha256: hex::encode(hash),
        });
    })
    .await;
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    let mut agent = world.agent(&host, &[]).await;
    let mut gateways = with_gateways(&world).await;
    placed(&mut gateways[0], 1, proposal([("gw-1", 9_000), ("gw-2", 90_000)])).await;
    gateways[0].orchestrate(1);
    agent.order().await;
    gateways[0].started(1);
    assert_eq!(gateways[0].answer().await, BrokerToGateway::Orchestrated { request: 101 });

    let of_ann = Some(session(1));
    for (gateway, bearer, of, expected) in [
        (0, TOKEN, of_ann, None),
        (0, BOBS, of_ann, Some(Code::TokenOfOtherUser)),
        (0, "nobody's", of_ann, Some(Code::TokenUnknownKey)),
        (0, TOKEN, Some(session(9)), Some(Code::SessionUnknown)),
        (0, BOBS, None, None),
        // It is not there.
        (1, TOKEN, of_ann, Some(Code::SessionUnknown)),
    ] {
        let (gateway, bearer) = (&mut gateways[gateway], bearer.into());
        gateway.outbox.post(GatewayToBroker::CheckToken { request: 7, bearer, session: of });
        let BrokerToGateway::TokenChecked { refusal, .. } = gateway.answer().await else {
            panic!("another answer");
        };
        assert_eq!(refusal.map(|refusal| refusal.code), expected);
    }
}
