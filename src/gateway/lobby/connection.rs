//! A TLS connection of the lobby: bytes between a socket and the sans-io
//! handshake, each wait with a deadline.

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_uring::buf::BoundedBuf as _;
use tokio_uring::buf::BoundedBufMut as _;
use tokio_uring::buf::fixed::FixedBufPool;
use tokio_uring::net::TcpStream;

use super::meter::Meter;
use crate::core::codes::{Code, Refusal};
use crate::gateway::relay::Leg;
use crate::gateway::relay::framing::{Deframer, Framer};
use crate::gateway::relay::ring::{round_trip_us, stream_readiness};
use crate::gateway::shared::Shared;
use crate::tls::handshake::{ServerHandshake, TlsError};
use crate::wire::http_head;

/// Size of one registered buffer: a whole flight of a handshake.
pub const BUFFER_BYTES: usize = 16 * 1024;
/// After a refusal, what a peer still sends is read for this long, so that
/// closing does not reset the connection under the answer.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Why a connection is over before it became a leg.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("the peer left")]
    Gone,
    #[error("the peer was too slow")]
    Deadline,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Socket(#[from] io::Error),
}

pub struct Connection {
    pub peer: SocketAddr,
    pub shared: Arc<Shared>,
    pub meter: Rc<Meter>,
    pub accepted_at: Instant,
    stream: AsyncFd<TcpStream>,
    tls: ServerHandshake,
    buffers: FixedBufPool<Vec<u8>>,
    has_written: bool,
}

impl Connection {
    pub fn new(
        stream: TcpStream,
        peer: SocketAddr,
        shared: &Arc<Shared>,
        buffers: FixedBufPool<Vec<u8>>,
        meter: Rc<Meter>,
    ) -> Result<Self, ConnectionError> {
        let accepted_at = Instant::now();
        let tls = ServerHandshake::new(Arc::clone(&shared.tls))?;
        let stream = stream_readiness(stream)?;
        let (shared, has_written) = (Arc::clone(shared), false);
        Ok(Self { peer, shared, meter, accepted_at, stream, tls, buffers, has_written })
    }

    /// The TLS handshake, or its deadline.
    pub async fn handshake(&mut self) -> Result<(), ConnectionError> {
        let limit = Duration::from_millis(self.shared.config().limits.handshake_timeout_ms);
        let deadline = Instant::now() + limit;
        while !self.tls.is_established() {
            let outcome = timeout_at(deadline, self.fill()).await;
            self.flush().await?;
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(ConnectionError::Deadline),
            }
        }
        self.meter.record(|set| &mut set.handshake_us, self.accepted_at);
        Ok(())
    }

    /// Whether [`Connection::fill`] may be called: without room for a buffer's
    /// worth, what the peer sends has to stay in its socket.
    pub fn has_room(&self) -> bool {
        self.tls.room() >= BUFFER_BYTES
    }

    /// What has been received and not consumed.
    pub fn received(&self) -> &[u8] {
        self.tls.plaintext()
    }

    pub fn consume(&mut self, length: usize) {
        self.tls.consume_plaintext(length);
    }

    pub fn client_rtt_us(&self) -> Option<u64> {
        round_trip_us(&self.stream)
    }

    /// Waits for bytes and decrypts them. An end of the stream, clean or not,
    /// is [`ConnectionError::Gone`]: nobody in the lobby is left half open.
    pub async fn fill(&mut self) -> Result<(), ConnectionError> {
        let mut ready = readable_now(&self.stream).await?;
        let buffer = self.buffers.next(BUFFER_BYTES).await;
        let (outcome, buffer) = self.stream.get_ref().read_fixed(buffer).await;
        let received = outcome?;
        if received == 0 {
            return Err(ConnectionError::Gone);
        }
        if received < BUFFER_BYTES {
            // That was all. Does nothing if more was announced meanwhile.
            ready.clear_ready();
        }
        self.tls.feed(buffer.get(..received).unwrap_or_default())?;
        if self.tls.peer_closed() { Err(ConnectionError::Gone) } else { Ok(()) }
    }

    /// Waits until a read will not wait. Only then is a registered buffer
    /// taken: silent peers, however many, hold none.
    ///
    /// Giving this wait up loses nothing; giving [`Connection::fill`] up may.
    pub async fn wait_readable(&self) -> io::Result<()> {
        readable_now(&self.stream).await.map(drop)
    }

    /// Encrypts and sends.
    pub async fn write(&mut self, plaintext: &[u8]) -> Result<(), ConnectionError> {
        self.queue(plaintext)?;
        self.flush().await
    }

    /// Encrypts, to be sent with what is written next or with the end.
    pub fn queue(&mut self, plaintext: &[u8]) -> Result<(), ConnectionError> {
        Ok(self.tls.send(plaintext)?)
    }

    /// Sends what the record layer wants sent.
    async fn flush(&mut self) -> Result<(), ConnectionError> {
        if !self.tls.has_outgoing() {
            return Ok(());
        }
        let mut is_first = !std::mem::replace(&mut self.has_written, true);
        let limit = Duration::from_millis(self.shared.config().limits.write_timeout_ms);
        let outgoing = self.tls.take_outgoing();
        let write_all = async {
            let mut rest = outgoing.as_slice();
            while !rest.is_empty() {
                // To a connection that was never written to one write is possible.
                if !std::mem::take(&mut is_first) {
                    self.wait_writable().await?;
                }
                let written = self.write_some(rest).await?;
                rest = rest.get(written..).unwrap_or_default();
            }
            Ok(())
        };
        match timeout(limit, write_all).await {
            Ok(written) => written,
            Err(_) => {
                // Should the kernel still have a write and its buffer: this ends it.
                let _ = self.stream.get_ref().shutdown(Shutdown::Both);
                Err(ConnectionError::Deadline)
            }
        }
    }

    /// Writes as much as there is room for in the socket, at least a byte. Called
    /// only when there is room, and one write does not wait for more: peers that
    /// do not read, however many, hold no registered buffer.
    async fn write_some(&self, bytes: &[u8]) -> Result<usize, ConnectionError> {
        let chunk = bytes.get(..BUFFER_BYTES).unwrap_or(bytes);
        let mut buffer = self.buffers.next(BUFFER_BYTES).await;
        buffer.put_slice(chunk);
        let (written, _) = self.stream.get_ref().write_fixed(buffer.slice(..chunk.len())).await;
        match written? {
            0 => Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            written => Ok(written),
        }
    }

    /// Waits until a write will not wait.
    async fn wait_writable(&self) -> io::Result<()> {
        loop {
            let mut ready = self.stream.writable().await?;
            let mut look = [PollFd::new(&self.stream, PollFlags::OUT)];
            // Readiness of the past is remembered; this is the present one.
            match poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Ok(0) => ready.clear_ready(),
                // Room, the end, or an error: the write will tell.
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Answers with a refusal, counts it, and closes in a way that lets the
    /// answer arrive.
    pub async fn refuse(self, refusal: &Refusal) {
        self.refuse_in(&http_head::refusal(refusal), refusal).await;
    }

    /// The same in the words of whoever asked.
    pub async fn refuse_in(mut self, answer: &[u8], refusal: &Refusal) {
        self.shared.count_refusal(refusal.code);
        if refusal.code == Code::RequestTimeout {
            self.shared.counters.timeouts.fetch_add(1, Relaxed);
        }
        tracing::info!(
            peer = %self.peer,
            code = %refusal.code,
            step = refusal.code.facts().step,
            detail = refusal.detail.as_deref().unwrap_or_default(),
            "Refused a connection"
        );
        if self.tls.is_established() && self.queue(answer).is_ok() {
            self.close().await;
        }
    }

    /// `close_notify`, FIN, and a short wait for the peer's.
    pub async fn close(mut self) {
        if self.tls.send_close_notify().is_err() || self.flush().await.is_err() {
            return;
        }
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
        let drain = async {
            let mut drained = 0;
            while drained < LINGER_BYTES_MAX && self.wait_readable().await.is_ok() {
                let mut scrap = [0_u8; 4_096];
                match recv(self.stream.as_fd(), &mut scrap[..], RecvFlags::DONTWAIT) {
                    Ok((_, received)) if received > 0 => drained += received,
                    _ => return,
                }
            }
        };
        let _ = timeout(LINGER, drain).await;
    }

    /// A descriptor for the relay. Asked for before the peer is told that it
    /// may begin: afterwards there would be no way left to say no.
    ///
    /// # Errors
    /// [`Code::GatewayFull`] when no descriptor is left.
    pub fn reserve_socket(&self) -> Result<OwnedFd, Refusal> {
        self.stream
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| Refusal::with_detail(Code::GatewayFull, error))
    }

    /// Takes the keys: from here on the relay has the connection.
    pub fn into_leg(self, socket: OwnedFd) -> Result<Leg, ConnectionError> {
        let established = self.tls.into_keys()?;
        Ok(Leg {
            socket,
            peer: self.peer,
            records: established.records,
            early_ciphertext: established.leftover_ciphertext,
            early_plaintext: established.leftover_plaintext,
            deframer: Deframer::Raw,
            framer: Framer::Raw,
            inbound: None,
        })
    }
}

/// Waits until a read will not wait; what is returned forgets that once a read
/// has taken all there was.
///
/// Readiness that comes while it is waited for is the kernel's word of now, since
/// nobody else reads from the socket. That which was there before is remembered
/// from the past, and is asked for again.
async fn readable_now(stream: &AsyncFd<TcpStream>) -> io::Result<AsyncFdReadyGuard<'_, TcpStream>> {
    let mut waited = false;
    // Not constrained: a turn that is used up would look as if it had waited.
    unconstrained(async {
        loop {
            let mut ready = poll_fn(|task| {
                let polled = stream.poll_read_ready(task);
                waited |= polled.is_pending();
                polled
            })
            .await?;
            if waited {
                return Ok(ready);
            }
            let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            match recv(stream.as_fd(), &mut [0_u8; 1], look) {
                Err(rustix::io::Errno::WOULDBLOCK) => ready.clear_ready(),
                // Bytes, the end, or an error: the read will tell.
                _ => return Ok(ready),
            }
        }
    })
    .await
}

impl From<ConnectionError> for Code {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Deadline => Self::RequestTimeout,
            _ => Self::RequestMalformed,
        }
    }
}
