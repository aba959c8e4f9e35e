//! Real programs at both ends: xrdp as the session host, FreeRDP as the client.
//! The verdicts are a pixel of known colour, a file made by typing into the
//! session, and the login in xrdp's log.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::deployment::Deployment;
use crate::support::desktop::{Desktop as _, XrdpDesktop, assert_works};
use crate::support::screen::Window;
use crate::support::stock_client::{FreeRdp, StockClient, Surroundings};
use crate::support::xrdp::{PASSWORD, User, XrdpHost};

const ANN: User = User { name: "ringway-ann", colour: "#204060" };
const BOB: User = User { name: "ringway-bob", colour: "#602040" };
const LOGIN_LIMIT: Duration = Duration::from_secs(20);

/// All twelve steps between separate processes: two users, two gateways, the
/// same session host, which listens on loopback only.
#[test]
fn step12_two_users_reach_xrdp_through_two_gateways() {
    if !FreeRdp::all_available() {
        return;
    }
    let Some(host) = XrdpHost::start(&[ANN, BOB]) else { return };
    let ringway = Deployment::start(2, host.address, &[ANN.name, BOB.name]);

    let ann_file = ringway.subscribe(ANN.name);
    let (ann_connect, ann_address) = ringway.connect(ANN.name, &ann_file);
    let mut ann = start_client(&host, ANN, ann_address);
    let (ann_desktop, ann_window) = reach(&mut ann, &host, ANN);

    // Both gateways are equally near; the second has fewer connections now.
    let bob_file = ringway.subscribe(BOB.name);
    let (bob_connect, bob_address) = ringway.connect(BOB.name, &bob_file);
    let mut bob = start_client(&host, BOB, bob_address);
    let (bob_desktop, bob_window) = reach(&mut bob, &host, BOB);
    ann_desktop.is_drawn(&ann.screen, &ann_window).expect("one session ended the other");
    bob_desktop.is_drawn(&bob.screen, &bob_window).expect("one session ended the other");

    let relaying = ringway.gateway_events("Relaying");
    assert!(
        relaying.iter().all(|sessions| sessions.len() == 1),
        "one session on each gateway: {relaying:?}\n{}",
        ringway.logs()
    );
    drop((ann, bob, ann_connect, bob_connect));
    for ended in ringway.events_of_every_gateway("Session ended", Duration::from_secs(20)) {
        let session = &ended[0];
        eprintln!("{session}");
        assert!(session["bytes_down"].as_u64().unwrap() > 10_000, "{session}");
        assert!(session["bytes_up"].as_u64().unwrap() > 1_000, "{session}");
        assert!(session["reason"].as_str().unwrap().starts_with("client_"), "{session}");
    }
    ringway.stop();
}

/// A user's client towards our connector, on loopback.
fn start_client(host: &XrdpHost, user: User, address: SocketAddr) -> StockClient {
    let around = Surroundings { trusted: vec![host.certificate_pem()], ..Surroundings::default() };
    let arguments = [
        format!("/v:localhost:{}", address.port()),
        format!("/u:{}", user.name),
        format!("/p:{PASSWORD}"),
        "/size:1024x700".to_owned(),
    ];
    StockClient::start(FreeRdp::Bookworm, &around, &arguments)
}

fn reach<'a>(
    client: &mut StockClient,
    host: &'a XrdpHost,
    user: User,
) -> (XrdpDesktop<'a>, Window) {
    let desktop = XrdpDesktop { host, user };
    let window = assert_works(client, &desktop);
    assert!(host.logged_in(user, LOGIN_LIMIT), "no login of {}\n{}", user.name, host.logs());
    eprintln!("{}: {} drawn, login logged, typing arrived", user.name, user.colour);
    (desktop, window)
}
