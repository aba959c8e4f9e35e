//! Where AVD-mode clients sign in: an authority under a bare name on port 443,
//! as FreeRDP insists, at a loopback address of its own, and at the same time an
//! issuer for a broker, which asks on another port.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Form, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use ringway::agent::rdsaad::TokenLogon;
use ringway::agent::rdsaad::judge::{LogonRules, ProviderNonce};
use ringway::config::broker::Identity;
use ringway::demo::rdp_host::NAMES;
use ringway::demo::tokens::{AccessClaims, SigningKey};
use ringway::tls::listener::{ListenerLimits, TlsListener};
use ringway::tls::settings::TlsSettings;
use ringway::wire::rdsaad::{NONCE_AUDIENCE, device_of, key_to_bind};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::ca::TestCa;
use super::ports::ReservedPort;

/// The name by which clients find it; only they know it.
pub const NAME: &str = "login.test";
const AUDIENCE: &str = "ringway";
const LISTENER_LIMITS: ListenerLimits = ListenerLimits {
    connections_max: 64,
    handshakes_max: 64,
    handshakes_per_address_max: 64,
    handshake_timeout_ms: 5_000,
    idle_timeout_ms: 30_000,
};

pub struct Authority {
    /// For the names of a client.
    pub address: IpAddr,
    desk: Arc<Desk>,
    folder: TempDir,
    threads: Option<Runtime>,
    /// As long as we have it nobody else gets the same loopback address.
    _port: ReservedPort,
}

struct Desk {
    issuer: String,
    key: SigningKey,
    /// What clients asked for when they traded a code, in order.
    asked: Mutex<Vec<HashMap<String, String>>>,
}

/// What a user pastes who signed in, with the end of the line, which would else
/// be taken for a part of the code.
pub fn sign_in_address(code: &str) -> String {
    format!("https://{NAME}/common/oauth2/nativeclient?code={code}&client_info=1\n")
}

impl Authority {
    pub fn start() -> Self {
        ringway::tls::install_provider();
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (ca, folder) = (TestCa::new(), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        let port = ReservedPort::new();
        let [high, low] = port.address().port().to_be_bytes();
        let address = IpAddr::V4(Ipv4Addr::new(127, 77, high, low));
        let tls = Arc::new(ca.server_tls());
        let listen = |at: SocketAddr| {
            let listening = TlsListener::bind(at, Arc::clone(&tls), LISTENER_LIMITS);
            threads.block_on(listening).unwrap_or_else(|error| panic!("{at}: {error}"))
        };
        let for_clients = listen(SocketAddr::from((address, 443)));
        let for_brokers = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let desk = Arc::new(Desk {
            issuer: format!("https://localhost:{}", for_brokers.address().port()),
            key: SigningKey::generate().unwrap(),
            asked: Mutex::default(),
        });
        for listener in [for_clients, for_brokers] {
            let routes = routes(Arc::clone(&desk));
            threads.spawn(async move { axum::serve(listener, routes).await });
        }
        Self { address, desk, folder, threads: Some(threads), _port: port }
    }

    /// Lines of a broker's `[broker.identity]`.
    pub fn identity(&self) -> String {
        let (issuer, ca) = (&self.desk.issuer, self.ca_file());
        format!(
            "issuer = \"{issuer}\"\naudience = \"{AUDIENCE}\"\nclient_id = \"ringway\"\n\
             ca_file = {ca:?}\nuser_claim = \"preferred_username\"\nleeway_s = 0\n"
        )
    }

    /// What the demo's host judges logons by this authority's tokens with.
    pub fn token_logon(&self) -> TokenLogon {
        let identity = Identity {
            issuer: Some(self.desk.issuer.clone()),
            ca_file: Some(self.ca_file()),
            user_claim: Some("preferred_username".into()),
            leeway_s: Some(0),
            ..Identity::default()
        };
        let rules = LogonRules {
            host_names: NAMES.map(str::to_owned).into(),
            provider_nonce: ProviderNonce::Signed,
        };
        TokenLogon::new(&identity, TlsSettings::default(), rules).unwrap()
    }

    /// A token that ends that many seconds from now, or before.
    pub fn token(&self, user: &str, lifetime_s: i64) -> String {
        token(&self.desk, user, lifetime_s)
    }

    /// What clients sent to have a token.
    pub fn asked(&self) -> Vec<HashMap<String, String>> {
        self.desk.asked.lock().unwrap().clone()
    }

    /// Of its own certificate. Newer clients check it.
    pub fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.ca_file()).unwrap()
    }

    fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            // Also where waiting is not allowed.
            threads.shutdown_background();
        }
    }
}

fn token(desk: &Desk, user: &str, lifetime_s: i64) -> String {
    let now = now_s();
    let begin = now - 3600;
    let claims = AccessClaims {
        iss: desk.issuer.clone(),
        aud: AUDIENCE.into(),
        sub: format!("subject-{user}"),
        preferred_username: user.into(),
        groups: vec![],
        iat: begin,
        nbf: begin,
        exp: now.checked_add_signed(lifetime_s).unwrap(),
    };
    desk.key.sign(&claims).unwrap()
}

fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/common/v2.0/.well-known/openid-configuration", get(for_clients))
        .route("/.well-known/openid-configuration", get(for_brokers))
        .route("/jwks", get(keys))
        .route("/token", post(trade))
        .with_state(desk)
}

async fn for_clients() -> Json<Value> {
    Json(json!({
        "issuer": format!("https://{NAME}/common/v2.0"),
        "authorization_endpoint": format!("https://{NAME}/authorize"),
        "token_endpoint": format!("https://{NAME}/token"),
        "jwks_uri": format!("https://{NAME}/jwks"),
    }))
}

async fn for_brokers(State(desk): State<Arc<Desk>>) -> Json<Value> {
    let issuer = &desk.issuer;
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/jwks"),
    }))
}

async fn keys(State(desk): State<Arc<Desk>>) -> Json<Value> {
    Json(serde_json::to_value(desk.key.published()).unwrap())
}

/// A code is the user's name here: whoever could paste it has signed in. Behind
/// a `~` is what will be wrong with the token, see [`bound_token`].
async fn trade(
    State(desk): State<Arc<Desk>>,
    Form(form): Form<HashMap<String, String>>,
) -> Json<Value> {
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    if field("grant_type") == "srv_challenge" {
        return Json(json!({ "Nonce": nonce(&desk) }));
    }
    let token = match form.get("req_cnf") {
        Some(key) => bound_token(&desk, field("code"), field("scope"), key),
        None => token(&desk, field("code"), 600),
    };
    desk.asked.lock().unwrap().push(form);
    Json(json!({ "access_token": token, "token_type": "Bearer", "expires_in": 600 }))
}

/// For a session host, by the scope that clients ask for, and good only with
/// the client's key.
fn bound_token(desk: &Desk, code: &str, scope: &str, key: &str) -> String {
    let (user, fault) = code.split_once('~').unwrap_or((code, ""));
    let (key, device) = (key_to_bind(key).unwrap(), device_of(scope).unwrap());
    let mut claims = json!({
        "iss": desk.issuer, "aud": device, "sub": format!("subject-{user}"),
        "preferred_username": user, "cnf": { "kid": key }, "exp": now_s() + 600,
    });
    match fault {
        "" => {}
        "expired" => claims["exp"] = json!(now_s() - 10),
        "for-another-host" => claims["aud"] = json!(format!("{device}-2")),
        "for-another-key" => claims["cnf"] = json!({ "kid": "x" }),
        unknown => panic!("{unknown}"),
    }
    desk.key.sign(&claims).unwrap()
}

fn nonce(desk: &Desk) -> String {
    let claims = json!({ "iss": desk.issuer, "aud": NONCE_AUDIENCE, "exp": now_s() + 300 });
    desk.key.sign(&claims).unwrap()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
