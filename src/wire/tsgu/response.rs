//! What a client is answered (MS-TSGU 2.2.10), and what it is told unasked.
//!
//! Where something is granted or refused, `Err` holds a code of [`super::status`]
//! in its long form.

use super::{HEADER_LEN, header, packet_type};

/// Longest text of a service message, in UTF-16 units. More is cut off.
pub const SERVICE_MESSAGE_UNITS_MAX: usize = 4 * 1024;

/// Bits of [`Tunnel::capabilities`] (MS-TSGU 2.2.5.3.9).
pub mod capability {
    /// [`super::TunnelAuth`] may hold an idle timeout.
    pub const IDLE_TIMEOUT: u32 = 0x2;
    pub const SERVICE_MESSAGE: u32 = 0x8;
    pub const REAUTH: u32 = 0x10;
}

/// Values of [`TunnelAuth::redirection_flags`] (MS-TSGU 2.2.5.3.7).
pub mod redirection {
    pub const ENABLE_ALL: u32 = 0x8000_0000;
    pub const DISABLE_ALL: u32 = 0x4000_0000;
    pub const DISABLE_DRIVES: u32 = 0x1;
    pub const DISABLE_PRINTERS: u32 = 0x2;
    pub const DISABLE_PORTS: u32 = 0x4;
    pub const DISABLE_CLIPBOARD: u32 = 0x8;
    pub const DISABLE_PLUG_AND_PLAY: u32 = 0x10;
}

/// A tunnel that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Not zero.
    pub id: u32,
    /// Of [`capability`].
    pub capabilities: u32,
}

/// What a client may do in its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelAuth {
    /// Of [`redirection`].
    pub redirection_flags: u32,
    /// 0: none.
    pub idle_timeout_minutes: u32,
}

/// MS-TSGU 2.2.10.11. Version and authentication are what the client said.
#[must_use]
pub fn handshake(status: u32, (major, minor): (u8, u8), ext_auth: u16) -> Vec<u8> {
    let mut body = status.to_le_bytes().to_vec();
    body.extend([major, minor]);
    body.extend(0_u16.to_le_bytes());
    body.extend(ext_auth.to_le_bytes());
    packet(packet_type::HANDSHAKE_RESPONSE, &body)
}

/// MS-TSGU 2.2.10.20.
#[must_use]
pub fn tunnel(answer: Result<Tunnel, u32>) -> Vec<u8> {
    const ID_AND_CAPABILITIES: u16 = 0x1 | 0x2;
    let mut body = 0_u16.to_le_bytes().to_vec();
    answered(&mut body, answer.map(|_| ID_AND_CAPABILITIES));
    if let Ok(Tunnel { id, capabilities }) = answer {
        body.extend(id.to_le_bytes());
        body.extend(capabilities.to_le_bytes());
    }
    packet(packet_type::TUNNEL_RESPONSE, &body)
}

/// MS-TSGU 2.2.10.16.
#[must_use]
pub fn tunnel_auth(answer: Result<TunnelAuth, u32>) -> Vec<u8> {
    const REDIRECTION_AND_TIMEOUT: u16 = 0x1 | 0x2;
    let mut body = Vec::new();
    answered(&mut body, answer.map(|_| REDIRECTION_AND_TIMEOUT));
    if let Ok(TunnelAuth { redirection_flags, idle_timeout_minutes }) = answer {
        body.extend(redirection_flags.to_le_bytes());
        body.extend(idle_timeout_minutes.to_le_bytes());
    }
    packet(packet_type::TUNNEL_AUTH_RESPONSE, &body)
}

/// MS-TSGU 2.2.10.4, with the id of the channel, which Windows clients require.
#[must_use]
pub fn channel(answer: Result<u32, u32>) -> Vec<u8> {
    const CHANNEL_ID: u16 = 0x1;
    let mut body = Vec::new();
    answered(&mut body, answer.map(|_| CHANNEL_ID));
    if let Ok(id) = answer {
        body.extend(id.to_le_bytes());
    }
    packet(packet_type::CHANNEL_RESPONSE, &body)
}

/// Ends the channel. `status` is one of the bare codes.
#[must_use]
pub fn close_channel(status: u32) -> [u8; 12] {
    with_status(packet_type::CLOSE_CHANNEL, status)
}

/// Answers the client's close.
#[must_use]
pub fn close_channel_response(status: u32) -> [u8; 12] {
    with_status(packet_type::CLOSE_CHANNEL_RESPONSE, status)
}

#[must_use]
pub fn keep_alive() -> [u8; HEADER_LEN] {
    header(packet_type::KEEPALIVE, HEADER_LEN)
}

/// Asks the client to authenticate this tunnel again (MS-TSGU 2.2.10.12).
#[must_use]
pub fn reauth(tunnel_context: u64) -> Vec<u8> {
    packet(packet_type::REAUTH_MESSAGE, &tunnel_context.to_le_bytes())
}

/// A text for the user (MS-TSGU 2.2.10.13), for clients that have the capability.
#[must_use]
pub fn service_message(text: &str) -> Vec<u8> {
    let mut units = Vec::new();
    for character in text.chars() {
        if units.len() + character.len_utf16() > SERVICE_MESSAGE_UNITS_MAX {
            break;
        }
        units.extend_from_slice(character.encode_utf16(&mut [0; 2]));
    }
    units.push(0);
    let text: Vec<u8> = units.into_iter().flat_map(u16::to_le_bytes).collect();
    let len = u16::try_from(text.len()).unwrap_or_default();
    packet(packet_type::SERVICE_MESSAGE, &[&len.to_le_bytes(), text.as_slice()].concat())
}

/// Status, which fields follow, two reserved bytes.
fn answered(body: &mut Vec<u8>, fields_or_status: Result<u16, u32>) {
    body.extend(fields_or_status.err().unwrap_or_default().to_le_bytes());
    body.extend(fields_or_status.unwrap_or_default().to_le_bytes());
    body.extend([0, 0]);
}

fn packet(packet_type: u16, body: &[u8]) -> Vec<u8> {
    [&header(packet_type, HEADER_LEN + body.len()), body].concat()
}

fn with_status(packet_type: u16, status: u32) -> [u8; 12] {
    let [h0, h1, h2, h3, h4, h5, h6, h7] = header(packet_type, 12);
    let [s0, s1, s2, s3] = status.to_le_bytes();
    [h0, h1, h2, h3, h4, h5, h6, h7, s0, s1, s2, s3]
}
