//! An OIDC issuer over real TLS: discovery, key rotation, outage.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::super::ca::Authority;
use super::super::identity::Judge;
use super::super::identity::issuer::{Issuer as KnownIssuer, IssuerLimits};
use super::super::identity::jwt::tests::{IssuerKey, claims};
use super::super::testing::TemporaryDir;
use crate::config::broker::{Identity, Limits};
use crate::config::state_dir::StateDir;
use crate::core::clock::UnixMillis;
use crate::core::codes::Code;
use crate::tls::listener::{Peer, TlsListener};
use crate::tls::settings::TlsSettings;

/// What the issuer publishes, and how often it was asked.
#[derive(Clone, Default)]
struct Published {
    keys: Arc<Mutex<Vec<Value>>>,
    issuer: Arc<Mutex<String>>,
    asked: Arc<AtomicU32>,
}

struct Issuer {
    url: String,
    ca: TemporaryDir,
    published: Published,
    server: tokio::task::JoinHandle<()>,
}

impl Issuer {
    async fn start(keys: Vec<Value>) -> Self {
        let ca = TemporaryDir::new();
        let now = UnixMillis::now();
        let state = StateDir::open(ca.path()).unwrap();
        let authority = Authority::open(&state, "issuer", now).unwrap();
        let (chain, key) = authority.issue_server(&["localhost".into()], now).unwrap();
        let tls = Arc::new(TlsSettings::default().server(chain, key).unwrap());
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = TlsListener::bind(address, tls, Limits::default().listener()).await.unwrap();
        let url = format!("https://localhost:{}", listener.address().port());
        let published = Published { keys: Arc::new(Mutex::new(keys)), ..Published::default() };
        *published.issuer.lock().unwrap() = url.clone();
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route(
                "/keys",
                get(async |State(p): State<Published>| {
                    Json(json!({ "keys": *p.keys.lock().unwrap() }))
                }),
            )
            .with_state(published.clone());
        let server = tokio::spawn(async move {
            let service = routes.into_make_service_with_connect_info::<Peer>();
            axum::serve(listener, service).await.unwrap();
        });
        Self { url, ca, published, server }
    }

    fn judge(&self) -> Judge {
        self.judge_trusting(&self.ca.path().join("ca.pem"))
    }

    fn judge_trusting(&self, ca: &Path) -> Judge {
        let identity = Identity {
            issuer: Some(self.url.clone()),
            audience: Some("ringway".into()),
            ca_file: Some(ca.into()),
            ..Identity::default()
        };
        Judge::new(&identity, TlsSettings::default(), Duration::from_secs(10)).unwrap()
    }

    fn token(&self, key: &IssuerKey) -> String {
        key.token(&self.claims())
    }

    fn claims(&self) -> Value {
        let mut claims = claims();
        claims["iss"] = json!(self.url);
        claims["exp"] = json!(UnixMillis::now().0 / 1_000 + 300);
        claims["nbf"] = json!(0);
        claims
    }
}

async fn discovery(State(published): State<Published>) -> Json<Value> {
    published.asked.fetch_add(1, Ordering::Relaxed);
    let issuer = published.issuer.lock().unwrap().clone();
    let own = issuer.trim_end_matches("/other");
    Json(json!({
        "issuer": issuer,
        "jwks_uri": format!("{own}/keys"),
        "authorization_endpoint": format!("{own}/authorize"),
        "token_endpoint": format!("{own}/token"),
    }))
}

fn jwk(key: &IssuerKey) -> Value {
    serde_json::to_value(&key.jwk).unwrap()
}

#[tokio::test]
async fn keys_are_fetched_once_and_strangers_cannot_make_us_ask_for_each_of_them() {
    crate::tls::install_provider();
    let (key, stranger) = (IssuerKey::new("k1"), IssuerKey::new("k2"));
    let of_another_kind = json!({ "kty": "future", "kid": "k9" });
    let issuer = Issuer::start(vec![of_another_kind, jwk(&key)]).await;
    let judge = issuer.judge();
    for _ in 0..3 {
        assert_eq!(
            judge.judge(&issuer.token(&key)).await.unwrap().name,
            "17",
            "sub is the default"
        );
    }
    assert_eq!(judge.judge("no token").await.unwrap_err().code, Code::TokenMalformed);
    assert_eq!(issuer.published.asked.load(Ordering::Relaxed), 1);
    for _ in 0..100 {
        let refusal = judge.judge(&issuer.token(&stranger)).await.unwrap_err();
        assert_eq!(refusal.code, Code::TokenUnknownKey);
    }
    let asked = issuer.published.asked.load(Ordering::Relaxed);
    assert!((2..50).contains(&asked), "asked {asked} times for 100 strangers");

    // An outage: what is known stays good.
    issuer.server.abort();
    assert!(judge.judge(&issuer.token(&key)).await.is_ok());
}

#[tokio::test]
async fn rotated_keys_are_found_and_an_outage_is_bridged_for_the_grace() {
    crate::tls::install_provider();
    let (old, new) = (IssuerKey::new("k1"), IssuerKey::new("k2"));
    let issuer = Issuer::start(vec![jwk(&old)]).await;
    let roots = crate::tls::identity::read_roots(Some(&issuer.ca.path().join("ca.pem"))).unwrap();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(TlsSettings::default().client(roots).unwrap())
        .build()
        .unwrap();
    let known = |refresh_after, offline_grace| {
        let limits = IssuerLimits {
            refresh_after,
            offline_grace,
            fetch_interval: Duration::ZERO,
            fetches_in_a_row_max: 1,
        };
        Arc::new(KnownIssuer::new(client.clone(), issuer.url.clone(), limits))
    };
    let keys = known(Duration::from_secs(3_600), Duration::from_secs(60));
    let without_grace = known(Duration::ZERO, Duration::ZERO);
    assert_eq!(keys.published().await.unwrap().keys, std::slice::from_ref(&old.jwk));
    *issuer.published.keys.lock().unwrap() = vec![jwk(&new)];
    assert_eq!(
        keys.published().await.unwrap().keys,
        std::slice::from_ref(&old.jwk),
        "known keys answer at once"
    );
    assert_eq!(keys.renewed().await.unwrap().keys, std::slice::from_ref(&new.jwk));
    *issuer.published.issuer.lock().unwrap() = "nobody".into();
    assert!(keys.renewed().await.is_none());
    assert_eq!(keys.published().await.unwrap().keys, [new.jwk]);
    let gone = without_grace.published().await.unwrap_err();
    assert_eq!(gone.code, Code::IdentityUnavailable);
}

#[tokio::test]
async fn people_are_sent_to_the_issuers_endpoints_and_their_id_token_is_for_one_request() {
    crate::tls::install_provider();
    let key = IssuerKey::new("k1");
    let issuer = Issuer::start(vec![jwk(&key)]).await;
    let identity = |client_id: Option<&str>| Identity {
        issuer: Some(issuer.url.clone()),
        audience: Some("an API".into()),
        client_id: client_id.map(str::to_owned),
        ca_file: Some(issuer.ca.path().join("ca.pem")),
        ..Identity::default()
    };
    let judge = |client_id| {
        let (tls, patience) = (TlsSettings::default(), Duration::from_secs(10));
        Judge::new(&identity(client_id), tls, patience).unwrap()
    };
    let page = judge(Some("ringway"));
    let endpoints = page.sign_in_endpoints().await.unwrap();
    assert_eq!(endpoints.client_id, "ringway");
    assert_eq!(endpoints.authorization, format!("{}/authorize", issuer.url));
    assert_eq!(endpoints.token, format!("{}/token", issuer.url));
    assert_eq!(endpoints.device_authorization, None);

    let mut claims = issuer.claims();
    claims["nonce"] = json!("n-1");
    let token = key.token(&claims);
    let user = page.judge_id_token(&token, "n-1").await.unwrap();
    assert_eq!((user.name.as_str(), user.display_name.as_str()), ("17", "ann"));
    let other = page.judge_id_token(&token, "n-2").await.unwrap_err();
    assert_eq!(other.code, Code::TokenWrongNonce);
    // It is no access token here: that has another audience.
    assert_eq!(page.judge(&token).await.unwrap_err().code, Code::TokenWrongAudience);

    let without_client = judge(None).sign_in_endpoints().await.unwrap_err();
    assert_eq!(without_client.code, Code::IdentityUnavailable);
    let nowhere = judge(None).judge_id_token(&token, "n-1").await.unwrap_err();
    assert_eq!(nowhere.code, Code::IdentityUnavailable);
}

#[tokio::test]
async fn an_issuer_that_cannot_be_believed_is_unavailable() {
    crate::tls::install_provider();
    let key = IssuerKey::new("k1");
    let issuer = Issuer::start(vec![jwk(&key)]).await;
    let unavailable = async |judge: Judge| {
        judge.judge(&issuer.token(&key)).await.unwrap_err().code == Code::IdentityUnavailable
    };
    // Its certificate is of a CA that is not trusted.
    let stranger = Issuer::start(vec![]).await;
    assert!(unavailable(issuer.judge_trusting(&stranger.ca.path().join("ca.pem"))).await);
    // It speaks for another issuer.
    let other = format!("{}/other", issuer.url);
    *issuer.published.issuer.lock().unwrap() = other;
    assert!(unavailable(issuer.judge()).await);
    // It is gone.
    issuer.server.abort();
    assert!(unavailable(issuer.judge()).await);
}
