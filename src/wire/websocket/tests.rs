//! Frames as clients send them, and as they must not.

use proptest::prelude::*;

use super::*;
use crate::wire::framing_error::FramingError;
use crate::wire::in_place::{self, Decoded, InPlace, decode_in_pieces};

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// How the length is written: in at least so many bytes behind the second.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    Shortest,
    Two,
    Eight,
}

/// A client's frame, made as plainly as can be.
pub(crate) fn client_frame(first: u8, payload: &[u8], mask: [u8; 4], form: Form) -> Vec<u8> {
    let mut frame = vec![first];
    match (form, payload.len()) {
        (Form::Shortest, len @ 0..126) => frame.push(0x80 | u8::try_from(len).unwrap()),
        (Form::Shortest | Form::Two, len @ 0..65_536) => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        (_, len) => {
            frame.push(0x80 | 127);
            frame.extend(u64::try_from(len).unwrap().to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    frame
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    client_frame(first, payload, MASK, Form::Shortest)
}

fn decode(bytes: &[u8], piece_lens: &[usize]) -> Decoded<Control> {
    let mut decoder = Decoder::new();
    decode_in_pieces(bytes, piece_lens, |input| decoder.decode(input))
}

fn refused(bytes: &[u8]) -> FramingError {
    in_place::refused(bytes, decode)
}

fn ping(payload: &[u8]) -> Control {
    let decoded = decode(&frame(FIN | PING, payload), &[]);
    let [(0, Control::Ping(carried))] = decoded.controls[..] else { panic!("{decoded:?}") };
    assert_eq!(carried.as_slice(), payload);
    Control::Ping(carried)
}

#[test]
fn the_key_of_the_specification_is_accepted_as_it_says() {
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn a_key_that_is_no_base64_is_hashed_as_it_is() {
    // FreeRDP 2.11 sends fifteen characters out of 0x40 to 0x5f.
    assert_eq!(accept_key("@ABCDEFGHIJ[]^_").len(), 28);
    assert_ne!(accept_key("@ABCDEFGHIJ[]^_"), accept_key("@ABCDEFGHIJ[]^"));
}

#[test]
fn the_masked_hello_of_the_specification_is_read() {
    // RFC 6455 5.7, as a binary frame.
    let bytes = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(bytes, frame(FIN | BINARY, b"Hello")[..], "the tests' encoder is wrong");
    assert_eq!(decode(&bytes, &[]).payload, b"Hello");
}

#[test]
fn frames_are_read_wherever_they_are_cut() {
    let payload: Vec<u8> = (0..=255).cycle().take(300).collect();
    let bytes = [
        frame(FIN | BINARY, &payload[..5]),
        frame(FIN | PING, b"are you there"),
        frame(BINARY, &payload[5..150]),
        frame(FIN | PONG, b""),
        frame(FIN | CONTINUATION, &payload[150..]),
        frame(FIN | CLOSE, &[3, 0xe8]),
    ]
    .concat();
    let controls =
        vec![(5, ping(b"are you there")), (150, Control::Pong), (300, Control::Close(Some(1000)))];
    let expected = Decoded { payload, controls, verdict: Ok(()) };
    for cut in 0..=bytes.len() {
        assert_eq!(decode(&bytes, &[cut]), expected, "{cut}");
        assert_eq!(decode(&bytes, &[cut, 1]), expected, "{cut}, one byte");
    }
    assert_eq!(decode(&bytes, &vec![1; bytes.len()]), expected, "byte by byte");
}

#[test]
fn lengths_in_every_form_are_read() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
        let payload = vec![0x5A; len];
        for form in [Form::Shortest, Form::Two, Form::Eight] {
            let bytes = client_frame(FIN | BINARY, &payload, MASK, form);
            assert_eq!(decode(&bytes, &[]).payload, payload, "{len} {form:?}");
        }
    }
}

#[test]
fn payload_ends_up_at_the_front_and_a_control_frame_waits_to_be_dealt_with() {
    let mut bytes =
        [frame(FIN | BINARY, b"one"), frame(FIN | PONG, b"?"), frame(FIN | BINARY, b", two")]
            .concat();
    let mut input = InPlace::new(&mut bytes);
    let mut decoder = Decoder::new();
    assert_eq!(decoder.decode(&mut input), Ok(Some(Control::Pong)));
    assert_eq!((input.written(), input.is_exhausted()), (3, false));
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert_eq!((input.written(), input.is_exhausted()), (8, true));
    assert_eq!(&bytes[..8], b"one, two");
}

#[test]
fn text_is_dropped_with_all_of_its_fragments() {
    let bytes = [
        frame(FIN | TEXT, b"chatter"),
        frame(TEXT, b"more "),
        frame(FIN | PING, b"!"),
        frame(CONTINUATION, b"chat"),
        frame(FIN | CONTINUATION, b"ter"),
        frame(FIN | BINARY, b"RDP"),
    ]
    .concat();
    let expected =
        Decoded { payload: b"RDP".to_vec(), controls: vec![(0, ping(b"!"))], verdict: Ok(()) };
    assert_eq!(decode(&bytes, &[]), expected);
    assert_eq!(decode(&bytes, &vec![1; bytes.len()]), expected);
}

#[test]
fn pongs_and_closes_of_freerdp_3_are_accepted_with_their_surplus() {
    let mut stale = vec![0xEE; 1024];
    stale[..2].copy_from_slice(&1000_u16.to_be_bytes());
    let bytes = [
        frame(FIN | PONG, &stale),
        frame(FIN | BINARY, b"RDP"),
        frame(FIN | CLOSE, &stale),
        frame(FIN | PONG, &vec![1; CONTROL_LEN_ACCEPTED_MAX]),
    ]
    .concat();
    let expected = Decoded {
        payload: b"RDP".to_vec(),
        controls: vec![(0, Control::Pong), (3, Control::Close(Some(1000))), (3, Control::Pong)],
        verdict: Ok(()),
    };
    assert_eq!(decode(&bytes, &[]), expected);
    for cut in 0..bytes.len() {
        assert_eq!(decode(&bytes, &[cut]), expected, "{cut}");
    }
}

#[test]
fn control_frames_that_are_too_long_are_refused() {
    for (opcode, len) in [(PING, 126), (PONG, 4_097), (CLOSE, 4_097), (PING, 1024), (PONG, 70_000)]
    {
        let bytes = frame(FIN | opcode, &vec![0; len]);
        let header = &bytes[..bytes.len() - len - 4];
        assert_eq!(refused(header), FramingError::ControlTooLong, "{opcode} {len}");
    }
    ping(&[7; 125]);
}

#[test]
fn a_close_may_lack_its_code() {
    for payload in [&b""[..], b"\x03"] {
        let decoded = decode(&frame(FIN | CLOSE, payload), &[]);
        assert_eq!(decoded.controls, [(0, Control::Close(None))]);
    }
}

#[test]
fn an_unmasked_frame_is_refused() {
    for second in [0, 5, 126, 127] {
        assert_eq!(refused(&[FIN | BINARY, second]), FramingError::Unmasked);
    }
    assert_eq!(refused(&[FIN | PING, 0]), FramingError::Unmasked);
    assert_eq!(FramingError::Unmasked.websocket_close_code(), 1002);
}

#[test]
fn reserved_bits_and_opcodes_are_refused() {
    for bit in [0x40, 0x20, 0x10] {
        assert_eq!(refused(&[FIN | bit | BINARY]), FramingError::ReservedBits);
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert_eq!(refused(&[FIN | opcode]), FramingError::ReservedBits, "{opcode}");
    }
}

#[test]
fn fragments_out_of_order_are_refused() {
    assert_eq!(refused(&frame(FIN | CONTINUATION, b"x")), FramingError::NothingToContinue);
    let whole = frame(FIN | BINARY, b"x");
    let bytes = [whole.clone(), frame(CONTINUATION, b"x")].concat();
    assert_eq!(refused(&bytes), FramingError::NothingToContinue);
    for opcode in [BINARY, TEXT] {
        let bytes = [frame(BINARY, b"x"), frame(FIN | opcode, b"x")].concat();
        assert_eq!(refused(&bytes), FramingError::MessageInMessage);
    }
    for opcode in [CLOSE, PING, PONG] {
        assert_eq!(refused(&[opcode]), FramingError::FragmentedControl);
    }
}

#[test]
fn a_frame_beyond_the_limit_is_refused_by_its_length() {
    let header = |len: u64| [&[FIN | BINARY, 0xFF][..], &len.to_be_bytes()].concat();
    assert_eq!(decode(&header(16 << 20), &[]).verdict, Ok(()));
    for len in [(16 << 20) + 1, 1 << 32, u64::MAX] {
        assert_eq!(refused(&header(len)), FramingError::FrameTooLong);
    }
    assert_eq!(FramingError::FrameTooLong.websocket_close_code(), 1009);
}

#[test]
fn what_came_before_a_wrong_frame_is_kept() {
    let bytes = [frame(FIN | BINARY, b"RDP"), vec![FIN | 3]].concat();
    let decoded = decode(&bytes, &[]);
    assert_eq!(
        (&decoded.payload[..], decoded.verdict),
        (&b"RDP"[..], Err(FramingError::ReservedBits))
    );
}

#[test]
fn our_data_frames_have_the_shortest_header_and_no_mask() {
    let mut out = [0; SERVER_HEADER_LEN_MAX];
    for (payload_len, header) in [
        (0, &[0x82, 0][..]),
        (125, &[0x82, 125]),
        (126, &[0x82, 126, 0, 126]),
        (65_535, &[0x82, 126, 0xff, 0xff]),
    ] {
        assert_eq!(write_server_header(&mut out, payload_len), Some(header.len()));
        assert_eq!(server_header_len(payload_len), header.len());
        assert_eq!(&out[..header.len()], header);
    }
    assert_eq!(write_server_header(&mut out, 65_536), None);
    assert_eq!(write_server_header(&mut out[..3], 126), None);
    assert_eq!(write_server_header(&mut [0; 1], 0), None);
}

#[test]
fn our_control_frames_are_short_and_a_ping_is_never_empty() {
    assert_eq!(control_frame(Opcode::Pong, b"ab").as_slice(), [0x8A, 2, b'a', b'b']);
    assert_eq!(control_frame(Opcode::Pong, b"").as_slice(), [0x8A, 0]);
    assert_eq!(control_frame(Opcode::Ping, b"").as_slice(), [0x89, 1, 0]);
    assert_eq!(close_frame(1001).as_slice(), [0x88, 2, 3, 0xe9]);
    let cut = control_frame(Opcode::Pong, &[9; 300]);
    assert_eq!((cut.as_slice().len(), cut.as_slice()[1]), (127, 125));
}

/// What a client does next, and how it writes it.
#[derive(Clone, Debug)]
enum Step {
    Fragment { payload: Vec<u8>, mask: [u8; 4], form: Form, is_last: bool },
    Text(Vec<u8>),
    Ping(Vec<u8>),
    Pong(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let form = prop::sample::select(vec![Form::Shortest, Form::Two, Form::Eight]);
    let payload = prop::collection::vec(any::<u8>(), 0..400);
    prop_oneof![
        6 => (payload, any::<[u8; 4]>(), form, any::<bool>()).prop_map(
            |(payload, mask, form, is_last)| Step::Fragment { payload, mask, form, is_last }
        ),
        1 => prop::collection::vec(any::<u8>(), 0..50).prop_map(Step::Text),
        1 => prop::collection::vec(any::<u8>(), 0..=125).prop_map(Step::Ping),
        1 => (0..1_100_usize).prop_map(Step::Pong),
    ]
}

proptest! {
    #[test]
    fn any_payload_in_any_frames_and_pieces_arrives(
        steps in prop::collection::vec(step(), 0..25),
        piece_lens in prop::collection::vec(0..500_usize, 0..40),
    ) {
        let (mut bytes, mut payload, mut pings, mut pongs) = (vec![], vec![], vec![], 0);
        let mut is_open = false;
        for step in steps {
            match step {
                Step::Fragment { payload: part, mask, form, is_last } => {
                    let opcode = if is_open { CONTINUATION } else { BINARY };
                    is_open = !is_last;
                    bytes.extend(client_frame(if is_last { FIN } else { 0 } | opcode, &part, mask, form));
                    payload.extend(part);
                }
                Step::Text(text) if !is_open => bytes.extend(frame(FIN | TEXT, &text)),
                Step::Text(_) => {}
                Step::Ping(carried) => {
                    bytes.extend(frame(FIN | PING, &carried));
                    pings.push((payload.len(), carried));
                }
                Step::Pong(len) => {
                    bytes.extend(frame(FIN | PONG, &vec![3; len]));
                    pongs += 1;
                }
            }
        }
        let decoded = decode(&bytes, &piece_lens);
        prop_assert_eq!(decoded.verdict, Ok(()));
        prop_assert_eq!(decoded.payload, payload);
        prop_assert_eq!(decoded.controls.len(), pings.len() + pongs);
        let seen = decoded.controls.iter().filter_map(|(at, control)| match control {
            Control::Ping(carried) => Some((*at, carried.as_slice().to_vec())),
            _ => None,
        });
        prop_assert_eq!(seen.collect::<Vec<_>>(), pings);
    }

    #[test]
    fn garbage_means_the_same_however_it_is_cut(
        bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(vec![0x82, 0x02, 0x80, 0x89, 0x88, 0xFE])],
            0..200,
        ),
        piece_lens in prop::collection::vec(0..30_usize, 0..20),
    ) {
        prop_assert_eq!(decode(&bytes, &piece_lens), decode(&bytes, &[]));
    }
}

#[test]
fn what_we_send_as_a_client_is_what_a_server_reads() {
    for len in [1, 125, 126, 16_384, 65_535] {
        let payload: Vec<u8> = (0..=255).cycle().take(len).collect();
        let expected = client_frame(FIN | BINARY, &payload, MASK, Form::Shortest);
        for cut in [0, 1, len / 2, len] {
            let (front, back) = payload.split_at(cut);
            let mut out = vec![0; client_frame_len(len) + 3];
            let written = write_client_frame(&mut out, &[front, back], MASK);
            assert_eq!(written, Some(client_frame_len(len)));
            assert_eq!(out[..expected.len()], expected, "{len} cut at {cut}");
        }
        assert!(client_frame_len(len) <= len + CLIENT_HEADER_LEN_MAX);
        let mut short = vec![0; client_frame_len(len) - 1];
        assert_eq!(write_client_frame(&mut short, &[&payload], MASK), None);
    }
    assert_eq!(write_client_frame(&mut vec![0; 70_000], &[&[0; 65_536]], MASK), None);
    let close = client_close_frame(CLOSE_NORMAL, MASK);
    assert_eq!(close, frame(FIN | CLOSE, &CLOSE_NORMAL.to_be_bytes()));
}

#[test]
fn what_we_send_as_a_server_is_what_a_client_reads() {
    let of_server = |bytes: &[u8], piece_lens: &[usize]| {
        let mut decoder = Decoder::of_server();
        decode_in_pieces(bytes, piece_lens, |input| decoder.decode(input))
    };
    let (mut bytes, mut payload) = (Vec::new(), Vec::new());
    for len in [1, 125, 126, 300] {
        let mut header = [0; SERVER_HEADER_LEN_MAX];
        let header_len = write_server_header(&mut header, len).unwrap();
        bytes.extend(&header[..header_len]);
        bytes.extend(vec![7; len]);
        payload.extend(vec![7; len]);
    }
    bytes.extend(close_frame(CLOSE_GOING_AWAY).as_slice());
    let controls = vec![(payload.len(), Control::Close(Some(CLOSE_GOING_AWAY)))];
    let expected = Decoded { payload, controls, verdict: Ok(()) };
    for cut in 0..=bytes.len() {
        assert_eq!(of_server(&bytes, &[cut]), expected, "{cut}");
    }
    assert_eq!(of_server(&bytes, &vec![1; bytes.len()]), expected, "byte by byte");
    let masked = of_server(&frame(FIN | BINARY, b"x"), &[]);
    assert_eq!(masked.verdict, Err(FramingError::Masked));
}
