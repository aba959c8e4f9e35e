//! A session as plain data: what the lobby hands to a worker, and what is left
//! of it in the end. Nothing here refers to a task, a closure or a thread.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::framing::{Deframer, Framer};
use crate::core::ids::{HostId, SessionId};
use crate::observe::close_reason::CloseReason;
use crate::tls::record::RecordLayer;

/// Which leg. `Client` sends up, `Host` sends down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Client,
    Host,
    /// The second connection of a client that sends on another one than it
    /// receives on. `Client` is then the one that receives.
    Inbound,
}

impl Side {
    /// Where that which this side sends goes.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client | Self::Inbound => Self::Host,
            Self::Host => Self::Client,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub const fn is_client(self) -> bool {
        matches!(self, Self::Client | Self::Inbound)
    }
}

/// One end of a session after its greeting: a socket, the record layer with
/// its keys, and what arrived early.
#[derive(Debug)]
pub struct Leg<S = OwnedFd> {
    pub socket: S,
    pub peer: SocketAddr,
    pub records: RecordLayer,
    /// Bytes received and not looked at yet.
    pub early_ciphertext: Vec<u8>,
    /// Bytes that the handshake's owner had decrypted already; they come
    /// before the ciphertext.
    pub early_plaintext: Vec<u8>,
    /// What its peer sends, from `early_plaintext` on.
    pub deframer: Deframer,
    /// What its peer is sent.
    pub framer: Framer,
    /// The connection that the peer sends on, where that is another one
    /// (MS-TSGU 1.3.2.1: the IN channel; this is the OUT channel then).
    pub inbound: Option<Box<Leg<S>>>,
}

/// Two legs that belong together.
#[derive(Debug)]
pub struct Session<S = OwnedFd> {
    pub id: SessionId,
    pub host_id: HostId,
    pub client: Leg<S>,
    pub host: Leg<S>,
    pub counters: Arc<SessionCounters>,
}

/// Live counters of one session, for `ringway ctl sessions`.
#[derive(Debug, Default)]
pub struct SessionCounters {
    /// Plaintext bytes client to host.
    pub bytes_up: AtomicU64,
    pub bytes_down: AtomicU64,
}

impl SessionCounters {
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        (self.bytes_up.load(Ordering::Relaxed), self.bytes_down.load(Ordering::Relaxed))
    }
}

/// The one record that a session leaves.
#[derive(Clone, Debug)]
pub struct ClosedSession {
    pub id: SessionId,
    pub host_id: HostId,
    pub client: SocketAddr,
    pub reason: CloseReason,
    /// For the log, when the reason alone does not say enough.
    pub detail: Option<String>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub duration_ms: u64,
}
