//! Steps 7 to 12 between real roles: broker, two gateways, a session host and
//! clients, over real TLS. The first six are in `twelve_steps`.

use std::sync::{Arc, Mutex};

use ringway::core::codes::Code;
use ringway::core::ids::GatewayId;
use ringway::core::placement::Phase;
use ringway::core::selection::{RttSource, Verdict};
use ringway::core::tickets::Role;
use ringway::demo::rdp_client::{self, ClientError, ClientSettings};
use ringway::demo::rdp_host::{DemoHost, HOST_NAME};
use ringway::demo::world::DESKTOP;
use ringway::wire::arm::RttSample;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use zeroize::Zeroizing;

use crate::support::legs::End;
use crate::support::pattern;
use crate::support::scripted_host::ScriptedHost;
use crate::support::stage::{Stage, USERS, settings, token, wish};
use crate::support::targets::{Echo, Serving, Tapped};
use crate::support::wait::within;

fn gateways() -> [GatewayId; 2] {
    ["gw-1", "gw-2"].map(|name| name.parse().unwrap())
}

#[tokio::test]
async fn step07_the_lowest_latency_group_wins_and_then_the_fewest_connections() {
    let stage = Stage::start_with_host(settings(), Echo).await;
    let [near, far] = gateways();
    let mut measured = wish(DESKTOP);
    let sample =
        |gateway: &GatewayId, rtt_us| RttSample { gateway: gateway.clone(), rtt_us, age_ms: 0 };

    // Ten milliseconds make a group: the nearer one is chosen however full it
    // is, and whichever gateway was asked.
    measured.ringway_rtt_samples = vec![sample(&near, 1_000), sample(&far, 12_000)];
    for entry in &stage.world.gateways {
        let bearer = token("alice");
        let place = stage.place_at(entry.address(), Some(&bearer), &measured).await.unwrap();
        assert_eq!(place.ringway.gateway, near);
        let port = stage.gateway(&near).address().port();
        let there = format!("https://localhost:{port}/relay/client");
        assert_eq!(place.gateway_location.expose(), there);
        let verdicts = place.ringway.explain.lines.iter().map(|l| (l.group, l.verdict));
        assert_eq!(
            verdicts.collect::<Vec<_>>(),
            [(Some(0), Verdict::Chosen), (Some(1), Verdict::HigherGroup)]
        );
        // The record is kept with the session.
        let (view, explain) = stage.explained(place.ringway.session).await;
        assert_eq!((view.gateway, explain), (Some(near.clone()), place.ringway.explain));
    }

    // Within a group, connections count, and placements as connections.
    measured.ringway_rtt_samples = vec![sample(&near, 9_000), sample(&far, 1_000)];
    let bearer = token("bob");
    let place = stage.place_at(stage.entry(), Some(&bearer), &measured).await.unwrap();
    let lines = &place.ringway.explain.lines;
    let fewest = lines.iter().min_by_key(|line| line.connections).unwrap();
    assert_eq!(fewest.gateway, place.ringway.gateway, "{lines:?}");
    assert!(lines.iter().any(|line| line.verdict == Verdict::MoreConnections), "{lines:?}");
    stage.shutdown().await;
}

#[tokio::test]
async fn step07_sessions_spread_over_gateways_that_are_equally_near() {
    let stage = Stage::start_with_host(settings(), Echo).await;
    let mut open = Vec::new();
    // Each a user of their own: who has a session stays where it is.
    for (user, count) in USERS.into_iter().zip(1_u32..) {
        let seated = stage.open(user).await.unwrap();
        let (view, explain) = stage.explained(seated.session).await;
        assert_eq!(view.gateway.as_ref(), Some(&seated.gateway));
        for line in &explain.lines {
            let is_entry = line.gateway.as_str() == "gw-1";
            let source = if is_entry { RttSource::Entry } else { RttSource::Probe };
            assert_eq!(line.rtt.unwrap().source, source);
        }
        stage.until_relayed(&seated.gateway, seated.session).await;
        open.push(seated);
        // The next selection is to see this session as a connection.
        let known = stage.world.until("the gateways have reported", |_, snapshot| {
            snapshot.gateways.iter().map(|g| g.connections).sum::<u32>() == count
                && snapshot.gateways.iter().all(|g| g.in_flight == 0)
        });
        known.await.unwrap();
        stage.until_entry_sees(count).await;
    }
    for gateway in &stage.world.gateways {
        assert_eq!(gateway.shared().sessions(), 2, "{}", gateway.shared().id);
    }
    stage.shutdown().await;
}

/// Ten milliseconds and one microsecond are another group, and nobody who has a
/// session moves for that. A session that is new goes where it is best.
#[tokio::test]
async fn step07_who_has_a_session_stays_at_its_gateway_within_one_group() {
    let stage = Stage::start_with_host(settings(), Echo).await;
    let [first, second] = gateways();
    let measured = |first_us, second_us| {
        let mut measured = wish(DESKTOP);
        measured.ringway_rtt_samples = [(&first, first_us), (&second, second_us)]
            .map(|(gateway, rtt_us)| RttSample { gateway: gateway.clone(), rtt_us, age_ms: 0 })
            .into();
        measured
    };
    let place = async |user: &str, first_us, second_us| {
        let wish = measured(first_us, second_us);
        stage.place_at(stage.entry(), Some(&token(user)), &wish).await.unwrap()
    };
    let there = place("alice", 9_999, 15_000).await;
    assert_eq!(there.ringway.gateway, first);
    let mut leg = stage.join(&there).await.unwrap();
    stage.until_live(there.ringway.session).await;

    // The way to it has become a little longer than to the other.
    for (user, expected) in [("alice", &first), ("bob", &second)] {
        assert_eq!(place(user, 10_001, 5_000).await.ringway.gateway, *expected, "{user}");
    }
    let returned = place("alice", 10_001, 5_000).await.ringway;
    let (_, kept) = stage.explained(returned.session).await;
    assert!(kept.reason().starts_with("gw-1: the session is there"), "{}", kept.reason());
    assert_eq!(kept.lines[1].words(), "better, but the session stays");
    // Two groups are too far.
    assert_eq!(place("alice", 20_000, 5_000).await.ringway.gateway, second);

    // A moment after its end it is still theirs to return to.
    leg.close().await;
    stage.end_of(there.ringway.session).await;
    assert_eq!(place("alice", 10_001, 5_000).await.ringway.gateway, first);
    stage.shutdown().await;
}

/// A gateway reports what it relays. Who was sent there and has not come, or
/// waits there for a slow host, must count all the same.
#[tokio::test]
async fn step07_a_load_report_does_not_forget_who_is_on_the_way() {
    let stage = Stage::start().await;
    let _host = ScriptedHost::start(&stage, "host-1").await;
    let first = stage.place("alice").await.unwrap().ringway.gateway;
    let view = async || {
        let gateways = stage.world.broker.snapshot().await.gateways;
        gateways.into_iter().find(|view| view.gateway == first).unwrap()
    };
    assert_eq!(view().await.in_flight, 1);
    let reported = async {
        let mut age_ms = 0;
        while view().await.age_ms >= age_ms {
            age_ms = view().await.age_ms;
            tokio::task::yield_now().await;
        }
    };
    within("a load report", reported).await;
    let after = view().await;
    assert_eq!((after.connections, after.in_flight), (0, 1));
    stage.until_entry_sees(1).await;
    let second = stage.place("bob").await.unwrap().ringway.gateway;
    assert_ne!(first, second);
    stage.shutdown().await;
}

#[tokio::test]
async fn step08_tickets_are_checked_without_the_broker() {
    let mut stage = Stage::start_with_host(settings(), Echo).await;
    let [alice, bob] = [stage.place("alice").await.unwrap(), stage.place("bob").await.unwrap()];
    let (url, ticket) = (alice.gateway_location.expose(), alice.ringway.ticket.expose());
    let elsewhere = gateways().into_iter().find(|id| *id != alice.ringway.gateway).unwrap();
    let elsewhere = stage.gateway(&elsewhere).shared().config().url.clone();
    stage.world.kill_broker().await.unwrap();

    let (signed, signature) = ticket.rsplit_once('.').unwrap();
    let other_signature = bob.ringway.ticket.expose().rsplit_once('.').unwrap().1;
    assert_ne!(signature, other_signature);
    let forged = format!("{signed}.{other_signature}");
    let key = ticket.split('.').nth(1).unwrap();
    let unknown_key = ticket.replacen(key, "0123456789abcdef", 1);
    for (url, role, ticket, code) in [
        (url, Role::Client, "", Code::TicketMissing),
        (url, Role::Client, "rw1.nothing", Code::TicketMalformed),
        (url, Role::Client, &forged, Code::TicketBadSignature),
        (url, Role::Client, &unknown_key, Code::TicketUnknownKey),
        (&elsewhere, Role::Client, ticket, Code::TicketWrongGateway),
        (url, Role::Host, ticket, Code::TicketWrongRole),
        // A good one is let in; only then the broker is missed.
        (url, Role::Client, ticket, Code::BrokerUnreachable),
        (url, Role::Client, ticket, Code::TicketUsed),
    ] {
        assert_eq!(stage.knock(url, role, ticket).await.unwrap_err().code, code, "{ticket}");
    }
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_the_order_comes_over_the_hosts_own_channel() {
    let stage = Stage::start().await;
    let mut host = ScriptedHost::start(&stage, "host-1").await;
    let place = stage.place("alice").await.unwrap();
    let session = place.ringway.session;
    // Nothing is ordered before the client is at its gateway.
    assert_eq!(stage.phase(session).await, Some(Phase::Reserved));
    let (leg, order) = tokio::join!(stage.join(&place), async {
        let order = host.order().await;
        assert_eq!(stage.phase(session).await, Some(Phase::Ordered));
        host.accept(&order);
        let leg = host.join(&order).await.unwrap();
        (order, leg)
    });
    let (mut client, (order, mut leg)) = (leg.unwrap(), order);
    assert_eq!((order.session, &order.gateway), (session, &place.ringway.gateway));
    assert_eq!(order.answer_within_ms, 1_000);
    client.send(b"to the host").await;
    assert_eq!(leg.receive(11).await, b"to the host");
    stage.until_live(session).await;
    assert_eq!(stage.phase(session).await, Some(Phase::Live));
    stage.shutdown().await;
}

#[tokio::test]
async fn step10_the_host_reaches_the_same_gateway_and_no_other() {
    let stage = Stage::start().await;
    let mut host = ScriptedHost::start(&stage, "host-1").await;
    // Tie or not: one session for each gateway.
    for chosen in gateways() {
        let mut measured = wish(DESKTOP);
        let other = gateways().into_iter().find(|id| *id != chosen).unwrap();
        measured.ringway_rtt_samples = vec![
            RttSample { gateway: chosen.clone(), rtt_us: 1_000, age_ms: 0 },
            RttSample { gateway: other.clone(), rtt_us: 50_000, age_ms: 0 },
        ];
        let bearer = token("alice");
        let place = stage.place_at(stage.entry(), Some(&bearer), &measured).await.unwrap();
        let (client, leg) = tokio::join!(stage.join(&place), async {
            let order = host.order().await;
            let url = stage.gateway(&chosen).shared().config().url.clone();
            assert_eq!((&order.gateway, &order.gateway_url), (&chosen, &url));
            host.accept(&order);
            let elsewhere = stage.gateway(&other).shared().config().url.clone();
            let refused = host.join_at(&elsewhere, &order).await.unwrap_err();
            assert_eq!(refused.code, Code::TicketWrongGateway);
            host.join(&order).await.unwrap()
        });
        let session = place.ringway.session;
        stage.until_relayed(&chosen, session).await;
        assert!(!stage.relays(&other, session));
        // One that ends before the broker knew of it is taken back at the host.
        stage.until_live(session).await;
        drop((client.unwrap(), leg));
    }
    stage.until_free().await;
    stage.shutdown().await;
}

#[tokio::test]
async fn step11_bytes_flow_both_ways() {
    const UP: usize = 5 * 1024 * 1024 + 17;
    const DOWN: usize = 7 * 1024 * 1024 + 5;
    const AFTERWARDS: usize = 1024 * 1024 + 3;
    // The host takes one stream and sends another at the same time, and goes
    // on sending after the client has closed its side.
    let target = Serving(|stream| async move {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let taking = async {
            pattern::expect(&mut reader, 1, 0..UP).await;
            assert_eq!(reader.read(&mut [0]).await.unwrap(), 0, "more than was sent");
        };
        let (sent, ()) = tokio::join!(pattern::send(&mut writer, 2, 0..DOWN, 9_001), taking);
        sent.unwrap();
        pattern::send(&mut writer, 2, DOWN..DOWN + AFTERWARDS, 40_000).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let stage = Stage::start_with_host(settings(), target).await;
    let crate::support::stage::Seated { session, leg, .. } = stage.open("alice").await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(leg.0);
    let sending = async {
        pattern::send(&mut writer, 1, 0..UP, 16_385).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let both = async { tokio::join!(pattern::expect(&mut reader, 2, 0..DOWN), sending) };
    within("both streams", both).await;
    within("the rest", pattern::expect(&mut reader, 2, DOWN..DOWN + AFTERWARDS)).await;
    // `close_notify`: else this were an error.
    assert_eq!(within("the end", reader.read(&mut [0])).await.unwrap(), 0);
    let view = stage.end_of(session).await;
    assert_eq!(view.end.as_deref(), Some("client_closed"));
    assert_eq!((view.bytes_up, view.bytes_down), (UP as u64, (DOWN + AFTERWARDS) as u64));
    stage.until_free().await;
    stage.shutdown().await;
}

#[tokio::test]
async fn step11_the_host_may_close_first() {
    let target = Serving(|mut stream: DuplexStream| async move {
        stream.write_all(b"goodbye").await.unwrap();
        stream.shutdown().await.unwrap();
        pattern::expect(&mut stream, 1, 0..300_000).await;
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    });
    let stage = Stage::start_with_host(settings(), target).await;
    let mut seated = stage.open("alice").await.unwrap();
    assert_eq!(seated.leg.read_to_end().await, (b"goodbye".to_vec(), End::Clean));
    within("sending", pattern::send(&mut seated.leg.0, 1, 0..300_000, 1_000)).await.unwrap();
    seated.leg.close().await;
    let view = stage.end_of(seated.session).await;
    assert_eq!((view.end.as_deref(), view.bytes_up), (Some("host_closed"), 300_000));
    stage.shutdown().await;
}

/// The agent writes and reads what the gateway has in clear, so a tap there
/// sees what the gateway could see.
#[tokio::test]
async fn step12_rdp_runs_with_its_own_tls_inside() {
    const PASSWORD: &str = "correct-horse-battery";
    let host = Arc::new(DemoHost::start("alice", PASSWORD).unwrap());
    let seen: Arc<Mutex<[Vec<u8>; 2]>> = Arc::default();
    let target = Tapped { host: Arc::clone(&host), seen: Arc::clone(&seen) };
    let stage = Stage::start_with_host(settings(), target).await;
    let client = |host_certificate: &CertificateDer<'static>| ClientSettings {
        user: "alice".into(),
        password: Zeroizing::new(PASSWORD.into()),
        host_certificate: host_certificate.clone(),
        host_name: HOST_NAME.into(),
        deadline_ms: 60_000,
    };

    let (leg, details) = stage.opener("alice").open().await.unwrap();
    let report = rdp_client::watch(leg, &client(host.certificate_der())).await.unwrap();
    assert!(report.pixels_verified);
    let view = stage.end_of(details.session).await;
    let [up, down] = std::mem::take(&mut *seen.lock().unwrap());
    // Whoever hangs up first does not read the other's last words.
    assert!(up.len() as u64 <= view.bytes_up && up.len() > 1_000, "{} {view:?}", up.len());
    for (direction, bytes) in [("up", up), ("down", down)] {
        assert_only_tls_after_x224(direction, &bytes);
        let utf16: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for secret in [PASSWORD.as_bytes(), &utf16] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{direction}");
        }
    }

    // Whoever sits between cannot show the host's certificate, as this other
    // host cannot.
    let other = DemoHost::start("alice", PASSWORD).unwrap();
    let (leg, details) = stage.opener("alice").open().await.unwrap();
    let refused = rdp_client::watch(leg, &client(other.certificate_der())).await.unwrap_err();
    assert!(matches!(refused, ClientError::Tls(_) | ClientError::WrongCertificate), "{refused}");
    stage.end_of(details.session).await;
    stage.until_free().await;
    stage.shutdown().await;
    other.shutdown().await;
}

/// MS-RDPBCGR 5.4.5.2: one X.224 message each way in clear, then TLS records
/// to the last byte (the last record may be cut where a side hung up).
fn assert_only_tls_after_x224(direction: &str, bytes: &[u8]) {
    assert_eq!(bytes[..2], [3, 0], "{direction}: no TPKT header");
    let mut at = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    let mut records = 0;
    while at + 5 <= bytes.len() {
        let header = &bytes[at..at + 5];
        assert!(
            (20..=23).contains(&header[0]) && header[1] == 3,
            "{direction}: {header:?} at {at}"
        );
        at += 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
        records += 1;
    }
    assert!(records > 3, "{direction}: {records} records");
}
