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
