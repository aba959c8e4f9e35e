//! Where a user's access token comes from: given on the command line, or the
//! sign-in that `ringway login` stored.

use std::convert::Infallible;
use std::io::Read as _;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use zeroize::Zeroizing;

use super::login::LoginError;
use super::login::session::StoredLogin;
use super::login::store::Logins;
use crate::core::secret::Secret;
use crate::dial::Endpoint;

/// The environment variable that may hold it.
pub(super) const VARIABLE: &str = "RINGWAY_TOKEN";

/// Longer tokens are refused.
const LENGTH_MAX: u64 = 64 * 1024;

/// What gives out the access token, whenever one is needed.
#[derive(Clone, Debug)]
pub enum TokenSource {
    Given(Secret),
    Login(StoredLogin),
}

impl TokenSource {
    /// The token for the next request.
    ///
    /// # Errors
    /// When the sign-in is over, with what to do.
    pub async fn current(&self) -> Result<Secret, LoginError> {
        match self {
            Self::Given(token) => Ok(token.clone()),
            Self::Login(login) => login.current().await,
        }
    }

    /// Remembers, with a stored sign-in, at which gateways it may be used.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn learn_gateways(&self, gateways: Vec<String>) -> Result<(), LoginError> {
        match self {
            Self::Given(_) => Ok(()),
            Self::Login(login) => login.learn_gateways(gateways).await,
        }
    }
}

impl From<Secret> for TokenSource {
    fn from(token: Secret) -> Self {
        Self::Given(token)
    }
}

impl FromStr for TokenSource {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::Given(text.into()))
    }
}

#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    /// Your access token; others on this machine can see it, so better use
    /// ringway login, --token-file or RINGWAY_TOKEN
    #[arg(long, env = VARIABLE, hide_env_values = true)]
    token: Option<Secret>,
    /// A file with your access token; used before the other two
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Where ringway login stored your sign-in, which is used when no token is
    /// given [default: ~/.local/state/ringway/logins]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl TokenArgs {
    /// The token for that broker.
    ///
    /// # Errors
    /// When there is none, or it cannot stand in an HTTP header.
    pub fn for_broker(&self, broker: &Endpoint) -> anyhow::Result<TokenSource> {
        if let Some(token) = self.given()? {
            return Ok(token.into());
        }
        Ok(TokenSource::Login(StoredLogin::of(self.logins()?, broker.clone())?))
    }

    /// The token for a gateway that an `.rdp` file names: that of the broker
    /// whose files name it. No other sign-in's token is shown to it.
    ///
    /// # Errors
    /// When there is none, or it cannot stand in an HTTP header.
    pub fn for_gateway(&self, gateway: &Endpoint) -> anyhow::Result<TokenSource> {
        if let Some(token) = self.given()? {
            return Ok(token.into());
        }
        let (logins, gateway) = (self.logins()?, gateway.authority());
        let mut known = logins.all()?.into_iter().filter(|login| login.gateways.contains(&gateway));
        match (known.next(), known.next()) {
            (Some(login), None) => {
                Ok(TokenSource::Login(StoredLogin::of(logins, login.broker.parse()?)?))
            }
            (None, _) => Err(LoginError::NoSignInFor { gateway }.into()),
            (Some(_), Some(_)) => Err(LoginError::SeveralFor { gateway }.into()),
        }
    }

    fn logins(&self) -> Result<Logins, LoginError> {
        Logins::open(self.state_dir.as_deref())
    }

    fn given(&self) -> anyhow::Result<Option<Secret>> {
        let token = match (&self.token_file, &self.token) {
            (Some(path), _) => {
                let mut text = Zeroizing::new(String::new());
                std::fs::File::open(path)
                    .and_then(|file| file.take(LENGTH_MAX).read_to_string(&mut text))
                    .with_context(|| format!("cannot read the token file {}", path.display()))?;
                Secret::new(text.trim().to_owned())
            }
            (None, Some(token)) => Secret::new(token.expose().trim().to_owned()),
            (None, None) => return Ok(None),
        };
        anyhow::ensure!(
            !token.expose().is_empty() && token.expose().bytes().all(|b| b.is_ascii_graphic()),
            "the access token is empty or holds characters that no token has"
        );
        Ok(Some(token))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::connect::login::store::Login;

    fn sign_in(logins: &Logins, broker: &str, gateways: &[&str]) {
        let login: Login = serde_json::from_value(json!({
            "broker": broker, "workspace": "office", "user": "ann",
            "client": { "issuer": "https://i", "client_id": "c", "audience": null, "scopes": [] },
            "issuer_ca": null, "access_token": format!("token for {broker}"),
            "refresh_token": null, "expires_at": u64::MAX, "gateways": gateways,
        }))
        .unwrap();
        logins.write(&login).unwrap();
    }

    #[tokio::test]
    async fn a_gateway_is_shown_the_token_of_the_broker_that_named_it() {
        let folder = tempfile::tempdir().unwrap();
        let logins = Logins::open(Some(folder.path())).unwrap();
        sign_in(&logins, "https://a:443", &["gw-a:443", "shared:443"]);
        sign_in(&logins, "https://b:443", &["gw-b:443", "shared:443"]);
        let place = Some(folder.path().to_owned());
        let args = TokenArgs { token: None, token_file: None, state_dir: place.clone() };
        let endpoint = |text: &str| text.parse::<Endpoint>().unwrap();
        let token = async |source: anyhow::Result<TokenSource>| match source {
            Ok(source) => source.current().await.unwrap().expose().to_owned(),
            Err(problem) => problem.to_string(),
        };
        let of = args.for_gateway(&endpoint("https://gw-b"));
        assert_eq!(token(of).await, "token for https://b:443");
        let strange = token(args.for_gateway(&endpoint("https://evil"))).await;
        assert!(strange.contains("none of your sign-ins is for evil:443"), "{strange}");
        let shared = token(args.for_gateway(&endpoint("https://shared"))).await;
        assert!(shared.contains("choose with --broker"), "{shared}");
        assert_eq!(token(args.for_broker(&endpoint("https://a"))).await, "token for https://a:443");
        let absent = token(args.for_broker(&endpoint("https://c"))).await;
        assert!(absent.ends_with("run: ringway login https://c:443"), "{absent}");

        let given = TokenArgs { token: Some("given".into()), token_file: None, state_dir: place };
        assert_eq!(token(given.for_gateway(&endpoint("https://evil"))).await, "given");
    }
}
