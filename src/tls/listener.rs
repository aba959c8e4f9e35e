//! A TLS port for [`axum::serve`], with a bound on everything that a stranger
//! can make us hold.
//!
//! Handshakes run beside each other, so that a slow one delays nobody; at most
//! `handshakes_max` of them, each within its deadline, at most
//! `connections_max` connections in all. Beyond that, connections wait in the
//! kernel.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// After an accept that failed for want of descriptors or memory: time for
/// others to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a port may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Connections at once; further ones wait in the kernel.
    pub connections_max: usize,
    /// Handshakes at once among them.
    pub handshakes_max: usize,
    pub handshake_timeout_ms: u64,
    /// A connection that moves no byte for this long is closed.
    pub idle_timeout_ms: u64,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// Verified against our CA; absent for those who showed none.
    pub certificate: Option<CertificateDer<'static>>,
}

/// A listener for [`axum::serve`].
#[derive(Debug)]
pub struct TlsListener {
    established: mpsc::Receiver<(Connection, Peer)>,
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl TlsListener {
    /// Starts to accept.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(
        address: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        limits: ListenerLimits,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (sender, established) = mpsc::channel(limits.handshakes_max);
        let accepting = tokio::spawn(accept_all(listener, TlsAcceptor::from(tls), limits, sender));
        Ok(Self { established, address, accepting })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Listener for TlsListener {
    type Io = Connection;
    type Addr = Peer;

    async fn accept(&mut self) -> (Connection, Peer) {
        match self.established.recv().await {
            Some(connection) => connection,
            // The accepting task only ends with this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { address: self.address, certificate: None })
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        stream.remote_addr().clone()
    }
}

async fn accept_all(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    limits: ListenerLimits,
    established: mpsc::Sender<(Connection, Peer)>,
) {
    let connections = Arc::new(Semaphore::new(limits.connections_max));
    let handshakes = Arc::new(Semaphore::new(limits.handshakes_max));
    let idle_timeout = Duration::from_millis(limits.idle_timeout_ms);
    loop {
        let Ok(connection_permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let Ok(handshake_permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "Cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let acceptor = acceptor.clone();
        let established = established.clone();
        let patience = Duration::from_millis(limits.handshake_timeout_ms);
        tokio::spawn(async move {
            let _handshake_permit = handshake_permit;
            let stream = match timeout(patience, handshake(acceptor, stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "TLS handshake failed");
                    return;
                }
                Err(_elapsed) => {
                    tracing::debug!(%address, "TLS handshake took too long");
                    return;
                }
            };
            let certificate = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(|chain| chain.first())
                .map(|certificate| certificate.clone().into_owned());
            let connection = Connection {
                stream,
                idle_timeout,
                idle_until: Box::pin(sleep(idle_timeout)),
                _permit: connection_permit,
            };
            let _closing = established.send((connection, Peer { address, certificate })).await;
        });
    }
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    acceptor.accept(stream).await
}

/// A TLS connection that counts against the limit and ends when it is silent
/// for too long.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    idle_timeout: Duration,
    idle_until: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn on_progress(&mut self) {
        self.idle_until.as_mut().reset(Instant::now() + self.idle_timeout);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        match result {
            Poll::Ready(_) => self.on_progress(),
            Poll::Pending => {
                if self.idle_until.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        result
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
