//! One session from the user's side (steps 7 to 11): measure the gateways, ask
//! the entry gateway, join the gateway that was chosen.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;

use super::login::LoginError;
use super::measure::{Sightings, Ways};
use super::token::TokenSource;
use crate::core::codes::Refusal;
use crate::core::tickets::Role;
use crate::dial::endpoint::EndpointError;
use crate::dial::http::HttpsClient;
use crate::dial::relay::{RelayLeg, open_leg};
use crate::dial::{DialError, DialLimits, Dialer, Endpoint, Purpose};
use crate::observe::timeline::{Teller, Timeline};
use crate::tls::settings::TlsSettings;
use crate::wire::arm::{CONNECTIONS_PATH, ConnectionRequest, ConnectionResponse, RingwayDetails};
use crate::wire::rdp_file::RdpFile;

/// What a session needs to know.
#[derive(Clone)]
pub struct SessionSettings {
    /// `gatewayhostname` of the .rdp file.
    pub entry: Endpoint,
    /// `remoteapplicationprogram` of the .rdp file.
    pub application: String,
    /// `loadbalanceinfo` of the .rdp file.
    pub load_balance_info: String,
    pub token: TokenSource,
    /// Trust in gateways.
    pub roots: RootCertStore,
    pub tls: TlsSettings,
    pub dial: DialLimits,
}

impl SessionSettings {
    /// What the file says, with default limits.
    ///
    /// # Errors
    /// Names the setting that is missing or cannot be used.
    pub fn from_rdp(
        file: &RdpFile,
        token: impl Into<TokenSource>,
        roots: RootCertStore,
    ) -> Result<Self, ConnectError> {
        let text = |name: &'static str| file.string(name).map(str::trim).unwrap_or_default();
        Ok(Self {
            entry: entry(file)?,
            application: text("remoteapplicationprogram").to_owned(),
            load_balance_info: text("loadbalanceinfo").to_owned(),
            token: token.into(),
            roots,
            tls: TlsSettings::default(),
            dial: DialLimits::default(),
        })
    }
}

/// The gateway that a file names.
///
/// # Errors
/// When it names none that can be dialled.
pub fn entry(file: &RdpFile) -> Result<Endpoint, ConnectError> {
    match file.string("gatewayhostname").map(str::trim).unwrap_or_default() {
        "" => Err(ConnectError::NoGateway),
        gateway => Ok(format!("https://{gateway}").parse()?),
    }
}

impl fmt::Debug for SessionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionSettings")
            .field("entry", &self.entry)
            .field("application", &self.application)
            .field("load_balance_info", &self.load_balance_info)
            .finish_non_exhaustive()
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the .rdp file names no gateway (gatewayhostname); fetch it again")]
    NoGateway,
    #[error("the .rdp file's gatewayhostname cannot be used: {0}")]
    Gateway(#[from] EndpointError),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot set up HTTPS: {0}")]
    Https(#[from] reqwest::Error),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Dial(#[from] DialError),
}

impl ConnectError {
    /// What gateway or broker said, when it was they who refused.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Dial(error) => error.refusal(),
            _ => None,
        }
    }
}

/// Opens sessions of one desktop or application. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SessionOpener {
    settings: SessionSettings,
    https: HttpsClient,
    dialer: Dialer,
    /// Shared by all clones.
    ways: Arc<Ways>,
    teller: Teller,
}

impl SessionOpener {
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(
        settings: SessionSettings,
        timeline: Option<Timeline>,
    ) -> Result<Self, ConnectError> {
        let tls = settings.tls.client(settings.roots.clone())?;
        let https = HttpsClient::new(tls.clone(), settings.dial)?;
        let dialer = Dialer::new(tls, settings.dial);
        let entry = settings.entry.clone();
        let ways = Ways::new(entry, settings.token.clone(), https.clone(), dialer.clone());
        let teller = Teller::new("connect", timeline);
        Ok(Self { settings, https, dialer, ways: Arc::new(ways), teller })
    }

    #[must_use]
    pub const fn settings(&self) -> &SessionSettings {
        &self.settings
    }

    /// One more session. Returns when both legs are joined.
    ///
    /// # Errors
    /// The refusal of gateway or broker, or what failed on the way.
    pub async fn open(&self) -> Result<(RelayLeg, RingwayDetails), ConnectError> {
        let SessionSettings { entry, application, load_balance_info, token, .. } = &self.settings;
        let Sightings { samples, unreachable } = self.ways.look().await;
        let request = ConnectionRequest {
            application: application.clone(),
            load_balance_info: load_balance_info.clone(),
            ringway_rtt_samples: samples,
            ringway_unreachable: unreachable,
        };
        let token = token.current().await?;
        let url = entry.url(CONNECTIONS_PATH);
        let answer: ConnectionResponse =
            self.https.post_json(Purpose::CLIENT_LEG, &url, Some(token.expose()), &request).await?;
        let details = answer.ringway;
        let (session, gateway) = (details.session, &details.gateway);
        tracing::info!(step = 7, %session, %gateway, "Was sent to a gateway");
        self.teller.tell(7, Some(session), format!("sent to {gateway}"));
        let leg = open_leg(
            &self.dialer,
            answer.gateway_location.expose(),
            Role::Client,
            details.ticket.expose(),
        )
        .await
        .inspect_err(|error| {
            tracing::warn!(%session, "No session: {error}");
            if error.is_unreached() {
                self.ways.note_unreachable(gateway);
            }
        })?;
        tracing::info!(step = 11, %session, %gateway, "Joined the session");
        self.teller.tell(11, Some(session), format!("joined the host at {gateway}"));
        Ok((leg, details))
    }
}

/// One session, without a local port.
///
/// # Errors
/// The refusal of gateway or broker, or what failed on the way.
pub async fn open(settings: &SessionSettings) -> Result<(RelayLeg, RingwayDetails), ConnectError> {
    SessionOpener::new(settings.clone(), None)?.open().await
}
