//! A crowd at the door of real processes: a thousand requests over HTTPS to a
//! gateway, for a hundred places at ten agents.

use std::time::Duration;

use futures_util::future::join_all;
use ringway::core::codes::Code;
use ringway::demo::world::{DESKTOP, HOST, WorldSettings};
use ringway::dial::http::HttpsClient;
use ringway::dial::{DialLimits, Dialer, Purpose};
use ringway::tls::settings::TlsSettings;
use ringway::wire::arm::ConnectionResponse;
use ringway::wire::enroll::MachineRole;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::time::timeout;

use crate::support::ports::ReservedPort;
use crate::support::process::Process;
use crate::support::programs::ringway;
use crate::support::stage::{Stage, USERS, settings, token, wish};
use crate::support::targets::echo_server;

const HOSTS: usize = 10;
const PLACES: u32 = 10;
const REQUESTS: usize = 1_000;
/// All of it, on a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(180);
const PATIENT_MS: u64 = 120_000;

fn start(stage: &Stage, role: &str, name: &str, config: &str) -> Process {
    let file = stage.world.directory().join(format!("{name}.toml"));
    std::fs::write(&file, config).unwrap();
    let mut command = ringway();
    command.args([role, "--config"]).arg(&file).env("RINGWAY_LOG", "warn");
    Process::start(stage.world.directory(), name, &command)
}

/// Each client has a socket of its own, and so has each session.
fn allow_many_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test]
async fn step09_of_a_thousand_requests_at_ten_agents_of_ten_places_exactly_a_hundred_get_in() {
    timeout(LIMIT, crowd()).await.expect("in time");
}

async fn crowd() {
    allow_many_descriptors();
    let settings = WorldSettings {
        gateways: 0,
        sessions_per_host_max: PLACES,
        adjust_broker: |broker| {
            broker.limits.gateway_table_interval_ms = 100;
            // Nobody's place expires while the others ask.
            broker.limits.reservation_ms = 60_000;
        },
        ..settings()
    };
    let stage = Stage::start_with(settings).await;
    let target = echo_server().await;
    let mut processes = Vec::new();
    for n in 1..=HOSTS {
        let name = format!("host-{n}");
        let state_dir = stage.world.enrol(&name, MachineRole::Agent).await.unwrap();
        let config = format!(
            "[agent]\nstate_dir = {state_dir:?}\ntarget = \"{target}\"\nsessions_max = {PLACES}\n\
             limits = {{ target_timeout_ms = 30000 }}\nhealth = {{ load_per_core_max = 0.0 }}\n"
        );
        processes.push(start(&stage, "agent", &name, &config));
    }
    let port = ReservedPort::new();
    let state_dir = stage.world.enrol("gw-out", MachineRole::Gateway).await.unwrap();
    let config = format!(
        "[gateway]\nlisten = \"{}\"\nurl = \"https://{HOST}:{}\"\nstate_dir = {state_dir:?}\n\
         threads = {{ relay_workers = 1, pin = false, output_slots = 32 }}\n\
         limits = {{ lobby_connections_per_address_max = 4096, waiting_per_address_max = 1024, \
         handshake_timeout_ms = {PATIENT_MS}, request_timeout_ms = {PATIENT_MS}, write_timeout_ms = {PATIENT_MS}, \
         broker_timeout_ms = {PATIENT_MS}, pair_timeout_ms = {PATIENT_MS} }}\n",
        port.address(),
        port.address().port(),
    );
    processes.push(start(&stage, "gateway", "gw-out", &config));
    let here = stage.world.until("all of them are here", |_, now| {
        now.gateways.len() == 1 && now.hosts.iter().filter(|host| host.connected).count() == HOSTS
    });
    here.await.unwrap();

    let limits = DialLimits {
        connect_timeout_ms: PATIENT_MS,
        handshake_timeout_ms: PATIENT_MS,
        answer_timeout_ms: PATIENT_MS,
    };
    let tls = TlsSettings::default().client(stage.world.roots().unwrap()).unwrap();
    let https = HttpsClient::new(tls.clone(), limits).unwrap();
    let url = format!("https://{HOST}:{}/api/arm/v2/connections", port.address().port());
    let ask = async |user: &str| -> Result<ConnectionResponse, Code> {
        let (bearer, wish) = (token(user), wish(DESKTOP));
        loop {
            let answer = https.post_json(Purpose::CLIENT_LEG, &url, Some(&bearer), &wish).await;
            let code = match answer {
                Ok(place) => return Ok(place),
                Err(error) => error.refusal().unwrap_or_else(|| panic!("{error}")).code,
            };
            // The first few may be there before the broker's table of gateways,
            // and the broker may ask for a pause.
            if ![Code::NoGateway, Code::BrokerOverloaded].contains(&code) {
                return Err(code);
            }
        }
    };
    let (mut placed, mut full) = (Vec::new(), 0);
    for outcome in join_all(USERS.into_iter().cycle().take(REQUESTS).map(ask)).await {
        match outcome {
            Ok(place) => placed.push(place),
            Err(Code::PoolFull) => full += 1,
            Err(code) => panic!("{code}"),
        }
    }
    let places = HOSTS * PLACES as usize;
    assert_eq!((placed.len(), full), (places, REQUESTS - places));
    assert_full(&stage).await;

    // All of them join their hosts, and carry bytes.
    let dialer = Dialer::new(tls, limits);
    let stage = Stage { dialer, ..stage };
    let legs = join_all(placed.iter().map(async |place| stage.join(place).await.unwrap())).await;
    let spoken = legs.into_iter().map(async |mut leg| {
        leg.send(b"one of a hundred").await;
        assert_eq!(leg.receive(16).await, b"one of a hundred");
        leg
    });
    let legs = join_all(spoken).await;
    assert_full(&stage).await;
    drop(legs);
    stage.until_free().await;
    stage.shutdown().await;
}

/// Every host has what it may have, and not one more.
async fn assert_full(stage: &Stage) {
    let now = stage.world.broker.snapshot().await;
    let sessions: Vec<_> = now.hosts.iter().map(|host| host.sessions).collect();
    assert_eq!(sessions, [PLACES; HOSTS]);
}
