//! Logon by token, without a password: FreeRDP's RDSAAD at the demo's host, on
//! its own and through a gateway in AVD mode. FreeRDP 2 does not know it.

use std::time::Duration;

use crate::support::authority::{self, Authority};
use crate::support::demo_desktop::DemoDesktop;
use crate::support::deployment::{Deployment, Plan, token};
use crate::support::desktop::{Desktop, assert_works};
use crate::support::stock_client::{FreeRdp, StockClient, Surroundings, azure_option};
use crate::support::stock_way::{Door, Visit, Way};
use crate::support::wait::poll;

const VERSIONS: [FreeRdp; 2] = [FreeRdp::Trixie, FreeRdp::Forky];
const END_LIMIT: Duration = Duration::from_secs(20);
const LOOK_LIMIT: Duration = Duration::from_secs(20);
const USER: &str = "ringway-ann";

#[test]
fn step12_a_token_is_enough_without_ringway() {
    if !FreeRdp::all_available() {
        return;
    }
    let authority = Authority::start();
    let desktop = DemoDesktop::start_taking_tokens(&authority);
    std::thread::scope(|clients| {
        for version in VERSIONS {
            let (authority, desktop) = (&authority, &desktop);
            clients.spawn(move || {
                let around = Surroundings {
                    trusted: vec![desktop.certificate_pem(), authority.ca_pem()],
                    names: vec![(authority::NAME.to_owned(), authority.address)],
                    terminal: authority::sign_in_address("demo"),
                    ..Surroundings::default()
                };
                let server = format!("/v:localhost:{}", desktop.address.port());
                let ad = azure_option(version, authority::NAME);
                let arguments = [server.as_str(), &ad, "/sec:aad", "/size:1024x700"];
                let client = StockClient::start(version, &around, &arguments);
                assert_works_and_ends(client, desktop);
            });
        }
    });
}

#[test]
fn step12_through_a_gateway_a_token_is_enough_and_a_wrong_one_is_told_why() {
    if !FreeRdp::all_available() {
        return;
    }
    let authority = Authority::start();
    let desktop = DemoDesktop::start_taking_tokens(&authority);
    let plan = Plan { agent: "rdsaad = true", ..Plan::new(1, desktop.address, &[USER]) };
    let ringway = Deployment::start_as(&plan);
    let looked = || ringway.agent_events("The RDP server takes logons by token").pop();
    assert!(poll(LOOK_LIMIT, looked).is_some(), "{}", ringway.logs());
    let door = Door::new(&ringway, desktop.certificate_pem(), &authority);
    let visit = Visit {
        resource: "desktop",
        token: &token(USER),
        account: desktop.account(),
        rdp_file: Some(std::fs::read(ringway.subscribe(USER)).unwrap()),
        further: &[],
    };
    for version in VERSIONS {
        assert_works_and_ends(door.enter_by_token(version, &visit, "demo"), &desktop);
        for (code, said) in [
            ("somebody-else", "STATUS_LOGON_FAILURE"),
            ("demo~expired", "E_ACCESSDENIED"),
            ("demo~for-another-host", "SEC_E_INVALID_TOKEN"),
            ("demo~for-another-key", "SEC_E_INVALID_TOKEN"),
        ] {
            assert_refused(door.enter_by_token(version, &visit, code), said);
        }
    }
    // Who was refused may have tried again.
    let asked = authority.asked();
    assert!(asked.len() >= VERSIONS.len() * 5, "{asked:?}");
    let scope =
        "ms-device-service://termsrv.wvd.microsoft.com/name/ringway-demo-host/user_impersonation";
    assert!(asked.iter().all(|form| form["scope"] == scope), "{asked:?}");
    ringway.stop();
}

/// The host does not take tokens although the operator allowed them.
#[test]
fn a_host_that_takes_no_tokens_is_still_reached_with_a_password() {
    if !FreeRdp::all_available() {
        return;
    }
    let authority = Authority::start();
    let desktop = DemoDesktop::start();
    let plan = Plan { agent: "rdsaad = true", ..Plan::new(1, desktop.address, &[USER]) };
    let ringway = Deployment::start_as(&plan);
    let door = Door::new(&ringway, desktop.certificate_pem(), &authority);
    let visit = Visit {
        resource: "desktop",
        token: &token(USER),
        account: desktop.account(),
        rdp_file: Some(std::fs::read(ringway.subscribe(USER)).unwrap()),
        further: &[],
    };
    for version in VERSIONS {
        assert_works_and_ends(door.enter(Way::Avd, version, &visit), &desktop);
    }
    ringway.stop();
}

fn assert_works_and_ends(mut client: StockClient, desktop: &DemoDesktop) {
    let window = assert_works(&mut client, desktop);
    client.screen.close(&window);
    let end = client.ended(END_LIMIT);
    assert!(end.is_some(), "{}: did not end\n{}", client.version, client.last_words());
}

fn assert_refused(mut client: StockClient, said: &str) {
    let end = client.ended(END_LIMIT);
    let printed = client.printed();
    assert!(end.is_some(), "{}: stays\n{printed}", client.version);
    let result = format!("Authentication result: {said}");
    assert!(printed.contains(&result), "{}: not {said}\n{printed}", client.version);
}
