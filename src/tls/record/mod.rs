//! The TLS record layer that takes over when rustls has finished a handshake.
//!
//! A relayed record is opened straight to the place where the other leg's record
//! wants its plaintext, and sealed there: no copy of a record, no allocation, no
//! lock, no formatting. That place is in another buffer (`open_into`) or, when
//! the buffer that was received into is sent from, in the same one, at the very
//! bytes of the ciphertext or a little before them (`open_within`). No I/O
//! either; bytes come and go as slices.
//!
//! ```text
//! leg A received:  | header | ciphertext            | tag |
//!                               | open_into, open_within
//!                               v
//! leg B sends:     | header | (nonce) | plaintext | (type) | tag |
//!                  ^ buf[0]            ^ buf[plaintext_offset()]     seal_in_place
//! ```
//!
//! # Rules, and where they come from
//!
//! - TLS 1.3 and TLS 1.2 with AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305; nonce
//!   and additional data: see `protection`.
//! - A record's payload is at most 2^14 + 256 bytes, its content at most 2^14,
//!   content with type and padding at most 2^14 + 1 (RFC 8446 5.1, 5.2, 5.4),
//!   else `record_overflow`. Only version `0x0303` appears after a handshake.
//! - A record that does not authenticate ends the connection with
//!   `bad_record_mac` (RFC 8446 5.2), whether tampered with or cut short.
//! - TLS 1.3: the outer type is always application data; padding is stripped, a
//!   record of nothing but zeros is `unexpected_message` (RFC 8446 5.4).
//! - Empty data records are legal (RFC 8446 5.1), empty alerts and handshake
//!   fragments are not. [`MAX_EMPTY_IN_A_ROW`] and [`MAX_CONTROL_UNPAID`]
//!   bound what a peer can make us do without sending data.
//! - `close_notify` ends the receiving direction only; what comes after it is
//!   ignored (RFC 8446 6.1). End of stream without it is truncation: ask
//!   [`RecordLayer::peer_closed`]. Under TLS 1.2 the peer expects to be answered
//!   with `close_notify` at once (RFC 5246 7.2.1). Every other alert is fatal,
//!   except `user_canceled` and the warnings of TLS 1.2, which are ignored.
//! - `KeyUpdate` (RFC 8446 4.6.3) takes effect for the next record, so it must be
//!   the last message of its own (RFC 8446 5.1). When asked, ours is owed before
//!   the next data; one answer serves several requests.
//! - A key seals at most 2^24 records with AES-GCM (RFC 8446 5.5). TLS 1.3 renews
//!   it before ([`REKEY_MARGIN`]); TLS 1.2 cannot and ends with
//!   [`RecordError::LimitReached`].
//! - A server accepts no other handshake message (no post-handshake
//!   authentication, RFC 8446 4.6.2, was offered); a client skips
//!   `NewSessionTicket`. Messages may be cut over records, but nothing may come
//!   between their parts (RFC 8446 5.1).
//! - Renegotiation (TLS 1.2) is refused with one `no_renegotiation` warning
//!   (RFC 5246 7.2.2), and the connection ends there: no client that we serve
//!   needs it, and it has been abused (RFC 5746).
//! - `change_cipher_spec` after the handshake is `unexpected_message`
//!   (RFC 8446 5).

mod aead;
mod error;
mod frame;
mod kernel;
mod messages;
mod opener;
mod protection;
mod sealer;
#[cfg(test)]
mod tests;

use std::fmt;

use rustls::{CipherSuite, ExtractedSecrets, ProtocolVersion};

pub use self::error::{RecordError, alert};
pub use self::frame::{
    ContentType, Framed, HEADER_LEN, Header, MAX_PAYLOAD_LEN, MAX_PLAINTEXT_LEN, MAX_RECORD_LEN,
    next_record,
};
pub use self::kernel::Kernel;
pub use self::opener::{
    DATA_PER_CONTROL_BYTES, MAX_CONTROL_UNPAID, MAX_EMPTY_IN_A_ROW, Opened, Opener,
};
pub use self::sealer::{REKEY_MARGIN, Sealer};

use self::opener::Inner;
use self::protection::{Passage, Protection};

/// Bytes of the authentication tag of every suite.
const TAG_LEN: usize = 16;

/// Most bytes before a record's plaintext, of any version and suite.
pub const MAX_PLAINTEXT_OFFSET: usize = HEADER_LEN + 8;

/// Most bytes that a record is longer than its plaintext.
pub const MAX_OVERHEAD: usize = MAX_PLAINTEXT_OFFSET + TAG_LEN;

/// Room for `out` of [`RecordLayer::open_into`] that suffices for every record:
/// TLS 1.3 decrypts one byte more than the data.
pub const MAX_OPENED_LEN: usize = MAX_PLAINTEXT_LEN + 1;

/// Room for an outgoing record that suffices both to be opened into at
/// `plaintext_offset()` and to be sealed, whatever the two legs negotiated.
pub const RECORD_SLOT_LEN: usize = MAX_PLAINTEXT_LEN + MAX_OVERHEAD;

/// Room for a sealed alert or key update.
pub const CONTROL_RECORD_LEN: usize = 32;

/// Which side of the handshake we were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// One TLS connection's record layer: plain data, `Send`, moved as a whole.
///
/// Keys are cleansed on drop by AWS-LC, initialisation vectors and rustls'
/// traffic secrets by zeroize.
pub struct RecordLayer {
    opener: Opener,
    sealer: Sealer,
    kernel: Kernel,
}

impl RecordLayer {
    /// Takes over where rustls stopped.
    ///
    /// # Errors
    /// `Keys` when version or suite is none of those supported.
    pub fn new(secrets: ExtractedSecrets, kernel: Kernel) -> Result<Self, RecordError> {
        let version = kernel.version();
        let opener = Opener::new(Protection::new(version, secrets.rx)?, kernel.role());
        let sealer = Sealer::new(Protection::new(version, secrets.tx)?, kernel.seal_limit());
        Ok(Self { opener, sealer, kernel })
    }

    /// Opens one whole record (`record` is exactly what [`next_record`] found)
    /// into `out`, which wants [`MAX_OPENED_LEN`] bytes or as many as the record
    /// has payload. Bytes of `out` beyond the reported data are scratch. Once
    /// [`peer_closed`](Self::peer_closed), drop what else arrives unlooked at.
    ///
    /// # Errors
    /// Any of [`RecordError`]; all but `BufferTooSmall` are final: every later
    /// call repeats them. Seal [`RecordError::alert`] and close.
    pub fn open_into(&mut self, record: &[u8], out: &mut [u8]) -> Result<Opened, RecordError> {
        self.open(Passage::Across { record, out })
    }

    /// Opens the whole record `buf[record_at..]` within `buf`, to
    /// `buf[out_at..]`: where its plaintext lies already
    /// ([`plaintext_offset`](Self::plaintext_offset) from its start), or before.
    ///
    /// # Errors
    /// As [`open_into`](Self::open_into); `BufferTooSmall` when `out_at` is too
    /// far on.
    pub fn open_within(
        &mut self,
        buf: &mut [u8],
        record_at: usize,
        out_at: usize,
    ) -> Result<Opened, RecordError> {
        self.open(Passage::Within { buf, record_at, out_at })
    }

    fn open(&mut self, passage: Passage<'_>) -> Result<Opened, RecordError> {
        match self.opener.open(passage)? {
            Inner::Public(opened) => Ok(opened),
            Inner::KeyUpdate(update) => {
                match self.kernel.next_rx() {
                    Ok(next) => self.opener.replace_keys(next),
                    Err(error) => return Err(self.opener.fail(error)),
                }
                if update.requested {
                    self.sealer.owe_update();
                }
                Ok(Opened::Control)
            }
        }
    }

    /// Seals the `plaintext_len` bytes that lie at
    /// `buf[self.plaintext_offset()..]` as one application data record that
    /// begins at `buf[0]`, and returns its length
    /// ([`sealed_len`](Self::sealed_len), which `buf` must have room for).
    ///
    /// # Errors
    /// `KeyUpdateOwed` when [`wants_key_update`](Self::wants_key_update) was not
    /// asked first; `LimitReached` when the key is used up; `Closed` after
    /// `close_notify` or an alert; `Oversized` and `BufferTooSmall`.
    pub fn seal_in_place(
        &mut self,
        buf: &mut [u8],
        plaintext_len: usize,
    ) -> Result<usize, RecordError> {
        self.sealer.data(buf, plaintext_len)
    }

    /// A key update must be sealed before the next data: the peer asked for it,
    /// or our key nears its limit. Costs next to nothing; ask before every
    /// [`seal_in_place`](Self::seal_in_place).
    #[must_use]
    pub fn wants_key_update(&self) -> bool {
        !self.closed() && (self.key_update_owed() || self.sealer.near_limit())
    }

    /// The peer asked for a key update and has not got it yet.
    #[must_use]
    pub const fn key_update_owed(&self) -> bool {
        self.sealer.update_owed()
    }

    /// Seals a key update into the front of `out` ([`CONTROL_RECORD_LEN`] bytes
    /// of room) and switches to the new key; `request` asks the peer to renew
    /// its own as well. Returns the record's length; it must be sent before
    /// anything sealed later.
    ///
    /// # Errors
    /// `Keys` under TLS 1.2, `Closed`, `BufferTooSmall`.
    pub fn seal_key_update(&mut self, out: &mut [u8], request: bool) -> Result<usize, RecordError> {
        self.sealer.key_update(out, request, || self.kernel.next_tx())
    }

    /// Seals `close_notify`: nothing more is sent from this side. Receiving goes
    /// on. Needs [`CONTROL_RECORD_LEN`] bytes of room.
    ///
    /// # Errors
    /// `Closed` when it was already sealed, `BufferTooSmall`.
    pub fn seal_close_notify(&mut self, out: &mut [u8]) -> Result<usize, RecordError> {
        self.sealer.alert(out, alert::CLOSE_NOTIFY)
    }

    /// Seals an alert with the level that belongs to it; nothing may be sealed
    /// after it. Needs [`CONTROL_RECORD_LEN`] bytes of room.
    ///
    /// # Errors
    /// `Closed`, `BufferTooSmall`.
    pub fn seal_alert(&mut self, out: &mut [u8], description: u8) -> Result<usize, RecordError> {
        self.sealer.alert(out, description)
    }

    /// Where in an outgoing record its plaintext begins: 5, or 13 under TLS 1.2
    /// with AES-GCM.
    #[must_use]
    pub const fn plaintext_offset(&self) -> usize {
        self.sealer.scheme().plaintext_offset()
    }

    /// Length of an outgoing record with this much plaintext.
    #[must_use]
    pub const fn sealed_len(&self, plaintext_len: usize) -> usize {
        self.plaintext_offset() + plaintext_len + self.sealer.scheme().trailer_len()
    }

    /// The peer has sent `close_notify`. When the stream ends and this is not
    /// so, it was cut off.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.opener.end() == Some(Ok(Opened::CloseNotify))
    }

    /// `close_notify` or another alert was sealed by us.
    #[must_use]
    pub const fn closed(&self) -> bool {
        self.sealer.is_closed()
    }

    /// Records opened and sealed under the present keys.
    #[must_use]
    pub const fn sequences(&self) -> (u64, u64) {
        (self.opener.sequence(), self.sealer.sequence())
    }

    /// The negotiated version.
    #[must_use]
    pub fn version(&self) -> ProtocolVersion {
        self.kernel.version()
    }

    /// The negotiated cipher suite.
    #[must_use]
    pub fn suite(&self) -> CipherSuite {
        self.kernel.suite().suite()
    }

    /// Which side of the handshake we were.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.kernel.role()
    }
}

/// Shows no secret.
impl fmt::Debug for RecordLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordLayer")
            .field("role", &self.role())
            .field("version", &self.version())
            .field("suite", &self.suite())
            .field("sequences", &self.sequences())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("sequence", &self.sequence()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("sequence", &self.sequence()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("suite", &self.suite()).finish_non_exhaustive()
    }
}
