//! How our own ends (agent, connector, gateway) reach a gateway or a broker:
//! TCP to every address of a name, then TLS, each with a deadline.
//!
//! [`relay`] asks a gateway for a leg of a session, [`probe`] for a round trip,
//! [`http`] makes single requests, [`pipe`] joins a leg with a local stream.

pub mod endpoint;
pub mod error;
pub mod http;
pub mod pipe;
pub mod probe;
pub mod relay;
pub mod tcp;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::record::HEADER_LEN;

pub use endpoint::Endpoint;
pub use error::{DialError, DialErrorKind, Phase, Purpose};

/// Deadlines of one dial. Each phase has its own, so that an error says which
/// one was slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DialLimits {
    /// Name resolution and TCP, over all addresses.
    pub connect_timeout_ms: u64,
    /// TLS.
    pub handshake_timeout_ms: u64,
    /// From the request to its answer. A gateway answers a leg only when the
    /// other leg is there, so this covers steps 8 to 10.
    pub answer_timeout_ms: u64,
}

impl Default for DialLimits {
    fn default() -> Self {
        Self { connect_timeout_ms: 5_000, handshake_timeout_ms: 5_000, answer_timeout_ms: 15_000 }
    }
}

impl DialLimits {
    /// The whole of a request: a name, TCP, TLS and the answer.
    #[must_use]
    pub const fn total(self) -> Duration {
        Duration::from_millis(
            self.connect_timeout_ms
                .saturating_add(self.handshake_timeout_ms)
                .saturating_add(self.answer_timeout_ms),
        )
    }
}

/// Dials with one TLS configuration. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    tls: Arc<ClientConfig>,
    limits: DialLimits,
}

impl Dialer {
    #[must_use]
    pub fn new(tls: ClientConfig, limits: DialLimits) -> Self {
        Self { tls: Arc::new(tls), limits }
    }

    /// For the legs of a session host, whose records are shorter than they might
    /// be: see [`relay::HOST_RECORD_DATA_MAX`].
    #[must_use]
    pub fn of_host(mut tls: ClientConfig, limits: DialLimits) -> Self {
        // rustls counts the record's header.
        tls.max_fragment_size = Some(relay::HOST_RECORD_DATA_MAX + HEADER_LEN);
        Self::new(tls, limits)
    }

    #[must_use]
    pub const fn limits(&self) -> DialLimits {
        self.limits
    }

    /// TCP and TLS to an endpoint. The certificate must be for its host name.
    ///
    /// # Errors
    /// Says whom it dialled, at which step, and which phase failed.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
    ) -> Result<TlsStream<TcpStream>, DialError> {
        let fail = |kind| DialError::new(purpose, endpoint, kind);
        let tcp = tcp::connect(
            endpoint.host(),
            endpoint.port(),
            Duration::from_millis(self.limits.connect_timeout_ms),
        )
        .await
        .map_err(fail)?;
        let name = endpoint.server_name().map_err(fail)?;
        let handshake = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp);
        let after_ms = self.limits.handshake_timeout_ms;
        match timeout(Duration::from_millis(after_ms), handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(fail(DialErrorKind::Tls { error })),
            Err(_elapsed) => Err(fail(DialErrorKind::Deadline { phase: Phase::Tls, after_ms })),
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod testing;
