//! `POST /api/admin`: the admin socket's questions and answers over the
//! broker's port, for the holders of admin tokens.
//!
//! Without tokens in the configuration there is nothing at this address, as
//! for whoever asks with another method. Tokens are compared as hashes, all of
//! them and in constant time; who is wrong too often is not listened to.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, FromRequest as _, Request, State};
use axum::http::{HeaderMap, Method, header};

use super::Shared;
use super::admin::{self, Operator};
use super::http::Refused;
use crate::config::broker::AdminToken;
use crate::core::attempts::AttemptRules;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::tls::listener::Peer;
use crate::wire::admin::{AdminResponse, BrokerRequest};
use crate::wire::http_head::bearer_token;

/// A mistyped token is typed again, a few times; a guesser gets ten a minute.
pub(super) const ATTEMPTS: AttemptRules =
    AttemptRules { wrong_max: 10, window_ms: 60_000, origins_max: 10_000 };

/// The handler. The body is read only of those who may ask.
pub(super) async fn handle(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Result<Json<AdminResponse>, Refused> {
    let config = shared.config();
    if config.admin_tokens.is_empty() {
        return Err(Code::NotFound.into());
    }
    if request.method() != Method::POST {
        return Err(Code::MethodNotAllowed.into());
    }
    let name = authenticate(&shared, &config.admin_tokens, request.headers(), peer.address.ip())?;
    drop(config);
    let by = Operator::Token { name };
    let malformed = |why: String| Refusal::with_detail(Code::RequestMalformed, why);
    let body = Bytes::from_request(request, &())
        .await
        .map_err(|rejection| malformed(rejection.body_text()))?;
    let response = match serde_json::from_slice::<BrokerRequest>(&body) {
        Ok(request) => admin::answer(&shared, &by, request).await,
        Err(error) => AdminResponse::Invalid { problem: error.to_string() },
    };
    Ok(Json(response))
}

/// Whose token it is.
fn authenticate(
    shared: &Shared,
    tokens: &[AdminToken],
    headers: &HeaderMap,
    address: IpAddr,
) -> Result<String, Refusal> {
    let now = UnixMillis::now().0;
    let attempts = || shared.wrong_admin_tokens.lock().unwrap_or_else(PoisonError::into_inner);
    attempts().check(address, now).map_err(|retry_after_ms| {
        tracing::warn!(%address, "Does not listen to an address with wrong admin tokens");
        Refusal { retry_after_ms: Some(retry_after_ms), ..Code::AdminTokenGuessing.into() }
    })?;
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| bearer_token(value.to_str().ok()?))
        .unwrap_or_default();
    owner(tokens, bearer).map(str::to_owned).ok_or_else(|| {
        attempts().count_wrong(address, now);
        tracing::warn!(%address, "Refused an admin token");
        Refusal::new(Code::AdminTokenUnknown)
    })
}

/// The name of a token, in a time that says nothing about any of them.
fn owner<'t>(tokens: &'t [AdminToken], bearer: &str) -> Option<&'t str> {
    let hash = digest::digest(&digest::SHA256, bearer.as_bytes());
    tokens.iter().fold(None, |found, token| {
        let known = hex::decode(&token.token_sha256).unwrap_or_default();
        let is_this = verify_slices_are_equal(&known, hash.as_ref()).is_ok();
        if is_this { Some(token.name.as_str()) } else { found }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_known_by_their_hash_alone() {
        let token = |name: &str, text: &str| AdminToken {
            name: name.into(),
            token_sha256: hex::encode(digest::digest(&digest::SHA256, text.as_bytes())),
        };
        let tokens = [token("a", "one"), token("b", "two"), token("c", "three")];
        let owner = |bearer: &str| owner(&tokens, bearer);
        assert_eq!((owner("one"), owner("two"), owner("three")), (Some("a"), Some("b"), Some("c")));
        for wrong in ["", "four", "One", "one ", &tokens[0].token_sha256] {
            assert_eq!(owner(wrong), None, "{wrong:?}");
        }
    }
}
