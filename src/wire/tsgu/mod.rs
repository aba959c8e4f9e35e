//! RD Gateway packets over HTTP (MS-TSGU 2.2.10): what a client asks and is
//! answered until its channel exists, and how data flows after that.
//!
//! A packet begins with its type, two reserved bytes and its whole length, all
//! integers little-endian (2.2.10.9). WebSocket frames and chunks carry packets
//! as a stream: their borders mean nothing here.

mod decoder;

use super::framing_error::FramingError;

pub use self::decoder::{Control, Decoder};

/// Type, reserved, length.
pub const HEADER_LEN: usize = 8;

/// Header and `cbDataLen` of a data packet (MS-TSGU 2.2.10.6).
pub const DATA_HEADER_LEN: usize = HEADER_LEN + 2;

/// Longest packet that is accepted: room for every field at its longest.
pub const PACKET_LEN_MAX: usize = 128 * 1024;

/// `packetType` (MS-TSGU 2.2.5.3.3).
mod packet_type {
    pub const DATA: u16 = 0xA;
    pub const REAUTH_MESSAGE: u16 = 0xC;
    pub const KEEPALIVE: u16 = 0xD;
    pub const CLOSE_CHANNEL: u16 = 0x10;
    pub const CLOSE_CHANNEL_RESPONSE: u16 = 0x11;
}

/// What precedes `data_len` bytes of data.
#[must_use]
pub fn data_header(data_len: u16) -> [u8; DATA_HEADER_LEN] {
    let [t0, t1] = packet_type::DATA.to_le_bytes();
    let [d0, d1] = data_len.to_le_bytes();
    let [l0, l1, l2, l3] = (u32::from(data_len) + 10).to_le_bytes();
    [t0, t1, 0, 0, l0, l1, l2, l3, d0, d1]
}

/// Length of the packet at the front of `bytes`, its header included, of which
/// `bytes` may hold less; `None` while the header is not all there.
///
/// # Errors
/// A length below that of the header or above [`PACKET_LEN_MAX`].
pub fn packet_len(bytes: &[u8]) -> Result<Option<usize>, FramingError> {
    bytes.first_chunk().map(|header| Ok(split_header(*header)?.1)).transpose()
}

/// Type and whole length.
fn split_header(header: [u8; HEADER_LEN]) -> Result<(u16, usize), FramingError> {
    let [t0, t1, _, _, length @ ..] = header;
    let length = usize::try_from(u32::from_le_bytes(length));
    let length = length.map_err(|_| FramingError::PacketTooLong)?;
    match length {
        0..HEADER_LEN => Err(FramingError::PacketLengths),
        HEADER_LEN..=PACKET_LEN_MAX => Ok((u16::from_le_bytes([t0, t1]), length)),
        _ => Err(FramingError::PacketTooLong),
    }
}
