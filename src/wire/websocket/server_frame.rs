//! What a server sends: never masked, never fragmented.

use super::CONTROL_LEN_MAX;

const FIN: u8 = 0x80;
const BINARY: u8 = 0x2;
const CONTROL_HEADER_LEN: usize = 2;
const CONTROL_FRAME_LEN_MAX: usize = CONTROL_HEADER_LEN + CONTROL_LEN_MAX;

/// Marks a length in the two bytes that follow (RFC 6455 5.2).
const TWO_MORE_BYTES: u8 = 126;

/// Bytes of the longest header that [`write_server_header`] makes.
pub const SERVER_HEADER_LEN_MAX: usize = 4;

/// Bytes of the header of a data frame: the shortest form.
#[must_use]
pub const fn server_header_len(payload_len: usize) -> usize {
    if payload_len < TWO_MORE_BYTES as usize { 2 } else { SERVER_HEADER_LEN_MAX }
}

/// Writes the header of a binary frame of `payload_len` bytes to the front of
/// `out`; its length. `None` when `out` is too short or the payload is longer
/// than 65,535 bytes, which FreeRDP is not sent.
pub fn write_server_header(out: &mut [u8], payload_len: usize) -> Option<usize> {
    let payload_len = u16::try_from(payload_len).ok()?;
    match u8::try_from(payload_len) {
        Ok(short) if short < TWO_MORE_BYTES => {
            *out.first_chunk_mut::<2>()? = [FIN | BINARY, short];
            Some(2)
        }
        _ => {
            let [high, low] = payload_len.to_be_bytes();
            *out.first_chunk_mut::<4>()? = [FIN | BINARY, TWO_MORE_BYTES, high, low];
            Some(4)
        }
    }
}

/// What a control frame is (RFC 6455 5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const fn as_u8(self) -> u8 {
        match self {
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }
}

/// A whole control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFrame {
    bytes: [u8; CONTROL_FRAME_LEN_MAX],
    len: usize,
}

impl ControlFrame {
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A control frame. What `payload` has over [`CONTROL_LEN_MAX`] is left out, and
/// a ping without payload gets a byte: FreeRDP 3 aborts on an empty one.
#[must_use]
pub fn control_frame(opcode: Opcode, payload: &[u8]) -> ControlFrame {
    let payload = match payload {
        [] if opcode == Opcode::Ping => &[0],
        _ => payload,
    };
    let mut frame = ControlFrame { bytes: [0; CONTROL_FRAME_LEN_MAX], len: CONTROL_HEADER_LEN };
    let [first, length, room @ ..] = &mut frame.bytes;
    *first = FIN | opcode.as_u8();
    for (to, from) in room.iter_mut().zip(payload) {
        *to = *from;
        *length += 1;
        frame.len += 1;
    }
    frame
}

/// A close frame with a status code (RFC 6455 7.4.1).
#[must_use]
pub fn close_frame(code: u16) -> ControlFrame {
    control_frame(Opcode::Close, &code.to_be_bytes())
}
