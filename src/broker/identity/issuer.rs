//! The signing keys of an OIDC issuer: discovered, fetched, kept, renewed.
//!
//! Known keys answer at once. They are renewed in the background when they get
//! old, and in the foreground when a token names a key that is not among them,
//! but never more often than once in `fetch_interval_min`: strangers cannot make us
//! hammer the issuer. While it cannot be reached, known keys stay good for the
//! offline grace.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::core::codes::{Code, Refusal};

/// Keys older than this are renewed.
const REFRESH_AFTER: Duration = Duration::from_secs(3_600);
/// Both documents are a few KiB in practice.
const DOCUMENT_BYTES_MAX: usize = 512 * 1024;
const KEYS_MAX: usize = 64;

/// Why the issuer's keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error("cannot fetch {url}: {error}")]
    Fetch { url: String, error: reqwest::Error },
    #[error("{url} answered {status}")]
    Status { url: String, status: u16 },
    #[error("{url} sent more than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge { url: String },
    #[error("{url} is not what it should be: {problem}")]
    Content { url: String, problem: String },
}

#[derive(Debug)]
struct Known {
    keys: Vec<Jwk>,
    fetched_at: Instant,
}

/// One issuer.
#[derive(Debug)]
pub struct IssuerKeys {
    client: reqwest::Client,
    issuer: String,
    offline_grace: Duration,
    fetch_interval_min: Duration,
    known: RwLock<Option<Arc<Known>>>,
    /// When it was last asked. Held while asking, so that one asks for all.
    last_fetch: Mutex<Option<Instant>>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

impl IssuerKeys {
    #[must_use]
    pub fn new(
        client: reqwest::Client,
        issuer: String,
        offline_grace: Duration,
        fetch_interval_min: Duration,
    ) -> Self {
        Self {
            client,
            issuer,
            offline_grace,
            fetch_interval_min,
            known: RwLock::new(None),
            last_fetch: Mutex::new(None),
        }
    }

    /// The keys, from memory when they are there.
    ///
    /// # Errors
    /// [`Code::IdentityUnavailable`] when there are none, or only keys past
    /// the offline grace.
    pub async fn keys(self: &Arc<Self>) -> Result<Vec<Jwk>, Refusal> {
        if let Some(known) = self.usable() {
            if known.fetched_at.elapsed() > REFRESH_AFTER {
                let this = Arc::clone(self);
                tokio::spawn(async move { this.fetch_unless_recent().await });
            }
            return Ok(known.keys.clone());
        }
        self.fetch_unless_recent().await;
        self.usable().map(|known| known.keys.clone()).ok_or_else(|| Refusal {
            retry_after_ms: Some(1_000),
            ..Code::IdentityUnavailable.into()
        })
    }

    /// The keys after another look at the issuer, for a token whose key is not
    /// among the known ones. `None` when it was asked only just now.
    pub async fn renewed_keys(&self) -> Option<Vec<Jwk>> {
        let renewed = self.fetch_unless_recent().await;
        self.usable().filter(|_| renewed).map(|known| known.keys.clone())
    }

    fn usable(&self) -> Option<Arc<Known>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        (known.fetched_at.elapsed() <= REFRESH_AFTER + self.offline_grace).then_some(known)
    }

    async fn fetch_unless_recent(&self) -> bool {
        let asked_at = Instant::now();
        let mut last_fetch = self.last_fetch.lock().await;
        match *last_fetch {
            // Somebody fetched while we waited for the lock: as good as ours.
            Some(at) if at >= asked_at => return true,
            Some(at) if at.elapsed() < self.fetch_interval_min => return false,
            _ => {}
        }
        let fetched = self.fetch().await;
        *last_fetch = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                tracing::info!(issuer = %self.issuer, keys = keys.len(), "Read the identity provider's keys");
                let known = Arc::new(Known { keys, fetched_at: Instant::now() });
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
                true
            }
            Err(error) => {
                tracing::warn!(issuer = %self.issuer, %error, "Cannot read the identity provider's keys");
                false
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Jwk>, IssuerError> {
        let issuer = self.issuer.trim_end_matches('/');
        let url = format!("{issuer}/.well-known/openid-configuration");
        let discovery: Discovery = self.document(&url).await?;
        // OpenID Connect Discovery 4.3: it must be exactly the issuer asked.
        if discovery.issuer != self.issuer {
            let problem = format!("it speaks for {}", discovery.issuer);
            return Err(IssuerError::Content { url, problem });
        }
        if !discovery.jwks_uri.starts_with("https://") {
            return Err(IssuerError::Content { url, problem: "jwks_uri is not https".into() });
        }
        let set: KeySet = self.document(&discovery.jwks_uri).await?;
        // Keys of kinds that we do not know are for others.
        let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        Ok(keys.take(KEYS_MAX).collect())
    }

    async fn document<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, IssuerError> {
        let fetch = |error| IssuerError::Fetch { url: url.into(), error };
        let mut response = self.client.get(url).send().await.map_err(fetch)?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            return Err(IssuerError::Status { url: url.into(), status });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(fetch)? {
            if body.len() + chunk.len() > DOCUMENT_BYTES_MAX {
                return Err(IssuerError::TooLarge { url: url.into() });
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body)
            .map_err(|error| IssuerError::Content { url: url.into(), problem: error.to_string() })
    }
}
