//! What an agent connects sessions to.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::dial::tcp;

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
}

impl Target for TcpTarget {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let stream = tcp::connect(&self.host, self.port, self.timeout)
                .await
                .map_err(|error| io::Error::other(error.to_string()))?;
            Ok(Box::new(stream) as Box<dyn TargetStream>)
        })
    }
}
