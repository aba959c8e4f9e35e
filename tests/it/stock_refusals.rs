//! What stock clients say when they are refused, whichever way they come: they
//! end at once, with words that fit the reason.

use std::process::ExitStatus;
use std::sync::Mutex;
use std::time::Duration;

use ringway::core::codes::Code;

use crate::support::authority::Authority;
use crate::support::demo_desktop::DemoDesktop;
use crate::support::deployment::{Deployment, Plan, token};
use crate::support::desktop::{Desktop, assert_works};
use crate::support::stock_client::{FreeRdp, StockClient};
use crate::support::stock_way::{Door, Visit, Way};
use crate::support::wait::poll;

const USERS: [&str; 2] = ["ann", "bob"];
const RESOURCE: &str = "desktop";
/// Clients at once.
const CLIENTS: usize = 3;
const END_LIMIT: Duration = Duration::from_secs(20);

/// Why, and how each protocol says so.
struct Reason {
    code: Code,
    http: &'static str,
    rd_gateway: &'static str,
}

const TOKEN_WRONG: Reason = Reason {
    code: Code::TokenMalformed,
    http: "HTTP_STATUS_DENIED [401]",
    rd_gateway: "E_PROXY_COOKIE_AUTHENTICATION_ACCESS_DENIED [0x800759F8]",
};
const TOKEN_EXPIRED: Reason = Reason { code: Code::TokenExpired, ..TOKEN_WRONG };
const UNKNOWN: Reason = Reason {
    code: Code::ResourceUnknown,
    http: "HTTP_STATUS_NOT_FOUND [404]",
    rd_gateway: "E_PROXY_RAP_ACCESSDENIED [0x800759DA]",
};
const FULL: Reason = Reason {
    code: Code::PoolFull,
    http: "HTTP_STATUS_SERVICE_UNAVAIL [503]",
    rd_gateway: "E_PROXY_TS_CONNECTFAILED [0x800759DD]",
};
const DOWN: Reason = Reason { code: Code::NoHostAvailable, ..FULL };

#[test]
fn step08_every_client_says_why_it_was_refused() {
    if !FreeRdp::all_available() {
        return;
    }
    let host = DemoDesktop::start();
    let authority = Authority::start();
    let identity = authority.identity();
    let mut ringway = Deployment::start_as(&Plan {
        pool: "sessions_per_host_max = 1",
        identity: &identity,
        ..Plan::new(1, host.address, &USERS)
    });
    let door = Door::new(&ringway, host.certificate_pem(), &authority);
    let (known, old) = (token("ann"), authority.token("ann", -5));

    assert_all_refused(&door, &TOKEN_WRONG, "of-nobody", RESOURCE);
    assert_all_refused(&door, &TOKEN_EXPIRED, &old, RESOURCE);
    assert_all_refused(&door, &UNKNOWN, &known, "no-such-desktop");

    let visit = visit(RESOURCE, "test-token-of-bob", host.account());
    let mut occupant = door.enter(Way::RdGateway, FreeRdp::Bookworm, &visit);
    assert_works(&mut occupant, &host);
    assert_all_refused(&door, &FULL, &known, RESOURCE);
    drop(occupant);

    ringway.kill_agent();
    assert_all_refused(&door, &DOWN, &known, RESOURCE);
    ringway.stop();
}

/// Azure's word for it makes a client ask again that was told to reconnect.
#[test]
fn step09_a_client_in_avd_mode_waits_for_a_host_that_starts() {
    if !FreeRdp::all_available() {
        return;
    }
    let host = DemoDesktop::start();
    let authority = Authority::start();
    for version in Way::Avd.clients() {
        let mut ringway = Deployment::start_as(&Plan {
            pool: "start_command = [\"/bin/true\"]",
            host_is_on: false,
            ..Plan::new(1, host.address, &USERS)
        });
        let door = Door::new(&ringway, host.certificate_pem(), &authority);
        let visit = Visit {
            further: &["+auto-reconnect"],
            ..visit(RESOURCE, "test-token-of-ann", host.account())
        };
        let mut client = door.enter(Way::Avd, version, &visit);
        let told = Code::HostStarting.facts().advice;
        let waits = poll(END_LIMIT, || client.printed().contains(told).then_some(()));
        assert!(waits.is_some(), "{version}\n{}", client.last_words());
        ringway.start_agent();
        let window = assert_works(&mut client, &host);
        client.screen.close(&window);
        let end = client.ended(END_LIMIT);
        assert!(end.is_some_and(|end| end.success()), "{version}: {end:?}");
        ringway.stop();
    }
}

const fn visit<'a>(resource: &'a str, token: &'a str, account: (&'a str, &'a str)) -> Visit<'a> {
    Visit { resource, token, account, rdp_file: None, further: &[] }
}

/// In every way, with every client.
fn assert_all_refused(door: &Door<'_>, reason: &Reason, token: &str, resource: &str) {
    let left = Mutex::new(Way::all_with_clients());
    let next = || left.lock().unwrap().pop();
    std::thread::scope(|clients| {
        for _ in 0..CLIENTS {
            clients.spawn(|| {
                while let Some((way, version)) = next() {
                    let mut client =
                        door.enter(way, version, &visit(resource, token, ("nobody", "nothing")));
                    let end = client.ended(END_LIMIT);
                    assert_says(&client, way, reason, end);
                }
            });
        }
    });
}

fn assert_says(client: &StockClient, way: Way, reason: &Reason, end: Option<ExitStatus>) {
    let (version, said) = (client.version, client.printed());
    let context = || format!("{version}, {way}, {:?}: {end:?}\n{said}", reason.code);
    // In AVD mode its exit code is 0 all the same.
    assert!(end.is_some_and(|end| way == Way::Avd || !end.success()), "{}", context());
    let words = match way {
        Way::Avd => vec![reason.http, reason.code.facts().advice],
        // This one has a word of its own for it, and no status.
        Way::WebSocket if version == FreeRdp::Trixie && reason.http == TOKEN_WRONG.http => {
            vec!["ERRCONNECT_SECURITY_NEGO_CONNECT_FAILED"]
        }
        Way::WebSocket => vec![reason.http],
        Way::RdGateway | Way::RdGatewayChannels | Way::RdGatewayBearer => vec![reason.rd_gateway],
    };
    for word in words {
        assert!(said.contains(word), "no {word:?}\n{}", context());
    }
    eprintln!("{version}, {way}: {:?}", reason.code);
}
