//! One direction's key, initialisation vector and sequence number, and how each
//! version builds nonce and additional data from them.
//!
//! | | nonce | on the wire before the ciphertext | additional data |
//! | --- | --- | --- | --- |
//! | TLS 1.3 (RFC 8446 5.2, 5.3) | iv xor sequence | nothing | the header |
//! | TLS 1.2 GCM (RFC 5288 3) | salt, explicit part | the 8 explicit bytes | sequence, type, version, plaintext length |
//! | TLS 1.2 ChaCha20 (RFC 7905 2) | iv xor sequence | nothing | the same |
//!
//! The explicit part that we send is iv xor sequence as well, which RFC 5288
//! permits (it must only be unique) and rustls does.

use std::ops::Range;

use rustls::{ConnectionTrafficSecrets, ProtocolVersion};
use zeroize::Zeroizing;

use super::aead::{AeadKey, Cipher, NONCE_LEN};
use super::frame::{ContentType, Framed, HEADER_LEN, MAX_PLAINTEXT_LEN, next_record};
use super::{RecordError, TAG_LEN};

/// `legacy_record_version` of TLS 1.3, and the version of TLS 1.2.
const WIRE_VERSION: [u8; 2] = [3, 3];

const EXPLICIT_NONCE_LEN: usize = 8;

/// The last sequence numbers are never used: RFC 8446 5.3 forbids a wrap.
pub(super) const SEQUENCE_LIMIT: u64 = u64::MAX - 0xffff;

/// How records are put together under the negotiated version and suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Tls13,
    Tls12Gcm,
    Tls12ChaCha,
}

impl Scheme {
    /// Bytes between a record's start and its plaintext.
    pub(super) const fn plaintext_offset(self) -> usize {
        HEADER_LEN + self.explicit_nonce_len()
    }

    /// Bytes between a record's plaintext and its end.
    pub(super) const fn trailer_len(self) -> usize {
        self.inner_type_len() + TAG_LEN
    }

    const fn explicit_nonce_len(self) -> usize {
        match self {
            Self::Tls12Gcm => EXPLICIT_NONCE_LEN,
            Self::Tls13 | Self::Tls12ChaCha => 0,
        }
    }

    const fn inner_type_len(self) -> usize {
        match self {
            Self::Tls13 => 1,
            Self::Tls12Gcm | Self::Tls12ChaCha => 0,
        }
    }
}

/// A sealed record, and where its content goes.
pub(super) enum Passage<'a> {
    Across {
        record: &'a [u8],
        out: &'a mut [u8],
    },
    /// The record ends `buf`; its content goes to `out_at`, which is where its
    /// ciphertext begins, or before.
    Within {
        buf: &'a mut [u8],
        record_at: usize,
        out_at: usize,
    },
}

impl Passage<'_> {
    fn record(&self) -> &[u8] {
        match self {
            Self::Across { record, .. } => record,
            Self::Within { buf, record_at, .. } => buf.get(*record_at..).unwrap_or_default(),
        }
    }

    /// What was opened, if it has this length.
    pub(super) fn opened(&self, len: usize) -> &[u8] {
        match self {
            Self::Across { out, .. } => out.get(..len),
            Self::Within { buf, out_at, .. } => buf.get(*out_at..*out_at + len),
        }
        .unwrap_or_default()
    }
}

/// A record taken apart.
struct Layout {
    kind: ContentType,
    header: [u8; HEADER_LEN],
    nonce: [u8; NONCE_LEN],
    /// Within the record; the tag follows.
    ciphertext: Range<usize>,
}

/// What protects one direction.
pub(super) struct Protection {
    scheme: Scheme,
    key: AeadKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    sequence: u64,
}

impl Protection {
    /// Takes over from rustls at `sequence`.
    pub(super) fn new(
        version: ProtocolVersion,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, RecordError> {
        let (cipher, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (Cipher::ChaCha20Poly1305, key, iv)
            }
            _ => return Err(RecordError::Keys),
        };
        let scheme = match version {
            ProtocolVersion::TLSv1_3 => Scheme::Tls13,
            ProtocolVersion::TLSv1_2 if cipher == Cipher::ChaCha20Poly1305 => Scheme::Tls12ChaCha,
            ProtocolVersion::TLSv1_2 => Scheme::Tls12Gcm,
            _ => return Err(RecordError::Keys),
        };
        let key = AeadKey::new(cipher, key.as_ref())?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Keys)?;
        Ok(Self { scheme, key, iv: Zeroizing::new(iv), sequence })
    }

    pub(super) const fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }

    #[cfg(test)]
    pub(super) const fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// Decrypts a whole record to where it is to go. Returns the outer type and
    /// the number of bytes written, which under TLS 1.3 include inner type and
    /// padding.
    pub(super) fn open(
        &mut self,
        passage: &mut Passage<'_>,
    ) -> Result<(ContentType, usize), RecordError> {
        let Layout { kind, header, nonce, ciphertext } = self.layout(passage.record())?;
        let len = ciphertext.len();
        let tls12_aad;
        let aad: &[u8] = match self.scheme {
            Scheme::Tls13 => &header,
            Scheme::Tls12Gcm | Scheme::Tls12ChaCha => {
                tls12_aad = self.tls12_aad(kind, len);
                &tls12_aad
            }
        };
        match passage {
            Passage::Across { record, out } => {
                let (ciphertext, tag) = record
                    .get(ciphertext.start..ciphertext.end + TAG_LEN)
                    .and_then(<[u8]>::split_last_chunk::<TAG_LEN>)
                    .ok_or(RecordError::BadMac)?;
                let out = out.get_mut(..len).ok_or(RecordError::BufferTooSmall)?;
                self.key.open(nonce, aad, ciphertext, tag, out)?;
            }
            Passage::Within { buf, record_at, out_at } => {
                let (start, end) = (*record_at + ciphertext.start, *record_at + ciphertext.end);
                let shift = start.checked_sub(*out_at).ok_or(RecordError::BufferTooSmall)?;
                let sealed =
                    buf.get_mut(*out_at..end + TAG_LEN).ok_or(RecordError::BufferTooSmall)?;
                self.key.open_forward(nonce, aad, sealed, shift)?;
            }
        }
        self.sequence += 1;
        Ok((kind, len))
    }

    /// Takes a whole record apart; checks all that shows from outside.
    fn layout(&self, record: &[u8]) -> Result<Layout, RecordError> {
        let Framed::Complete { header, total_len } = next_record(record)? else {
            return Err(RecordError::Decode);
        };
        if header.version.to_be_bytes() != WIRE_VERSION {
            return Err(RecordError::WrongVersion);
        }
        if self.scheme == Scheme::Tls13 && header.kind != ContentType::ApplicationData {
            return Err(RecordError::UnexpectedMessage);
        }
        let (header_bytes, payload) = record
            .get(..total_len)
            .and_then(<[u8]>::split_first_chunk::<HEADER_LEN>)
            .ok_or(RecordError::Decode)?;
        let (explicit, sealed) = payload
            .split_at_checked(self.scheme.explicit_nonce_len())
            .ok_or(RecordError::BadMac)?;
        let len = sealed.len().checked_sub(TAG_LEN).ok_or(RecordError::BadMac)?;
        if len > MAX_PLAINTEXT_LEN + self.scheme.inner_type_len() {
            return Err(RecordError::Oversized);
        }
        if self.sequence >= SEQUENCE_LIMIT {
            return Err(RecordError::LimitReached);
        }
        let nonce = match explicit.first_chunk::<EXPLICIT_NONCE_LEN>() {
            Some(explicit) => self.nonce_with(*explicit),
            None => self.nonce(),
        };
        let start = self.scheme.plaintext_offset();
        let ciphertext = start..start + len;
        Ok(Layout { kind: header.kind, header: *header_bytes, nonce, ciphertext })
    }

    /// Seals the `plaintext_len` bytes that already lie at
    /// `buf[plaintext_offset()..]` and writes everything around them. Returns
    /// the record's length; the record begins at `buf[0]`.
    pub(super) fn seal(
        &mut self,
        kind: ContentType,
        buf: &mut [u8],
        plaintext_len: usize,
    ) -> Result<usize, RecordError> {
        if plaintext_len > MAX_PLAINTEXT_LEN {
            return Err(RecordError::Oversized);
        }
        if self.sequence >= SEQUENCE_LIMIT {
            return Err(RecordError::LimitReached);
        }
        let scheme = self.scheme;
        let total_len = scheme.plaintext_offset() + plaintext_len + scheme.trailer_len();
        let (header, payload) = buf
            .get_mut(..total_len)
            .and_then(|record| record.split_first_chunk_mut::<HEADER_LEN>())
            .ok_or(RecordError::BufferTooSmall)?;

        let outer = if scheme == Scheme::Tls13 { ContentType::ApplicationData } else { kind };
        let [length_high, length_low] =
            u16::try_from(payload.len()).map_err(|_| RecordError::Oversized)?.to_be_bytes();
        let [version_major, version_minor] = WIRE_VERSION;
        *header = [outer.as_u8(), version_major, version_minor, length_high, length_low];

        let nonce = self.nonce();
        let (explicit, sealed) = payload
            .split_at_mut_checked(scheme.explicit_nonce_len())
            .ok_or(RecordError::BufferTooSmall)?;
        if let (false, Some(wire_part)) = (explicit.is_empty(), nonce.get(4..)) {
            explicit.copy_from_slice(wire_part);
        }
        let (inner, tag) =
            sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(RecordError::BufferTooSmall)?;
        match scheme {
            Scheme::Tls13 => {
                if let Some(inner_type) = inner.last_mut() {
                    *inner_type = kind.as_u8();
                }
                self.key.seal(nonce, &*header, inner, tag)?;
            }
            Scheme::Tls12Gcm | Scheme::Tls12ChaCha => {
                let aad = self.tls12_aad(kind, plaintext_len);
                self.key.seal(nonce, &aad, inner, tag)?;
            }
        }
        self.sequence += 1;
        Ok(total_len)
    }

    /// Seals whatever a bad peer might: any outer type and, under TLS 1.3, the
    /// whole inner plaintext with type and padding, of any length.
    #[cfg(test)]
    pub(super) fn forge(&mut self, outer: u8, inner: &[u8]) -> Vec<u8> {
        let nonce = self.nonce();
        let mut payload = inner.to_vec();
        let explicit = nonce[4..4 + self.scheme.explicit_nonce_len()].to_vec();
        let length = u16::try_from(explicit.len() + inner.len() + TAG_LEN).unwrap();
        let [high, low] = length.to_be_bytes();
        let header = [outer, 3, 3, high, low];
        let aad = match self.scheme {
            Scheme::Tls13 => header.to_vec(),
            Scheme::Tls12Gcm | Scheme::Tls12ChaCha => {
                let [high, low] = u16::try_from(inner.len()).unwrap().to_be_bytes();
                [&self.sequence.to_be_bytes()[..], &[outer, 3, 3, high, low]].concat()
            }
        };
        let mut tag = [0; TAG_LEN];
        self.key.seal(nonce, &aad, &mut payload, &mut tag).unwrap();
        self.sequence += 1;
        [&header[..], &explicit, &payload, &tag].concat()
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = *self.iv;
        for (byte, sequence) in nonce.iter_mut().skip(4).zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    fn nonce_with(&self, explicit: [u8; EXPLICIT_NONCE_LEN]) -> [u8; NONCE_LEN] {
        let mut nonce = *self.iv;
        for (byte, explicit) in nonce.iter_mut().skip(4).zip(explicit) {
            *byte = explicit;
        }
        nonce
    }

    /// RFC 5246 6.2.3.3.
    fn tls12_aad(&self, kind: ContentType, plaintext_len: usize) -> [u8; 13] {
        let [s0, s1, s2, s3, s4, s5, s6, s7] = self.sequence.to_be_bytes();
        let [major, minor] = WIRE_VERSION;
        // At most MAX_PLAINTEXT_LEN here, both callers have checked.
        let [high, low] = u16::try_from(plaintext_len).unwrap_or(u16::MAX).to_be_bytes();
        [s0, s1, s2, s3, s4, s5, s6, s7, kind.as_u8(), major, minor, high, low]
    }
}
