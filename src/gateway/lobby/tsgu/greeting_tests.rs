//! Every packet in and out of its turn.

use super::*;

fn handshake(ext_auth: u16) -> Request {
    Request::Handshake(Handshake { major: 1, minor: 0, client_version: 0, ext_auth })
}

fn tunnel(cookie: Option<&str>) -> Request {
    let paa_cookie = cookie.map(Secret::from);
    Request::TunnelCreate(TunnelCreate { capabilities: 0xd, reauth_context: None, paa_cookie })
}

fn tunnel_auth() -> Request {
    Request::TunnelAuth(crate::wire::tsgu::TunnelAuth { client_name: "pc".into() })
}

fn channel(target: &str) -> Request {
    let (resources, alternatives) = (vec![target.into(), "other".into()], vec![]);
    Request::ChannelCreate(ChannelCreate { resources, alternatives, port: 3_389, protocol: 3 })
}

/// `status` of a response, which begins at its own place in each kind.
fn status_in(packet: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(packet[at..at + 4].try_into().unwrap())
}

fn sent(step: Step) -> Vec<u8> {
    match step {
        Step::Send(packet) => packet,
        other => panic!("{other:?}"),
    }
}

fn ended(step: Step) -> (Vec<u8>, Code) {
    match step {
        Step::End { last, refusal } => (last, refusal.code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_whole_greeting_by_cookie() {
    let mut greeting = Greeting::new(None, 0);
    let echoed = sent(greeting.on_packet(handshake(ext_auth::PAA)));
    assert_eq!(echoed, [2, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0]);
    assert_eq!(greeting.on_packet(tunnel(Some("cookie"))), Step::CheckToken("cookie".into()));
    let granted = sent(greeting.token_checked(Ok(())));
    // Fields 3: a tunnel that is not zero, and capabilities: the idle timeout,
    // service messages.
    assert_eq!(granted[..18], [5, 0, 0, 0, 26, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(granted[18..], [1, 0, 0, 0, 10, 0, 0, 0]);
    let allowed = sent(greeting.on_packet(tunnel_auth()));
    assert_eq!(allowed[8..16], [0, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(allowed[16..], [0, 0, 0, 0x80, 0, 0, 0, 0]);
    let place = greeting.on_packet(channel("desk"));
    assert_eq!(place, Step::Place { bearer: "cookie".into(), target: "desk".into() });
    assert_eq!(channel_opened()[8..], [0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
}

#[test]
fn the_token_of_the_request_is_taken_where_there_is_no_cookie() {
    for ext_auth in [ext_auth::BEARER, ext_auth::NONE] {
        let mut greeting = Greeting::new(Some("header".into()), 90_000);
        let echoed = sent(greeting.on_packet(handshake(ext_auth)));
        assert_eq!(echoed[16..], ext_auth.to_le_bytes());
        assert_eq!(greeting.on_packet(tunnel(None)), Step::CheckToken("header".into()));
        sent(greeting.token_checked(Ok(())));
        assert_eq!(sent(greeting.on_packet(tunnel_auth()))[20..], [2, 0, 0, 0]);
    }
    let mut both = Greeting::new(Some("header".into()), 0);
    both.on_packet(handshake(ext_auth::PAA));
    assert_eq!(both.on_packet(tunnel(Some("cookie"))), Step::CheckToken("cookie".into()));
}

#[test]
fn a_client_without_a_token_is_told_at_once() {
    for ext_auth in [ext_auth::NONE, ext_auth::SSPI_NTLM, ext_auth::SMART_CARD, ext_auth::BEARER] {
        let (last, code) = ended(Greeting::new(None, 0).on_packet(handshake(ext_auth)));
        assert_eq!(
            (status_in(&last, 8), code),
            (status::AUTHENTICATION_METHOD, Code::TokenMissing)
        );
    }
    // What it offers besides is not agreed to.
    let echoed = sent(Greeting::new(None, 0).on_packet(handshake(7)));
    assert_eq!(echoed[16..], [2, 0]);
    for cookie in [None, Some("")] {
        let mut greeting = Greeting::new(None, 0);
        greeting.on_packet(handshake(ext_auth::PAA));
        let (last, code) = ended(greeting.on_packet(tunnel(cookie)));
        assert_eq!((status_in(&last, 10), code), (status::MALFORMED_COOKIE, Code::TokenMissing));
    }
}

#[test]
fn a_client_knows_of_timeouts_and_shows_notices_when_it_says_so() {
    for (capabilities, timeouts, notices) in
        [(0xd, false, true), (0x2, true, false), (0x3f, true, true), (0, false, false)]
    {
        let mut greeting = Greeting::new(None, 0);
        greeting.on_packet(handshake(ext_auth::PAA));
        let paa_cookie = Some("cookie".into());
        let tunnel = TunnelCreate { capabilities, reauth_context: None, paa_cookie };
        greeting.on_packet(Request::TunnelCreate(tunnel));
        assert_eq!(greeting.agreed(), Agreed { timeouts, notices }, "{capabilities:#x}");
    }
}

#[test]
fn a_token_that_is_too_long_is_not_asked_about() {
    for (length, is_asked_about) in [(TOKEN_BYTES_MAX, true), (TOKEN_BYTES_MAX + 1, false)] {
        let mut greeting = Greeting::new(None, 0);
        greeting.on_packet(handshake(ext_auth::PAA));
        match greeting.on_packet(tunnel(Some(&"x".repeat(length)))) {
            Step::CheckToken(_) => assert!(is_asked_about, "{length}"),
            other => {
                let (last, code) = ended(other);
                let denied = (status::COOKIE_DENIED, Code::TokenTooLong);
                assert_eq!(((status_in(&last, 10), code), is_asked_about), (denied, false));
            }
        }
    }
}

#[test]
fn a_token_that_is_refused_is_a_bad_cookie_and_a_silent_broker_is_not() {
    for (code, status) in [
        (Code::TokenExpired, status::COOKIE_DENIED),
        (Code::TokenBadSignature, status::COOKIE_DENIED),
        (Code::TokenMalformed, status::COOKIE_DENIED),
        (Code::TokenNotYetValid, status::COOKIE_DENIED),
        (Code::IdentityUnavailable, status::INTERNAL_ERROR),
        (Code::BrokerUnreachable, status::INTERNAL_ERROR),
    ] {
        let mut greeting = Greeting::new(None, 0);
        greeting.on_packet(handshake(ext_auth::PAA));
        greeting.on_packet(tunnel(Some("cookie")));
        let (last, told) = ended(greeting.token_checked(Err(code.into())));
        assert_eq!((status_in(&last, 10), told), (status, code));
    }
}

/// FreeRDP takes a status that is not negative for success.
#[test]
fn every_refusal_is_a_whole_hresult_of_the_right_kind() {
    for (code, status) in [
        (Code::ResourceUnknown, status::RESOURCE_DENIED),
        (Code::NotAssigned, status::RESOURCE_DENIED),
        (Code::AuthenticationTooWeak, status::RESOURCE_DENIED),
        (Code::PoolFull, status::TARGET_CONNECT_FAILED),
        (Code::HostRefused, status::TARGET_CONNECT_FAILED),
        (Code::HostStarting, status::TARGET_CONNECT_FAILED),
        (Code::GatewayFull, status::TARGET_CONNECT_FAILED),
        (Code::TooManyPlaces, status::TARGET_CONNECT_FAILED),
        (Code::BrokerUnreachable, status::INTERNAL_ERROR),
        (Code::Internal, status::INTERNAL_ERROR),
    ] {
        assert_eq!(status_in(&channel_refused(&code.into()), 8), status, "{code}");
    }
    for facts in Code::ALL {
        assert!(status_in(&channel_refused(&facts.code.into()), 8) & 0x8000_0000 != 0);
    }
}

#[test]
fn packets_out_of_turn_end_it() {
    let packets: [fn() -> Request; 6] = [
        || handshake(ext_auth::PAA),
        || tunnel(Some("cookie")),
        tunnel_auth,
        || channel("desk"),
        || Request::ExtendedAuth(crate::wire::tsgu::ExtendedAuth { error_code: 0 }),
        || Request::Other(0xA),
    ];
    for turn in 0..5 {
        for (number, packet) in packets.iter().enumerate() {
            let mut greeting = Greeting::new(None, 0);
            for earlier in &packets[..turn.min(4)] {
                greeting.on_packet(earlier());
                if turn > 1 && matches!(greeting.phase, Phase::Judging(_)) {
                    greeting.token_checked(Ok(()));
                }
            }
            if number == turn {
                continue;
            }
            let (last, code) = ended(greeting.on_packet(packet()));
            assert_eq!(last, response::close_channel(status::CLOSE_ABORTED), "{number} at {turn}");
            assert_eq!(code, Code::RequestMalformed);
            assert!(matches!(greeting.on_packet(handshake(2)), Step::End { .. }), "it is over");
        }
    }
}

#[test]
fn a_client_that_closes_is_answered_and_answers_are_not() {
    let (last, _) = ended(Greeting::new(None, 0).on_packet(Request::CloseChannel(7)));
    assert_eq!(last, response::close_channel_response(0));
    let (last, _) = ended(Greeting::new(None, 0).on_packet(Request::CloseChannelResponse(0)));
    assert!(last.is_empty());
}

#[test]
fn signs_of_life_change_nothing_and_are_bounded() {
    let mut greeting = Greeting::new(None, 0);
    greeting.on_packet(handshake(ext_auth::PAA));
    for _ in 0..KEEP_ALIVES_MAX {
        assert_eq!(greeting.on_packet(Request::KeepAlive), Step::Listen);
    }
    assert!(matches!(greeting.on_packet(Request::KeepAlive), Step::End { .. }));
}

/// Up to the answer of the broker about another tunnel's context.
fn again(paa_cookie: Option<&str>) -> (Greeting, Step) {
    let mut greeting = Greeting::new(Some("header".into()), 0);
    greeting.on_packet(handshake(ext_auth::PAA));
    let paa_cookie = paa_cookie.map(Secret::from);
    let again = TunnelCreate { capabilities: 0x1d, reauth_context: Some(7), paa_cookie };
    let step = greeting.on_packet(Request::TunnelCreate(again));
    (greeting, step)
}

fn reauthenticated() -> Greeting {
    let (mut greeting, _) = again(None);
    // Idle timeout, service messages, reauthentication.
    assert_eq!(sent(greeting.token_checked(Ok(())))[18..], [1, 0, 0, 0, 0x1a, 0, 0, 0]);
    assert!(!greeting.has_reauthenticated());
    assert_eq!(sent(greeting.on_packet(tunnel_auth()))[8..16], [0, 0, 0, 0, 3, 0, 0, 0]);
    assert!(greeting.has_reauthenticated());
    greeting
}

#[test]
fn a_tunnel_with_a_context_authenticates_that_one_and_has_no_channel() {
    for (cookie, bearer) in [(Some("cookie"), "cookie"), (None, "header")] {
        let expected = Step::Reauthenticate { context: 7, bearer: bearer.into() };
        assert_eq!(again(cookie).1, expected);
    }
    let (last, code) = ended(reauthenticated().on_packet(channel("desk")));
    assert_eq!((status_in(&last, 8), code), (status::RESOURCE_DENIED, Code::RequestMalformed));
    let last = response::close_channel_response(0).to_vec();
    assert_eq!(reauthenticated().on_packet(Request::CloseChannel(0)), Step::Done { last });
    assert_eq!(reauthenticated().on_packet(Request::KeepAlive), Step::Listen);
}

#[test]
fn who_may_not_authenticate_again_is_told_why() {
    for (code, status) in [
        (Code::TokenOfOtherUser, status::COOKIE_DENIED),
        (Code::TokenExpired, status::COOKIE_DENIED),
        (Code::SessionUnknown, status::INTERNAL_ERROR),
    ] {
        let (mut greeting, _) = again(Some("cookie"));
        let (last, told) = ended(greeting.token_checked(Err(code.into())));
        assert_eq!((status_in(&last, 10), told), (status, code));
        assert!(!greeting.has_reauthenticated());
    }
}

#[test]
fn only_who_announces_it_is_asked_to_authenticate_again() {
    for (capabilities, expected) in
        [(0xd, Reauthentication::Never), (0x10, Reauthentication::OnRequest)]
    {
        let mut greeting = Greeting::new(Some("header".into()), 0);
        greeting.on_packet(handshake(ext_auth::BEARER));
        let tunnel = TunnelCreate { capabilities, reauth_context: None, paa_cookie: None };
        greeting.on_packet(Request::TunnelCreate(tunnel));
        assert_eq!(greeting.reauthentication(), expected);
    }
}
