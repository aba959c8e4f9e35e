//! RD Gateway clients that authenticate again while their session goes on: a
//! second connection with the first one's tunnel context and a token.

use std::time::{Duration, Instant};

use ringway::core::codes::Code;
use ringway::core::ids::SessionId;
use ringway::wire::channel::GatewayToBroker;

use crate::stock_tsgu::{assert_passes, last_packet, next_packet, open, request, say};
use crate::stock_tsgu_channels::{self as channels, chunk, open_in, open_out, out_request};
use crate::support::fake_broker::Answer;
use crate::support::legs::{End, Leg};
use crate::support::stock_wire::{
    BINARY, CLOSE, PAA, TOKEN, channel_create, granted, handshake, next_frame, packet,
    split_packet, status_of, tunnel_auth, tunnel_create_with,
};
use crate::support::wait::until;
use crate::support::world::World;

/// All that FreeRDP has, and reauthentication.
const CAPABILITIES: u32 = 0x1d;
const COOKIE_DENIED: u32 = 0x8007_59F8;
const INTERNAL_ERROR: u32 = 0x8007_59D8;
const RESOURCE_DENIED: u32 = 0x8007_59DA;
const REAUTH_LOGON_FAILED: u32 = 0x59FA;
const NOT_REAUTHENTICATED: &str = "not_reauthenticated";

/// One that asks at its first look, and then waits for so long.
async fn asking(timeout_ms: u64) -> World {
    World::start_with(|config| {
        config.limits.reauthenticate_after_ms = 1;
        config.limits.reauthentication_timeout_ms = timeout_ms;
    })
    .await
}

/// A relayed session of a client with these capabilities, and its host.
async fn session(world: &World, capabilities: u32) -> (Leg, Leg, SessionId) {
    let before = world.broker.orchestrations().len();
    let mut client = open(world, &request()).await;
    say(&mut client, &handshake(PAA)).await;
    next_packet(&mut client).await;
    say(&mut client, &tunnel_create_with(capabilities, None, Some(TOKEN))).await;
    let (_, tunnel) = next_packet(&mut client).await;
    // Idle timeout, service messages; reauthentication for who has it.
    assert_eq!(tunnel[14..], (0xa | capabilities & 0x10).to_le_bytes());
    say(&mut client, &tunnel_auth()).await;
    next_packet(&mut client).await;
    say(&mut client, &channel_create("Desk")).await;
    let (host, session) = world.next_host(before).await;
    assert_eq!(next_packet(&mut client).await, granted()[3]);
    (client, host, session)
}

/// The context that the client is asked with.
async fn asked(client: &mut Leg) -> u64 {
    let (kind, context) = next_packet(client).await;
    assert_eq!(kind, 0xC);
    u64::from_le_bytes(context.try_into().unwrap())
}

/// A second connection, up to the answer to its tunnel.
async fn again(world: &World, context: u64) -> (Leg, Vec<u8>) {
    let mut second = open(world, &request()).await;
    say(&mut second, &handshake(PAA)).await;
    next_packet(&mut second).await;
    say(&mut second, &tunnel_create_with(CAPABILITIES, Some(context), Some("anew"))).await;
    let (opcode, answer) = next_frame(&mut second).await;
    assert_eq!(opcode, BINARY);
    (second, answer)
}

/// A whole reauthentication over a WebSocket of its own.
async fn reauthenticate(world: &World, context: u64) -> Leg {
    let (mut second, tunnel) = again(world, context).await;
    let (kind, tunnel) = split_packet(&tunnel);
    assert_eq!((kind, &tunnel[2..6]), (0x5, &[0; 4][..]));
    say(&mut second, &tunnel_auth()).await;
    assert_eq!(next_packet(&mut second).await, granted()[2]);
    second
}

/// Tokens that the broker compared with a session's user.
fn compared(world: &World) -> Vec<(String, SessionId)> {
    world.broker.heard(|heard| match &heard.message {
        GatewayToBroker::CheckToken { bearer, session: Some(session), .. } => {
            Some((bearer.expose().to_owned(), *session))
        }
        _ => None,
    })
}

#[tokio::test]
async fn step_11_a_second_tunnel_with_the_context_starts_the_clock_anew() {
    let world = asking(3_000).await;
    let (mut client, mut host, session) = session(&world, CAPABILITIES).await;
    let context = asked(&mut client).await;
    let mut second = reauthenticate(&world, context).await;
    assert_eq!(compared(&world), [("anew".to_owned(), session)]);
    // The second connection closes, and the session goes on.
    say(&mut second, &packet(0x10, &[0; 4])).await;
    assert_eq!(last_packet(&mut second).await, (0x11, vec![0; 4]));
    assert_passes(&mut client, &mut host).await;
    // Who had not authenticated would not be asked a second time.
    assert_eq!(asked(&mut client).await, context);
    // Over two channels it is the same, and who has left is not missed.
    let mut out = open_out(&world, &out_request()).await;
    let mut inward = open_in(&world).await;
    for packet in [
        handshake(PAA),
        tunnel_create_with(CAPABILITIES, Some(context), Some("anew")),
        tunnel_auth(),
    ] {
        inward.send(&chunk(&packet)).await;
        channels::next_packet(&mut out).await;
    }
    drop((inward, out));
    assert_eq!(asked(&mut client).await, context);
    assert_eq!(compared(&world).len(), 2);
    until("the second connections are gone", || world.gateway.in_lobby() == 0).await;
    assert!(world.broker.endings(session).is_empty());
}

#[tokio::test]
async fn a_tunnel_that_authenticates_another_has_no_channel() {
    let world = asking(60_000).await;
    let (mut client, mut host, _) = session(&world, CAPABILITIES).await;
    let context = asked(&mut client).await;
    let mut second = reauthenticate(&world, context).await;
    say(&mut second, &channel_create("Desk")).await;
    assert_eq!(status_of(&last_packet(&mut second).await), RESOURCE_DENIED);
    assert_eq!(world.places_asked().len(), 1);
    assert_passes(&mut client, &mut host).await;
}

#[tokio::test]
async fn nobody_else_authenticates_a_session_and_it_ends_at_its_deadline() {
    let world = asking(3_000).await;
    let (mut client, mut host, session) = session(&world, CAPABILITIES).await;
    let context = asked(&mut client).await;
    for (context, code, status) in [
        (context, Code::TokenOfOtherUser, COOKIE_DENIED),
        (context, Code::TokenExpired, COOKIE_DENIED),
        (!context, Code::SessionUnknown, INTERNAL_ERROR),
    ] {
        world.broker.on_reauthenticate(match code {
            Code::SessionUnknown => Answer::Yes,
            code => Answer::No(code.into()),
        });
        let (mut second, refused) = again(&world, context).await;
        assert_eq!(status_of(&split_packet(&refused)), status);
        assert_eq!(next_frame(&mut second).await.0, CLOSE);
        assert_eq!(second.end().await, End::Clean);
    }
    // Of a context that nobody has, the broker is not asked.
    assert_eq!(compared(&world).len(), 2);
    assert_passes(&mut client, &mut host).await;
    let (kind, body) = last_packet(&mut client).await;
    assert_eq!((kind, status_of(&(kind, body))), (0x10, REAUTH_LOGON_FAILED));
    assert_eq!(world.close_reason(session).await, NOT_REAUTHENTICATED);
    let (_, late) = again(&world, context).await;
    assert_eq!(status_of(&split_packet(&late)), INTERNAL_ERROR);
}

#[tokio::test]
async fn who_does_not_answer_is_told_why_its_session_ends() {
    let world = asking(1).await;
    let (mut client, mut host, session) = session(&world, CAPABILITIES).await;
    asked(&mut client).await;
    assert_eq!(status_of(&last_packet(&mut client).await), REAUTH_LOGON_FAILED);
    assert_eq!(host.end().await, End::Clean);
    assert_eq!(world.close_reason(session).await, NOT_REAUTHENTICATED);
}

#[tokio::test]
async fn a_client_that_cannot_is_not_asked_and_its_session_goes_on() {
    let world = asking(1).await;
    let (mut without, mut its_host, session_without) = session(&world, 0xd).await;
    // Looked at later, and over already.
    let (mut client, _host, session) = session(&world, CAPABILITIES).await;
    asked(&mut client).await;
    assert_eq!(world.close_reason(session).await, NOT_REAUTHENTICATED);
    assert_passes(&mut without, &mut its_host).await;
    assert!(world.broker.endings(session_without).is_empty());
}

#[tokio::test]
async fn while_the_broker_is_away_nobody_has_to_authenticate() {
    let mut world = asking(1_500).await;
    let (mut client, mut host, session) = session(&world, CAPABILITIES).await;
    let context = asked(&mut client).await;
    world.broker.die().await;
    let gone = Instant::now();
    until("its time would be up", || gone.elapsed() > Duration::from_secs(3)).await;
    assert_passes(&mut client, &mut host).await;
    world.broker.open();
    // It is asked again, and has all of the time once more.
    assert_eq!(asked(&mut client).await, context);
    reauthenticate(&world, context).await;
    assert!(world.broker.endings(session).is_empty());
}
