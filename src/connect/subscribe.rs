//! `ringway subscribe`: the user's desktops and applications, fetched from the
//! feed and stored as `.rdp` files (steps 1, 3, 5 and 6).

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use serde_json::json;

use super::token::TokenArgs;
use crate::config::state_dir::write_whole;
use crate::core::clock::UnixMillis;
use crate::core::ids::ResourceId;
use crate::core::secret::Secret;
use crate::dial::http::HttpsClient;
use crate::dial::{DialError, DialLimits, Endpoint, Purpose};
use crate::observe::timeline::{Teller, Timeline};
use crate::tls::identity::{read_chain, read_roots};
use crate::tls::settings::TlsSettings;
use crate::wire::feed::{Discovery, Feed, FeedResource, ResourceKind};
use crate::wire::rdp_file::{RdpFile, RdpFileError};
use crate::wire::rdp_signature::{self, SignatureError};

/// More resources than this are not fetched.
pub const RESOURCES_MAX: usize = 1_000;

/// Bytes of a title that go into a file name: with an id and the ending it
/// stays below the 255 that file systems allow.
const TITLE_BYTES_MAX: usize = 150;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the workspace, e.g. https://broker.example:8443
    #[arg(value_name = "URL")]
    broker: Endpoint,
    #[command(flatten)]
    token: TokenArgs,
    /// Where to store the files
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Trust this CA for the broker, and as issuer of signers [default: the
    /// public web's, and any signer]
    #[arg(long, value_name = "PEM")]
    ca: Option<PathBuf>,
    /// Store only files signed by this certificate or CA [default: --ca]
    #[arg(long, value_name = "PEM")]
    trust_signer: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let signers = match args.trust_signer.as_ref().or(args.ca.as_ref()) {
        Some(path) => read_chain(path)?,
        None => Vec::new(),
    };
    let settings = SubscribeSettings {
        broker: args.broker,
        token: args.token.read()?,
        out: args.out,
        roots: read_roots(args.ca.as_deref())?,
        signers,
        tls: TlsSettings::default(),
        dial: DialLimits::default(),
        timeline: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Subscription { workspace, user, files } = runtime.block_on(fetch(&settings))?;
    if args.json {
        println!("{}", json!({ "workspace": workspace, "user": user, "files": files }));
        return Ok(ExitCode::SUCCESS);
    }
    println!("Workspace {workspace}, {user}");
    if files.is_empty() {
        println!("Nothing is assigned to you; ask the operator.");
    }
    let width = files.iter().map(|file| file.title.chars().count()).max().unwrap_or_default();
    for file in &files {
        let kind = match file.kind {
            ResourceKind::Desktop => "desktop",
            ResourceKind::RemoteApp => "application",
        };
        println!("  {:width$}  {kind:11}  {}", file.title, file.path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// One subscription.
#[derive(Clone)]
pub struct SubscribeSettings {
    pub broker: Endpoint,
    pub token: Secret,
    /// Where the files go.
    pub out: PathBuf,
    /// Trust in the broker.
    pub roots: RootCertStore,
    /// Trust in signers; when there are none, signatures are not looked at
    /// (`ringway connect` does, later).
    pub signers: Vec<CertificateDer<'static>>,
    pub tls: TlsSettings,
    pub dial: DialLimits,
    pub timeline: Option<Timeline>,
}

impl std::fmt::Debug for SubscribeSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscribeSettings")
            .field("broker", &self.broker)
            .field("out", &self.out)
            .finish_non_exhaustive()
    }
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subscription {
    pub workspace: String,
    pub user: String,
    pub files: Vec<StoredFile>,
}

/// One file that was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredFile {
    pub id: ResourceId,
    pub title: String,
    #[serde(rename = "type")]
    pub kind: ResourceKind,
    pub path: PathBuf,
    /// RFC 4514 name of the signer, when its signature was verified.
    pub signer: Option<String>,
}

/// Why a subscription failed.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot set up HTTPS: {0}")]
    Https(#[from] reqwest::Error),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the feed lists {0} resources, more than the {RESOURCES_MAX} that are fetched")]
    TooMany(usize),
    #[error("the feed names {0:?} as the place of a file, which is not a path on the broker")]
    Path(String),
    #[error("what the broker sent for {id} is not an .rdp file: {error}")]
    File { id: ResourceId, error: RdpFileError },
    #[error("the file of {id} is not trusted: {error}")]
    Signature { id: ResourceId, error: SignatureError },
    #[error("cannot store {path}: {error}")]
    Store { path: PathBuf, error: std::io::Error },
}

/// Fetches the feed and stores every file. Nothing is stored before all files
/// are here and in order.
///
/// # Errors
/// The broker's refusal, or what failed.
pub async fn fetch(settings: &SubscribeSettings) -> Result<Subscription, SubscribeError> {
    let teller = Teller::new("connect", settings.timeline.clone());
    let tls = settings.tls.client(settings.roots.clone())?;
    let https = HttpsClient::new(tls, settings.dial)?;
    let url = |path: &str| settings.broker.url(path);
    let bearer = Some(settings.token.expose());

    let discovery: Discovery =
        https.get_json(Purpose::DISCOVER, &url("/api/feed/discovery"), None).await?;
    tracing::info!(step = 1, workspace = %discovery.workspace, "Found the workspace");
    teller.tell(1, None, format!("workspace {}", discovery.workspace));

    teller.tell(3, None, format!("token passed to {}", settings.broker));
    let feed: Feed = https.get_json(Purpose::FEED, &url("/api/feed"), bearer).await?;
    if feed.resources.len() > RESOURCES_MAX {
        return Err(SubscribeError::TooMany(feed.resources.len()));
    }
    let mut fetched = Vec::new();
    for resource in feed.resources {
        let path = &resource.rdp_path;
        if !path.starts_with('/') || path.starts_with("//") {
            return Err(SubscribeError::Path(path.clone()));
        }
        let bytes = https.get(Purpose::FEED, &url(path), bearer).await?;
        let signer = check(&resource, &bytes, &settings.signers)?;
        fetched.push((resource, bytes, signer));
    }
    tracing::info!(step = 5, user = %feed.user, resources = fetched.len(), "Got the feed");
    teller.tell(5, None, format!("{} signed configurations", fetched.len()));

    let mut names = HashSet::new();
    let mut files = Vec::new();
    for (resource, bytes, signer) in fetched {
        let path = settings.out.join(file_name(&resource, &mut names));
        std::fs::create_dir_all(&settings.out)
            .and_then(|()| write_whole(&path, &bytes, None))
            .map_err(|error| SubscribeError::Store { path: path.clone(), error })?;
        let FeedResource { id, title, kind, .. } = resource;
        files.push(StoredFile { id, title: printable(&title), kind, path, signer });
    }
    tracing::info!(step = 6, files = files.len(), out = %settings.out.display(), "Stored the files");
    teller.tell(6, None, format!("{} files stored", files.len()));
    let Discovery { workspace, .. } = discovery;
    Ok(Subscription { workspace: printable(&workspace), user: printable(&feed.user), files })
}

fn check(
    resource: &FeedResource,
    bytes: &[u8],
    signers: &[CertificateDer<'_>],
) -> Result<Option<String>, SubscribeError> {
    let id = || resource.id.clone();
    let file = RdpFile::parse(bytes).map_err(|error| SubscribeError::File { id: id(), error })?;
    if signers.is_empty() {
        return Ok(None);
    }
    rdp_signature::verify(&file, signers, UnixMillis::now())
        .map(|verified| Some(verified.signer_subject))
        .map_err(|error| SubscribeError::Signature { id: id(), error })
}

/// A name for people, from the title; the id where titles meet. What could
/// leave the directory, hide the file or need quoting becomes a dash.
fn file_name(resource: &FeedResource, taken: &mut HashSet<String>) -> String {
    let mut cleaned: String = resource
        .title
        .chars()
        .map(|c| if c.is_alphanumeric() || " ._()+-".contains(c) { c } else { '-' })
        .take(TITLE_BYTES_MAX)
        .collect();
    while cleaned.len() > TITLE_BYTES_MAX {
        cleaned.pop();
    }
    let cleaned = cleaned.trim_matches([' ', '.', '-']);
    let stem = if cleaned.is_empty() { resource.id.as_str() } else { cleaned };
    // File systems that ignore case must not lose one of two.
    let name = if taken.insert(stem.to_lowercase()) {
        stem.to_owned()
    } else {
        format!("{stem} ({})", resource.id)
    };
    taken.insert(name.to_lowercase());
    format!("{name}.rdp")
}

/// Texts of the broker's, without what would move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
#[path = "subscribe_tests.rs"]
mod tests;
