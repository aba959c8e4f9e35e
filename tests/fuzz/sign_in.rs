//! What reaches a user who signs in: queries at the loopback port, which any
//! program of the machine can send, and the documents of a provider.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringway::connect::login::code::{Answer, judge};
use ringway::wire::oidc::{IdTokenError, ProviderMetadata, check_id_token};

use super::Script;

const ISSUER: &str = "https://issuer.example";

/// `[mode][…]`: a query, a provider's metadata (1), or the claims of an ID
/// token (2).
pub fn sign_in(input: &[u8]) {
    let mut script = Script(input);
    let mode = script.byte() % 3;
    match mode {
        0 => {
            let Ok(query) = std::str::from_utf8(script.0) else { return };
            query_at_the_port(query);
        }
        1 => {
            let Ok(metadata) = ProviderMetadata::read(ISSUER, script.0) else { return };
            assert_eq!(metadata.issuer, ISSUER);
            let endpoints = [
                Some(metadata.jwks_uri),
                metadata.authorization_endpoint,
                metadata.token_endpoint,
                metadata.device_authorization_endpoint,
                metadata.revocation_endpoint,
            ];
            assert!(endpoints.iter().flatten().all(|url| url.starts_with("https://")));
        }
        _ => {
            let token = format!("e30.{}.x", URL_SAFE_NO_PAD.encode(script.0));
            let check = |nonce| check_id_token(&token, ISSUER, "client", nonce);
            if check(Some("n-1")).is_ok() {
                assert_eq!(check(Some("n-2")), Err(IdTokenError::Nonce));
                assert_eq!(check(None), Ok(()));
            }
        }
    }
}

/// A query answers one request, and what it says cannot move a cursor.
fn query_at_the_port(query: &str) {
    let is_ours = |state: &str| match judge(query, &state.into(), ISSUER) {
        Answer::Strangers => false,
        Answer::Ours(Ok(code)) => !code.expose().is_empty(),
        Answer::Ours(Err(error)) => {
            assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
            true
        }
    };
    assert!(!(is_ours("state-1") && is_ours("state-2")), "answers two requests: {query:?}");
}
