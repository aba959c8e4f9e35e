//! Single HTTPS requests: to an entry gateway, to a broker's feed, to enrol.
//!
//! One connection per request: these are rare, and a kept connection that the
//! other side has closed would turn into an error that nobody can act on.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{StatusCode, header};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::{DialError, DialErrorKind, DialLimits, Phase, Purpose};
use crate::core::codes::Refusal;
use crate::wire::arm::RefusalBody;

/// Longer answers are refused, unless they are allowed.
pub const BODY_LENGTH_MAX: usize = 1024 * 1024;

/// Makes requests with one TLS configuration. Cheap to clone.
#[derive(Clone)]
pub struct HttpsClient {
    client: reqwest::Client,
    limits: DialLimits,
    body_length_max: usize,
}

impl HttpsClient {
    /// A client that follows no redirect and uses no proxy: every address it
    /// is given is the one that is meant.
    ///
    /// # Errors
    /// When the HTTP library refuses the TLS configuration.
    pub fn new(tls: ClientConfig, limits: DialLimits) -> Result<Self, reqwest::Error> {
        let to_tls = limits.connect_timeout_ms.saturating_add(limits.handshake_timeout_ms);
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .user_agent(concat!("ringway/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_millis(to_tls))
            .timeout(limits.total())
            .build()?;
        Ok(Self { client, limits, body_length_max: BODY_LENGTH_MAX })
    }

    /// Takes longer answers than [`BODY_LENGTH_MAX`], from whom they are due.
    #[must_use]
    pub const fn allowing_answers_of(mut self, bytes_max: usize) -> Self {
        self.body_length_max = bytes_max;
        self
    }

    /// `GET`, with a bearer token if there is one.
    ///
    /// # Errors
    /// The other side's refusal, or what failed.
    pub async fn get(
        &self,
        purpose: Purpose,
        url: &str,
        bearer: Option<&str>,
    ) -> Result<Bytes, DialError> {
        self.exchange(purpose, url, self.client.get(url), bearer).await
    }

    /// `GET` of what may be known already: `tag` is the entity tag of what we
    /// have (RFC 9110 13.1.2).
    ///
    /// # Errors
    /// The other side's refusal, or what failed.
    pub async fn get_if_changed(
        &self,
        purpose: Purpose,
        url: &str,
        bearer: Option<&str>,
        tag: Option<&str>,
    ) -> Result<Fetched, DialError> {
        let mut request = self.client.get(url);
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let (head, bytes) = self.answer(purpose, url, request, bearer).await?;
        if head.status == StatusCode::NOT_MODIFIED && tag.is_some() {
            return Ok(Fetched::Unchanged);
        }
        let bytes = successful(purpose, url, head.status, bytes)?;
        Ok(Fetched::Body { bytes, tag: head.tag })
    }

    /// `GET` of JSON.
    ///
    /// # Errors
    /// The other side's refusal, or what failed.
    pub async fn get_json<Response: DeserializeOwned>(
        &self,
        purpose: Purpose,
        url: &str,
        bearer: Option<&str>,
    ) -> Result<Response, DialError> {
        from_json(purpose, url, &self.get(purpose, url, bearer).await?)
    }

    /// `POST` of JSON, answered with JSON.
    ///
    /// # Errors
    /// The other side's refusal, or what failed.
    pub async fn post_json<Response: DeserializeOwned>(
        &self,
        purpose: Purpose,
        url: &str,
        bearer: Option<&str>,
        body: &impl Serialize,
    ) -> Result<Response, DialError> {
        let request = self.client.post(url).json(body);
        from_json(purpose, url, &self.exchange(purpose, url, request, bearer).await?)
    }

    /// `POST` of a form, whatever it is answered with: status and body. For
    /// identity providers, whose refusals are not ours.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post_form(
        &self,
        purpose: Purpose,
        url: &str,
        form: &[(&str, &str)],
    ) -> Result<(u16, Zeroizing<Vec<u8>>), DialError> {
        let (head, body) = self.send(purpose, url, self.client.post(url).form(form)).await?;
        Ok((head.status.as_u16(), body))
    }

    async fn exchange(
        &self,
        purpose: Purpose,
        url: &str,
        request: reqwest::RequestBuilder,
        bearer: Option<&str>,
    ) -> Result<Bytes, DialError> {
        let (head, body) = self.answer(purpose, url, request, bearer).await?;
        successful(purpose, url, head.status, body)
    }

    async fn answer(
        &self,
        purpose: Purpose,
        url: &str,
        request: reqwest::RequestBuilder,
        bearer: Option<&str>,
    ) -> Result<(Head, Bytes), DialError> {
        let request = match bearer {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let (head, mut body) = self.send(purpose, url, request).await?;
        Ok((head, Bytes::from(std::mem::take(&mut *body))))
    }

    async fn send(
        &self,
        purpose: Purpose,
        url: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<(Head, Zeroizing<Vec<u8>>), DialError> {
        let fail = |kind| DialError::new(purpose, url, kind);
        let mut response = request.send().await.map_err(|error| fail(self.kind_of(&error)))?;
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) =
            response.chunk().await.map_err(|error| fail(self.kind_of(&error)))?
        {
            if body.len().saturating_add(chunk.len()) > self.body_length_max {
                let what = format!("it is longer than {} bytes", self.body_length_max);
                return Err(fail(DialErrorKind::Protocol { what }));
            }
            body.extend_from_slice(&chunk);
        }
        let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
        let head = Head { status: response.status(), tag: tag.map(ToOwned::to_owned) };
        Ok((head, body))
    }

    fn kind_of(&self, error: &reqwest::Error) -> DialErrorKind {
        let cause = io::Error::other(innermost(error));
        if error.is_timeout() && error.is_connect() {
            let after_ms =
                self.limits.connect_timeout_ms.saturating_add(self.limits.handshake_timeout_ms);
            DialErrorKind::Deadline { phase: Phase::Connect, after_ms }
        } else if error.is_timeout() {
            let after_ms = u64::try_from(self.limits.total().as_millis()).unwrap_or(u64::MAX);
            DialErrorKind::Deadline { phase: Phase::Answer, after_ms }
        } else if error.is_builder() {
            DialErrorKind::Address { error: cause.to_string() }
        } else if is_about_tls(error) {
            DialErrorKind::Tls { error: cause }
        } else if error.is_connect() {
            DialErrorKind::Connect { error: cause }
        } else {
            DialErrorKind::Transport { error: cause }
        }
    }
}

impl fmt::Debug for HttpsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsClient").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// What we have is right.
    Unchanged,
    Body {
        bytes: Bytes,
        tag: Option<String>,
    },
}

struct Head {
    status: StatusCode,
    tag: Option<String>,
}

fn successful(
    purpose: Purpose,
    url: &str,
    status: StatusCode,
    body: Bytes,
) -> Result<Bytes, DialError> {
    if status.is_success() {
        Ok(body)
    } else {
        Err(DialError::new(purpose, url, refusal_of(status.as_u16(), &body)))
    }
}

/// What an answer that is not a success says.
pub(crate) fn refusal_of(status: u16, body: &[u8]) -> DialErrorKind {
    match serde_json::from_slice::<RefusalBody>(body) {
        Ok(body) => DialErrorKind::Refused(body.refusal),
        Err(_) => match serde_json::from_slice::<Refusal>(body) {
            Ok(refusal) => DialErrorKind::Refused(refusal),
            Err(_) => {
                DialErrorKind::Protocol { what: format!("HTTP {status} without a known code") }
            }
        },
    }
}

fn from_json<Response: DeserializeOwned>(
    purpose: Purpose,
    url: &str,
    body: &[u8],
) -> Result<Response, DialError> {
    serde_json::from_slice(body).map_err(|error| {
        DialError::new(purpose, url, DialErrorKind::Protocol { what: error.to_string() })
    })
}

/// Whether there was a connection and TLS failed on it: its certificate, most
/// often. An I/O error does not count what it wraps among its sources.
fn is_about_tls(error: &(dyn Error + 'static)) -> bool {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error.is::<rustls::Error>()
        || wrapped.is_some_and(|error| is_about_tls(error))
        || error.source().is_some_and(is_about_tls)
}

/// The HTTP library wraps the cause that matters several times.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
