//! Step 7: peers that say nothing, too much, too slowly or something else.
//! Each is closed at a deadline or a limit, and nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use ringway::core::codes::Code;
use ringway::core::tickets::Role;
use ringway::gateway::shared::lock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use crate::support::fake_broker::random_id;
use crate::support::legs::{End, dial, dial_with_little_room, read_reply};
use crate::support::wait::{standstill, until, within};
use crate::support::world::World;

const HEAD_BYTES_MAX: usize = 4 * 1024;
const BODY_BYTES_MAX: usize = 2 * 1024;

/// A gateway that loses patience soon.
async fn impatient() -> World {
    World::start_with(|config| {
        config.limits.handshake_timeout_ms = 300;
        config.limits.request_timeout_ms = 300;
        config.limits.head_bytes_max = HEAD_BYTES_MAX;
        config.limits.body_bytes_max = BODY_BYTES_MAX;
    })
    .await
}

/// Reads until the gateway has closed a connection that is not TLS (yet).
async fn closed(mut tcp: TcpStream) {
    let mut rest = Vec::new();
    // An alert may come first; a reset is an end like any other.
    let _ = within("being closed", tcp.read_to_end(&mut rest)).await;
}

async fn nobody_left_in_the_lobby(world: &World) {
    until("the lobby is empty again", || world.gateway.in_lobby() == 0).await;
}

#[tokio::test]
async fn peers_that_do_not_finish_a_handshake_are_closed_at_the_deadline() {
    let world = impatient().await;
    let mut bystander = world.bystander().await;
    let counters = &world.gateway.shared().counters;

    let address = world.gateway.address;
    let silent = TcpStream::connect(address).await.unwrap();
    let mut half_a_record = TcpStream::connect(address).await.unwrap();
    half_a_record.write_all(&[22, 3, 1, 2, 0, 1, 0]).await.unwrap();
    let mut drip = TcpStream::connect(address).await.unwrap();
    let dripping = tokio::spawn(async move {
        // One byte of a ClientHello record now and then: never idle, never done.
        let record = [[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3].as_slice(), &[7; 400]].concat();
        for byte in record {
            if drip.write_all(&[byte]).await.is_err() {
                return drip;
            }
            sleep(Duration::from_millis(20)).await;
        }
        drip
    });
    closed(silent).await;
    closed(half_a_record).await;
    closed(within("the gateway hangs up", dripping).await.unwrap()).await;

    let mut garbage = TcpStream::connect(address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n").await.unwrap();
    closed(garbage).await;
    let mut zeros = TcpStream::connect(address).await.unwrap();
    // The gateway may have closed before all of it is written.
    let _ = zeros.write_all(&vec![0; 1024 * 1024]).await;
    closed(zeros).await;

    nobody_left_in_the_lobby(&world).await;
    assert_eq!(counters.handshakes_failed.load(Relaxed), 5);
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn step_7_requests_that_do_not_end_in_time_are_refused() {
    let world = impatient().await;
    let mut bystander = world.bystander().await;
    let address = world.gateway.address;

    let mut silent = dial(address, &world.tls).await;
    assert_eq!(silent.reply().await.code(), Code::RequestTimeout);
    assert_eq!(silent.end().await, End::Clean);

    let mut loris = dial(address, &world.tls).await;
    let (mut reading, mut writing) = tokio::io::split(loris.0);
    let dripping = tokio::spawn(async move {
        let head = format!("GET /probe HTTP/1.1\r\nA: {}", "x".repeat(3_000));
        for byte in head.bytes() {
            if writing.write_all(&[byte]).await.is_err() || writing.flush().await.is_err() {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    let reply = within("an answer", read_reply(&mut reading)).await.unwrap();
    assert_eq!(reply.code(), Code::RequestTimeout);
    dripping.abort();

    loris = dial(address, &world.tls).await;
    let body_missing = "POST /api/arm/v2/connections HTTP/1.1\r\nAuthorization: Bearer x\r\n\
                        Content-Length: 100\r\n\r\n{";
    assert_eq!(loris.ask(body_missing).await.code(), Code::RequestTimeout);

    drop((reading, dripping, loris));
    nobody_left_in_the_lobby(&world).await;
    assert_eq!(world.gateway.refusals(Code::RequestTimeout), 3);
    assert_eq!(world.gateway.shared().counters.timeouts.load(Relaxed), 3);
    assert_eq!(world.broker.questions(), 1, "only the bystander's");
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn step_7_requests_that_are_too_large_are_refused_before_they_are_read() {
    let world = impatient().await;
    let mut bystander = world.bystander().await;
    let address = world.gateway.address;

    // 1 MiB of head: refused after the limit, and the answer arrives although
    // most of the head was never looked at.
    let huge = dial(address, &world.tls).await;
    let (mut reading, mut writing) = tokio::io::split(huge.0);
    let writing = tokio::spawn(async move {
        let line = format!("X-Filler: {}\r\n", "x".repeat(1_000));
        let _ = writing.write_all(b"GET /relay/client HTTP/1.1\r\n").await;
        for _ in 0..1_024 {
            if writing.write_all(line.as_bytes()).await.is_err() {
                break;
            }
        }
    });
    let reply = within("an answer", read_reply(&mut reading)).await.unwrap();
    assert_eq!(reply.code(), Code::RequestTooLarge);
    within("the writer ends", writing).await.unwrap();

    let mut many_headers = dial(address, &world.tls).await;
    let head = format!("GET /probe HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
    assert_eq!(many_headers.ask(&head).await.code(), Code::RequestTooLarge);

    let mut big_body = dial(address, &world.tls).await;
    let head = format!(
        "POST /api/arm/v2/connections HTTP/1.1\r\nAuthorization: Bearer x\r\n\
         Content-Length: {}\r\n\r\n",
        BODY_BYTES_MAX + 1
    );
    assert_eq!(big_body.ask(&head).await.code(), Code::RequestTooLarge);

    drop((reading, many_headers, big_body));
    nobody_left_in_the_lobby(&world).await;
    assert_eq!(world.gateway.refusals(Code::RequestTooLarge), 3);
    assert_eq!(world.broker.questions(), 1, "only the bystander's");
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn step_7_requests_that_make_no_sense_are_refused() {
    let world = impatient().await;
    let mut bystander = world.bystander().await;
    let ticket = world.ticket(Role::Client, random_id());
    let upgrade = "Connection: Upgrade\r\nUpgrade: ringway-relay\r\n";
    for (request, code) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), Code::NotFound),
        ("GET /relay/clients HTTP/1.1\r\n\r\n".into(), Code::NotFound),
        ("CONNECT example.com:443 HTTP/1.1\r\n\r\n".into(), Code::NotFound),
        ("GET http://example.com/ HTTP/1.1\r\n\r\n".into(), Code::NotFound),
        ("POST /probe HTTP/1.1\r\n\r\n".into(), Code::MethodNotAllowed),
        (format!("POST /relay/client HTTP/1.1\r\n{upgrade}\r\n"), Code::MethodNotAllowed),
        (
            format!("GET /relay/client HTTP/1.1\r\nRingway-Ticket: {ticket}\r\n\r\n"),
            Code::UpgradeRequired,
        ),
        (
            format!(
                "GET /relay/client HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Ringway-Ticket: {ticket}\r\n\r\n"
            ),
            Code::UpgradeRequired,
        ),
        ("no HTTP at all\r\n\r\n".into(), Code::RequestMalformed),
        ("GET /probe HTTP/1.1\r\nContent-Length: x\r\n\r\n".into(), Code::RequestMalformed),
        (
            "POST /probe HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            Code::RequestMalformed,
        ),
    ] {
        let mut peer = dial(world.gateway.address, &world.tls).await;
        let reply = peer.ask(&request).await;
        assert_eq!(reply.code(), code, "{request:?}");
        assert_eq!(peer.end().await, End::Clean, "{request:?}");
    }
    assert_eq!(world.broker.questions(), 1, "only the bystander's");
    nobody_left_in_the_lobby(&world).await;
    bystander.assert_undisturbed().await;
}

/// Probes of other gateways: many on one connection, also all at once.
#[tokio::test]
async fn a_connection_may_ask_again_until_it_asks_too_often() {
    let world = World::start_with(|config| config.limits.requests_per_connection_max = 3).await;
    let mut peer = dial(world.gateway.address, &world.tls).await;
    let probe = "GET /probe HTTP/1.1\r\nHost: gateway\r\n\r\n";
    peer.send(probe.repeat(3).as_bytes()).await;
    for _ in 0..3 {
        let reply = peer.reply().await;
        assert_eq!(reply.status, 204);
        assert!(reply.head.contains("Ringway-Gateway: gw-1\r\n"), "{}", reply.head);
    }
    assert_eq!(peer.reply().await.code(), Code::TooManyRequests);
    assert_eq!(peer.end().await, End::Clean);

    let mut polite = dial(world.gateway.address, &world.tls).await;
    let last = "GET /probe HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(polite.ask(last).await.status, 204);
    assert_eq!(polite.end().await, End::Clean);
}

/// A lobby thread has 64 registered buffers. More peers than that ask on and on
/// and read nothing: each is waited for, and none of them is waited for by
/// anybody else.
#[tokio::test]
async fn peers_that_do_not_read_do_not_stop_the_lobby() {
    const PEERS: usize = 80;
    let world = World::start_with(|config| {
        config.limits.requests_per_connection_max = u32::MAX;
        config.limits.write_timeout_ms = 10 * 60 * 1_000;
    })
    .await;
    let asked = Arc::new(AtomicUsize::new(0));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..PEERS {
        let mut peer = dial_with_little_room(world.gateway.address, &world.tls).await;
        let asked = Arc::clone(&asked);
        asking.spawn(async move {
            let probe = "GET /probe HTTP/1.1\r\nHost: gateway\r\n\r\n".repeat(20);
            while peer.0.write_all(probe.as_bytes()).await.is_ok() {
                asked.fetch_add(1, Relaxed);
            }
        });
    }
    standstill("the askers", || asked.load(Relaxed)).await;
    assert_eq!(world.gateway.in_lobby(), PEERS as u64);
    world.pair().await.assert_alive().await;
    assert!(asking.try_join_next().is_none(), "a peer was closed");
}

/// One address has its own limit below that of all; another one has room.
#[tokio::test]
async fn one_address_cannot_fill_the_lobby() {
    let world = World::start_with(|config| {
        config.limits.lobby_connections_per_address_max = 4;
        config.limits.handshake_timeout_ms = 60_000;
    })
    .await;
    let counters = &world.gateway.shared().counters;
    let address = world.gateway.address;
    let mut silent = Vec::new();
    for _ in 0..6 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(address).await.unwrap());
    }
    until("the surplus is turned away", || counters.turned_away.load(Relaxed) == 2).await;
    assert_eq!(world.gateway.in_lobby(), 4);
    world.pair().await.assert_alive().await;
    drop(silent);
    nobody_left_in_the_lobby(&world).await;
    assert!(lock(&world.gateway.shared().lobby_by_address).is_empty());
}

/// Somebody who asks in time, again and again, is not kept for ever either.
#[tokio::test]
async fn a_connection_that_never_becomes_a_leg_has_a_lifetime() {
    let world = World::start_with(|config| {
        config.limits.lobby_lifetime_ms = 500;
        config.limits.requests_per_connection_max = u32::MAX;
    })
    .await;
    let mut peer = dial(world.gateway.address, &world.tls).await;
    let mut pair = world.pair().await;
    let asking = async {
        let probe = b"GET /probe HTTP/1.1\r\nHost: gateway\r\n\r\n";
        while peer.0.write_all(probe).await.is_ok() {
            match read_reply(&mut peer.0).await {
                Ok(reply) => assert_eq!(reply.status, 204),
                Err(_) => break,
            }
        }
    };
    within("the end of its time", asking).await;
    nobody_left_in_the_lobby(&world).await;
    // Nothing was wrong with it, and a leg is not in the lobby any more.
    assert!(lock(&world.gateway.shared().counters.refusals).is_empty());
    pair.assert_alive().await;
}

/// Who comes beyond the limit is dropped at once; live sessions and, later,
/// new ones are not affected.
#[tokio::test]
async fn the_lobby_is_full_at_its_limit_and_empty_afterwards() {
    let world = World::start_with(|config| {
        config.limits.lobby_connections_max = 8;
        config.limits.handshake_timeout_ms = 500;
    })
    .await;
    let mut bystander = world.bystander().await;
    let counters = &world.gateway.shared().counters;
    // Its legs leave the lobby a moment after they are the relay's.
    until("the bystander has left it", || world.gateway.in_lobby() == 0).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(world.gateway.address).await.unwrap());
    }
    until("the surplus is turned away", || counters.turned_away.load(Relaxed) == 12).await;
    assert_eq!(world.gateway.in_lobby(), 8);
    for tcp in silent {
        closed(tcp).await;
    }
    nobody_left_in_the_lobby(&world).await;
    bystander.assert_undisturbed().await;
    world.pair().await.assert_alive().await;
}
