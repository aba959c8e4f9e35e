//! De-framing without a second buffer: payload moves to the front of the buffer
//! that it arrived in.

#[cfg(test)]
use super::framing_error::FramingError;

/// A buffer that is read at one place and, at or before it, written at another.
///
/// ```text
/// | payload so far | what was read and dropped | unread |
/// ^ 0              ^ written                   ^ read
/// ```
#[derive(Debug)]
pub struct InPlace<'a> {
    bytes: &'a mut [u8],
    written: usize,
    read: usize,
}

impl<'a> InPlace<'a> {
    #[must_use]
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, written: 0, read: 0 }
    }

    /// Bytes of payload, contiguous at the front of the buffer.
    #[must_use]
    pub const fn written(&self) -> usize {
        self.written
    }

    /// Everything was read.
    #[must_use]
    pub const fn is_exhausted(&self) -> bool {
        self.unread_len() == 0
    }

    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.bytes.get(self.read..).unwrap_or_default()
    }

    const fn unread_len(&self) -> usize {
        self.bytes.len() - self.read
    }

    /// Reads one byte that is not payload.
    pub fn take(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.read)?;
        self.read += 1;
        Some(byte)
    }

    /// Drops at most `len_max` bytes; how many there were.
    pub fn skip(&mut self, len_max: usize) -> usize {
        let len = len_max.min(self.unread_len());
        self.read += len;
        len
    }

    /// Appends at most `len_max` bytes to the payload; how many there were.
    pub fn keep(&mut self, len_max: usize) -> usize {
        let len = len_max.min(self.unread_len());
        if self.written != self.read {
            self.bytes.copy_within(self.read..self.read + len, self.written);
        }
        self.advance(len)
    }

    /// As [`keep`](Self::keep), with `mask` taken off in the same pass
    /// (RFC 6455 5.3). Leaves `mask` turned to the byte that comes next.
    pub fn keep_unmasked(&mut self, len_max: usize, mask: &mut [u8; 4]) -> usize {
        let len = len_max.min(self.unread_len());
        let distance = self.read - self.written;
        if let Some(window) = self.bytes.get_mut(self.written..self.read + len) {
            move_unmasked(window, distance, *mask);
        }
        mask.rotate_left(len % 4);
        self.advance(len)
    }

    fn advance(&mut self, len: usize) -> usize {
        self.read += len;
        self.written += len;
        len
    }
}

/// Moves `window[distance..]` to the front of `window`, unmasked.
///
/// Blocks are loaded before they are stored, front to back, so it does not
/// matter how much source and destination overlap.
fn move_unmasked(window: &mut [u8], distance: usize, mask: [u8; 4]) {
    let moved = move_blocks::<64>(window, distance, 0, mask);
    let moved = move_blocks::<8>(window, distance, moved, mask);
    for (at, mask) in (moved..window.len() - distance).zip(mask.into_iter().cycle()) {
        let byte = window.get(at + distance).map_or(0, |byte| byte ^ mask);
        if let Some(to) = window.get_mut(at) {
            *to = byte;
        }
    }
}

/// Moves as many blocks of `LEN` bytes, a multiple of eight, as there are from
/// `at` on; where the rest begins. The compiler makes vectors of each block.
fn move_blocks<const LEN: usize>(
    window: &mut [u8],
    distance: usize,
    mut at: usize,
    mask: [u8; 4],
) -> usize {
    let half = u64::from(u32::from_ne_bytes(mask));
    let mask = half << 32 | half;
    while let Some(from) = window.get(at + distance..).and_then(|rest| rest.first_chunk::<LEN>()) {
        let mut block = *from;
        for word in block.as_chunks_mut::<8>().0 {
            *word = (u64::from_ne_bytes(*word) ^ mask).to_ne_bytes();
        }
        if let Some(to) = window.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<LEN>()) {
            *to = block;
        }
        at += LEN;
    }
    at
}

/// What became of bytes that came in pieces.
#[cfg(test)]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded<C> {
    pub(crate) payload: Vec<u8>,
    /// With the length of the payload before each.
    pub(crate) controls: Vec<(usize, C)>,
    pub(crate) verdict: Result<(), FramingError>,
}

/// Why `decode` refuses `bytes`: in the same way whether they come as a whole or
/// byte by byte.
#[cfg(test)]
pub(crate) fn refused<C: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8], &[usize]) -> Decoded<C>,
) -> FramingError {
    let whole = decode(bytes, &[]);
    assert_eq!(decode(bytes, &vec![1; bytes.len()]), whole, "{:?}", bytes.escape_ascii());
    whole.verdict.unwrap_err()
}

/// Decodes `bytes` in pieces of these lengths, and what is left as a last one.
#[cfg(test)]
pub(crate) fn decode_in_pieces<C>(
    bytes: &[u8],
    piece_lens: &[usize],
    mut decode: impl FnMut(&mut InPlace<'_>) -> Result<Option<C>, FramingError>,
) -> Decoded<C> {
    let mut decoded = Decoded { payload: Vec::new(), controls: Vec::new(), verdict: Ok(()) };
    let mut rest = bytes;
    for len in piece_lens.iter().copied().chain([usize::MAX]) {
        let (piece, more) = rest.split_at(len.min(rest.len()));
        rest = more;
        let mut buffer = piece.to_vec();
        let mut input = InPlace::new(&mut buffer);
        let verdict = loop {
            match decode(&mut input) {
                Ok(Some(control)) => {
                    decoded.controls.push((decoded.payload.len() + input.written(), control));
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert!(verdict.is_err() || input.is_exhausted(), "something is left unread");
        let written = input.written();
        decoded.payload.extend(&buffer[..written]);
        decoded.verdict = verdict;
        if verdict.is_err() {
            break;
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn payload_gathers_at_the_front_and_the_rest_is_dropped() {
        let mut bytes = *b"..abc..defg!";
        let mut input = InPlace::new(&mut bytes);
        assert_eq!(input.skip(2), 2);
        assert_eq!(input.keep(3), 3);
        assert_eq!((input.take(), input.take()), (Some(b'.'), Some(b'.')));
        assert_eq!(input.keep(4), 4);
        assert_eq!((input.unread(), input.is_exhausted()), (&b"!"[..], false));
        assert_eq!((input.skip(9), input.is_exhausted(), input.take()), (1, true, None));
        assert_eq!((input.keep(9), input.written()), (0, 7));
        assert_eq!(&bytes[..7], b"abcdefg");
    }

    proptest! {
        #[test]
        fn any_move_unmasks_like_the_definition(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            kept in 0..20_usize,
            skipped in 0..90_usize,
            mask: [u8; 4],
            cuts in prop::collection::vec(0..200_usize, 0..5),
        ) {
            let source = bytes.get(kept + skipped..).unwrap_or_default();
            let unmasked = source.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
            let front = &bytes[..kept.min(bytes.len())];
            let expected: Vec<u8> = front.iter().copied().chain(unmasked).collect();

            let mut buffer = bytes.clone();
            let mut input = InPlace::new(&mut buffer);
            let mut turning = mask;
            input.keep(kept);
            input.skip(skipped);
            for cut in cuts {
                input.keep_unmasked(cut, &mut turning);
            }
            input.keep_unmasked(usize::MAX, &mut turning);
            prop_assert!(input.is_exhausted());
            let written = input.written();
            prop_assert_eq!(&buffer[..written], &expected);
        }
    }
}
