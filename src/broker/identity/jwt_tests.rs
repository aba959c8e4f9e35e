//! What is believed of a token, and the code of each refusal.

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
        display_claim: None,
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
    assert_eq!((user.name.as_str(), user.groups.as_slice()), ("ann", &["staff".to_owned()][..]));
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
        ("preferred_username", json!("a\nb"), Code::TokenWithoutUser),
        ("preferred_username", json!(null), Code::TokenWithoutUser),
    ] {
        let outcome = verify(&key.token(&with(claim, value.clone())), &rules(), &keys, NOW_S);
        assert_eq!(outcome, Err(code), "{claim} {value}");
    }
    let good = key.token(&claims());
    let judge = |token: &str, keys: &[Jwk]| verify(token, &rules(), keys, NOW_S).unwrap_err();
    assert_eq!(judge("", &keys), Code::TokenMalformed);
    assert_eq!(judge("a.b", &keys), Code::TokenMalformed);
    assert_eq!(judge("a.b.c", &keys), Code::TokenMalformed);
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
fn a_public_key_is_not_a_shared_secret() {
    let key = IssuerKey::new("k1");
    let x = serde_json::to_value(&key.jwk).unwrap()["x"].as_str().unwrap().to_owned();
    let jwk = serde_json::to_vec(&key.jwk).unwrap();
    let with_hmac = JwtRules { algorithms: vec![Algorithm::HS256, Algorithm::ES256], ..rules() };
    for secret in [x.as_bytes(), jwk.as_slice()] {
        let mut header = jsonwebtoken::Header::new(Algorithm::HS256);
        header.kid = Some("k1".into());
        let forged = encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap();
        for rules in [rules(), with_hmac.clone()] {
            let outcome = verify(&forged, &rules, std::slice::from_ref(&key.jwk), NOW_S);
            assert_eq!(outcome, Err(Code::TokenWrongAlgorithm));
        }
    }
}

#[test]
fn a_long_token_is_not_even_looked_at() {
    let keys = [IssuerKey::new("k1").jwk];
    for length in [TOKEN_BYTES_MAX + 1, 1024 * 1024] {
        let outcome = verify(&"x".repeat(length), &rules(), &keys, NOW_S);
        assert_eq!(outcome, Err(Code::TokenTooLong));
    }
    let outcome = verify(&"x".repeat(TOKEN_BYTES_MAX), &rules(), &keys, NOW_S);
    assert_eq!(outcome, Err(Code::TokenMalformed));
}

#[test]
fn groups_are_all_believed_or_none() {
    let key = IssuerKey::new("k1");
    let keys = [key.jwk.clone()];
    let of = |groups: Value| {
        let token = key.token(&with("groups", groups));
        verify(&token, &rules(), &keys, NOW_S).map(|user| user.groups.len())
    };
    let names = |count: usize| json!((0..count).map(|n| format!("g{n}")).collect::<Vec<_>>());
    assert_eq!(of(json!("staff")), Ok(1));
    assert_eq!(of(json!(null)), Ok(0));
    assert_eq!(of(names(GROUPS_MAX)), Ok(GROUPS_MAX));
    assert_eq!(of(names(GROUPS_MAX + 1)), Err(Code::TokenGroupsOverLimit));
    assert_eq!(of(names(10_000)), Err(Code::TokenTooLong));
    assert_eq!(of(json!(["g".repeat(GROUP_BYTES_MAX)])), Ok(1));
    let too_long = json!(["staff", "g".repeat(GROUP_BYTES_MAX + 1)]);
    assert_eq!(of(too_long), Err(Code::TokenGroupsOverLimit));
    // As Entra says that there are too many to list.
    let mut overage = claims();
    overage.as_object_mut().unwrap().remove("groups");
    overage["_claim_names"] = json!({ "groups": "src1" });
    let outcome = verify(&key.token(&overage), &rules(), &keys, NOW_S);
    assert_eq!(outcome, Err(Code::TokenGroupsOverLimit));
}

#[test]
fn an_id_token_answers_the_request_of_its_nonce() {
    let key = IssuerKey::new("k1");
    let keys = [key.jwk.clone()];
    let judge = |claims: &Value| {
        verify_id_token(&key.token(claims), &rules(), &keys, NOW_S, "n-1").map(|user| user.name)
    };
    let right = with("nonce", json!("n-1"));
    assert_eq!(judge(&right).as_deref(), Ok("ann"));
    assert_eq!(judge(&claims()), Err(Code::TokenWrongNonce));
    assert_eq!(judge(&with("nonce", json!("n-2"))), Err(Code::TokenWrongNonce));
    assert_eq!(judge(&with("nonce", json!(["n-1"]))), Err(Code::TokenWrongNonce));
    for (client, outcome) in [("ringway", Ok("ann")), ("other", Err(Code::TokenWrongAudience))] {
        let mut claims = right.clone();
        claims["azp"] = json!(client);
        assert_eq!(judge(&claims).as_deref().map_err(|code| *code), outcome);
    }
    let mut expired = right;
    expired["exp"] = json!(NOW_S - 60);
    assert_eq!(judge(&expired), Err(Code::TokenExpired));
}

#[test]
fn a_user_is_shown_by_the_best_name_there_is() {
    let key = IssuerKey::new("k1");
    let shown = |rules: &JwtRules, claims: &Value| {
        let keys = std::slice::from_ref(&key.jwk);
        verify(&key.token(claims), rules, keys, NOW_S).unwrap().display_name
    };
    let by_sub = JwtRules { user_claim: "sub".into(), ..rules() };
    let mut claims = claims();
    assert_eq!(shown(&by_sub, &claims), "ann");
    claims["name"] = json!("Ann Other");
    assert_eq!(shown(&by_sub, &claims), "Ann Other");
    claims["name"] = json!("Ann\u{1b}[2J");
    assert_eq!(shown(&by_sub, &claims), "ann", "what a terminal would obey is no name");
    claims["upn"] = json!("ann@corp.example");
    let by_upn = JwtRules { display_claim: Some("upn".into()), ..by_sub };
    assert_eq!(shown(&by_upn, &claims), "ann@corp.example");
    claims["upn"] = json!(17);
    assert_eq!(shown(&by_upn, &claims), "17", "the name itself when there is no other");
    let user = JwtRules { user_claim: "upn".into(), ..rules() };
    let token = key.token(&claims);
    let outcome = verify(&token, &user, std::slice::from_ref(&key.jwk), NOW_S);
    assert_eq!(outcome, Err(Code::TokenWithoutUser));
}

#[test]
fn how_the_user_signed_in_is_read_as_one_word_or_as_a_list() {
    let key = IssuerKey::new("k1");
    let user = |amr: Value, acr: Value| {
        let mut claims = with("amr", amr);
        claims["acr"] = acr;
        let keys = std::slice::from_ref(&key.jwk);
        let user = verify(&key.token(&claims), &rules(), keys, NOW_S).unwrap();
        (user.amr.join(" "), user.acr)
    };
    let gold = Some("gold".to_owned());
    assert_eq!(user(json!(["pwd", "mfa"]), json!("gold")), ("pwd mfa".into(), gold));
    assert_eq!(user(json!("pwd"), json!(1)), ("pwd".into(), None));
    assert_eq!(user(json!({ "mfa": true }), json!(null)), (String::new(), None));
}

#[test]
fn a_key_for_encryption_verifies_nothing() {
    let mut key = IssuerKey::new("k1");
    let token = key.token(&claims());
    key.jwk.common.public_key_use = Some(PublicKeyUse::Encryption);
    assert_eq!(verify(&token, &rules(), &[key.jwk], NOW_S), Err(Code::TokenUnknownKey));
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
