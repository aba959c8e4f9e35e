//! What a client sends: always masked, here never fragmented.

use super::server_frame::{Opcode, control_frame};
use super::{SERVER_HEADER_LEN_MAX, server_header_len, write_server_header};
use crate::wire::in_place::InPlace;

const MASK_LEN: usize = 4;
/// In the second byte (RFC 6455 5.2).
const IS_MASKED: u8 = 0x80;

/// Bytes of the longest header that [`write_client_frame`] makes.
pub const CLIENT_HEADER_LEN_MAX: usize = SERVER_HEADER_LEN_MAX + MASK_LEN;

/// Bytes of a data frame, header included: the shortest form.
#[must_use]
pub const fn client_frame_len(payload_len: usize) -> usize {
    server_header_len(payload_len) + MASK_LEN + payload_len
}

/// Writes a binary frame whose payload is `pieces`, one behind the other, to the
/// front of `out`; its length. `None` when `out` is too short or the payload is
/// longer than 65,535 bytes.
pub fn write_client_frame(out: &mut [u8], pieces: &[&[u8]], mask: [u8; 4]) -> Option<usize> {
    let payload_len: usize = pieces.iter().map(|piece| piece.len()).sum();
    let header_len = write_server_header(out, payload_len)?;
    let (header, rest) = out.split_at_mut_checked(header_len)?;
    *header.get_mut(1)? |= IS_MASKED;
    let (place, mut rest) = rest.split_first_chunk_mut::<MASK_LEN>()?;
    *place = mask;
    let mut turned = mask;
    for piece in pieces {
        let (place, behind) = rest.split_at_mut_checked(piece.len())?;
        place.copy_from_slice(piece);
        // Masking is its own inverse.
        InPlace::new(place).keep_unmasked(piece.len(), &mut turned);
        rest = behind;
    }
    Some(header_len + MASK_LEN + payload_len)
}

/// A close frame with a status code (RFC 6455 7.4.1).
#[must_use]
pub fn client_close_frame(code: u16, mask: [u8; 4]) -> Vec<u8> {
    let frame = control_frame(Opcode::Close, &code.to_be_bytes());
    let Some(([first, length], payload)) = frame.as_slice().split_first_chunk::<2>() else {
        return Vec::new();
    };
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [*first, length | IS_MASKED].into_iter().chain(mask).chain(masked).collect()
}
