//! What the relay takes apart in place: 16 KiB of payload, as a record holds it,
//! in frames, chunks or packets of several lengths.

use divan::Bencher;
use divan::counter::BytesCount;
use ringway::wire::in_place::InPlace;
use ringway::wire::{chunked, tsgu, websocket};

const PAYLOAD_BYTES: usize = 16 * 1024;

/// Payload bytes of one unit.
const UNIT_BYTES: [usize; 3] = [64, 1_024, 16_384];

/// A record's worth of units of that length.
fn units(unit_bytes: usize, unit: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    vec![0x5A; PAYLOAD_BYTES].chunks(unit_bytes).flat_map(unit).collect()
}

/// A client's frame.
fn frame(payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x82];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | u8::try_from(short).unwrap()),
        len => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn packet(payload: &[u8]) -> Vec<u8> {
    [&tsgu::data_header(u16::try_from(payload.len()).unwrap()), payload].concat()
}

fn chunk(payload: &[u8]) -> Vec<u8> {
    [format!("{:X}\r\n", payload.len()).as_bytes(), payload, b"\r\n"].concat()
}

#[divan::bench(args = UNIT_BYTES)]
fn unmask_frames(bencher: Bencher, unit_bytes: usize) {
    let frames = units(unit_bytes, frame);
    let mut decoder = websocket::Decoder::new();
    bencher
        .counter(BytesCount::new(PAYLOAD_BYTES))
        .with_inputs(|| frames.clone())
        .bench_local_refs(|bytes| decoder.decode(&mut InPlace::new(bytes)).unwrap());
}

#[divan::bench(args = UNIT_BYTES)]
fn open_packets(bencher: Bencher, unit_bytes: usize) {
    let packets = units(unit_bytes, packet);
    let mut decoder = tsgu::Decoder::new();
    bencher
        .counter(BytesCount::new(PAYLOAD_BYTES))
        .with_inputs(|| packets.clone())
        .bench_local_refs(|bytes| decoder.decode(&mut InPlace::new(bytes)).unwrap());
}

/// TSGU over WebSocket: each frame carries one packet.
#[divan::bench(args = UNIT_BYTES)]
fn open_packets_in_frames(bencher: Bencher, unit_bytes: usize) {
    let frames = units(unit_bytes, |payload| frame(&packet(payload)));
    let (mut outer, mut inner) = (websocket::Decoder::new(), tsgu::Decoder::new());
    bencher
        .counter(BytesCount::new(PAYLOAD_BYTES))
        .with_inputs(|| frames.clone())
        .bench_local_refs(|bytes| {
            let mut framed = InPlace::new(bytes);
            outer.decode(&mut framed).unwrap();
            let written = framed.written();
            inner.decode(&mut InPlace::new(bytes.get_mut(..written).unwrap())).unwrap()
        });
}

#[divan::bench(args = UNIT_BYTES)]
fn open_chunks(bencher: Bencher, unit_bytes: usize) {
    let chunks = units(unit_bytes, chunk);
    let mut decoder = chunked::Decoder::new();
    bencher
        .counter(BytesCount::new(PAYLOAD_BYTES))
        .with_inputs(|| chunks.clone())
        .bench_local_refs(|bytes| decoder.decode(&mut InPlace::new(bytes)).unwrap());
}
