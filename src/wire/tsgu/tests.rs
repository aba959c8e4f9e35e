//! Packets as FreeRDP sends them, byte by byte, and as nobody may.

use super::*;

/// A packet around `body`, made as plainly as can be.
pub(super) fn packet(packet_type: u16, body: &[u8]) -> Vec<u8> {
    let mut packet = packet_type.to_le_bytes().to_vec();
    packet.extend([0, 0]);
    packet.extend(u32::try_from(8 + body.len()).unwrap().to_le_bytes());
    packet.extend(body);
    packet
}

/// The length in bytes, then UTF-16.
fn string(text: &str) -> Vec<u8> {
    let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [&u16::try_from(units.len()).unwrap().to_le_bytes(), units.as_slice()].concat()
}

/// FreeRDP's whole greeting with a cookie, version 1.0, capabilities 0xd.
#[rustfmt::skip]
const FREERDP: [&[u8]; 4] = [
    &[0x01, 0, 0, 0, 14, 0, 0, 0, /* 1.0 */ 1, 0, 0, 0, /* PAA */ 2, 0],
    &[0x04, 0, 0, 0, 24, 0, 0, 0, /* capabilities */ 0x0d, 0, 0, 0, /* cookie present */ 1, 0, 0, 0,
      /* bytes */ 6, 0, b't', 0, b'k', 0, 0, 0],
    &[0x06, 0, 0, 0, 18, 0, 0, 0, 0, 0, 6, 0, b'p', 0, b'c', 0, 0, 0],
    &[0x08, 0, 0, 0, 24, 0, 0, 0, /* one name */ 1, 0, /* 3389 */ 0x3d, 0x0d, 3, 0,
      8, 0, b'v', 0, b'm', 0, b'1', 0, 0, 0],
];

#[test]
fn the_greeting_of_freerdp_is_understood() {
    let requests: Vec<_> = FREERDP.iter().map(|packet| Request::parse(packet).unwrap()).collect();
    assert_eq!(
        requests,
        [
            Request::Handshake(Handshake {
                major: 1,
                minor: 0,
                client_version: 0,
                ext_auth: ext_auth::PAA
            }),
            Request::TunnelCreate(TunnelCreate {
                capabilities: 0xd,
                reauth_context: None,
                paa_cookie: Some("tk".into())
            }),
            Request::TunnelAuth(TunnelAuth { client_name: "pc".into() }),
            Request::ChannelCreate(ChannelCreate {
                resources: vec!["vm1".into()],
                alternatives: vec![],
                port: 3389,
                protocol: 3
            }),
        ]
    );
    assert!(!format!("{requests:?}").contains("tk"), "a cookie in a log");
}

#[test]
fn packets_are_found_in_a_stream_that_is_cut_anywhere() {
    let stream = FREERDP.concat();
    for cut in 0..=stream.len() {
        let (mut whole, mut buffer) = (0, Vec::new());
        for piece in [&stream[..cut], &stream[cut..]] {
            buffer.extend(piece);
            while let Some(len) = packet_len(&buffer).unwrap().filter(|len| *len <= buffer.len()) {
                let packet: Vec<u8> = buffer.drain(..len).collect();
                assert_eq!(packet, FREERDP[whole], "{cut}");
                whole += 1;
            }
        }
        assert_eq!((whole, buffer.len()), (4, 0), "{cut}");
    }
}

#[test]
fn strings_may_end_with_a_nul_or_not() {
    for text in ["vm1", "vm1\0", "vm1\0\0"] {
        let body = [&[1, 0, 0x3d, 0x0d, 3, 0], string(text).as_slice()].concat();
        let Ok(Request::ChannelCreate(channel)) = Request::parse(&packet(8, &body)) else {
            panic!("{text:?}");
        };
        assert_eq!(channel.resources, ["vm1"], "{text:?}");
    }
    let empty = Request::parse(&packet(6, &[0, 0, 0, 0])).unwrap();
    assert_eq!(empty, Request::TunnelAuth(TunnelAuth { client_name: String::new() }));
}

#[test]
fn strings_that_are_none_are_refused() {
    let bodies: [&[u8]; 4] =
        [&[3, 0, b'a', 0, b'b'], &[2, 0, 0, 0xd8], &[6, 0, b'a', 0, 0, 0, b'b', 0], &[1, 0, 0]];
    for body in bodies {
        let packet = packet(6, &[&[0, 0], body].concat());
        assert_eq!(Request::parse(&packet), Err(FramingError::MalformedPacket), "{body:?}");
    }
}

#[test]
fn a_cookie_of_the_greatest_length_fits() {
    let cookie = "c".repeat(32_767);
    let body = [&[0x0d, 0, 0, 0, 1, 0, 0, 0], string(&cookie).as_slice()].concat();
    let packet = packet(4, &body);
    assert_eq!(packet_len(&packet), Ok(Some(packet.len())));
    let Ok(Request::TunnelCreate(tunnel)) = Request::parse(&packet) else { panic!() };
    assert_eq!(tunnel.paa_cookie.unwrap().expose(), cookie);
}

#[test]
fn what_windows_sends_besides_is_understood() {
    // Capabilities 0x3f, a tunnel to reauthenticate, a statement of health, several names.
    let context = 0x0102_0304_0506_0708_u64;
    let mut body = vec![0x3f, 0, 0, 0, 3, 0, 0, 0];
    body.extend(context.to_le_bytes());
    body.extend(string("tk\0"));
    let expected = TunnelCreate {
        capabilities: 0x3f,
        reauth_context: Some(context),
        paa_cookie: Some("tk".into()),
    };
    assert_eq!(Request::parse(&packet(4, &body)), Ok(Request::TunnelCreate(expected)));

    let body = [&[1, 0][..], &string("pc"), &[3, 0, 7, 7, 7]].concat();
    let expected = TunnelAuth { client_name: "pc".into() };
    assert_eq!(Request::parse(&packet(6, &body)), Ok(Request::TunnelAuth(expected)));

    let body = [&[2, 1, 0x3d, 0x0d, 3, 0][..], &string("a"), &string("b"), &string("c")].concat();
    let Ok(Request::ChannelCreate(channel)) = Request::parse(&packet(8, &body)) else { panic!() };
    assert_eq!(
        (channel.resources, channel.alternatives),
        (vec!["a".into(), "b".into()], vec!["c".into()])
    );

    assert_eq!(Request::parse(&packet(0xD, &[])), Ok(Request::KeepAlive));
    assert_eq!(Request::parse(&packet(0x10, &[0xca, 4, 0, 0])), Ok(Request::CloseChannel(0x4ca)));
    assert_eq!(Request::parse(&packet(0x11, &[0; 4])), Ok(Request::CloseChannelResponse(0)));
    assert_eq!(Request::parse(&packet(0xC, &context.to_le_bytes())), Ok(Request::Reauth(context)));
    let ntlm = Request::ExtendedAuth(ExtendedAuth { error_code: 0 });
    assert_eq!(Request::parse(&packet(3, &[0, 0, 0, 0, 2, 0, b'N', b'T'])), Ok(ntlm));
    assert_eq!(Request::parse(&packet(0x99, &[1, 2])), Ok(Request::Other(0x99)));
}

#[test]
fn a_channel_without_a_name_or_with_too_many_is_refused() {
    for (names, alternatives) in [(0, 0), (51, 0), (1, 4)] {
        let mut body = vec![names, alternatives, 0x3d, 0x0d, 3, 0];
        body.extend(string("a").repeat(60));
        assert_eq!(Request::parse(&packet(8, &body)), Err(FramingError::MalformedPacket));
    }
}

#[test]
fn every_packet_that_is_cut_short_is_refused() {
    for whole in FREERDP {
        for len in 0..whole.len() {
            assert_eq!(Request::parse(&whole[..len]), Err(FramingError::PacketLengths));
            if len >= HEADER_LEN {
                // The same with a header that agrees.
                let agreed = packet(u16::from(whole[0]), &whole[HEADER_LEN..len]);
                assert_eq!(Request::parse(&agreed), Err(FramingError::PacketLengths), "{len}");
            }
        }
        let longer = packet(u16::from(whole[0]), &[&whole[HEADER_LEN..], &[9; 5]].concat());
        assert_eq!(Request::parse(&longer), Request::parse(whole), "a surplus matters");
    }
}

#[test]
fn lengths_beyond_reason_are_refused_by_the_header() {
    let with_length = |length: u32| [&[4, 0, 0, 0], length.to_le_bytes().as_slice()].concat();
    for (length, verdict) in [
        (0, Err(FramingError::PacketLengths)),
        (7, Err(FramingError::PacketLengths)),
        (8, Ok(Some(8))),
        (128 * 1024, Ok(Some(128 * 1024))),
        (128 * 1024 + 1, Err(FramingError::PacketTooLong)),
        (u32::MAX, Err(FramingError::PacketTooLong)),
    ] {
        assert_eq!(packet_len(&with_length(length)), verdict, "{length}");
    }
    assert_eq!(packet_len(&[4, 0, 0, 0, 0xff, 0xff, 0xff]), Ok(None));
}

#[test]
#[rustfmt::skip]
fn answers_are_those_that_freerdp_was_seen_to_accept() {
    assert_eq!(response::handshake(0, (1, 0), ext_auth::PAA),
        [2, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0]);
    let tunnel = response::Tunnel { id: 10, capabilities: response::capability::IDLE_TIMEOUT };
    assert_eq!(response::tunnel(Ok(tunnel)),
        [5, 0, 0, 0, 26, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0]);
    let allowed = response::TunnelAuth {
        redirection_flags: response::redirection::ENABLE_ALL,
        idle_timeout_minutes: 300,
    };
    assert_eq!(response::tunnel_auth(Ok(allowed)),
        [7, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0x80, 44, 1, 0, 0]);
    assert_eq!(response::channel(Ok(1)), [9, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(response::close_channel(0x4ca), [0x10, 0, 0, 0, 12, 0, 0, 0, 0xca, 4, 0, 0]);
    assert_eq!(response::close_channel_response(0), [0x11, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(response::keep_alive(), [0xd, 0, 0, 0, 8, 0, 0, 0]);
    assert_eq!(response::reauth(7), packet(0xc, &7_u64.to_le_bytes()));
    assert_eq!(data_header(300), [0xa, 0, 0, 0, 54, 1, 0, 0, 44, 1]);
    assert_eq!(data_header(u16::MAX), [0xa, 0, 0, 0, 9, 0, 1, 0, 255, 255]);
}

#[test]
#[rustfmt::skip]
fn refusals_are_whole_numbers_and_promise_no_field() {
    assert_eq!(response::tunnel(Err(status::COOKIE_DENIED)),
        [5, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0xf8, 0x59, 7, 0x80, 0, 0, 0, 0]);
    assert_eq!(response::tunnel_auth(Err(status::ACCESS_POLICY_DENIED)),
        [7, 0, 0, 0, 16, 0, 0, 0, 0xdb, 0x59, 7, 0x80, 0, 0, 0, 0]);
    assert_eq!(response::channel(Err(status::TARGET_CONNECT_FAILED)),
        [9, 0, 0, 0, 16, 0, 0, 0, 0xdd, 0x59, 7, 0x80, 0, 0, 0, 0]);
    // FreeRDP looks at the sign only.
    for code in [
        status::INTERNAL_ERROR, status::RESOURCE_DENIED, status::ACCESS_POLICY_DENIED,
        status::TARGET_CONNECT_FAILED, status::CAPABILITY_MISMATCH, status::MALFORMED_COOKIE,
        status::COOKIE_DENIED, status::AUTHENTICATION_METHOD, status::LOGON_DENIED,
    ] {
        assert!(code.cast_signed() < 0, "{code:#x}");
    }
}

#[test]
fn a_service_message_ends_with_a_nul_and_is_bounded() {
    assert_eq!(response::service_message("Até"), packet(0xb, &string("Até\0")));
    // A character of two units is left out as a whole.
    let long = format!("{}😀", "x".repeat(response::SERVICE_MESSAGE_UNITS_MAX - 1));
    let message = response::service_message(&long);
    assert_eq!(packet_len(&message), Ok(Some(message.len())));
    assert_eq!(message.len(), 8 + 2 + 2 * response::SERVICE_MESSAGE_UNITS_MAX);
}
