//! The body of a request in chunks, taken apart in place (RFC 9112 7.1).
//!
//! Lines end with CR LF and nothing else. Chunk extensions and trailers are
//! skipped; they mean nothing to us.

use super::framing_error::FramingError;
use super::in_place::InPlace;

/// Longest line with a chunk's size, extensions included, its end not.
pub const SIZE_LINE_LEN_MAX: usize = 256;

/// Longest trailer section, with the size line of the last chunk.
pub const TRAILERS_LEN_MAX: usize = 4 * 1024;

/// Longest chunk that is accepted. There may be any number.
pub const CHUNK_LEN_MAX: usize = 16 * 1024 * 1024;

/// The last chunk came; nothing that follows belongs to this body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End;

/// Takes one request's body apart, wherever it is cut.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Bytes since the last payload.
    line_len: usize,
    /// Of the chunk under way: its size so far, then what is still to come.
    left: usize,
}

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    FirstDigit,
    Digit,
    /// What follows the size, up to the line's CR.
    AfterSize,
    Extension,
    SizeLineFeed,
    Payload,
    PayloadReturn,
    PayloadLineFeed,
    /// A trailer's first byte, or the CR of the line that ends everything.
    TrailerBegin,
    Trailer,
    TrailerLineFeed,
    LastLineFeed,
    Ended,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::FirstDigit, line_len: 0, left: 0 }
    }

    /// Appends the payload of chunks to the front of `input`. `None` when `input`
    /// is exhausted. After [`End`] nothing more is read.
    ///
    /// # Errors
    /// [`FramingError`], at the first byte that is wrong; the connection ends.
    pub fn decode(&mut self, input: &mut InPlace<'_>) -> Result<Option<End>, FramingError> {
        loop {
            match self.state {
                State::Ended => return Ok(Some(End)),
                State::Payload => {
                    self.left -= input.keep(self.left);
                    if self.left > 0 {
                        return Ok(None);
                    }
                    self.state = State::PayloadReturn;
                }
                _ => match input.take() {
                    Some(byte) => self.between(byte)?,
                    None => return Ok(None),
                },
            }
        }
    }

    /// Everything that is not payload.
    fn between(&mut self, byte: u8) -> Result<(), FramingError> {
        self.state = match (self.state, byte) {
            (State::FirstDigit | State::Digit, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.add_digit(byte)?;
                State::Digit
            }
            (State::Digit | State::AfterSize, b' ' | b'\t') => State::AfterSize,
            (State::Digit | State::AfterSize, b';') => State::Extension,
            (State::Digit | State::AfterSize | State::Extension, b'\r') => State::SizeLineFeed,
            (State::SizeLineFeed, b'\n') if self.left > 0 => State::Payload,
            (State::SizeLineFeed, b'\n') => State::TrailerBegin,
            (State::PayloadReturn, b'\r') => State::PayloadLineFeed,
            (State::PayloadLineFeed, b'\n') => State::FirstDigit,
            (State::TrailerBegin, b'\r') => State::LastLineFeed,
            (State::Trailer, b'\r') => State::TrailerLineFeed,
            (State::TrailerLineFeed, b'\n') => State::TrailerBegin,
            (State::LastLineFeed, b'\n') => State::Ended,
            (State::Extension, other) if other != b'\n' => State::Extension,
            (State::TrailerBegin | State::Trailer, other) if other != b'\n' => State::Trailer,
            _ => return Err(FramingError::MalformedChunk),
        };
        self.line_len += 1;
        let line_len_max = match self.state {
            State::FirstDigit | State::Payload | State::Ended => {
                self.line_len = 0;
                return Ok(());
            }
            State::Digit | State::AfterSize | State::Extension => SIZE_LINE_LEN_MAX,
            _ => TRAILERS_LEN_MAX,
        };
        if self.line_len > line_len_max { Err(FramingError::ChunkLineTooLong) } else { Ok(()) }
    }

    fn add_digit(&mut self, digit: u8) -> Result<(), FramingError> {
        let digit = char::from(digit).to_digit(16).ok_or(FramingError::MalformedChunk)?;
        let digit = usize::try_from(digit).map_err(|_| FramingError::MalformedChunk)?;
        self.left = self.left * 16 + digit;
        if self.left > CHUNK_LEN_MAX { Err(FramingError::ChunkTooLong) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::in_place::{self, Decoded, decode_in_pieces};

    /// Decodes up to the end; what follows it is dropped here, as by a closed leg.
    fn decode(bytes: &[u8], piece_lens: &[usize]) -> Decoded<End> {
        let (mut decoder, mut has_ended) = (Decoder::new(), false);
        decode_in_pieces(bytes, piece_lens, |input| {
            if has_ended {
                input.skip(usize::MAX);
                return Ok(None);
            }
            let ended = decoder.decode(input)?;
            has_ended = ended.is_some();
            Ok(ended)
        })
    }

    fn refused(bytes: &[u8]) -> FramingError {
        in_place::refused(bytes, decode)
    }

    const BODY: &[u8] = b"5\r\nhello\r\n00C;name=\"a;b\";x\r\n, wide world\r\n1 \t ;e\r\n!\r\n\
        000;last\r\nTrailer: one\r\nAnother: two\r\n\r\n";

    #[test]
    fn chunks_with_extensions_and_trailers_are_read_wherever_they_are_cut() {
        let payload = b"hello, wide world!".to_vec();
        let expected = Decoded { controls: vec![(payload.len(), End)], payload, verdict: Ok(()) };
        for cut in 0..=BODY.len() {
            assert_eq!(decode(BODY, &[cut]), expected, "{cut}");
        }
        assert_eq!(decode(BODY, &vec![1; BODY.len()]), expected);
    }

    #[test]
    fn what_follows_the_end_is_not_read() {
        let mut bytes = *b"2\r\nab\r\n0\r\n\r\nGET / HTTP/1.1";
        let mut input = InPlace::new(&mut bytes);
        let mut decoder = Decoder::new();
        for _ in 0..3 {
            assert_eq!(decoder.decode(&mut input), Ok(Some(End)));
            assert_eq!((input.unread(), input.written()), (&b"GET / HTTP/1.1"[..], 2));
        }
    }

    #[test]
    fn the_end_comes_with_the_last_byte_and_not_before() {
        let body = b"0\r\nA: b\r\n\r\n";
        for len in 0..body.len() {
            assert_eq!(decode(&body[..len], &[]).controls, [], "{len}");
        }
        assert_eq!(decode(body, &[]).controls, [(0, End)]);
    }

    #[test]
    fn lines_that_are_not_as_they_must_be_are_refused() {
        let malformed: [&[u8]; 14] = [
            b"\r\n",
            b" 5\r\n",
            b"g\r\n",
            b";x\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x5\r\n",
            b"5 5\r\n",
            // Line ends are CR LF, nothing less.
            b"5\n",
            b"5\r5",
            b"5;x\n",
            b"0\r\n\n",
            b"0\r\nA: b\n",
            b"0\r\n\rA",
        ];
        for bytes in malformed {
            assert_eq!(refused(bytes), FramingError::MalformedChunk, "{:?}", bytes.escape_ascii());
        }
        // A chunk is as long as it says.
        for bytes in [b"1\r\nab\r\n".as_slice(), b"3\r\nab\r\n0", b"1\r\na\rb", b"1\r\na\n"] {
            assert_eq!(refused(bytes), FramingError::MalformedChunk, "{:?}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_size_beyond_the_limit_is_refused_at_the_digit_that_tells() {
        let mut bytes = *b"1000000\r\n";
        assert_eq!(Decoder::new().decode(&mut InPlace::new(&mut bytes)), Ok(None));
        assert_eq!(refused(b"1000001"), FramingError::ChunkTooLong);
        assert_eq!(refused(b"ffffffffffffffffffff"), FramingError::ChunkTooLong);
    }

    #[test]
    fn endless_size_lines_and_trailers_are_refused() {
        let line = |len| [b"1;", "e".repeat(len - 2).as_bytes(), b"\r\nX\r\n"].concat();
        assert_eq!(decode(&line(SIZE_LINE_LEN_MAX), &[]).payload, b"X");
        assert_eq!(refused(&line(SIZE_LINE_LEN_MAX + 1)), FramingError::ChunkLineTooLong);
        assert_eq!(refused(&[b'0'; 300]), FramingError::ChunkLineTooLong);

        let trailers = |lines| [b"0\r\n", "A: 4567\r\n".repeat(lines).as_bytes(), b"\r\n"].concat();
        assert_eq!(decode(&trailers(TRAILERS_LEN_MAX / 9 - 1), &[]).controls, [(0, End)]);
        assert_eq!(refused(&trailers(TRAILERS_LEN_MAX / 9 + 1)), FramingError::ChunkLineTooLong);
    }

    proptest! {
        #[test]
        fn any_payload_in_any_chunks_and_pieces_arrives(
            chunks in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 1..300), "(;[a-z]{0,9}(=\"[ -!#-~]{0,9}\")?)?"),
                0..12,
            ),
            trailer in "([A-Z][a-z]{0,9}: [ -~]{0,20}\r\n){0,3}",
            upper: bool,
            zeros in 0..4_usize,
            piece_lens in prop::collection::vec(0..90_usize, 0..40),
        ) {
            let mut bytes = Vec::new();
            for (payload, extension) in &chunks {
                let size = if upper { format!("{:X}", payload.len()) } else { format!("{:x}", payload.len()) };
                bytes.extend(format!("{}{size}{extension}\r\n", "0".repeat(zeros)).bytes());
                bytes.extend(payload);
                bytes.extend(b"\r\n");
            }
            bytes.extend(format!("0\r\n{trailer}\r\n").bytes());
            let decoded = decode(&bytes, &piece_lens);
            let payload: Vec<u8> = chunks.into_iter().flat_map(|(payload, _)| payload).collect();
            prop_assert_eq!(decoded.controls, [(payload.len(), End)]);
            prop_assert_eq!(decoded.payload, payload);
        }

        #[test]
        fn garbage_means_the_same_however_it_is_cut(
            bytes in prop::collection::vec(prop::sample::select(b"012aF;\r\n x".to_vec()), 0..60),
            piece_lens in prop::collection::vec(0..9_usize, 0..20),
        ) {
            prop_assert_eq!(decode(&bytes, &piece_lens), decode(&bytes, &[]));
        }
    }
}
