//! Whether a logon by token is right (step 12): every check of it, by values
//! and a clock alone.
//!
//! What is asserted is signed by a key that the client made, which proves
//! nothing by itself. The identity provider says in the access token whose key
//! that is; the nonce says that it was signed for this connection, after the
//! host asked.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};

use crate::broker::identity::User;
use crate::broker::identity::jwt::{self, JwtRules};
use crate::core::codes::Code;
use crate::wire::oidc::is_nonce;
use crate::wire::rdsaad::{Assertion, NONCE_AUDIENCE, device_uri};

/// How old an assertion may be, or how far the client's clock may be ahead.
pub const CLOCKS_APART_MAX_S: u64 = 300;

/// What an assertion must be besides.
#[derive(Clone, Debug)]
pub struct LogonRules {
    /// What clients may know this host by; the first label counts.
    pub host_names: Vec<String>,
    pub provider_nonce: ProviderNonce,
}

/// The nonce that a client got from the identity provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderNonce {
    /// A token of the provider's, for [`NONCE_AUDIENCE`], with an end: as
    /// Ringway's own issuer makes them.
    Signed,
    /// Only the provider knows what it is: there must be one.
    Opaque,
}

/// Who may log on, as far as the identity provider says. `nonce` is the one
/// that this connection's client was given, once. `access` is for the access
/// token; without an audience there it must be for this host.
///
/// # Errors
/// One of the `logon_*` or `token_*` codes.
pub fn judge(
    assertion: &Assertion,
    nonce: &str,
    rules: &LogonRules,
    access: &JwtRules,
    keys: &[Jwk],
    now_s: u64,
) -> Result<User, Code> {
    check_signature(assertion)?;
    if !is_nonce(Some(&assertion.nonce), Some(nonce)) {
        return Err(Code::LogonWrongNonce);
    }
    if assertion.at_s.abs_diff(now_s) > CLOCKS_APART_MAX_S {
        return Err(Code::LogonStale);
    }
    let mut devices = rules.host_names.iter().map(|name| device_uri(name));
    if !devices.any(|device| device.eq_ignore_ascii_case(&assertion.device)) {
        return Err(Code::LogonWrongHost);
    }
    let mut access = access.clone();
    if access.audience.is_empty() {
        access.audience.clone_from(&assertion.device);
    }
    let token = assertion.access_token.expose();
    let (user, bound_to) = jwt::verify_bound(token, &access, keys, now_s)?;
    if bound_to != Some(assertion.key.thumbprint()) {
        return Err(Code::TokenNotBound);
    }
    let provider_nonce = &assertion.provider_nonce;
    let provider_nonce_is_good = match rules.provider_nonce {
        ProviderNonce::Opaque => !provider_nonce.is_empty(),
        ProviderNonce::Signed => {
            access.audience = NONCE_AUDIENCE.into();
            jwt::verify_nonce(provider_nonce, &access, keys, now_s).is_ok()
        }
    };
    if provider_nonce_is_good { Ok(user) } else { Err(Code::LogonWrongNonce) }
}

/// RFC 7515 5.2, by the key that the assertion brings. A short key is none.
fn check_signature(assertion: &Assertion) -> Result<(), Code> {
    let (signed, signature) = assertion.signed();
    let key = DecodingKey::from_rsa_components(&assertion.key.n, &assertion.key.e);
    let key = key.map_err(|_| Code::LogonBadSignature)?;
    match crypto::verify(signature, signed.as_bytes(), &key, Algorithm::RS256) {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(Code::LogonBadSignature),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::agent::rdsaad::testing::{ClientKey, Logon, NOW_S, Provider};

    fn rules() -> LogonRules {
        LogonRules {
            host_names: vec!["desk-7.corp.example".into(), "localhost".into()],
            provider_nonce: ProviderNonce::Signed,
        }
    }

    /// All but one thing as it should be.
    fn judged(provider: &Provider, key: &ClientKey, logon: &Logon) -> Result<String, Code> {
        judged_by(&rules(), provider, key, logon)
    }

    fn judged_by(
        rules: &LogonRules,
        provider: &Provider,
        key: &ClientKey,
        logon: &Logon,
    ) -> Result<String, Code> {
        let text = key.text(logon);
        let assertion = Assertion::parse(&text).unwrap().expect("a whole text");
        judge(&assertion, "n-1", rules, &provider.rules(), &provider.keys(), NOW_S)
            .map(|user| user.name)
    }

    #[test]
    fn step12_a_right_token_logs_its_user_on() {
        let (provider, key) = (Provider::new(), ClientKey::new());
        let right = Logon::right(&provider, &key, "ann", "desk-7");
        assert_eq!(judged(&provider, &key, &right).as_deref(), Ok("ann"));
        let other_name = Logon::right(&provider, &key, "ann", "LOCALHOST");
        assert_eq!(judged(&provider, &key, &other_name).as_deref(), Ok("ann"));
    }

    #[test]
    fn each_thing_that_can_be_wrong_with_an_assertion_has_its_code() {
        let (provider, key) = (Provider::new(), ClientKey::new());
        let right = || Logon::right(&provider, &key, "ann", "desk-7");
        let far = CLOCKS_APART_MAX_S + 1;
        let elsewhere = device_uri("desk-8");
        let nonce = |claim: &str, value: Value| {
            let mut claims = provider.nonce_claims();
            claims[claim] = value;
            provider.sign(&claims)
        };
        for (logon, code) in [
            (Logon { nonce: "n-2".into(), ..right() }, Code::LogonWrongNonce),
            (Logon { nonce: String::new(), ..right() }, Code::LogonWrongNonce),
            (Logon { at_s: NOW_S - far, ..right() }, Code::LogonStale),
            (Logon { at_s: NOW_S + far, ..right() }, Code::LogonStale),
            (Logon { device: elsewhere, ..right() }, Code::LogonWrongHost),
            (Logon { device: "desk-7".into(), ..right() }, Code::LogonWrongHost),
            (Logon { provider_nonce: "n-2".into(), ..right() }, Code::LogonWrongNonce),
            (
                Logon { provider_nonce: nonce("exp", json!(NOW_S - 61)), ..right() },
                Code::LogonWrongNonce,
            ),
            (
                Logon { provider_nonce: nonce("aud", json!("ringway")), ..right() },
                Code::LogonWrongNonce,
            ),
            (
                // Good for much, but no nonce.
                Logon { provider_nonce: right().access_token, ..right() },
                Code::LogonWrongNonce,
            ),
            (Logon { provider_nonce: Provider::new().nonce(), ..right() }, Code::LogonWrongNonce),
        ] {
            assert_eq!(judged(&provider, &key, &logon), Err(code), "{logon:?}");
        }
    }

    #[test]
    fn each_thing_that_can_be_wrong_with_the_access_token_has_its_code() {
        let (provider, key) = (Provider::new(), ClientKey::new());
        let right = Logon::right(&provider, &key, "ann", "desk-7");
        let with = |claim: &str, value: Value| {
            let mut claims = provider.access_claims(&key, "ann", "desk-7");
            claims[claim] = value;
            provider.sign(&claims)
        };
        let others_key = json!({ "kid": ClientKey::new().thumbprint() });
        for (access_token, code) in [
            (with("exp", json!(NOW_S - 61)), Code::TokenExpired),
            (with("nbf", json!(NOW_S + 61)), Code::TokenNotYetValid),
            (with("iss", json!("https://other.example")), Code::TokenWrongIssuer),
            (with("aud", json!(device_uri("desk-8"))), Code::TokenWrongAudience),
            // That of the broker, which the user has as well.
            (with("aud", json!("ringway")), Code::TokenWrongAudience),
            (with("preferred_username", json!(null)), Code::TokenWithoutUser),
            (with("cnf", json!(null)), Code::TokenNotBound),
            (with("cnf", json!({ "jkt": key.thumbprint() })), Code::TokenNotBound),
            (with("cnf", others_key), Code::TokenNotBound),
            ("token".into(), Code::TokenMalformed),
            (
                Provider::new().sign(&provider.access_claims(&key, "ann", "desk-7")),
                Code::TokenUnknownKey,
            ),
        ] {
            let logon = Logon { access_token, ..right.clone() };
            assert_eq!(judged(&provider, &key, &logon), Err(code), "{logon:?}");
        }
    }

    #[test]
    fn an_assertion_is_signed_by_the_key_that_its_token_is_bound_to() {
        let (provider, key, thief) = (Provider::new(), ClientKey::new(), ClientKey::new());
        let right = Logon::right(&provider, &key, "ann", "desk-7");
        // Who stole the token has not the key.
        assert_eq!(judged(&provider, &thief, &right), Err(Code::TokenNotBound));
        let forged = thief.text_claiming(&right, &key);
        let assertion = Assertion::parse(&forged).unwrap().unwrap();
        let judged = judge(&assertion, "n-1", &rules(), &provider.rules(), &provider.keys(), NOW_S);
        assert_eq!(judged, Err(Code::LogonBadSignature));
    }

    #[test]
    fn an_opaque_nonce_of_the_provider_must_only_be_there() {
        let (provider, key) = (Provider::new(), ClientKey::new());
        let rules = LogonRules { provider_nonce: ProviderNonce::Opaque, ..rules() };
        for (nonce, outcome) in [("AwAB-opaque", Ok("ann")), ("", Err(Code::LogonWrongNonce))] {
            let right = Logon::right(&provider, &key, "ann", "desk-7");
            let logon = Logon { provider_nonce: nonce.into(), ..right };
            let judged = judged_by(&rules, &provider, &key, &logon);
            assert_eq!(judged.as_deref().map_err(|code| *code), outcome);
        }
    }

    #[test]
    fn an_audience_of_the_operators_choice_takes_the_place_of_the_hosts() {
        let (provider, key) = (Provider::new(), ClientKey::new());
        let mut access = provider.rules();
        access.audience = "windows-logon".into();
        let text = key.text(&Logon::right(&provider, &key, "ann", "desk-7"));
        let assertion = Assertion::parse(&text).unwrap().unwrap();
        let judged = judge(&assertion, "n-1", &rules(), &access, &provider.keys(), NOW_S);
        assert_eq!(judged, Err(Code::TokenWrongAudience));
    }
}
