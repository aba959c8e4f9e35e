//! Each protocol, with each stock client that knows it, to each kind of session
//! host: the desktop is drawn, what is typed arrives, the end is clean. The
//! roles of Ringway are processes of their own.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::authority::Authority;
use crate::support::demo_desktop::DemoDesktop;
use crate::support::deployment::{Deployment, token};
use crate::support::desktop::{Desktop, XrdpDesktop, assert_works};
use crate::support::stock_client::FreeRdp;
use crate::support::stock_way::{Door, Visit, Way};
use crate::support::xrdp::{User, XrdpHost};

/// Clients at once, each with a user of its own: a second session of a user
/// takes the first one's place at the host.
const USERS: [User; 3] = [
    User { name: "ringway-ann", colour: "#204060" },
    User { name: "ringway-bob", colour: "#602040" },
    User { name: "ringway-cat", colour: "#206040" },
];
const END_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn step12_every_client_reaches_xrdp_in_every_way_it_knows() {
    if !FreeRdp::all_available() {
        return;
    }
    let Some(host) = XrdpHost::start(&USERS) else { return };
    let names = USERS.map(|user| user.name);
    let ringway = Deployment::start(2, host.address, &names);
    let authority = Authority::start();
    let door = Door::new(&ringway, host.certificate_pem(), &authority);
    let (still, ways): (Vec<_>, Vec<_>) = Way::all_with_clients()
        .into_iter()
        .partition(|(way, version)| way.waits_for_the_host(*version));
    for (way, version) in still {
        eprintln!("{version}, {way}: left out, it says nothing while a screen is still");
    }
    go_all_ways(&ringway, &door, ways, |user| XrdpDesktop { host: &host, user });
    ringway.stop();
}

#[test]
fn step12_every_client_reaches_the_demo_host_in_every_way_it_knows() {
    if !FreeRdp::all_available() {
        return;
    }
    let host = DemoDesktop::start();
    let names = USERS.map(|user| user.name);
    let ringway = Deployment::start(2, host.address, &names);
    let authority = Authority::start();
    let door = Door::new(&ringway, host.certificate_pem(), &authority);
    go_all_ways(&ringway, &door, Way::all_with_clients(), |_| &host);
    ringway.stop();
}

/// As many clients at once as there are users.
fn go_all_ways<D: Desktop>(
    ringway: &Deployment,
    door: &Door<'_>,
    ways: Vec<(Way, FreeRdp)>,
    desktop: impl Fn(User) -> D + Sync,
) {
    let left = Mutex::new(ways);
    let next = || left.lock().unwrap().pop();
    std::thread::scope(|clients| {
        for user in USERS {
            let (next, desktop) = (&next, &desktop);
            clients.spawn(move || {
                // The very file that the feed signed.
                let file = std::fs::read(ringway.subscribe(user.name)).unwrap();
                while let Some((way, version)) = next() {
                    go(door, way, version, user, &file, &desktop(user));
                }
            });
        }
    });
}

/// Connects, looks, types, and closes the window.
fn go(door: &Door<'_>, way: Way, version: FreeRdp, user: User, file: &[u8], desktop: &dyn Desktop) {
    let begun = Instant::now();
    let visit = Visit {
        resource: "desktop",
        token: &token(user.name),
        account: desktop.account(),
        rdp_file: Some(file.to_vec()),
        further: &[],
    };
    let mut client = door.enter(way, version, &visit);
    let window = assert_works(&mut client, desktop);
    client.screen.close(&window);
    let end = client.ended(END_LIMIT);
    assert!(end.is_some(), "{version}, {way}: did not end\n{}", client.last_words());
    eprintln!("{version}, {way}: drawn, typing arrived, {} ({:?})", end.unwrap(), begun.elapsed());
}
