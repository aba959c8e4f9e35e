//! Real programs at both ends: xrdp as the session host, FreeRDP as the client.
//! The verdicts are a pixel of known colour, a file made by typing into the
//! session, and the login in xrdp's log.

use std::time::Duration;

use crate::support::deployment::Deployment;
use crate::support::desktop::{RdpClientRun, client_available};
use crate::support::xrdp::{User, XrdpHost};

const ANN: User = User { name: "ringway-ann", colour: "#204060" };
const BOB: User = User { name: "ringway-bob", colour: "#602040" };

/// The harness itself: if this fails, a failure through Ringway says nothing.
#[test]
fn two_users_reach_xrdp_without_ringway() {
    if !client_available() {
        return;
    }
    let Some(host) = XrdpHost::start(&[ANN, BOB]) else { return };
    let mut ann = RdpClientRun::start(host.address, ANN);
    let mut bob = RdpClientRun::start(host.address, BOB);
    ann.assert_desktop_works(&host);
    bob.assert_desktop_works(&host);
    assert!(ann.shows_own_desktop() && bob.shows_own_desktop(), "one session ended the other");
}

/// All twelve steps between separate processes: two users, two gateways, the
/// same session host, which listens on loopback only.
#[test]
fn step12_two_users_reach_xrdp_through_two_gateways() {
    if !client_available() {
        return;
    }
    let Some(host) = XrdpHost::start(&[ANN, BOB]) else { return };
    let ringway = Deployment::start(2, host.address, &[ANN.name, BOB.name]);

    let ann_file = ringway.subscribe(ANN.name);
    let (ann_connect, ann_address) = ringway.connect(ANN.name, &ann_file);
    let mut ann = RdpClientRun::start(ann_address, ANN);
    ann.assert_desktop_works(&host);

    // Both gateways are equally near; the second has fewer connections now.
    let bob_file = ringway.subscribe(BOB.name);
    let (bob_connect, bob_address) = ringway.connect(BOB.name, &bob_file);
    let mut bob = RdpClientRun::start(bob_address, BOB);
    bob.assert_desktop_works(&host);
    assert!(ann.shows_own_desktop() && bob.shows_own_desktop(), "one session ended the other");

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
