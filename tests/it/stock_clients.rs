//! Stock clients and both kinds of session host without Ringway between them:
//! if this fails, a failure through Ringway says nothing.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::demo_desktop::DemoDesktop;
use crate::support::desktop::{Desktop, XrdpDesktop, assert_works};
use crate::support::stock_client::{FreeRdp, StockClient, Surroundings};
use crate::support::xrdp::{User, XrdpHost};

/// One for each client: a second session of a user would take the first one's
/// place.
const USERS: [User; 3] = [
    User { name: "ringway-ann", colour: "#204060" },
    User { name: "ringway-bob", colour: "#602040" },
    User { name: "ringway-cat", colour: "#206040" },
];
const END_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn every_client_reaches_xrdp_without_ringway() {
    if !FreeRdp::all_available() {
        return;
    }
    let Some(host) = XrdpHost::start(&USERS) else { return };
    let (trusted, host) = (host.certificate_pem(), &host);
    std::thread::scope(|clients| {
        for (version, user) in FreeRdp::ALL.into_iter().zip(USERS) {
            let trusted = trusted.clone();
            clients.spawn(move || {
                assert_direct(version, host.address, trusted, &XrdpDesktop { host, user });
            });
        }
    });
}

#[test]
fn every_client_reaches_the_demo_host_without_ringway() {
    if !FreeRdp::all_available() {
        return;
    }
    let desktop = &DemoDesktop::start();
    std::thread::scope(|clients| {
        for version in FreeRdp::ALL {
            clients.spawn(move || {
                assert_direct(version, desktop.address, desktop.certificate_pem(), desktop);
            });
        }
    });
}

/// What the other tests trust, they trust for a reason.
#[test]
fn no_client_accepts_a_host_whose_certificate_it_does_not_know() {
    if !FreeRdp::all_available() {
        return;
    }
    let desktop = DemoDesktop::start();
    for version in FreeRdp::ALL {
        let mut client = start(version, desktop.address, vec![], &desktop);
        let end = client.ended(END_LIMIT);
        let said = client.printed();
        assert!(end.is_some_and(|end| !end.success()), "{version}: {end:?}\n{said}");
        assert!(said.contains("TLS_CONNECT_FAILED"), "{version}\n{said}");
    }
}

/// Connects, looks, types, and closes the window.
fn assert_direct(version: FreeRdp, address: SocketAddr, trusted: String, desktop: &dyn Desktop) {
    let mut client = start(version, address, vec![trusted], desktop);
    let window = assert_works(&mut client, desktop);
    client.screen.close(&window);
    let end = client.ended(END_LIMIT);
    assert!(end.is_some(), "{version} did not end\n{}", client.last_words());
    eprintln!("{version}: drawn, typing arrived, {}", end.unwrap());
}

fn start(
    version: FreeRdp,
    address: SocketAddr,
    trusted: Vec<String>,
    desktop: &dyn Desktop,
) -> StockClient {
    let around = Surroundings { trusted, ..Surroundings::default() };
    let (user, password) = desktop.account();
    let arguments = [
        format!("/v:localhost:{}", address.port()),
        format!("/u:{user}"),
        format!("/p:{password}"),
        "/size:1024x700".to_owned(),
    ];
    StockClient::start(version, &around, &arguments)
}
