//! Signing in at the identity provider (step 2), for the page: authorization
//! code with PKCE (RFC 6749 4.1, RFC 7636), done by the broker. What one
//! attempt has to remember is in a signed cookie of the browser that began it;
//! the address to come back to is fixed, and so is where it leads then.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{let_in, refuse, secured};
use crate::broker::feed::access;
use crate::broker::feed::cookie::Purpose;
use crate::broker::identity::User;
use crate::broker::{Shared, random_bytes};
use crate::core::audit::Action;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::wire::oidc::challenge_of;

pub const CALLBACK_PATH: &str = "/signin/callback";
/// The prefix makes browsers refuse it from anyone but this very host.
const ATTEMPT_COOKIE: &str = "__Host-ringway-signin";
/// People type passwords and look for their second factor meanwhile.
const ATTEMPT_LIFETIME_MS: u64 = 600_000;

/// What has to come back, and what has to be shown for it.
#[derive(Serialize, Deserialize)]
struct Attempt {
    state: String,
    nonce: String,
    verifier: String,
}

impl Attempt {
    fn new() -> Result<Self, Code> {
        let random = || random_bytes::<32>().map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        Ok(Self { state: random()?, nonce: random()?, verifier: random()? })
    }
}

/// `GET /signin`: to the identity provider.
pub async fn begin(State(shared): State<Arc<Shared>>) -> Response {
    match prepare(&shared).await {
        Ok(response) => secured(response),
        Err(refusal) => refuse(&shared, refusal),
    }
}

async fn prepare(shared: &Shared) -> Result<Response, Refusal> {
    let endpoints = shared.identity.sign_in_endpoints().await?;
    let attempt = Attempt::new()?;
    let challenge = challenge_of(&attempt.verifier).ok_or(Code::Internal)?;
    let mut url = Url::parse(&endpoints.authorization)
        .map_err(|error| Refusal::with_detail(Code::IdentityUnavailable, error))?;
    // No refresh token: the page keeps none.
    let mut scopes = shared.config().identity.scopes();
    scopes.retain(|scope| scope != "offline_access");
    url.query_pairs_mut().extend_pairs([
        ("response_type", "code"),
        ("client_id", &endpoints.client_id),
        ("redirect_uri", &redirect_uri(shared)),
        ("scope", &scopes.join(" ")),
        ("state", &attempt.state),
        ("nonce", &attempt.nonce),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ]);
    let expires_at = UnixMillis::now().plus_ms(ATTEMPT_LIFETIME_MS);
    let sealed = shared.feed.cookies.seal(Purpose::SignIn, &attempt, expires_at)?;
    let cookie = access::set_cookie(ATTEMPT_COOKIE, sealed.expose(), ATTEMPT_LIFETIME_MS)?;
    let mut response = Redirect::to(url.as_str()).into_response();
    response.headers_mut().append(header::SET_COOKIE, cookie);
    Ok(response)
}

fn redirect_uri(shared: &Shared) -> String {
    format!("{}{CALLBACK_PATH}", shared.config().public_url)
}

/// RFC 6749 4.1.2, RFC 9207.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

/// `GET /signin/callback`: back from the identity provider. Whatever becomes of
/// it, the attempt is over.
pub async fn callback(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    answer: Result<Query<Answer>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let answer = answer.map(|Query(answer)| answer).unwrap_or_default();
    let mut response = match finish(&shared, &headers, &answer).await {
        Ok(user) => let_in(&shared, user),
        Err(refusal) => refuse(&shared, refusal),
    };
    if let Ok(gone) = access::set_cookie(ATTEMPT_COOKIE, "", 0) {
        response.headers_mut().append(header::SET_COOKIE, gone);
    }
    response
}

async fn finish(shared: &Shared, headers: &HeaderMap, answer: &Answer) -> Result<User, Refusal> {
    let wrong = |why: &str| Refusal::with_detail(Code::SignInNotCompleted, why);
    let cookie = access::cookie(headers, ATTEMPT_COOKIE)
        .ok_or_else(|| wrong("no sign-in was begun in this browser"))?;
    let attempt: Attempt = shared
        .feed
        .cookies
        .open(Purpose::SignIn, cookie, UnixMillis::now())
        .map_err(|code| wrong(code.facts().name))?;
    let state = answer.state.as_deref().unwrap_or_default();
    if verify_slices_are_equal(state.as_bytes(), attempt.state.as_bytes()).is_err() {
        return Err(wrong("the state is another one"));
    }
    let endpoints = shared.identity.sign_in_endpoints().await?;
    if answer.iss.as_ref().is_some_and(|iss| *iss != endpoints.issuer) {
        return Err(wrong("it comes from another issuer"));
    }
    if let Some(error) = &answer.error {
        return Err(Refusal::with_detail(Code::SignInNotCompleted, error).curbed());
    }
    let code = answer.code.as_deref().ok_or_else(|| wrong("there is no code in it"))?;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", &redirect_uri(shared)),
        ("client_id", &endpoints.client_id),
        ("code_verifier", &attempt.verifier),
    ];
    let tokens = shared.identity.redeem(&endpoints.token, &form).await?;
    let id_token = tokens.id_token.ok_or_else(|| wrong("there is no ID token"))?;
    let user = shared.identity.judge_id_token(id_token.expose(), &attempt.nonce).await?;
    // Groups are in one token at some providers and in the other at others; the
    // access token is what counts when the user connects.
    match access::judge(shared, tokens.access_token.expose()).await {
        Ok(same) if same.name == user.name => Ok(same),
        Ok(_) => Err(wrong("its two tokens name two users")),
        Err(_) => {
            shared.audit.record(Action::SignIn, &user.name, &json!({ "at": "page" }));
            Ok(user)
        }
    }
}
