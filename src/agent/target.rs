//! What an agent connects sessions to.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::dial::{DialErrorKind, tcp};

/// A stream to an RDP server.
pub trait TargetStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> TargetStream for S {}

/// What [`Target::connect`] returns.
pub type Connecting<'a> =
    Pin<Box<dyn Future<Output = io::Result<Box<dyn TargetStream>>> + Send + 'a>>;

/// An RDP server that takes one stream per session.
pub trait Target: Send + Sync {
    /// A fresh stream. The caller has a deadline and drops what is late.
    fn connect(&self) -> Connecting<'_>;

    /// The certificate that it shows, in DER, when there is no port to look at.
    fn certificate(&self) -> Option<Vec<u8>> {
        None
    }

    /// Whether it takes logons by token (RDSAAD), when there is no port to look
    /// at.
    fn takes_rdsaad(&self) -> bool {
        false
    }

    /// The TCP port behind which it is, when there is one to look at.
    fn tcp(&self) -> Option<&TcpTarget> {
        None
    }
}

/// An RDP server behind a TCP port.
#[derive(Clone, Debug)]
pub struct TcpTarget {
    host: String,
    port: u16,
    timeout: Duration,
}

impl TcpTarget {
    #[must_use]
    pub fn new(host: &str, port: u16, timeout_ms: u64) -> Self {
        Self { host: host.into(), port, timeout: Duration::from_millis(timeout_ms) }
    }

    pub(super) async fn connect_within(
        &self,
        within: Duration,
    ) -> Result<TcpStream, DialErrorKind> {
        tcp::connect(&self.host, self.port, within).await
    }
}

impl fmt::Display for TcpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Target for TcpTarget {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let stream = self
                .connect_within(self.timeout)
                .await
                .map_err(|error| io::Error::other(error.to_string()))?;
            Ok(Box::new(stream) as Box<dyn TargetStream>)
        })
    }

    fn tcp(&self) -> Option<&TcpTarget> {
        Some(self)
    }
}
