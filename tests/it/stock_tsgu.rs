//! RD Gateway clients over one WebSocket: the greeting byte by byte, each refusal
//! in the packet of its phase, and what is no greeting.

use std::sync::Arc;
use std::time::Duration;

use ringway::core::codes::Code;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::ca::TestCa;
use crate::support::fake_broker::{Answer, FakeBroker};
use crate::support::gateway_process::GatewayProcess;
use crate::support::legs::{End, Leg, dial};
use crate::support::stock_wire::{
    BEARER, BINARY, CLOSE, PAA, PING, PONG, TOKEN, UPGRADE, channel_create, data, frame, granted,
    greeting, handshake, next_frame, packet, split_packet, status_of, tunnel_auth, tunnel_create,
};
use crate::support::wait::{PATIENCE, until, within};
use crate::support::world::World;

const HOST_HEADERS: &str = "Host: 127.0.0.1\r\nUser-Agent: MS-RDGateway/1.0\r\n\
    RDG-Connection-Id: {6e2a7c1e-0000-4000-8000-000000000001}\r\n";

/// What FreeRDP sends with a cookie.
pub fn request() -> String {
    format!(
        "RDG_OUT_DATA /remoteDesktopGateway/ HTTP/1.1\r\n{HOST_HEADERS}RDG-Auth-Scheme: PAA\r\n\
         {UPGRADE}\r\n"
    )
}

pub async fn open(world: &World, request: &str) -> Leg {
    let mut client = dial(world.gateway.address, &world.tls).await;
    let reply = client.ask(request).await;
    assert_eq!(reply.status, 101, "{reply:?}");
    client
}

/// The gateway's next packet, alone in its frame.
pub async fn next_packet(client: &mut Leg) -> (u16, Vec<u8>) {
    let (opcode, payload) = next_frame(client).await;
    assert_eq!(opcode, BINARY);
    split_packet(&payload)
}

pub async fn say(client: &mut Leg, packet: &[u8]) {
    client.send(&frame(BINARY, packet)).await;
}

/// All of the greeting but its last answer, which needs a host.
async fn greet(client: &mut Leg, target: &str) {
    for (packet, answer) in greeting(target).iter().zip(granted()).take(3) {
        say(client, packet).await;
        assert_eq!(next_packet(client).await, answer);
    }
    say(client, &greeting(target)[3]).await;
}

/// The last packet, and then the end.
pub async fn last_packet(client: &mut Leg) -> (u16, Vec<u8>) {
    let last = next_packet(client).await;
    let (opcode, code) = next_frame(client).await;
    assert_eq!((opcode, code.len()), (CLOSE, 2));
    assert_eq!(client.end().await, End::Clean);
    last
}

pub async fn assert_passes(client: &mut Leg, host: &mut Leg) {
    say(client, &data(b"to the host")).await;
    assert_eq!(host.receive(11).await, b"to the host");
    host.send(b"to the client").await;
    assert_eq!(next_packet(client).await, split_packet(&data(b"to the client")));
}

#[tokio::test]
async fn step_11_a_client_with_a_cookie_gets_its_session() {
    let world = World::start().await;
    let mut client = open(&world, &request()).await;
    greet(&mut client, "Desk").await;
    let (mut host, session) = world.next_host(0).await;
    assert_eq!(next_packet(&mut client).await, granted()[3]);
    assert_passes(&mut client, &mut host).await;

    assert_eq!(world.tokens_checked(), [TOKEN]);
    let [place] = &world.places_asked()[..] else { panic!("one place") };
    assert_eq!((place.session, place.bearer.expose()), (session, TOKEN));
    assert_eq!((place.application.as_str(), place.load_balance_info.as_str()), ("Desk", ""));
    assert!(place.here_only);
    let lines: Vec<_> = place.explain.lines.iter().map(|line| line.gateway.as_str()).collect();
    assert_eq!(lines, ["gw-1"]);

    // It closes its channel: answered, and the host hears.
    say(&mut client, &packet(0x10, &[0; 4])).await;
    assert_eq!(next_packet(&mut client).await, (0x11, vec![0; 4]));
    assert_eq!(host.end().await, End::Clean);
}

#[tokio::test]
async fn a_request_may_be_a_get_without_slash_and_hold_its_headers_in_the_query() {
    let world = World::start().await;
    let key = "[\\]^_@ABCDEFGHI";
    let old_key = request().replace("dGhlIHNhbXBsZSBub25jZQ==", key);
    let query = "/remoteDesktopGateway?ConId={x}&AuthS=PAA&CorId={y}&ClGen=1";
    for request in [
        request().replace("RDG_OUT_DATA", "GET"),
        request().replace("Gateway/ HTTP", "Gateway HTTP"),
        old_key,
        format!("GET {query} HTTP/1.1\r\n{UPGRADE}\r\n"),
        request().replace(": PAA", ": paa"),
    ] {
        let mut client = open(&world, &request).await;
        say(&mut client, &handshake(PAA)).await;
        assert_eq!(next_packet(&mut client).await, granted()[0]);
    }
}

#[tokio::test]
async fn step_8_the_token_of_the_request_will_do() {
    let world = World::start().await;
    let by_header =
        request().replace("RDG-Auth-Scheme: PAA", &format!("Authorization: Bearer {TOKEN}"));
    let by_query =
        format!("GET /remoteDesktopGateway/?ClmTk=Bearer%20{TOKEN} HTTP/1.1\r\n{UPGRADE}\r\n");
    for (round, request) in [by_header, by_query].iter().enumerate() {
        let mut client = open(&world, request).await;
        // FreeRDP 3 says so in a bit of its own, which it wants to see again.
        say(&mut client, &handshake(BEARER)).await;
        assert_eq!(next_packet(&mut client).await, (0x2, vec![0, 0, 0, 0, 1, 0, 0, 0, 8, 0]));
        say(&mut client, &tunnel_create(None)).await;
        assert_eq!(next_packet(&mut client).await, granted()[1]);
        say(&mut client, &tunnel_auth()).await;
        next_packet(&mut client).await;
        say(&mut client, &channel_create("desk")).await;
        let (mut host, _) = world.next_host(round).await;
        assert_eq!(next_packet(&mut client).await, granted()[3]);
        assert_passes(&mut client, &mut host).await;
    }
    assert_eq!(world.tokens_checked(), [TOKEN, TOKEN]);
    assert!(world.places_asked().iter().all(|place| place.bearer.expose() == TOKEN));
}

/// No NTLM, no Basic: a client that offers them is told what there is.
#[tokio::test]
async fn who_cannot_sign_in_is_refused_by_status() {
    let world = World::start().await;
    for method in ["RDG_OUT_DATA", "GET", "RDG_IN_DATA"] {
        for scheme in [
            "X: y",
            "RDG-Auth-Scheme: SSPI_NTLM",
            "Authorization: Negotiate TlRMTVNTUAABAAAA",
            "Authorization: NTLM TlRMTVNTUAABAAAA",
            "Authorization: Basic YTpi",
        ] {
            let request =
                request().replace("RDG_OUT_DATA", method).replace("RDG-Auth-Scheme: PAA", scheme);
            let reply = world.ask(&request).await;
            assert_eq!(reply.code(), Code::TokenMissing, "{method} {scheme}");
            let challenges: Vec<_> =
                reply.head.lines().filter(|line| line.starts_with("WWW-Auth")).collect();
            assert_eq!(challenges, ["WWW-Authenticate: Bearer"]);
        }
    }
    let wrong_version = request().replace("Version: 13", "Version: 12");
    assert_eq!(world.ask(&wrong_version).await.code(), Code::UpgradeRequired);
    let no_upgrade = request().replace("RDG_OUT_DATA", "GET").replace("Upgrade: websocket", "X: y");
    assert_eq!(world.ask(&no_upgrade).await.code(), Code::MethodNotAllowed);
    assert_eq!(world.broker.questions(), 0);
}

#[tokio::test]
async fn step_4_a_token_that_is_refused_is_a_bad_cookie() {
    let world = World::start().await;
    for (code, status) in [
        (Code::TokenExpired, 0x8007_59F8),
        (Code::TokenBadSignature, 0x8007_59F8),
        (Code::IdentityUnavailable, 0x8007_59D8),
    ] {
        world.broker.on_place(Answer::No(code.into()));
        let mut client = open(&world, &request()).await;
        say(&mut client, &handshake(PAA)).await;
        next_packet(&mut client).await;
        say(&mut client, &tunnel_create(Some("stale"))).await;
        let last = last_packet(&mut client).await;
        assert_eq!((last.0, status_of(&last)), (0x5, status), "{code}");
        assert_eq!(world.gateway.refusals(code), 1);
    }
    let mut client = open(&world, &request()).await;
    say(&mut client, &handshake(PAA)).await;
    next_packet(&mut client).await;
    say(&mut client, &tunnel_create(None)).await;
    assert_eq!(status_of(&last_packet(&mut client).await), 0x8007_59F7);
    let mut client = open(&world, &request()).await;
    say(&mut client, &handshake(4)).await;
    assert_eq!(status_of(&last_packet(&mut client).await), 0x8007_59F9);
}

#[tokio::test]
async fn step_9_whatever_keeps_the_session_away_is_in_the_channels_answer() {
    let world = World::start_with(|config| config.limits.pair_timeout_ms = 300).await;
    for (code, status) in [
        (Code::ResourceUnknown, 0x8007_59DA),
        (Code::NotAssigned, 0x8007_59DA),
        (Code::PoolFull, 0x8007_59DD),
        (Code::HostRefused, 0x8007_59DD),
        (Code::HostStarting, 0x8007_59DD),
        (Code::BrokerOverloaded, 0x8007_59D8),
    ] {
        for at_place in [true, false] {
            world.broker.on_place(Answer::Yes);
            world.broker.on_orchestrate(Answer::No(code.into()));
            let mut client = open(&world, &request()).await;
            for (packet, answer) in greeting("desk").iter().zip(granted()).take(3) {
                say(&mut client, packet).await;
                assert_eq!(next_packet(&mut client).await, answer);
            }
            if at_place {
                world.broker.on_place(Answer::No(code.into()));
            }
            say(&mut client, &channel_create("desk")).await;
            let last = last_packet(&mut client).await;
            assert_eq!((last.0, status_of(&last)), (0x9, status), "{code}");
        }
    }
    world.broker.on_place(Answer::Yes);
    world.broker.on_orchestrate(Answer::Yes);
    let mut client = open(&world, &request()).await;
    greet(&mut client, "desk").await;
    assert_eq!(status_of(&last_packet(&mut client).await), 0x8007_59DD);
    let session = world.places_asked().last().unwrap().session;
    assert_eq!(world.close_reason(session).await, Code::HostDidNotArrive.to_string());
}

/// A target is a name of ours, never an address of somebody's.
#[tokio::test]
async fn step_8_what_cannot_be_a_resource_is_not_even_asked_for() {
    let world = World::start().await;
    for target in ["10.0.0.5:3389", "desk/../x", "[::1]", "", "a b"] {
        let mut client = open(&world, &request()).await;
        greet(&mut client, target).await;
        assert_eq!(status_of(&last_packet(&mut client).await), 0x8007_59DA, "{target}");
    }
    assert!(world.places_asked().is_empty());
}

#[tokio::test]
async fn a_greeting_may_be_cut_anywhere_and_come_all_at_once() {
    let world = World::start().await;
    let mut all: Vec<u8> = greeting("desk").concat();
    all.extend(data(b"early"));
    let byte_by_byte: Vec<u8> = all.iter().flat_map(|byte| frame(BINARY, &[*byte])).collect();
    let in_one = frame(BINARY, &all);
    for (round, stream) in [byte_by_byte, in_one.clone(), in_one].into_iter().enumerate() {
        let mut client = open(&world, &request()).await;
        if round == 2 {
            for byte in stream {
                client.0.write_all(&[byte]).await.unwrap();
                client.0.flush().await.unwrap();
            }
        } else {
            client.send(&stream).await;
        }
        for answer in &granted()[..3] {
            assert_eq!(next_packet(&mut client).await, *answer);
        }
        let (mut host, _) = world.next_host(round).await;
        assert_eq!(next_packet(&mut client).await, granted()[3]);
        assert_eq!(host.receive(5).await, b"early");
        assert_passes(&mut client, &mut host).await;
    }
}

#[tokio::test]
async fn signs_of_life_are_heard_at_every_step() {
    let world = World::start().await;
    let mut client = open(&world, &request()).await;
    client.send(&frame(PING, b"there?")).await;
    assert_eq!(next_frame(&mut client).await, (PONG, b"there?".to_vec()));
    // Neither is answered: FreeRDP answers whatever it is sent.
    client.send(&frame(PONG, &[0; 1_024])).await;
    say(&mut client, &packet(0xD, &[])).await;
    greet(&mut client, "desk").await;
    say(&mut client, &packet(0xD, &[])).await;
    let (mut host, _) = world.next_host(0).await;
    assert_eq!(next_packet(&mut client).await, granted()[3]);
    assert_passes(&mut client, &mut host).await;
}

/// From an answer to the next request there is so much time, whatever else comes.
#[tokio::test]
async fn signs_of_life_do_not_hold_a_place_in_the_lobby() {
    let world = World::start_with(|config| config.limits.request_timeout_ms = 500).await;
    for (sign, every_ms) in [(frame(BINARY, &packet(0xD, &[])), 50), (frame(PING, b"?"), 1)] {
        let before = world.gateway.refusals(Code::RequestTimeout);
        let client = open(&world, &request()).await;
        let (mut heard, mut said) = tokio::io::split(client.0);
        let goes_on = tokio::spawn(async move {
            while said.write_all(&sign).await.is_ok() && said.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(every_ms)).await;
            }
        });
        let mut all = Vec::new();
        // However it ends: what was still under way may reset it.
        let _ = within("the end", heard.read_to_end(&mut all)).await;
        goes_on.abort();
        until("it was told why", || world.gateway.refusals(Code::RequestTimeout) > before).await;
    }
}

#[tokio::test]
async fn what_is_no_greeting_ends_it() {
    let world = World::start_with(|config| config.limits.request_timeout_ms = 500).await;
    let mut bystander = world.bystander().await;
    let oversized = [&packet(0x1, &[])[..4], &[0, 0, 0, 1]].concat();
    let contradicting = packet(0x4, &[0xd, 0, 0, 0, 1, 0, 0, 0, 9, 0, b'a', 0]);
    for wrong in [
        tunnel_create(Some(TOKEN)),
        tunnel_auth(),
        channel_create("desk"),
        data(b"too early"),
        packet(0x3, &[0, 0, 0, 0, 0, 0]),
        packet(0x77, &[]),
        oversized,
        contradicting,
        // Nothing more comes.
        packet(0x1, &[1, 0])[..5].to_vec(),
    ] {
        let mut client = open(&world, &request()).await;
        say(&mut client, &wrong).await;
        assert_eq!(last_packet(&mut client).await, (0x10, 0x4D4_u32.to_le_bytes().to_vec()));
    }
    // A client that says goodbye is answered in kind, and no host comes.
    let mut client = open(&world, &request()).await;
    say(&mut client, &packet(0x10, &[0; 4])).await;
    assert_eq!(last_packet(&mut client).await, (0x11, vec![0; 4]));
    let mut client = open(&world, &request()).await;
    client.send(&frame(CLOSE, &1000_u16.to_be_bytes())).await;
    assert_eq!(next_frame(&mut client).await.0, CLOSE);
    // Bytes that are no frames.
    let mut client = open(&world, &request()).await;
    client.send(&[0x82, 1, b'x']).await;
    let last = next_packet(&mut client).await;
    assert_eq!(last.0, 0x10);
    assert_eq!(next_frame(&mut client).await, (CLOSE, 1002_u16.to_be_bytes().to_vec()));
    bystander.assert_undisturbed().await;
    until("the lobby is empty", || world.gateway.in_lobby() == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_its_host_is_on_its_way_is_forgotten() {
    let world = World::start().await;
    let mut client = open(&world, &request()).await;
    greet(&mut client, "desk").await;
    until("its host is asked for", || world.broker.orchestrations().len() == 1).await;
    client.reset();
    let session = world.broker.orchestrations()[0];
    assert_eq!(world.close_reason(session).await, Code::ClientDidNotArrive.to_string());
    until("the lobby is empty", || world.gateway.in_lobby() == 0).await;
}

#[tokio::test]
async fn a_gateway_that_drains_says_so_before_the_greeting() {
    let world = World::start().await;
    let pair = world.pair().await;
    let (address, tls) = (world.gateway.address, &world.tls);
    let shared = Arc::clone(world.gateway.gateway().shared());
    let mut gateway = world.gateway;
    let stopping = tokio::spawn(async move { gateway.shutdown(PATIENCE).await });
    until("it drains", || shared.is_draining()).await;
    for request in [request(), request().replace("Upgrade: websocket\r\n", "")] {
        assert_eq!(dial(address, tls).await.ask(&request).await.code(), Code::GatewayDraining);
    }
    drop(pair);
    within("the stop", stopping).await.unwrap();
}

#[tokio::test]
async fn a_cookie_is_never_logged() {
    let ca = Arc::new(TestCa::new());
    let broker = FakeBroker::start(&ca);
    let gateway = GatewayProcess::start_logging(&ca, &broker.url(), "trace");
    broker.set_table(vec![gateway.entry()]);
    let tls = Arc::new(ca.client_tls());
    let _pair = gateway.first_pair(&broker, &tls).await;
    broker.on_orchestrate(Answer::No(Code::HostRefused.into()));
    for target in ["desk", "no desk"] {
        let mut client = dial(gateway.port.address(), &tls).await;
        client.ask(&request()).await;
        for packet in greeting(target) {
            say(&mut client, &packet).await;
            next_packet(&mut client).await;
        }
    }
    until("the refusals are logged", || gateway.log().contains("resource_unknown")).await;
    let log = gateway.log();
    assert!(log.contains("host_refused"), "{log}");
    assert!(!log.contains(TOKEN), "a cookie in the log");
}

#[tokio::test]
async fn step_11_a_gateway_that_stops_warns_whose_client_can_show_it() {
    let world = World::start().await;
    let mut client = open(&world, &request()).await;
    greet(&mut client, "Desk").await;
    let (mut host, _) = world.next_host(0).await;
    assert_eq!(next_packet(&mut client).await, granted()[3]);
    assert_passes(&mut client, &mut host).await;

    let mut gateway = world.gateway;
    let stopping = tokio::spawn(async move { gateway.shutdown(PATIENCE).await });
    let (kind, message) = next_packet(&mut client).await;
    assert_eq!(kind, 0xB);
    let units: Vec<_> =
        message[2..].chunks(2).map(|unit| u16::from_le_bytes(unit.try_into().unwrap())).collect();
    assert!(String::from_utf16(&units).unwrap().contains("save your work"));
    // And goes on.
    assert_passes(&mut client, &mut host).await;
    say(&mut client, &packet(0x10, &[0; 4])).await;
    within("it stops", stopping).await.unwrap();
}
