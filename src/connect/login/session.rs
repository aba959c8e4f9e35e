//! The token of a stored sign-in, renewed when it is about to end.

use super::LoginError;
use super::provider::{Provider, Tokens};
use super::store::{Login, Logins};
use crate::core::clock::UnixMillis;
use crate::core::secret::Secret;
use crate::dial::http::HttpsClient;
use crate::dial::{DialLimits, Endpoint};
use crate::tls::identity::read_roots;
use crate::tls::settings::TlsSettings;

/// A sign-in that was stored by `ringway login`.
#[derive(Clone, Debug)]
pub struct StoredLogin {
    pub(super) logins: Logins,
    pub(super) broker: Endpoint,
}

impl StoredLogin {
    /// # Errors
    /// When the user is not signed in there.
    pub fn of(logins: Logins, broker: Endpoint) -> Result<Self, LoginError> {
        let login = Self { logins, broker };
        login.read()?;
        Ok(login)
    }

    fn read(&self) -> Result<Login, LoginError> {
        let login = self.logins.read(&self.broker)?;
        login.ok_or_else(|| LoginError::NotSignedIn { broker: self.broker.to_string() })
    }

    /// An access token that lasts for a while. Of several commands that find
    /// the old one about to end, one renews it and the others take the new one.
    ///
    /// # Errors
    /// When the sign-in is over, or cannot be renewed and the token has expired.
    pub async fn current(&self) -> Result<Secret, LoginError> {
        let login = self.read()?;
        if login.is_fresh(UnixMillis::now()) {
            return Ok(login.access_token);
        }
        let _others_wait = self.logins.lock(&self.broker).await?;
        let mut login = self.read()?;
        let now = UnixMillis::now();
        if login.is_fresh(now) {
            return Ok(login.access_token);
        }
        match renew(&login).await {
            Ok(tokens) => {
                login.renew(tokens, now);
                self.logins.write(&login)?;
                tracing::info!(step = 2, broker = %self.broker, "Renewed the sign-in");
                Ok(login.access_token)
            }
            Err(problem) if login.is_alive(now) => {
                tracing::warn!(broker = %self.broker, %problem, "Cannot renew the sign-in");
                Ok(login.access_token)
            }
            Err(problem) => Err(self.over(problem)),
        }
    }

    fn over(&self, problem: LoginError) -> LoginError {
        let why = match problem {
            LoginError::Refused { error, description } => match error.as_str() {
                "temporarily_unavailable" | "server_error" => {
                    return LoginError::Refused { error, description };
                }
                _ => error,
            },
            LoginError::NoRefreshToken => "it cannot be renewed".into(),
            other => return other,
        };
        LoginError::Over { broker: self.broker.to_string(), why }
    }

    /// Remembers where this broker's files lead, so that the token goes there.
    ///
    /// # Errors
    /// When the sign-in cannot be read or written.
    pub async fn learn_gateways(&self, gateways: Vec<String>) -> Result<(), LoginError> {
        let _others_wait = self.logins.lock(&self.broker).await?;
        let mut login = self.read()?;
        let known = login.gateways.clone();
        login.learn(gateways);
        if login.gateways == known { Ok(()) } else { self.logins.write(&login) }
    }
}

async fn renew(login: &Login) -> Result<Tokens, LoginError> {
    let refresh_token = login.refresh_token.as_ref().ok_or(LoginError::NoRefreshToken)?;
    find_provider(login).await?.refresh(refresh_token).await
}

/// The provider that a sign-in came from.
pub(super) async fn find_provider(login: &Login) -> Result<Provider, LoginError> {
    let tls = TlsSettings::default().client(read_roots(login.issuer_ca.as_deref())?)?;
    let https = HttpsClient::new(tls, DialLimits::default())?;
    Provider::discover(https, login.client.clone()).await
}
