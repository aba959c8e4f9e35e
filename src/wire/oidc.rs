//! What an OpenID Connect provider and its clients say to each other, as far
//! as signing a user in needs it (step 2).
//!
//! Sources: OpenID Connect Core 1.0 and Discovery 1.0, RFC 6749 (OAuth 2.0),
//! RFC 7636 (PKCE), RFC 8628 (device code).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::secret::Secret;

/// Both a provider's metadata and its keys are a few KiB in practice.
pub const DOCUMENT_BYTES_MAX: usize = 512 * 1024;
/// A longer access token is not looked at. Half of what gateways take as the head
/// of a request.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// The part of a provider's metadata (Discovery 3) that is used here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderMetadata {
    pub issuer: String,
    pub jwks_uri: String,
    #[serde(default)]
    pub authorization_endpoint: Option<String>,
    #[serde(default)]
    pub token_endpoint: Option<String>,
    /// RFC 8628 4.
    #[serde(default)]
    pub device_authorization_endpoint: Option<String>,
    /// RFC 7009.
    #[serde(default)]
    pub revocation_endpoint: Option<String>,
}

/// Why metadata cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("it is not provider metadata: {0}")]
    Content(#[from] serde_json::Error),
    #[error("it speaks for {0:?}; an issuer must be written exactly as its provider does")]
    OtherIssuer(String),
    #[error("its {0} is not https")]
    NotHttps(&'static str),
}

impl ProviderMetadata {
    /// Where an issuer's metadata is (Discovery 4.1).
    #[must_use]
    pub fn url(issuer: &str) -> String {
        format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
    }

    /// # Errors
    /// When it is another issuer's, or leads to somewhere that is not https.
    pub fn read(issuer: &str, json: &[u8]) -> Result<Self, MetadataError> {
        let metadata: Self = serde_json::from_slice(json)?;
        // Discovery 4.3: it must be exactly the issuer that was asked.
        if metadata.issuer != issuer {
            return Err(MetadataError::OtherIssuer(metadata.issuer));
        }
        for (name, url) in [
            ("jwks_uri", Some(&metadata.jwks_uri)),
            ("authorization_endpoint", metadata.authorization_endpoint.as_ref()),
            ("token_endpoint", metadata.token_endpoint.as_ref()),
            ("device_authorization_endpoint", metadata.device_authorization_endpoint.as_ref()),
            ("revocation_endpoint", metadata.revocation_endpoint.as_ref()),
        ] {
            if url.is_some_and(|url| !url.starts_with("https://")) {
                return Err(MetadataError::NotHttps(name));
            }
        }
        Ok(metadata)
    }
}

/// A successful answer of the token endpoint (RFC 6749 5.1).
#[derive(Debug, Deserialize)]
pub struct TokenResponse {
    pub access_token: Secret,
    pub token_type: String,
    /// Seconds; recommended, not required.
    #[serde(default)]
    pub expires_in: Option<u64>,
    #[serde(default)]
    pub refresh_token: Option<Secret>,
    #[serde(default)]
    pub id_token: Option<Secret>,
}

/// What an endpoint that refuses answers (RFC 6749 5.2).
#[derive(Debug, Deserialize)]
pub struct ErrorResponse {
    pub error: String,
    #[serde(default)]
    pub error_description: Option<String>,
}

/// The answer to a device authorization request (RFC 8628 3.2).
#[derive(Debug, Deserialize)]
pub struct DeviceAuthorization {
    pub device_code: Secret,
    pub user_code: String,
    pub verification_uri: String,
    #[serde(default)]
    pub verification_uri_complete: Option<String>,
    /// Seconds.
    pub expires_in: u64,
    /// Seconds between two questions.
    #[serde(default)]
    pub interval: Option<u64>,
}

/// Why an ID token is not the answer to this sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenError {
    #[error("it cannot be read")]
    Malformed,
    #[error("it is another issuer's")]
    Issuer,
    #[error("it is for another client")]
    Audience,
    #[error("it answers another request")]
    Nonce,
}

/// Whether an ID token is the answer to a client's own request, whose `nonce`
/// is given if it had one. It came over TLS from the provider itself, which
/// stands for its signature (Core 3.1.3.7, 6).
///
/// # Errors
/// When it answers another request, or comes from or goes to another party.
pub fn check_id_token(
    token: &str,
    issuer: &str,
    client_id: &str,
    nonce: Option<&str>,
) -> Result<(), IdTokenError> {
    let payload = token.split('.').nth(1).ok_or(IdTokenError::Malformed)?;
    let json = URL_SAFE_NO_PAD.decode(payload).map_err(|_| IdTokenError::Malformed)?;
    let claims: Value = serde_json::from_slice(&json).map_err(|_| IdTokenError::Malformed)?;
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err(IdTokenError::Issuer);
    }
    if !texts(claims.get("aud")).any(|audience| audience == client_id) {
        return Err(IdTokenError::Audience);
    }
    if !is_nonce(claims.get("nonce").and_then(Value::as_str), nonce) {
        return Err(IdTokenError::Nonce);
    }
    Ok(())
}

/// Whether the nonce of an ID token is the one of the request. A request
/// without one accepts any.
#[must_use]
pub fn is_nonce(claimed: Option<&str>, requested: Option<&str>) -> bool {
    let Some(requested) = requested else { return true };
    claimed.is_some_and(|claimed| {
        verify_slices_are_equal(claimed.as_bytes(), requested.as_bytes()).is_ok()
    })
}

/// One text, or the texts of a list: `aud`, `amr` and group claims come as
/// either.
pub fn texts(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let list = match claim {
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    list.iter().filter_map(Value::as_str)
}

/// The `S256` challenge of a verifier, if it is one: 43 to 128 unreserved
/// characters (RFC 7636 4.1).
#[must_use]
pub fn challenge_of(verifier: &str) -> Option<String> {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if !(43..=128).contains(&verifier.len()) || !verifier.bytes().all(unreserved) {
        return None;
    }
    let hash = digest::digest(&digest::SHA256, verifier.as_bytes());
    Some(URL_SAFE_NO_PAD.encode(hash))
}

/// Whether a text can be an `S256` challenge.
#[must_use]
pub fn is_challenge(text: &str) -> bool {
    URL_SAFE_NO_PAD.decode(text).is_ok_and(|hash| hash.len() == digest::SHA256_OUTPUT_LEN)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_must_be_the_issuers_own_and_https() {
        let read = |json: Value| {
            ProviderMetadata::read("https://i/", json.to_string().as_bytes())
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        assert_eq!(
            ProviderMetadata::url("https://i/"),
            "https://i/.well-known/openid-configuration"
        );
        assert_eq!(read(json!({ "issuer": "https://i/", "jwks_uri": "https://i/keys" })), Ok(()));
        let bad = [
            (json!({ "issuer": "https://i", "jwks_uri": "https://i/k" }), "speaks for"),
            (json!({ "issuer": "https://i/", "jwks_uri": "http://i/k" }), "jwks_uri is not https"),
            (
                json!({ "issuer": "https://i/", "jwks_uri": "https://i/k", "token_endpoint": "http://i" }),
                "token_endpoint is not https",
            ),
            (json!({ "issuer": "https://i/" }), "jwks_uri"),
            (json!([]), "not provider metadata"),
        ];
        for (json, why) in bad {
            let problem = read(json.clone()).unwrap_err();
            assert!(problem.contains(why), "{json}: {problem}");
        }
    }

    #[test]
    fn an_id_token_answers_one_request() {
        let token = |claims: Value| format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let claims = || json!({ "iss": "https://i", "aud": ["c"], "sub": "1", "nonce": "n" });
        let read = |token: &str| check_id_token(token, "https://i", "c", Some("n"));
        assert_eq!(read(&token(claims())), Ok(()));
        for (claim, value, error) in [
            ("iss", json!("https://other"), IdTokenError::Issuer),
            ("aud", json!("other"), IdTokenError::Audience),
            ("nonce", json!("other"), IdTokenError::Nonce),
            ("nonce", json!(null), IdTokenError::Nonce),
        ] {
            let mut claims = claims();
            claims[claim] = value;
            assert_eq!(read(&token(claims)), Err(error), "{claim}");
        }
        for text in ["", "a", "a.b", "a.!.c"] {
            assert_eq!(read(text), Err(IdTokenError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn the_challenge_is_that_of_the_rfc() {
        // RFC 7636 appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        assert_eq!(challenge_of(verifier).as_deref(), Some(challenge));
        assert!(is_challenge(challenge));
        assert!(!is_challenge("plain"));
        assert_eq!(challenge_of("short"), None);
        assert_eq!(challenge_of(&"!".repeat(43)), None);
        assert_eq!(challenge_of(&"a".repeat(129)), None);
    }
}
