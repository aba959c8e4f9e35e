//! Step 2 without a person: signs in as [`crate::connect::login`] does, at an
//! issuer that shows nobody a page, as the demo's does. The answer is read from
//! the redirect itself.

use std::time::Duration;

use reqwest::header::LOCATION;
use reqwest::{Client, redirect};
use rustls::RootCertStore;

use crate::connect::login::LoginError;
use crate::connect::login::code::{Answer, Attempt};
use crate::connect::login::provider::{ClientFacts, Provider, Tokens};
use crate::core::secret::Secret;
use crate::dial::DialLimits;
use crate::dial::http::HttpsClient;
use crate::tls::settings::TlsSettings;

/// Nobody listens there.
const REDIRECT_URI: &str = "http://127.0.0.1/callback";
/// For the request to the page, answer included.
const REQUEST_TIMEOUT_MS: u64 = 10_000;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("the sign-in page cannot be reached: {0}")]
    Page(#[from] reqwest::Error),
    #[error("the sign-in page answered {status} and does not lead back (does it want a person?)")]
    NoWayBack { status: u16 },
}

/// Signs in at `issuer` as `client_id`.
///
/// # Errors
/// When the issuer cannot be reached, refuses, or answers something else.
pub async fn sign_in(
    roots: RootCertStore,
    issuer: &str,
    client_id: &str,
) -> Result<Tokens, SignInError> {
    let visitor = Visitor::at(roots, issuer, client_id).await?;
    let attempt = Attempt::new(&visitor.provider, REDIRECT_URI.to_owned())?;
    let code = visitor.authorize(&attempt).await?;
    Ok(visitor.provider.redeem(&code, &attempt).await?)
}

/// Somebody at an issuer's door.
struct Visitor {
    provider: Provider,
    browser: Client,
}

impl Visitor {
    async fn at(roots: RootCertStore, issuer: &str, client_id: &str) -> Result<Self, SignInError> {
        let tls = TlsSettings::default().client(roots).map_err(LoginError::from)?;
        let browser = Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .redirect(redirect::Policy::none())
            .https_only(true)
            .no_proxy()
            .timeout(Duration::from_millis(REQUEST_TIMEOUT_MS))
            .build()?;
        let facts = ClientFacts {
            issuer: issuer.to_owned(),
            client_id: client_id.to_owned(),
            audience: None,
            scopes: Vec::new(),
        };
        let https = HttpsClient::new(tls, DialLimits::default())?;
        Ok(Self { provider: Provider::discover(https, facts).await?, browser })
    }

    async fn authorize(&self, attempt: &Attempt) -> Result<Secret, SignInError> {
        let answer = self.browser.get(attempt.url()).send().await?;
        let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let back = location
            .and_then(|location| location.strip_prefix(attempt.redirect_uri())?.strip_prefix('?'));
        match back.map(|query| attempt.answer(query)) {
            Some(Answer::Ours(code)) => Ok(code?),
            _ => Err(SignInError::NoWayBack { status: answer.status().as_u16() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use rustls::pki_types::PrivateKeyDer;

    use super::*;
    use crate::demo::issuer::{DemoUser, Issuer, IssuerSettings, TOKEN_LIFETIME_S};
    use crate::demo::tokens::AccessClaims;
    use crate::dial::Purpose;

    async fn issuer() -> (Issuer, RootCertStore) {
        let identity = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = identity.cert.der().clone();
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
        let tls = TlsSettings::default().server(vec![certificate.clone()], key).unwrap();
        let settings = IssuerSettings {
            host: "127.0.0.1".into(),
            client_id: "ringway-demo".into(),
            audience: "ringway".into(),
            user: DemoUser {
                subject: "user-1".into(),
                name: "demo".into(),
                groups: vec!["staff".into()],
            },
        };
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        (Issuer::start(tls, settings).await.unwrap(), roots)
    }

    #[tokio::test]
    async fn step_2_gives_a_token_that_the_published_key_verifies() {
        let (issuer, roots) = issuer().await;
        let tokens = sign_in(roots.clone(), issuer.issuer_url(), "ringway-demo").await.unwrap();
        assert_eq!(tokens.expires_in_s, TOKEN_LIFETIME_S);

        let tls = TlsSettings::default().client(roots).unwrap();
        let https = HttpsClient::new(tls, DialLimits::default()).unwrap();
        let url = format!("{}/jwks", issuer.issuer_url());
        let jwks: JwkSet = https.get_json(Purpose::SIGN_IN, &url, None).await.unwrap();
        let token = tokens.access_token.expose().as_bytes();
        let kid = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
        let key = DecodingKey::from_jwk(jwks.find(&kid).unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&["ringway"]);
        validation.set_issuer(&[issuer.issuer_url()]);
        validation.validate_nbf = true;
        let claims = jsonwebtoken::decode::<AccessClaims>(token, &key, &validation).unwrap().claims;
        assert_eq!(claims.sub, "user-1");
        assert_eq!(claims.preferred_username, "demo");
        assert_eq!(claims.groups, ["staff"]);
        assert_eq!(claims.exp, claims.iat + TOKEN_LIFETIME_S);
        issuer.shutdown().await;
    }

    #[tokio::test]
    async fn a_used_code_and_a_wrong_verifier_are_refused() {
        let (issuer, roots) = issuer().await;
        let visitor = Visitor::at(roots, issuer.issuer_url(), "ringway-demo").await.unwrap();
        let provider = &visitor.provider;
        let attempt = || Attempt::new(provider, REDIRECT_URI.to_owned()).unwrap();

        let first = attempt();
        let code = visitor.authorize(&first).await.unwrap();
        assert!(provider.redeem(&code, &first).await.is_ok());
        let again = provider.redeem(&code, &first).await.unwrap_err();
        assert!(again.to_string().contains("invalid_grant"), "{again}");

        let code = visitor.authorize(&first).await.unwrap();
        let stolen = provider.redeem(&code, &attempt()).await.unwrap_err();
        assert!(stolen.to_string().contains("verifier"), "{stolen}");
        let burnt = provider.redeem(&code, &first).await.unwrap_err();
        assert!(burnt.to_string().contains("invalid_grant"), "{burnt}");
        issuer.shutdown().await;
    }

    #[tokio::test]
    async fn an_unknown_client_is_told_without_a_redirect() {
        let (issuer, roots) = issuer().await;
        let refused = sign_in(roots, issuer.issuer_url(), "stranger").await.unwrap_err();
        assert!(matches!(refused, SignInError::NoWayBack { status: 400 }), "{refused:?}");
        issuer.shutdown().await;
    }

    #[tokio::test]
    async fn an_issuer_of_another_ca_is_not_talked_to() {
        let (issuer, _) = issuer().await;
        let nobody = RootCertStore::empty();
        let refused = sign_in(nobody, issuer.issuer_url(), "ringway-demo").await.unwrap_err();
        assert!(matches!(refused, SignInError::Login(LoginError::Dial(_))), "{refused:?}");
        assert!(refused.to_string().contains("--issuer-ca"), "{refused}");
        issuer.shutdown().await;
    }
}
