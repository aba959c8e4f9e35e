//! Who is asking: judges bearer tokens (step 4).
//!
//! A token is one of the static tokens that the operator declared by hash, or
//! a JWT of the OIDC issuer.

pub mod issuer;
pub mod jwt;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;

use crate::config::broker::{Identity, StaticToken};
use crate::config::current::Current;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::tls::identity::{PemError, read_roots};
use crate::tls::settings::TlsSettings;
use issuer::IssuerKeys;
use jwt::JwtRules;

const LEEWAY_S: u64 = 60;
/// Strangers' tokens cannot make us ask the issuer more often than this.
const FETCH_INTERVAL_MIN: Duration = Duration::from_secs(10);
const OFFLINE_GRACE_S: u64 = 24 * 3_600;

/// Somebody who signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// Why nobody could be judged.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("ca_file: {0}")]
    Roots(#[from] PemError),
    #[error("TLS to the identity provider: {0}")]
    Tls(#[from] rustls::Error),
    #[error("HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// The judge. Cheap to share.
#[derive(Debug)]
pub struct Judge {
    static_tokens: Current<Vec<(Vec<u8>, User)>>,
    oidc: Option<Oidc>,
}

#[derive(Debug)]
struct Oidc {
    rules: JwtRules,
    keys: Arc<IssuerKeys>,
}

impl Judge {
    /// # Errors
    /// When `ca_file` or the TLS settings cannot be used.
    pub fn new(
        identity: &Identity,
        tls: TlsSettings,
        timeout: Duration,
    ) -> Result<Self, IdentityError> {
        let static_tokens = Current::new(known_tokens(&identity.static_tokens));
        let oidc = match &identity.issuer {
            None => None,
            Some(issuer) => {
                let roots = read_roots(identity.ca_file.as_deref())?;
                let client = reqwest::Client::builder()
                    .tls_backend_preconfigured(tls.client(roots)?)
                    .timeout(timeout)
                    .redirect(reqwest::redirect::Policy::none())
                    .https_only(true)
                    .user_agent(concat!("ringway/", env!("CARGO_PKG_VERSION")))
                    .build()?;
                let grace =
                    Duration::from_secs(identity.offline_grace_s.unwrap_or(OFFLINE_GRACE_S));
                Some(Oidc {
                    rules: jwt_rules(identity, issuer),
                    keys: Arc::new(IssuerKeys::new(
                        client,
                        issuer.clone(),
                        grace,
                        FETCH_INTERVAL_MIN,
                    )),
                })
            }
        };
        Ok(Self { static_tokens, oidc })
    }

    /// Knows these from now on, and no others.
    pub fn replace_static_tokens(&self, tokens: &[StaticToken]) {
        self.static_tokens.replace(known_tokens(tokens));
    }

    /// Judges a bearer token.
    ///
    /// # Errors
    /// One of the `token_*` codes or [`Code::IdentityUnavailable`].
    pub async fn judge(&self, bearer: &str) -> Result<User, Refusal> {
        if bearer.is_empty() {
            return Err(Code::TokenMissing.into());
        }
        let hash = digest::digest(&digest::SHA256, bearer.as_bytes());
        let static_tokens = self.static_tokens.get();
        let known = static_tokens
            .iter()
            .find(|(token, _)| verify_slices_are_equal(token, hash.as_ref()).is_ok());
        if let Some((_, user)) = known {
            return Ok(user.clone());
        }
        let Some(oidc) = &self.oidc else { return Err(Code::TokenUnknownKey.into()) };
        let now_s = UnixMillis::now().0 / 1_000;
        let keys = oidc.keys.keys().await?;
        let mut verdict = jwt::verify(bearer, &oidc.rules, &keys, now_s);
        if verdict == Err(Code::TokenUnknownKey)
            && let Some(keys) = oidc.keys.renewed_keys().await
        {
            verdict = jwt::verify(bearer, &oidc.rules, &keys, now_s);
        }
        verdict.map_err(Refusal::new)
    }
}

fn known_tokens(tokens: &[StaticToken]) -> Vec<(Vec<u8>, User)> {
    tokens.iter().filter_map(known_token).collect()
}

fn known_token(token: &StaticToken) -> Option<(Vec<u8>, User)> {
    let hash = hex::decode(&token.token_sha256).ok()?;
    Some((hash, User { name: token.user.clone(), groups: token.groups.clone() }))
}

fn jwt_rules(identity: &Identity, issuer: &str) -> JwtRules {
    JwtRules {
        issuer: issuer.to_owned(),
        audience: identity.audience.clone().unwrap_or_default(),
        algorithms: identity.algorithms().iter().filter_map(|name| name.parse().ok()).collect(),
        user_claim: identity.user_claim.clone().unwrap_or_else(|| "sub".into()),
        groups_claim: identity.groups_claim.clone().unwrap_or_else(|| "groups".into()),
        leeway_s: identity.leeway_s.unwrap_or(LEEWAY_S),
    }
}
