//! Gathers the packets of a greeting out of what carries them.
//!
//! One byte at a time, so that after each packet the decoder stands exactly
//! behind it: what follows is the relay's, decoder and bytes. A greeting is a
//! few hundred bytes, and a token.

use zeroize::Zeroizing;

use crate::wire::framing_error::FramingError;
use crate::wire::in_place::InPlace;
use crate::wire::tsgu::{HEADER_LEN, packet_len};
use crate::wire::websocket::ControlPayload;
use crate::wire::{chunked, websocket};

/// What came.
#[derive(Debug)]
pub enum Gathered {
    Packet(Zeroizing<Vec<u8>>),
    /// To be answered with a pong.
    Ping(ControlPayload),
    /// The carrier ends: a close frame, or the last chunk.
    End,
}

/// What carries packets.
pub trait Carrier {
    /// Keeps what of `input` is payload.
    fn decode(&mut self, input: &mut InPlace<'_>) -> Result<Option<Gathered>, FramingError>;
}

impl Carrier for websocket::Decoder {
    fn decode(&mut self, input: &mut InPlace<'_>) -> Result<Option<Gathered>, FramingError> {
        Ok(match Self::decode(self, input)? {
            None | Some(websocket::Control::Pong) => None,
            Some(websocket::Control::Ping(payload)) => Some(Gathered::Ping(payload)),
            Some(websocket::Control::Close(_)) => Some(Gathered::End),
        })
    }
}

impl Carrier for chunked::Decoder {
    fn decode(&mut self, input: &mut InPlace<'_>) -> Result<Option<Gathered>, FramingError> {
        Ok(Self::decode(self, input)?.map(|chunked::End| Gathered::End))
    }
}

/// The packet that is under way. It may hold a token.
#[derive(Debug, Default)]
pub struct Packets<C> {
    carrier: C,
    packet: Zeroizing<Vec<u8>>,
}

impl<C: Carrier> Packets<C> {
    pub fn new(carrier: C) -> Self {
        Self { carrier, packet: Zeroizing::default() }
    }

    /// Looks at the front of `bytes`: how many were used up, and what they made
    /// whole, if they did.
    ///
    /// # Errors
    /// [`FramingError`]; the connection ends.
    pub fn gather(&mut self, bytes: &[u8]) -> Result<(usize, Option<Gathered>), FramingError> {
        for (at, byte) in bytes.iter().enumerate() {
            let mut place = [*byte];
            let mut input = InPlace::new(&mut place);
            let gathered = self.carrier.decode(&mut input)?;
            if input.written() > 0 && self.push(*place.first().unwrap_or(byte))? {
                let packet = std::mem::take(&mut self.packet);
                return Ok((at + 1, Some(Gathered::Packet(packet))));
            }
            if gathered.is_some() {
                return Ok((at + 1, gathered));
            }
        }
        Ok((bytes.len(), None))
    }

    /// Whether the packet is whole now.
    fn push(&mut self, byte: u8) -> Result<bool, FramingError> {
        self.packet.push(byte);
        let Some(length) = packet_len(&self.packet)? else { return Ok(false) };
        if self.packet.len() == HEADER_LEN {
            // At once: what grows leaves copies of a token behind.
            self.packet.reserve_exact(length - HEADER_LEN);
        }
        Ok(self.packet.len() >= length)
    }

    /// The carrier's decoder, standing behind the last packet.
    pub fn into_carrier(self) -> C {
        self.carrier
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP_ALIVE: [u8; 8] = [0xD, 0, 0, 0, 8, 0, 0, 0];

    fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let length = u8::try_from(payload.len()).unwrap();
        let mut frame = vec![opcode, 0x80 | length, 1, 2, 3, 4];
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// Everything that comes of these bytes, given as they were cut.
    fn gather<C: Carrier>(packets: &mut Packets<C>, pieces: &[&[u8]]) -> Vec<String> {
        let mut all = Vec::new();
        for mut piece in pieces.iter().copied() {
            while !piece.is_empty() {
                let (used, gathered) = packets.gather(piece).unwrap();
                piece = &piece[used..];
                all.extend(gathered.map(|gathered| match gathered {
                    Gathered::Packet(packet) => format!("{:?}", &packet[..]),
                    Gathered::Ping(payload) => format!("ping {:?}", payload.as_slice()),
                    Gathered::End => "end".to_owned(),
                }));
            }
        }
        all
    }

    #[test]
    fn packets_and_frames_need_not_align_wherever_they_are_cut() {
        let two = [KEEP_ALIVE, KEEP_ALIVE].concat();
        let stream = [
            masked(0x02, &two[..3]),
            masked(0x89, b"?"),
            masked(0x80, &two[3..]),
            masked(0x8A, &[0; 100]),
            masked(0x88, &[]),
        ]
        .concat();
        let packet = format!("{KEEP_ALIVE:?}");
        let expected = ["ping [63]", &packet, &packet, "end"];
        for cut in 0..=stream.len() {
            let (front, back) = stream.split_at(cut);
            let mut packets = Packets::new(websocket::Decoder::new());
            assert_eq!(gather(&mut packets, &[front, back]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_follows_a_packet_is_left_to_the_carriers_next_owner() {
        let frame = masked(0x82, &[&KEEP_ALIVE[..], b"data"].concat());
        let mut packets = Packets::new(websocket::Decoder::new());
        let (used, gathered) = packets.gather(&frame).unwrap();
        assert!(matches!(gathered, Some(Gathered::Packet(_))));
        let mut rest = frame[used..].to_vec();
        let mut input = InPlace::new(&mut rest);
        assert!(packets.into_carrier().decode(&mut input).unwrap().is_none());
        let len = input.written();
        assert_eq!(&rest[..len], b"data");
    }

    #[test]
    fn chunks_and_packets_need_not_align_either() {
        let stream = b"3\r\n\x0d\0\0\r\n5;x=y\r\n\0\x08\0\0\0\r\n0\r\n\r\n";
        for cut in 0..=stream.len() {
            let (front, back) = stream.split_at(cut);
            let mut packets = Packets::new(chunked::Decoder::new());
            let gathered = gather(&mut packets, &[front, back]);
            assert_eq!(gathered, [format!("{KEEP_ALIVE:?}"), "end".to_owned()], "cut at {cut}");
        }
    }

    #[test]
    fn a_packet_that_is_too_long_is_refused_at_its_header() {
        let header = [0xD, 0, 0, 0, 0xff, 0xff, 0xff, 0];
        let mut packets = Packets::new(websocket::Decoder::new());
        let refused = packets.gather(&masked(0x82, &header)).unwrap_err();
        assert_eq!(refused, FramingError::PacketTooLong);
    }
}
