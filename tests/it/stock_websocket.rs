//! Stock clients that join their session over WebSocket: the affinity round, the
//! upgrade, the second upgrade, and every way in which that can fail.

use std::sync::Arc;
use std::time::Duration;

use ringway::core::codes::{Code, Refusal};
use ringway::core::ids::SessionId;
use ringway::core::tickets::Role;
use ringway::wire::channel::BrokerToGateway;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::support::ca::TestCa;
use crate::support::fake_broker::{Answer, FakeBroker, random_id};
use crate::support::gateway::TestGateway;
use crate::support::gateway_process::GatewayProcess;
use crate::support::legs::{End, Leg, dial};
use crate::support::stock_wire::{
    BINARY, CLOSE, PING, PONG, TOKEN, UPGRADE, frame, next_frame, upgrade, upgrade_with_header,
};
use crate::support::wait::{PATIENCE, until, within};
use crate::support::world::World;

/// What ARM put into the client's hands.
fn location(world: &World, session: SessionId) -> String {
    format!("/wst/acme/desk?place={}", world.ticket(Role::Client, session))
}

async fn refused(world: &World, request: &str) -> Code {
    world.ask(request).await.code()
}

async fn assert_passes(client: &mut Leg, host: &mut Leg) {
    client.send(&frame(BINARY, b"to the host")).await;
    assert_eq!(host.receive(11).await, b"to the host");
    host.send(b"to the client").await;
    assert_eq!(next_frame(client).await, (BINARY, b"to the client".to_vec()));
}

#[tokio::test]
async fn step_8_the_plain_request_is_told_the_instance_and_nobody_is_asked() {
    let world = World::start().await;
    let target = location(&world, random_id());
    for request in [
        format!(
            "GET {target} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n"
        ),
        format!("GET {target}&ClmTk=Bearer%20{TOKEN} HTTP/1.1\r\n\r\n"),
        format!("GET /wst/desk HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"),
    ] {
        let reply = world.ask(&request).await;
        assert_eq!((reply.status, reply.body.len()), (200, 0), "{reply:?}");
        // A quoted value would be read as an empty one.
        let cookie = "\r\nSet-Cookie: ARRAffinity=gw-1; Path=/; Secure; HttpOnly\r\n";
        assert!(reply.head.contains(cookie), "{}", reply.head);
        assert!(reply.head.contains("\r\nContent-Length: 0\r\n"), "{}", reply.head);
        for line in reply.head.lines().skip(1).filter(|line| !line.is_empty()) {
            assert!(line.contains(": "), "FreeRDP wants a colon in every line: {line}");
        }
    }
    assert_eq!(world.broker.questions(), 0);
    let stranger = world.ask(&format!("GET {target} HTTP/1.1\r\n\r\n")).await;
    assert_eq!(stranger.code(), Code::TokenMissing);
    assert!(stranger.head.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{}", stranger.head);
}

#[tokio::test]
async fn step_11_the_place_in_the_address_is_taken_and_bytes_pass_in_frames() {
    let world = World::start().await;
    let session = random_id();
    let (mut client, mut host, joined) =
        world.join(upgrade(&location(&world, session)).as_bytes()).await;
    assert_eq!(joined, session);
    assert!(world.places_asked().is_empty());
    assert_passes(&mut client, &mut host).await;
    // FreeRDP's pongs are longer than any standard allows.
    client.send(&[frame(PONG, &[7; 1_024]), frame(PING, b"hm")].concat()).await;
    assert_eq!(next_frame(&mut client).await, (PONG, b"hm".to_vec()));
    assert_passes(&mut client, &mut host).await;
    client.send(&frame(CLOSE, &1000_u16.to_be_bytes())).await;
    assert_eq!(host.end().await, End::Clean);
}

/// After its host has declined RDSAAD, FreeRDP is back with the same address
/// within milliseconds; later, when it lost the connection, too.
#[tokio::test]
async fn step_8_with_a_used_or_old_place_another_is_had_here() {
    let world = World::start().await;
    let second = TestGateway::start(&world.ca, &world.broker.url(), "gw-2", |_| {});
    world.broker.set_table(vec![world.gateway.entry(), second.entry()]);
    world.until_ready(&second).await;
    let first = random_id();
    let target = location(&world, first);
    let (client, _host, _) = world.join(upgrade(&target).as_bytes()).await;
    drop(client);
    for target in [
        target,
        "/wst/acme/desk?place=rw1.k.c.s".into(),
        "/wst/acme/desk?place=".into(),
        // Of an address that led to another gateway.
        format!(
            "/wst/acme/desk?place={}",
            world.broker.issue_ticket(Role::Client, random_id(), &second.id)
        ),
    ] {
        let asked = world.places_asked().len();
        let (mut client, mut host, session) = world.join(upgrade(&target).as_bytes()).await;
        let [place] = &world.places_asked()[asked..] else { panic!("asked once") };
        assert_eq!(place.session, session);
        assert_eq!(place.bearer.expose(), TOKEN);
        assert_eq!(place.load_balance_info, "ringway:acme/desk");
        assert!(place.here_only);
        // No other gateway was thought of.
        let lines: Vec<_> = place.explain.lines.iter().map(|line| line.gateway.as_str()).collect();
        assert_eq!((lines, place.gateway.as_str()), (vec!["gw-1"], "gw-1"));
        assert_passes(&mut client, &mut host).await;
    }
}

#[tokio::test]
async fn step_8_an_address_and_a_token_will_do() {
    let world = World::start().await;
    let (mut client, mut host, _) = world.join(upgrade_with_header("/wst/desk").as_bytes()).await;
    assert_passes(&mut client, &mut host).await;
    // Both: FreeRDP before 3.27, which also says what it is in the query.
    let both = upgrade_with_header(&format!(
        "/wst/desk/?ClmTk=Bearer%20{TOKEN}&X-MS-User-Agent=FreeRDP%2F3.0"
    ));
    world.join(both.as_bytes()).await;
    let places = world.places_asked();
    assert_eq!(places.len(), 2);
    for place in places {
        assert_eq!((place.application.as_str(), place.load_balance_info.as_str()), ("||desk", ""));
        assert_eq!(place.bearer.expose(), TOKEN);
    }
}

/// FreeRDP leaves within milliseconds when it is told a status, and hangs when
/// something fails after a `101`.
#[tokio::test]
async fn step_9_whatever_fails_before_the_host_is_there_is_a_status() {
    let world = World::start_with(|config| config.limits.pair_timeout_ms = 300).await;
    let mut bystander = world.bystander().await;
    for code in [
        Code::TokenExpired,
        Code::ResourceUnknown,
        Code::NotAssigned,
        Code::PoolFull,
        Code::HostStarting,
        Code::Internal,
    ] {
        world.broker.on_place(Answer::No(code.into()));
        assert_eq!(refused(&world, &upgrade("/wst/acme/desk")).await, code);
    }
    world.broker.on_place(Answer::Yes);
    for code in [Code::HostRefused, Code::HostBusy, Code::HostGone] {
        world.broker.on_orchestrate(Answer::No(Refusal::with_detail(code, "why")));
        assert_eq!(refused(&world, &upgrade(&location(&world, random_id()))).await, code);
        assert_eq!(refused(&world, &upgrade("/wst/acme/desk")).await, code);
    }
    world.broker.on_orchestrate(Answer::Yes);
    let session = random_id();
    let came = refused(&world, &upgrade(&location(&world, session))).await;
    assert_eq!(came, Code::HostDidNotArrive);
    assert_eq!(world.close_reason(session).await, Code::HostDidNotArrive.to_string());
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn step_8_a_silent_broker_costs_no_more_than_a_client_has() {
    let world = World::start().await;
    world.broker.on_place(Answer::Silence);
    let asked_at = Instant::now();
    assert_eq!(refused(&world, &upgrade("/wst/desk")).await, Code::BrokerUnreachable);
    assert!(asked_at.elapsed() < Duration::from_secs(12));
}

#[tokio::test]
async fn what_is_no_such_request_is_refused() {
    let world = World::start().await;
    let place = location(&world, random_id());
    let good = upgrade(&place);
    let without = |header: &str| {
        let lines: Vec<_> = good.lines().filter(|line| !line.starts_with(header)).collect();
        format!("{}\r\n\r\n", lines.join("\r\n").trim_end())
    };
    for (request, code) in [
        (good.replace("Version: 13", "Version: 8"), Code::UpgradeRequired),
        (without("Sec-Websocket-Version"), Code::UpgradeRequired),
        (without("Sec-Websocket-Key"), Code::RequestMalformed),
        (good.replacen("GET", "POST", 1), Code::MethodNotAllowed),
        (good.replacen("GET", "RDG_OUT_DATA", 1), Code::MethodNotAllowed),
        (format!("GET {place} HTTP/1.1\r\n{UPGRADE}\r\n"), Code::TokenMissing),
        (upgrade("/wst"), Code::ResourceUnknown),
        (upgrade("/wst/"), Code::ResourceUnknown),
        (upgrade("/wst/acme/desk/more"), Code::ResourceUnknown),
        (upgrade("/wstx/desk"), Code::NotFound),
        (
            good.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Code::RequestMalformed,
        ),
    ] {
        let reply = world.ask(&request).await;
        assert_eq!(reply.code(), code, "{request}");
        if reply.status == 426 {
            assert!(reply.head.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{}", reply.head);
        }
    }
    assert_eq!(world.broker.questions(), 0);
}

#[tokio::test]
async fn step_8_a_session_that_was_ended_is_not_brought_back_by_its_address() {
    let world = World::start().await;
    let session = random_id();
    let target = location(&world, session);
    let (mut client, _host, _) = world.join(upgrade(&target).as_bytes()).await;
    world.broker.send(&world.gateway.id, BrokerToGateway::Revoked { sessions: vec![session] });
    client.read_to_end().await;
    assert_eq!(refused(&world, &upgrade(&target)).await, Code::SessionRevoked);
    assert!(world.places_asked().is_empty());
}

#[tokio::test]
async fn a_full_gateway_says_so_whichever_way_they_come() {
    let world = World::start_with(|config| config.limits.sessions_max = 1).await;
    let _pair = world.pair().await;
    let target = location(&world, random_id());
    assert_eq!(refused(&world, &upgrade(&target)).await, Code::GatewayFull);
    // The broker found a place; it is given back.
    assert_eq!(refused(&world, &upgrade("/wst/desk")).await, Code::GatewayFull);
    let session = world.places_asked()[0].session;
    assert_eq!(world.close_reason(session).await, Code::GatewayFull.to_string());
}

#[tokio::test]
async fn a_gateway_that_drains_turns_them_away_at_the_first_request() {
    let world = World::start().await;
    let pair = world.pair().await;
    let (address, tls, target) = (world.gateway.address, &world.tls, location(&world, random_id()));
    let shared = Arc::clone(world.gateway.gateway().shared());
    let mut gateway = world.gateway;
    let stopping = tokio::spawn(async move { gateway.shutdown(PATIENCE).await });
    until("it drains", || shared.is_draining()).await;
    for request in [
        format!("GET {target} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"),
        upgrade(&target),
        upgrade("/wst/desk"),
    ] {
        assert_eq!(dial(address, tls).await.ask(&request).await.code(), Code::GatewayDraining);
    }
    drop(pair);
    within("the stop", stopping).await.unwrap();
}

#[tokio::test]
async fn what_a_client_on_ios_and_an_old_one_offer_is_taken() {
    let world = World::start().await;
    let key = "[\\]^_@ABCDEFGHI";
    let request = upgrade("/wst/desk")
        .replace("dGhlIHNhbXBsZSBub25jZQ==", key)
        .replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: binary\r\n\r\n");
    let mut client = dial(world.gateway.address, &world.tls).await;
    client.send(request.as_bytes()).await;
    let (_host, _) = world.next_host(0).await;
    let reply = client.reply().await;
    assert_eq!(reply.status, 101);
    let accept = ringway::wire::websocket::accept_key(key);
    assert!(
        reply.head.contains(&format!("\r\nSec-WebSocket-Accept: {accept}\r\n")),
        "{}",
        reply.head
    );
    assert!(reply.head.contains("\r\nSec-WebSocket-Protocol: binary\r\n"), "{}", reply.head);
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte_and_with_frames_behind_it() {
    let world = World::start().await;
    let session = random_id();
    let mut client = dial(world.gateway.address, &world.tls).await;
    for byte in upgrade(&location(&world, session)).as_bytes() {
        client.0.write_all(&[*byte]).await.unwrap();
        client.0.flush().await.unwrap();
    }
    // It does not wait for the answer.
    let whole = frame(BINARY, b"early, and in two pieces");
    let (early, late) = whole.split_at(9);
    client.send(early).await;
    let (mut host, _) = world.next_host(0).await;
    assert_eq!(client.reply().await.status, 101);
    client.send(late).await;
    assert_eq!(host.receive(24).await, b"early, and in two pieces");
    assert_passes(&mut client, &mut host).await;
}

/// Groups make tokens long, and FreeRDP before 3.27 sends its token twice.
#[tokio::test]
async fn a_head_has_room_for_a_long_token_twice() {
    let world = World::start().await;
    let token = "t".repeat(15_500);
    let request =
        upgrade_with_header(&format!("/wst/desk?ClmTk=Bearer%20{TOKEN}")).replace(TOKEN, &token);
    assert!(request.len() > 31_000);
    world.join(request.as_bytes()).await;
    assert_eq!(world.places_asked()[0].bearer.expose(), token);
    let longer = request.replace(&token, &"t".repeat(17_000));
    assert_eq!(refused(&world, &longer).await, Code::RequestTooLarge);
}

/// Whatever is logged, and at whatever level.
#[tokio::test]
async fn neither_token_nor_ticket_is_ever_logged() {
    let ca = Arc::new(TestCa::new());
    let broker = FakeBroker::start(&ca);
    let gateway = GatewayProcess::start_logging(&ca, &broker.url(), "trace");
    broker.set_table(vec![gateway.entry()]);
    let tls = Arc::new(ca.client_tls());
    let _pair = gateway.first_pair(&broker, &tls).await;
    let ticket = broker.issue_ticket(Role::Client, random_id(), &gateway.id);
    broker.on_orchestrate(Answer::No(Code::HostRefused.into()));
    for target in [format!("/wst/desk?place={ticket}"), "/wst/desk".into(), "/wst/".into()] {
        for request in [
            upgrade(&target),
            upgrade_with_header(&target),
            upgrade(&target).replace("13", "8"),
            format!("{}garbage", upgrade(&target).replace("HTTP/1.1", "HTTP/7")),
            format!("GET {target}&ClmTk=Bearer%20{TOKEN} HTTP/1.1\r\n\r\n"),
        ] {
            dial(gateway.port.address(), &tls).await.ask(&request).await;
        }
    }
    until("the refusals are logged", || gateway.log().matches("Refused a connection").count() >= 9)
        .await;
    let log = gateway.log();
    assert!(log.contains("host_refused"), "{log}");
    for secret in [TOKEN, ticket.as_str(), "ClmTk"] {
        assert!(!log.contains(secret), "a secret in the log");
    }
}
