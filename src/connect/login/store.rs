//! Sign-ins as files: one per broker, mode 0600, in a directory of mode 0700.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::LoginError;
use super::provider::{ClientFacts, Tokens};
use crate::config::state_dir::StateDir;
use crate::core::clock::UnixMillis;
use crate::core::secret::Secret;
use crate::dial::Endpoint;

const SUFFIX: &str = ".json";
/// Tokens that last no longer than this are renewed: they have to reach
/// gateway and broker, whose clocks may be ahead.
const RENEW_BEFORE_MS: u64 = 90_000;
/// Longer than a request to a provider may take.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Gateways of one broker that are remembered.
const GATEWAYS_MAX: usize = 64;

/// One sign-in at one broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Login {
    /// `https://host:port`.
    pub broker: String,
    pub workspace: String,
    /// Who signed in, as the broker calls them.
    pub user: String,
    pub client: ClientFacts,
    /// Trust roots of the provider, when they are not the public web's.
    pub issuer_ca: Option<PathBuf>,
    pub access_token: Secret,
    pub refresh_token: Option<Secret>,
    pub expires_at: UnixMillis,
    /// `host:port` of the gateways that this broker's files name: only there
    /// does the token go.
    #[serde(default)]
    pub gateways: Vec<String>,
}

impl Login {
    /// Whether the access token can still be used at all.
    #[must_use]
    pub fn is_alive(&self, now: UnixMillis) -> bool {
        now < self.expires_at
    }

    /// Whether it can be used without a thought.
    #[must_use]
    pub fn is_fresh(&self, now: UnixMillis) -> bool {
        self.is_alive(now.plus_ms(RENEW_BEFORE_MS))
    }

    /// Takes new tokens. A provider that sends no new refresh token means the
    /// old one to go on (RFC 6749 6).
    pub fn renew(&mut self, tokens: Tokens, now: UnixMillis) {
        self.access_token = tokens.access_token;
        self.refresh_token = tokens.refresh_token.or(self.refresh_token.take());
        self.expires_at = now.plus_ms(tokens.expires_in_s.saturating_mul(1_000));
    }

    /// Remembers gateways, the newest first.
    pub fn learn(&mut self, gateways: impl IntoIterator<Item = String>) {
        for gateway in gateways {
            self.gateways.retain(|known| *known != gateway);
            self.gateways.insert(0, gateway);
        }
        self.gateways.truncate(GATEWAYS_MAX);
    }
}

/// All sign-ins of this user.
#[derive(Clone, Debug)]
pub struct Logins {
    path: PathBuf,
    dir: StateDir,
}

/// While it lives, no other command changes that sign-in.
#[derive(Debug)]
pub struct Lock {
    _open: File,
}

impl Logins {
    /// Opens the directory, which is closed to everybody else.
    ///
    /// # Errors
    /// When there is no place for it, or it is not ours.
    pub fn open(state_dir: Option<&Path>) -> Result<Self, LoginError> {
        let path = match state_dir {
            Some(path) => path.to_owned(),
            None => default_path().ok_or(LoginError::NoHome)?,
        };
        let dir = StateDir::open(&path)?;
        dir.make_private()?;
        Ok(Self { path, dir })
    }

    /// # Errors
    /// When there is a file and it cannot be read.
    pub fn read(&self, broker: &Endpoint) -> Result<Option<Login>, LoginError> {
        self.read_file(&file_name(broker))
    }

    fn read_file(&self, name: &str) -> Result<Option<Login>, LoginError> {
        let Some(json) = self.dir.read(name)? else { return Ok(None) };
        serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| LoginError::Stored { path: self.dir.file(name), error })
    }

    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, login: &Login) -> Result<(), LoginError> {
        let broker = login.broker.parse()?;
        // Large enough not to be moved, which would leave a copy.
        let mut json = Zeroizing::new(Vec::with_capacity(256 * 1024));
        serde_json::to_writer(&mut *json, login).map_err(|error| LoginError::Stored {
            path: self.dir.file(&file_name(&broker)),
            error,
        })?;
        Ok(self.dir.write(&file_name(&broker), &json)?)
    }

    /// Forgets a sign-in. Whether there was one.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn remove(&self, broker: &Endpoint) -> Result<bool, LoginError> {
        match std::fs::remove_file(self.dir.file(&file_name(broker))) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(LoginError::Remove(error)),
        }
    }

    /// Every sign-in, by the broker's address.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn all(&self) -> Result<Vec<Login>, LoginError> {
        let mut names: Vec<_> = std::fs::read_dir(&self.path)
            .map_err(LoginError::List)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(SUFFIX))
            .collect();
        names.sort();
        let logins = names.iter().map(|name| self.read_file(name));
        Ok(logins.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Waits until no other command changes that sign-in.
    ///
    /// # Errors
    /// When another one does not let go of it.
    pub async fn lock(&self, broker: &Endpoint) -> Result<Lock, LoginError> {
        let path = self.dir.file(&format!("{}.lock", file_name(broker)));
        let open =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = open.map_err(LoginError::Lock)?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _open: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    sleep(LOCK_POLL).await;
                }
                Err(error) => return Err(LoginError::Lock(error.into())),
            }
        }
    }
}

/// A host is a DNS name or an address: no slash, and nothing before a dot.
fn file_name(broker: &Endpoint) -> String {
    format!("{}@{}{SUFFIX}", broker.host(), broker.port())
}

/// XDG Base Directory: state that is the user's own.
fn default_path() -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    Some(state?.join("ringway/logins"))
}
