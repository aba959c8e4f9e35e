//! Steps 11 and 12: the relayed bytes, at full speed and at no speed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ringway::config::gateway::{GatewayConfig, RingFeatures};
use ringway::gateway::shared::lock;
use ringway::tls::settings::TlsSettings;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::legs::{End, how};
use crate::support::pattern;
use crate::support::pusher::{Pusher, small_socket_buffers};
use crate::support::wait::{until, within};
use crate::support::world::{Pair, World};

const MIB: usize = 1024 * 1024;

/// What this kernel can do, and what every kernel can do.
const RINGS: [RingFeatures; 2] = [RingFeatures::Probed, RingFeatures::Linux61];

/// A gateway on every kind of ring.
async fn worlds(adjust: impl Fn(&mut GatewayConfig)) -> Vec<World> {
    let mut worlds = Vec::new();
    for ring_features in RINGS {
        let adjusted = World::start_with(|config| {
            config.threads.ring_features = ring_features;
            adjust(config);
        });
        worlds.push(adjusted.await);
    }
    worlds
}

/// A client that speaks exactly one version and suite.
fn only(
    world: &World,
    version: &'static SupportedProtocolVersion,
    suite: CipherSuite,
) -> Arc<ClientConfig> {
    let all = TlsSettings { chacha20: true, ..TlsSettings::default() }.provider();
    let mut provider = (*all).clone();
    provider.cipher_suites.retain(|s| s.suite() == suite);
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(world.ca.roots())
        .with_no_client_auth();
    Arc::new(config)
}

/// `length` bytes each way at once, then a clean end from both sides.
async fn exchange(pair: Pair, length: usize, step: usize) {
    let (mut client_in, mut client_out) = tokio::io::split(pair.client.0);
    let (mut host_in, mut host_out) = tokio::io::split(pair.host.0);
    let up = async {
        pattern::send(&mut client_out, 1, 0..length, step).await.unwrap();
        client_out.shutdown().await.unwrap();
    };
    let down = async {
        pattern::send(&mut host_out, 2, 0..length, step).await.unwrap();
        host_out.shutdown().await.unwrap();
    };
    let at_host = async {
        pattern::expect(&mut host_in, 1, 0..length).await;
        assert_eq!(how(host_in.read_to_end(&mut Vec::new()).await), End::Clean);
    };
    let at_client = async {
        pattern::expect(&mut client_in, 2, 0..length).await;
        assert_eq!(how(client_in.read_to_end(&mut Vec::new()).await), End::Clean);
    };
    within("the exchange", async { tokio::join!(up, down, at_host, at_client) }).await;
}

#[tokio::test]
async fn step_12_bytes_pass_both_ways_at_once_under_every_suite() {
    for world in worlds(|config| config.tls.chacha20 = true).await {
        speak_every_suite(&world).await;
    }
}

async fn speak_every_suite(world: &World) {
    let flavours = [
        only(world, &TLS13, CipherSuite::TLS13_AES_256_GCM_SHA384),
        only(world, &TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        only(world, &TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        only(world, &TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
        only(world, &TLS13, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
        only(world, &TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ];
    for (index, client) in flavours.iter().enumerate() {
        let host = &flavours[(index + 1) % flavours.len()];
        let pair = world.pair_with(client, host).await;
        let session = pair.session;
        exchange(pair, 4 * MIB + 12_345, 50_000).await;
        let reason = world.close_reason(session).await;
        assert!(["client_closed", "host_closed"].contains(&reason.as_str()), "{reason}");
    }
    let measured = world.gateway.gateway().desk().histograms().await.unwrap();
    assert!(measured.up_us.count > 0 && measured.down_us.count > 0);
}

#[tokio::test]
async fn a_suite_that_is_switched_off_is_not_spoken() {
    let world = World::start().await;
    let tls = only(&world, &TLS13, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    let tcp = tokio::net::TcpStream::connect(world.gateway.address).await.unwrap();
    let name = world.gateway.address.ip().into();
    let refused = tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await;
    assert!(refused.unwrap_err().to_string().contains("HandshakeFailure"));
    let counters = &world.gateway.shared().counters;
    until("it is counted", || counters.handshakes_failed.load(Relaxed) == 1).await;
}

#[tokio::test]
async fn step_12_many_small_messages_arrive_in_order() {
    let world = World::start().await;
    let mut pair = world.pair().await;
    let mut at = 0;
    for round in 0..1_000_usize {
        let length = round % 97 + 1;
        pair.client.send(pattern::piece(1, at, length)).await;
        pair.host.send(pattern::piece(2, at, length)).await;
        pattern::expect(&mut pair.host.0, 1, at..at + length).await;
        pattern::expect(&mut pair.client.0, 2, at..at + length).await;
        at += length;
    }
    exchange(pair, 100_000, 7).await;
}

#[tokio::test]
async fn one_direction_can_close_long_before_the_other() {
    for world in worlds(|_| {}).await {
        close_one_direction_first(&world).await;
    }
}

async fn close_one_direction_first(world: &World) {
    for client_first in [true, false] {
        let Pair { session, client, host } = world.pair().await;
        let (mut first, mut second) = if client_first { (client, host) } else { (host, client) };
        pattern::send(&mut first.0, 1, 0..MIB, 20_000).await.unwrap();
        first.close().await;
        pattern::expect(&mut second.0, 1, 0..MIB).await;
        assert_eq!(second.end().await, End::Clean);
        let sending = async {
            pattern::send(&mut second.0, 2, 0..8 * MIB, 20_000).await.unwrap();
            second.close().await;
        };
        let receiving = async {
            pattern::expect(&mut first.0, 2, 0..8 * MIB).await;
            assert_eq!(first.end().await, End::Clean);
        };
        within("the other direction", async { tokio::join!(sending, receiving) }).await;
        let reason = if client_first { "client_closed" } else { "host_closed" };
        assert_eq!(world.close_reason(session).await, reason);
    }
}

#[tokio::test]
async fn a_cut_stream_does_not_look_like_a_clean_end() {
    let world = World::start().await;
    let mut bystander = world.bystander().await;
    for (by_client, reason) in [(true, "client_truncated"), (false, "host_truncated")] {
        let Pair { session, client, host } = world.pair().await;
        let (mut one, mut other) = if by_client { (client, host) } else { (host, client) };
        one.send(b"last words").await;
        one.cut().await;
        assert_eq!(other.read_to_end().await, (b"last words".to_vec(), End::Truncated));
        assert_eq!(world.close_reason(session).await, reason);
    }
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn a_leg_that_resets_in_the_middle_of_a_record_ends_the_session() {
    let world = World::start().await;
    let mut bystander = world.bystander().await;
    for (by_client, reason) in [(false, "host_reset"), (true, "client_reset")] {
        let Pair { session, client, host } = world.pair().await;
        let (mut one, mut other) = if by_client { (client, host) } else { (host, client) };
        one.send(b"last words").await;
        assert_eq!(other.receive(10).await, b"last words");
        one.send_raw(&[23, 3, 3, 0x10, 0, 1, 2, 3]).await;
        one.reset();
        assert_eq!(other.end().await, End::Truncated);
        assert_eq!(world.close_reason(session).await, reason);
    }
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn a_forged_record_is_answered_with_an_alert_and_not_passed_on() {
    let world = World::start().await;
    let mut bystander = world.bystander().await;
    let mut oversized = vec![23, 3, 3, 0xff, 0xff];
    oversized.resize(20_000, 0);
    for (forged, alert) in [
        ([[23, 3, 3, 0, 40].as_slice(), &[0; 40]].concat(), rustls::AlertDescription::BadRecordMac),
        (oversized, rustls::AlertDescription::RecordOverflow),
    ] {
        for (by_client, reason) in [(true, "client_tls_error"), (false, "host_tls_error")] {
            let Pair { session, client, host } = world.pair().await;
            let (mut one, mut other) = if by_client { (client, host) } else { (host, client) };
            one.send(b"true").await;
            one.send_raw(&forged).await;
            assert_eq!(one.end().await, End::Alert(alert));
            assert_eq!(other.read_to_end().await, (b"true".to_vec(), End::Truncated));
            assert_eq!(world.close_reason(session).await, reason);
        }
    }
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn key_updates_are_followed_and_answered() {
    let world = World::start().await;
    let mut pair = world.pair().await;
    for _ in 0..5 {
        pair.client.0.get_mut().1.refresh_traffic_keys().unwrap();
        pair.assert_alive().await;
        pair.host.0.get_mut().1.refresh_traffic_keys().unwrap();
        pair.assert_alive().await;
        pair.assert_alive().await;
    }
    // Both at once, with data already under way.
    let session = pair.session;
    let (mut client, mut host) = (pair.client, pair.host);
    for leg in [&mut client, &mut host] {
        leg.0.get_mut().1.refresh_traffic_keys().unwrap();
    }
    exchange(Pair { session, client, host }, MIB, 3_000).await;
}

/// The answer that is asked for cannot be given any more, and need not be.
#[tokio::test]
async fn a_key_update_after_the_other_direction_closed_is_followed() {
    let world = World::start().await;
    let mut pair = world.pair().await;
    pair.host.close().await;
    assert_eq!(pair.client.end().await, End::Clean);
    for _ in 0..3 {
        pair.client.0.get_mut().1.refresh_traffic_keys().unwrap();
        pair.client.send(b"still here").await;
        assert_eq!(pair.host.receive(10).await, b"still here");
    }
    pair.client.close().await;
    assert_eq!(pair.host.end().await, End::Clean);
    assert_eq!(world.close_reason(pair.session).await, "host_closed");
}

#[tokio::test]
async fn a_slow_reader_holds_its_sender_back_and_loses_nothing() {
    for world in worlds(|_| {}).await {
        hold_a_sender_back(&world).await;
    }
}

async fn hold_a_sender_back(world: &World) {
    const LENGTH: usize = 64 * MIB;
    let mut bystander = world.bystander().await;
    let Pair { session, client, mut host } = world.pair().await;
    small_socket_buffers(&client);
    small_socket_buffers(&host);
    let pusher = Pusher::start(client, LENGTH);
    until("the sender is held back", || world.gateway.held_back() > 0).await;
    let taken = pusher.stalled().await;
    assert!(taken < LENGTH / 2, "{taken} bytes went into a stream that nobody reads");
    bystander.assert_undisturbed().await;

    within("the rest", pattern::expect(&mut host.0, 1, 0..LENGTH)).await;
    let mut writing = within("the pusher", pusher.pushing).await.unwrap();
    writing.shutdown().await.unwrap();
    assert_eq!(host.end().await, End::Clean);
    host.close().await;
    assert_eq!(world.close_reason(session).await, "client_closed");
    let worker = &world.gateway.shared().workers[0].stats;
    assert_eq!(worker.arena_overflows.load(Relaxed), 0);
    bystander.assert_undisturbed().await;
}

/// Stalled sessions that would fill the whole arena several times over.
#[tokio::test]
async fn many_slow_readers_do_not_take_the_memory_of_the_others() {
    for world in worlds(|config| config.threads.output_slots = 8).await {
        hold_many_senders_back(&world).await;
    }
}

async fn hold_many_senders_back(world: &World) {
    const SESSIONS: usize = 8;
    const LENGTH: usize = 24 * MIB;
    /// What the kernel may keep for one socket, the gateway's cap, and what
    /// may be under way when it is reached.
    const TAKEN_MAX: u64 = 6 * 1024 * 1024;
    let mut bystander = world.bystander().await;
    let mut stalled = Vec::new();
    for _ in 0..SESSIONS {
        let Pair { session, client, host } = world.pair().await;
        small_socket_buffers(&client);
        small_socket_buffers(&host);
        stalled.push((session, Pusher::start(client, LENGTH), host));
    }
    for (session, pusher, _) in &stalled {
        pusher.stalled().await;
        let live = lock(&world.gateway.shared().live);
        let (bytes_up, _) = live[session].counters.read();
        assert!(
            bytes_up < TAKEN_MAX,
            "{bytes_up} bytes were taken for a reader that does not read"
        );
    }
    bystander.assert_undisturbed().await;
    let reading = stalled.into_iter().map(|(_, pusher, mut host)| async move {
        pattern::expect(&mut host.0, 1, 0..LENGTH).await;
        pusher.pushing.await.unwrap();
    });
    within("everybody reads", futures_util::future::join_all(reading)).await;
    bystander.assert_undisturbed().await;
}

/// Ending a session does not wait for a reader that never reads.
#[tokio::test]
async fn a_session_ends_although_its_output_cannot_be_delivered() {
    let world = World::start_with(|config| config.limits.drain_output_ms = 100).await;
    let Pair { session, client, host } = world.pair().await;
    small_socket_buffers(&host);
    let pusher = Pusher::start(client, 64 * MIB);
    pusher.stalled().await;
    // A session at a standstill costs nothing: the worker sleeps.
    let enters = &world.gateway.shared().workers[0].stats.enters;
    let before = enters.load(Relaxed);
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(enters.load(Relaxed) < before + 50, "the worker does not sleep");
    let refusal = ringway::core::codes::Refusal::new(ringway::core::codes::Code::HostGone);
    let cancel = ringway::wire::channel::BrokerToGateway::Cancel { session, refusal };
    world.broker.send(&world.gateway.id, cancel);
    assert_eq!(world.close_reason(session).await, "disconnected");
    assert_eq!(world.gateway.shared().sessions(), 0);
    pusher.pushing.abort();
    drop(host);
}

#[tokio::test]
async fn clocks_end_sessions_that_are_silent_half_closed_or_old() {
    let idle = World::start_with(|config| config.limits.idle_timeout_ms = 200).await;
    let old = World::start_with(|config| config.limits.lifetime_ms = 200).await;
    let half = World::start_with(|config| config.limits.half_close_timeout_ms = 200).await;
    for (world, reason) in
        [(idle, "idle_timeout"), (old, "lifetime_reached"), (half, "half_close_timeout")]
    {
        let mut pair = world.pair().await;
        if reason == "half_close_timeout" {
            pair.assert_alive().await;
            pair.client.close().await;
        }
        assert_eq!(pair.client.end().await, End::Clean, "{reason}");
        assert_eq!(pair.host.end().await, End::Clean, "{reason}");
        assert_eq!(world.close_reason(pair.session).await, reason);
    }
}
