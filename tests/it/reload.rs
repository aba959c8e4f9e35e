//! Changed configurations and certificates under running roles.

use std::fs;
use std::sync::Arc;

use ringway::cli::ctl;
use ringway::core::codes::Code;
use ringway::dial::{DialLimits, Dialer, Endpoint, Purpose};
use ringway::tls::identity::read_chain;
use ringway::wire::admin::{AdminRequest, AdminResponse, ConfigView};
use ringway::wire::enroll::MachineRole;
use ringway::wire::feed::Feed;

use crate::support::broker_process::{BrokerProcess, sha256};
use crate::support::ca::TestCa;
use crate::support::fake_broker::FakeBroker;
use crate::support::gateway_process::GatewayProcess;
use crate::support::programs::{ringway, said};
use crate::support::wait::{until, within};

const DESCRIPTORS: u64 = 4_096;
const LIMITS: &str = "sessions_max = 10";

/// A gateway, its broker, and how clients dial.
struct Site {
    ca: Arc<TestCa>,
    broker: FakeBroker,
    gateway: GatewayProcess,
    dialer: Dialer,
}

impl Site {
    fn start() -> Self {
        let ca = Arc::new(TestCa::new());
        let broker = FakeBroker::start(&ca);
        let gateway = GatewayProcess::start(&ca, &broker.url(), DESCRIPTORS, LIMITS);
        let dialer = Dialer::new(ca.client_tls(), DialLimits::default());
        Self { ca, broker, gateway, dialer }
    }

    /// The certificate that somebody sees who comes now.
    async fn shown(&self) -> Vec<u8> {
        let endpoint: Endpoint = self.gateway.port.url().parse().unwrap();
        let stream = self.dialer.connect(&endpoint, Purpose::CLIENT_LEG).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// What `ringway enroll --force` would store.
    fn enrol_again(&self) {
        let (state, url) = (self.gateway.state_dir(), self.broker.url());
        self.ca.enrol(state, self.gateway.id.as_str(), MachineRole::Gateway, &url);
    }

    fn config(&self) -> ConfigView {
        match ctl::ask(&self.gateway.admin_socket(), &AdminRequest::Status).unwrap() {
            AdminResponse::GatewayStatus(status) => status.config.unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_who_comes_and_who_is_here_goes_on() {
    let site = Site::start();
    let tls = Arc::new(site.ca.client_tls());
    let mut pair = site.gateway.first_pair(&site.broker, &tls).await;
    let before = site.shown().await;
    // No signal: the files are enough.
    site.enrol_again();
    let now = &read_chain(&site.gateway.state_dir().join("machine.crt.pem")).unwrap()[0];
    assert_ne!(before, now.to_vec());
    let seen = async {
        while site.shown().await != now.to_vec() {
            tokio::task::yield_now().await;
        }
    };
    within("the new certificate", seen).await;
    pair.assert_alive().await;
    let mut next = site.gateway.pair(&site.broker, &tls).await.unwrap();
    next.assert_alive().await;
    assert_eq!(site.config().rejected, None);
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused_and_the_old_one_stays() {
    let site = Site::start();
    let tls = Arc::new(site.ca.client_tls());
    let mut pair = site.gateway.first_pair(&site.broker, &tls).await;
    let before = site.shown().await;
    let key = site.gateway.state_dir().join("machine.key.pem");
    let right_key = fs::read(&key).unwrap();
    site.enrol_again();
    let other_key = fs::read(&key).unwrap();
    fs::write(&key, &right_key).unwrap();
    site.gateway.hang_up();
    until("it is refused", || site.config().rejected.is_some()).await;
    let problems = site.config().rejected.unwrap().problems;
    assert!(problems[0].contains("do not fit together"), "{problems:?}");
    assert!(site.gateway.log().contains("Kept the old configuration"), "{}", site.gateway.log());
    assert_eq!(site.shown().await, before);
    pair.assert_alive().await;

    fs::write(&key, &other_key).unwrap();
    site.gateway.hang_up();
    until("it is taken", || site.config().rejected.is_none()).await;
    assert_ne!(site.shown().await, before);
    pair.assert_alive().await;
}

#[tokio::test]
async fn limits_of_a_gateway_change_and_what_needs_a_restart_is_named() {
    let site = Site::start();
    let tls = Arc::new(site.ca.client_tls());
    let mut pair = site.gateway.first_pair(&site.broker, &tls).await;
    let text = fs::read_to_string(site.gateway.config()).unwrap();
    let changed = text.replace(LIMITS, "sessions_max = 11\nrequests_per_connection_max = 1");
    fs::write(site.gateway.config(), changed).unwrap();
    until("it is loaded", || !site.config().needs_restart.is_empty()).await;
    assert_eq!(site.config().needs_restart, ["gateway.limits.sessions_max"]);
    pair.assert_alive().await;
    fs::write(site.gateway.config(), text).unwrap();
    until("it is as it was", || site.config().needs_restart.is_empty()).await;
}

fn user(name: &str) -> String {
    let hash = sha256(name);
    format!("[[broker.identity.static_tokens]]\nuser = \"{name}\"\ntoken_sha256 = \"{hash}\"\n")
}

fn pool(name: &str, sessions_per_host_max: u32) -> String {
    format!(
        "[[broker.pools]]\nname = \"{name}\"\nsessions_per_host_max = {sessions_per_host_max}\n\
         [[broker.resources]]\nid = \"desktop-{name}\"\ntitle = \"{name}\"\npool = \"{name}\"\n\
         users = [\"*\"]\n"
    )
}

async fn feed(broker: &BrokerProcess, token: &str) -> Result<Vec<String>, Code> {
    let (https, url) = (broker.https(), broker.url("/api/feed"));
    let feed = https.get_json::<Feed>(Purpose::FEED, &url, Some(token)).await;
    let ids = |feed: Feed| feed.resources.iter().map(|r| r.id.to_string()).collect();
    feed.map(ids).map_err(|error| error.refusal().unwrap().code)
}

#[tokio::test]
async fn pools_resources_and_users_change_under_a_running_broker() {
    let broker = BrokerProcess::start("", &(user("ann") + &pool("office", 8)));
    assert_eq!(feed(&broker, "ann").await, Ok(vec!["desktop-office".into()]));
    assert_eq!(feed(&broker, "bob").await, Err(Code::TokenUnknownKey));
    let of_pool = |pool: &str| {
        let request = AdminRequest::CreateToken {
            role: MachineRole::Agent,
            pool: Some(pool.parse().unwrap()),
            ttl_ms: 60_000,
            uses: 1,
            server_names: Vec::new(),
        };
        ctl::ask(&broker.socket(), &request)
    };
    assert!(of_pool("lab").unwrap_err().to_string().contains("not declared"));
    let loaded_at = broker.status().config.unwrap().loaded_at;

    broker.write_config("", &(user("bob") + &pool("office", 3) + &pool("lab", 1)));
    broker.hang_up();
    broker.until("loaded", |status| status.config.as_ref().unwrap().loaded_at > loaded_at);
    let both = vec!["desktop-office".to_owned(), "desktop-lab".into()];
    assert_eq!(feed(&broker, "bob").await, Ok(both));
    assert_eq!(feed(&broker, "ann").await, Err(Code::TokenUnknownKey));
    of_pool("lab").unwrap();
}

#[tokio::test]
async fn a_bad_file_keeps_the_old_configuration_and_says_where_it_is_bad() {
    let broker = BrokerProcess::start("", &(user("ann") + &pool("office", 8)));
    // No signal from here on.
    broker.write_config("entry_gatway = \"gw:1\"", &(user("ann") + &pool("Not a name", 0)));
    let status = broker.until("rejected", |status| {
        status.config.as_ref().is_some_and(|config| config.rejected.is_some())
    });
    let problems = status.config.unwrap().rejected.unwrap().problems;
    let text = fs::read_to_string(broker.config()).unwrap();
    for (line, key) in
        [("entry_gatway", "broker.entry_gatway"), ("name = \"N", "broker.pools[0].name")]
    {
        let number = text.lines().position(|l| l.starts_with(line)).unwrap() + 1;
        let place = format!("{}:{number}: {key}:", broker.config().display());
        assert!(problems.iter().any(|problem| problem.starts_with(&place)), "{place} {problems:?}");
    }
    assert!(problems.iter().any(|problem| problem.contains("did you mean entry_gateway?")));
    assert_eq!(feed(&broker, "ann").await, Ok(vec!["desktop-office".into()]));
    let log = broker.process.printed();
    let kept = log.lines().filter(|line| line.contains("Kept the old configuration"));
    assert_eq!(
        kept.filter(|line| line.contains("a file changed")).count(),
        problems.len(),
        "{log}"
    );

    let shown = {
        let mut command = ringway();
        command.args(["ctl", "status", "--socket"]).arg(broker.socket());
        said(&command.output().unwrap())
    };
    assert!(shown.contains("REJECTED") && shown.contains(&problems[0]), "{shown}");
    broker.write_config("workspace = \"other\"", &(user("ann") + &pool("office", 8)));
    let status = broker.until("accepted", |status| {
        status.config.as_ref().is_some_and(|config| config.rejected.is_none())
    });
    assert_eq!(status.config.unwrap().needs_restart, ["broker.workspace"]);
}

#[tokio::test]
async fn the_log_level_changes_and_a_certificate_of_ones_own_is_taken() {
    let broker = BrokerProcess::start("", &(pool("office", 8) + "[log]\nlevel = \"warn\"\n"));
    assert!(!broker.process.printed().contains("The broker is up"));
    let own = broker.folder();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(own.join("own.crt"), pair.cert.pem()).unwrap();
    fs::write(own.join("own.key"), pair.signing_key.serialize_pem()).unwrap();
    let place = own.display();
    let keys = format!("tls_certificate = \"{place}/own.crt\"\ntls_key = \"{place}/own.key\"");
    broker.write_config(&keys, &(pool("office", 8) + "[log]\nlevel = \"debug\"\n"));
    broker.hang_up();
    until("it logs more", || {
        let _asked = broker.status();
        broker.process.printed().contains("An operator looks")
    })
    .await;
    // Trusts the broker's own CA, which has not signed this one.
    let feed = broker.https().get(Purpose::FEED, &broker.url("/healthz"), None).await;
    assert!(feed.unwrap_err().to_string().contains("certificate"));
    // Back to the broker's own.
    broker.write_config("", &pool("office", 8));
    let healthy = async {
        while broker.https().get(Purpose::FEED, &broker.url("/healthz"), None).await.is_err() {
            tokio::time::sleep(crate::support::wait::LOOK_EVERY).await;
        }
    };
    within("the broker's own certificate", healthy).await;
}
