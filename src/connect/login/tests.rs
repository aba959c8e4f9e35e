//! Which answer counts, what the loopback port says to strangers, and what is
//! kept of a sign-in.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::LoginError;
use super::callback::Callback;
use super::code::{Answer, Attempt};
use super::provider::{ClientFacts, Provider, Tokens};
use super::session::StoredLogin;
use super::store::{Login, Logins};
use crate::core::clock::UnixMillis;
use crate::core::secret::Secret;
use crate::dial::http::HttpsClient;
use crate::dial::testing::{TestCa, TestServer, read_head, short_limits};
use crate::wire::feed::Discovery;

const PATIENCE: Duration = Duration::from_secs(20);

/// An identity provider with endpoints, and one answer to every form.
async fn provider_at(ca: &TestCa, status: u16, answer: &'static str) -> TestServer {
    TestServer::start(ca.server(), move |mut stream| async move {
        let head = read_head(&mut stream).await.to_ascii_lowercase();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let issuer = format!("https://{}", header("host: ").unwrap());
        let body = if head.starts_with("get /.well-known/openid-configuration ") {
            format!(
                r#"{{"issuer":"{issuer}","jwks_uri":"{issuer}/k","token_endpoint":"{issuer}/t",
                    "authorization_endpoint":"{issuer}/a?tenant=1"}}"#
            )
        } else {
            answer.to_owned()
        };
        let length = header("content-length: ").map_or(0, |length| length.parse().unwrap());
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        let status = if head.starts_with("get ") { 200 } else { status };
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.unwrap();
        let _best_effort = stream.shutdown().await;
    })
    .await
}

fn facts(server: &TestServer) -> ClientFacts {
    ClientFacts {
        issuer: server.url(),
        client_id: "client".into(),
        audience: Some("api".into()),
        scopes: vec!["openid".into(), "offline_access".into()],
    }
}

async fn provider(ca: &TestCa, server: &TestServer) -> Provider {
    let https = HttpsClient::new(ca.client(), short_limits()).unwrap();
    Provider::discover(https, facts(server)).await.unwrap()
}

async fn attempt(redirect_uri: &str) -> (Attempt, TestServer) {
    let ca = TestCa::new();
    let server = provider_at(&ca, 200, "{}").await;
    let provider = provider(&ca, &server).await;
    (Attempt::new(&provider, redirect_uri.to_owned()).unwrap(), server)
}

fn parameter(attempt: &Attempt, name: &str) -> String {
    let url = reqwest::Url::parse(attempt.url()).unwrap();
    let found = url.query_pairs().find(|(key, _)| key == name);
    found.unwrap_or_else(|| panic!("no {name} in {url}")).1.into_owned()
}

#[tokio::test]
async fn an_attempt_asks_for_a_code_that_nobody_else_can_use() {
    let (attempt, _server) = attempt("http://127.0.0.1:1/callback").await;
    for (name, value) in [
        ("tenant", "1"),
        ("response_type", "code"),
        ("client_id", "client"),
        ("audience", "api"),
        ("scope", "openid offline_access"),
        ("redirect_uri", "http://127.0.0.1:1/callback"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(parameter(&attempt, name), value);
    }
    let challenge = crate::wire::oidc::challenge_of(attempt.verifier()).unwrap();
    assert_eq!(parameter(&attempt, "code_challenge"), challenge);
    let secrets = [attempt.verifier(), attempt.nonce(), &parameter(&attempt, "state")];
    assert!(secrets.iter().all(|secret| secret.len() == 43), "256 bits each");
    assert!(secrets[0] != secrets[1] && secrets[1] != secrets[2] && secrets[0] != secrets[2]);
    let shown = format!("{attempt:?}");
    assert!(!shown.contains(attempt.verifier()), "a verifier in a log");
}

#[tokio::test]
async fn only_the_answer_to_this_request_counts() {
    let (attempt, server) = attempt("http://127.0.0.1:1/callback").await;
    let state = parameter(&attempt, "state");
    let code = |query: &str| match attempt.answer(query) {
        Answer::Ours(Ok(code)) => Some(code.expose().to_owned()),
        Answer::Ours(Err(error)) => Some(error.to_string()),
        Answer::Strangers => None,
    };
    let iss = server.url().replace(':', "%3A").replace('/', "%2F");
    assert_eq!(code(&format!("code=c&state={state}")).unwrap(), "c");
    assert_eq!(code(&format!("code=c&state={state}&iss={iss}")).unwrap(), "c");
    for strangers in [
        String::new(),
        "code=c".into(),
        "code=c&state=other".into(),
        format!("code=c&state={state}&state={state}"),
        format!("code=c&state={state}x"),
        format!("code=c&state={state}&iss=https%3A%2F%2Fother"),
        "\u{0}#?&&=".into(),
    ] {
        assert_eq!(code(&strangers), None, "{strangers:?}");
    }
    let denied = format!("error=access_denied&error_description=no%1b%5B2J&state={state}");
    let denied = code(&denied).unwrap();
    assert!(denied.contains("access_denied (no [2J)"), "{denied}");
    assert!(code(&format!("state={state}")).unwrap().contains("there is no code in it"));
}

#[tokio::test]
async fn the_loopback_port_waits_for_the_right_browser() {
    let callback = Callback::open().await.unwrap();
    let address = callback.uri().strip_prefix("http://").unwrap().replace("/callback", "");
    let (attempt, _server) = attempt(callback.uri()).await;
    let state = parameter(&attempt, "state");
    let ask = async |target: String| {
        let mut browser = TcpStream::connect(&address).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        browser.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        browser.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let browsing = async {
        // Browsers connect before they have anything to say.
        let _silent = TcpStream::connect(&address).await.unwrap();
        assert!(ask("/favicon.ico".into()).await.starts_with("HTTP/1.1 404 "));
        assert!(ask("/callback?code=x&state=wrong".into()).await.starts_with("HTTP/1.1 404 "));
        let answer = ask(format!("/callback?code=c&state={state}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("signed in"), "{answer}");
    };
    let (code, ()) = tokio::join!(callback.wait(&attempt, PATIENCE), browsing);
    assert_eq!(code.unwrap().expose(), "c");
}

#[tokio::test]
async fn nobody_is_waited_for_for_ever() {
    let callback = Callback::open().await.unwrap();
    let (attempt, _server) = attempt(callback.uri()).await;
    let error = callback.wait(&attempt, Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(error, LoginError::NobodyCame { .. }), "{error}");
}

#[test]
fn a_broker_without_a_provider_says_what_to_do_instead() {
    let told = |issuer: Option<&str>, client_id: Option<&str>| {
        let discovery = Discovery {
            workspace: "office".into(),
            issuer: issuer.map(str::to_owned),
            client_id: client_id.map(str::to_owned),
            audience: None,
            scopes: vec![],
        };
        ClientFacts::told_by(&discovery).map_err(|error| error.to_string())
    };
    assert!(told(None, Some("c")).unwrap_err().contains("--token-file"));
    assert!(told(Some("https://i"), None).unwrap_err().contains("identity.client_id"));
    assert!(told(Some("https://i"), Some("c")).is_ok());
}

#[tokio::test]
async fn an_answer_that_is_not_the_tokens_asked_for_is_refused() {
    for (status, answer, problem) in [
        (200, r#"{"access_token":"a","token_type":"Bearer"}"#, "no ID token"),
        (200, r#"{"access_token":"a","token_type":"mac","id_token":"x"}"#, "no bearer token"),
        (200, r#"{"access_token":"a","token_type":"bearer","id_token":"x"}"#, "cannot be read"),
        (200, "[]", "token request"),
        (400, r#"{"error":"invalid_grant","error_description":"used"}"#, "invalid_grant (used)"),
        (502, "<html>", "its status is 502"),
    ] {
        let ca = TestCa::new();
        let server = provider_at(&ca, status, answer).await;
        let provider = provider(&ca, &server).await;
        let attempt = Attempt::new(&provider, "http://127.0.0.1/".into()).unwrap();
        let error = provider.redeem(&"code".into(), &attempt).await.unwrap_err().to_string();
        assert!(error.contains(problem), "{answer}: {error}");
    }
}

fn login(issuer: &str, expires_in_s: u64) -> Login {
    Login {
        broker: "https://broker.example:8443".into(),
        workspace: "office".into(),
        user: "ann".into(),
        client: ClientFacts {
            issuer: issuer.into(),
            client_id: "client".into(),
            audience: None,
            scopes: vec![],
        },
        issuer_ca: None,
        access_token: Secret::from("access-1"),
        refresh_token: None,
        expires_at: UnixMillis::now().plus_ms(expires_in_s * 1_000),
        gateways: vec!["gw:443".into()],
    }
}

#[test]
fn a_sign_in_is_stored_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("logins");
    let logins = Logins::open(Some(&place)).unwrap();
    let broker = "https://broker.example:8443".parse().unwrap();
    assert!(logins.read(&broker).unwrap().is_none());
    logins.write(&login("https://i", 600)).unwrap();
    let read = logins.read(&broker).unwrap().unwrap();
    assert_eq!(read.access_token.expose(), "access-1");
    assert!(!format!("{read:?}").contains("access-1"), "a token in a log");
    assert_eq!(logins.all().unwrap().len(), 1);
    let mode = |path: &std::path::Path| path.metadata().unwrap().mode() & 0o777;
    assert_eq!(mode(&place), 0o700);
    assert_eq!(mode(&place.join("broker.example@8443.json")), 0o600);
    assert!(logins.remove(&broker).unwrap());
    assert!(!logins.remove(&broker).unwrap());
    assert!(logins.all().unwrap().is_empty());
}

#[test]
fn a_folder_that_others_could_read_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("logins");
    std::fs::create_dir(&place).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&place, open).unwrap();
    Logins::open(Some(&place)).unwrap();
    assert_eq!(place.metadata().unwrap().mode() & 0o777, 0o700);
}

#[test]
fn new_tokens_keep_an_old_refresh_token_unless_there_is_a_new_one() {
    let mut login = login("https://i", 0);
    let now = UnixMillis(1_000);
    let tokens = |refresh_token: Option<&str>| Tokens {
        access_token: "access-2".into(),
        refresh_token: refresh_token.map(Secret::from),
        expires_in_s: 60,
    };
    login.renew(tokens(Some("refresh-1")), now);
    login.renew(tokens(None), now);
    assert_eq!(login.refresh_token.as_ref().unwrap().expose(), "refresh-1");
    assert_eq!((login.access_token.expose(), login.expires_at), ("access-2", UnixMillis(61_000)));
    assert!(login.is_alive(now) && !login.is_fresh(now), "a minute is soon over");
    login.renew(tokens(Some("refresh-2")), now);
    assert_eq!(login.refresh_token.unwrap().expose(), "refresh-2");
}

#[test]
fn the_newest_gateways_are_remembered() {
    let mut login = login("https://i", 0);
    login.learn((0..100).map(|n| format!("gw-{n}:443")));
    login.learn(["gw-50:443".to_owned()]);
    assert_eq!(login.gateways.len(), 64);
    assert_eq!(login.gateways[..2], ["gw-50:443", "gw-99:443"]);
}

#[tokio::test]
async fn a_sign_in_that_is_over_says_how_to_get_another() {
    let folder = tempfile::tempdir().unwrap();
    let logins = Logins::open(Some(folder.path())).unwrap();
    let broker: crate::dial::Endpoint = "https://broker.example:8443".parse().unwrap();
    let advice = "run: ringway login https://broker.example:8443";
    let none = StoredLogin::of(logins.clone(), broker.clone()).unwrap_err().to_string();
    assert!(none.contains("not signed in") && none.ends_with(advice), "{none}");

    // Past its time, without a refresh token.
    logins.write(&login("https://i", 0)).unwrap();
    let stored = StoredLogin::of(logins.clone(), broker).unwrap();
    let over = stored.current().await.unwrap_err().to_string();
    assert!(over.contains("is over") && over.ends_with(advice), "{over}");
    // About to end: still good for this request.
    logins.write(&login("https://i", 5)).unwrap();
    assert_eq!(stored.current().await.unwrap().expose(), "access-1");
}
