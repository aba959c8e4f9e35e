//! A small OpenID Connect issuer, for the demo and for tests only: discovery,
//! keys, authorization code with PKCE, tokens, also those for logons at session
//! hosts (`wire::rdsaad`). It asks nobody for a password -
//! every authorization request is the demo user's - and therefore listens on
//! loopback alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use axum::extract::{DefaultBodyLimit, Form, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Url;
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::grants::{CODE_LIFETIME_MS, Grant, GrantError, Grants, Redemption};
use super::tokens::{
    AccessClaims, BoundClaims, Confirmation, IdClaims, NonceClaims, SigningKey, TokenError,
};
use crate::core::clock::UnixMillis;
use crate::tls::listener::{ListenerLimits, TlsListener};
use crate::wire::oidc::is_challenge;
use crate::wire::rdsaad::{NONCE_AUDIENCE, device_of, key_to_bind};

/// Lifetime of the tokens.
pub const TOKEN_LIFETIME_S: u64 = 600;

/// And of the nonces for logons.
const NONCE_LIFETIME_S: u64 = 300;

/// Its clients are few and come back over new connections.
const LISTENER_LIMITS: ListenerLimits = ListenerLimits {
    connections_max: 64,
    handshakes_max: 64,
    handshakes_per_address_max: 64,
    handshake_timeout_ms: 5_000,
    idle_timeout_ms: 30_000,
};

/// `state` and `nonce`, each.
const ECHOED_LENGTH_MAX: usize = 512;
const REQUEST_BODY_BYTES_MAX: usize = 16 * 1024;
/// For requests under way when the issuer stops.
const SHUTDOWN_GRACE_MS: u64 = 2_000;

/// Whom the issuer vouches for, and to whom.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    /// The name or address in the issuer's certificate; becomes the issuer
    /// URL with the port that the kernel picks.
    pub host: String,
    /// The only client (public, RFC 8252).
    pub client_id: String,
    /// `aud` of the access tokens.
    pub audience: String,
    pub user: DemoUser,
}

/// The one who is always signed in.
#[derive(Clone, Debug)]
pub struct DemoUser {
    pub subject: String,
    pub name: String,
    pub groups: Vec<String>,
}

/// Why the issuer did not start.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error("cannot listen on loopback: {0}")]
    Listen(#[from] std::io::Error),
    #[error(transparent)]
    Key(#[from] TokenError),
}

/// A running issuer. Dropping it stops it.
#[derive(Debug)]
pub struct Issuer {
    url: String,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Issuer {
    /// Starts on a loopback port of the kernel's choice, with a new signing
    /// key, on the current runtime.
    ///
    /// # Errors
    /// When it cannot listen or make a key.
    pub async fn start(tls: ServerConfig, settings: IssuerSettings) -> Result<Self, IssuerError> {
        let key = SigningKey::generate()?;
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TlsListener::bind(loopback, Arc::new(tls), LISTENER_LIMITS).await?;
        let port = listener.address().port();
        let url = format!("https://{}:{port}", settings.host);
        let desk = Arc::new(Desk { url: url.clone(), settings, key, grants: Mutex::default() });
        let (stop, mut stopped) = watch::channel(false);
        let serving = tokio::spawn(async move {
            let stop = async move {
                // An error means that the handle is gone: stop as well.
                let _gone = stopped.wait_for(|stop| *stop).await;
            };
            let served = axum::serve(listener, routes(desk)).with_graceful_shutdown(stop).await;
            if let Err(error) = served {
                tracing::warn!(step = 2, %error, "The demo issuer ended");
            }
        });
        Ok(Self { url, stop, serving })
    }

    /// The issuer's name: `iss` in its tokens, base of its discovery document.
    #[must_use]
    pub fn issuer_url(&self) -> &str {
        &self.url
    }

    /// Answers what is under way and stops.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        let grace = Duration::from_millis(SHUTDOWN_GRACE_MS);
        if tokio::time::timeout(grace, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
    }
}

/// What the handlers share.
struct Desk {
    url: String,
    settings: IssuerSettings,
    key: SigningKey,
    grants: Mutex<Grants>,
}

impl Desk {
    fn grants(&self) -> std::sync::MutexGuard<'_, Grants> {
        // The table is changed by single calls and never half.
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/jwks", get(keys))
        .route("/authorize", get(authorize))
        .route("/token", post(token))
        .layer(DefaultBodyLimit::max(REQUEST_BODY_BYTES_MAX))
        .with_state(desk)
}

/// OpenID Connect Discovery 3.
async fn discovery(State(desk): State<Arc<Desk>>) -> impl IntoResponse {
    let url = &desk.url;
    Json(json!({
        "issuer": url,
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "jwks_uri": format!("{url}/jwks"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["openid", "profile"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "authorization_response_iss_parameter_supported": true,
        "claims_supported": ["iss", "aud", "sub", "preferred_username", "groups"],
    }))
}

async fn keys(State(desk): State<Arc<Desk>>) -> impl IntoResponse {
    Json(desk.key.published())
}

/// RFC 6749 4.1.1 with RFC 7636 4.3.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthorizationRequest {
    response_type: String,
    client_id: String,
    redirect_uri: String,
    scope: String,
    state: Option<String>,
    nonce: Option<String>,
    code_challenge: String,
    code_challenge_method: String,
}

/// What is wrong with an authorization request.
#[derive(Debug, PartialEq, Eq)]
enum AuthorizationError {
    /// Whoever sent it must not be redirected (RFC 6749 4.1.2.1).
    Untrusted(&'static str),
    /// The client is told through its redirect address.
    Told(Url, &'static str),
}

/// Judges a request and returns where the answer goes.
fn judge(request: &AuthorizationRequest, client_id: &str) -> Result<Url, AuthorizationError> {
    use AuthorizationError::{Told, Untrusted};
    if request.client_id != client_id {
        return Err(Untrusted("this client is not known here"));
    }
    let Some(redirect) = loopback_redirect(&request.redirect_uri) else {
        return Err(Untrusted("the redirect address must be on loopback"));
    };
    let too_long =
        |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > ECHOED_LENGTH_MAX);
    if too_long(&request.state) || too_long(&request.nonce) {
        return Err(Untrusted("state or nonce is too long"));
    }
    if request.response_type != "code" {
        return Err(Told(redirect, "unsupported_response_type"));
    }
    if !request.scope.split(' ').any(|scope| scope == "openid") {
        return Err(Told(redirect, "invalid_scope"));
    }
    let is_pkce = request.code_challenge_method == "S256" && is_challenge(&request.code_challenge);
    if !is_pkce {
        return Err(Told(redirect, "invalid_request"));
    }
    Ok(redirect)
}

/// A native client's address: any port, any path, this machine (RFC 8252 7.3).
/// The broker's page has one with https.
fn loopback_redirect(uri: &str) -> Option<Url> {
    let url = Url::parse(uri).ok()?;
    let loopback = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (["http", "https"].contains(&url.scheme()) && loopback && plain).then_some(url)
}

async fn authorize(
    State(desk): State<Arc<Desk>>,
    Query(request): Query<AuthorizationRequest>,
) -> Response {
    let answered = match judge(&request, &desk.settings.client_id) {
        Ok(redirect) => issue_code(&desk, &request).map(|code| (redirect, ("code", code))),
        Err(AuthorizationError::Told(redirect, error)) => {
            Ok((redirect, ("error", error.to_owned())))
        }
        Err(AuthorizationError::Untrusted(why)) => {
            return refuse(StatusCode::BAD_REQUEST, "invalid_request", why);
        }
    };
    let (mut redirect, (name, value)) = match answered {
        Ok(answer) => answer,
        Err(refusal) => return *refusal,
    };
    redirect.query_pairs_mut().append_pair(name, &value);
    if let Some(state) = &request.state {
        redirect.query_pairs_mut().append_pair("state", state);
    }
    // RFC 9207: the client can tell one issuer's answer from another's.
    redirect.query_pairs_mut().append_pair("iss", &desk.url);
    (
        StatusCode::FOUND,
        [(header::LOCATION, redirect.as_str()), (header::CACHE_CONTROL, "no-store")],
    )
        .into_response()
}

fn issue_code(desk: &Desk, request: &AuthorizationRequest) -> Result<String, Box<Response>> {
    let unavailable = |why: &str| {
        Box::new(refuse(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", why))
    };
    let mut random = [0; 32];
    rand::fill(&mut random).map_err(|_| unavailable("no randomness, try again"))?;
    let code = URL_SAFE_NO_PAD.encode(random);
    let now = UnixMillis::now();
    let grant = Grant {
        client_id: request.client_id.clone(),
        redirect_uri: request.redirect_uri.clone(),
        challenge: request.code_challenge.clone(),
        nonce: request.nonce.clone(),
        expires_at: now.plus_ms(CODE_LIFETIME_MS),
    };
    desk.grants().add(code.clone(), grant, now).map_err(|full| unavailable(&full.to_string()))?;
    tracing::debug!(step = 2, user = desk.settings.user.name, "Signed the demo user in");
    Ok(code)
}

/// RFC 6749 4.1.3 with RFC 7636 4.5.
#[derive(Deserialize)]
struct TokenRequest {
    #[serde(default)]
    grant_type: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    redirect_uri: String,
    #[serde(default)]
    client_id: String,
    #[serde(default)]
    code_verifier: String,
    #[serde(default)]
    scope: String,
    /// The key that the token shall be good with.
    #[serde(default)]
    req_cnf: Option<String>,
}

/// A session host, and the key of a client that is to log on there.
struct Binding {
    device: String,
    key: String,
}

/// RFC 6749 5.1.
#[derive(Serialize)]
struct TokenResponse {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    id_token: String,
}

async fn token(State(desk): State<Arc<Desk>>, Form(request): Form<TokenRequest>) -> Response {
    if request.grant_type == "srv_challenge" {
        return nonce(&desk);
    }
    if request.grant_type != "authorization_code" {
        let why = "only authorization codes are accepted";
        return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type", why);
    }
    let now = UnixMillis::now();
    let redeemed: Result<Grant, GrantError> = desk.grants().redeem(
        Redemption {
            code: &request.code,
            client_id: &request.client_id,
            redirect_uri: &request.redirect_uri,
            verifier: &request.code_verifier,
        },
        now,
    );
    let grant = match redeemed {
        Ok(grant) => grant,
        Err(error) => {
            tracing::info!(step = 2, %error, "The demo issuer refused a code");
            return refuse(StatusCode::BAD_REQUEST, "invalid_grant", &error.to_string());
        }
    };
    let binding = match &request.req_cnf {
        None => None,
        Some(req_cnf) => match device_of(&request.scope).zip(key_to_bind(req_cnf)) {
            Some((device, key)) => Some(Binding { device: device.to_owned(), key }),
            None => {
                let why = "a key can be bound for the scope of a session host only";
                return refuse(StatusCode::BAD_REQUEST, "invalid_request", why);
            }
        },
    };
    match tokens(&desk, grant, binding, now.0 / 1000) {
        Ok(tokens) => ([(header::CACHE_CONTROL, "no-store")], Json(tokens)).into_response(),
        Err(error) => {
            tracing::warn!(step = 2, %error, "The demo issuer made no token");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "no token, try again")
        }
    }
}

/// As an identity provider answers that signs its nonces.
fn nonce(desk: &Desk) -> Response {
    let exp = UnixMillis::now().0 / 1_000 + NONCE_LIFETIME_S;
    match desk.key.sign(&NonceClaims { iss: desk.url.clone(), aud: NONCE_AUDIENCE, exp }) {
        Ok(nonce) => {
            ([(header::CACHE_CONTROL, "no-store")], Json(json!({ "Nonce": nonce }))).into_response()
        }
        Err(error) => {
            tracing::warn!(step = 2, %error, "The demo issuer made no nonce");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "no nonce, try again")
        }
    }
}

fn tokens(
    desk: &Desk,
    grant: Grant,
    binding: Option<Binding>,
    now_s: u64,
) -> Result<TokenResponse, TokenError> {
    let IssuerSettings { audience, user, .. } = &desk.settings;
    let exp = now_s + TOKEN_LIFETIME_S;
    let access = AccessClaims {
        iss: desk.url.clone(),
        aud: audience.clone(),
        sub: user.subject.clone(),
        preferred_username: user.name.clone(),
        groups: user.groups.clone(),
        iat: now_s,
        nbf: now_s,
        exp,
    };
    let id = IdClaims {
        iss: desk.url.clone(),
        aud: grant.client_id,
        sub: user.subject.clone(),
        preferred_username: user.name.clone(),
        nonce: grant.nonce,
        iat: now_s,
        exp,
    };
    let access_token = match binding {
        None => desk.key.sign(&access)?,
        Some(Binding { device, key }) => {
            let access = AccessClaims { aud: device, ..access };
            desk.key.sign(&BoundClaims { access, cnf: Confirmation { kid: key } })?
        }
    };
    Ok(TokenResponse {
        access_token,
        token_type: "Bearer",
        expires_in: TOKEN_LIFETIME_S,
        id_token: desk.key.sign(&id)?,
    })
}

/// RFC 6749 5.2.
fn refuse(status: StatusCode, error: &str, why: &str) -> Response {
    let body = Json(json!({ "error": error, "error_description": why }));
    (status, [(header::CACHE_CONTROL, "no-store")], body).into_response()
}

#[cfg(test)]
#[path = "issuer_tests.rs"]
mod tests;
