//! Requests and answers, real and generated, cut anywhere.

use ironrdp::core::{decode, encode_vec};
use ironrdp::pdu::nego;
use ironrdp::pdu::x224::X224;
use proptest::prelude::*;

use super::*;

/// What FreeRDP 3 sends in AVD mode with `enablerdsaadauth:i:1`.
const RDSAAD_ONLY: &[u8] = b"\x03\x00\x00\x31\x2c\xe0\x00\x00\x00\x00\x00mth://localhost/demo/desktop\r\n\x01\x00\x08\x00\x10\x00\x00\x00";

fn parsed(bytes: &[u8]) -> ConnectionRequest<'_> {
    let (request, length) = ConnectionRequest::parse(bytes).unwrap().unwrap();
    assert_eq!(length, bytes.len());
    request
}

/// As a client writes it: the length indicator is the low byte of what it
/// should be.
fn written(lines: &[&[u8]], negotiation: Option<Negotiation>) -> Vec<u8> {
    let mut body = Vec::new();
    for line in lines {
        body.extend_from_slice(line);
        body.extend_from_slice(LINE_END);
    }
    if let Some(negotiation) = negotiation {
        negotiation.append_to(&mut body);
    }
    pdu(CONNECTION_REQUEST, 0, &body)
}

fn asking(protocols: Protocols) -> Option<Negotiation> {
    Some(Negotiation { flags: 0, protocols, correlation: None })
}

#[test]
fn the_request_of_avd_mode_says_where_to_and_with_a_token() {
    let request = parsed(RDSAAD_ONLY);
    assert_eq!(request.routing_token, Some(&b"mth://localhost/demo/desktop"[..]));
    assert_eq!(request.cookie, None);
    assert_eq!(request.negotiation, asking(Protocols::RDSAAD));
    assert!(!format!("{request:?}").contains("demo"), "a routing token in a log");
}

#[test]
fn a_server_gets_the_user_but_not_the_way() {
    let both = written(
        &[b"Cookie: msts=3640205228.15629.0000", b"Cookie: mstshash=alice", b"mth://second"],
        asking(Protocols::SSL | Protocols::RDSAAD),
    );
    let offered = parsed(&both).offering(Protocols::SSL);
    assert_eq!(
        offered.for_server(),
        b"\x03\x00\x00\x2b\x26\xe0\x00\x00\x00\x00\x00Cookie: mstshash=alice\r\n\x01\x00\x08\x00\x01\x00\x00\x00"
    );
}

#[test]
fn an_old_client_negotiates_nothing_and_goes_on_doing_so() {
    let old = written(&[b"Cookie: mstshash=bob"], None);
    let request = parsed(&old);
    assert_eq!(request.negotiation, None);
    assert_eq!(request.offering(Protocols::SSL).for_server(), old);
}

#[test]
fn a_correlation_stays_with_its_flag() {
    let correlation = Some([7; 16]);
    let negotiation = Negotiation { flags: 1, protocols: Protocols::HYBRID, correlation };
    let with = written(&[], Some(negotiation));
    assert_eq!(with.len(), 11 + 8 + 36);
    assert_eq!((with[12], &with[19..23]), (9, &[6, 0, 36, 0][..]));
    assert_eq!(parsed(&with).negotiation, Some(negotiation));
    assert_eq!(parsed(&with).for_server(), with);
    let mut missing = with;
    missing[3] -= 36;
    missing[4] -= 36;
    assert_eq!(ConnectionRequest::parse(&missing), Err(NotX224));
}

#[test]
fn a_routing_token_that_is_too_long_for_its_length_is_read_all_the_same() {
    let token = [b'a'; 600];
    let long = written(&[&token], asking(Protocols::RDSAAD));
    assert_eq!(long[4], 104, "((11 + 600 + 2 + 8) - 5) modulo 256");
    assert_eq!(parsed(&long).routing_token, Some(&token[..]));
    assert_eq!(parsed(&long).for_server(), written(&[], asking(Protocols::RDSAAD)));
}

#[test]
fn a_cookie_that_would_not_fit_is_left_out() {
    let fitting = [COOKIE_PREFIX, &[b'a'; 254 - 6 - 2 - 8 - 17]].concat();
    let request = written(&[&fitting], asking(Protocols::SSL));
    assert_eq!((request[4], parsed(&request).for_server()), (254, request.clone()));
    let long = written(&[&[&fitting[..], b"a"].concat()], asking(Protocols::SSL));
    assert_eq!(parsed(&long).for_server(), written(&[], asking(Protocols::SSL)));
}

#[test]
fn other_protocols_are_recognised_at_once() {
    for other in [
        &b"S"[..],
        b"\x16",
        // No TPKT has this length, or only a later PDU.
        b"\x03\x00\xff",
        b"\x03\x00\x00\x04",
        b"\x03\x00\x00\x13\x0f",
        b"\x03\x00\x00\x0c\x07\xf0",
        b"\x03\x00\x00\x13\x0e\xd0",
    ] {
        assert_eq!(ConnectionRequest::parse(other), Err(NotX224), "{other:?}");
        let before = &other[..other.len() - 1];
        assert_eq!(ConnectionRequest::parse(before), Ok(None), "{before:?}");
    }
    let unknown = pdu(CONNECTION_REQUEST, 0, b"no line end");
    assert_eq!(ConnectionRequest::parse(&unknown), Err(NotX224));
}

#[test]
fn a_refusal_has_the_bytes_that_make_freerdp_come_back() {
    let bytes = ConnectionConfirm::Refused(FailureCode::HYBRID_REQUIRED).to_bytes();
    assert_eq!(bytes, [3, 0, 0, 0x13, 0x0e, 0xd0, 0, 0, 0x12, 0x34, 0, 3, 0, 8, 0, 5, 0, 0, 0]);
}

#[test]
fn answers_are_those_of_ironrdp() {
    use nego::ConnectionConfirm as Theirs;
    for (ours, theirs) in [
        (
            ConnectionConfirm::Selected { flags: 3, protocol: Protocols::RDSAAD },
            Theirs::Response {
                flags: nego::ResponseFlags::from_bits_retain(3),
                protocol: nego::SecurityProtocol::RDSAAD,
            },
        ),
        (
            ConnectionConfirm::Refused(FailureCode::SSL_REQUIRED),
            Theirs::Failure { code: nego::FailureCode::SSL_REQUIRED_BY_SERVER },
        ),
    ] {
        let written = ours.to_bytes();
        assert_eq!(decode::<X224<Theirs>>(&written).unwrap().0, theirs);
        let written_there = encode_vec(&X224(theirs)).unwrap();
        assert_eq!(ConnectionConfirm::parse(&written_there), Ok(Some((ours, 19))));
        for cut in 0..19 {
            assert_eq!(ConnectionConfirm::parse(&written[..cut]), Ok(None));
        }
    }
    let plain = ConnectionConfirm::Plain.to_bytes();
    assert_eq!(ConnectionConfirm::parse(&plain), Ok(Some((ConnectionConfirm::Plain, 11))));
    let unknown = pdu(CONNECTION_CONFIRM, 0, &[9; 8]);
    assert_eq!(ConnectionConfirm::parse(&unknown), Err(NotX224));
    assert_eq!(ConnectionConfirm::parse(b"\x03\x00\x00\x14"), Err(NotX224));
}

fn negotiation() -> impl Strategy<Value = Option<Negotiation>> {
    let asked = (any::<u8>(), any::<u32>(), proptest::option::of(any::<[u8; 16]>()));
    proptest::option::of(asked.prop_map(|(flags, protocols, correlation)| Negotiation {
        flags: flags & !CORRELATION_FLAG,
        protocols: Protocols(protocols),
        correlation,
    }))
}

proptest! {
    #[test]
    fn a_request_is_read_as_it_was_written_wherever_it_is_cut(
        token in proptest::option::of("mth://[ -~]{0,300}"),
        user in proptest::option::of("[ -~]{0,60}"),
        negotiation in negotiation(),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let cookie = user.map(|user| format!("Cookie: mstshash={user}"));
        let lines: Vec<_> =
            token.iter().chain(&cookie).map(|line| line.as_bytes()).collect();
        let bytes = written(&lines, negotiation);
        for cut in 0..bytes.len() {
            prop_assert_eq!(ConnectionRequest::parse(&bytes[..cut]), Ok(None));
        }
        let expected = ConnectionRequest {
            routing_token: token.as_ref().map(|token| token.as_bytes()),
            cookie: cookie.as_ref().map(|cookie| cookie.as_bytes()),
            negotiation,
        };
        let with_more = [&bytes[..], &tail].concat();
        prop_assert_eq!(
            ConnectionRequest::parse(&with_more), Ok(Some((expected, bytes.len())))
        );
        let for_server = expected.for_server();
        prop_assert!(for_server.len() <= 5 + INDICATED_BYTES_MAX);
        prop_assert_eq!(usize::from(for_server[4]), for_server.len() - 5);
        let direct = ConnectionRequest { routing_token: None, ..expected };
        prop_assert_eq!(parsed(&for_server), direct);
    }

    #[test]
    fn ironrdp_reads_what_is_for_a_server(
        user in proptest::option::of("[a-z]{0,30}"),
        flags in 0_u8..4,
        protocols in 0_u32..32,
    ) {
        let cookie = user.as_ref().map(|user| format!("Cookie: mstshash={user}"));
        let request = ConnectionRequest {
            routing_token: Some(b"mth://localhost"),
            cookie: cookie.as_ref().map(|cookie| cookie.as_bytes()),
            negotiation: Some(Negotiation {
                flags, protocols: Protocols(protocols), correlation: None,
            }),
        };
        let theirs = decode::<X224<nego::ConnectionRequest>>(&request.for_server()).unwrap().0;
        prop_assert_eq!(theirs, nego::ConnectionRequest {
            nego_data: user.map(nego::NegoRequestData::cookie),
            flags: nego::RequestFlags::from_bits_retain(flags),
            protocol: nego::SecurityProtocol::from_bits_retain(protocols),
        });
    }

    #[test]
    fn what_is_something_else_stays_that(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        tail in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        // Mostly a plausible header, or nothing would get past the first byte.
        for header in [&b""[..], b"\x03\x00\x00\x20\x1b\xe0", b"\x03\x00\x00\x13\x0e\xd0"] {
            let bytes = [header, &bytes].concat();
            let longer = [&bytes[..], &tail].concat();
            match ConnectionRequest::parse(&bytes) {
                Ok(None) => {}
                verdict => prop_assert_eq!(ConnectionRequest::parse(&longer), verdict),
            }
            match ConnectionConfirm::parse(&bytes) {
                Ok(None) => {}
                verdict => prop_assert_eq!(ConnectionConfirm::parse(&longer), verdict),
            }
        }
    }
}
