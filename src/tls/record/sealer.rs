//! The sending half: counts what the present key has sealed, and what is owed.

use super::frame::ContentType;
use super::protection::{Protection, Scheme};
use super::{RecordError, alert};

/// Records before the limit of the key at which a new one is asked for: room
/// for everything that a caller has under way.
pub const REKEY_MARGIN: u64 = 1 << 16;

/// Sending half of a [`RecordLayer`](super::RecordLayer).
pub struct Sealer {
    protection: Protection,
    /// Data records that one key may seal.
    limit: u64,
    update_owed: bool,
    closed: bool,
}

impl Sealer {
    pub(super) const fn new(protection: Protection, limit: u64) -> Self {
        Self { protection, limit, update_owed: false, closed: false }
    }

    pub(super) const fn scheme(&self) -> Scheme {
        self.protection.scheme()
    }

    /// Records sealed under the present key.
    pub(super) const fn sequence(&self) -> u64 {
        self.protection.sequence()
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) const fn update_owed(&self) -> bool {
        self.update_owed
    }

    pub(super) fn owe_update(&mut self) {
        self.update_owed = true;
    }

    /// Renewal is due because the key is nearly used up (TLS 1.3 only).
    pub(super) fn near_limit(&self) -> bool {
        self.scheme() == Scheme::Tls13 && self.sequence() >= self.limit.saturating_sub(REKEY_MARGIN)
    }

    pub(super) fn data(
        &mut self,
        buf: &mut [u8],
        plaintext_len: usize,
    ) -> Result<usize, RecordError> {
        if self.closed {
            return Err(RecordError::Closed);
        }
        if self.update_owed {
            return Err(RecordError::KeyUpdateOwed);
        }
        if self.sequence() >= self.limit {
            return Err(RecordError::LimitReached);
        }
        self.protection.seal(ContentType::ApplicationData, buf, plaintext_len)
    }

    /// Seals an alert; nothing may follow a closing or fatal one. Allowed past
    /// the limit of the key: without it a peer could not tell an end from an
    /// attack.
    pub(super) fn alert(&mut self, out: &mut [u8], description: u8) -> Result<usize, RecordError> {
        if self.closed {
            return Err(RecordError::Closed);
        }
        let len =
            self.message(ContentType::Alert, out, &[alert::level(description), description])?;
        self.closed = true;
        Ok(len)
    }

    /// Seals a `KeyUpdate` under the old key, then takes `next` into use.
    pub(super) fn key_update(
        &mut self,
        out: &mut [u8],
        request: bool,
        next: impl FnOnce() -> Result<Protection, RecordError>,
    ) -> Result<usize, RecordError> {
        if self.closed {
            return Err(RecordError::Closed);
        }
        if self.scheme() != Scheme::Tls13 {
            return Err(RecordError::Keys);
        }
        let len = self.message(ContentType::Handshake, out, &[24, 0, 0, 1, u8::from(request)])?;
        self.protection = next()?;
        self.update_owed = false;
        Ok(len)
    }

    /// For forging what a bad peer might send.
    #[cfg(test)]
    pub(super) const fn protection(&mut self) -> &mut Protection {
        &mut self.protection
    }

    fn message(
        &mut self,
        kind: ContentType,
        out: &mut [u8],
        content: &[u8],
    ) -> Result<usize, RecordError> {
        let offset = self.scheme().plaintext_offset();
        out.get_mut(offset..offset + content.len())
            .ok_or(RecordError::BufferTooSmall)?
            .copy_from_slice(content);
        self.protection.seal(kind, out, content.len())
    }
}
