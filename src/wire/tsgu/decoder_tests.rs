//! Packets on an open channel, by themselves and inside of frames and chunks.

use proptest::prelude::*;

use super::tests::packet;
use super::*;
use crate::wire::in_place::{self, Decoded, InPlace, decode_in_pieces};
use crate::wire::{chunked, websocket};

fn data(payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap().to_le_bytes();
    packet(0xA, &[&len, payload].concat())
}

fn decode(bytes: &[u8], piece_lens: &[usize]) -> Decoded<Control> {
    let mut decoder = Decoder::new();
    decode_in_pieces(bytes, piece_lens, |input| decoder.decode(input))
}

fn refused(bytes: &[u8]) -> FramingError {
    in_place::refused(bytes, decode)
}

#[test]
fn packets_are_read_wherever_they_are_cut() {
    let bytes = [
        data(b"hello"),
        packet(0xD, &[]),
        data(b""),
        packet(0x77, b"from the future"),
        data(b", world"),
        packet(0xC, &7_u64.to_le_bytes()),
        packet(0x11, &[0; 4]),
        packet(0x10, &[0xca, 4, 0, 0, /* surplus */ 1, 2, 3]),
        data(b"!"),
    ]
    .concat();
    let expected = Decoded {
        payload: b"hello, world!".to_vec(),
        controls: vec![
            (5, Control::KeepAlive),
            (12, Control::Reauth),
            (12, Control::CloseChannelResponse(0)),
            (12, Control::CloseChannel(0x4ca)),
        ],
        verdict: Ok(()),
    };
    for cut in 0..=bytes.len() {
        assert_eq!(decode(&bytes, &[cut]), expected, "{cut}");
    }
    assert_eq!(decode(&bytes, &vec![1; bytes.len()]), expected, "byte by byte");
}

#[test]
fn data_that_is_as_long_as_can_be_fits() {
    let payload = vec![0x5A; 65_535];
    assert_eq!(decode(&data(&payload), &[]).payload, payload);
    let ours = [&data_header(65_535)[..], &payload].concat();
    assert_eq!(ours, data(&payload), "and is what we would send");
}

#[test]
fn a_length_of_data_that_contradicts_that_of_the_packet_is_refused() {
    for (packet_len, data_len) in [(15, 6), (15, 4), (10, 1), (9, 0), (8, 0), (65_545, 0)] {
        let mut bytes = packet(0xA, &u16::to_le_bytes(data_len));
        bytes[4..8].copy_from_slice(&u32::to_le_bytes(packet_len));
        assert_eq!(refused(&bytes), FramingError::PacketLengths, "{packet_len} {data_len}");
    }
}

#[test]
fn lengths_beyond_reason_are_refused_by_the_header() {
    for packet_type in [0xA, 0xD, 0x10, 0x77] {
        let with_length = |len: u32| {
            let mut bytes = packet(packet_type, &[]);
            bytes[4..].copy_from_slice(&len.to_le_bytes());
            bytes
        };
        assert_eq!(refused(&with_length(7)), FramingError::PacketLengths);
        assert_eq!(refused(&with_length(0)), FramingError::PacketLengths);
        assert_eq!(refused(&with_length(128 * 1024 + 1)), FramingError::PacketTooLong);
        assert_eq!(refused(&with_length(u32::MAX)), FramingError::PacketTooLong);
    }
    assert_eq!(FramingError::PacketTooLong.websocket_close_code(), 1009);
}

#[test]
fn a_close_without_its_status_is_refused() {
    for packet_type in [0x10, 0x11] {
        assert_eq!(refused(&packet(packet_type, &[0; 3])), FramingError::PacketLengths);
    }
}

/// A client's WebSocket frame with a short payload.
fn frame(payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [0x82, 0xFE].into_iter().chain(len).chain(mask).chain(masked).collect()
}

fn chunk(payload: &[u8]) -> Vec<u8> {
    [format!("{:X}\r\n", payload.len()).as_bytes(), payload, b"\r\n"].concat()
}

/// Wraps `packets` so that their borders and those of the wrapping do not meet.
fn wrapped(packets: &[u8], lens: &[usize], wrap: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut rest = packets;
    let mut bytes = Vec::new();
    for len in lens.iter().copied().chain([packets.len()]) {
        let (part, more) = rest.split_at(len.min(rest.len()));
        rest = more;
        if !part.is_empty() {
            bytes.extend(wrap(part));
        }
    }
    bytes
}

/// As a relay does it: the outer framing first, the packets in what that left.
fn relayed<C>(
    bytes: &[u8],
    piece_lens: &[usize],
    mut outer: impl FnMut(&mut InPlace<'_>) -> Result<Option<C>, FramingError>,
) -> Vec<u8> {
    let mut decoder = Decoder::new();
    let (mut payload, mut rest) = (Vec::new(), bytes);
    for len in piece_lens.iter().copied().chain([bytes.len()]) {
        let (piece, more) = rest.split_at(len.min(rest.len()));
        rest = more;
        let mut buffer = piece.to_vec();
        let mut framed = InPlace::new(&mut buffer);
        assert!(outer(&mut framed).unwrap().is_none());
        let written = framed.written();
        let mut packets = InPlace::new(&mut buffer[..written]);
        assert_eq!(decoder.decode(&mut packets), Ok(None));
        let written = packets.written();
        payload.extend(&buffer[..written]);
    }
    payload
}

proptest! {
    #[test]
    fn any_payload_in_any_packets_frames_chunks_and_pieces_arrives(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..10),
        lens in prop::collection::vec(1..200_usize, 0..20),
        mask: [u8; 4],
        piece_lens in prop::collection::vec(0..250_usize, 0..30),
    ) {
        let packets: Vec<u8> = payloads.iter().flat_map(|payload| data(payload)).collect();
        let payload = payloads.concat();
        prop_assert_eq!(&decode(&packets, &piece_lens).payload, &payload);

        let mut decoder = websocket::Decoder::new();
        let frames = wrapped(&packets, &lens, |part| frame(part, mask));
        let arrived = relayed(&frames, &piece_lens, |input| decoder.decode(input));
        prop_assert_eq!(&arrived, &payload);

        let mut decoder = chunked::Decoder::new();
        let chunks = wrapped(&packets, &lens, chunk);
        let arrived = relayed(&chunks, &piece_lens, |input| decoder.decode(input));
        prop_assert_eq!(&arrived, &payload);
    }

    #[test]
    fn garbage_means_the_same_however_it_is_cut(
        packets in prop::collection::vec((0..0x14_u8, 0..30_u8, prop::collection::vec(any::<u8>(), 0..20)), 0..8),
        piece_lens in prop::collection::vec(0..30_usize, 0..20),
    ) {
        let bytes: Vec<u8> = packets
            .into_iter()
            .flat_map(|(kind, len, body)| [&[kind, 0, 0, 0, len, 0, 0, 0], body.as_slice()].concat())
            .collect();
        prop_assert_eq!(decode(&bytes, &piece_lens), decode(&bytes, &[]));
    }
}
