//! What an OIDC issuer publishes (endpoints and signing keys): discovered,
//! fetched, kept, renewed.
//!
//! What is known answers at once. It is renewed in the background when it gets
//! old, and in the foreground when a token names a key that is not among the
//! known ones, but not more often than [`IssuerLimits`] says: strangers cannot
//! make us hammer the issuer. While it cannot be reached, known keys stay good
//! for the offline grace.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use reqwest::RequestBuilder;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::core::codes::{Code, Refusal};
use crate::wire::oidc::{DOCUMENT_BYTES_MAX, MetadataError, ProviderMetadata, TokenResponse};

const KEYS_MAX: usize = 64;

/// How old things get, and how often the issuer is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IssuerLimits {
    /// Older than this, they are renewed.
    pub refresh_after: Duration,
    /// For this long after that, they are used while the issuer is away.
    pub offline_grace: Duration,
    /// The issuer is asked once per interval in the long run,
    pub fetch_interval: Duration,
    /// and so often in a row after a quiet time: keys may change twice.
    pub fetches_in_a_row_max: u32,
}

/// Why the issuer's keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error("cannot fetch {url}: {error}")]
    Fetch { url: String, error: reqwest::Error },
    #[error("{url} answered {status}")]
    Status { url: String, status: u16 },
    #[error("{url} sent more than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge { url: String },
    #[error("{url} is not what it should be: {error}")]
    Metadata { url: String, error: MetadataError },
    #[error("{url} is no key set: {error}")]
    Keys { url: String, error: serde_json::Error },
    #[error("{url} gave no tokens: {error}")]
    Tokens { url: String, error: serde_json::Error },
}

/// What an issuer published at some moment.
#[derive(Debug)]
pub struct Published {
    pub metadata: ProviderMetadata,
    pub keys: Vec<Jwk>,
    fetched_at: Instant,
}

/// One issuer.
#[derive(Debug)]
pub struct Issuer {
    client: reqwest::Client,
    name: String,
    limits: IssuerLimits,
    known: RwLock<Option<Arc<Published>>>,
    /// Held while asking, so that one asks for all.
    asking: Mutex<Asking>,
}

/// When the issuer was asked, and how often it still may be.
#[derive(Debug)]
struct Asking {
    begun_at: Option<Instant>,
    left: u32,
    /// Since when there are that many left.
    counted_at: Instant,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

impl Issuer {
    #[must_use]
    pub fn new(client: reqwest::Client, name: String, limits: IssuerLimits) -> Self {
        let asking = Asking {
            begun_at: None,
            left: limits.fetches_in_a_row_max,
            counted_at: Instant::now(),
        };
        Self { client, name, limits, known: RwLock::new(None), asking: Mutex::new(asking) }
    }

    /// What it publishes, from memory when it is there.
    ///
    /// # Errors
    /// [`Code::IdentityUnavailable`] when nothing is known, or only what is
    /// past the offline grace.
    pub async fn published(self: &Arc<Self>) -> Result<Arc<Published>, Refusal> {
        if let Some(known) = self.usable() {
            if known.fetched_at.elapsed() > self.limits.refresh_after {
                let this = Arc::clone(self);
                tokio::spawn(async move { this.renew_unless_busy().await });
            }
            return Ok(known);
        }
        self.fetch_since(Instant::now()).await;
        self.usable().ok_or_else(|| Refusal {
            retry_after_ms: Some(1_000),
            ..Code::IdentityUnavailable.into()
        })
    }

    /// What it publishes after another look, for a token whose key is not among
    /// the known ones. `None` when it was asked too often of late, or is away.
    pub async fn renewed(&self) -> Option<Arc<Published>> {
        let renewed = self.fetch_since(Instant::now()).await;
        self.usable().filter(|_| renewed)
    }

    fn usable(&self) -> Option<Arc<Published>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let life = self.limits.refresh_after.saturating_add(self.limits.offline_grace);
        (known.fetched_at.elapsed() <= life).then_some(known)
    }

    /// In the background one is enough, however many notice that it is time.
    async fn renew_unless_busy(&self) {
        if let Ok(mut asking) = self.asking.try_lock() {
            self.fetch(&mut asking).await;
        }
    }

    /// Whether what is known was read after that moment: a look that began
    /// earlier may have missed what this caller was shown.
    async fn fetch_since(&self, moment: Instant) -> bool {
        let mut asking = self.asking.lock().await;
        if asking.begun_at.is_some_and(|begun_at| begun_at >= moment) {
            return true; // somebody asked while we waited
        }
        self.fetch(&mut asking).await
    }

    async fn fetch(&self, asking: &mut Asking) -> bool {
        let now = Instant::now();
        if !asking.take_one(now, self.limits) {
            return false;
        }
        asking.begun_at = Some(now);
        match self.ask(now).await {
            Ok(published) => {
                tracing::info!(
                    issuer = %self.name, keys = published.keys.len(),
                    "Read the identity provider's keys"
                );
                *self.known.write().unwrap_or_else(PoisonError::into_inner) =
                    Some(Arc::new(published));
                true
            }
            Err(error) => {
                tracing::warn!(issuer = %self.name, %error, "Cannot read the identity provider's keys");
                false
            }
        }
    }

    async fn ask(&self, now: Instant) -> Result<Published, IssuerError> {
        let url = ProviderMetadata::url(&self.name);
        let metadata = ProviderMetadata::read(&self.name, &self.document(&url).await?)
            .map_err(|error| IssuerError::Metadata { url, error })?;
        let url = &metadata.jwks_uri;
        let set: KeySet = serde_json::from_slice(&self.document(url).await?)
            .map_err(|error| IssuerError::Keys { url: url.clone(), error })?;
        // Keys of kinds that we do not know are for others.
        let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys = keys.take(KEYS_MAX).collect();
        Ok(Published { metadata, keys, fetched_at: now })
    }

    /// Exchanges an authorization code for tokens (RFC 6749 4.1.3).
    ///
    /// # Errors
    /// When the issuer refuses or cannot be reached.
    pub async fn redeem(
        &self,
        url: &str,
        form: &[(&str, &str)],
    ) -> Result<TokenResponse, IssuerError> {
        let body = Zeroizing::new(self.body(url, self.client.post(url).form(form)).await?);
        serde_json::from_slice(&body)
            .map_err(|error| IssuerError::Tokens { url: url.into(), error })
    }

    async fn document(&self, url: &str) -> Result<Vec<u8>, IssuerError> {
        self.body(url, self.client.get(url)).await
    }

    async fn body(&self, url: &str, request: RequestBuilder) -> Result<Vec<u8>, IssuerError> {
        let fetch = |error| IssuerError::Fetch { url: url.into(), error };
        let mut response = request.send().await.map_err(fetch)?;
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
        Ok(body)
    }
}

impl Asking {
    /// Takes one of what is left; each interval gives one back.
    fn take_one(&mut self, now: Instant, limits: IssuerLimits) -> bool {
        while self.left < limits.fetches_in_a_row_max
            && now.duration_since(self.counted_at) >= limits.fetch_interval
        {
            self.left += 1;
            self.counted_at += limits.fetch_interval;
        }
        if self.left == limits.fetches_in_a_row_max {
            self.counted_at = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_issuer_is_asked_a_few_times_in_a_row_and_then_once_per_interval() {
        let limits = IssuerLimits {
            refresh_after: Duration::ZERO,
            offline_grace: Duration::ZERO,
            fetch_interval: Duration::from_secs(10),
            fetches_in_a_row_max: 3,
        };
        let start = Instant::now();
        let mut asking = Asking { begun_at: None, left: 3, counted_at: start };
        let mut granted = |after_s: u64| {
            let now = start + Duration::from_secs(after_s);
            (0..5).filter(|_| asking.take_one(now, limits)).count()
        };
        assert_eq!([0, 9, 10, 11, 20, 45, 46, 1_000].map(&mut granted), [3, 0, 1, 0, 1, 2, 0, 3]);
    }
}
