//! Judges one JSON Web Token (RFC 7519) against known keys. No fetching, no
//! clock: what is wrong with a token is decided here, and each thing that can
//! be wrong has its own code.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::User;
use crate::core::codes::Code;

/// A longer token is not looked at.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Groups of one user that are looked at.
const GROUPS_MAX: usize = 1_024;

/// What a token must be.
#[derive(Clone, Debug)]
pub struct JwtRules {
    pub issuer: String,
    pub audience: String,
    pub algorithms: Vec<Algorithm>,
    /// The claim that names the user.
    pub user_claim: String,
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
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Code::TokenMalformed);
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
        .filter(|algorithm| rules.algorithms.contains(algorithm))
        .ok_or(Code::TokenWrongAlgorithm)?;
    let key = find_key(keys, header.kid.as_deref(), algorithm)?;
    let key = DecodingKey::from_jwk(key).map_err(|_| Code::TokenUnknownKey)?;
    match jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, algorithm) {
        Ok(true) => {}
        Ok(false) | Err(_) => return Err(Code::TokenBadSignature),
    }
    judge_claims(&read(claims)?, rules, now_s)
}

fn read<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, Code> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Code::TokenMalformed)?;
    serde_json::from_slice(&json).map_err(|_| Code::TokenMalformed)
}

/// The key that the token names. A token without a key id can only be meant
/// for a sole key. The key decides which algorithms it is for, not the token.
fn find_key<'a>(keys: &'a [Jwk], kid: Option<&str>, algorithm: Algorithm) -> Result<&'a Jwk, Code> {
    let key = match (kid, keys) {
        (Some(kid), _) => keys.iter().find(|key| key.common.key_id.as_deref() == Some(kid)),
        (None, [only]) => Some(only),
        (None, _) => None,
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

fn judge_claims(claims: &Value, rules: &JwtRules, now_s: u64) -> Result<User, Code> {
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
    let text = |claim: &str| {
        claims.get(claim).and_then(Value::as_str).filter(|text| is_printable_name(text))
    };
    Ok(User {
        name: text(&rules.user_claim).ok_or(Code::TokenMalformed)?.to_owned(),
        groups: texts(claims.get(&rules.groups_claim))
            .take(GROUPS_MAX)
            .map(str::to_owned)
            .collect(),
    })
}

/// One text, or the texts of a list: `aud` and group claims come as either.
fn texts(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let list = match claim {
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    list.iter().filter_map(Value::as_str)
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
pub(in crate::broker) mod tests {
    use jsonwebtoken::{EncodingKey, encode};
    use serde_json::json;

    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    /// A key of an identity provider, for tests.
    pub(in crate::broker) struct IssuerKey {
        encoding: EncodingKey,
        pub(in crate::broker) jwk: Jwk,
    }

    impl IssuerKey {
        pub(in crate::broker) fn new(kid: &str) -> Self {
            let pair = rcgen::KeyPair::generate().unwrap();
            let encoding = EncodingKey::from_ec_der(&pair.serialize_der());
            let mut jwk = Jwk::from_encoding_key(&encoding, Algorithm::ES256).unwrap();
            jwk.common.key_id = Some(kid.into());
            Self { encoding, jwk }
        }

        pub(in crate::broker) fn token(&self, claims: &Value) -> String {
            let mut header = jsonwebtoken::Header::new(Algorithm::ES256);
            header.kid = self.jwk.common.key_id.clone();
            encode(&header, claims, &self.encoding).unwrap()
        }
    }

    fn rules() -> JwtRules {
        JwtRules {
            issuer: "https://issuer.example".into(),
            audience: "ringway".into(),
            algorithms: vec![Algorithm::RS256, Algorithm::ES256],
            user_claim: "preferred_username".into(),
            groups_claim: "groups".into(),
            leeway_s: 60,
        }
    }

    pub(in crate::broker) fn claims() -> Value {
        json!({
            "iss": "https://issuer.example", "aud": ["other", "ringway"], "sub": "17",
            "preferred_username": "ann", "exp": NOW_S + 300, "nbf": NOW_S - 5,
            "groups": ["staff"],
        })
    }

    fn with(claim: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[claim] = value;
        claims
    }

    #[test]
    fn a_right_token_names_user_and_groups() {
        let key = IssuerKey::new("k1");
        let keys = std::slice::from_ref(&key.jwk);
        let user = verify(&key.token(&claims()), &rules(), keys, NOW_S).unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            ("ann", &["staff".to_owned()][..])
        );
        let by_sub = JwtRules { user_claim: "sub".into(), ..rules() };
        let token = key.token(&claims());
        assert_eq!(verify(&token, &by_sub, &[key.jwk], NOW_S).unwrap().name, "17");
    }

    #[test]
    fn each_refusal_has_its_own_code() {
        let (key, stranger) = (IssuerKey::new("k1"), IssuerKey::new("k1"));
        let keys = [key.jwk.clone()];
        for (claim, value, code) in [
            ("iss", json!("https://other.example"), Code::TokenWrongIssuer),
            ("iss", json!(null), Code::TokenWrongIssuer),
            ("aud", json!("other"), Code::TokenWrongAudience),
            ("aud", json!([]), Code::TokenWrongAudience),
            ("exp", json!(NOW_S - 60), Code::TokenExpired),
            ("exp", json!("soon"), Code::TokenMalformed),
            ("exp", json!(null), Code::TokenMalformed),
            ("nbf", json!(NOW_S + 61), Code::TokenNotYetValid),
            ("preferred_username", json!("a\nb"), Code::TokenMalformed),
            ("preferred_username", json!(null), Code::TokenMalformed),
        ] {
            let outcome = verify(&key.token(&with(claim, value.clone())), &rules(), &keys, NOW_S);
            assert_eq!(outcome, Err(code), "{claim} {value}");
        }
        let good = key.token(&claims());
        let judge = |token: &str, keys: &[Jwk]| verify(token, &rules(), keys, NOW_S).unwrap_err();
        assert_eq!(judge("", &keys), Code::TokenMalformed);
        assert_eq!(judge("a.b", &keys), Code::TokenMalformed);
        assert_eq!(judge("a.b.c", &keys), Code::TokenMalformed);
        assert_eq!(judge(&"x".repeat(TOKEN_BYTES_MAX + 1), &keys), Code::TokenMalformed);
        assert_eq!(judge(&good, &[]), Code::TokenUnknownKey);
        assert_eq!(judge(&good, &[IssuerKey::new("k2").jwk]), Code::TokenUnknownKey);
        assert_eq!(judge(&good, &[stranger.jwk]), Code::TokenBadSignature);
        let (message, _) = good.rsplit_once('.').unwrap();
        assert_eq!(judge(&format!("{message}."), &keys), Code::TokenBadSignature);
    }

    #[test]
    fn the_token_does_not_choose_its_algorithm() {
        let key = IssuerKey::new("k1");
        let keys = [key.jwk.clone()];
        let good = key.token(&claims());
        let (_, rest) = good.split_once('.').unwrap();
        for alg in ["none", "None", "HS256", "ES384", "RS256", ""] {
            let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "kid": "k1"}).to_string());
            let forged = format!("{header}.{rest}");
            let outcome = verify(&forged, &rules(), &keys, NOW_S);
            assert_eq!(outcome, Err(Code::TokenWrongAlgorithm), "{alg}");
        }
        let narrow = JwtRules { algorithms: vec![Algorithm::RS256], ..rules() };
        assert_eq!(verify(&good, &narrow, &keys, NOW_S), Err(Code::TokenWrongAlgorithm));
        let header = json!({"alg": "ES256", "kid": "k1", "crit": ["b64"]}).to_string();
        let forged = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header));
        assert_eq!(verify(&forged, &rules(), &keys, NOW_S), Err(Code::TokenMalformed));
    }

    #[test]
    fn a_token_without_a_key_id_needs_a_sole_key() {
        let mut key = IssuerKey::new("k1");
        key.jwk.common.key_id = None;
        let token = key.token(&claims());
        assert!(verify(&token, &rules(), &[key.jwk.clone()], NOW_S).is_ok());
        let two = [key.jwk.clone(), IssuerKey::new("k2").jwk];
        assert_eq!(verify(&token, &rules(), &two, NOW_S), Err(Code::TokenUnknownKey));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_believed_or_panics(text in "[a-zA-Z0-9_.=-]{0,80}") {
            proptest::prop_assert!(verify(&text, &rules(), &[], NOW_S).is_err());
        }
    }
}
