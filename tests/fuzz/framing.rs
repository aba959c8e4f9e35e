//! The framing in which a client sends its session, and what of the session
//! itself is looked at. Each decoder promises to end in the same way however its
//! input is cut, and never to write more than it read.

use std::fmt::Debug;

use ringway::wire::framing_error::FramingError;
use ringway::wire::in_place::InPlace;
use ringway::wire::rdp_stream::RdpDown;
use ringway::wire::tsgu::{self, Request};
use ringway::wire::{chunked, websocket};

use super::Script;

/// What a decoder made of its input.
#[derive(Debug, PartialEq, Eq)]
struct Outcome<C> {
    payload: Vec<u8>,
    controls: Vec<(usize, C)>,
    verdict: Result<(), FramingError>,
}

/// `[where to cut, four bytes]`, then frames.
pub fn websocket(input: &[u8]) {
    let outcome = however_cut(input, || {
        let mut decoder = websocket::Decoder::new();
        move |input: &mut InPlace<'_>| decoder.decode(input)
    });
    for (_, control) in outcome.controls {
        if let websocket::Control::Ping(payload) = control {
            let pong = websocket::control_frame(websocket::Opcode::Pong, payload.as_slice());
            assert_eq!(pong.as_slice().split_at(2).1, payload.as_slice());
        }
    }
}

/// `[where to cut, four bytes]`, then a body.
pub fn chunked(input: &[u8]) {
    let outcome = however_cut(input, || {
        let (mut decoder, mut has_ended) = (chunked::Decoder::new(), false);
        move |input: &mut InPlace<'_>| {
            let unread = input.unread().len();
            let end = decoder.decode(input)?;
            if has_ended {
                assert_eq!((end, input.unread().len()), (Some(chunked::End), unread));
                input.skip(unread);
                return Ok(None);
            }
            has_ended = end.is_some();
            Ok(end)
        }
    });
    assert!(outcome.controls.len() <= 1);
}

/// `[where to cut, four bytes]`, then packets of an open channel.
pub fn tsgu_relay(input: &[u8]) {
    however_cut(input, || {
        let mut decoder = tsgu::Decoder::new();
        move |input: &mut InPlace<'_>| decoder.decode(input)
    });
}

/// A stream of packets of the greeting.
pub fn tsgu_request(input: &[u8]) {
    let mut rest = input;
    while let Ok(Some(len)) = tsgu::packet_len(rest) {
        assert!((tsgu::HEADER_LEN..=tsgu::PACKET_LEN_MAX).contains(&len));
        let Some((packet, more)) = rest.split_at_checked(len) else {
            assert!(Request::parse(rest).is_err(), "a packet that is not all there");
            return;
        };
        if let Ok(request) = Request::parse(packet) {
            is_sound(&request, packet);
        }
        rest = more;
    }
}

fn is_sound(request: &Request, packet: &[u8]) {
    let strings: Vec<&str> = match request {
        Request::TunnelCreate(tunnel) => {
            tunnel.paa_cookie.iter().map(ringway::core::secret::Secret::expose).collect()
        }
        Request::TunnelAuth(tunnel) => vec![&tunnel.client_name],
        Request::ChannelCreate(channel) => {
            assert!((1..=50).contains(&channel.resources.len()) && channel.alternatives.len() <= 3);
            channel.resources.iter().chain(&channel.alternatives).map(String::as_str).collect()
        }
        _ => Vec::new(),
    };
    for text in strings {
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(!text.contains('\0'));
        assert!(units.is_empty() || packet.windows(units.len()).any(|bytes| bytes == units));
    }
    // What another packet would be: the same with something behind it.
    let mut longer = [packet, &[0; 3]].concat();
    let len = u32::try_from(longer.len()).expect("a packet is short").to_le_bytes();
    longer[4..8].copy_from_slice(&len);
    if longer.len() <= tsgu::PACKET_LEN_MAX {
        assert_eq!(Request::parse(&longer).as_ref(), Ok(request), "a surplus matters");
    }
}

/// `[where to cut, four bytes]`, then what a host sends.
pub fn rdp_stream(input: &[u8]) {
    let (piece_lens, bytes) = pieces(input);
    let (mut whole, mut pieced, mut rest) = (RdpDown::new(), RdpDown::new(), bytes);
    whole.observe(bytes);
    for len in piece_lens {
        let (piece, more) = rest.split_at(len.min(rest.len()));
        pieced.observe(piece);
        rest = more;
    }
    pieced.observe(rest);
    let (mut farewell, mut other) = (Vec::new(), Vec::new());
    whole.farewell(&mut farewell);
    pieced.farewell(&mut other);
    assert!(farewell == other, "a cut matters");
    assert!(farewell.len() <= 64 * 1024 + 16);
    // It fills up what was under way: another one has nothing to fill.
    whole.observe(&farewell);
    other.clear();
    whole.farewell(&mut other);
    // Nothing follows what is not RDP.
    assert!(matches!(other.len(), 0 | 7 | 9), "{} bytes are under way", other.len());
}

fn pieces(input: &[u8]) -> (Vec<usize>, &[u8]) {
    let mut script = Script(input);
    let lens = (0..4).map(|_| usize::from(script.byte())).collect();
    (lens, script.0)
}

/// Decodes as a whole, byte by byte and in pieces, and compares.
fn however_cut<C: PartialEq + Debug, D>(input: &[u8], decoder: impl Fn() -> D) -> Outcome<C>
where
    D: FnMut(&mut InPlace<'_>) -> Result<Option<C>, FramingError>,
{
    let (piece_lens, bytes) = pieces(input);
    let whole = decode(bytes, &[], decoder());
    assert_eq!(decode(bytes, &piece_lens, decoder()), whole, "cut at {piece_lens:?}");
    assert_eq!(decode(bytes, &vec![1; bytes.len()], decoder()), whole, "byte by byte");
    whole
}

fn decode<C: PartialEq + Debug>(
    bytes: &[u8],
    piece_lens: &[usize],
    mut decode: impl FnMut(&mut InPlace<'_>) -> Result<Option<C>, FramingError>,
) -> Outcome<C> {
    let mut outcome = Outcome { payload: Vec::new(), controls: Vec::new(), verdict: Ok(()) };
    let mut rest = bytes;
    for len in piece_lens.iter().copied().chain([rest.len()]) {
        let (piece, more) = rest.split_at(len.min(rest.len()));
        rest = more;
        let mut buffer = piece.to_vec();
        let mut input = InPlace::new(&mut buffer);
        outcome.verdict = loop {
            match decode(&mut input) {
                Ok(Some(control)) => {
                    outcome.controls.push((outcome.payload.len() + input.written(), control));
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert!(input.is_exhausted() || outcome.verdict.is_err(), "bytes are left unread");
        let written = input.written();
        assert!(written + input.unread().len() <= piece.len(), "more came out than went in");
        outcome.payload.extend(&buffer[..written]);
        if outcome.verdict.is_err() {
            break;
        }
    }
    outcome
}
