//! A TLS port for [`axum::serve`], with a bound on everything that a stranger
//! can make us hold.
//!
//! Handshakes run beside each other, so that a slow one delays nobody, each
//! within its deadline. A connection beyond the handshakes that one address,
//! or all together, may have is dropped at once: if it waited instead, a few
//! silent peers would close the port. Established connections are at most
//! `connections_max`; further ones wait in the kernel.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Handshakes at once among them; further connections are dropped.
    pub handshakes_max: usize,
    /// Of those, from one address (of IPv6, from one /64).
    pub handshakes_per_address_max: usize,
    pub handshake_timeout_ms: u64,
    /// A connection that moves no byte for this long is closed, and so is one
    /// whose bytes lead to no answer for this long: a request that trickles in.
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
    let handshakes = Arc::new(Handshakes::default());
    let idle_timeout = Duration::from_millis(limits.idle_timeout_ms);
    loop {
        let Ok(connection_permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "Cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(handshaking) = handshakes.begin(address.ip(), &limits) else {
            tracing::debug!(%address, "Dropped a connection: too many handshakes");
            continue;
        };
        let acceptor = acceptor.clone();
        let established = established.clone();
        let patience = Duration::from_millis(limits.handshake_timeout_ms);
        tokio::spawn(async move {
            let _handshaking = handshaking;
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
                unanswered_since: None,
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

/// How many handshakes run, by address.
#[derive(Debug, Default)]
struct Handshakes {
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Handshakes {
    /// Room for one more, given back when it is dropped.
    fn begin(self: &Arc<Self>, from: IpAddr, limits: &ListenerLimits) -> Option<Handshaking> {
        let from = counted_address(from);
        let mut by_address = self.lock();
        let running: usize = by_address.values().sum();
        let from_there = by_address.get(&from).copied().unwrap_or(0);
        if running >= limits.handshakes_max || from_there >= limits.handshakes_per_address_max {
            return None;
        }
        by_address.insert(from, from_there + 1);
        Some(Handshaking { all: Arc::clone(self), from })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Numbers behind a panic elsewhere are still numbers.
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Handshaking {
    all: Arc<Handshakes>,
    from: IpAddr,
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        let mut by_address = self.all.lock();
        match by_address.get_mut(&self.from) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                by_address.remove(&self.from);
            }
        }
    }
}

/// Whoever has one address of an IPv6 /64 has all of them.
fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = address.to_bits() & (u128::MAX << 64);
            IpAddr::V6(prefix.into())
        }
        address => address,
    }
}

/// A TLS connection that counts against the limit and ends when it is silent
/// or talks without being answered for too long.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    idle_timeout: Duration,
    idle_until: Pin<Box<Sleep>>,
    /// The first byte that came after our last answer. A request is answered
    /// within its deadline and a channel beats both ways, so a peer that talks
    /// for the idle time without an answer sends no whole request.
    unanswered_since: Option<Instant>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn on_progress(&mut self) {
        self.idle_until.as_mut().reset(Instant::now() + self.idle_timeout);
    }

    /// What a wait for the peer comes to: an error when it took too long.
    fn give_up_when_idle(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.idle_until.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
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
            Poll::Ready(_) => {
                let since = *self.unanswered_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.idle_timeout {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                self.on_progress();
            }
            Poll::Pending => self.give_up_when_idle(context)?,
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
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        match result {
            Poll::Ready(_) => {
                self.unanswered_since = None;
                self.on_progress();
            }
            Poll::Pending => self.give_up_when_idle(context)?,
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_handshake() {
        let limits = ListenerLimits {
            connections_max: 9,
            handshakes_max: 4,
            handshakes_per_address_max: 2,
            handshake_timeout_ms: 1,
            idle_timeout_ms: 1,
        };
        let handshakes = Arc::new(Handshakes::default());
        let begin = |from: &str| handshakes.begin(from.parse().unwrap(), &limits);
        let first = begin("192.0.2.1");
        let second = begin("::ffff:192.0.2.1");
        assert!(first.is_some() && second.is_some());
        assert!(begin("192.0.2.1").is_none(), "mapped or not, it is one address");
        let _third = begin("2001:db8::1").unwrap();
        let fourth = begin("2001:db8::2:2:2:2").unwrap();
        drop(first);
        assert!(begin("2001:db8::3").is_none(), "a /64 is one address");
        let _other = begin("2001:db8:0:1::1").unwrap();
        assert!(begin("198.51.100.1").is_none(), "four in all");
        drop(fourth);
        assert!(begin("198.51.100.1").is_some());
        drop(second);
        assert_eq!(handshakes.lock().len(), 2);
    }
}
