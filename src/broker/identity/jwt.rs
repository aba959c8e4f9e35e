//! Judges one JSON Web Token (RFC 7519) against known keys. No fetching, no
//! clock: what is wrong with a token is decided here, and each thing that can
//! be wrong has its own code.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::User;
use crate::core::codes::Code;
use crate::wire::oidc::{TOKEN_BYTES_MAX, is_nonce, texts};

/// A token with more groups, or with a longer one, is refused: whoever is in a
/// group that was left out would be told that nothing is assigned to them.
pub const GROUPS_MAX: usize = 1_024;
pub const GROUP_BYTES_MAX: usize = 512;
/// Ways of signing in (`amr`) that are looked at; there are some twenty
/// (RFC 8176).
const METHODS_MAX: usize = 32;
/// Claims with a name to show, the best first.
const DISPLAY_CLAIMS: [&str; 3] = ["name", "preferred_username", "upn"];

/// What a token must be.
#[derive(Clone, Debug)]
pub struct JwtRules {
    pub issuer: String,
    pub audience: String,
    pub algorithms: Vec<Algorithm>,
    /// The claim that names the user.
    pub user_claim: String,
    /// The claim with the name to show, instead of [`DISPLAY_CLAIMS`].
    pub display_claim: Option<String>,
    pub groups_claim: String,
    pub leeway_s: u64,
}

#[derive(Deserialize)]
struct Header {
    alg: Value,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that the reader must understand (RFC 7515 4.1.11): none.
    #[serde(default)]
    crit: Option<Value>,
}

/// Who the token says is here, once everything about it is right. The
/// signature comes before the claims: nothing unsigned is believed or
/// reported.
///
/// # Errors
/// One of the `token_*` codes.
pub fn verify(token: &str, rules: &JwtRules, keys: &[Jwk], now_s: u64) -> Result<User, Code> {
    judge_claims(&signed_claims(token, &rules.algorithms, keys)?, rules, now_s)
}

/// The same of an ID token, which must answer the request that `nonce` was made
/// for (OpenID Connect Core 3.1.3.7). `rules.audience` is the client.
///
/// # Errors
/// One of the `token_*` codes.
pub fn verify_id_token(
    token: &str,
    rules: &JwtRules,
    keys: &[Jwk],
    now_s: u64,
    nonce: &str,
) -> Result<User, Code> {
    let claims = signed_claims(token, &rules.algorithms, keys)?;
    let user = judge_claims(&claims, rules, now_s)?;
    // Whom it was made for, when it is for several.
    match claims.get("azp") {
        Some(client) if client.as_str() != Some(&rules.audience) => {
            return Err(Code::TokenWrongAudience);
        }
        _ => {}
    }
    if is_nonce(claims.get("nonce").and_then(Value::as_str), Some(nonce)) {
        Ok(user)
    } else {
        Err(Code::TokenWrongNonce)
    }
}

/// The same of an access token that may be bound to a key: with the user, that
/// key's thumbprint (RFC 7800 3.4).
///
/// # Errors
/// One of the `token_*` codes.
pub fn verify_bound(
    token: &str,
    rules: &JwtRules,
    keys: &[Jwk],
    now_s: u64,
) -> Result<(User, Option<String>), Code> {
    let claims = signed_claims(token, &rules.algorithms, keys)?;
    let key = claims.get("cnf").and_then(|cnf| cnf.get("kid")).and_then(Value::as_str);
    let key = key.map(str::to_owned);
    Ok((judge_claims(&claims, rules, now_s)?, key))
}

/// Whether a text is a nonce that the issuer gave out and that is still good: a
/// token as well, which names nobody.
///
/// # Errors
/// One of the `token_*` codes.
pub fn verify_nonce(nonce: &str, rules: &JwtRules, keys: &[Jwk], now_s: u64) -> Result<(), Code> {
    judge_validity(&signed_claims(nonce, &rules.algorithms, keys)?, rules, now_s)
}

fn signed_claims(token: &str, algorithms: &[Algorithm], keys: &[Jwk]) -> Result<Value, Code> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Code::TokenTooLong);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(Code::TokenMalformed)?;
    let (header, claims) = message.split_once('.').ok_or(Code::TokenMalformed)?;
    let header: Header = read(header)?;
    if header.crit.is_some() {
        return Err(Code::TokenMalformed);
    }
    let algorithm = header
        .alg
        .as_str()
        .and_then(|name| name.parse().ok())
        .filter(|algorithm| algorithms.contains(algorithm))
        .ok_or(Code::TokenWrongAlgorithm)?;
    let key = find_key(keys, header.kid.as_deref(), algorithm)?;
    let key = DecodingKey::from_jwk(key).map_err(|_| Code::TokenUnknownKey)?;
    match jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, algorithm) {
        Ok(true) => {}
        Ok(false) | Err(_) => return Err(Code::TokenBadSignature),
    }
    read(claims)
}

fn read<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, Code> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Code::TokenMalformed)?;
    serde_json::from_slice(&json).map_err(|_| Code::TokenMalformed)
}

/// The key that the token names. A token without a key id can only be meant
/// for a sole key. The key decides which algorithms it is for, not the token.
fn find_key<'a>(keys: &'a [Jwk], kid: Option<&str>, algorithm: Algorithm) -> Result<&'a Jwk, Code> {
    let mut signing = keys.iter().filter(|key| signs(key));
    let key = match kid {
        Some(kid) => signing.find(|key| key.common.key_id.as_deref() == Some(kid)),
        None => signing.next().filter(|_| signing.next().is_none()),
    };
    let key = key.ok_or(Code::TokenUnknownKey)?;
    let fits = match &key.algorithm {
        AlgorithmParameters::RSA(_) => matches!(
            algorithm,
            Algorithm::RS256
                | Algorithm::RS384
                | Algorithm::RS512
                | Algorithm::PS256
                | Algorithm::PS384
                | Algorithm::PS512
        ),
        AlgorithmParameters::EllipticCurve(_) => {
            matches!(algorithm, Algorithm::ES256 | Algorithm::ES384)
        }
        AlgorithmParameters::OctetKeyPair(_) => algorithm == Algorithm::EdDSA,
        _ => false,
    };
    let declared = key.common.key_algorithm;
    if !fits || declared.is_some_and(|declared| declared != KeyAlgorithm::from(algorithm)) {
        return Err(Code::TokenWrongAlgorithm);
    }
    Ok(key)
}

/// Whose a token is, for whom, and when.
fn judge_validity(claims: &Value, rules: &JwtRules, now_s: u64) -> Result<(), Code> {
    if claims.get("iss").and_then(Value::as_str) != Some(&rules.issuer) {
        return Err(Code::TokenWrongIssuer);
    }
    if !texts(claims.get("aud")).any(|audience| audience == rules.audience) {
        return Err(Code::TokenWrongAudience);
    }
    let expires_s = seconds(claims.get("exp"))?.ok_or(Code::TokenMalformed)?;
    if now_s >= expires_s.saturating_add(rules.leeway_s) {
        return Err(Code::TokenExpired);
    }
    let not_before_s = seconds(claims.get("nbf"))?.unwrap_or(0);
    if now_s.saturating_add(rules.leeway_s) < not_before_s {
        return Err(Code::TokenNotYetValid);
    }
    Ok(())
}

fn judge_claims(claims: &Value, rules: &JwtRules, now_s: u64) -> Result<User, Code> {
    judge_validity(claims, rules, now_s)?;
    let text = |claim: &str| {
        claims.get(claim).and_then(Value::as_str).filter(|text| is_printable_name(text))
    };
    let name = text(&rules.user_claim).ok_or(Code::TokenWithoutUser)?;
    let display_name = match &rules.display_claim {
        Some(claim) => text(claim),
        None => DISPLAY_CLAIMS.into_iter().find_map(text),
    };
    let methods = texts(claims.get("amr")).take(METHODS_MAX);
    Ok(User {
        name: name.to_owned(),
        display_name: display_name.unwrap_or(name).to_owned(),
        groups: groups(claims, &rules.groups_claim)?,
        amr: methods.map(str::to_owned).collect(),
        acr: text("acr").map(str::to_owned),
    })
}

fn groups(claims: &Value, claim: &str) -> Result<Vec<String>, Code> {
    // Core 5.6.2: they are somewhere else. Entra does so when there are many.
    let elsewhere = claims.get("_claim_names").and_then(|names| names.get(claim)).is_some();
    let count = texts(claims.get(claim)).take(GROUPS_MAX + 1).count();
    let mut lengths = texts(claims.get(claim)).map(str::len);
    if elsewhere || count > GROUPS_MAX || lengths.any(|length| length > GROUP_BYTES_MAX) {
        return Err(Code::TokenGroupsOverLimit);
    }
    Ok(texts(claims.get(claim)).map(str::to_owned).collect())
}

/// Whether a key is for signatures, as far as it says.
fn signs(key: &Jwk) -> bool {
    !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption))
}

/// A NumericDate (RFC 7519 2): seconds, perhaps with a fraction.
fn seconds(claim: Option<&Value>) -> Result<Option<u64>, Code> {
    match claim {
        None => Ok(None),
        Some(value) => match (value.as_u64(), value.as_f64()) {
            (Some(seconds), _) => Ok(Some(seconds)),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a float cast saturates, and the fraction is meant to go"
            )]
            (None, Some(seconds)) if seconds >= 0.0 => Ok(Some(seconds as u64)),
            _ => Err(Code::TokenMalformed),
        },
    }
}

/// Names go into logs and files.
fn is_printable_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control)
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
pub(in crate::broker) mod tests;
