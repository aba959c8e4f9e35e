//! The broker dies: live sessions do not notice, agents and gateways return by
//! themselves to the one that takes its place, and it counts what lives.

use std::sync::Arc;

use ringway::core::codes::Code;
use ringway::core::placement::Phase;
use ringway::demo::world::WorldSettings;

use crate::support::legs::End;
use crate::support::scripted_host::ScriptedHost;
use crate::support::stage::{Seated, Stage, settings};
use crate::support::targets::Echo;
use crate::support::wait::until;

async fn assert_echoes(seat: &mut Seated, text: &str) {
    seat.leg.send(text.as_bytes()).await;
    assert_eq!(seat.leg.receive(text.len()).await, text.as_bytes());
}

/// Waits until gateways and agents know that their broker is gone.
async fn until_missed(stage: &Stage) {
    use std::sync::atomic::Ordering::Relaxed;
    until("the gateways miss the broker", || {
        let mut gateways = stage.world.gateways.iter();
        gateways.all(|gateway| !gateway.shared().broker_connected.load(Relaxed))
    })
    .await;
}

/// Waits until everybody is back at the broker.
async fn until_returned(stage: &Stage) {
    let returned = stage.world.until("everybody is back", |world, now| {
        now.gateways.len() == world.gateways.len()
            && now.hosts.iter().filter(|host| host.connected).count() == world.agents.len()
    });
    returned.await.unwrap();
}

#[tokio::test]
async fn step11_live_sessions_survive_the_broker_and_are_counted_by_the_next() {
    let settings = WorldSettings { sessions_per_host_max: 2, ..settings() };
    let mut stage = Stage::start_with_host(settings, Echo).await;
    let mut alice = stage.open("alice").await.unwrap();
    let mut bob = stage.open("bob").await.unwrap();
    stage.world.kill_broker().await.unwrap();
    assert_echoes(&mut alice, "before anybody noticed").await;
    until_missed(&stage).await;
    assert_echoes(&mut alice, "without a broker").await;
    assert_eq!(stage.place("carol").await.unwrap_err().code, Code::BrokerUnreachable);
    // One session ends while nobody counts.
    bob.leg.close().await;
    assert_eq!(bob.leg.end().await, End::Clean);
    until("the agent has seen bob's end", || {
        stage.world.agents[0].live_sessions() == [alice.session]
    })
    .await;
    until("the gateway has", || !stage.relays(&bob.gateway, bob.session)).await;

    stage.world.revive_broker().await.unwrap();
    until_returned(&stage).await;
    let adopted = stage.world.until("the live session is counted", |_, now| {
        now.sessions.len() == 1
            && now.sessions[0].gateway.is_some()
            && now.sessions[0].host.is_some()
    });
    adopted.await.unwrap();
    let (view, _) = stage.explained(alice.session).await;
    assert_eq!((view.phase, view.gateway.as_ref()), (Some(Phase::Live), Some(&alice.gateway)));
    assert_eq!(stage.host("host-1").await.sessions, 1);
    assert_echoes(&mut alice, "with another broker").await;

    // The limit holds across the change: one place is left, and not two.
    let carol = stage.open("carol").await.unwrap();
    assert_eq!(stage.place("bob").await.unwrap_err().code, Code::PoolFull);
    alice.leg.close().await;
    assert_eq!(alice.leg.end().await, End::Clean);
    let freed = stage.world.until("alice's place is free", |_, now| now.sessions.len() == 1);
    freed.await.unwrap();
    drop((stage.open("bob").await.unwrap(), carol));
    stage.until_free().await;
    stage.shutdown().await;
}

#[tokio::test]
async fn step08_clients_that_wait_when_the_broker_dies_are_told() {
    let mut stage = Stage::start().await;
    let mut host = ScriptedHost::start(&stage, "host-1").await;
    let place = stage.place("alice").await.unwrap();
    let url = place.gateway_location.expose().to_owned();
    let dialer = stage.dialer.clone();
    let ticket = place.ringway.ticket.expose().to_owned();
    let waiting = tokio::spawn(async move {
        let mut leg = crate::support::stage::dial(&dialer, &url).await;
        let role = ringway::core::tickets::Role::Client;
        leg.ask(&crate::support::legs::request(role, &ticket)).await.code()
    });
    host.order().await;
    stage.world.kill_broker().await.unwrap();
    assert_eq!(waiting.await.unwrap(), Code::BrokerUnreachable);
    stage.world.revive_broker().await.unwrap();
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_tickets_of_the_broker_that_died_are_good_but_their_places_are_gone() {
    let mut stage = Stage::start_with_host(settings(), Echo).await;
    let place = stage.place("alice").await.unwrap();
    stage.world.kill_broker().await.unwrap();
    until_missed(&stage).await;
    stage.world.revive_broker().await.unwrap();
    until_returned(&stage).await;
    // Its key is on disk, its reservations are not.
    let refusal = stage.join(&place).await.unwrap_err();
    assert_eq!(refusal.code, Code::ReservationExpired, "{refusal}");
    let mut again = stage.open("alice").await.unwrap();
    assert_echoes(&mut again, "second try").await;
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_what_an_operator_drained_stays_drained() {
    let mut stage = Stage::start_with_host(settings(), Echo).await;
    stage.world.add_host("host-2", Arc::new(Echo)).await.unwrap();
    let host = "host-1".parse().unwrap();
    stage.ask_broker(&ringway::wire::admin::AdminRequest::Drain { host, undo: false });
    stage.world.kill_broker().await.unwrap();
    until_missed(&stage).await;
    stage.world.revive_broker().await.unwrap();
    until_returned(&stage).await;
    assert!(stage.host("host-1").await.draining);
    for user in ["alice", "bob"] {
        assert_eq!(stage.place(user).await.unwrap().ringway.host.as_str(), "host-2");
    }
    stage.shutdown().await;
}
