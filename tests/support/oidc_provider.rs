//! A real OpenID Connect provider: npm's `oidc-provider` on loopback, installed
//! once into the build folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ringway::config::broker::Identity;
use ringway::dial::http::HttpsClient;
use ringway::dial::{DialLimits, Purpose};
use serde_json::Value;
use tempfile::TempDir;

use super::ca::TestCa;
use super::process::Process;
use super::programs::{available, said, skip};
use super::wait::until;

/// The client of `ringway login`, as the provider knows it.
const CLIENT_ID: &str = "ringway-connect";
const FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("oidc-provider/package.json")),
    ("package-lock.json", include_str!("oidc-provider/package-lock.json")),
    ("server.mjs", include_str!("oidc-provider/server.mjs")),
];
/// Written when all of it is there.
const INSTALLED: &str = "installed";

pub struct OidcProvider {
    pub issuer: String,
    pub ca: TestCa,
    folder: TempDir,
    process: Process,
    https: HttpsClient,
}

impl OidcProvider {
    /// A running provider; `None`, and the reason said, where there can be none.
    pub async fn start() -> Option<Self> {
        ringway::tls::install_provider();
        let program = install()?;
        let (ca, folder) = (TestCa::new(), tempfile::tempdir().unwrap());
        ca.write_server(folder.path());
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        let mut node = Command::new("node");
        node.arg(program.join("server.mjs")).arg(folder.path()).arg("0");
        let process = Process::start(folder.path(), "provider", &node);
        let port = || {
            let printed = process.printed();
            let line = printed.lines().find_map(|line| line.strip_prefix("listening "))?;
            Some(line.to_owned())
        };
        until("the identity provider listens", || port().is_some()).await;
        let issuer = format!("https://localhost:{}", port().unwrap());
        let https = HttpsClient::new(ca.client_tls(), DialLimits::default()).unwrap();
        Some(Self { issuer, ca, folder, process, https })
    }

    /// What a broker needs to know.
    pub fn identity(&self) -> Identity {
        Identity {
            issuer: Some(self.issuer.clone()),
            audience: Some("ringway".into()),
            client_id: Some(CLIENT_ID.into()),
            ca_file: Some(self.ca_file()),
            algorithms: vec!["ES256".into()],
            user_claim: Some("preferred_username".into()),
            ..Identity::default()
        }
    }

    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// An access token of a machine, which needs nobody to sign in.
    pub async fn token(&self) -> String {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "load"),
            ("client_secret", "of the load test"),
        ];
        let url = format!("{}/token", self.issuer);
        let (status, body) = self.https.post_form(Purpose::SIGN_IN, &url, &form).await.unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// Signs with a new key from now on; publishes the one before as well.
    pub async fn rotate(&self) {
        let url = format!("{}/control/rotate", self.issuer);
        self.https.post_form(Purpose::SIGN_IN, &url, &[]).await.unwrap();
    }

    /// How often tokens were given for that.
    pub async fn grants(&self, kind: &str) -> u64 {
        let url = format!("{}/control/grants", self.issuer);
        let grants: Value = self.https.get_json(Purpose::SIGN_IN, &url, None).await.unwrap();
        grants[kind].as_u64().unwrap_or_default()
    }

    /// Ends it without a word.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// Where it is installed; `None`, and the reason said, when it cannot be.
fn install() -> Option<PathBuf> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER.get_or_init(install_once).clone()
}

fn install_once() -> Option<PathBuf> {
    if !available(&["node", "npm"]) {
        return None;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oidc-provider");
    std::fs::create_dir_all(&folder).unwrap();
    let lock = FILES[1].1;
    for (name, text) in FILES {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let marker = folder.join(INSTALLED);
    if std::fs::read_to_string(&marker).is_ok_and(|installed| installed == lock) {
        return Some(folder);
    }
    let mut npm = Command::new("timeout");
    npm.args(["120", "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    let output = npm.current_dir(&folder).output().unwrap();
    if !output.status.success() {
        skip(&format!("npm cannot install the identity provider: {}", said(&output)));
        return None;
    }
    std::fs::write(&marker, lock).unwrap();
    Some(folder)
}
