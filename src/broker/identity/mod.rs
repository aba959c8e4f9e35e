//! Who is asking: judges bearer tokens (step 4).
//!
//! A token is one of the static tokens that the operator declared by hash, or
//! a JWT of the OIDC issuer. For people who sign in on the broker's own page
//! there are the issuer's endpoints, and a judge of the ID tokens that come
//! back.

pub mod issuer;
pub mod jwt;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use jsonwebtoken::jwk::Jwk;

use crate::config::broker::{Identity, StaticToken};
use crate::config::current::Current;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::tls::identity::{PemError, read_roots};
use crate::tls::settings::TlsSettings;
use crate::wire::oidc::{TOKEN_BYTES_MAX, TokenResponse};
use issuer::{Issuer, IssuerError, IssuerLimits, Published};
use jwt::JwtRules;

const LEEWAY_S: u64 = 60;
/// Strangers' tokens cannot make us ask the issuer more often than this.
const FETCH_INTERVAL: Duration = Duration::from_secs(10);
const FETCHES_IN_A_ROW_MAX: u32 = 5;
const REFRESH_S: u64 = 3_600;
const OFFLINE_GRACE_S: u64 = 24 * 3_600;

/// Somebody who signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// What resources, places and logs know the user by.
    pub name: String,
    /// For people to read; proves nothing.
    pub display_name: String,
    pub groups: Vec<String>,
    /// How the user signed in (RFC 8176), as the issuer says.
    pub amr: Vec<String>,
    /// Which class of sign-in that was (OpenID Connect Core 2).
    pub acr: Option<String>,
}

/// Where people are sent to sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignInEndpoints {
    pub issuer: String,
    pub client_id: String,
    pub authorization: String,
    pub token: String,
    /// RFC 8628; not every issuer has it.
    pub device_authorization: Option<String>,
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
    access: JwtRules,
    /// The same for ID tokens, when the broker has a client to sign in with.
    id: Option<JwtRules>,
    issuer: Arc<Issuer>,
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
                let seconds =
                    |set: Option<u64>, default| Duration::from_secs(set.unwrap_or(default));
                let limits = IssuerLimits {
                    refresh_after: seconds(identity.refresh_s, REFRESH_S),
                    offline_grace: seconds(identity.offline_grace_s, OFFLINE_GRACE_S),
                    fetch_interval: FETCH_INTERVAL,
                    fetches_in_a_row_max: FETCHES_IN_A_ROW_MAX,
                };
                let rules = |audience: &String| jwt_rules(identity, issuer, audience);
                Some(Oidc {
                    access: rules(identity.audience.as_ref().unwrap_or(&String::new())),
                    id: identity.client_id.as_ref().map(rules),
                    issuer: Arc::new(Issuer::new(client, issuer.clone(), limits)),
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
        if bearer.len() > TOKEN_BYTES_MAX {
            return Err(Code::TokenTooLong.into());
        }
        let hash = digest::digest(&digest::SHA256, bearer.as_bytes());
        let static_tokens = self.static_tokens.get();
        let known = static_tokens
            .iter()
            .find(|(token, _)| verify_slices_are_equal(token, hash.as_ref()).is_ok());
        if let Some((_, user)) = known {
            return Ok(user.clone());
        }
        self.with_keys(|rules, keys, now_s| jwt::verify(bearer, rules, keys, now_s)).await
    }

    /// A verdict by the issuer's keys, and by the rules for access tokens.
    ///
    /// # Errors
    /// The verdict's, or [`Code::IdentityUnavailable`].
    pub async fn with_keys<T>(
        &self,
        verdict: impl Fn(&JwtRules, &[Jwk], u64) -> Result<T, Code>,
    ) -> Result<T, Refusal> {
        let Some(oidc) = &self.oidc else { return Err(Code::TokenUnknownKey.into()) };
        oidc.judge(|known, now_s| verdict(&oidc.access, &known.keys, now_s)).await
    }

    /// Judges the ID token that a token request was answered with. `nonce` is
    /// the one of the authorization request.
    ///
    /// # Errors
    /// One of the `token_*` codes or [`Code::IdentityUnavailable`].
    pub async fn judge_id_token(&self, id_token: &str, nonce: &str) -> Result<User, Refusal> {
        let (oidc, rules) = self.sign_in_rules()?;
        oidc.judge(|known, now_s| jwt::verify_id_token(id_token, rules, &known.keys, now_s, nonce))
            .await
    }

    /// Where people are sent to sign in, as far as the issuer publishes it.
    ///
    /// # Errors
    /// [`Code::IdentityUnavailable`], with what is missing.
    pub async fn sign_in_endpoints(&self) -> Result<SignInEndpoints, Refusal> {
        let (oidc, rules) = self.sign_in_rules()?;
        let known = oidc.issuer.published().await?;
        let metadata = &known.metadata;
        let (Some(authorization), Some(token)) =
            (&metadata.authorization_endpoint, &metadata.token_endpoint)
        else {
            let detail = "the issuer publishes no authorization or token endpoint";
            return Err(Refusal::with_detail(Code::IdentityUnavailable, detail));
        };
        Ok(SignInEndpoints {
            issuer: metadata.issuer.clone(),
            client_id: rules.audience.clone(),
            authorization: authorization.clone(),
            token: token.clone(),
            device_authorization: metadata.device_authorization_endpoint.clone(),
        })
    }

    /// Exchanges an authorization code for tokens.
    ///
    /// # Errors
    /// [`Code::SignInNotCompleted`] when the issuer refuses,
    /// [`Code::IdentityUnavailable`] when it cannot be asked.
    pub async fn redeem(
        &self,
        endpoint: &str,
        form: &[(&str, &str)],
    ) -> Result<TokenResponse, Refusal> {
        let (oidc, _) = self.sign_in_rules()?;
        oidc.issuer.redeem(endpoint, form).await.map_err(|error| {
            let code = match error {
                IssuerError::Status { status: 400..=499, .. } => Code::SignInNotCompleted,
                _ => Code::IdentityUnavailable,
            };
            Refusal::with_detail(code, error)
        })
    }

    fn sign_in_rules(&self) -> Result<(&Oidc, &JwtRules), Refusal> {
        let oidc = self.oidc.as_ref();
        oidc.and_then(|oidc| Some((oidc, oidc.id.as_ref()?))).ok_or_else(|| {
            let detail = "identity.issuer and identity.client_id are not both set";
            Refusal::with_detail(Code::IdentityUnavailable, detail)
        })
    }
}

impl Oidc {
    /// A verdict, and a second one with fresh keys when the first is that the
    /// key is unknown.
    async fn judge<T>(
        &self,
        verdict: impl Fn(&Published, u64) -> Result<T, Code>,
    ) -> Result<T, Refusal> {
        let now_s = UnixMillis::now().0 / 1_000;
        let mut judged = verdict(&*self.issuer.published().await?, now_s);
        if matches!(judged, Err(Code::TokenUnknownKey))
            && let Some(renewed) = self.issuer.renewed().await
        {
            judged = verdict(&renewed, now_s);
        }
        judged.map_err(Refusal::new)
    }
}

fn known_tokens(tokens: &[StaticToken]) -> Vec<(Vec<u8>, User)> {
    tokens.iter().filter_map(known_token).collect()
}

fn known_token(token: &StaticToken) -> Option<(Vec<u8>, User)> {
    let hash = hex::decode(&token.token_sha256).ok()?;
    let user = User {
        name: token.user.clone(),
        display_name: token.user.clone(),
        groups: token.groups.clone(),
        amr: Vec::new(),
        acr: None,
    };
    Some((hash, user))
}

fn jwt_rules(identity: &Identity, issuer: &str, audience: &str) -> JwtRules {
    JwtRules {
        issuer: issuer.to_owned(),
        audience: audience.to_owned(),
        algorithms: identity.algorithms().iter().filter_map(|name| name.parse().ok()).collect(),
        user_claim: identity.user_claim.clone().unwrap_or_else(|| "sub".into()),
        display_claim: identity.display_claim.clone(),
        groups_claim: identity.groups_claim.clone().unwrap_or_else(|| "groups".into()),
        leeway_s: identity.leeway_s.unwrap_or(LEEWAY_S),
    }
}
