//! Issuer, client and host of a logon by token, each over real TLS: what they
//! say is as `FreeRDP` says it, byte by byte.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::redirect;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::issuer::{DemoUser, Issuer, IssuerSettings};
use super::rdp_host::{DemoHost, HOST_NAME, NAMES};
use crate::agent::rdsaad::TokenLogon;
use crate::agent::rdsaad::judge::{LogonRules, ProviderNonce};
use crate::agent::rdsaad::testing::{ClientKey, Logon};
use crate::broker::ca::to_pem;
use crate::config::broker::Identity;
use crate::core::clock::UnixMillis;
use crate::tls::settings::TlsSettings;
use crate::wire::oidc::challenge_of;
use crate::wire::rdsaad::{LogonResult, device_uri};

const CLIENT: &str = "ringway-demo";
const REDIRECT: &str = "http://127.0.0.1/callback";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

struct Stage {
    issuer: Issuer,
    host: DemoHost,
    browser: reqwest::Client,
}

impl Stage {
    /// A host for `account`, and an issuer at which `demo` is signed in.
    async fn set(account: &str) -> Self {
        crate::tls::install_provider();
        let identity = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = identity.cert.der().clone();
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
        let tls = TlsSettings::default().server(vec![certificate.clone()], key).unwrap();
        let user = DemoUser { subject: "user-1".into(), name: "demo".into(), groups: vec![] };
        let settings = IssuerSettings {
            host: "127.0.0.1".into(),
            client_id: CLIENT.into(),
            audience: "ringway".into(),
            user,
        };
        let issuer = Issuer::start(tls, settings).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, to_pem(&certificate)).unwrap();
        let identity = Identity {
            issuer: Some(issuer.issuer_url().to_owned()),
            ca_file: Some(ca_file),
            user_claim: Some("preferred_username".into()),
            ..Identity::default()
        };
        let rules = LogonRules {
            host_names: NAMES.map(str::to_owned).into(),
            provider_nonce: ProviderNonce::Signed,
        };
        let tokens = TokenLogon::new(&identity, TlsSettings::default(), rules).unwrap();
        let host = DemoHost::start_taking_tokens(account, "unknown to all", tokens).unwrap();
        let browser = reqwest::Client::builder()
            .tls_backend_preconfigured(client_tls(&certificate))
            .redirect(redirect::Policy::none())
            .build()
            .unwrap();
        Self { issuer, host, browser }
    }

    async fn ask(&self, form: &[(&str, &str)]) -> Value {
        let url = format!("{}/token", self.issuer.issuer_url());
        let answer = self.browser.post(url).form(form).send().await.unwrap();
        answer.json().await.unwrap()
    }

    /// A token for that host and key, as far as the issuer is asked for it.
    async fn token(&self, scope: &str, req_cnf: &str) -> Value {
        let query = [
            ("response_type", "code"),
            ("client_id", CLIENT),
            ("redirect_uri", REDIRECT),
            ("scope", "openid"),
            ("code_challenge", &challenge_of(VERIFIER).unwrap()),
            ("code_challenge_method", "S256"),
        ];
        let url = format!("{}/authorize", self.issuer.issuer_url());
        let answer = self.browser.get(url).query(&query).send().await.unwrap();
        let back = answer.headers()["location"].to_str().unwrap();
        let back = reqwest::Url::parse(back).unwrap();
        let answered: HashMap<_, _> = back.query_pairs().into_owned().collect();
        self.ask(&[
            ("grant_type", "authorization_code"),
            ("code", &answered["code"]),
            ("client_id", CLIENT),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
            ("scope", scope),
            ("req_cnf", req_cnf),
        ])
        .await
    }

    /// Everything that a client brings together before it answers the host.
    async fn logon(&self, key: &ClientKey) -> Logon {
        let device = device_uri(HOST_NAME);
        let req_cnf = URL_SAFE_NO_PAD.encode(json!({ "kid": key.thumbprint() }).to_string());
        let token = self.token(&format!("{device}/user_impersonation"), &req_cnf).await;
        let nonce = self.ask(&[("grant_type", "srv_challenge")]).await;
        Logon {
            at_s: UnixMillis::now().0 / 1_000,
            access_token: token["access_token"].as_str().unwrap().to_owned(),
            device,
            nonce: String::new(),
            provider_nonce: nonce["Nonce"].as_str().unwrap().to_owned(),
        }
    }

    /// A client that has heard the host's nonce.
    async fn arrive(&self) -> (TlsStream<DuplexStream>, String) {
        let mut client = self.host.connect().unwrap();
        let request = [3, 0, 0, 19, 14, 0xe0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0x10, 0, 0, 0];
        client.write_all(&request).await.unwrap();
        client.read_exact(&mut [0; 19]).await.unwrap();
        let tls = Arc::new(client_tls(self.host.certificate_der()));
        let name = ServerName::try_from(HOST_NAME).unwrap();
        let mut client = TlsConnector::from(tls).connect(name, client).await.unwrap();
        let nonce = heard(&mut client).await["ts_nonce"].as_str().unwrap().to_owned();
        (client, nonce)
    }
}

fn client_tls(trusted: &CertificateDer<'static>) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    TlsSettings::default().client(roots).unwrap()
}

async fn heard(client: &mut TlsStream<DuplexStream>) -> Value {
    let mut text = Vec::new();
    loop {
        match client.read_u8().await.unwrap() {
            0 => return serde_json::from_slice(&text).unwrap(),
            byte => text.push(byte),
        }
    }
}

async fn answer(client: &mut TlsStream<DuplexStream>, text: &[u8]) -> u64 {
    // However it was cut on its way.
    for part in text.chunks(1_000) {
        client.write_all(part).await.unwrap();
        client.flush().await.unwrap();
    }
    heard(client).await["authentication_result"].as_u64().unwrap()
}

#[tokio::test]
async fn step12_a_token_logs_on_and_the_same_assertion_does_not_do_so_again() {
    let (stage, key) = (Stage::set("demo").await, ClientKey::new());
    let (mut client, nonce) = stage.arrive().await;
    let text = key.text(&Logon { nonce, ..stage.logon(&key).await });
    assert_eq!(answer(&mut client, &text).await, u64::from(LogonResult::OK.0));
    // RDP goes on: the host takes no second request for a connection now.
    client.write_all(&[3, 0, 0, 11, 6, 0xe0, 0, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);

    let (mut replayed, _another_nonce) = stage.arrive().await;
    let result = answer(&mut replayed, &text).await;
    assert_eq!(result, u64::from(LogonResult::INVALID_TOKEN.0));
    assert_eq!(replayed.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_user_without_an_account_is_told_so() {
    let (stage, key) = (Stage::set("somebody-else").await, ClientKey::new());
    let (mut client, nonce) = stage.arrive().await;
    let text = key.text(&Logon { nonce, ..stage.logon(&key).await });
    assert_eq!(answer(&mut client, &text).await, u64::from(LogonResult::LOGON_FAILURE.0));
}

#[tokio::test]
async fn the_issuer_binds_a_key_for_session_hosts_only() {
    let stage = Stage::set("demo").await;
    let key = URL_SAFE_NO_PAD.encode("{\"kid\":\"k\"}");
    let scope = format!("{}/user_impersonation", device_uri(HOST_NAME));
    for (scope, key) in [("openid", key.as_str()), (scope.as_str(), "k")] {
        let answer = stage.token(scope, key).await;
        assert_eq!(answer["error"], "invalid_request", "{answer}");
    }
}
