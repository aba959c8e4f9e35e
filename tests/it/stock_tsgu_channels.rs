//! RD Gateway clients over two HTTP channels: which two belong together, and
//! nothing else does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ringway::core::codes::Code;
use ringway::gateway::shared::lock;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use crate::support::fake_broker::Answer;
use crate::support::legs::{End, Leg, dial};
use crate::support::stock_wire::{
    TOKEN, channel_create, data, granted, greeting, handshake, packet, split_packet, status_of,
};
use crate::support::wait::{until, within};
use crate::support::world::World;

const CONNECTION_ID: &str = "{6e2a7c1e-0000-4000-8000-000000000001}";
const SEED: &[u8] = b"\xab\xcd\xab\xcd\xab\xcd\xab\xcd\xab\xcd";

fn request(method: &str, body: &str) -> String {
    format!(
        "{method} /remoteDesktopGateway/ HTTP/1.1\r\nCache-Control: no-cache\r\n\
         Connection: Keep-Alive\r\nHost: 127.0.0.1\r\nUser-Agent: MS-RDGateway/1.0\r\n\
         RDG-Connection-Id: {CONNECTION_ID}\r\nRDG-Auth-Scheme: PAA\r\n{body}\r\n"
    )
}

pub fn out_request() -> String {
    request("RDG_OUT_DATA", "")
}

fn first_in_request() -> String {
    request("RDG_IN_DATA", "Content-Length: 0\r\n")
}

fn in_request() -> String {
    request("RDG_IN_DATA", "Transfer-Encoding: chunked\r\n")
}

pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:X}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// An OUT channel that was let in, seed and all.
pub async fn open_out(world: &World, request: &str) -> Leg {
    let mut out = dial(world.gateway.address, &world.tls).await;
    let reply = out.ask(request).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let head = reply.head.to_ascii_lowercase();
    // FreeRDP 3 would wait for the end of a body that has one.
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    assert_eq!(out.receive(10).await, SEED);
    out
}

/// An IN channel after both its requests.
pub async fn open_in(world: &World) -> Leg {
    let mut inward = dial(world.gateway.address, &world.tls).await;
    let reply = inward.ask(&first_in_request()).await;
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    assert!(reply.head.contains("\r\nContent-Length: 0\r\n"), "{}", reply.head);
    inward.send(in_request().as_bytes()).await;
    inward
}

pub async fn next_packet(out: &mut Leg) -> (u16, Vec<u8>) {
    let head = out.receive(8).await;
    let length = u32::from_le_bytes(head[4..].try_into().unwrap()) as usize;
    let rest = out.receive(length - 8).await;
    split_packet(&[head, rest].concat())
}

async fn greet(inward: &mut Leg, out: &mut Leg, target: &str) {
    for (packet, answer) in greeting(target).iter().zip(granted()).take(3) {
        inward.send(&chunk(packet)).await;
        assert_eq!(next_packet(out).await, answer);
    }
    inward.send(&chunk(&channel_create(target))).await;
}

async fn assert_passes(inward: &mut Leg, out: &mut Leg, host: &mut Leg) {
    inward.send(&chunk(&data(b"to the host"))).await;
    assert_eq!(host.receive(11).await, b"to the host");
    host.send(b"to the client").await;
    assert_eq!(next_packet(out).await, split_packet(&data(b"to the client")));
}

/// The refusal of an IN channel that does not belong to anybody.
async fn refused_in(world: &World, request: &str) -> Code {
    world.ask(request).await.code()
}

fn out_waiting(world: &World) -> usize {
    lock(&world.gateway.shared().out_channels).len()
}

#[tokio::test]
async fn step_11_two_channels_make_one_session() {
    // On threads of their own.
    let world = World::start_with(|config| config.threads.lobby_threads = 3).await;
    for round in 0..6 {
        let mut out = open_out(&world, &out_request()).await;
        let mut inward = open_in(&world).await;
        greet(&mut inward, &mut out, "desk").await;
        let (mut host, session) = world.next_host(round).await;
        assert_eq!(next_packet(&mut out).await, granted()[3]);
        assert_passes(&mut inward, &mut out, &mut host).await;
        let place = world.places_asked().pop().unwrap();
        assert_eq!((place.session, place.bearer.expose()), (session, TOKEN));
        assert!(place.here_only);
        // Closed by packet; the host hears of it.
        inward.send(&chunk(&packet(0x10, &[0; 4]))).await;
        assert_eq!(next_packet(&mut out).await, (0x11, vec![0; 4]));
        assert_eq!(host.end().await, End::Clean);
    }
    assert_eq!(out_waiting(&world), 0);
    until("the lobby is empty", || world.gateway.in_lobby() == 0).await;
}

#[tokio::test]
async fn an_in_channel_may_skip_its_first_request_and_be_cut_anywhere() {
    let world = World::start().await;
    let mut stream = in_request().into_bytes();
    for packet in greeting("desk") {
        // Chunks and packets need not align.
        let (front, back) = packet.split_at(5);
        stream.extend([chunk(front), chunk(back)].concat());
    }
    stream.extend(chunk(&data(b"early")));
    for round in 0..2 {
        let mut out = open_out(&world, &out_request()).await;
        let mut inward = dial(world.gateway.address, &world.tls).await;
        if round == 0 {
            inward.send(&stream).await;
        } else {
            for byte in &stream {
                inward.0.write_all(&[*byte]).await.unwrap();
                inward.0.flush().await.unwrap();
            }
        }
        for answer in &granted()[..3] {
            assert_eq!(next_packet(&mut out).await, *answer);
        }
        let (mut host, _) = world.next_host(round).await;
        assert_eq!(next_packet(&mut out).await, granted()[3]);
        assert_eq!(host.receive(5).await, b"early");
        assert_passes(&mut inward, &mut out, &mut host).await;
    }
}

/// The id is the client's choice: whoever learns of it must not get the other
/// half of the session.
#[tokio::test]
async fn a_foreign_in_channel_does_not_attach() {
    let world = World::start().await;
    let mut out = open_out(&world, &out_request()).await;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for foreign in [
        in_request().replace("RDG-Auth-Scheme: PAA", &bearer),
        in_request().replace("0001}", "0002}"),
    ] {
        assert_eq!(refused_in(&world, &foreign).await, Code::ChannelUnpaired);
    }
    // From another address with everything right.
    let mut elsewhere = dial_from("127.0.0.2".parse().unwrap(), &world).await;
    let reply = elsewhere.ask(&in_request()).await;
    assert_eq!(reply.code(), Code::ChannelUnpaired);
    // The one that belongs to it does, and has been kept from nothing.
    let mut inward = open_in(&world).await;
    inward.send(&chunk(&handshake(2))).await;
    assert_eq!(next_packet(&mut out).await, granted()[0]);
    // A second one comes too late.
    assert_eq!(refused_in(&world, &in_request()).await, Code::ChannelUnpaired);
    inward.send(&chunk(&greeting("desk")[1])).await;
    assert_eq!(next_packet(&mut out).await, granted()[1]);
}

#[tokio::test]
async fn halves_with_different_tokens_do_not_meet() {
    let world = World::start().await;
    let with = |request: String, token: &str| {
        request.replace("RDG-Auth-Scheme: PAA", &format!("Authorization: Bearer {token}"))
    };
    let mut out = open_out(&world, &with(out_request(), TOKEN)).await;
    let other = with(in_request(), "of-somebody-else");
    assert_eq!(refused_in(&world, &other).await, Code::ChannelUnpaired);
    assert_eq!(refused_in(&world, &in_request()).await, Code::ChannelUnpaired);
    let mut inward = dial(world.gateway.address, &world.tls).await;
    inward.send(with(in_request(), TOKEN).as_bytes()).await;
    inward.send(&chunk(&handshake(8))).await;
    assert_eq!(next_packet(&mut out).await.0, 0x2);
}

#[tokio::test]
async fn a_second_out_channel_with_the_same_id_is_refused_and_the_first_stays() {
    let world = World::start().await;
    let mut out = open_out(&world, &out_request()).await;
    assert_eq!(world.ask(&out_request()).await.code(), Code::ChannelUnpaired);
    let mut inward = open_in(&world).await;
    inward.send(&chunk(&handshake(2))).await;
    assert_eq!(next_packet(&mut out).await, granted()[0]);
}

#[tokio::test]
async fn an_out_channel_waits_so_long_and_so_many_wait() {
    let world = World::start_with(|config| {
        config.limits.pair_timeout_ms = 400;
        config.limits.waiting_per_address_max = 2;
    })
    .await;
    let other_id = |n: u32| out_request().replace("0001}", &format!("100{n}}}"));
    let mut waiting = [open_out(&world, &other_id(1)).await, open_out(&world, &other_id(2)).await];
    assert_eq!(world.ask(&other_id(3)).await.code(), Code::TooManyWaiting);
    for out in &mut waiting {
        assert_eq!(out.end().await, End::Clean);
    }
    assert_eq!(out_waiting(&world), 0);
    open_out(&world, &other_id(3)).await.reset();
    until("it is forgotten", || out_waiting(&world) == 0).await;
    assert_eq!(
        refused_in(&world, &in_request().replace("0001}", "1003}")).await,
        Code::ChannelUnpaired
    );
}

#[tokio::test]
async fn nothing_may_come_on_an_out_channel() {
    let world = World::start().await;
    let mut out = open_out(&world, &out_request()).await;
    out.send(b"GET / HTTP/1.1\r\n\r\n").await;
    out.read_to_end().await;
    assert_eq!(out_waiting(&world), 0);
    // Nor behind the request, nor as its body.
    for more in [out_request() + "more", request("RDG_OUT_DATA", "Content-Length: 4\r\n") + "more"]
    {
        assert_eq!(world.ask(&more).await.code(), Code::RequestMalformed);
    }
}

#[tokio::test]
async fn what_is_no_pair_of_channels_is_refused() {
    let world = World::start().await;
    let without_id = |request: String| request.replace("RDG-Connection-Id", "X");
    for (request, code) in [
        (without_id(out_request()), Code::RequestMalformed),
        (without_id(in_request()), Code::RequestMalformed),
        (out_request().replace(CONNECTION_ID, &"x".repeat(65)), Code::RequestMalformed),
        (request("RDG_OUT_DATA", "Transfer-Encoding: chunked\r\n"), Code::RequestMalformed),
        (
            request("RDG_IN_DATA", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
            Code::RequestMalformed,
        ),
        (in_request(), Code::ChannelUnpaired),
        (request("POST", ""), Code::MethodNotAllowed),
        (in_request().replace("RDG-Auth-Scheme: PAA", "X: y"), Code::TokenMissing),
    ] {
        assert_eq!(world.ask(&request).await.code(), code, "{request}");
    }
    assert_eq!(world.broker.questions(), 0);
}

#[tokio::test]
async fn step_9_a_refusal_comes_on_the_out_channel_and_both_end() {
    let world = World::start().await;
    world.broker.on_orchestrate(Answer::No(Code::HostRefused.into()));
    let mut out = open_out(&world, &out_request()).await;
    let mut inward = open_in(&world).await;
    greet(&mut inward, &mut out, "desk").await;
    let last = next_packet(&mut out).await;
    assert_eq!((last.0, status_of(&last)), (0x9, 0x8007_59DD));
    assert_eq!(out.end().await, End::Clean);
    assert_eq!(inward.end().await, End::Clean);
    assert_eq!(world.gateway.refusals(Code::HostRefused), 1);
}

#[tokio::test]
async fn either_half_that_leaves_takes_the_other_along() {
    let world = World::start().await;
    for (round, out_leaves) in [true, false].into_iter().enumerate() {
        let mut out = open_out(&world, &out_request()).await;
        let mut inward = open_in(&world).await;
        greet(&mut inward, &mut out, "desk").await;
        until("its host is asked for", || world.broker.orchestrations().len() > round).await;
        let mut other = if out_leaves {
            out.reset();
            inward
        } else {
            inward.reset();
            out
        };
        within("the other half ends", other.read_to_end()).await;
        let session = world.broker.orchestrations()[round];
        assert_eq!(world.close_reason(session).await, Code::ClientDidNotArrive.to_string());
    }
    until("the lobby is empty", || world.gateway.in_lobby() == 0).await;
}

#[tokio::test]
async fn an_in_channel_ends_with_its_out_channel_at_every_step_of_the_greeting() {
    let world = World::start_with(|config| config.limits.request_timeout_ms = 600_000).await;
    for steps in 0..=3 {
        let mut out = open_out(&world, &out_request()).await;
        let mut inward = open_in(&world).await;
        until("the two have met", || out_waiting(&world) == 0).await;
        for (packet, answer) in greeting("desk").iter().zip(granted()).take(steps) {
            inward.send(&chunk(packet)).await;
            assert_eq!(next_packet(&mut out).await, answer);
        }
        out.reset();
        within("the other half ends", inward.read_to_end()).await;
    }
    until("the lobby is empty", || world.gateway.in_lobby() == 0).await;
}

/// TLS to the gateway from one of the machine's other loopback addresses.
async fn dial_from(address: IpAddr, world: &World) -> Leg {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address, 0)).unwrap();
    let tcp = within("TCP connection", socket.connect(world.gateway.address)).await.unwrap();
    let name = ServerName::from(world.gateway.address.ip());
    let stream = TlsConnector::from(Arc::clone(&world.tls)).connect(name, tcp);
    Leg(within("TLS handshake", stream).await.unwrap())
}
