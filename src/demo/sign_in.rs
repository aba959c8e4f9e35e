//! Step 2 from the user's side: authorization code with PKCE at an issuer that
//! needs no person in front of it, as the demo's does not. Nothing is followed
//! automatically; every answer is checked against what was asked.

use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::LOCATION;
use reqwest::{Client, Response, StatusCode, Url, redirect};
use rustls::RootCertStore;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::tls::settings::TlsSettings;
use crate::wire::oidc::challenge_of;

/// Nobody listens there: the answer is read from the redirect itself.
const REDIRECT_URI: &str = "http://127.0.0.1/callback";
/// For each request, answer included.
const REQUEST_TIMEOUT_MS: u64 = 10_000;
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    #[error("cannot prepare the request: {0}")]
    Prepare(String),
    #[error("the identity provider cannot be reached: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the identity provider's answer to {what} is not as it must be: {why}")]
    Answer { what: &'static str, why: String },
    #[error("the identity provider refused: {error}")]
    Refused { error: String },
}

/// What the user may now show to a feed or gateway.
pub struct AccessToken {
    pub token: Zeroizing<String>,
    pub expires_in_s: u64,
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessToken")
            .field("expires_in_s", &self.expires_in_s)
            .finish_non_exhaustive()
    }
}

/// An HTTPS client that trusts `roots` and follows no redirect.
///
/// # Errors
/// When TLS cannot be set up.
pub fn http_client(roots: RootCertStore) -> Result<Client, SignInError> {
    let tls = TlsSettings::default()
        .client(roots)
        .map_err(|error| SignInError::Prepare(error.to_string()))?;
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .https_only(true)
        .no_proxy()
        .timeout(Duration::from_millis(REQUEST_TIMEOUT_MS))
        .build()?)
}

/// Signs in at `issuer` as `client_id` and returns the access token.
///
/// # Errors
/// When the issuer cannot be reached, refuses, or answers something else.
pub async fn sign_in(
    http: &Client,
    issuer: &str,
    client_id: &str,
) -> Result<AccessToken, SignInError> {
    let endpoints = discover(http, issuer).await?;
    let attempt = Attempt::new(client_id)?;
    let code = authorize(http, &endpoints, &attempt).await?;
    redeem(http, &endpoints, &attempt, &code).await
}

/// The part of a discovery document that is needed here.
#[derive(Debug, Deserialize)]
struct Endpoints {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
}

async fn discover(http: &Client, issuer: &str) -> Result<Endpoints, SignInError> {
    let url = format!("{issuer}/.well-known/openid-configuration");
    let endpoints: Endpoints = read("discovery", http.get(url).send().await?).await?;
    if endpoints.issuer != issuer {
        return Err(unexpected("discovery", "it is another issuer's"));
    }
    Ok(endpoints)
}

/// The secrets of one attempt.
struct Attempt<'a> {
    client_id: &'a str,
    state: String,
    verifier: Zeroizing<String>,
    challenge: String,
}

impl<'a> Attempt<'a> {
    fn new(client_id: &'a str) -> Result<Self, SignInError> {
        let verifier = Zeroizing::new(random_text()?);
        let challenge = challenge_of(&verifier)
            .ok_or_else(|| SignInError::Prepare("the verifier is too short".to_owned()))?;
        Ok(Self { client_id, state: random_text()?, verifier, challenge })
    }
}

/// 256 random bits as 43 unreserved characters.
fn random_text() -> Result<String, SignInError> {
    let mut random = Zeroizing::new([0; 32]);
    rand::fill(random.as_mut_slice())
        .map_err(|_| SignInError::Prepare("the system gives no randomness".to_owned()))?;
    Ok(URL_SAFE_NO_PAD.encode(random.as_slice()))
}

async fn authorize(
    http: &Client,
    endpoints: &Endpoints,
    attempt: &Attempt<'_>,
) -> Result<Zeroizing<String>, SignInError> {
    let query = [
        ("response_type", "code"),
        ("client_id", attempt.client_id),
        ("redirect_uri", REDIRECT_URI),
        ("scope", "openid profile"),
        ("state", &attempt.state),
        ("code_challenge", &attempt.challenge),
        ("code_challenge_method", "S256"),
    ];
    let asked = http.get(&endpoints.authorization_endpoint).query(&query);
    let answer = asked.send().await?;
    let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    match location {
        Some(location) if answer.status().is_redirection() => {
            code_in(location, &attempt.state, &endpoints.issuer)
        }
        _ => Err(refusal("authorize", answer).await),
    }
}

/// Takes the code out of the redirect, if it answers this request.
fn code_in(location: &str, state: &str, issuer: &str) -> Result<Zeroizing<String>, SignInError> {
    let answer = |why: &str| unexpected("authorize", why);
    let back = Url::parse(location).map_err(|error| answer(&error.to_string()))?;
    let mut page = back.clone();
    page.set_query(None);
    if page.as_str() != REDIRECT_URI {
        return Err(answer("it leads elsewhere (does it want a person to sign in?)"));
    }
    let value = |name: &str| back.query_pairs().find(|(key, _)| key == name).map(|(_, v)| v);
    if value("state").as_deref() != Some(state) {
        return Err(answer("it answers another request"));
    }
    if value("iss").is_some_and(|iss| iss != issuer) {
        return Err(answer("it comes from another issuer"));
    }
    if let Some(error) = value("error") {
        return Err(SignInError::Refused { error: error.into_owned() });
    }
    let code = value("code").ok_or_else(|| answer("there is no code in it"))?;
    Ok(Zeroizing::new(code.into_owned()))
}

/// RFC 6749 5.1.
#[derive(Deserialize)]
struct Tokens {
    access_token: String,
    token_type: String,
    #[serde(default)]
    expires_in: u64,
}

async fn redeem(
    http: &Client,
    endpoints: &Endpoints,
    attempt: &Attempt<'_>,
    code: &str,
) -> Result<AccessToken, SignInError> {
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", REDIRECT_URI),
        ("client_id", attempt.client_id),
        ("code_verifier", &attempt.verifier),
    ];
    let answer = http.post(&endpoints.token_endpoint).form(&form).send().await?;
    if answer.status() != StatusCode::OK {
        return Err(refusal("token", answer).await);
    }
    let tokens: Tokens = read("token", answer).await?;
    let token = Zeroizing::new(tokens.access_token);
    if !tokens.token_type.eq_ignore_ascii_case("Bearer") {
        return Err(unexpected("token", "it is no bearer token"));
    }
    Ok(AccessToken { token, expires_in_s: tokens.expires_in })
}

/// RFC 6749 5.2, or at least the status.
async fn refusal(what: &'static str, answer: Response) -> SignInError {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
        #[serde(default)]
        error_description: String,
    }
    let status = answer.status();
    match body(what, answer).await.map(|body| serde_json::from_slice::<Refusal>(&body)) {
        Ok(Ok(Refusal { error, error_description })) => {
            SignInError::Refused { error: format!("{error} ({error_description})") }
        }
        _ => unexpected(what, &format!("its status is {status}")),
    }
}

async fn read<T: DeserializeOwned>(what: &'static str, answer: Response) -> Result<T, SignInError> {
    if answer.status() != StatusCode::OK {
        return Err(unexpected(what, &format!("its status is {}", answer.status())));
    }
    let body = body(what, answer).await?;
    serde_json::from_slice(&body).map_err(|error| unexpected(what, &error.to_string()))
}

async fn body(what: &'static str, mut answer: Response) -> Result<Zeroizing<Vec<u8>>, SignInError> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(unexpected(what, "it is too long"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unexpected(what: &'static str, why: &str) -> SignInError {
    SignInError::Answer { what, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use rustls::pki_types::PrivateKeyDer;

    use super::*;
    use crate::demo::issuer::{DemoUser, Issuer, IssuerSettings, TOKEN_LIFETIME_S};
    use crate::demo::tokens::AccessClaims;

    async fn issuer() -> (Issuer, Client) {
        let identity = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = identity.cert.der().clone();
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
        let tls = TlsSettings::default().server(vec![certificate.clone()], key).unwrap();
        let settings = IssuerSettings {
            host: "127.0.0.1".into(),
            client_id: "ringway-demo".into(),
            audience: "ringway".into(),
            user: DemoUser {
                subject: "user-1".into(),
                name: "demo".into(),
                groups: vec!["staff".into()],
            },
        };
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        (Issuer::start(tls, settings).await.unwrap(), http_client(roots).unwrap())
    }

    #[tokio::test]
    async fn step_2_gives_a_token_that_the_published_key_verifies() {
        let (issuer, http) = issuer().await;
        let token = sign_in(&http, issuer.issuer_url(), "ringway-demo").await.unwrap();
        assert_eq!(token.expires_in_s, TOKEN_LIFETIME_S);

        let jwks = http.get(format!("{}/jwks", issuer.issuer_url())).send().await.unwrap();
        let jwks: JwkSet = jwks.json().await.unwrap();
        let kid = jsonwebtoken::decode_header(token.token.as_bytes()).unwrap().kid.unwrap();
        let key = DecodingKey::from_jwk(jwks.find(&kid).unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&["ringway"]);
        validation.set_issuer(&[issuer.issuer_url()]);
        validation.validate_nbf = true;
        let claims =
            jsonwebtoken::decode::<AccessClaims>(token.token.as_bytes(), &key, &validation)
                .unwrap()
                .claims;
        assert_eq!(claims.sub, "user-1");
        assert_eq!(claims.preferred_username, "demo");
        assert_eq!(claims.groups, ["staff"]);
        assert_eq!(claims.exp, claims.iat + TOKEN_LIFETIME_S);
        issuer.shutdown().await;
    }

    #[tokio::test]
    async fn a_used_code_and_a_wrong_verifier_are_refused() {
        let (issuer, http) = issuer().await;
        let endpoints = discover(&http, issuer.issuer_url()).await.unwrap();
        let attempt = Attempt::new("ringway-demo").unwrap();

        let code = authorize(&http, &endpoints, &attempt).await.unwrap();
        assert!(redeem(&http, &endpoints, &attempt, &code).await.is_ok());
        let again = redeem(&http, &endpoints, &attempt, &code).await.unwrap_err();
        assert!(again.to_string().contains("invalid_grant"), "{again}");

        let code = authorize(&http, &endpoints, &attempt).await.unwrap();
        let thief = Attempt::new("ringway-demo").unwrap();
        let stolen = redeem(&http, &endpoints, &thief, &code).await.unwrap_err();
        assert!(stolen.to_string().contains("verifier"), "{stolen}");
        let burnt = redeem(&http, &endpoints, &attempt, &code).await.unwrap_err();
        assert!(burnt.to_string().contains("invalid_grant"), "{burnt}");
        issuer.shutdown().await;
    }

    #[tokio::test]
    async fn an_unknown_client_is_told_without_a_redirect() {
        let (issuer, http) = issuer().await;
        let refused = sign_in(&http, issuer.issuer_url(), "stranger").await.unwrap_err();
        assert!(matches!(refused, SignInError::Refused { .. }), "{refused:?}");
        issuer.shutdown().await;
    }

    #[tokio::test]
    async fn an_issuer_of_another_ca_is_not_talked_to() {
        let (issuer, _) = issuer().await;
        let http = http_client(RootCertStore::empty()).unwrap();
        let refused = sign_in(&http, issuer.issuer_url(), "ringway-demo").await.unwrap_err();
        assert!(matches!(refused, SignInError::Http(_)), "{refused:?}");
        issuer.shutdown().await;
    }

    #[test]
    fn only_the_answer_to_this_request_counts() {
        let code =
            |location: &str| code_in(location, "s", "https://i").map(|code| code.to_string());
        let good = "http://127.0.0.1/callback?code=c&state=s&iss=https%3A%2F%2Fi";
        assert_eq!(code(good).unwrap(), "c");
        for bad in [
            "http://127.0.0.1/callback?code=c&state=other&iss=https%3A%2F%2Fi",
            "http://127.0.0.1/callback?code=c&state=s&iss=https%3A%2F%2Fother",
            "http://127.0.0.1/callback?code=c",
            "http://127.0.0.1/callback?state=s",
            "http://127.0.0.1/elsewhere?code=c&state=s",
            "https://login.example/?next=callback",
            "nonsense",
        ] {
            assert!(matches!(code(bad), Err(SignInError::Answer { .. })), "{bad}");
        }
        let denied = code("http://127.0.0.1/callback?error=access_denied&state=s");
        assert!(matches!(denied, Err(SignInError::Refused { .. })));
    }
}
