//! Machines that are not who they say they are, or not any more.

use std::sync::atomic::Ordering::Relaxed;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::ca::Authority;
use super::super::enroll::{NewToken, create_token};
use super::super::orchestrate::{ChannelNumber, Command};
use super::super::testing::{Credentials, TemporaryDir, World, session};
use super::revoking::live;
use crate::config::state_dir::StateDir;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::placement::Phase;
use crate::wire::channel::{AgentToBroker, GatewayToBroker};
use crate::wire::enroll::MachineRole;

#[tokio::test]
async fn a_token_for_another_pool_moves_no_machine() {
    let world = World::start("").await;
    world.enrol(MachineRole::Agent, "host-1").await;
    let shared = &world.broker.shared;
    let new = NewToken {
        role: MachineRole::Agent,
        pool: Some("lab".parse().unwrap()),
        ttl_ms: 60_000,
        uses: 1,
        server_names: vec![],
    };
    let now = UnixMillis::now();
    let token = create_token(&shared.store, shared.authority.pin(), new, now).await.unwrap();
    let token = token.text().expose().to_owned();
    let refused = world.redeem(&token, MachineRole::Agent, "host-1").await;
    assert_eq!(refused.err(), Some(Code::EnrolRequestInvalid));
    let host = shared.store.machine(MachineRole::Agent, "host-1".into()).await.unwrap().unwrap();
    assert_eq!(host.pool.unwrap().as_str(), "pool");
    // Of no use to a gateway either, and still good for what it is for.
    let refused = world.redeem(&token, MachineRole::Gateway, "gw-1").await;
    assert_eq!(refused.err(), Some(Code::EnrolTokenInvalid));
    assert!(world.redeem(&token, MachineRole::Agent, "host-2").await.is_ok());
}

#[tokio::test]
async fn a_certificate_of_a_strangers_ca_of_the_same_name_ends_the_handshake() {
    let world = World::start("").await;
    world.enrol(MachineRole::Agent, "host-1").await;
    let dir = TemporaryDir::new();
    let state = StateDir::open(dir.path()).unwrap();
    let now = UnixMillis::now();
    let stranger = Authority::open(&state, "test", now).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::new(vec![]).unwrap();
    let request = request.serialize_request(&key).unwrap().pem().unwrap();
    let leaf = stranger.issue_machine(MachineRole::Agent, "host-1", &request, &[], now).unwrap();
    let forged = Credentials {
        chain_pem: super::super::ca::to_pem(&leaf) + stranger.pem(),
        key_pem: key.serialize_pem(),
    };
    let tcp = TcpStream::connect(world.broker.address()).await.unwrap();
    // With TLS 1.3 the client is done before the server has looked.
    let mut stream = world.tls(tcp, Some(&forged)).await;
    let _may_be_closed_already = stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await;
    let told = stream.read_to_end(&mut Vec::new()).await.unwrap_err().to_string();
    assert!(told.contains("alert"), "{told}");
    let now = world.broker.snapshot().await;
    assert!(!now.hosts.iter().any(|host| host.connected), "{now:?}");
}

#[tokio::test]
async fn a_host_speaks_for_no_session_of_another() {
    let world = World::start("").await;
    let (mut honest, mut gateway) = world.with_machines().await;
    let other = world.enrol(MachineRole::Agent, "host-2").await;
    let mut other = world.agent(&other, &[]).await;
    assert_eq!(gateway.place(1).await.host.as_str(), "host-1");
    gateway.orchestrate(1);
    honest.order().await;
    let one = session(1);
    other.outbox.post(AgentToBroker::OrderRefused {
        session: one,
        refusal: Refusal::new(Code::HostRefused),
    });
    other.outbox.post(AgentToBroker::OrderFailed {
        session: one,
        refusal: Refusal::new(Code::HostDialFailed),
    });
    other.outbox.post(AgentToBroker::SessionEnded { session: one, bytes_up: 1, bytes_down: 1 });
    other.outbox.post(AgentToBroker::OrderAccepted { session: one });
    // The last one is answered, so all were read.
    assert_eq!(other.cancelled().await, (one, Code::ReservationExpired));
    let now = world.broker.snapshot().await;
    assert_eq!(now.sessions[0].phase, Some(Phase::Ordered), "{now:?}");
    assert_eq!(now.sessions[0].host.as_ref().unwrap().as_str(), "host-1");
    // Nor does saying hello with it: it is where the broker placed it.
    let again = world.enrol(MachineRole::Agent, "host-2").await;
    let _again = world.agent(&again, &[one]).await;
    let now = world.broker.snapshot().await;
    assert_eq!(now.sessions[0].host.as_ref().unwrap().as_str(), "host-1");
    assert_eq!(now.hosts.iter().map(|host| host.sessions).collect::<Vec<_>>(), [1, 0]);
}

/// The number of the channel that was opened last.
fn newest(world: &World) -> ChannelNumber {
    world.broker.shared.channel_numbers.load(Relaxed) - 1
}

#[tokio::test]
async fn what_comes_over_a_replaced_channel_changes_nothing() {
    let world = World::start("").await;
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    let credentials = world.enrol(MachineRole::Gateway, "gw-1").await;
    let mut agent = world.agent(&host, &[]).await;
    let old_agent = newest(&world);
    let mut gateway = world.gateway(&credentials, &[]).await;
    let old_gateway = newest(&world);
    live(&world, &mut agent, &mut gateway, 1).await;
    let _newer_agent = world.agent(&host, &[session(1)]).await;
    let mut newer_gateway = world.gateway(&credentials, &[session(1)]).await;
    newer_gateway.place(2).await;
    let before = world.broker.snapshot().await;

    let core = &world.broker.shared.core;
    let (host, gateway) = ("host-1".parse().unwrap(), "gw-1".parse().unwrap());
    let from_agent = |message| Command::FromAgent {
        host: "host-1".parse().unwrap(),
        channel: old_agent,
        message,
    };
    let from_gateway = |message| Command::FromGateway {
        gateway: "gw-1".parse().unwrap(),
        channel: old_gateway,
        message,
    };
    let ended = |session| GatewayToBroker::SessionEnded {
        session,
        close_reason: "client_closed".into(),
        bytes_up: 1,
        bytes_down: 1,
        duration_ms: 1,
    };
    for command in [
        from_agent(AgentToBroker::SessionEnded { session: session(1), bytes_up: 1, bytes_down: 1 }),
        from_agent(AgentToBroker::Draining),
        Command::AgentLost { host, channel: old_agent },
        from_gateway(ended(session(1))),
        from_gateway(ended(session(2))),
        from_gateway(GatewayToBroker::Orchestrate { request: 9, session: session(2) }),
        from_gateway(GatewayToBroker::Load { connections: 77, waiting: 7, draining: true }),
        Command::GatewayLost { gateway, channel: old_gateway },
    ] {
        core.send(command).await;
    }
    let after = world.broker.snapshot().await;
    assert_eq!(after.hosts, before.hosts);
    assert_eq!(after.sessions, before.sessions);
    let seen = |now: &crate::wire::admin::BrokerSnapshot| {
        now.gateways.iter().map(|g| (g.connections, g.waiting, g.draining)).collect::<Vec<_>>()
    };
    assert_eq!(seen(&after), seen(&before));
}
