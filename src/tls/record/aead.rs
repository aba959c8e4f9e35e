//! One AEAD key: AWS-LC's implementation or ring's, whichever this processor
//! runs faster.
//!
//! AWS-LC has AES-GCM for processors with AVX-512 and VAES, and one of 128 bits
//! a step for all others. Between them are those with VAES on 256 bits alone
//! (AMD Zen 3, Intel's efficiency cores): there ring takes 0.13 s per GB and
//! direction where AWS-LC takes 0.26, and 95 ns for 64 bytes where AWS-LC takes
//! 144. Both are held to the same bytes by the tests below.

use std::hint::black_box;

use aws_lc_rs::aead as aws;
use ring::aead as other;

use super::{RecordError, TAG_LEN};

pub(super) const NONCE_LEN: usize = aws::NONCE_LEN;

/// Largest piece that is copied at a time. Beyond it the C library copies with
/// `rep movsb`, which Zen 3 runs at 2 GB/s instead of 60 when the target lies a
/// little further into its page than the source.
const COPY_PIECE_BYTES: usize = 2 * 1024;

/// The ciphers of the suites that we offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    const fn of_aws(self) -> &'static aws::Algorithm {
        match self {
            Self::Aes128Gcm => &aws::AES_128_GCM,
            Self::Aes256Gcm => &aws::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aws::CHACHA20_POLY1305,
        }
    }

    const fn of_ring(self) -> &'static other::Algorithm {
        match self {
            Self::Aes128Gcm => &other::AES_128_GCM,
            Self::Aes256Gcm => &other::AES_256_GCM,
            Self::ChaCha20Poly1305 => &other::CHACHA20_POLY1305,
        }
    }

    /// Whether ring is the faster one here.
    fn prefers_ring(self) -> bool {
        self != Self::ChaCha20Poly1305 && has_vaes_on_256_bits_alone()
    }
}

#[cfg(target_arch = "x86_64")]
fn has_vaes_on_256_bits_alone() -> bool {
    // Each of these looks at a word that the standard library has cached.
    is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("avx2")
        && !(is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl"))
}

#[cfg(not(target_arch = "x86_64"))]
const fn has_vaes_on_256_bits_alone() -> bool {
    false
}

/// A key with its schedule; zeroed when dropped.
pub(super) enum AeadKey {
    /// AWS-LC cleanses it when it frees it.
    Aws(aws::LessSafeKey),
    Ring(RingKey),
}

/// ring does not cleanse its keys. They stay where they are (boxed), and are
/// overwritten in place by the schedule of a key of zeros.
pub(super) struct RingKey {
    key: Box<other::LessSafeKey>,
    cipher: Cipher,
}

impl AeadKey {
    pub(super) fn new(cipher: Cipher, key: &[u8]) -> Result<Self, RecordError> {
        if cipher.prefers_ring() { Self::of_ring(cipher, key) } else { Self::of_aws(cipher, key) }
    }

    fn of_aws(cipher: Cipher, key: &[u8]) -> Result<Self, RecordError> {
        let key = aws::UnboundKey::new(cipher.of_aws(), key).map_err(|_| RecordError::Keys)?;
        Ok(Self::Aws(aws::LessSafeKey::new(key)))
    }

    fn of_ring(cipher: Cipher, key: &[u8]) -> Result<Self, RecordError> {
        Ok(Self::Ring(RingKey { key: Box::new(ring_key(cipher, key)?), cipher }))
    }

    /// Decrypts `ciphertext` into `out`, which has the same length.
    pub(super) fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), RecordError> {
        match self {
            Self::Aws(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                key.open_separate_gather(nonce, aws::Aad::from(aad), ciphertext, tag, out)
                    .map_err(|_| RecordError::BadMac)
            }
            Self::Ring(RingKey { key, .. }) => {
                // It opens in place only.
                let pieces = ciphertext.chunks(COPY_PIECE_BYTES);
                for (to, from) in out.chunks_mut(COPY_PIECE_BYTES).zip(pieces) {
                    to.copy_from_slice(from);
                }
                let nonce = other::Nonce::assume_unique_for_key(nonce);
                let tag = other::Tag::from(*tag);
                key.open_in_place_separate_tag(nonce, other::Aad::from(aad), tag, out, 0..)
                    .map(|_plaintext| ())
                    .map_err(|_| RecordError::BadMac)
            }
        }
    }

    /// Decrypts `sealed[at..]`, ciphertext and tag, to the front of `sealed`.
    /// With ring that costs no more than decrypting it where it lies.
    pub(super) fn open_forward(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        sealed: &mut [u8],
        at: usize,
    ) -> Result<(), RecordError> {
        let opened = match self {
            Self::Aws(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                key.open_within(nonce, aws::Aad::from(aad), sealed, at..).is_ok()
            }
            Self::Ring(RingKey { key, .. }) => {
                let nonce = other::Nonce::assume_unique_for_key(nonce);
                key.open_within(nonce, other::Aad::from(aad), sealed, at..).is_ok()
            }
        };
        if opened { Ok(()) } else { Err(RecordError::BadMac) }
    }

    /// Encrypts in place and writes the tag.
    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), RecordError> {
        match self {
            Self::Aws(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_scatter(nonce, aws::Aad::from(aad), in_out, &[], tag)
                    .map_err(|_| RecordError::Keys)
            }
            Self::Ring(RingKey { key, .. }) => {
                let nonce = other::Nonce::assume_unique_for_key(nonce);
                let made = key
                    .seal_in_place_separate_tag(nonce, other::Aad::from(aad), in_out)
                    .map_err(|_| RecordError::Keys)?;
                tag.copy_from_slice(made.as_ref());
                Ok(())
            }
        }
    }
}

fn ring_key(cipher: Cipher, key: &[u8]) -> Result<other::LessSafeKey, RecordError> {
    let key = other::UnboundKey::new(cipher.of_ring(), key).map_err(|_| RecordError::Keys)?;
    Ok(other::LessSafeKey::new(key))
}

impl Drop for RingKey {
    fn drop(&mut self) {
        const KEY_LEN_MAX: usize = 32;
        let zeros = [0; KEY_LEN_MAX];
        let zeros = zeros.get(..self.cipher.of_ring().key_len()).unwrap_or_default();
        if let Ok(of_zeros) = ring_key(self.cipher, zeros) {
            *self.key = of_zeros;
            // Or the compiler might see that nobody reads it any more.
            black_box(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CIPHERS: [Cipher; 3] = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    fn both(cipher: Cipher, key: &[u8; 32]) -> [AeadKey; 2] {
        let key = &key[..cipher.of_aws().key_len()];
        [AeadKey::of_aws(cipher, key).unwrap(), AeadKey::of_ring(cipher, key).unwrap()]
    }

    proptest! {
        #[test]
        fn both_seal_to_the_same_bytes_and_open_each_others(
            key: [u8; 32],
            nonce: [u8; NONCE_LEN],
            aad in prop::collection::vec(any::<u8>(), 0..20),
            text in prop::collection::vec(any::<u8>(), 0..20_000),
            shift in 0..200_usize,
        ) {
            for cipher in CIPHERS {
                let keys = both(cipher, &key);
                let sealed = keys.each_ref().map(|key| {
                    let (mut bytes, mut tag) = (text.clone(), [0; TAG_LEN]);
                    key.seal(nonce, &aad, &mut bytes, &mut tag).unwrap();
                    (bytes, tag)
                });
                prop_assert_eq!(&sealed[0], &sealed[1]);
                let (bytes, tag) = &sealed[0];
                for key in &keys {
                    let mut opened = vec![0; text.len()];
                    key.open(nonce, &aad, bytes, tag, &mut opened).unwrap();
                    prop_assert_eq!(&opened, &text);
                    let mut shifted = [&vec![9; shift][..], bytes, tag].concat();
                    key.open_forward(nonce, &aad, &mut shifted, shift).unwrap();
                    prop_assert_eq!(&shifted[..text.len()], &text);
                }
            }
        }

        #[test]
        fn both_refuse_any_changed_bit(
            key: [u8; 32],
            nonce: [u8; NONCE_LEN],
            text in prop::collection::vec(any::<u8>(), 1..600),
            bit: prop::sample::Index,
        ) {
            for cipher in CIPHERS {
                for key in both(cipher, &key) {
                    let (mut bytes, mut tag) = (text.clone(), [0; TAG_LEN]);
                    key.seal(nonce, b"head", &mut bytes, &mut tag).unwrap();
                    let bit = bit.index((bytes.len() + TAG_LEN) * 8);
                    match bytes.get_mut(bit / 8) {
                        Some(byte) => *byte ^= 1 << (bit % 8),
                        None => tag[bit / 8 - text.len()] ^= 1 << (bit % 8),
                    }
                    let mut out = vec![0; text.len()];
                    let verdict = key.open(nonce, b"head", &bytes, &tag, &mut out);
                    prop_assert_eq!(verdict, Err(RecordError::BadMac));
                    let mut sealed = [&bytes[..], &tag].concat();
                    let verdict = key.open_forward(nonce, b"head", &mut sealed, 0);
                    prop_assert_eq!(verdict, Err(RecordError::BadMac));
                }
            }
        }
    }

    #[test]
    fn other_header_or_nonce_is_refused_by_both() {
        for key in CIPHERS.into_iter().flat_map(|cipher| both(cipher, &[3; 32])) {
            let (mut bytes, mut tag) = (b"some plaintext".to_vec(), [0; TAG_LEN]);
            key.seal([1; NONCE_LEN], b"head", &mut bytes, &mut tag).unwrap();
            let mut out = vec![0; bytes.len()];
            assert!(key.open([1; NONCE_LEN], b"tail", &bytes, &tag, &mut out).is_err());
            assert!(key.open([2; NONCE_LEN], b"head", &bytes, &tag, &mut out).is_err());
            assert!(key.open([1; NONCE_LEN], b"head", &bytes, &tag, &mut out).is_ok());
        }
    }
}
