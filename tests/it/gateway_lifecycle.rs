//! A gateway outlives its broker, and stops in good order.

use std::time::Duration;

use ringway::core::codes::Code;
use ringway::core::tickets::Role;
use ringway::gateway::health::Ailment;
use ringway::gateway::relay::Command;
use ringway::gateway::shared::lock;
use ringway::observe::close_reason::CloseReason;
use ringway::wire::admin::{AdminRequest, AdminResponse};
use ringway::wire::channel::GatewayToBroker;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::support::fake_broker::random_id;
use crate::support::legs::{End, dial, knock};
use crate::support::pusher::{Pusher, small_socket_buffers};
use crate::support::wait::{PATIENCE, until, within};
use crate::support::world::World;

#[tokio::test]
async fn live_sessions_outlive_the_broker_and_are_reported_to_its_successor() {
    let mut world = World::start().await;
    let mut bystander = world.bystander().await;
    let mut other = world.pair().await;
    until("both are entered", || lock(&world.gateway.shared().live).len() == 2).await;
    let hellos = |world: &World| {
        world.broker.heard(|heard| match &heard.message {
            GatewayToBroker::Hello { live, .. } => Some(live.clone()),
            _ => None,
        })
    };
    assert_eq!(hellos(&world), [vec![]]);

    world.broker.die().await;
    bystander.assert_undisturbed().await;
    let down =
        || !world.gateway.shared().broker_connected.load(std::sync::atomic::Ordering::Relaxed);
    until("the gateway has noticed", down).await;
    // A client that comes now is told, and nobody waits in vain.
    let refusal = world.leg(Role::Client, random_id()).await.unwrap_err();
    assert_eq!(refusal.code, Code::BrokerUnreachable);
    // What ends while nobody listens is missing in the next hello.
    other.assert_alive().await;
    other.client.reset();
    until("its end is noticed", || lock(&world.gateway.shared().live).len() == 1).await;

    world.broker.open();
    until("the gateway is back", || hellos(&world).len() >= 2).await;
    assert_eq!(hellos(&world).last(), Some(&vec![bystander.session]));
    bystander.assert_undisturbed().await;
    world.pair().await.assert_alive().await;
}

#[tokio::test]
async fn a_client_that_waits_when_the_broker_dies_is_told() {
    let mut world = World::start().await;
    world.broker.on_orchestrate(crate::support::fake_broker::Answer::Silence);
    let client = world.waiting_client(random_id()).await;
    world.broker.die().await;
    let refusal = within("the client is told", client).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::BrokerUnreachable);
}

#[tokio::test]
async fn a_stopping_gateway_takes_nobody_in_and_lets_live_sessions_finish() {
    let world = World::start().await;
    let mut pair = world.pair().await;
    let waiting_session = random_id();
    let waiting = world.waiting_client(waiting_session).await;
    let address = world.gateway.address;
    let (tls, id) = (world.tls.clone(), world.gateway.id.clone());

    let shared = std::sync::Arc::clone(world.gateway.gateway().shared());
    let mut gateway = world.gateway;
    let stopping = tokio::spawn(async move { gateway.shutdown(PATIENCE).await });
    until("it drains", || shared.is_draining()).await;

    let ticket = world.broker.issue_ticket(Role::Client, random_id(), &id);
    let refusal = knock(address, &tls, Role::Client, &ticket).await.unwrap_err();
    assert_eq!(refusal.code, Code::GatewayDraining);
    let mut entry = dial(address, &tls).await;
    let place = "POST /api/arm/v2/connections HTTP/1.1\r\nAuthorization: Bearer x\r\n\
                 Content-Length: 2\r\n\r\n{}";
    assert_eq!(entry.ask(place).await.code(), Code::GatewayDraining);
    until("the broker knows", || {
        let draining = world.broker.heard(|heard| {
            matches!(heard.message, GatewayToBroker::Load { draining: true, .. }).then_some(())
        });
        !draining.is_empty()
    })
    .await;

    // Whoever was in before is served: live sessions go on, and the client
    // that waits still gets its host.
    pair.assert_alive().await;
    let ticket = world.broker.issue_ticket(Role::Host, waiting_session, &id);
    let mut host = knock(address, &tls, Role::Host, &ticket).await.unwrap();
    let mut client = within("its answer", waiting).await.unwrap().unwrap();
    client.send(b"in time").await;
    assert_eq!(host.receive(7).await, b"in time");

    for leg in [&mut pair.client, &mut pair.host, &mut client, &mut host] {
        leg.close().await;
    }
    within("the gateway stops once they are gone", stopping).await.unwrap();
    for session in [pair.session, waiting_session] {
        assert_eq!(world.broker.close_reason(session).await, "client_closed");
    }
    assert_eq!(world.broker.goodbye().await, Code::GatewayDraining);
    TcpStream::connect(address).await.unwrap_err();
}

/// What a worker that fails does: it is gone while everything else goes on.
#[tokio::test]
async fn a_worker_that_ends_unasked_is_noticed_and_gets_no_sessions() {
    let world = World::start_with(|config| config.threads.relay_workers = 2).await;
    let gateway = world.gateway.gateway();
    assert!(gateway.is_healthy());
    let first = &world.gateway.shared().workers[0];
    first.tell(Command::Stop(CloseReason::GatewayFault)).unwrap();
    until("it is noticed", || !gateway.is_healthy()).await;
    assert_eq!(gateway.ailment(), Some(Ailment::WorkerEnded { worker: 0 }));

    // It has the fewest sessions, and gets none.
    let mut pairs = [world.pair().await, world.pair().await];
    for pair in &mut pairs {
        pair.assert_alive().await;
        assert_eq!(lock(&world.gateway.shared().live)[&pair.session].worker, 1);
    }
    let AdminResponse::GatewayStatus(status) = gateway.desk().answer(AdminRequest::Status).await
    else {
        panic!("no status")
    };
    assert_eq!(status.ailment.as_deref(), Some("relay worker 0 has ended"));
}

/// What the lobby does when the control thread's queue is full.
#[tokio::test]
async fn a_session_whose_beginning_could_not_be_said_is_said_later() {
    let world = World::start().await;
    let mut pair = world.pair().await;
    let live = pair.session;
    let told = |of| {
        let starts = world.broker.heard(|heard| match heard.message {
            GatewayToBroker::SessionStarted { session } if session == of => Some(()),
            _ => None,
        });
        starts.len()
    };
    until("it is told at once", || told(live) == 1).await;
    let over = random_id();
    let shared = world.gateway.shared();
    lock(&shared.live).get_mut(&live).unwrap().announced = false;
    lock(&world.gateway.shared().began_unsaid).extend([over, live]);
    until("it is told again", || told(live) == 2).await;
    assert_eq!(told(over), 0);
    assert!(lock(&world.gateway.shared().began_unsaid).is_empty());
    pair.assert_alive().await;
}

#[tokio::test]
async fn after_the_grace_period_sessions_end_with_one_reason() {
    let mut world = World::start().await;
    let mut pairs = Vec::new();
    for _ in 0..5 {
        pairs.push(world.pair().await);
    }
    let session = random_id();
    let waiting = world.waiting_client(session).await;
    let shared = std::sync::Arc::clone(world.gateway.gateway().shared());
    world.gateway.shutdown(Duration::from_millis(200)).await;
    for mut pair in pairs {
        assert_eq!(pair.client.end().await, End::Clean);
        assert_eq!(pair.host.end().await, End::Clean);
        assert_eq!(world.close_reason(pair.session).await, "gateway_shutdown");
    }
    let refusal = within("the waiting client", waiting).await.unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::GatewayDraining);
    assert_eq!(world.close_reason(session).await, "gateway_draining");
    // The handle's own and ours would be two: every thread has let go of it.
    assert_eq!(std::sync::Arc::strong_count(&shared), 1);
    assert!(shared.workers.iter().all(ringway::gateway::relay::RelayWorker::is_finished));
}

#[tokio::test]
async fn stopping_does_not_wait_for_readers_that_never_read() {
    let mut world = World::start_with(|config| config.limits.drain_output_ms = 100).await;
    let mut pair = world.pair().await;
    small_socket_buffers(&pair.client);
    let mut pusher = Pusher::start(pair.host, 64 << 20);
    pusher.stalled().await;
    within("stopping", world.gateway.shutdown(Duration::ZERO)).await;
    assert_eq!(world.close_reason(pair.session).await, "gateway_shutdown");
    let _ = within("the host's end", pusher.reading.read_to_end(&mut Vec::new())).await;
    let (_, end) = pair.client.read_to_end().await;
    assert!(matches!(end, End::Truncated | End::Reset), "{end:?}");
    drop(within("the pusher", pusher.pushing).await);
}
