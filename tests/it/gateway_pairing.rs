//! Steps 8 to 11: a client waits, its host comes, or it does not.

use std::time::Duration;

use ringway::core::codes::{Code, Refusal};
use ringway::core::ids::SessionId;
use ringway::core::tickets::Role;
use ringway::gateway::shared::lock;
use ringway::wire::channel::{BrokerToGateway, GatewayToBroker};
use tokio::time::Instant;

use crate::support::fake_broker::{Answer, random_id};
use crate::support::legs::{End, dial, request};
use crate::support::pattern;
use crate::support::wait::{until, within};
use crate::support::world::World;

fn waiting(world: &World) -> usize {
    lock(&world.gateway.shared().pairing).len()
}

fn started(world: &World, of: SessionId) -> usize {
    world
        .broker
        .heard(|heard| {
            matches!(heard.message, GatewayToBroker::SessionStarted { session } if session == of)
                .then_some(())
        })
        .len()
}

/// The session never was, its slot is free, and a host that comes now is told.
async fn came_to_nothing(world: &World, session: SessionId, code: Code) {
    assert_eq!(world.close_reason(session).await, code.to_string());
    assert_eq!(started(world, session), 0);
    assert_eq!(waiting(world), 0);
    let late = world.leg(Role::Host, session).await;
    assert_eq!(late.unwrap_err().code, Code::SessionUnknown);
}

#[tokio::test]
async fn step_11_both_legs_are_joined_and_the_broker_knows() {
    let world = World::start().await;
    let mut pair = world.pair().await;
    pair.assert_alive().await;
    until("the broker hears of it", || started(&world, pair.session) == 1).await;
    assert_eq!(waiting(&world), 0);
    assert_eq!(world.gateway.shared().sessions(), 1);
    until("the lobby is done with them", || world.gateway.in_lobby() == 0).await;

    pair.client.close().await;
    assert_eq!(pair.host.end().await, End::Clean);
    pair.host.close().await;
    assert_eq!(pair.client.end().await, End::Clean);
    assert_eq!(world.close_reason(pair.session).await, "client_closed");
    let bytes = world.broker.heard(|heard| match heard.message {
        GatewayToBroker::SessionEnded { bytes_up, bytes_down, .. } => Some((bytes_up, bytes_down)),
        _ => None,
    });
    assert_eq!(bytes, [(11, 13)]);
    assert_eq!(world.gateway.shared().sessions(), 0);
}

#[tokio::test]
async fn step_8_a_client_that_leaves_while_waiting_is_forgotten() {
    let world = World::start().await;
    let mut bystander = world.bystander().await;
    for leave_cleanly in [true, false] {
        let session = random_id();
        let mut client = dial(world.gateway.address, &world.tls).await;
        client.send(request(Role::Client, &world.ticket(Role::Client, session)).as_bytes()).await;
        until("it waits", || world.broker.orchestrations().contains(&session)).await;
        if leave_cleanly {
            client.close().await;
        } else {
            client.reset();
        }
        came_to_nothing(&world, session, Code::ClientDidNotArrive).await;
    }
    until("the lobby is empty again", || world.gateway.in_lobby() == 0).await;
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn step_10_a_host_that_does_not_come_is_given_up_at_the_deadline() {
    const PAIR_TIMEOUT: Duration = Duration::from_millis(300);
    let world = World::start_with(|config| {
        config.limits.pair_timeout_ms = u64::try_from(PAIR_TIMEOUT.as_millis()).unwrap();
    })
    .await;
    let mut bystander = world.bystander().await;
    let (session, asked_at) = (random_id(), Instant::now());
    let refusal = world.leg(Role::Client, session).await.unwrap_err();
    assert_eq!(refusal.code, Code::HostDidNotArrive);
    assert!(asked_at.elapsed() >= PAIR_TIMEOUT, "it was not given its time");
    came_to_nothing(&world, session, Code::HostDidNotArrive).await;
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn step_9_the_client_is_told_why_no_host_comes() {
    let world = World::start_with(|config| config.limits.broker_timeout_ms = 300).await;
    let mut bystander = world.bystander().await;
    for code in [
        Code::HostRefused,
        Code::HostBusy,
        Code::HostNoAnswer,
        Code::HostDraining,
        Code::HostGone,
        Code::PoolFull,
        Code::NoHostAvailable,
        Code::ReservationExpired,
    ] {
        let told = Refusal { retry_after_ms: Some(700), ..Refusal::with_detail(code, "why") };
        world.broker.on_orchestrate(Answer::No(told.clone()));
        let session = random_id();
        assert_eq!(world.leg(Role::Client, session).await.unwrap_err(), told);
        came_to_nothing(&world, session, code).await;
        assert_eq!(world.gateway.refusals(code), 1);
    }
    world.broker.on_orchestrate(Answer::Silence);
    let session = random_id();
    let refusal = world.leg(Role::Client, session).await.unwrap_err();
    assert_eq!(refusal.code, Code::BrokerUnreachable);
    came_to_nothing(&world, session, Code::BrokerUnreachable).await;
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn step_10_a_host_that_dies_between_order_and_dial_is_reported_to_the_client() {
    let world = World::start().await;
    let mut bystander = world.bystander().await;
    let session = random_id();
    let client = world.waiting_client(session).await;
    let refusal = Refusal::new(Code::HostGone);
    world.broker.send(&world.gateway.id, BrokerToGateway::Cancel { session, refusal });
    let refusal = within("the client is told", client).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::HostGone);
    came_to_nothing(&world, session, Code::HostGone).await;
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn the_broker_can_end_a_session_that_is_relayed() {
    let world = World::start().await;
    let mut bystander = world.bystander().await;
    let mut pair = world.pair().await;
    pair.assert_alive().await;
    let (session, refusal) = (pair.session, Refusal::new(Code::HostGone));
    world.broker.send(&world.gateway.id, BrokerToGateway::Cancel { session, refusal });
    assert_eq!(pair.client.end().await, End::Clean);
    assert_eq!(pair.host.end().await, End::Clean);
    assert_eq!(world.close_reason(session).await, "disconnected");
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn too_many_waiting_clients_are_refused_and_the_waiting_ones_are_not() {
    let world = World::start_with(|config| config.limits.waiting_per_address_max = 3).await;
    let mut bystander = world.bystander().await;
    let sessions = [random_id(), random_id(), random_id()];
    let mut clients = Vec::new();
    for session in sessions {
        clients.push(world.waiting_client(session).await);
    }
    let asked = world.broker.questions();
    let one_too_many = random_id();
    let refusal = world.leg(Role::Client, one_too_many).await.unwrap_err();
    assert_eq!(refusal.code, Code::TooManyWaiting);
    assert_eq!(world.broker.questions(), asked);
    // Its ticket is used up: nobody will come for its place.
    assert_eq!(world.close_reason(one_too_many).await, Code::TooManyWaiting.to_string());

    for (session, client) in sessions.into_iter().zip(clients) {
        let mut host = world.leg(Role::Host, session).await.unwrap();
        let mut client = within("its answer", client).await.unwrap().unwrap();
        host.send(b"hello").await;
        assert_eq!(client.receive(5).await, b"hello");
    }
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn a_full_gateway_takes_no_further_clients() {
    let world = World::start_with(|config| config.limits.sessions_max = 2).await;
    let mut pair = world.pair().await;
    let _waiting = world.waiting_client(random_id()).await;
    let asked = world.broker.questions();
    // One is relayed and one waits for its host: both places are taken.
    let refusal = world.leg(Role::Client, random_id()).await.unwrap_err();
    assert_eq!(refusal.code, Code::GatewayFull);
    assert_eq!(world.broker.questions(), asked);
    pair.assert_alive().await;
}

/// What the client sends with its request, and while it waits, is the front of
/// what the host receives.
#[tokio::test]
async fn step_12_early_bytes_of_the_client_arrive_in_order() {
    const LENGTH: usize = 400_000;
    let world = World::start().await;
    for early in [0, 1, 30_000, 200_000] {
        let session = random_id();
        let ticket = world.ticket(Role::Client, session);
        let client = dial(world.gateway.address, &world.tls).await;
        let (mut reading, mut writing) = tokio::io::split(client.0);
        let client = async {
            let head = request(Role::Client, &ticket);
            let mut first = head.into_bytes();
            first.extend_from_slice(pattern::piece(1, 0, early.min(pattern::PIECE_MAX)));
            let from = early.min(pattern::PIECE_MAX);
            let write = async {
                use tokio::io::AsyncWriteExt as _;
                writing.write_all(&first).await.unwrap();
                pattern::send(&mut writing, 1, from..LENGTH, 16_000).await.unwrap();
            };
            let read = async {
                let reply = crate::support::legs::read_reply(&mut reading).await.unwrap();
                assert_eq!(reply.status, 101, "{reply:?}");
            };
            tokio::join!(write, read);
        };
        let host = async {
            until("the broker is asked", || world.broker.orchestrations().contains(&session)).await;
            let mut host = world.leg(Role::Host, session).await.unwrap();
            pattern::expect(&mut host.0, 1, 0..LENGTH).await;
        };
        within("early bytes", async { tokio::join!(client, host) }).await;
    }
}

/// Sessions that end as soon as they begin: the broker hears of the beginning
/// first, or not at all.
#[tokio::test]
async fn no_session_begins_for_the_broker_after_it_ended() {
    let world = World::start().await;
    for _ in 0..40 {
        let pair = world.pair().await;
        pair.client.reset();
        world.close_reason(pair.session).await;
    }
    let mut ended = std::collections::HashSet::new();
    world.broker.heard(|heard| Some(heard.message.clone())).into_iter().for_each(|message| {
        match message {
            GatewayToBroker::SessionEnded { session, .. } => {
                ended.insert(session);
            }
            GatewayToBroker::SessionStarted { session } => {
                assert!(!ended.contains(&session), "{session} began after it ended");
            }
            _ => {}
        }
    });
    assert_eq!(ended.len(), 40);
}

/// Legs that were accepted by different lobby threads meet all the same, and
/// sessions spread over the workers.
#[tokio::test]
async fn legs_meet_across_lobby_threads() {
    let world = World::start_with(|config| {
        config.threads.lobby_threads = 3;
        config.threads.relay_workers = 2;
    })
    .await;
    let mut pairs = Vec::new();
    for _ in 0..20 {
        pairs.push(world.pair().await);
    }
    for pair in &mut pairs {
        pair.assert_alive().await;
    }
    let loads: Vec<u64> = world
        .gateway
        .shared()
        .workers
        .iter()
        .map(|worker| worker.stats.sessions.load(std::sync::atomic::Ordering::Relaxed))
        .collect();
    assert_eq!(loads, [10, 10]);
}
