//! A user with an identity provider and a workspace: everything that steps 1
//! to 6 need.

use std::path::{Path, PathBuf};

use ringway::connect::subscribe::{self, StoredFile, SubscribeError, SubscribeSettings};
use ringway::core::codes::Code;
use ringway::core::secret::Secret;
use ringway::demo::issuer::{DemoUser, Issuer, IssuerSettings};
use ringway::demo::sign_in::{self, SignInError};
use ringway::demo::world::{HOST, WorldSettings};
use ringway::dial::{DialLimits, Purpose};
use ringway::observe::timeline::Timeline;
use ringway::tls::identity::read_chain;
use ringway::tls::settings::TlsSettings;
use ringway::wire::feed::Feed;
use tempfile::TempDir;

use super::ca::TestCa;
use super::stage::{Stage, settings};

/// Client and audience.
pub const CLIENT_ID: &str = "ringway-test";
pub const USER: &str = "dora";

pub struct Subscriber {
    pub stage: Stage,
    pub issuer: Issuer,
    ca: TestCa,
    folder: TempDir,
}

impl Subscriber {
    /// One gateway is enough: somebody has to be named in the files.
    pub async fn start() -> Self {
        Self::start_with(settings()).await
    }

    /// The same with other settings; who signs in is set here.
    pub async fn start_with(settings: WorldSettings) -> Self {
        ringway::tls::install_provider();
        let (ca, folder) = (TestCa::new(), tempfile::tempdir().unwrap());
        let issuer = issuer(&ca).await;
        let ca_file = folder.path().join("issuer-ca.pem");
        std::fs::write(&ca_file, ca.pem()).unwrap();
        let mut settings = WorldSettings { gateways: 1, ..settings };
        settings.identity.issuer = Some(issuer.issuer_url().to_owned());
        settings.identity.audience = Some(CLIENT_ID.into());
        settings.identity.client_id = Some(CLIENT_ID.into());
        settings.identity.ca_file = Some(ca_file);
        settings.identity.user_claim = Some("preferred_username".into());
        Self { stage: Stage::start_with(settings).await, issuer, ca, folder }
    }

    /// Trust in the identity provider.
    pub fn issuer_roots(&self) -> rustls::RootCertStore {
        self.ca.roots()
    }

    /// Another issuer of the same make, which the broker does not know.
    pub async fn stranger(&self) -> Issuer {
        issuer(&self.ca).await
    }

    /// Step 2.
    pub async fn sign_in(&self, issuer: &Issuer, client_id: &str) -> Result<String, SignInError> {
        let signed_in = sign_in::sign_in(self.ca.roots(), issuer.issuer_url(), client_id).await?;
        Ok(signed_in.access_token.expose().to_owned())
    }

    pub async fn token(&self) -> String {
        self.sign_in(&self.issuer, CLIENT_ID).await.unwrap()
    }

    /// Steps 3 to 5 without a client: the feed, or the code of its refusal.
    pub async fn feed(&self, bearer: Option<&str>) -> Result<Feed, Code> {
        let url = format!("{}/api/feed", self.stage.world.broker_url());
        let feed = self.stage.https.get_json(Purpose::FEED, &url, bearer).await;
        feed.map_err(|error| error.refusal().unwrap_or_else(|| panic!("{error}")).code)
    }

    /// Steps 3 to 6.
    pub async fn subscribe(
        &self,
        token: &str,
        timeline: Option<Timeline>,
    ) -> Result<Vec<StoredFile>, SubscribeError> {
        let world = &self.stage.world;
        let settings = SubscribeSettings {
            broker: world.broker_url().parse().unwrap(),
            token: Secret::new(token.to_owned()).into(),
            out: self.out(),
            roots: world.roots().unwrap(),
            signers: read_chain(&self.ca_file()).unwrap(),
            tls: TlsSettings::default(),
            dial: DialLimits::default(),
            timeline,
        };
        subscribe::fetch(&settings).await.map(|subscription| subscription.files)
    }

    /// Where files are stored.
    pub fn out(&self) -> PathBuf {
        self.folder.path().join("desktops")
    }

    /// The broker's CA.
    pub fn ca_file(&self) -> PathBuf {
        self.stage.world.ca_file().unwrap()
    }

    /// A CA that has nothing to do with the broker.
    pub fn other_ca_file(&self) -> PathBuf {
        self.folder.path().join("issuer-ca.pem")
    }

    /// Every file that any of us has written so far.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(self.folder.path(), &mut found);
        collect(self.stage.world.directory(), &mut found);
        found
    }

    pub async fn end(self) {
        self.stage.shutdown().await;
        self.issuer.shutdown().await;
    }
}

async fn issuer(ca: &TestCa) -> Issuer {
    let settings = IssuerSettings {
        host: HOST.into(),
        client_id: CLIENT_ID.into(),
        audience: CLIENT_ID.into(),
        user: DemoUser { subject: "1".into(), name: USER.into(), groups: vec!["staff".into()] },
    };
    Issuer::start(ca.server_tls(), settings).await.unwrap()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            collect(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}
