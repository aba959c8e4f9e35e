//! What an administrator ends stays ended, whoever was away or on the way.

use tokio::time::Instant;

use super::super::orchestrate::{Command, Judged};
use super::super::testing::{FakeAgent, FakeGateway, World, session};
use crate::channel::pump::PumpEnd;
use crate::cli::ctl::ask;
use crate::core::codes::Code;
use crate::core::placement::Phase;
use crate::core::selection::Explain;
use crate::wire::admin::{AdminResponse, BrokerRequest, Whom};
use crate::wire::channel::{AgentToBroker, BrokerToGateway};
use crate::wire::enroll::MachineRole;

pub(super) async fn admin(world: &World, request: BrokerRequest) -> anyhow::Result<AdminResponse> {
    let socket = world.dir.path().join("admin.sock");
    tokio::task::spawn_blocking(move || ask(&socket, &request)).await.unwrap()
}

async fn disconnect(world: &World, whom: Whom) -> (u32, u32, u32) {
    match admin(world, BrokerRequest::Disconnect { whom }).await.unwrap() {
        AdminResponse::Disconnected { live, pending, of_unknown_users } => {
            (live, pending, of_unknown_users)
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn ann() -> Whom {
    Whom::User { user: "ann".into() }
}

pub(super) async fn live(
    world: &World,
    agent: &mut FakeAgent,
    gateway: &mut FakeGateway,
    number: u8,
) {
    gateway.place(number).await;
    gateway.orchestrate(number);
    agent.order().await;
    agent.outbox.post(AgentToBroker::OrderAccepted { session: session(number) });
    gateway.answer().await;
    gateway.started(number);
    let id = session(number);
    world
        .until("live", |now| {
            now.sessions.iter().any(|s| s.session == id && s.phase == Some(Phase::Live))
        })
        .await;
}

async fn revoked(gateway: &mut FakeGateway) -> Vec<u8> {
    match gateway.answer().await {
        BrokerToGateway::Revoked { sessions } => {
            let mut numbers: Vec<u8> = sessions.iter().map(|session| session.0[0]).collect();
            numbers.sort_unstable();
            numbers
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn ending_what_a_user_has_ends_live_and_coming_sessions_and_frees_their_places() {
    let world = World::start("").await;
    let (mut agent, mut gateway) = world.with_machines().await;
    live(&world, &mut agent, &mut gateway, 1).await;
    gateway.place(2).await;
    gateway.place(3).await;
    gateway.orchestrate(3);
    agent.order().await;

    assert_eq!(disconnect(&world, Whom::User { user: "bob".into() }).await, (0, 0, 0));
    assert_eq!(disconnect(&world, ann()).await, (1, 2, 0));
    let now = world.broker.snapshot().await;
    assert!(now.sessions.is_empty() && now.hosts[0].sessions == 0, "{now:?}");
    assert_eq!(gateway.orchestrate_refused().await, Code::SessionRevoked);
    assert_eq!(revoked(&mut gateway).await, [1, 2, 3]);
    // The host that is on its way is told; the live one's gateway ends it.
    assert_eq!(agent.cancelled().await, (session(3), Code::SessionRevoked));
    gateway.orchestrate(2);
    assert_eq!(gateway.orchestrate_refused().await, Code::ReservationExpired);
    // An answer that was under way does not bring it back either.
    agent.outbox.post(AgentToBroker::OrderAccepted { session: session(3) });
    assert_eq!(agent.cancelled().await, (session(3), Code::ReservationExpired));
    gateway.started(3);
    assert_eq!(gateway.cancelled().await, (session(3), Code::SessionUnknown));

    // The gateway's account completes the record.
    gateway.ended(1);
    gateway.place(4).await; // a new session is another matter
    let (view, _) = world.broker.explain(session(1)).await.unwrap();
    assert_eq!((view.bytes_up, view.bytes_down), (1, 2));
}

#[tokio::test]
async fn one_session_or_one_hosts_sessions_can_be_ended() {
    let world = World::start("").await;
    let (mut agent, mut gateway) = world.with_machines().await;
    live(&world, &mut agent, &mut gateway, 1).await;
    live(&world, &mut agent, &mut gateway, 2).await;
    let elsewhere = Whom::Host { host: "host-9".parse().unwrap() };
    assert_eq!(disconnect(&world, elsewhere).await, (0, 0, 0));
    assert_eq!(disconnect(&world, Whom::Session { session: session(1) }).await, (1, 0, 0));
    assert_eq!(revoked(&mut gateway).await, [1]);
    assert_eq!(disconnect(&world, Whom::Host { host: "host-1".parse().unwrap() }).await, (1, 0, 0));
    assert_eq!(revoked(&mut gateway).await, [2]);
    // Without a place, its tickets may still be about: every gateway is told.
    assert_eq!(disconnect(&world, Whom::Session { session: session(7) }).await, (0, 0, 0));
    assert!(world.broker.snapshot().await.sessions.is_empty());
}

#[tokio::test]
async fn a_request_that_was_under_way_is_refused_once_its_user_was_ended() {
    let world = World::start("").await;
    let (_agent, mut gateway) = world.with_machines().await;
    let channel =
        world.broker.shared.channel_numbers.load(std::sync::atomic::Ordering::Relaxed) - 1;
    let asked_at = Instant::now();
    let place = |number: u8, asked_at| Command::Place {
        asked_by: "gw-1".parse().unwrap(),
        channel,
        judged: Judged {
            request: number.into(),
            session: session(number),
            user: "ann".into(),
            resource: "desktop".parse().unwrap(),
            pool: "pool".parse().unwrap(),
            client_address: String::new(),
            gateway: "gw-1".parse().unwrap(),
            explain: Explain::default(),
            here_only: false,
            asked_at,
        },
    };
    // Its token was still being judged while the order came.
    assert_eq!(disconnect(&world, ann()).await, (0, 0, 0));
    world.broker.shared.core.send(place(1, asked_at)).await;
    assert_eq!(gateway.place_refused().await, Code::SessionRevoked);
    world.broker.shared.core.send(place(2, Instant::now())).await;
    assert!(matches!(gateway.answer().await, BrokerToGateway::Placed { .. }));
}

#[tokio::test]
async fn a_gateway_that_was_away_is_told_and_brings_nothing_back() {
    let world = World::start("").await;
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    let mut agent = world.agent(&host, &[]).await;
    let credentials = world.enrol(MachineRole::Gateway, "gw-1").await;
    let mut gateway = world.gateway(&credentials, &[]).await;
    live(&world, &mut agent, &mut gateway, 1).await;
    live(&world, &mut agent, &mut gateway, 2).await;
    gateway.die().await;
    world.until("away", |now| now.gateways.is_empty()).await;
    assert_eq!(disconnect(&world, Whom::Session { session: session(1) }).await, (1, 0, 0));
    // The host can be told at once.
    assert_eq!(agent.cancelled().await, (session(1), Code::SessionRevoked));

    let both = [session(1), session(2)];
    let only_two = |now: &crate::wire::admin::BrokerSnapshot| {
        now.sessions.len() == 1 && now.sessions[0].session == session(2)
    };
    let mut again = world.gateway(&credentials, &both).await;
    assert_eq!(revoked(&mut again).await, [1]);
    world.until("only the other one", only_two).await;
    // Nor does a restart of the broker, or the host.
    let world = world.restart().await;
    let mut again = world.gateway(&credentials, &both).await;
    assert_eq!(revoked(&mut again).await, [1]);
    let mut agent = world.agent(&host, &both).await;
    assert_eq!(agent.cancelled().await, (session(1), Code::SessionRevoked));
    world.until("only the other one", only_two).await;
}

#[tokio::test]
async fn a_broker_that_was_restarted_knows_whose_sessions_go_on() {
    let world = World::start("").await;
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    let mut agent = world.agent(&host, &[]).await;
    let credentials = world.enrol(MachineRole::Gateway, "gw-1").await;
    let mut gateway = world.gateway(&credentials, &[]).await;
    live(&world, &mut agent, &mut gateway, 1).await;
    let world = world.restart().await;
    // One of them nobody has placed here, ever.
    let mut gateway = world.gateway(&credentials, &[session(1), session(9)]).await;
    world.until("counted", |now| now.sessions.len() == 2).await;
    let now = world.broker.snapshot().await;
    let users: Vec<_> = now.sessions.iter().map(|view| view.user.as_deref()).collect();
    assert!(users.contains(&Some("ann")) && users.contains(&None), "{users:?}");
    assert_eq!(now.hosts[0].sessions, 1, "nor is its host here to say so");
    assert_eq!(disconnect(&world, ann()).await, (1, 0, 1), "and says that one is nobody's");
    assert_eq!(revoked(&mut gateway).await, [1]);
}

#[tokio::test]
async fn a_host_that_is_revoked_loses_its_sessions() {
    let world = World::start("").await;
    let (mut agent, mut gateway) = world.with_machines().await;
    live(&world, &mut agent, &mut gateway, 1).await;
    gateway.place(2).await;
    let (role, name) = (MachineRole::Agent, "host-1".to_owned());
    let answer = admin(&world, BrokerRequest::Revoke { role, name, undo: false }).await.unwrap();
    let ended = AdminResponse::Disconnected { live: 1, pending: 1, of_unknown_users: 0 };
    assert_eq!(answer, ended);
    assert_eq!(revoked(&mut gateway).await, [1, 2]);
    let now = world.broker.snapshot().await;
    assert!(now.sessions.is_empty() && !now.hosts[0].connected, "{now:?}");
}

#[tokio::test]
async fn the_hosts_end_what_a_revoked_gateway_relays() {
    let world = World::start("").await;
    let (mut agent, mut gateway) = world.with_machines().await;
    live(&world, &mut agent, &mut gateway, 1).await;
    let (role, name) = (MachineRole::Gateway, "gw-1".to_owned());
    let answer = admin(&world, BrokerRequest::Revoke { role, name, undo: false }).await.unwrap();
    let ended = AdminResponse::Disconnected { live: 1, pending: 0, of_unknown_users: 0 };
    assert_eq!(answer, ended);
    assert_eq!(agent.cancelled().await, (session(1), Code::SessionRevoked));
    let now = world.broker.snapshot().await;
    assert!(now.sessions.is_empty() && now.gateways.is_empty(), "{now:?}");
    let PumpEnd::PeerSaidGoodbye(why) = gateway.end.await.unwrap() else { panic!() };
    assert_eq!(why.code, Code::MachineUnknown);
}
