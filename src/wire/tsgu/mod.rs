//! RD Gateway packets over HTTP (MS-TSGU 2.2.10): what a client asks and is
//! answered until its channel exists, and how data flows after that.
//!
//! A packet begins with its type, two reserved bytes and its whole length, all
//! integers little-endian (2.2.10.9). WebSocket frames and chunks carry packets
//! as a stream: their borders mean nothing here.

mod decoder;
#[cfg(test)]
mod decoder_tests;
mod request;
pub mod response;
pub mod status;
#[cfg(test)]
mod tests;

use super::framing_error::FramingError;

pub use self::decoder::{Control, Decoder};
pub use self::request::{
    ALTERNATIVES_MAX, ChannelCreate, ExtendedAuth, Handshake, RESOURCES_MAX, Request, TunnelAuth,
    TunnelCreate, ext_auth,
};

/// Type, reserved, length.
pub const HEADER_LEN: usize = 8;

/// Header and `cbDataLen` of a data packet (MS-TSGU 2.2.10.6).
pub const DATA_HEADER_LEN: usize = HEADER_LEN + 2;

/// Longest packet that is accepted: room for every field at its longest.
pub const PACKET_LEN_MAX: usize = 128 * 1024;

/// `packetType` (MS-TSGU 2.2.5.3.3).
mod packet_type {
    pub const HANDSHAKE_REQUEST: u16 = 0x1;
    pub const HANDSHAKE_RESPONSE: u16 = 0x2;
    pub const EXTENDED_AUTH: u16 = 0x3;
    pub const TUNNEL_CREATE: u16 = 0x4;
    pub const TUNNEL_RESPONSE: u16 = 0x5;
    pub const TUNNEL_AUTH: u16 = 0x6;
    pub const TUNNEL_AUTH_RESPONSE: u16 = 0x7;
    pub const CHANNEL_CREATE: u16 = 0x8;
    pub const CHANNEL_RESPONSE: u16 = 0x9;
    pub const DATA: u16 = 0xA;
    pub const SERVICE_MESSAGE: u16 = 0xB;
    pub const REAUTH_MESSAGE: u16 = 0xC;
    pub const KEEPALIVE: u16 = 0xD;
    pub const CLOSE_CHANNEL: u16 = 0x10;
    pub const CLOSE_CHANNEL_RESPONSE: u16 = 0x11;
}

/// What precedes `data_len` bytes of data.
#[must_use]
pub fn data_header(data_len: u16) -> [u8; DATA_HEADER_LEN] {
    let packet_len = DATA_HEADER_LEN + usize::from(data_len);
    let [h0, h1, h2, h3, h4, h5, h6, h7] = header(packet_type::DATA, packet_len);
    let [d0, d1] = data_len.to_le_bytes();
    [h0, h1, h2, h3, h4, h5, h6, h7, d0, d1]
}

/// Length of the packet at the front of `bytes`, its header included, of which
/// `bytes` may hold less; `None` while the header is not all there.
///
/// # Errors
/// A length below that of the header or above [`PACKET_LEN_MAX`].
pub fn packet_len(bytes: &[u8]) -> Result<Option<usize>, FramingError> {
    bytes.first_chunk().map(|header| Ok(split_header(*header)?.1)).transpose()
}

/// Type, reserved, whole length.
fn header(packet_type: u16, packet_len: usize) -> [u8; HEADER_LEN] {
    let [t0, t1] = packet_type.to_le_bytes();
    // Every packet that is made here is far shorter.
    let [l0, l1, l2, l3] = u32::try_from(packet_len).unwrap_or(u32::MAX).to_le_bytes();
    [t0, t1, 0, 0, l0, l1, l2, l3]
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
