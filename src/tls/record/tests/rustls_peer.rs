//! rustls' own client as the peer of our record layer.

use std::io::Write as _;

use rustls::AlertDescription;

use super::*;

/// Has a rustls client seal data.
fn client_seals(client: &mut ClientConnection, data: &[u8]) -> Vec<u8> {
    client.writer().write_all(data).unwrap();
    from_client(client)
}

#[test]
fn data_flows_both_ways_under_every_suite() {
    for suite in ALL {
        let (mut client, mut ours) = joined(suite);
        let data = pattern(100_000);
        let mut sent = Vec::new();
        for chunk in data.chunks(10_000) {
            sent.extend(client_seals(&mut client, chunk));
        }
        assert_eq!(open(&mut ours, &sent).unwrap().data, data, "{suite:?}");

        for len in [0, 1, 2, 15, 16, 17, 1000, MAX_PLAINTEXT_LEN] {
            let record = seal(&mut ours, &data[..len]);
            assert_eq!(to_client(&mut client, &record).unwrap(), data[..len], "{suite:?} {len}");
        }
    }
}

#[test]
fn a_flight_may_be_split_at_every_position() {
    for suite in ALL {
        let mut flight = Vec::new();
        let (mut client, mut bytewise) = joined(suite);
        let pieces: [&[u8]; 4] = [b"a", &pattern(90), b"the third record", &[0; 33]];
        for piece in pieces {
            flight.extend(client_seals(&mut client, piece));
        }
        client.send_close_notify();
        flight.extend(from_client(&mut client));
        let want = Received { data: pieces.concat(), events: vec![Opened::CloseNotify] };

        let (mut received, mut receiver) = (Received::default(), Receiver::new());
        for byte in flight.chunks(1) {
            receiver.take(&mut bytewise, byte, &mut received).unwrap();
        }
        assert!(receiver.is_empty());
        assert_eq!(received, want, "{suite:?} byte by byte");
    }
}

#[test]
fn a_flight_may_be_split_in_two_anywhere() {
    // The same keys on both sides of every cut: sequences are set back.
    for suite in ALL {
        let (mut client, mut ours) = joined(suite);
        let (start, _) = ours.sequences();
        let mut flight = client_seals(&mut client, b"first");
        flight.extend(client_seals(&mut client, &pattern(70)));
        let want = [&b"first"[..], &pattern(70)].concat();
        for cut in 0..=flight.len() {
            ours.opener.protection().set_sequence(start);
            let (mut received, mut receiver) = (Received::default(), Receiver::new());
            receiver.take(&mut ours, &flight[..cut], &mut received).unwrap();
            receiver.take(&mut ours, &flight[cut..], &mut received).unwrap();
            assert!(receiver.is_empty());
            assert_eq!(received.data, want, "{suite:?} cut at {cut}");
        }
    }
}

#[test]
fn tickets_sent_before_the_keys_are_taken_keep_the_sequence_and_resume() {
    for suite in [TLS13, TLS12] {
        let identity = Identity::new();
        let (client_config, server_config) = (Arc::new(identity.client(suite)), identity.server());
        let (mut client, mut ours) = join(client_config.clone(), server_config.clone());
        assert!(!ours.negotiated.resumed);
        if suite == TLS13 {
            assert_eq!(client.tls13_tickets_received(), 2);
            assert_eq!(ours.records.sequences(), (0, 1), "both tickets went in one record");
        }
        let record = seal(&mut ours.records, b"after the tickets");
        assert_eq!(to_client(&mut client, &record).unwrap(), b"after the tickets");

        let (mut client, mut ours) = join(client_config, server_config);
        assert!(ours.negotiated.resumed, "{suite:?}");
        let sent = client_seals(&mut client, b"resumed");
        assert_eq!(open(&mut ours.records, &sent).unwrap().data, b"resumed");
        let record = seal(&mut ours.records, b"indeed");
        assert_eq!(to_client(&mut client, &record).unwrap(), b"indeed");
    }
}

#[test]
fn the_peer_updates_its_keys_and_gets_the_answer_before_the_next_data() {
    for suite in ALL.into_iter().filter(|suite| suite.tls13().is_some()) {
        let (mut client, mut ours) = joined(suite);
        for round in 0..3 {
            client.refresh_traffic_keys().unwrap();
            let sent = client_seals(&mut client, b"under the next key");
            let received = open(&mut ours, &sent).unwrap();
            assert_eq!(received.data, b"under the next key", "{suite:?} {round}");
            assert_eq!(received.events, [Opened::Control]);

            assert!(ours.key_update_owed() && ours.wants_key_update());
            let mut buf = [0; RECORD_SLOT_LEN];
            assert_eq!(ours.seal_in_place(&mut buf, 1), Err(RecordError::KeyUpdateOwed));
            let mut answer = control(|out| ours.seal_key_update(out, false));
            assert!(!ours.wants_key_update());
            assert_eq!(ours.sequences(), (1, 0), "both keys are fresh");
            answer.extend(seal(&mut ours, b"answered"));
            assert_eq!(to_client(&mut client, &answer).unwrap(), b"answered");
        }
    }
}

#[test]
fn several_requests_are_served_by_one_answer() {
    let (mut client, mut ours) = joined(TLS13);
    let mut sent = Vec::new();
    for _ in 0..3 {
        client.refresh_traffic_keys().unwrap();
        sent.extend(from_client(&mut client));
    }
    assert_eq!(open(&mut ours, &sent).unwrap().events, [Opened::Control; 3]);
    let mut answer = control(|out| ours.seal_key_update(out, false));
    assert!(!ours.wants_key_update());
    answer.extend(seal(&mut ours, b"one is enough"));
    assert_eq!(to_client(&mut client, &answer).unwrap(), b"one is enough");
}

#[test]
fn we_update_our_keys_and_the_peer_follows_when_asked() {
    for request in [false, true] {
        let (mut client, mut ours) = joined(TLS13);
        let mut sent = seal(&mut ours, b"old key, ");
        sent.extend(control(|out| ours.seal_key_update(out, request)));
        sent.extend(seal(&mut ours, b"new key"));
        assert_eq!(to_client(&mut client, &sent).unwrap(), b"old key, new key");

        let back = client_seals(&mut client, b"heard");
        let received = open(&mut ours, &back).unwrap();
        assert_eq!(received.data, b"heard");
        let want: &[Opened] = if request { &[Opened::Control] } else { &[] };
        assert_eq!(received.events, want);
        assert!(!ours.key_update_owed(), "the answer to ours asks for nothing");
    }
}

#[test]
fn tls12_has_no_key_update() {
    let (_client, mut ours) = joined(TLS12);
    let mut out = [0; CONTROL_RECORD_LEN];
    assert_eq!(ours.seal_key_update(&mut out, false), Err(RecordError::Keys));
}

#[test]
fn close_notify_ends_one_direction_and_is_told_from_truncation() {
    for suite in ALL {
        let (mut client, mut ours) = joined(suite);
        let sent = client_seals(&mut client, b"last words");
        assert_eq!(open(&mut ours, &sent).unwrap().data, b"last words");
        assert!(!ours.peer_closed(), "the end of the stream here would be truncation");

        client.send_close_notify();
        let sent = from_client(&mut client);
        assert_eq!(open(&mut ours, &sent).unwrap().events, [Opened::CloseNotify]);
        assert!(ours.peer_closed());

        if suite.tls13().is_some() {
            let record = seal(&mut ours, b"still talking");
            assert_eq!(to_client(&mut client, &record).unwrap(), b"still talking");
        }
        let bye = control(|out| ours.seal_close_notify(out));
        assert!(ours.closed());
        client.read_tls(&mut &bye[..]).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed(), "{suite:?}");

        let mut buf = [0; RECORD_SLOT_LEN];
        assert_eq!(ours.seal_in_place(&mut buf, 1), Err(RecordError::Closed));
        assert_eq!(ours.seal_close_notify(&mut buf), Err(RecordError::Closed));
        assert_eq!(ours.seal_alert(&mut buf, alert::INTERNAL_ERROR), Err(RecordError::Closed));
    }
}

#[test]
fn the_peers_fatal_alert_is_reported() {
    for suite in ALL {
        let (mut client, mut ours) = joined(suite);
        let mut record = seal(&mut ours, b"to be changed on its way");
        *record.last_mut().unwrap() ^= 1;
        assert!(to_client(&mut client, &record).is_err());
        let complaint = from_client(&mut client);
        let fatal = Opened::Alert { level: 2, description: alert::BAD_RECORD_MAC };
        assert_eq!(open(&mut ours, &complaint).unwrap().events, [fatal], "{suite:?}");
        let mut out = [0; MAX_OPENED_LEN];
        assert_eq!(ours.open_into(&complaint, &mut out), Ok(fatal), "and stays so");
        assert!(!ours.peer_closed());
    }
}

#[test]
fn the_peer_understands_our_alert() {
    for suite in ALL {
        let (mut client, mut ours) = joined(suite);
        let mut record = client_seals(&mut client, b"to be changed on its way");
        record[HEADER_LEN + 9] ^= 0x80;
        let error = open(&mut ours, &record).unwrap_err();
        assert_eq!(error, RecordError::BadMac, "{suite:?}");
        let complaint = control(|out| ours.seal_alert(out, error.alert().unwrap()));
        assert_eq!(
            to_client(&mut client, &complaint),
            Err(rustls::Error::AlertReceived(AlertDescription::BadRecordMac))
        );
    }
}
