//! Stock clients notice that their session is over, whichever way they came and
//! whatever ended it, and leave by themselves. Some of them do not notice the
//! end of a stream.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::authority::Authority;
use crate::support::demo_desktop::DemoDesktop;
use crate::support::deployment::{Deployment, Plan, token};
use crate::support::desktop::{Desktop, assert_shows};
use crate::support::stock_client::{FreeRdp, StockClient};
use crate::support::stock_way::{Door, Visit, Way};
use crate::support::wait::poll;

/// One for every client: another session of a user would end the first.
const USERS: [&str; 13] =
    ["u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9", "u10", "u11", "u12"];
const RESOURCE: &str = "desktop";
/// Long after the second that it may take; how long it took is printed.
const END_LIMIT: Duration = Duration::from_secs(15);
/// FreeRDP waits for five seconds before each attempt.
const RETURN_LIMIT: Duration = Duration::from_secs(60);
const ROOM: &str = "sessions_per_host_max = 20";

#[test]
fn every_client_leaves_when_an_administrator_ends_its_session() {
    leave_after("disconnected", |ringway, _, _| {
        ringway.ctl(&["disconnect", "--host", "host-1"]);
    });
}

#[test]
fn every_client_leaves_when_its_host_closes_the_session() {
    leave_after("host closed", |_, host, _| host.take().unwrap().stop());
}

#[test]
fn every_client_leaves_when_its_hosts_agent_dies() {
    leave_after("agent died", |ringway, _, _| ringway.kill_agent());
}

#[test]
fn every_client_leaves_when_its_gateway_stops() {
    leave_after("gateway stopped", |ringway, _, clients| {
        ringway.take_out_first_gateway();
        let warning = "This gateway goes out of service";
        for (way, client) in clients.iter().filter(|(way, _)| way.shows_messages()) {
            let warned = poll(END_LIMIT, || client.printed().contains(warning).then_some(()));
            assert!(warned.is_some(), "{}, {way}\n{}", client.version, client.last_words());
        }
    });
}

/// Everything is up; then that happens.
fn leave_after(
    what: &str,
    happens: impl FnOnce(&mut Deployment, &mut Option<DemoDesktop>, &[(Way, StockClient)]),
) {
    if !FreeRdp::all_available() {
        return;
    }
    let host = DemoDesktop::start();
    let authority = Authority::start();
    let mut ringway = Deployment::start_as(&Plan {
        pool: ROOM,
        gateway_limits: "shutdown_grace_ms = 1000",
        ..Plan::new(1, host.address, &USERS)
    });
    let door = Door::new(&ringway, host.certificate_pem(), &authority);
    let mut clients = start_all(&door, host.account(), &[]);
    for (_, client) in &mut clients {
        assert_shows(client, &host);
    }
    for (way, client) in &mut clients {
        assert!(client.is_running(), "{}, {way}\n{}", client.version, client.last_words());
    }
    let mut host = Some(host);
    let begun = Instant::now();
    happens(&mut ringway, &mut host, &clients);
    assert_all_leave(clients, what, begun);
}

/// Asked to, clients dial again by themselves. In AVD mode with the same address,
/// in which the place was used.
#[test]
fn every_client_comes_back_when_its_host_does() {
    if !FreeRdp::all_available() {
        return;
    }
    let host = DemoDesktop::start();
    let authority = Authority::start();
    let mut ringway =
        Deployment::start_as(&Plan { pool: ROOM, ..Plan::new(1, host.address, &USERS) });
    let door = Door::new(&ringway, host.certificate_pem(), &authority);
    let further = ["+auto-reconnect", "/auto-reconnect-max-retries:20"];
    let mut clients = start_all(&door, host.account(), &further);
    for (_, client) in &mut clients {
        assert_shows(client, &host);
    }
    let before = live_sessions(&ringway);
    assert_eq!(before.len(), clients.len());
    ringway.kill_agent();
    ringway.start_agent();
    let all_new = || {
        let now = live_sessions(&ringway);
        (now.len() == clients.len() && now.is_disjoint(&before)).then_some(())
    };
    let back = poll(RETURN_LIMIT, all_new);
    for (way, client) in &mut clients {
        let context = format!("{}, {way}\n{}", client.version, client.last_words());
        assert!(client.is_running(), "gave up: {context}");
    }
    assert!(back.is_some(), "{:?}\n{}", live_sessions(&ringway), ringway.logs());
    for (_, client) in &mut clients {
        assert_shows(client, &host);
    }
    drop(clients);
    ringway.stop();
}

/// Before the nested TLS: the host has been asked and says nothing.
#[test]
fn every_client_leaves_a_host_that_never_answers() {
    if !FreeRdp::all_available() {
        return;
    }
    let host = Silent::start();
    let authority = Authority::start();
    let ringway = Deployment::start_as(&Plan { pool: ROOM, ..Plan::new(1, host.address, &USERS) });
    let mut door = Door::new(&ringway, String::new(), &authority);
    door.trusted.retain(|pem| !pem.is_empty());
    let clients = start_all(&door, ("nobody", "nothing"), &[]);
    let here = poll(END_LIMIT, || (live_sessions(&ringway).len() == clients.len()).then_some(()));
    assert!(here.is_some(), "{:?}\n{}", live_sessions(&ringway), ringway.logs());
    let begun = Instant::now();
    ringway.ctl(&["disconnect", "--host", "host-1"]);
    assert_all_leave(clients, "disconnected before TLS", begun);
}

/// Starts all of them, from this thread: they end with the thread that started
/// them.
fn start_all(door: &Door<'_>, account: (&str, &str), further: &[&str]) -> Vec<(Way, StockClient)> {
    let ways = Way::all_with_clients().into_iter().zip(USERS);
    let start = |((way, version), user)| {
        let token = token(user);
        let visit = Visit { resource: RESOURCE, token: &token, account, rdp_file: None, further };
        (way, door.enter(way, version, &visit))
    };
    ways.map(start).collect()
}

/// All at once: each is watched on its own.
fn assert_all_leave(clients: Vec<(Way, StockClient)>, what: &str, begun: Instant) {
    let ends: Vec<_> = std::thread::scope(|watchers| {
        let watch = |(way, mut client): (Way, StockClient)| {
            watchers.spawn(move || {
                let end: Option<ExitStatus> = client.ended(END_LIMIT);
                (way, begun.elapsed(), end, client)
            })
        };
        let watchers: Vec<_> = clients.into_iter().map(watch).collect();
        watchers.into_iter().map(|watcher| watcher.join().unwrap()).collect()
    });
    for (way, took, end, client) in &ends {
        eprintln!("{what}: {}, {way}: left after {} ms", client.version, took.as_millis());
        assert!(end.is_some(), "{what}: {}, {way}\n{}", client.version, client.last_words());
    }
}

fn live_sessions(ringway: &Deployment) -> HashSet<String> {
    let sessions: Value = serde_json::from_str(&ringway.ctl(&["sessions", "--json"])).unwrap();
    let all = sessions["sessions"].as_array().unwrap();
    let live = all.iter().filter(|session| session["phase"] == "live");
    live.map(|session| session["session"].as_str().unwrap().to_owned()).collect()
}

/// A session host whose RDP server takes connections and never answers.
struct Silent {
    address: SocketAddr,
}

impl Silent {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // It ends with the tests' process.
        std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
        Self { address }
    }
}
