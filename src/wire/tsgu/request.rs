//! What a client asks until its channel exists (MS-TSGU 2.2.10).

use zeroize::Zeroizing;

use super::{HEADER_LEN, packet_type, split_header};
use crate::core::secret::Secret;
use crate::wire::framing_error::FramingError;

/// Names in one channel request (MS-TSGU 2.2.10.2).
pub const RESOURCES_MAX: u8 = 50;
pub const ALTERNATIVES_MAX: u8 = 3;

/// Bits of [`Handshake::ext_auth`] (MS-TSGU 2.2.5.3.2).
pub mod ext_auth {
    pub const NONE: u16 = 0;
    pub const SMART_CARD: u16 = 1;
    /// A cookie, in the request for a tunnel.
    pub const PAA: u16 = 2;
    pub const SSPI_NTLM: u16 = 4;
    /// FreeRDP 3, in no specification: a token in the HTTP request.
    pub const BEARER: u16 = 8;
}

/// One packet of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Handshake(Handshake),
    ExtendedAuth(ExtendedAuth),
    TunnelCreate(TunnelCreate),
    TunnelAuth(TunnelAuth),
    ChannelCreate(ChannelCreate),
    KeepAlive,
    /// With a status code.
    CloseChannel(u32),
    CloseChannelResponse(u32),
    /// With the context of the tunnel (MS-TSGU 2.2.10.12).
    Reauth(u64),
    /// Of a type that has no meaning here; data before there is a channel, too.
    Other(u16),
}

/// MS-TSGU 2.2.10.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    pub major: u8,
    pub minor: u8,
    pub client_version: u16,
    /// What the client offers, of [`ext_auth`].
    pub ext_auth: u16,
}

/// MS-TSGU 2.2.10.7. What it carries is of no use without NTLM, and not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedAuth {
    pub error_code: u32,
}

/// MS-TSGU 2.2.10.18.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelCreate {
    pub capabilities: u32,
    /// Given when this tunnel reauthenticates another.
    pub reauth_context: Option<u64>,
    pub paa_cookie: Option<Secret>,
}

/// MS-TSGU 2.2.10.14. A statement of health is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelAuth {
    pub client_name: String,
}

/// MS-TSGU 2.2.10.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelCreate {
    /// Names of the target, at least one, in the client's order.
    pub resources: Vec<String>,
    pub alternatives: Vec<String>,
    pub port: u16,
    pub protocol: u16,
}

impl Request {
    /// Reads one packet, of the length that [`super::packet_len`] told. Bytes
    /// behind the last field are ignored.
    ///
    /// # Errors
    /// [`FramingError::PacketLengths`] and [`FramingError::MalformedPacket`].
    pub fn parse(packet: &[u8]) -> Result<Self, FramingError> {
        let (header, body) =
            packet.split_first_chunk::<HEADER_LEN>().ok_or(FramingError::PacketLengths)?;
        let (packet_type, packet_len) = split_header(*header)?;
        if packet_len != packet.len() {
            return Err(FramingError::PacketLengths);
        }
        let fields = &mut Fields(body);
        Ok(match packet_type {
            packet_type::HANDSHAKE_REQUEST => Self::Handshake(Handshake {
                major: fields.u8()?,
                minor: fields.u8()?,
                client_version: fields.u16()?,
                ext_auth: fields.u16()?,
            }),
            packet_type::EXTENDED_AUTH => {
                let error_code = fields.u32()?;
                fields.blob()?;
                Self::ExtendedAuth(ExtendedAuth { error_code })
            }
            packet_type::TUNNEL_CREATE => Self::TunnelCreate(TunnelCreate::parse(fields)?),
            packet_type::TUNNEL_AUTH => Self::TunnelAuth(TunnelAuth::parse(fields)?),
            packet_type::CHANNEL_CREATE => Self::ChannelCreate(ChannelCreate::parse(fields)?),
            packet_type::REAUTH_MESSAGE => Self::Reauth(fields.u64()?),
            packet_type::KEEPALIVE => Self::KeepAlive,
            packet_type::CLOSE_CHANNEL => Self::CloseChannel(fields.u32()?),
            packet_type::CLOSE_CHANNEL_RESPONSE => Self::CloseChannelResponse(fields.u32()?),
            other => Self::Other(other),
        })
    }
}

impl TunnelCreate {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FramingError> {
        const PAA_COOKIE: u16 = 0x1;
        const REAUTH_CONTEXT: u16 = 0x2;
        let capabilities = fields.u32()?;
        let present = fields.u16()?;
        let _reserved = fields.u16()?;
        let reauth_context = match present & REAUTH_CONTEXT {
            0 => None,
            _ => Some(fields.u64()?),
        };
        let paa_cookie = match present & PAA_COOKIE {
            0 => None,
            _ => Some(Secret::new(std::mem::take(&mut *fields.string()?))),
        };
        Ok(Self { capabilities, reauth_context, paa_cookie })
    }
}

impl TunnelAuth {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FramingError> {
        const STATEMENT_OF_HEALTH: u16 = 0x1;
        let present = fields.u16()?;
        let client_name = std::mem::take(&mut *fields.string()?);
        if present & STATEMENT_OF_HEALTH != 0 {
            fields.blob()?;
        }
        Ok(Self { client_name })
    }
}

impl ChannelCreate {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FramingError> {
        let (resources, alternatives) = (fields.u8()?, fields.u8()?);
        if !(1..=RESOURCES_MAX).contains(&resources) || alternatives > ALTERNATIVES_MAX {
            return Err(FramingError::MalformedPacket);
        }
        let (port, protocol) = (fields.u16()?, fields.u16()?);
        let mut names = |count| -> Result<Vec<String>, FramingError> {
            (0..count).map(|_| Ok(std::mem::take(&mut *fields.string()?))).collect()
        };
        let (resources, alternatives) = (names(resources)?, names(alternatives)?);
        Ok(Self { resources, alternatives, port, protocol })
    }
}

/// What of a packet's body is still to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn chunk<const LEN: usize>(&mut self) -> Result<[u8; LEN], FramingError> {
        let (chunk, rest) = self.0.split_first_chunk().ok_or(FramingError::PacketLengths)?;
        self.0 = rest;
        Ok(*chunk)
    }

    fn u8(&mut self) -> Result<u8, FramingError> {
        self.chunk().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, FramingError> {
        self.chunk().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, FramingError> {
        self.chunk().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FramingError> {
        self.chunk().map(u64::from_le_bytes)
    }

    /// Bytes with their number in front of them.
    fn blob(&mut self) -> Result<&'a [u8], FramingError> {
        let len = usize::from(self.u16()?);
        let (blob, rest) = self.0.split_at_checked(len).ok_or(FramingError::PacketLengths)?;
        self.0 = rest;
        Ok(blob)
    }

    /// UTF-16 with the number of its bytes in front of it. FreeRDP counts a NUL
    /// at the end, others have none.
    fn string(&mut self) -> Result<Zeroizing<String>, FramingError> {
        let (units, []) = self.blob()?.as_chunks::<2>() else {
            return Err(FramingError::MalformedPacket);
        };
        // Room at once: a text that grows would leave copies of a cookie behind.
        let mut text = Zeroizing::new(String::with_capacity(units.len() * 3));
        for character in char::decode_utf16(units.iter().map(|unit| u16::from_le_bytes(*unit))) {
            text.push(character.map_err(|_| FramingError::MalformedPacket)?);
        }
        let len = text.trim_end_matches('\0').len();
        text.truncate(len);
        if text.contains('\0') { Err(FramingError::MalformedPacket) } else { Ok(text) }
    }
}
