//! What goes wrong in a record layer, and the alert that says so to the peer.

/// Numbers of the alerts that are sent or told apart here (RFC 8446 6).
pub mod alert {
    pub const CLOSE_NOTIFY: u8 = 0;
    pub const UNEXPECTED_MESSAGE: u8 = 10;
    pub const BAD_RECORD_MAC: u8 = 20;
    pub const RECORD_OVERFLOW: u8 = 22;
    pub const ILLEGAL_PARAMETER: u8 = 47;
    pub const DECODE_ERROR: u8 = 50;
    pub const PROTOCOL_VERSION: u8 = 70;
    pub const INTERNAL_ERROR: u8 = 80;
    pub const USER_CANCELED: u8 = 90;
    pub const NO_RENEGOTIATION: u8 = 100;

    pub const LEVEL_WARNING: u8 = 1;
    pub const LEVEL_FATAL: u8 = 2;

    /// The level that goes with a description (RFC 8446 6, RFC 5246 7.2.2).
    #[must_use]
    pub const fn level(description: u8) -> u8 {
        match description {
            CLOSE_NOTIFY | USER_CANCELED | NO_RENEGOTIATION => LEVEL_WARNING,
            _ => LEVEL_FATAL,
        }
    }
}

/// Why a record cannot be opened or sealed. Each one ends the connection, except
/// [`KeyUpdateOwed`](Self::KeyUpdateOwed) and
/// [`BufferTooSmall`](Self::BufferTooSmall), which are the caller's mistakes and
/// change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a record could not be authenticated: it was changed on its way, or is not TLS")]
    BadMac,
    #[error("the buffer is too small for this record: give it at least the length asked for")]
    BufferTooSmall,
    #[error("this side has already closed the connection: seal nothing after close_notify")]
    Closed,
    #[error("a handshake message or alert cannot be decoded")]
    Decode,
    #[error("a key update asks for something that does not exist")]
    IllegalKeyUpdate,
    #[error("the keys cannot be used or renewed")]
    Keys,
    #[error("an answer to the peer's key update is owed: seal it before more data")]
    KeyUpdateOwed,
    #[error("as many records were sealed as these keys may protect: open a new connection")]
    LimitReached,
    #[error("a record is longer than TLS allows")]
    Oversized,
    #[error("the peer asked to renegotiate, which is refused")]
    Renegotiation,
    #[error("too many records in a row carried no data")]
    TooManyWithoutData,
    #[error("a record of this content is not allowed here")]
    UnexpectedMessage,
    #[error("a record of unknown type: this is not TLS")]
    UnknownType,
    #[error("a record of another TLS version")]
    WrongVersion,
}

impl RecordError {
    /// Description of the alert to seal for the peer before closing; `None` when
    /// the peer did nothing wrong ([`Self::LimitReached`]: end with
    /// `close_notify`) or nothing more can be sent.
    #[must_use]
    pub const fn alert(self) -> Option<u8> {
        Some(match self {
            Self::BadMac => alert::BAD_RECORD_MAC,
            Self::BufferTooSmall | Self::Keys => alert::INTERNAL_ERROR,
            Self::Closed | Self::KeyUpdateOwed | Self::LimitReached => return None,
            Self::Decode => alert::DECODE_ERROR,
            Self::IllegalKeyUpdate => alert::ILLEGAL_PARAMETER,
            Self::Oversized => alert::RECORD_OVERFLOW,
            Self::Renegotiation => alert::NO_RENEGOTIATION,
            Self::TooManyWithoutData | Self::UnexpectedMessage | Self::UnknownType => {
                alert::UNEXPECTED_MESSAGE
            }
            Self::WrongVersion => alert::PROTOCOL_VERSION,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peer_did_wrong_is_a_fatal_alert_and_what_it_did_not_is_none() {
        assert_eq!(RecordError::BadMac.alert(), Some(20));
        assert_eq!(RecordError::Oversized.alert(), Some(22));
        assert_eq!(RecordError::UnknownType.alert().map(alert::level), Some(alert::LEVEL_FATAL));
        for ours in [RecordError::Closed, RecordError::KeyUpdateOwed, RecordError::LimitReached] {
            assert_eq!(ours.alert(), None, "{ours}");
        }
        let refusal = RecordError::Renegotiation.alert().map(alert::level);
        assert_eq!(refusal, Some(alert::LEVEL_WARNING), "RFC 5246 7.2.2");
    }
}
