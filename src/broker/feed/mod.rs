//! The feed (steps 1 and 3 to 5): what a user was given, as JSON for our own
//! clients ([`json`]), as XML for stock clients ([`xml`]), as a page for people
//! ([`page`]), and the signed `.rdp` files and icons of all three ([`files`]).
//! [`access`] says who asks.

pub mod access;
pub mod cookie;
mod files;
pub mod icon;
mod json;
mod page;
mod revisions;
mod xml;

use std::sync::Arc;

use aws_lc_rs::digest;
use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use zeroize::Zeroizing;

use super::identity::User;
use super::{Shared, random_bytes};
use crate::config::broker::{BrokerConfig, Resource};
use crate::config::state_dir::StateDir;
use crate::core::clock::UnixMillis;
use crate::core::ids::ResourceId;
use cookie::CookieKey;
use revisions::Revisions;

const COOKIE_KEY_FILE: &str = "feed-cookies.key";
/// Where stock clients exchange credentials for a cookie.
const LOGIN_PATH: &str = "/api/feed/login";
/// What clients put behind an address that is not a feed, in search of one.
const WELL_KNOWN: [&str; 4] = [
    "/RDWeb/Feed/webfeed.aspx",
    "/Feed/webfeed.aspx",
    "/api/feeddiscovery/webfeeddiscovery.aspx",
    "/api/arm/feeddiscovery",
];

/// What the feed keeps.
#[derive(Debug)]
pub struct FeedState {
    cookies: CookieKey,
    revisions: Revisions,
}

impl FeedState {
    /// # Errors
    /// When its files in the state directory cannot be read or made.
    pub fn open(state: &StateDir) -> anyhow::Result<Self> {
        Ok(Self { cookies: cookie_key(state)?, revisions: Revisions::open(state)? })
    }
}

/// All routes.
pub fn routes() -> Router<Arc<Shared>> {
    let mut routes = Router::new()
        .route("/api/feed/discovery", get(json::discovery))
        .route("/api/feed", get(json::feed))
        .route("/api/feed/rdp/{id}", get(files::rdp))
        .route("/api/feed/icons/{name}", get(files::icon))
        .route(LOGIN_PATH, get(access::login))
        .route("/feed/{workspace}", get(xml::workspace))
        .merge(page::routes());
    for path in WELL_KNOWN {
        routes = routes
            .route(path, get(xml::default_workspace))
            .route(&format!("/feed/{{workspace}}{path}"), get(xml::found_workspace));
    }
    routes
}

/// A resource that somebody was given, as it is at this moment.
struct Given<'a> {
    resource: &'a Resource,
    /// `None` while no gateway is known that its file could name.
    revision: Option<String>,
}

/// Everything that a user was given.
async fn given_to<'a>(shared: &Shared, config: &'a BrokerConfig, user: &User) -> Vec<Given<'a>> {
    let gateway = files::entry_gateway(shared).await.ok();
    let assigned = |resource: &&Resource| resource.is_assigned_to(&user.name, &user.groups);
    let resources = config.resources.iter().filter(assigned);
    resources
        .map(|resource| Given {
            resource,
            revision: gateway
                .as_deref()
                .map(|gateway| files::revision(shared, config, resource, gateway)),
        })
        .collect()
}

impl Given<'_> {
    /// Since when it is as it is.
    async fn changed_at(&self, shared: &Shared) -> UnixMillis {
        let revision = self.revision.as_deref().unwrap_or_default();
        shared.feed.revisions.changed_at(&self.resource.id, revision, UnixMillis::now()).await
    }
}

/// Path of the signed file.
fn rdp_path(id: &ResourceId) -> String {
    format!("/api/feed/rdp/{id}")
}

/// Path of the feed for stock clients.
fn workspace_path(name: &ResourceId) -> String {
    format!("/feed/{name}")
}

/// A hash for [`conditional`], short enough for a header.
fn entity_tag(content: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, content);
    let (short, _rest) = hash.as_ref().split_at(16);
    format!("\"{}\"", hex::encode(short))
}

/// Answers only when the client does not have it already (RFC 9110 13.1.2).
fn conditional(
    headers: &HeaderMap,
    tag: &str,
    cache: &'static str,
    response: impl FnOnce() -> Response,
) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let has_it = known.is_some_and(|known| {
        known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)
    });
    let mut response = if has_it { StatusCode::NOT_MODIFIED.into_response() } else { response() };
    if response.status().is_server_error() {
        return response;
    }
    let head = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        head.insert(header::ETAG, tag);
    }
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    head.insert(header::VARY, HeaderValue::from_static("Accept, Authorization, Cookie"));
    head.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The key of the cookies, made at first start.
fn cookie_key(state: &StateDir) -> anyhow::Result<CookieKey> {
    let key = match state.read(COOKIE_KEY_FILE)? {
        Some(key) => key,
        None => {
            let key: [u8; 32] = random_bytes()
                .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
            let key = Zeroizing::new(key.to_vec());
            state.write(COOKIE_KEY_FILE, &key)?;
            key
        }
    };
    let key = key.as_slice().try_into().map_err(|_| {
        anyhow::anyhow!(
            "{COOKIE_KEY_FILE} in the state directory is damaged; remove it to get a new one"
        )
    })?;
    Ok(CookieKey::new(key))
}

#[cfg(test)]
mod tests;
