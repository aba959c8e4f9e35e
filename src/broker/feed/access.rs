//! Who may see the feed (steps 3 and 4): a bearer token, or the cookie that was
//! given for one. Both are good for every address of the feed.
//!
//! Stock clients know neither OIDC nor bearer tokens. Without a cookie they are
//! sent to [`LOGIN_PATH`], which answers whoever brings a token with the value
//! of the cookie (MS-TSWP 3.2).

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::LOGIN_PATH;
use super::cookie::{Purpose, cookie_in};
use crate::broker::Shared;
use crate::broker::http::Refused;
use crate::broker::identity::User;
use crate::core::audit::Action;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::secret::Secret;
use crate::wire::http_head::bearer_token;

/// The name that stock clients send it under.
pub const COOKIE: &str = ".ASPXAUTH";

/// Longer credentials are not decoded.
const BASIC_BYTES_MAX: usize = 32 * 1024;

/// What the feed cookie says.
#[derive(Serialize, Deserialize)]
struct SignedIn {
    user: String,
    shown_as: String,
    groups: Vec<String>,
}

/// Who asks.
///
/// # Errors
/// One of the `token_*` codes or [`Code::IdentityUnavailable`].
pub async fn user(shared: &Shared, headers: &HeaderMap) -> Result<User, Refusal> {
    if let Some(bearer) = bearer(headers) {
        return judge(shared, bearer).await;
    }
    let cookie = cookie(headers, COOKIE).ok_or_else(|| Refusal::new(Code::TokenMissing))?;
    let key = &shared.feed.cookies;
    let SignedIn { user, shown_as, groups } = key.open(Purpose::Feed, cookie, UnixMillis::now())?;
    // How somebody signed in matters where a session begins, and no cookie
    // begins one.
    Ok(User { name: user, display_name: shown_as, groups, amr: Vec::new(), acr: None })
}

/// Judges a bearer token.
///
/// # Errors
/// As [`user`].
pub async fn judge(shared: &Shared, bearer: &str) -> Result<User, Refusal> {
    shared.teller.tell(3, None, "token received");
    let user = shared.identity.judge(bearer).await.inspect_err(|refusal| {
        tracing::warn!(step = 4, %refusal, "Refused a token");
        let detail = json!({ "code": refusal.code, "at": "feed" });
        shared.audit.record(Action::SignInRefused, "-", &detail);
    })?;
    tracing::info!(step = 4, user = %user.name, "Validated a token");
    shared.audit.record(Action::SignIn, &user.name, &json!({ "at": "feed" }));
    shared.teller.tell(4, None, format!("{} signed in", user.name));
    Ok(user)
}

/// The cookie of somebody who signed in. It carries only groups that some
/// resource is assigned to: the others would change nothing, and there can be
/// many.
///
/// # Errors
/// [`Code::RequestTooLarge`] when even those are too many for a cookie.
pub fn feed_cookie(shared: &Shared, user: User) -> Result<Secret, Refusal> {
    let config = shared.config();
    let assigned = |group: &String| config.resources.iter().any(|r| r.groups.contains(group));
    let groups = user.groups.into_iter().filter(assigned).collect();
    let lifetime_ms = config.limits.feed_cookie_lifetime_ms;
    let expires_at = UnixMillis::now().plus_ms(lifetime_ms);
    let content = SignedIn { user: user.name, shown_as: user.display_name, groups };
    shared.feed.cookies.seal(Purpose::Feed, &content, expires_at).map_err(|code| {
        Refusal::with_detail(code, "you are in more groups than a cookie can carry")
    })
}

/// How a browser is told to keep or (with a lifetime of 0) to forget a cookie.
///
/// # Errors
/// Not for values that we made.
pub fn set_cookie(name: &str, value: &str, lifetime_ms: u64) -> Result<HeaderValue, Code> {
    let max_age_s = lifetime_ms / 1_000;
    // Lax: a link from elsewhere may lead here, a form from elsewhere may not
    // act here.
    let text =
        format!("{name}={value}; Path=/; Max-Age={max_age_s}; Secure; HttpOnly; SameSite=Lax");
    let mut value = HeaderValue::from_str(&text).map_err(|_| Code::Internal)?;
    value.set_sensitive(true);
    Ok(value)
}

/// A refusal for a client of the XML feed: to the login when signing in again
/// can help.
pub fn challenge(headers: &HeaderMap, refusal: Refusal) -> Response {
    let signs_in_with_cookies = !headers.contains_key(header::AUTHORIZATION);
    if signs_in_with_cookies && refusal.code.facts().http_status == 401 {
        return found(LOGIN_PATH);
    }
    Refused(refusal).into_response()
}

/// The same where our own clients come too: only who brought a cookie is sent
/// to the login.
pub fn challenge_if_cookie(headers: &HeaderMap, refusal: Refusal) -> Response {
    if cookie(headers, COOKIE).is_some() {
        return challenge(headers, refusal);
    }
    Refused(refusal).into_response()
}

/// 302: the status that MS-TSWP names.
pub fn found(location: &str) -> Response {
    let Ok(location) = HeaderValue::from_str(location) else {
        return Refused(Code::Internal.into()).into_response();
    };
    let head = [(header::LOCATION, location), (header::CACHE_CONTROL, no_store())];
    (StatusCode::FOUND, head).into_response()
}

/// `GET /api/feed/login`: the cookie for a token, which comes as bearer or as
/// the password of Basic authentication (the user name does not matter).
pub async fn login(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let refusal = match exchange(&shared, &headers).await {
        Ok(cookie) => {
            let head = [
                (header::CONTENT_TYPE, HeaderValue::from_static(LOGIN_TYPE)),
                (header::CACHE_CONTROL, no_store()),
            ];
            return (head, cookie.expose().to_owned()).into_response();
        }
        Err(refusal) => refusal,
    };
    let mut response = Refused(refusal).into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        let basic = HeaderValue::from_static("Basic realm=\"Ringway\", charset=\"UTF-8\"");
        response.headers_mut().append(header::WWW_AUTHENTICATE, basic);
    }
    response
}

async fn exchange(shared: &Shared, headers: &HeaderMap) -> Result<Secret, Refusal> {
    let token = match bearer(headers) {
        Some(bearer) => Secret::from(bearer),
        None => basic_password(headers).ok_or(Code::TokenMissing)?,
    };
    feed_cookie(shared, judge(shared, token.expose()).await?)
}

/// MS-TSWP 2.2.3.
const LOGIN_TYPE: &str = "application/x-msts-webfeed-login; charset=utf-8";

fn bearer(headers: &HeaderMap) -> Option<&str> {
    bearer_token(headers.get(header::AUTHORIZATION)?.to_str().ok()?)
}

/// RFC 7617 2.
fn basic_password(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > BASIC_BYTES_MAX {
        return None;
    }
    let decoded = zeroize::Zeroizing::new(STANDARD.decode(encoded.trim()).ok()?);
    let (_user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(Secret::from(password))
}

/// The value of a cookie that was sent along.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let sent = headers.get_all(header::COOKIE).into_iter();
    sent.filter_map(|value| value.to_str().ok()).find_map(|value| cookie_in(value, name))
}

pub const fn no_store() -> HeaderValue {
    HeaderValue::from_static("no-store")
}
