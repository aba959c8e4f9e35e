//! A TLS handshake without a socket, and the first data after it.
//!
//! rustls does the handshake and nothing else. Its records are handed to it one
//! by one, so that it never sees a byte beyond the handshake: at the moment when
//! it is done (and its session tickets are encoded, which count in the sequence
//! of what we send) the keys are taken, and [`RecordLayer`] opens and seals from
//! there on. So there is one record layer with one set of rules, and a key
//! update that comes early is not lost inside rustls.
//!
//! Buffers are bounded by backpressure: [`Handshake::room`] says how much may be
//! fed, and is 0 while undelivered plaintext fills its own bound.

mod steps;

use std::fmt;
use std::mem;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{CipherSuite, ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig};
use zeroize::{Zeroize as _, Zeroizing};

use self::steps::{Step, Unbuffered};
use crate::tls::record::{
    CONTROL_RECORD_LEN, Framed, MAX_OPENED_LEN, MAX_PLAINTEXT_LEN, Opened, RecordError,
    RecordLayer, next_record,
};

/// Most bytes of ciphertext that wait to be understood. rustls takes handshake
/// messages of up to 64 KiB, which come with record headers.
pub const INCOMING_LIMIT: usize = 72 * 1024;

/// Bytes of plaintext that wait for [`Handshake::consume_plaintext`] before no
/// further record is opened. One record more may follow.
pub const PLAINTEXT_LIMIT: usize = 64 * 1024;

/// Most bytes that wait for [`Handshake::take_outgoing`].
pub const OUTGOING_LIMIT: usize = 512 * 1024;

/// Why there is no (further) TLS with this peer. An alert for it, where one is
/// due, waits in [`Handshake::take_outgoing`].
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[from] rustls::Error),
    #[error("a TLS handshake message does not fit into {limit} bytes of records")]
    HandshakeTooLong { limit: usize },
    #[error("the peer closed during the TLS handshake")]
    ClosedInHandshake,
    #[error("this TLS connection has failed before: send what is outgoing and close")]
    Ended,
    #[error("the peer gave up with TLS alert {description}")]
    PeerAlert { description: u8 },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("more ciphertext was fed than there is room for, {limit} bytes: ask for the room")]
    TooMuchIncoming { limit: usize },
    #[error("more than {limit} bytes wait to be sent: take them first")]
    TooMuchOutgoing { limit: usize },
    #[error("the TLS handshake is not finished: feed more first")]
    NotEstablished,
    #[error("bytes still wait to be sent: take them before the keys")]
    OutgoingPending,
    #[error("rustls is in a state that its documentation rules out: report this")]
    Unforeseen,
}

/// A handshake as server.
pub type ServerHandshake = Handshake<UnbufferedServerConnection>;

/// A handshake as client.
pub type ClientHandshake = Handshake<UnbufferedClientConnection>;

/// What was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub version: ProtocolVersion,
    pub suite: CipherSuite,
    pub alpn: Option<Vec<u8>>,
    /// The session was resumed with a ticket.
    pub resumed: bool,
}

/// A connection whose keys are ours. All of it is plain data and `Send`.
#[derive(Debug)]
pub struct EstablishedTls {
    pub records: RecordLayer,
    pub negotiated: Negotiated,
    /// Received, not yet opened: whole records or the beginning of one.
    pub leftover_ciphertext: Vec<u8>,
    /// Opened, not yet consumed; comes before what is in the ciphertext.
    pub leftover_plaintext: Vec<u8>,
}

/// A TLS connection from its first byte until its keys are taken.
pub struct Handshake<C> {
    stage: Stage<C>,
    incoming: Vec<u8>,
    /// Front part of `incoming` that rustls may look at.
    visible: usize,
    outgoing: Vec<u8>,
    /// A request's head may hold a token.
    plaintext: Zeroizing<Vec<u8>>,
}

enum Stage<C> {
    Shaking(Box<C>),
    Established(Box<(RecordLayer, Negotiated)>),
    Failed,
}

impl ServerHandshake {
    /// Waits for a client. The configuration needs `enable_secret_extraction`
    /// ([`TlsSettings::server`](super::settings::TlsSettings::server) sets it).
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        Ok(Self::with(UnbufferedServerConnection::new(config)?))
    }
}

impl ClientHandshake {
    /// Begins; the first flight waits in [`take_outgoing`](Self::take_outgoing).
    /// The configuration needs `enable_secret_extraction`.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, TlsError> {
        let mut handshake = Self::with(UnbufferedClientConnection::new(config, name)?);
        handshake.feed(&[])?;
        Ok(handshake)
    }
}

#[expect(private_bounds, reason = "the two rustls connections are all there is to choose from")]
impl<C: Unbuffered> Handshake<C> {
    fn with(connection: C) -> Self {
        Self {
            stage: Stage::Shaking(Box::new(connection)),
            incoming: Vec::new(),
            visible: 0,
            outgoing: Vec::new(),
            plaintext: Zeroizing::default(),
        }
    }

    /// Bytes that the next [`feed`](Self::feed) takes. 0 while plaintext waits
    /// to be consumed: read nothing from the peer until then.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.plaintext.len() >= PLAINTEXT_LIMIT {
            return 0;
        }
        INCOMING_LIMIT.saturating_sub(self.incoming.len())
    }

    /// Takes what the peer sent and goes as far as possible. Call it with
    /// nothing to go on after [`consume_plaintext`](Self::consume_plaintext).
    ///
    /// # Errors
    /// When the peer breaks the rules, gives up, or is fed beyond the
    /// [`room`](Self::room). An alert to send may wait in the outgoing bytes.
    pub fn feed(&mut self, ciphertext: &[u8]) -> Result<(), TlsError> {
        if matches!(self.stage, Stage::Failed) {
            return Err(TlsError::Ended);
        }
        if self.incoming.len() + ciphertext.len() > INCOMING_LIMIT {
            return Err(TlsError::TooMuchIncoming { limit: INCOMING_LIMIT });
        }
        self.incoming.extend_from_slice(ciphertext);
        self.shake_hands()?;
        if matches!(self.stage, Stage::Shaking(_)) && self.room() == 0 {
            self.stage = Stage::Failed;
            return Err(TlsError::HandshakeTooLong { limit: INCOMING_LIMIT });
        }
        self.open_records()
    }

    /// Bytes to send to the peer, in order; empty when there are none.
    #[must_use]
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        mem::take(&mut self.outgoing)
    }

    /// Bytes wait for [`take_outgoing`](Self::take_outgoing).
    #[must_use]
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Data from the peer that was not consumed yet.
    #[must_use]
    pub fn plaintext(&self) -> &[u8] {
        &self.plaintext
    }

    /// Erases the first `len` bytes of the plaintext.
    pub fn consume_plaintext(&mut self, len: usize) {
        let len = len.min(self.plaintext.len());
        let left = self.plaintext.len() - len;
        self.plaintext.copy_within(len.., 0);
        self.plaintext.get_mut(left..).unwrap_or_default().zeroize();
        self.plaintext.truncate(left);
    }

    /// The handshake is done: [`send`](Self::send) and
    /// [`into_keys`](Self::into_keys) work.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Established(_))
    }

    /// What was agreed on, once established.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        match &self.stage {
            Stage::Established(established) => Some(&established.1),
            Stage::Shaking(_) | Stage::Failed => None,
        }
    }

    /// The peer has sent `close_notify`; the plaintext so far is all there is.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        match &self.stage {
            Stage::Established(established) => established.0.peer_closed(),
            Stage::Shaking(_) | Stage::Failed => false,
        }
    }

    /// Seals data for the peer into the outgoing bytes.
    ///
    /// # Errors
    /// Before the handshake is done, after [`send_close_notify`](Self::send_close_notify),
    /// or when more than [`OUTGOING_LIMIT`] bytes would wait.
    pub fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        let Stage::Established(established) = &mut self.stage else {
            return Err(TlsError::NotEstablished);
        };
        let (records, _) = &mut **established;
        for chunk in plaintext.chunks(MAX_PLAINTEXT_LEN) {
            if self.outgoing.len() + chunk.len() > OUTGOING_LIMIT {
                return Err(TlsError::TooMuchOutgoing { limit: OUTGOING_LIMIT });
            }
            if records.wants_key_update() {
                append(&mut self.outgoing, CONTROL_RECORD_LEN, |out| {
                    records.seal_key_update(out, false)
                })?;
            }
            append(&mut self.outgoing, records.sealed_len(chunk.len()), |out| {
                let offset = records.plaintext_offset();
                out.get_mut(offset..offset + chunk.len())
                    .ok_or(RecordError::BufferTooSmall)?
                    .copy_from_slice(chunk);
                records.seal_in_place(out, chunk.len())
            })?;
        }
        Ok(())
    }

    /// Tells the peer that nothing more will come.
    ///
    /// # Errors
    /// Before the handshake is done, or the second time.
    pub fn send_close_notify(&mut self) -> Result<(), TlsError> {
        let Stage::Established(established) = &mut self.stage else {
            return Err(TlsError::NotEstablished);
        };
        append(&mut self.outgoing, CONTROL_RECORD_LEN, |out| established.0.seal_close_notify(out))?;
        Ok(())
    }

    /// Hands the connection over.
    ///
    /// # Errors
    /// Before the handshake is done, or while outgoing bytes wait: they were
    /// sealed first and must be sent first.
    pub fn into_keys(mut self) -> Result<EstablishedTls, TlsError> {
        if self.has_outgoing() {
            return Err(TlsError::OutgoingPending);
        }
        let Stage::Established(established) = self.stage else {
            return Err(TlsError::NotEstablished);
        };
        let (records, negotiated) = *established;
        // A session keeps these for as long as it waits.
        self.incoming.shrink_to_fit();
        self.plaintext.shrink_to_fit();
        Ok(EstablishedTls {
            records,
            negotiated,
            leftover_ciphertext: self.incoming,
            leftover_plaintext: mem::take(&mut *self.plaintext),
        })
    }

    /// Drives rustls until it is done or wants more from the peer.
    fn shake_hands(&mut self) -> Result<(), TlsError> {
        while let Stage::Shaking(connection) = &mut self.stage {
            let window = self.incoming.get_mut(..self.visible).unwrap_or_default();
            let (discard, step) = connection.step(window, &mut self.outgoing);
            self.incoming.drain(..discard.min(self.visible));
            self.visible = self.visible.saturating_sub(discard);
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Blocked) => {
                    if !self.show_next_record() {
                        return Ok(());
                    }
                }
                Ok(Step::Done) => self.take_keys()?,
                Err(error) => {
                    // Fetch the alert for the peer, and nothing else: rustls must
                    // not look again at what it has refused, or it panics.
                    while connection.common().wants_write() {
                        let (_, Ok(Step::Again)) = connection.step(&mut [], &mut self.outgoing)
                        else {
                            break;
                        };
                    }
                    self.stage = Stage::Failed;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Lets rustls see one record more; false when there is none yet.
    fn show_next_record(&mut self) -> bool {
        let hidden = self.incoming.get(self.visible..).unwrap_or_default();
        let more = match next_record(hidden) {
            Ok(Framed::Complete { total_len, .. }) => total_len,
            Ok(Framed::Incomplete { .. }) => 0,
            // Not TLS: rustls finds the right words for that.
            Err(_) => hidden.len(),
        };
        self.visible += more;
        more > 0
    }

    fn take_keys(&mut self) -> Result<(), TlsError> {
        let Stage::Shaking(connection) = mem::replace(&mut self.stage, Stage::Failed) else {
            return Err(TlsError::Unforeseen);
        };
        let negotiated = Negotiated {
            version: connection.common().protocol_version().ok_or(TlsError::Unforeseen)?,
            suite: connection
                .common()
                .negotiated_cipher_suite()
                .ok_or(TlsError::Unforeseen)?
                .suite(),
            alpn: connection.common().alpn_protocol().map(<[u8]>::to_vec),
            resumed: connection.common().handshake_kind() == Some(HandshakeKind::Resumed),
        };
        let (secrets, kernel) = connection.into_kernel()?;
        let records = RecordLayer::new(secrets, kernel)?;
        self.stage = Stage::Established(Box::new((records, negotiated)));
        Ok(())
    }

    /// Opens whole records while there is room for their plaintext.
    fn open_records(&mut self) -> Result<(), TlsError> {
        let Stage::Established(established) = &mut self.stage else {
            return Ok(());
        };
        let (records, _) = &mut **established;
        let mut opened_len = 0;
        let result = loop {
            if records.peer_closed() {
                // What comes after it is ignored (RFC 8446 6.1).
                opened_len = self.incoming.len();
                break Ok(());
            }
            if self.plaintext.len() >= PLAINTEXT_LIMIT {
                break Ok(());
            }
            let rest = self.incoming.get(opened_len..).unwrap_or_default();
            let record = match next_record(rest) {
                Ok(Framed::Complete { total_len, .. }) => rest.get(..total_len).unwrap_or_default(),
                Ok(Framed::Incomplete { .. }) => break Ok(()),
                Err(error) => break Err(TlsError::Record(error)),
            };
            let start = self.plaintext.len();
            lengthen(&mut self.plaintext, start + record.len().min(MAX_OPENED_LEN));
            let out = self.plaintext.get_mut(start..).unwrap_or_default();
            let opened = records.open_into(record, out);
            opened_len += record.len();
            let data_len = if let Ok(Opened::Data { len }) = opened { len } else { 0 };
            self.plaintext.truncate(start + data_len);
            match opened {
                Ok(Opened::Data { .. } | Opened::Control | Opened::CloseNotify) => {}
                Ok(Opened::Alert { description, .. }) => {
                    break Err(TlsError::PeerAlert { description });
                }
                Err(error) => break Err(TlsError::Record(error)),
            }
        };
        self.incoming.drain(..opened_len.min(self.incoming.len()));
        if let Err(TlsError::Record(error)) = &result
            && let Some(description) = error.alert()
        {
            let _sent_already = append(&mut self.outgoing, CONTROL_RECORD_LEN, |out| {
                records.seal_alert(out, description)
            });
        }
        if result.is_err() {
            self.stage = Stage::Failed;
        }
        result
    }
}

/// Leaves no copy of what is there behind.
fn lengthen(plaintext: &mut Zeroizing<Vec<u8>>, len: usize) {
    if len > plaintext.capacity() {
        let mut longer = Zeroizing::new(Vec::with_capacity(len.max(2 * plaintext.capacity())));
        longer.extend_from_slice(plaintext);
        *plaintext = longer;
    }
    plaintext.resize(len, 0);
}

/// Grows `outgoing` by a record of at most `room` bytes that `seal` writes.
fn append(
    outgoing: &mut Vec<u8>,
    room: usize,
    seal: impl FnOnce(&mut [u8]) -> Result<usize, RecordError>,
) -> Result<(), RecordError> {
    let start = outgoing.len();
    outgoing.resize(start + room, 0);
    let sealed = seal(outgoing.get_mut(start..).unwrap_or_default());
    outgoing.truncate(start + sealed.unwrap_or(0));
    sealed.map(drop)
}

/// Shows no plaintext and no secret.
impl<C> fmt::Debug for Handshake<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Shaking(_) => "shaking",
            Stage::Established(_) => "established",
            Stage::Failed => "failed",
        };
        f.debug_struct("Handshake").field("stage", &stage).finish_non_exhaustive()
    }
}
