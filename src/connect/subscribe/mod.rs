//! `ringway subscribe`: the user's desktops and applications, fetched from the
//! feed and stored as `.rdp` files (steps 1, 3, 5 and 6), once or again and
//! again.
//!
//! The directory is not ours alone. What we wrote there is in a [`record`];
//! files of others are neither replaced nor removed.

mod command;
mod record;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use serde::Serialize;

use super::login::LoginError;
use super::session;
use super::token::TokenSource;
use crate::config::state_dir::write_whole;
use crate::core::clock::UnixMillis;
use crate::core::ids::ResourceId;
use crate::dial::http::{Fetched, HttpsClient};
use crate::dial::{DialError, DialLimits, Endpoint, Purpose};
use crate::observe::timeline::{Teller, Timeline};
use crate::tls::settings::TlsSettings;
use crate::wire::feed::{Discovery, Feed, FeedResource, ResourceKind, file_stem};
use crate::wire::rdp_file::{FILE_BYTES_MAX, RdpFile, RdpFileError};
use crate::wire::rdp_signature::{self, SignatureError};
pub use command::{Args, run};
use record::{Entry, Record};

/// More resources than this are not fetched.
pub const RESOURCES_MAX: usize = 1_000;

/// One subscription.
#[derive(Clone)]
pub struct SubscribeSettings {
    pub broker: Endpoint,
    pub token: TokenSource,
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

/// What the user has now, and what became of the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subscription {
    pub workspace: String,
    pub user: String,
    pub files: Vec<StoredFile>,
    /// Of resources that are not assigned any more, or have another title.
    pub removed: Vec<PathBuf>,
    /// The same, but changed by somebody else since, and therefore kept.
    pub left_behind: Vec<PathBuf>,
}

impl Subscription {
    /// Whether anything is different from before.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.files.iter().any(|file| file.written)
            || !self.removed.is_empty()
            || !self.left_behind.is_empty()
    }
}

/// One file that is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredFile {
    pub id: ResourceId,
    pub title: String,
    #[serde(rename = "type")]
    pub kind: ResourceKind,
    pub path: PathBuf,
    /// RFC 4514 name of the signer, when its signature was verified.
    pub signer: Option<String>,
    /// Just now; else it was there already and is still right.
    pub written: bool,
}

/// Why a subscription failed.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot set up HTTPS: {0}")]
    Https(#[from] reqwest::Error),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the feed cannot be read: {0}")]
    Feed(serde_json::Error),
    #[error("the feed lists {0} resources, more than the {RESOURCES_MAX} that are fetched")]
    TooMany(usize),
    #[error("the feed names {0} twice")]
    Twice(ResourceId),
    #[error("the feed names {0:?} as the place of a file, which is not a path on the broker")]
    Path(String),
    #[error("what the broker sent for {id} is not an .rdp file: {error}")]
    File { id: ResourceId, error: RdpFileError },
    #[error("the file of {id} is not trusted: {error}")]
    Signature { id: ResourceId, error: SignatureError },
    #[error("{0} is somebody else's file; move it away, or choose another directory with --out")]
    Occupied(PathBuf),
    #[error("cannot store {path}: {error}")]
    Store { path: PathBuf, error: std::io::Error },
}

/// A file as it will be.
struct Planned {
    resource: FeedResource,
    name: String,
    /// `None`: it is there already.
    bytes: Option<Vec<u8>>,
    sha256: String,
    signer: Option<String>,
}

/// Makes the directory what the feed says. Nothing that is there and still
/// right is fetched or written again; nothing is stored before all files are
/// here and in order.
///
/// # Errors
/// The broker's refusal, or what failed.
pub async fn fetch(settings: &SubscribeSettings) -> Result<Subscription, SubscribeError> {
    let teller = Teller::new("connect", settings.timeline.clone());
    let tls = settings.tls.client(settings.roots.clone())?;
    let https = HttpsClient::new(tls, settings.dial)?;
    let url = |path: &str| settings.broker.url(path);
    let token = settings.token.current().await?;
    let bearer = Some(token.expose());

    let discovery: Discovery =
        https.get_json(Purpose::DISCOVER, &url("/api/feed/discovery"), None).await?;
    tracing::info!(step = 1, workspace = %discovery.workspace, "Found the workspace");
    teller.tell(1, None, format!("workspace {}", discovery.workspace));

    teller.tell(3, None, format!("token passed to {}", settings.broker));
    let record = Record::read(&settings.out, &settings.broker);
    let before: Vec<_> = record.files.iter().map(|entry| intact(settings, entry)).collect();
    // What is missing here has to be fetched, whatever the feed says.
    let known = record.tag.as_deref().filter(|_| before.iter().all(Option::is_some));
    let fetched = https.get_if_changed(Purpose::FEED, &url("/api/feed"), bearer, known).await?;
    let Fetched::Body { bytes, tag } = fetched else {
        // Whoever has signed in anew has the files already.
        let checked = || before.iter().flatten().map(|intact| &intact.checked);
        let gateways: BTreeSet<_> = checked().filter_map(|file| file.gateway.clone()).collect();
        settings.token.learn_gateways(gateways.into_iter().collect()).await?;
        let signers = checked().map(|file| file.signer.clone());
        let files = record.files.iter().zip(signers);
        let files = files.map(|(entry, signer)| entry.stored(&settings.out, signer, false));
        teller.tell(5, None, "nothing has changed");
        return Ok(Subscription {
            files: files.collect(),
            workspace: record.workspace,
            user: record.user,
            removed: Vec::new(),
            left_behind: Vec::new(),
        });
    };
    let feed: Feed = serde_json::from_slice(&bytes).map_err(SubscribeError::Feed)?;
    let mut planned = Vec::new();
    let (mut names, mut ids) = (HashSet::new(), HashSet::new());
    let mut gateways = BTreeSet::new();
    if feed.resources.len() > RESOURCES_MAX {
        return Err(SubscribeError::TooMany(feed.resources.len()));
    }
    for resource in feed.resources {
        if !ids.insert(resource.id.clone()) {
            return Err(SubscribeError::Twice(resource.id));
        }
        let place = record.files.iter().position(|entry| entry.id == resource.id);
        let old = place.and_then(|place| record.files.get(place));
        let was = place.and_then(|place| before.get(place)).and_then(Option::as_ref);
        let same =
            old.is_some_and(|old| old.revision.is_some() && old.revision == resource.revision);
        let Whole { bytes, checked } = match was.filter(|_| same) {
            Some(intact) => intact.clone(),
            None => get(settings, &https, bearer, &resource).await?,
        };
        gateways.extend(checked.gateway);
        let sha256 = record::sha256(&bytes);
        let name = free_name(settings, &record, &resource, &bytes, &mut names)?;
        let there = was.is_some() && old.is_some_and(|o| o.name == name && o.sha256 == sha256);
        let bytes = (!there).then_some(bytes);
        planned.push(Planned { resource, name, bytes, sha256, signer: checked.signer });
    }
    tracing::info!(step = 5, user = %feed.user, resources = planned.len(), "Got the feed");
    teller.tell(5, None, format!("{} signed configurations", planned.len()));

    settings.token.learn_gateways(gateways.into_iter().collect()).await?;
    let now = Record {
        tag,
        workspace: printable(&discovery.workspace),
        user: printable(&feed.user),
        files: planned.iter().map(Planned::entry).collect(),
    };
    let subscription = store(settings, &record, now, planned)?;
    let count = subscription.files.len();
    tracing::info!(step = 6, files = count, out = %settings.out.display(), "Stored the files");
    teller.tell(6, None, format!("{count} files stored"));
    Ok(subscription)
}

/// Writes what is new, then removes what is old, then says what is there. Cut
/// off in between, the next time finds its own files by their content.
fn store(
    settings: &SubscribeSettings,
    before: &Record,
    now: Record,
    planned: Vec<Planned>,
) -> Result<Subscription, SubscribeError> {
    let out = &settings.out;
    let fail = |path: &Path| {
        let path = path.to_owned();
        |error| SubscribeError::Store { path, error }
    };
    std::fs::create_dir_all(out).map_err(fail(out))?;
    for file in &planned {
        if let Some(bytes) = &file.bytes {
            let path = out.join(&file.name);
            write_whole(&path, bytes, None).map_err(fail(&path))?;
        }
    }
    let (mut removed, mut left_behind) = (Vec::new(), Vec::new());
    for old in &before.files {
        if planned.iter().any(|file| file.name == old.name) {
            continue;
        }
        let path = out.join(&old.name);
        match read_bounded(&path) {
            Ok(bytes) if record::sha256(&bytes) == old.sha256 => {
                std::fs::remove_file(&path).map_err(fail(&path))?;
                removed.push(path);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Ok(_) | Err(_) => left_behind.push(path),
        }
    }
    if now != *before {
        now.write(out, &settings.broker).map_err(fail(&record::path(out, &settings.broker)))?;
    }
    let files = planned.into_iter().map(|file| {
        let written = file.bytes.is_some();
        file.entry().stored(out, file.signer, written)
    });
    Ok(Subscription {
        files: files.collect(),
        workspace: now.workspace,
        user: now.user,
        removed,
        left_behind,
    })
}

impl Planned {
    fn entry(&self) -> Entry {
        Entry {
            id: self.resource.id.clone(),
            title: printable(&self.resource.title),
            kind: self.resource.kind,
            name: self.name.clone(),
            sha256: self.sha256.clone(),
            revision: self.resource.revision.clone(),
        }
    }
}

impl Entry {
    fn stored(&self, out: &Path, signer: Option<String>, written: bool) -> StoredFile {
        StoredFile {
            id: self.id.clone(),
            title: self.title.clone(),
            kind: self.kind,
            path: out.join(&self.name),
            signer,
            written,
        }
    }
}

/// A file that was looked at and found right.
#[derive(Clone)]
struct Whole {
    bytes: Vec<u8>,
    checked: Checked,
}

#[derive(Clone)]
struct Checked {
    /// Unless signatures are not looked at.
    signer: Option<String>,
    /// The gateway that it names: a stored sign-in may be used there.
    gateway: Option<String>,
}

/// A file that is as we wrote it, and trusted as if it had come just now.
fn intact(settings: &SubscribeSettings, entry: &Entry) -> Option<Whole> {
    let bytes = read_bounded(&settings.out.join(&entry.name)).ok()?;
    if record::sha256(&bytes) != entry.sha256 {
        return None;
    }
    let checked = check(&entry.id, &bytes, &settings.signers).ok()?;
    Some(Whole { bytes, checked })
}

async fn get(
    settings: &SubscribeSettings,
    https: &HttpsClient,
    bearer: Option<&str>,
    resource: &FeedResource,
) -> Result<Whole, SubscribeError> {
    let path = &resource.rdp_path;
    if !path.starts_with('/') || path.starts_with("//") {
        return Err(SubscribeError::Path(path.clone()));
    }
    let url = settings.broker.url(path);
    let bytes = https.get(Purpose::FEED, &url, bearer).await?;
    let checked = check(&resource.id, &bytes, &settings.signers)?;
    Ok(Whole { bytes: bytes.to_vec(), checked })
}

fn check(
    id: &ResourceId,
    bytes: &[u8],
    signers: &[CertificateDer<'_>],
) -> Result<Checked, SubscribeError> {
    let id = || id.clone();
    let file = RdpFile::parse(bytes).map_err(|error| SubscribeError::File { id: id(), error })?;
    let gateway = session::entry(&file).ok().map(|gateway| gateway.authority());
    if signers.is_empty() {
        return Ok(Checked { signer: None, gateway });
    }
    rdp_signature::verify(&file, signers, UnixMillis::now())
        .map(|verified| Checked { signer: Some(verified.signer_subject), gateway })
        .map_err(|error| SubscribeError::Signature { id: id(), error })
}

/// A name for people, from the title; with the id where titles meet or where
/// somebody else's file is.
fn free_name(
    settings: &SubscribeSettings,
    record: &Record,
    resource: &FeedResource,
    bytes: &[u8],
    taken: &mut HashSet<String>,
) -> Result<String, SubscribeError> {
    let stem = file_stem(&resource.title, &resource.id);
    let names = [format!("{stem}.rdp"), format!("{stem} ({}).rdp", resource.id)];
    // File systems that ignore case must not lose one of two.
    let free = |name: &&String| {
        let path = settings.out.join(name);
        let ours = record.files.iter().any(|entry| entry.name == **name);
        let foreign = !ours
            && path.symlink_metadata().is_ok()
            && read_bounded(&path).ok().as_deref() != Some(bytes);
        !foreign && !taken.contains(&name.to_lowercase())
    };
    let name = names.iter().find(free).cloned();
    let [first, _] = names;
    let name = name.ok_or_else(|| SubscribeError::Occupied(settings.out.join(first)))?;
    taken.insert(name.to_lowercase());
    Ok(name)
}

/// One byte more than a file may have is enough to see that it is none of ours.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Texts of the broker's, without what would move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
