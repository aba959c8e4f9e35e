//! Clients that are back before their last session is over, at a host with one
//! seat.

use super::super::testing::{FakeAgent, FakeGateway, World, session};
use crate::core::codes::Code;
use crate::core::placement::Phase;
use crate::wire::channel::{AgentToBroker, BrokerToGateway};
use crate::wire::enroll::MachineRole;

const HERE: &str = "192.0.2.1:5001";

async fn one_seat() -> (World, FakeAgent, FakeGateway) {
    let world = World::start_adjusted("", |broker| {
        broker.pools[0].sessions_per_host_max = 1;
    })
    .await;
    let (agent, gateway) = world.with_machines().await;
    (world, agent, gateway)
}

async fn live(world: &World, agent: &mut FakeAgent, gateway: &mut FakeGateway, number: u8) {
    gateway.orchestrate(number);
    assert_eq!(agent.order().await.session, session(number));
    agent.outbox.post(AgentToBroker::OrderAccepted { session: session(number) });
    let accepted = BrokerToGateway::Orchestrated { request: 100 + u64::from(number) };
    assert_eq!(gateway.answer().await, accepted);
    gateway.started(number);
    world.until("live", |now| now.sessions[0].phase == Some(Phase::Live)).await;
}

#[tokio::test]
async fn a_client_that_is_back_has_the_only_seat_and_the_old_session_ends() {
    let (world, mut agent, mut gateway) = one_seat().await;
    gateway.place(1).await;
    live(&world, &mut agent, &mut gateway, 1).await;
    gateway.come_back(2, HERE);
    assert_eq!(gateway.cancelled().await, (session(1), Code::ClientDidNotArrive));
    assert_eq!(gateway.placed().await.host.as_str(), "host-1");
    // The host hears of the end before the next order, and sees one at a time.
    assert_eq!(agent.cancelled().await, (session(1), Code::ClientDidNotArrive));
    live(&world, &mut agent, &mut gateway, 2).await;
    let now = world.broker.snapshot().await;
    assert_eq!((now.sessions.len(), now.hosts[0].sessions), (1, 1));
    // What the gateway says of the old one is kept.
    gateway.ended(1);
    let told = async || world.broker.explain(session(1)).await.unwrap().0.end;
    while told().await.as_deref() != Some("client_closed") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_is_back_while_its_host_is_on_its_way_has_it_too() {
    let (_world, mut agent, mut gateway) = one_seat().await;
    gateway.place(1).await;
    gateway.orchestrate(1);
    agent.order().await;
    gateway.come_back(2, HERE);
    assert_eq!(gateway.orchestrate_refused().await, Code::ClientDidNotArrive);
    assert_eq!(gateway.cancelled().await.0, session(1));
    assert_eq!(gateway.placed().await.host.as_str(), "host-1");
    assert_eq!(agent.cancelled().await.0, session(1));
}

#[tokio::test]
async fn nobody_else_has_it_not_even_the_same_user_elsewhere() {
    let (world, mut agent, mut gateway) = one_seat().await;
    gateway.place(1).await;
    live(&world, &mut agent, &mut gateway, 1).await;
    gateway.come_back(2, "192.0.2.2:5000");
    assert_eq!(gateway.place_refused().await, Code::PoolFull);
    // One that does not come back but asks for a session, and might have two.
    gateway.ask_for(3, "desktop", super::super::testing::TOKEN);
    assert_eq!(gateway.place_refused().await, Code::PoolFull);
    assert_eq!(world.broker.snapshot().await.hosts[0].sessions, 1);
}

#[tokio::test]
async fn a_client_that_is_back_a_moment_later_has_its_host_though_another_is_emptier() {
    let (world, mut agent, mut gateway) = one_seat().await;
    gateway.place(1).await;
    live(&world, &mut agent, &mut gateway, 1).await;
    let earlier = world.enrol(MachineRole::Agent, "host-0").await;
    let _earlier = world.agent(&earlier, &[]).await;
    gateway.ended(1);
    world.until("free", |now| now.sessions.is_empty()).await;
    gateway.come_back(2, HERE);
    assert_eq!(gateway.placed().await.host.as_str(), "host-1");
    // Who comes anew goes by the order of the pool.
    gateway.ask_for(3, "desktop", super::super::testing::TOKEN);
    assert_eq!(gateway.placed().await.host.as_str(), "host-0");
}
