//! A walk through the twelve steps with the demo's own parties.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::clock::StepClock;
use super::issuer::{DemoUser, Issuer, IssuerSettings};
use super::picture::Image;
use super::rdp_client::{self, ClientSettings};
use super::rdp_host::{DemoHost, HOST_NAME};
use super::report::{GatewayChoice, Percentiles, RelayLatency, Report, SessionNumbers};
use super::sign_in;
use super::world::{DESKTOP, HOST, World, WorldSettings};
use crate::agent::{Connecting, Target, TargetStream};
use crate::config::broker::Identity;
use crate::connect::subscribe::{self, SubscribeSettings};
use crate::connect::{SessionOpener, SessionSettings};
use crate::core::secret::Secret;
use crate::dial::http::HttpsClient;
use crate::dial::{DialLimits, Purpose};
use crate::observe::timeline::Teller;
use crate::tls::identity::read_chain;
use crate::tls::settings::TlsSettings;
use crate::wire::arm::RingwayDetails;
use crate::wire::feed::Discovery;
use crate::wire::rdp_file::RdpFile;

/// Who signs in at the demo's desktop.
pub const DEMO_USER: &str = "demo";
pub const DEMO_PASSWORD: &str = "demo";
/// Client and audience at the demo's issuer.
const CLIENT_ID: &str = "ringway-demo";
/// How long a session may take until its pixels are verified.
const PIXELS_TIMEOUT_MS: u64 = 60_000;

/// A running demo after step 6: the user has an `.rdp` file.
#[expect(missing_debug_implementations, reason = "the world is not")]
pub struct Tour {
    world: World,
    issuer: Issuer,
    host: Arc<DemoHost>,
    clock: Arc<StepClock>,
    token: Secret,
    rdp_file: RdpFile,
}

/// What the first session came to.
#[derive(Debug)]
pub struct Seen {
    pub details: RingwayDetails,
    pub picture: Image,
    pub pixels_verified: bool,
}

impl Tour {
    /// Starts everything and goes through steps 1 to 6.
    ///
    /// # Errors
    /// The first thing that does not work.
    pub async fn begin(clock: Arc<StepClock>) -> anyhow::Result<Self> {
        let issuer_ca = DemoAuthority::new()?;
        let issuer = issuer_ca.start_issuer().await?;
        let scratch_ca =
            std::env::temp_dir().join(format!("ringway-demo-issuer-{}.pem", std::process::id()));
        std::fs::write(&scratch_ca, &issuer_ca.pem)?;
        let settings = WorldSettings {
            identity: Identity {
                issuer: Some(issuer.issuer_url().to_owned()),
                audience: Some(CLIENT_ID.to_owned()),
                client_id: Some(CLIENT_ID.to_owned()),
                ca_file: Some(scratch_ca.clone()),
                // A name to read; this issuer gives it to nobody else.
                user_claim: Some("preferred_username".to_owned()),
                ..Identity::default()
            },
            sessions_per_host_max: 64,
            timeline: Some(clock.timeline()),
            ..WorldSettings::default()
        };
        let world = World::start(settings).await;
        let _ = std::fs::remove_file(&scratch_ca);
        let mut world = world?;
        let host = Arc::new(DemoHost::start(DEMO_USER, DEMO_PASSWORD)?);
        world.add_host("demo-host", Arc::new(DemoTarget(Arc::clone(&host)))).await?;

        clock.start(unix_us());
        let (token, rdp_file) = sign_in_and_subscribe(&world, &issuer, &issuer_ca, &clock).await?;
        Ok(Self { world, issuer, host, clock, token, rdp_file })
    }

    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }

    #[must_use]
    pub const fn rdp_file(&self) -> &RdpFile {
        &self.rdp_file
    }

    #[must_use]
    pub const fn token(&self) -> &Secret {
        &self.token
    }

    /// Steps 7 to 12: the first session on its own, for its timeline, then the
    /// others at once.
    ///
    /// # Errors
    /// When a session is refused or its pixels are wrong.
    pub async fn sessions(&self, count: u32) -> anyhow::Result<Seen> {
        let first = self.session().await?;
        self.clock.freeze();
        let others = (1..count).map(|_| self.session());
        for other in futures_util::future::join_all(others).await {
            other.context("one of the further sessions")?;
        }
        Ok(first)
    }

    async fn session(&self) -> anyhow::Result<Seen> {
        let settings =
            SessionSettings::from_rdp(&self.rdp_file, self.token.clone(), self.world.roots()?)?;
        let opener = SessionOpener::new(settings, Some(self.clock.timeline()))?;
        let (leg, details) = opener.open().await?;
        let client = ClientSettings {
            user: DEMO_USER.to_owned(),
            password: Zeroizing::new(DEMO_PASSWORD.to_owned()),
            host_certificate: self.host.certificate_der().clone(),
            host_name: HOST_NAME.to_owned(),
            deadline_ms: PIXELS_TIMEOUT_MS,
        };
        let report = rdp_client::watch(leg, &client).await?;
        let teller = Teller::new("client", Some(self.clock.timeline()));
        teller.tell(12, Some(details.session), "pixels verified");
        Ok(Seen { details, picture: report.image, pixels_verified: report.pixels_verified })
    }

    /// What is reported of the first session, once broker and gateway agree
    /// that it is over.
    ///
    /// # Errors
    /// When its end does not arrive, or the gateway does not answer.
    pub async fn report(&self, seen: Seen) -> anyhow::Result<Report> {
        let session = seen.details.session;
        let ended = self.world.ended(session).await?;
        let gateway = self
            .world
            .gateways
            .iter()
            .find(|gateway| gateway.shared().id == seen.details.gateway)
            .context("the chosen gateway is not in this world")?;
        let latency = gateway.desk().histograms().await?;
        let percentiles =
            |of: crate::observe::histograms::Percentiles| Percentiles { p50: of.p50, p99: of.p99 };
        Ok(Report::new(
            self.clock.durations(),
            GatewayChoice { chosen: seen.details.gateway, explain: seen.details.explain },
            SessionNumbers {
                bytes_up: ended.bytes_up,
                bytes_down: ended.bytes_down,
                pixels_verified: seen.pixels_verified,
                close_reason: ended.end.unwrap_or_default(),
            },
            RelayLatency { up: percentiles(latency.up_us), down: percentiles(latency.down_us) },
        ))
    }

    /// Ends everything.
    pub async fn end(self) {
        self.world.shutdown().await;
        self.issuer.shutdown().await;
        if let Ok(host) = Arc::try_unwrap(self.host) {
            host.shutdown().await;
        }
    }
}

/// Steps 1 to 6.
async fn sign_in_and_subscribe(
    world: &World,
    issuer: &Issuer,
    issuer_ca: &DemoAuthority,
    clock: &Arc<StepClock>,
) -> anyhow::Result<(Secret, RdpFile)> {
    let discovery: Discovery =
        HttpsClient::new(TlsSettings::default().client(world.roots()?)?, DialLimits::default())?
            .get_json(
                Purpose::DISCOVER,
                &format!("{}/api/feed/discovery", world.broker_url()),
                None,
            )
            .await?;
    let teller = Teller::new("client", Some(clock.timeline()));
    teller.tell(1, None, format!("workspace {}", discovery.workspace));

    let tokens = sign_in::sign_in(
        issuer_ca.roots()?,
        discovery.issuer.as_deref().unwrap_or(issuer.issuer_url()),
        discovery.client_id.as_deref().unwrap_or(CLIENT_ID),
    )
    .await?;
    teller.tell(2, None, "signed in");
    let token = tokens.access_token;

    let subscription = subscribe::fetch(&SubscribeSettings {
        broker: world.broker_url().parse()?,
        token: token.clone().into(),
        out: world.directory().join("desktops"),
        roots: world.roots()?,
        signers: read_chain(&world.ca_file()?)?,
        tls: TlsSettings::default(),
        dial: DialLimits::default(),
        timeline: Some(clock.timeline()),
    })
    .await?;
    let file = subscription
        .files
        .iter()
        .find(|file| file.id.as_str() == DESKTOP)
        .context("the feed has no desktop")?;
    let rdp_file = RdpFile::parse(&std::fs::read(&file.path)?)?;
    Ok((token, rdp_file))
}

/// The demo's RDP host as an agent's target, without a port.
struct DemoTarget(Arc<DemoHost>);

impl Target for DemoTarget {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async { Ok(Box::new(self.0.connect()?) as Box<dyn TargetStream>) })
    }

    fn certificate(&self) -> Option<Vec<u8>> {
        Some(self.0.certificate_der().to_vec())
    }
}

/// The CA of the demo's issuer; the world has the broker's.
struct DemoAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pem: String,
}

impl DemoAuthority {
    fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let pem = issuer.pem();
        Ok(Self { issuer, pem })
    }

    fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone())?;
        Ok(roots)
    }

    async fn start_issuer(&self) -> anyhow::Result<Issuer> {
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(vec![HOST.to_owned()])?.signed_by(&key, &self.issuer)?;
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let tls = TlsSettings::default().server(chain, key)?;
        let settings = IssuerSettings {
            host: HOST.to_owned(),
            client_id: CLIENT_ID.to_owned(),
            audience: CLIENT_ID.to_owned(),
            user: DemoUser {
                subject: "demo-user".to_owned(),
                name: DEMO_USER.to_owned(),
                groups: vec!["demo".to_owned()],
            },
        };
        Ok(Issuer::start(tls, settings).await?)
    }
}

fn unix_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}
