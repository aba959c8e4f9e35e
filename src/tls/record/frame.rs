//! Where one TLS record ends and the next begins (RFC 8446 5.1, RFC 5246 6.2.1).
//!
//! Looks at the five bytes of the header only; whether a record of this type is
//! welcome at this moment is the opener's business.

use super::RecordError;

/// Bytes of a record's header: type, version, length.
pub const HEADER_LEN: usize = 5;

/// Most plaintext bytes that one record may carry (RFC 8446 5.1).
pub const MAX_PLAINTEXT_LEN: usize = 1 << 14;

/// Most bytes after a header that are accepted. RFC 8446 5.2 allows 256 over the
/// plaintext; TLS 1.2 allows 2048, but none of its AEAD suites adds more than 24.
pub const MAX_PAYLOAD_LEN: usize = MAX_PLAINTEXT_LEN + 256;

/// Most bytes of a whole record that are accepted: what a receiver must be able
/// to carry over between two reads.
pub const MAX_RECORD_LEN: usize = HEADER_LEN + MAX_PAYLOAD_LEN;

/// What a record holds (RFC 8446 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    ChangeCipherSpec,
    Alert,
    Handshake,
    ApplicationData,
}

impl ContentType {
    /// The type with this number, if it is one that TLS over TCP still uses.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            20 => Some(Self::ChangeCipherSpec),
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::ApplicationData),
            _ => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        match self {
            Self::ChangeCipherSpec => 20,
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::ApplicationData => 23,
        }
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The outer type; TLS 1.3 hides the true one inside.
    pub kind: ContentType,
    /// As on the wire: `0x0303`, older in a first `ClientHello`.
    pub version: u16,
    /// Bytes that follow the header.
    pub payload_len: usize,
}

/// What the front of a receive buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    /// `input[..total_len]` is a whole record.
    Complete { header: Header, total_len: usize },
    /// No whole record yet; `needed` is the least length that `input` must grow
    /// to before asking again is of any use (always more than it has now).
    Incomplete { needed: usize },
}

/// Looks for a whole record at the front of `input`.
///
/// # Errors
/// As soon as the bytes that are there rule out a record: `UnknownType`,
/// `WrongVersion` or `Oversized`.
pub fn next_record(input: &[u8]) -> Result<Framed, RecordError> {
    let kind = match input.first() {
        None => return Ok(Framed::Incomplete { needed: HEADER_LEN }),
        Some(&number) => ContentType::from_u8(number).ok_or(RecordError::UnknownType)?,
    };
    if input.get(1).is_some_and(|&major| major != 3) {
        return Err(RecordError::WrongVersion);
    }
    let Some(&[_, major, minor, high, low]) = input.first_chunk::<HEADER_LEN>() else {
        return Ok(Framed::Incomplete { needed: HEADER_LEN });
    };
    let payload_len = usize::from(u16::from_be_bytes([high, low]));
    if payload_len > MAX_PAYLOAD_LEN {
        return Err(RecordError::Oversized);
    }
    let total_len = HEADER_LEN + payload_len;
    if input.len() < total_len {
        return Ok(Framed::Incomplete { needed: total_len });
    }
    let version = u16::from_be_bytes([major, minor]);
    Ok(Framed::Complete { header: Header { kind, version, payload_len }, total_len })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u8, version: u16, payload_len: usize) -> Vec<u8> {
        let mut record = vec![kind];
        record.extend(version.to_be_bytes());
        record.extend(u16::try_from(payload_len).unwrap().to_be_bytes());
        record.resize(HEADER_LEN + payload_len, 0xAA);
        record
    }

    #[test]
    fn every_prefix_asks_for_more_and_the_whole_is_complete() {
        let whole = record(23, 0x0303, 300);
        for cut in 0..whole.len() {
            let needed = if cut < HEADER_LEN { HEADER_LEN } else { whole.len() };
            assert_eq!(next_record(&whole[..cut]), Ok(Framed::Incomplete { needed }), "{cut}");
        }
        let header =
            Header { kind: ContentType::ApplicationData, version: 0x0303, payload_len: 300 };
        let complete = Framed::Complete { header, total_len: 305 };
        assert_eq!(next_record(&whole), Ok(complete));
        let more = [whole.clone(), whole].concat();
        assert_eq!(next_record(&more), Ok(complete), "the next record is not touched");
    }

    #[test]
    fn the_largest_record_passes_and_one_byte_more_does_not() {
        assert!(matches!(
            next_record(&record(23, 0x0303, MAX_PAYLOAD_LEN)),
            Ok(Framed::Complete { total_len: MAX_RECORD_LEN, .. })
        ));
        let over = record(23, 0x0303, MAX_PAYLOAD_LEN + 1);
        assert_eq!(next_record(&over[..HEADER_LEN]), Err(RecordError::Oversized));
    }

    #[test]
    fn what_is_not_tls_is_refused_at_its_first_wrong_byte() {
        assert_eq!(next_record(b"G"), Err(RecordError::UnknownType));
        assert_eq!(next_record(&[24]), Err(RecordError::UnknownType), "heartbeat");
        assert_eq!(next_record(&[23, 2]), Err(RecordError::WrongVersion));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_stall(
            input in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            match next_record(&input) {
                Ok(Framed::Complete { total_len, .. }) => {
                    prop_assert!((HEADER_LEN..=input.len()).contains(&total_len));
                }
                Ok(Framed::Incomplete { needed }) => {
                    prop_assert!(needed > input.len() && needed <= MAX_RECORD_LEN);
                }
                Err(_) => {}
            }
        }
    }
}
