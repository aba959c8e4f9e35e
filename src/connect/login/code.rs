//! Authorization code with PKCE (RFC 7636): one attempt, its secrets, and
//! which answer is the answer to it.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Url;
use zeroize::Zeroizing;

use super::LoginError;
use super::provider::{Provider, unexpected};
use crate::core::codes::curb;
use crate::core::secret::Secret;
use crate::wire::oidc::challenge_of;

/// One attempt to sign in. Its secrets are erased when it is dropped.
#[derive(Debug)]
pub struct Attempt {
    issuer: String,
    redirect_uri: String,
    state: Secret,
    nonce: Secret,
    verifier: Secret,
    url: Url,
}

/// What a request to the redirect address turned out to be.
#[derive(Debug)]
pub enum Answer {
    /// The code, or the provider's refusal.
    Ours(Result<Secret, LoginError>),
    /// Somebody else's, or nonsense: not the end of the attempt.
    Strangers,
}

impl Attempt {
    /// # Errors
    /// When the provider has no page to sign in on, or the system no
    /// randomness.
    pub fn new(provider: &Provider, redirect_uri: String) -> Result<Self, LoginError> {
        let [state, nonce, verifier] = [random_text()?, random_text()?, random_text()?];
        let challenge = challenge_of(verifier.expose()).ok_or(LoginError::NoRandomness)?;
        let endpoint = provider.authorization_endpoint()?;
        let mut url = Url::parse(endpoint).map_err(|error| {
            unexpected("discovery", &format!("authorization_endpoint: {error}"))
        })?;
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("redirect_uri", &redirect_uri)
            .extend_pairs(provider.facts.wishes())
            .append_pair("state", state.expose())
            .append_pair("nonce", nonce.expose())
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        let issuer = provider.facts.issuer.clone();
        Ok(Self { issuer, redirect_uri, state, nonce, verifier, url })
    }

    /// Where the user's browser goes.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    #[must_use]
    pub fn redirect_uri(&self) -> &str {
        &self.redirect_uri
    }

    pub(super) fn verifier(&self) -> &str {
        self.verifier.expose()
    }

    pub(super) fn nonce(&self) -> &str {
        self.nonce.expose()
    }

    /// Judges the query of a request to the redirect address.
    #[must_use]
    pub fn answer(&self, query: &str) -> Answer {
        judge(query, &self.state, &self.issuer)
    }
}

/// Whether a query answers the request with this `state`, and what it says
/// (RFC 6749 4.1.2). Whoever runs a program here can send one.
#[must_use]
pub fn judge(query: &str, state: &Secret, issuer: &str) -> Answer {
    let Ok(url) = Url::parse(&format!("http://127.0.0.1/?{query}")) else {
        return Answer::Strangers;
    };
    // Given twice, a parameter means nothing (RFC 6749 3.1).
    let value = |name: &str| {
        let mut values = url.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value);
        values.next().filter(|_| values.next().is_none())
    };
    let is_ours = value("state").is_some_and(|answered| {
        verify_slices_are_equal(answered.as_bytes(), state.expose().as_bytes()).is_ok()
    });
    // RFC 9207: an answer of another provider is not to be used here.
    if !is_ours || value("iss").is_some_and(|iss| iss != issuer) {
        return Answer::Strangers;
    }
    Answer::Ours(match (value("error"), value("code")) {
        (Some(error), _) => Err(LoginError::Refused {
            error: curb(&error),
            description: curb(&value("error_description").unwrap_or_default()),
        }),
        (None, Some(code)) if !code.is_empty() => Ok(Secret::new(code.into_owned())),
        _ => Err(unexpected("authorization", "there is no code in it")),
    })
}

/// 256 random bits as 43 unreserved characters.
fn random_text() -> Result<Secret, LoginError> {
    let mut random = Zeroizing::new([0; 32]);
    rand::fill(random.as_mut_slice()).map_err(|_| LoginError::NoRandomness)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(random.as_slice())))
}
