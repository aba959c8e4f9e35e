//! Real programs at both ends: xrdp as the session host, FreeRDP as the client.
//! The verdicts are a pixel of known colour, a file made by typing into the
//! session, and the login in xrdp's log.

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
