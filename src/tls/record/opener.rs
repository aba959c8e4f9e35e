//! The receiving half: what a record means once it is decrypted.

use super::frame::{ContentType, MAX_PLAINTEXT_LEN};
use super::messages::{KeyUpdate, Messages};
use super::protection::{Passage, Protection, Scheme};
use super::{RecordError, Role, alert};

/// Records without a byte of data that may come in a row before the connection
/// is ended (RFC 8446 10 leaves the number to us).
pub const MAX_EMPTY_IN_A_ROW: u8 = 32;

/// Control records (key updates, tickets, warnings) that may come without data
/// to pay for them. Each key update costs a key schedule.
pub const MAX_CONTROL_UNPAID: u8 = 16;

/// Data that pays for one control record.
pub const DATA_PER_CONTROL_BYTES: usize = 4_096;

/// What a record turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Application data lies in `out[..len]`; `len` may be 0.
    Data { len: usize },
    /// The peer will send nothing more, and what came before is all of it.
    /// Repeated for every later record, which is ignored (RFC 8446 6.1).
    CloseNotify,
    /// The peer gave up. The connection is dead in both directions; there is
    /// nothing to answer (RFC 8446 6.2).
    Alert { level: u8, description: u8 },
    /// Something for the record layer itself; nothing to pass on. Ask
    /// [`RecordLayer::wants_key_update`](super::RecordLayer::wants_key_update)
    /// before sealing the next data.
    Control,
}

/// An opened record, with what only the record layer may see.
pub(super) enum Inner {
    Public(Opened),
    KeyUpdate(KeyUpdate),
}

/// Receiving half of a [`RecordLayer`](super::RecordLayer).
pub struct Opener {
    protection: Protection,
    role: Role,
    messages: Messages,
    end: Option<Result<Opened, RecordError>>,
    empty_in_a_row: u8,
    control_unpaid: u8,
    unpaid_data: usize,
}

impl Opener {
    pub(super) fn new(protection: Protection, role: Role) -> Self {
        Self {
            protection,
            role,
            messages: Messages::default(),
            end: None,
            empty_in_a_row: 0,
            control_unpaid: 0,
            unpaid_data: 0,
        }
    }

    /// Records opened under the present key.
    pub(super) const fn sequence(&self) -> u64 {
        self.protection.sequence()
    }

    /// How the receiving direction ended, if it has.
    pub(super) const fn end(&self) -> Option<Result<Opened, RecordError>> {
        self.end
    }

    pub(super) fn replace_keys(&mut self, protection: Protection) {
        self.protection = protection;
    }

    #[cfg(test)]
    pub(super) const fn protection(&mut self) -> &mut Protection {
        &mut self.protection
    }

    pub(super) fn fail(&mut self, error: RecordError) -> RecordError {
        self.end = Some(Err(error));
        error
    }

    pub(super) fn open(&mut self, passage: Passage<'_>) -> Result<Inner, RecordError> {
        if let Some(end) = self.end {
            return end.map(Inner::Public);
        }
        match self.open_live(passage) {
            Ok(inner) => Ok(inner),
            Err(RecordError::BufferTooSmall) => Err(RecordError::BufferTooSmall),
            Err(error) => Err(self.fail(error)),
        }
    }

    fn open_live(&mut self, mut passage: Passage<'_>) -> Result<Inner, RecordError> {
        let (outer, opened_len) = self.protection.open(&mut passage)?;
        let (kind, len) = match self.protection.scheme() {
            Scheme::Tls13 => strip_inner(passage.opened(opened_len))?,
            Scheme::Tls12Gcm | Scheme::Tls12ChaCha => (outer, opened_len),
        };
        if len > MAX_PLAINTEXT_LEN {
            return Err(RecordError::Oversized);
        }
        if self.messages.is_partial() && kind != ContentType::Handshake {
            return Err(RecordError::UnexpectedMessage);
        }
        let content = passage.opened(len);
        match kind {
            ContentType::ApplicationData => self.take_data(len),
            ContentType::Alert => self.take_alert(content),
            ContentType::Handshake => {
                let update = self.messages.take(self.role, self.protection.scheme(), content)?;
                self.count_control()?;
                Ok(update.map_or(Inner::Public(Opened::Control), Inner::KeyUpdate))
            }
            // RFC 8446 5: allowed during the handshake only.
            ContentType::ChangeCipherSpec => Err(RecordError::UnexpectedMessage),
        }
    }

    fn take_data(&mut self, len: usize) -> Result<Inner, RecordError> {
        if len > 0 {
            self.empty_in_a_row = 0;
            // Every so much data pays for one message that is none: a byte
            // here and there between key updates does not.
            self.unpaid_data += len;
            let paid = self.unpaid_data / DATA_PER_CONTROL_BYTES;
            self.unpaid_data %= DATA_PER_CONTROL_BYTES;
            self.control_unpaid =
                self.control_unpaid.saturating_sub(u8::try_from(paid).unwrap_or(u8::MAX));
        } else {
            self.empty_in_a_row += 1;
            if self.empty_in_a_row > MAX_EMPTY_IN_A_ROW {
                return Err(RecordError::TooManyWithoutData);
            }
        }
        Ok(Inner::Public(Opened::Data { len }))
    }

    /// RFC 8446 6, RFC 5246 7.2. One alert a record.
    fn take_alert(&mut self, content: &[u8]) -> Result<Inner, RecordError> {
        let &[level, description] = content else {
            return Err(if content.is_empty() {
                RecordError::UnexpectedMessage
            } else {
                RecordError::Decode
            });
        };
        let opened = match (self.protection.scheme(), level, description) {
            (_, _, alert::CLOSE_NOTIFY) => Opened::CloseNotify,
            // TLS 1.3 knows one warning and takes every other alert as fatal,
            // whatever its level says.
            (Scheme::Tls13, _, alert::USER_CANCELED)
            | (Scheme::Tls12Gcm | Scheme::Tls12ChaCha, alert::LEVEL_WARNING, _) => {
                self.count_control()?;
                return Ok(Inner::Public(Opened::Control));
            }
            _ => Opened::Alert { level, description },
        };
        self.end = Some(Ok(opened));
        Ok(Inner::Public(opened))
    }

    fn count_control(&mut self) -> Result<(), RecordError> {
        self.control_unpaid += 1;
        if self.control_unpaid > MAX_CONTROL_UNPAID {
            return Err(RecordError::TooManyWithoutData);
        }
        Ok(())
    }
}

/// Finds the true type behind content and padding (RFC 8446 5.4).
fn strip_inner(inner: &[u8]) -> Result<(ContentType, usize), RecordError> {
    if inner.len() > MAX_PLAINTEXT_LEN + 1 {
        return Err(RecordError::Oversized);
    }
    // The last byte that is not zero; without padding that is the last one.
    let len = inner.iter().rposition(|&byte| byte != 0).ok_or(RecordError::UnexpectedMessage)?;
    let kind = inner.get(len).copied().and_then(ContentType::from_u8);
    Ok((kind.ok_or(RecordError::UnexpectedMessage)?, len))
}
