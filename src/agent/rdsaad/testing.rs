//! An identity provider and a client of RDSAAD, for tests: what they say is
//! right until it is changed.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::Jwk;
use serde_json::{Value, json};

use crate::broker::identity::jwt::JwtRules;
use crate::demo::tokens::SigningKey;
use crate::wire::rdsaad::{NONCE_AUDIENCE, PublicKey, device_uri};

pub(crate) const NOW_S: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";

pub(crate) struct Provider(SigningKey);

impl Provider {
    pub(crate) fn new() -> Self {
        Self(SigningKey::generate().unwrap())
    }

    pub(crate) fn keys(&self) -> Vec<Jwk> {
        self.0.published().keys
    }

    pub(crate) fn rules(&self) -> JwtRules {
        JwtRules {
            issuer: ISSUER.into(),
            audience: String::new(),
            algorithms: vec![Algorithm::ES256],
            user_claim: "preferred_username".into(),
            display_claim: None,
            groups_claim: "groups".into(),
            leeway_s: 60,
        }
    }

    pub(crate) fn access_claims(&self, key: &ClientKey, user: &str, host: &str) -> Value {
        json!({
            "iss": ISSUER, "aud": device_uri(host), "sub": "17", "preferred_username": user,
            "exp": NOW_S + 300, "nbf": NOW_S - 5, "cnf": { "kid": key.thumbprint() },
        })
    }

    pub(crate) fn nonce_claims(&self) -> Value {
        json!({ "iss": ISSUER, "aud": NONCE_AUDIENCE, "exp": NOW_S + 300 })
    }

    pub(crate) fn nonce(&self) -> String {
        self.sign(&self.nonce_claims())
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.0.sign(claims).unwrap()
    }
}

/// What a client puts into its assertion.
#[derive(Clone, Debug)]
pub(crate) struct Logon {
    pub(crate) at_s: u64,
    pub(crate) access_token: String,
    pub(crate) device: String,
    pub(crate) nonce: String,
    pub(crate) provider_nonce: String,
}

impl Logon {
    /// The answer to the nonce `n-1`.
    pub(crate) fn right(provider: &Provider, key: &ClientKey, user: &str, host: &str) -> Self {
        Self {
            at_s: NOW_S,
            access_token: provider.sign(&provider.access_claims(key, user, host)),
            device: device_uri(host),
            nonce: "n-1".into(),
            provider_nonce: provider.nonce(),
        }
    }
}

/// A client's key for one connection.
pub(crate) struct ClientKey(KeyPair);

impl ClientKey {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn thumbprint(&self) -> String {
        let key: PublicKey = serde_json::from_value(self.jwk()).unwrap();
        key.thumbprint()
    }

    fn jwk(&self) -> Value {
        // RFC 8017 A.1.1: two headers, a zero, the modulus, 02 03 and 65537.
        let der = self.0.public_key().as_ref();
        assert_eq!(der.len(), 9 + 256 + 5);
        json!({ "kty": "RSA", "e": "AQAB", "n": URL_SAFE_NO_PAD.encode(&der[9..265]) })
    }

    /// As `FreeRDP` writes it.
    pub(crate) fn text(&self, logon: &Logon) -> Vec<u8> {
        self.text_claiming(logon, self)
    }

    /// The same, signed by this key and naming that one.
    pub(crate) fn text_claiming(&self, logon: &Logon, named: &Self) -> Vec<u8> {
        let claims = json!({
            "ts": logon.at_s.to_string(), "at": logon.access_token, "u": logon.device,
            "nonce": logon.nonce, "cnf": { "jwk": named.jwk() },
            "client_claims": json!({ "aad_nonce": logon.provider_nonce }).to_string(),
        });
        let header = json!({ "alg": "RS256", "kid": self.thumbprint() });
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; self.0.public_modulus_len()];
        let random = SystemRandom::new();
        self.0.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
        let jws = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        format!("{}\0", json!({ "rdp_assertion": jws })).into_bytes()
    }
}
