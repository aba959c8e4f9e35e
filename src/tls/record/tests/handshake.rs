//! The handshake until the keys are taken: here and not beside its source,
//! because it shares the peers and helpers of the record layer's tests.

use std::io::Write as _;

use proptest::prelude::*;
use rustls::AlertDescription;

use super::*;
use crate::tls::handshake::{INCOMING_LIMIT, PLAINTEXT_LIMIT, TlsError};

fn start(suite: SupportedCipherSuite) -> (ClientConnection, ServerHandshake) {
    let identity = Identity::new();
    let client = ClientConnection::new(Arc::new(identity.client(suite)), localhost()).unwrap();
    (client, ServerHandshake::new(identity.server()).unwrap())
}

/// Shakes hands up to the point where the client has written its last flight,
/// which is returned and not yet fed.
fn up_to_the_last_flight(client: &mut ClientConnection, server: &mut ServerHandshake) -> Vec<u8> {
    let mut flight = from_client(client);
    while client.is_handshaking() {
        server.feed(&flight).unwrap();
        to_client(client, &server.take_outgoing()).unwrap();
        flight = from_client(client);
    }
    flight
}

#[test]
fn every_suite_is_negotiated_byte_by_byte_and_in_fragments() {
    for suite in ALL {
        let identity = Identity::new();
        for fragment in [None, Some(64)] {
            let mut config = identity.client(suite);
            config.max_fragment_size = fragment;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let mut client = ClientConnection::new(Arc::new(config), localhost()).unwrap();
            let mut server_config = ServerConfig::clone(&identity.server());
            server_config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let mut server = ServerHandshake::new(Arc::new(server_config)).unwrap();
            while !server.is_established() {
                for byte in from_client(&mut client).chunks(1) {
                    server.feed(byte).unwrap();
                }
                to_client(&mut client, &server.take_outgoing()).unwrap();
            }
            let negotiated = server.negotiated().unwrap();
            assert_eq!(negotiated.suite, suite.suite());
            assert_eq!(negotiated.version, suite.version().version);
            assert_eq!(negotiated.alpn.as_deref(), Some(&b"http/1.1"[..]));
            assert_eq!(server.into_keys().unwrap().records.suite(), suite.suite());
        }
    }
}

#[test]
fn a_greeting_is_read_and_answered_and_the_rest_is_left_over() {
    for suite in ALL {
        let (mut client, mut server) = start(suite);
        let mut wire = up_to_the_last_flight(&mut client, &mut server);
        client.writer().write_all(b"GET / HTTP/1.1\r\n\r\nearly").unwrap();
        wire.extend(from_client(&mut client));
        client.writer().write_all(b"cut off").unwrap();
        let tail = from_client(&mut client);
        let (head, rest) = tail.split_at(tail.len() / 2);
        wire.extend(head);

        server.feed(&wire).unwrap();
        assert_eq!(server.plaintext(), b"GET / HTTP/1.1\r\n\r\nearly");
        server.consume_plaintext(18);
        server.send(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let answer = to_client(&mut client, &server.take_outgoing()).unwrap();
        assert_eq!(answer, b"HTTP/1.1 200 OK\r\n\r\n");

        let mut ours = server.into_keys().unwrap();
        assert_eq!(ours.leftover_plaintext, b"early");
        assert_eq!(ours.leftover_ciphertext, head);
        let wire = [&ours.leftover_ciphertext, rest].concat();
        assert_eq!(open(&mut ours.records, &wire).unwrap().data, b"cut off", "{suite:?}");
        let record = seal(&mut ours.records, b"relayed");
        assert_eq!(to_client(&mut client, &record).unwrap(), b"relayed");
    }
}

#[test]
fn a_key_update_in_the_same_breath_as_finished_is_not_lost() {
    let (mut client, mut server) = start(TLS13);
    let mut wire = up_to_the_last_flight(&mut client, &mut server);
    client.refresh_traffic_keys().unwrap();
    client.writer().write_all(b"new key").unwrap();
    wire.extend(from_client(&mut client));
    server.feed(&wire).unwrap();
    assert_eq!(server.plaintext(), b"new key");
    assert!(to_client(&mut client, &server.take_outgoing()).unwrap().is_empty(), "tickets");

    let mut ours = server.into_keys().unwrap();
    assert!(ours.records.key_update_owed(), "the debt is handed over with the keys");
    let mut answer = control(|out| ours.records.seal_key_update(out, false));
    answer.extend(seal(&mut ours.records, b"paid"));
    assert_eq!(to_client(&mut client, &answer).unwrap(), b"paid");
}

#[test]
fn a_key_update_is_answered_by_the_next_send() {
    let (mut client, mut server) = start(TLS13);
    let mut wire = up_to_the_last_flight(&mut client, &mut server);
    client.refresh_traffic_keys().unwrap();
    wire.extend(from_client(&mut client));
    server.feed(&wire).unwrap();
    let long = pattern(3 * MAX_PLAINTEXT_LEN);
    server.send(&long).unwrap();
    assert_eq!(to_client(&mut client, &server.take_outgoing()).unwrap(), long);
    assert!(!server.into_keys().unwrap().records.key_update_owed());
}

#[test]
fn both_sides_close_cleanly() {
    for suite in ALL {
        let (mut client, mut server) = start(suite);
        let wire = up_to_the_last_flight(&mut client, &mut server);
        server.feed(&wire).unwrap();
        assert!(!server.peer_closed());
        client.writer().write_all(b"bye").unwrap();
        client.send_close_notify();
        server.feed(&from_client(&mut client)).unwrap();
        assert!(server.peer_closed());
        assert_eq!(server.plaintext(), b"bye");
        server.feed(b"ignored").unwrap();

        server.send_close_notify().unwrap();
        assert!(matches!(server.send(b"more"), Err(TlsError::Record(RecordError::Closed))));
        let wire = server.take_outgoing();
        client.read_tls(&mut &wire[..]).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed(), "{suite:?}");
        assert!(server.into_keys().unwrap().records.peer_closed());
    }
}

#[test]
fn undelivered_plaintext_stops_the_reading_and_nothing_is_lost() {
    let (mut client, mut server) = start(TLS13);
    let wire = up_to_the_last_flight(&mut client, &mut server);
    server.feed(&wire).unwrap();
    client.set_buffer_limit(None);
    let data = pattern(4 * PLAINTEXT_LIMIT);
    client.writer().write_all(&data).unwrap();
    let wire = from_client(&mut client);

    let (mut fed, mut got, mut stops) = (0, Vec::new(), 0);
    while got.len() < data.len() {
        let chunk = server.room().min(wire.len() - fed);
        server.feed(&wire[fed..fed + chunk]).unwrap();
        fed += chunk;
        if server.room() == 0 || fed == wire.len() {
            stops += 1;
            assert!(server.plaintext().len() <= PLAINTEXT_LIMIT + MAX_PLAINTEXT_LEN);
            got.extend_from_slice(server.plaintext());
            server.consume_plaintext(server.plaintext().len());
        }
    }
    assert!(stops > 2);
    assert_eq!(got, data);
}

#[test]
fn keys_are_not_taken_too_early() {
    let (mut client, mut server) = start(TLS13);
    assert!(matches!(server.send(b"x"), Err(TlsError::NotEstablished)));
    assert!(matches!(server.send_close_notify(), Err(TlsError::NotEstablished)));
    let wire = up_to_the_last_flight(&mut client, &mut server);
    server.feed(&wire).unwrap();
    assert!(server.is_established() && server.has_outgoing(), "the tickets wait");
    assert!(matches!(server.into_keys(), Err(TlsError::OutgoingPending)));

    let (mut client, mut server) = start(TLS13);
    server.feed(&from_client(&mut client)).unwrap();
    let _flight = server.take_outgoing();
    assert!(matches!(server.into_keys(), Err(TlsError::NotEstablished)));
}

#[test]
fn what_is_not_tls_is_answered_with_an_alert() {
    for garbage in [&b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"[..], &[0; 100], b"SSH-2.0-x\r\n"] {
        let (_, mut server) = start(TLS13);
        assert!(matches!(server.feed(garbage), Err(TlsError::Handshake(_))));
        let [21, 3, _, 0, 2, 2, _] = server.take_outgoing()[..] else {
            panic!("no fatal alert for {garbage:?}");
        };
        assert!(!server.is_established());
        assert!(server.send(b"x").is_err());
    }
}

#[test]
fn a_client_without_a_common_suite_is_told_so() {
    let (mut client, _) = start(ALL[2]);
    let identity = Identity::new();
    let settings = TlsSettings::default();
    let server = settings.server(vec![identity.certificate], identity.key).unwrap();
    let mut server = ServerHandshake::new(Arc::new(server)).unwrap();
    assert!(matches!(server.feed(&from_client(&mut client)), Err(TlsError::Handshake(_))));
    assert_eq!(
        to_client(&mut client, &server.take_outgoing()),
        Err(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure))
    );
}

#[test]
fn a_tampered_record_before_the_keys_are_taken_is_answered_too() {
    for suite in ALL {
        let (mut client, mut server) = start(suite);
        let wire = up_to_the_last_flight(&mut client, &mut server);
        server.feed(&wire).unwrap();
        to_client(&mut client, &server.take_outgoing()).unwrap();
        client.writer().write_all(b"GET / HTTP/1.1").unwrap();
        let mut wire = from_client(&mut client);
        *wire.last_mut().unwrap() ^= 1;
        let refused = server.feed(&wire);
        assert!(matches!(refused, Err(TlsError::Record(RecordError::BadMac))), "{suite:?}");
        assert!(server.plaintext().is_empty());
        assert_eq!(
            to_client(&mut client, &server.take_outgoing()),
            Err(rustls::Error::AlertReceived(AlertDescription::BadRecordMac))
        );
    }
}

#[test]
fn a_client_that_gives_up_is_reported() {
    let (mut client, mut server) = start(TLS13);
    server.feed(&from_client(&mut client)).unwrap();
    // A fatal handshake_failure, in the clear as it may be before any keys.
    let gave_up = server.feed(&[21, 3, 3, 0, 2, 2, 40]);
    assert!(matches!(gave_up, Err(TlsError::Handshake(_))), "{gave_up:?}");
}

#[test]
fn a_handshake_that_never_ends_meets_a_limit() {
    let (_, mut server) = start(TLS13);
    // A ClientHello of 65000 bytes in records of one byte.
    let mut fed = vec![22, 3, 1, 0, 4, 1, 0, 0xFD, 0xE8];
    while fed.len() < INCOMING_LIMIT {
        fed.extend([22, 3, 1, 0, 1, 0]);
    }
    let mut result = Ok(());
    for chunk in fed[..INCOMING_LIMIT].chunks(4096) {
        result = server.feed(chunk);
        if result.is_err() {
            break;
        }
    }
    assert!(matches!(result, Err(TlsError::HandshakeTooLong { .. })), "{result:?}");

    let (_, mut server) = start(TLS13);
    let too_much = server.feed(&vec![22; INCOMING_LIMIT + 1]);
    assert!(matches!(too_much, Err(TlsError::TooMuchIncoming { .. })));
}

#[test]
fn without_secret_extraction_there_are_no_keys() {
    let identity = Identity::new();
    let mut config = ServerConfig::clone(&identity.server());
    config.enable_secret_extraction = false;
    let mut server = ServerHandshake::new(Arc::new(config)).unwrap();
    let client = Arc::new(identity.client(TLS13));
    let mut client = ClientConnection::new(client, localhost()).unwrap();
    let wire = up_to_the_last_flight(&mut client, &mut server);
    assert!(matches!(server.feed(&wire), Err(TlsError::Handshake(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_panic_a_handshake(
        pieces in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..600), 0..6),
        mutate in proptest::collection::vec((0..300_usize, any::<u8>()), 0..4),
    ) {
        let (mut client, mut server) = start(TLS13);
        let mut hello = from_client(&mut client);
        for (at, value) in mutate {
            if let Some(byte) = hello.get_mut(at) {
                *byte = value;
            }
        }
        let mut alive = server.feed(&hello).is_ok();
        for piece in pieces {
            alive = alive && server.feed(&piece).is_ok();
        }
        prop_assert!(!server.is_established());
    }

    /// A real handshake in pieces of any size, with one byte of one flight
    /// changed and other records pushed in between.
    #[test]
    fn a_disturbed_handshake_never_panics(
        suite in 0..ALL.len(),
        piece in 1..400_usize,
        (flight, at, value) in (0..4, 0..700_usize, any::<u8>()),
        pushed_in in prop_oneof![
            Just(&[][..]),
            Just(&[20, 3, 3, 0, 1, 1][..]),
            Just(&[21, 3, 3, 0, 2, 1, 90][..]),
            Just(&[22, 3, 3, 0, 0][..]),
            Just(&[22, 3, 3, 0, 3, 1, 0, 0][..]),
            Just(&[23, 3, 3, 0, 0][..]),
        ],
    ) {
        let (mut client, mut server) = start(ALL[suite]);
        'flights: for number in 0..4 {
            let mut wire = from_client(&mut client);
            if number == flight {
                if let Some(byte) = wire.get_mut(at) {
                    *byte = value;
                }
                wire.splice(0..0, pushed_in.iter().copied());
            }
            for piece in wire.chunks(piece) {
                if server.feed(piece).is_err() {
                    let _alert = server.take_outgoing();
                    prop_assert!(matches!(server.feed(b"more"), Err(TlsError::Ended)));
                    break 'flights;
                }
            }
            if to_client(&mut client, &server.take_outgoing()).is_err() {
                break;
            }
        }
    }
}
