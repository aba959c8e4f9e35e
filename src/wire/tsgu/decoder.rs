//! What a client sends once its channel exists, taken apart in place.

use super::{DATA_HEADER_LEN, HEADER_LEN, packet_type, split_header};
use crate::wire::framing_error::FramingError;
use crate::wire::in_place::InPlace;

/// Bytes of `statusCode` in the packets that close a channel.
const STATUS_LEN: usize = 4;

/// Most bytes that are looked at before a packet is kept or dropped.
const FRONT_LEN_MAX: usize = HEADER_LEN + STATUS_LEN;

/// What a client sends besides data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    KeepAlive,
    /// Answered with a close channel response.
    CloseChannel(u32),
    /// The answer to ours.
    CloseChannelResponse(u32),
    /// The answer to a reauthentication message (MS-TSGU 2.2.10.12).
    Reauth,
}

/// Takes the packets of one client apart, wherever they are cut. Packets that
/// have no meaning on an open channel are skipped.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The front of a packet that was cut.
    cut: [u8; FRONT_LEN_MAX],
    cut_len: usize,
    /// Bytes of data that are still to come.
    data_left: usize,
    /// Bytes that are still to be dropped.
    surplus_left: usize,
}

impl Decoder {
    #[must_use]
    pub const fn new() -> Self {
        Self { cut: [0; FRONT_LEN_MAX], cut_len: 0, data_left: 0, surplus_left: 0 }
    }

    /// Appends the data of packets to the front of `input`. `None` when `input` is
    /// exhausted; another packet that began before that is returned, and the next
    /// call goes on behind it.
    ///
    /// # Errors
    /// [`FramingError`]; the connection ends.
    pub fn decode(&mut self, input: &mut InPlace<'_>) -> Result<Option<Control>, FramingError> {
        loop {
            self.data_left -= input.keep(self.data_left);
            self.surplus_left -= input.skip(self.surplus_left);
            let Some(front) = self.next_front(input)? else { return Ok(None) };
            match front.packet {
                Packet::Data(data_len) => self.data_left = data_len,
                Packet::Control(control) => {
                    self.surplus_left = front.surplus_len;
                    return Ok(Some(control));
                }
                Packet::Skipped => self.surplus_left = front.surplus_len,
            }
        }
    }

    /// Reads what a packet begins with; `None` when that is not all there yet.
    fn next_front(&mut self, input: &mut InPlace<'_>) -> Result<Option<Front>, FramingError> {
        if self.cut_len == 0
            && let Some(front) = Front::parse(input.unread())?
        {
            input.skip(front.len);
            return Ok(Some(front));
        }
        while let Some(byte) = input.take() {
            if let Some(free) = self.cut.get_mut(self.cut_len) {
                *free = byte;
                self.cut_len += 1;
            }
            let so_far = self.cut.get(..self.cut_len).unwrap_or_default();
            if let Some(front) = Front::parse(so_far)? {
                self.cut_len = 0;
                return Ok(Some(front));
            }
        }
        Ok(None)
    }
}

#[derive(Clone, Copy, Debug)]
enum Packet {
    /// So many bytes of data follow.
    Data(usize),
    Control(Control),
    Skipped,
}

/// A packet up to where its data or its surplus begins.
#[derive(Clone, Copy, Debug)]
struct Front {
    packet: Packet,
    /// Bytes of the front itself.
    len: usize,
    /// Bytes of the packet behind it that are not data.
    surplus_len: usize,
}

impl Front {
    /// Reads the front of a packet from the front of `bytes`; `None` when it goes on.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, FramingError> {
        let Some((header, body)) = bytes.split_first_chunk() else { return Ok(None) };
        let (packet_type, packet_len) = split_header(*header)?;
        let (packet, len) = match packet_type {
            packet_type::DATA => {
                let Some(data_len) = body.first_chunk::<2>() else { return Ok(None) };
                let data_len = usize::from(u16::from_le_bytes(*data_len));
                if DATA_HEADER_LEN + data_len != packet_len {
                    return Err(FramingError::PacketLengths);
                }
                let packet = Packet::Data(data_len);
                return Ok(Some(Self { packet, len: DATA_HEADER_LEN, surplus_len: 0 }));
            }
            packet_type::CLOSE_CHANNEL | packet_type::CLOSE_CHANNEL_RESPONSE => {
                if packet_len < FRONT_LEN_MAX {
                    return Err(FramingError::PacketLengths);
                }
                let Some(status) = body.first_chunk() else { return Ok(None) };
                let status = u32::from_le_bytes(*status);
                let control = match packet_type {
                    packet_type::CLOSE_CHANNEL => Control::CloseChannel(status),
                    _ => Control::CloseChannelResponse(status),
                };
                (Packet::Control(control), FRONT_LEN_MAX)
            }
            packet_type::KEEPALIVE => (Packet::Control(Control::KeepAlive), HEADER_LEN),
            packet_type::REAUTH_MESSAGE => (Packet::Control(Control::Reauth), HEADER_LEN),
            _ => (Packet::Skipped, HEADER_LEN),
        };
        Ok(Some(Self { packet, len, surplus_len: packet_len - len }))
    }
}
