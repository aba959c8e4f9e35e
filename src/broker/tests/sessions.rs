//! Orders, losses and restarts (steps 8 to 11).

use std::sync::{Arc, Mutex};

use super::super::testing::{FakeGateway, World, session};
use crate::channel::pump::PumpEnd;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::GatewayId;
use crate::core::placement::Phase;
use crate::core::tickets::{Role, TicketVerifier};
use crate::wire::channel::{AgentToBroker, BrokerToGateway, GatewayToBroker, VERSION};
use crate::wire::enroll::MachineRole;

#[tokio::test]
async fn an_order_goes_all_the_way_and_back() {
    let world = World::start("").await;
    let (mut agent, mut gateway) = world.with_machines().await;
    let placement = gateway.place(1).await;
    assert_eq!(placement.session, session(1));
    assert_eq!(placement.host.as_str(), "host-1");
    assert_eq!(placement.gateway_url, "https://gw.example:443");

    gateway.orchestrate(1);
    let order = agent.order().await;
    assert_eq!((order.session, order.gateway_url.as_str()), (session(1), "https://gw.example:443"));
    agent.outbox.post(AgentToBroker::OrderAccepted { session: session(1) });
    assert_eq!(gateway.answer().await, BrokerToGateway::Orchestrated { request: 101 });

    // Both tickets are for this gateway, session and host, each for one role.
    let key = world.broker.shared.core.snapshot().await;
    assert_eq!(key.sessions[0].phase, Some(Phase::Accepted));
    let verifier = TicketVerifier::new(&published_keys(&mut gateway).await);
    let here: GatewayId = "gw-1".parse().unwrap();
    for (ticket, role) in [(&placement.client_ticket, Role::Client), (&order.ticket, Role::Host)] {
        let ticket = ticket.expose();
        let claims = verifier.verify(ticket, &here, role, UnixMillis::now()).unwrap();
        assert_eq!((claims.session, claims.host.as_str()), (session(1), "host-1"));
    }

    gateway.started(1);
    world.until("live", |now| now.sessions[0].phase == Some(Phase::Live)).await;
    assert_eq!(world.broker.snapshot().await.hosts[0].sessions, 1);
    gateway.ended(1);
    gateway.ended(1);
    agent.outbox.post(AgentToBroker::SessionEnded {
        session: session(1),
        bytes_up: 1,
        bytes_down: 2,
    });
    world.until("freed", |now| now.sessions.is_empty() && now.hosts[0].sessions == 0).await;
    world.broker.shutdown().await;
    assert!(agent.end.await.unwrap().to_string().contains("the broker is stopping"));
}

async fn published_keys(
    gateway: &mut super::super::testing::FakeGateway,
) -> Vec<crate::core::tickets::PublishedKey> {
    loop {
        if let Some(BrokerToGateway::Gateways { ticket_keys, gateways }) =
            gateway.inbound.recv().await
        {
            assert_eq!(gateways[0].gateway.as_str(), "gw-1");
            return ticket_keys;
        }
    }
}

#[tokio::test]
async fn a_host_that_does_not_answer_gives_its_place_back() {
    let world = World::start("order_answer_timeout_ms = 60").await;
    let (mut agent, mut gateway) = world.with_machines().await;
    gateway.place(1).await;
    gateway.orchestrate(1);
    assert_eq!(agent.order().await.session, session(1));
    assert_eq!(gateway.orchestrate_refused().await, Code::HostNoAnswer);
    assert_eq!(agent.cancelled().await, (session(1), Code::HostNoAnswer));
    assert!(world.broker.snapshot().await.sessions.is_empty());
    // The answer that comes too late is void.
    agent.outbox.post(AgentToBroker::OrderAccepted { session: session(1) });
    assert_eq!(agent.cancelled().await, (session(1), Code::ReservationExpired));
    assert_eq!(world.broker.snapshot().await.hosts[0].sessions, 0);
}

#[tokio::test]
async fn a_host_that_refuses_or_fails_is_reported_with_its_reason() {
    let world = World::start("").await;
    let (mut agent, mut gateway) = world.with_machines().await;
    gateway.place(1).await;
    gateway.orchestrate(1);
    agent.order().await;
    let refusal = Refusal::new(Code::HostRefused);
    agent.outbox.post(AgentToBroker::OrderRefused { session: session(1), refusal });
    assert_eq!(gateway.orchestrate_refused().await, Code::HostRefused);

    gateway.place(2).await;
    gateway.orchestrate(2);
    agent.order().await;
    agent.outbox.post(AgentToBroker::OrderAccepted { session: session(2) });
    assert_eq!(gateway.answer().await, BrokerToGateway::Orchestrated { request: 102 });
    let refusal = Refusal::new(Code::HostDialFailed);
    agent.outbox.post(AgentToBroker::OrderFailed { session: session(2), refusal });
    assert_eq!(gateway.cancelled().await, (session(2), Code::HostDialFailed));
    assert!(world.broker.snapshot().await.sessions.is_empty());
}

#[tokio::test]
async fn a_broken_host_does_not_swallow_its_pool() {
    let world = World::start("").await;
    let (mut broken, mut gateway) = world.with_machines().await;
    let second = world.enrol(MachineRole::Agent, "host-2").await;
    let second = world.agent(&second, &[]).await;
    assert_eq!(gateway.place(1).await.host.as_str(), "host-1");
    gateway.orchestrate(1);
    broken.order().await;
    let refusal = Refusal::new(Code::HostRefused);
    broken.outbox.post(AgentToBroker::OrderRefused { session: session(1), refusal });
    assert_eq!(gateway.orchestrate_refused().await, Code::HostRefused);
    assert!(world.broker.snapshot().await.hosts[0].paused);
    for number in 2..=4 {
        assert_eq!(gateway.place(number).await.host.as_str(), "host-2");
    }
    // One that stops is given nobody, and then the broken one is better than none.
    second.outbox.post(AgentToBroker::Draining);
    world.until("stopping", |now| now.hosts[1].draining).await;
    assert_eq!(gateway.place(5).await.host.as_str(), "host-1");
}

#[tokio::test]
async fn a_users_oldest_place_gives_way() {
    let world = World::start("").await;
    let (_agent, mut gateway) = world.with_machines().await;
    for number in 1..=4 {
        gateway.place(number).await;
    }
    let now = world.broker.snapshot().await;
    let held: Vec<_> = now.sessions.iter().map(|view| view.session).collect();
    assert_eq!(held, [2, 3, 4].map(session));
    gateway.orchestrate(1);
    assert_eq!(gateway.orchestrate_refused().await, Code::ReservationExpired);
}

#[tokio::test]
async fn a_host_that_dies_between_order_and_start_is_cancelled() {
    let world = World::start("").await;
    let (mut agent, mut gateway) = world.with_machines().await;
    gateway.place(1).await;
    gateway.orchestrate(1);
    agent.order().await;
    agent.outbox.post(AgentToBroker::OrderAccepted { session: session(1) });
    assert_eq!(gateway.answer().await, BrokerToGateway::Orchestrated { request: 101 });
    agent.die().await;
    assert_eq!(gateway.cancelled().await, (session(1), Code::HostGone));
    let now = world.broker.snapshot().await;
    assert!(now.sessions.is_empty() && !now.hosts[0].connected, "{now:?}");
    gateway.ask_for(2, "desktop", super::super::testing::TOKEN);
    assert_eq!(gateway.place_refused().await, Code::NoHostAvailable);
}

#[tokio::test]
async fn a_client_that_leaves_while_the_host_is_on_its_way_frees_the_place() {
    let world = World::start("").await;
    let (mut agent, mut gateway) = world.with_machines().await;
    gateway.place(1).await;
    gateway.orchestrate(1);
    agent.order().await;
    gateway.ended(1);
    assert_eq!(agent.cancelled().await, (session(1), Code::ClientDidNotArrive));
    assert!(world.broker.snapshot().await.sessions.is_empty());
}

#[tokio::test]
async fn only_the_reserved_gateway_orders_and_only_while_the_reservation_holds() {
    let world = World::start("reservation_ms = 400").await;
    let (_agent, mut gateway) = world.with_machines().await;
    let other = world.enrol(MachineRole::Gateway, "gw-2").await;
    let mut other = world.gateway(&other, &[]).await;
    gateway.place(1).await;
    other.orchestrate(1);
    assert_eq!(other.orchestrate_refused().await, Code::ReservationExpired);
    world.until("expired", |now| now.sessions.is_empty()).await;
    gateway.orchestrate(1);
    assert_eq!(gateway.orchestrate_refused().await, Code::ReservationExpired);
}

#[tokio::test]
async fn fifty_at_once_get_exactly_the_places_there_are() {
    let world = World::start("reservations_per_user_max = 100").await;
    let (_agent, mut gateway) = world.with_machines().await;
    let second = world.enrol(MachineRole::Agent, "host-2").await;
    let _second = world.agent(&second, &[]).await;
    for number in 1..=50 {
        gateway.ask_for(number, "desktop", super::super::testing::TOKEN);
    }
    let (mut placed, mut refused) = (0, 0);
    for _ in 0..50 {
        match gateway.answer().await {
            BrokerToGateway::Placed { .. } => placed += 1,
            BrokerToGateway::PlaceRefused { refusal, .. } => {
                assert_eq!(refusal.code, Code::PoolFull);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((placed, refused), (10, 40));
    let now = world.broker.snapshot().await;
    assert_eq!(now.hosts.iter().map(|host| host.sessions).collect::<Vec<_>>(), [5, 5]);
    assert_eq!(now.gateways[0].in_flight, 10);
    gateway.outbox.post(GatewayToBroker::Load { connections: 0, waiting: 0, draining: true });
    world.until("reported", |now| now.gateways[0].draining).await;
    // None of them is relayed yet, and the report does not make them vanish.
    assert_eq!(world.broker.snapshot().await.gateways[0].in_flight, 10);
    gateway.ask_for(60, "desktop", super::super::testing::TOKEN);
    assert_eq!(gateway.place_refused().await, Code::GatewayDraining);
}

#[tokio::test]
async fn a_restarted_broker_counts_what_lives() {
    let world = World::start("").await;
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    let gateway = world.enrol(MachineRole::Gateway, "gw-1").await;
    let world = world.restart().await;
    let away = world.broker.snapshot().await;
    assert!(!away.hosts[0].connected, "enrolled hosts are known before they connect");

    let live: Vec<_> = (1..=5).map(session).collect();
    let mut gateway = world.gateway(&gateway, &live).await;
    let _agent = world.agent(&host, &live).await;
    world.until("counted", |now| now.hosts[0].sessions == 5).await;
    gateway.ask_for(9, "desktop", super::super::testing::TOKEN);
    assert_eq!(gateway.place_refused().await, Code::PoolFull);
    gateway.ended(5);
    world.until("one free", |now| now.hosts[0].sessions == 4).await;
    assert_eq!(gateway.place(9).await.host.as_str(), "host-1");
}

#[tokio::test]
async fn a_gateway_that_returns_says_what_is_left() {
    let world = World::start("").await;
    let (mut agent, mut first) = world.with_machines().await;
    for number in [1, 2] {
        first.place(number).await;
        first.orchestrate(number);
        agent.order().await;
        agent.outbox.post(AgentToBroker::OrderAccepted { session: session(number) });
        first.answer().await;
        first.started(number);
    }
    world.until("live", |now| now.sessions.iter().all(|s| s.phase == Some(Phase::Live))).await;
    let credentials = world.enrol(MachineRole::Gateway, "gw-1").await;
    first.die().await;
    world.until("away", |now| now.gateways.is_empty()).await;
    assert_eq!(world.broker.snapshot().await.hosts[0].sessions, 2, "still counted");
    let _again = world.gateway(&credentials, &[session(2)]).await;
    world.until("reconciled", |now| now.hosts[0].sessions == 1).await;
    assert_eq!(world.broker.snapshot().await.sessions[0].session, session(2));
}

#[tokio::test]
async fn a_long_hello_is_reconciled_once_it_is_whole() {
    let world = World::start("").await;
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    let credentials = world.enrol(MachineRole::Gateway, "gw-1").await;
    let all: Vec<_> = (1..=6).map(session).collect();
    let first = world.gateway(&credentials, &all).await;
    let _agent = world.agent(&host, &all).await;
    world.until("counted", |now| now.hosts[0].sessions == 6).await;
    first.die().await;

    let mut again: FakeGateway =
        world.channel("/channel/gateway", Some(&credentials)).await.unwrap();
    again.outbox.post(GatewayToBroker::Hello {
        version: VERSION,
        software: "fake".into(),
        url: "https://gw.example:443".into(),
        capacity: 1_000,
        live: vec![session(1)],
        more: true,
    });
    again.outbox.post(GatewayToBroker::AlsoLive { live: vec![session(2)], more: true });
    // Nothing is freed on half of the news.
    assert_eq!(world.broker.snapshot().await.hosts[0].sessions, 6);
    again.outbox.post(GatewayToBroker::AlsoLive { live: vec![session(3)], more: false });
    assert!(matches!(again.answer().await, BrokerToGateway::Welcome { .. }));
    world.until("reconciled", |now| now.hosts[0].sessions == 3).await;

    let odd: FakeGateway = world.channel("/channel/gateway", Some(&credentials)).await.unwrap();
    odd.outbox.post(GatewayToBroker::Hello {
        version: VERSION,
        software: "fake".into(),
        url: "https://gw.example:443".into(),
        capacity: 1_000,
        live: vec![],
        more: true,
    });
    odd.outbox.post(GatewayToBroker::Load { connections: 0, waiting: 0, draining: false });
    let PumpEnd::PeerSaidGoodbye(refusal) = odd.end.await.unwrap() else { panic!() };
    assert_eq!(refusal.code, Code::RequestMalformed);
}

#[tokio::test]
async fn a_session_without_a_place_is_ended() {
    let world = World::start("").await;
    let (mut agent, mut gateway) = world.with_machines().await;
    gateway.started(7);
    assert_eq!(gateway.cancelled().await, (session(7), Code::SessionUnknown));
    agent.outbox.post(AgentToBroker::SessionStarted { session: session(7) });
    assert_eq!(agent.cancelled().await, (session(7), Code::SessionUnknown));
}

#[tokio::test]
async fn the_timeline_hears_of_each_step() {
    crate::tls::install_provider();
    let dir = super::super::testing::TemporaryDir::new();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&steps);
    let timeline: crate::observe::timeline::Timeline =
        Arc::new(move |event| heard.lock().unwrap().push((event.step, event.session)));
    let config = super::super::testing::config(dir.path(), "", "");
    let broker = super::super::Broker::start(config, Some(timeline)).await.unwrap();
    let world = World { dir, broker };
    let (mut agent, mut gateway) = world.with_machines().await;
    gateway.place(1).await;
    gateway.orchestrate(1);
    agent.order().await;
    gateway.started(1);
    assert_eq!(gateway.answer().await, BrokerToGateway::Orchestrated { request: 101 });
    world.until("live", |now| now.sessions[0].phase == Some(Phase::Live)).await;
    let steps: Vec<_> = steps.lock().unwrap().clone();
    assert_eq!(steps, [8, 9, 9, 11].map(|step| (step, Some(session(1)))));
}
