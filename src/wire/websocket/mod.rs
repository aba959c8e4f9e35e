//! WebSocket as a gateway speaks it to clients (RFC 6455): binary frames that
//! carry a byte stream, nothing negotiated. What a client says is here for
//! those of ours that play one.
//!
//! Our own, because FreeRDP answers a ping with a pong of 1,024 bytes, which
//! libraries refuse, and because the relay takes frames apart in place.

mod client_frame;
mod decoder;
mod server_frame;
#[cfg(test)]
pub(crate) mod tests;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub use self::client_frame::{
    CLIENT_HEADER_LEN_MAX, client_close_frame, client_frame_len, write_client_frame,
};
pub use self::decoder::{Control, ControlPayload, Decoder};
pub use self::server_frame::{
    ControlFrame, Opcode, SERVER_HEADER_LEN_MAX, close_frame, control_frame, server_header_len,
    write_server_header,
};

/// Status codes of a close frame (RFC 6455 7.4.1).
pub const CLOSE_NORMAL: u16 = 1000;
pub const CLOSE_GOING_AWAY: u16 = 1001;
pub const CLOSE_PROTOCOL_ERROR: u16 = 1002;
pub const CLOSE_INTERNAL: u16 = 1011;

/// Most payload of a control frame that we send (RFC 6455 5.5).
pub const CONTROL_LEN_MAX: usize = 125;

/// Most payload of a pong or close that we accept. FreeRDP 3 sends 1,024 bytes.
pub const CONTROL_LEN_ACCEPTED_MAX: usize = 4 * 1024;

/// Most payload of one data frame that we accept. A message may have any number.
pub const FRAME_LEN_MAX: usize = 16 * 1024 * 1024;

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 4.2.2). The key is
/// hashed as it is: what FreeRDP 2.11 sends is not base64.
#[must_use]
pub fn accept_key(key: &str) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    STANDARD.encode(hash.finish())
}
