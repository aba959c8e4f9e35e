//! The demo issuer's key and the tokens that it signs.

use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};

/// Why there is no key or no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot make the issuer's key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("cannot sign a token: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// The claims of an access token. Times are Unix seconds (RFC 7519 4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    pub iss: String,
    pub aud: String,
    pub sub: String,
    pub preferred_username: String,
    pub groups: Vec<String>,
    pub iat: u64,
    pub nbf: u64,
    pub exp: u64,
}

/// The claims of an access token that is good only with a key: for a session
/// host that takes logons by token.
#[derive(Clone, Debug, Serialize)]
pub struct BoundClaims {
    #[serde(flatten)]
    pub access: AccessClaims,
    pub cnf: Confirmation,
}

/// RFC 7800 3.4.
#[derive(Clone, Debug, Serialize)]
pub struct Confirmation {
    /// The key's thumbprint.
    pub kid: String,
}

/// The claims of a nonce for a logon by token.
#[derive(Clone, Debug, Serialize)]
pub struct NonceClaims {
    pub iss: String,
    pub aud: &'static str,
    pub exp: u64,
}

/// The claims of an ID token (OpenID Connect Core 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdClaims {
    pub iss: String,
    pub aud: String,
    pub sub: String,
    pub preferred_username: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    pub iat: u64,
    pub exp: u64,
}

/// An ES256 key that lives as long as the issuer.
pub struct SigningKey {
    key: EncodingKey,
    public: Jwk,
    header: Header,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.header.kid).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A new key, named by its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, TokenError> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let pkcs8 = zeroize::Zeroizing::new(pair.serialize_der());
        let key = EncodingKey::from_ec_der(&pkcs8);
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256)?;
        let kid = public.thumbprint(ThumbprintHash::SHA256)?;
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        let header = Header { kid: Some(kid), ..Header::new(Algorithm::ES256) };
        Ok(Self { key, public, header })
    }

    /// The public half, as an issuer publishes it.
    #[must_use]
    pub fn published(&self) -> JwkSet {
        JwkSet { keys: vec![self.public.clone()] }
    }

    /// Signs claims as a JWT.
    ///
    /// # Errors
    /// When the claims are no JSON object.
    pub fn sign<T: Serialize>(&self, claims: &T) -> Result<String, TokenError> {
        Ok(jsonwebtoken::encode(&self.header, claims, &self.key)?)
    }
}
