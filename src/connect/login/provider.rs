//! What is asked of an identity provider to sign a user in: its metadata, and
//! tokens for a code, for a refresh token or for a device code. Nothing is
//! followed automatically; every answer is checked against what was asked.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::LoginError;
use super::code::Attempt;
use crate::core::codes::curb;
use crate::core::secret::Secret;
use crate::dial::Purpose;
use crate::dial::http::HttpsClient;
use crate::wire::feed::Discovery;
use crate::wire::oidc::{
    DeviceAuthorization, ErrorResponse, MetadataError, ProviderMetadata, TokenResponse,
    check_id_token,
};

/// RFC 8628 3.4.
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// A provider need not say how long a token lasts; then it is renewed soon.
const EXPIRES_IN_UNKNOWN_S: u64 = 300;
/// Of those who do not say what to ask for.
const SCOPES: &str = "openid profile";

/// Who asks, of whom and for what, as a broker tells its clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFacts {
    pub issuer: String,
    pub client_id: String,
    /// Whom the access token is for.
    pub audience: Option<String>,
    pub scopes: Vec<String>,
}

impl ClientFacts {
    /// # Errors
    /// When the broker knows no issuer, or no client to sign in as.
    pub fn told_by(discovery: &Discovery) -> Result<Self, LoginError> {
        let issuer = discovery.issuer.clone().ok_or(LoginError::NoIssuer)?;
        let client_id = discovery.client_id.clone().ok_or(LoginError::NoClient)?;
        let audience = discovery.audience.clone();
        Ok(Self { issuer, client_id, audience, scopes: discovery.scopes.clone() })
    }

    /// The parameters that every request for a sign-in has.
    pub(super) fn wishes(&self) -> Vec<(&'static str, String)> {
        let scope = if self.scopes.is_empty() { SCOPES.to_owned() } else { self.scopes.join(" ") };
        let mut wishes = vec![("client_id", self.client_id.clone()), ("scope", scope)];
        // Some providers name the API so, and others must ignore what they do
        // not know (RFC 6749 3.1). Those that go by scopes get theirs above.
        if let Some(audience) = self.audience.as_ref().filter(|name| **name != self.client_id) {
            wishes.push(("audience", audience.clone()));
        }
        wishes
    }
}

/// What the user may now show to a feed or gateway.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub access_token: Secret,
    pub refresh_token: Option<Secret>,
    pub expires_in_s: u64,
}

/// An identity provider that was found.
#[derive(Clone, Debug)]
pub struct Provider {
    https: HttpsClient,
    pub(super) facts: ClientFacts,
    metadata: ProviderMetadata,
}

impl Provider {
    /// # Errors
    /// When there is none at the issuer's address.
    pub async fn discover(https: HttpsClient, facts: ClientFacts) -> Result<Self, LoginError> {
        let url = ProviderMetadata::url(&facts.issuer);
        let json = https.get(Purpose::SIGN_IN, &url, None).await?;
        let metadata = ProviderMetadata::read(&facts.issuer, &json)
            .map_err(|error: MetadataError| unexpected("discovery", &error.to_string()))?;
        Ok(Self { https, facts, metadata })
    }

    /// Where the user's browser goes.
    pub(super) fn authorization_endpoint(&self) -> Result<&str, LoginError> {
        let endpoint = self.metadata.authorization_endpoint.as_deref();
        endpoint.ok_or_else(|| unexpected("discovery", "it names no authorization_endpoint"))
    }

    /// Tokens for the code that the browser brought back.
    ///
    /// # Errors
    /// When the provider refuses, or answers something else.
    pub async fn redeem(&self, code: &Secret, attempt: &Attempt) -> Result<Tokens, LoginError> {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", attempt.redirect_uri()),
            ("client_id", &self.facts.client_id),
            ("code_verifier", attempt.verifier()),
        ];
        let tokens: TokenResponse = self.ask_for_tokens(&form).await?;
        if tokens.id_token.is_none() {
            return Err(unexpected("token", "there is no ID token in it"));
        }
        self.accept(tokens, Some(attempt.nonce()))
    }

    /// New tokens for an old refresh token, which may be used up by this.
    ///
    /// # Errors
    /// When the provider refuses, or answers something else.
    pub async fn refresh(&self, refresh_token: &Secret) -> Result<Tokens, LoginError> {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token.expose()),
            ("client_id", &self.facts.client_id),
        ];
        let tokens = self.ask_for_tokens(&form).await?;
        self.accept(tokens, None)
    }

    /// Makes a refresh token worthless, where the provider offers that (RFC
    /// 7009).
    ///
    /// # Errors
    /// When the provider cannot be reached.
    pub async fn revoke(&self, refresh_token: &Secret) -> Result<(), LoginError> {
        let Some(url) = &self.metadata.revocation_endpoint else { return Ok(()) };
        let form = [
            ("token", refresh_token.expose()),
            ("token_type_hint", "refresh_token"),
            ("client_id", &self.facts.client_id),
        ];
        self.https.post_form(Purpose::SIGN_IN, url, &form).await?;
        Ok(())
    }

    /// A code for the user to enter on another device (RFC 8628 3.1).
    ///
    /// # Errors
    /// When the provider has no such thing, or refuses.
    pub async fn ask_device(&self) -> Result<DeviceAuthorization, LoginError> {
        let url = self.metadata.device_authorization_endpoint.as_deref();
        let url = url.ok_or(LoginError::NoDeviceSignIn)?;
        let wishes = self.facts.wishes();
        let form: Vec<_> = wishes.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (status, body) = self.https.post_form(Purpose::SIGN_IN, url, &form).await?;
        read("device authorization", status, &body)
    }

    /// Tokens for a device code, once the user has entered the other one.
    ///
    /// # Errors
    /// `authorization_pending` and `slow_down` among the refusals.
    pub async fn redeem_device(&self, device_code: &Secret) -> Result<Tokens, LoginError> {
        let form = [
            ("grant_type", DEVICE_GRANT),
            ("device_code", device_code.expose()),
            ("client_id", &self.facts.client_id),
        ];
        let tokens = self.ask_for_tokens(&form).await?;
        self.accept(tokens, None)
    }

    async fn ask_for_tokens(&self, form: &[(&str, &str)]) -> Result<TokenResponse, LoginError> {
        let url = self.metadata.token_endpoint.as_deref();
        let url = url.ok_or_else(|| unexpected("discovery", "it names no token_endpoint"))?;
        let (status, body): (u16, Zeroizing<Vec<u8>>) =
            self.https.post_form(Purpose::SIGN_IN, url, form).await?;
        read("token", status, &body)
    }

    fn accept(&self, tokens: TokenResponse, nonce: Option<&str>) -> Result<Tokens, LoginError> {
        if !tokens.token_type.eq_ignore_ascii_case("Bearer") {
            return Err(unexpected("token", "it is no bearer token"));
        }
        let ClientFacts { issuer, client_id, .. } = &self.facts;
        if let Some(token) = &tokens.id_token {
            check_id_token(token.expose(), issuer, client_id, nonce)
                .map_err(|error| unexpected("token", &format!("its ID token: {error}")))?;
        }
        Ok(Tokens {
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            expires_in_s: tokens.expires_in.unwrap_or(EXPIRES_IN_UNKNOWN_S),
        })
    }
}

fn read<T: DeserializeOwned>(
    what: &'static str,
    status: u16,
    body: &[u8],
) -> Result<T, LoginError> {
    if status == 200 {
        return serde_json::from_slice(body).map_err(|error| unexpected(what, &error.to_string()));
    }
    match serde_json::from_slice::<ErrorResponse>(body) {
        Ok(ErrorResponse { error, error_description }) => Err(LoginError::Refused {
            error: curb(&error),
            description: error_description.map(|text| curb(&text)).unwrap_or_default(),
        }),
        Err(_) => Err(unexpected(what, &format!("its status is {status}"))),
    }
}

pub(super) fn unexpected(what: &'static str, why: &str) -> LoginError {
    LoginError::Answer { what, why: curb(why) }
}
