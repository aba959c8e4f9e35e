//! Step 7 as AVD-mode clients ask for it: FreeRDP's request, byte by byte, and
//! everything in the answer without which it would leave, or crash.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringway::core::codes::{Code, Refusal};
use ringway::core::tickets::Role;
use ringway::wire::arm::{RefusalBody, STOCK_HOST_STARTING};
use ringway::wire::channel::GatewayToBroker;
use serde_json::Value;

use crate::support::fake_broker::{Answer, HOST};
use crate::support::legs::{Reply, dial};
use crate::support::world::World;

const TOKEN: &str = "token-of-ann";
/// In the certificate of a session host.
const SERVER_NAME: &str = "desktop-7";

/// What FreeRDP sends, of a version from 3.18 on or before.
fn request(path: &str, application: &str, load_balance_info: &str) -> String {
    let body = format!(
        "{{\"application\":\"{application}\",\"loadBalanceInfo\":\"{load_balance_info}\",\
         \"LogonToken\":null,\"gatewayLoadBalancerToken\":null}}"
    );
    format!(
        "POST {path} HTTP/1.1\r\nPragma: no-cache\r\nConnection: Keep-Alive\r\nContent-Length: {}\r\n\
         Authorization: Bearer {TOKEN}\r\nUser-Agent: FreeRDP/3.30.0\r\n\
         X-MS-User-Agent: FreeRDP/3.30.0\r\nHost: 127.0.0.1\r\nCache-Control: no-cache\r\n\
         Accept: */*\r\nContent-Type: application/json\r\n\r\n{body}",
        body.len()
    )
}

async fn ask(world: &World, request: &str) -> Reply {
    dial(world.gateway.address, &world.tls).await.ask(request).await
}

async fn placed(world: &World, request: &str) -> Value {
    let reply = ask(world, request).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    // With any other, or none, the body is not read at all.
    assert!(reply.head.contains("\r\nContent-Type: application/json\r\n"), "{}", reply.head);
    serde_json::from_slice(&reply.body).unwrap()
}

/// base64 of UTF-16LE of base64, on one line each.
fn decoded(over_encoded: &Value) -> Vec<u8> {
    let units = STANDARD.decode(over_encoded.as_str().unwrap()).unwrap();
    let units: Vec<u16> =
        units.chunks(2).map(|unit| u16::from_le_bytes(unit.try_into().unwrap())).collect();
    STANDARD.decode(String::from_utf16(&units).unwrap()).unwrap()
}

#[tokio::test]
async fn step_7_a_stock_client_is_sent_on_with_and_without_the_slash() {
    let world = World::start().await;
    for path in ["/api/arm/v2/connections", "/api/arm/v2/connections/"] {
        let json = placed(&world, &request(path, "||desk", "ringway:acme/desk")).await;
        let location = json["gatewayLocation"].as_str().unwrap();
        assert_eq!(json["gatewayLocationPreWebSocket"], location);
        let there = format!("wss://{}/wst/acme/desk?place=", world.gateway.address);
        let ticket = location.strip_prefix(&there).unwrap_or_else(|| panic!("{location}"));
        assert_eq!(json["ringway"]["ticket"], ticket);
        // It is good there, and for a client.
        assert!(world.gateway.shared().admit(ticket, Role::Client).is_ok());
        // A wrong value would fail the connection.
        for absent in ["azureInstanceNetworkMetadata", "redirectedAuthGuid", "redirectedUsername"] {
            assert!(json.get(absent).is_none(), "{json}");
        }
    }
    let asked = world.broker.heard(|heard| match &heard.message {
        GatewayToBroker::Place(place) => Some(place.clone()),
        _ => None,
    });
    assert_eq!(asked.len(), 2);
    for place in asked {
        assert_eq!(place.bearer.expose(), TOKEN);
        assert_eq!(place.load_balance_info, "ringway:acme/desk");
        assert!(!place.here_only);
    }
}

#[tokio::test]
async fn the_location_names_the_resource_also_without_our_load_balance_info() {
    let world = World::start().await;
    for (application, info, path) in
        [("||desk", "tsv://x", "/wst/desk"), ("desk", "", "/wst/desk"), ("No Name", "", "/wst/")]
    {
        let json = placed(&world, &request("/api/arm/v2/connections", application, info)).await;
        let location = json["gatewayLocation"].as_str().unwrap();
        let there = format!("wss://{}{path}?place=", world.gateway.address);
        assert!(location.starts_with(&there), "{location}");
    }
}

#[tokio::test]
async fn the_hosts_certificate_and_its_name_are_pinned_into_the_client() {
    let world = World::start().await;
    let made = rcgen::generate_simple_self_signed(vec![SERVER_NAME.to_owned()]).unwrap();
    let der = made.cert.der();
    world.broker.set_certificate(&STANDARD.encode(der));
    let json = placed(&world, &request("/api/arm/v2/connections", "||desk", "")).await;
    let length = u32::try_from(der.len()).unwrap();
    let element = [32, 1, length].map(u32::to_le_bytes).concat();
    assert_eq!(decoded(&json["redirectedServerCert"]), [&element[..], der].concat());
    assert_eq!(json["redirectedServerName"], SERVER_NAME);
}

/// FreeRDP from 3.17.2 on ends on an assertion when the field is missing, and
/// gives up when there is no certificate in it; an empty text it passes over.
#[tokio::test]
async fn a_certificate_that_is_unknown_or_unreadable_is_an_empty_text() {
    let world = World::start().await;
    let ask = request("/api/arm/v2/connections", "||desk", "");
    let json = placed(&world, &ask).await;
    assert_eq!(
        (&json["redirectedServerName"], &json["redirectedServerCert"]),
        (&HOST.into(), &"".into())
    );
    for unreadable in ["not base64!", "", "MAMKAQA="] {
        world.broker.set_certificate(unreadable);
        assert_eq!(placed(&world, &ask).await["redirectedServerCert"], "", "{unreadable}");
    }
}

#[tokio::test]
async fn step_9_a_stock_client_learns_in_its_words_that_its_host_starts_and_gets_in_later() {
    let world = World::start().await;
    let detail = "host-1 is told to start";
    let starting =
        Refusal { retry_after_ms: Some(5_000), ..Refusal::with_detail(Code::HostStarting, detail) };
    world.broker.on_place(Answer::No(starting.clone()));
    let ask = request("/api/arm/v2/connections", "||desk", "");
    let reply = self::ask(&world, &ask).await;
    assert_eq!(reply.status, 400, "only then the body is looked at");
    let json: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(json["Code"], STOCK_HOST_STARTING);
    assert!(json["Message"].as_str().unwrap().contains(detail), "{json}");
    // What we say besides is what we always say.
    let body: RefusalBody = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((body.number, body.step, body.refusal), (4010, 9, starting.clone()));
    assert_eq!(world.gateway.refusals(Code::HostStarting), 1);

    // Our own connector is told as before.
    let ours = ask.replace("User-Agent: FreeRDP/3.30.0\r\nX-MS", "User-Agent: ringway/1\r\nX-MS");
    assert_eq!(self::ask(&world, &ours).await.refusal(), starting);

    world.broker.on_place(Answer::Yes);
    placed(&world, &ask).await;
}

#[tokio::test]
async fn step_8_other_refusals_keep_their_status_and_code() {
    let world = World::start().await;
    let ask = request("/api/arm/v2/connections/", "||desk", "");
    for code in [Code::PoolFull, Code::NotAssigned, Code::TokenExpired, Code::ResourceUnknown] {
        world.broker.on_place(Answer::No(code.into()));
        assert_eq!(self::ask(&world, &ask).await.code(), code);
    }
    let stranger = ask.replace(&format!("Authorization: Bearer {TOKEN}\r\n"), "");
    let reply = self::ask(&world, &stranger).await;
    assert_eq!(reply.code(), Code::TokenMissing);
    assert!(reply.head.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{}", reply.head);
}
