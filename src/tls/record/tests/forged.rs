//! Records that no honest peer sends, and the limits. Both ends are ours, so
//! that one can forge what the other must refuse.

use proptest::prelude::*;

use super::*;

const DATA: u8 = 23;
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const CHANGE_CIPHER_SPEC: u8 = 20;

/// Content of this type as `layer`'s version wraps it.
fn forge(layer: &mut RecordLayer, kind: u8, content: &[u8]) -> Vec<u8> {
    if layer.version() == ProtocolVersion::TLSv1_3 {
        forge_inner(layer, &[content, &[kind]].concat())
    } else {
        layer.sealer.protection().forge(kind, content)
    }
}

/// A TLS 1.3 record with exactly this inner plaintext.
fn forge_inner(layer: &mut RecordLayer, inner: &[u8]) -> Vec<u8> {
    layer.sealer.protection().forge(DATA, inner)
}

fn open_one(layer: &mut RecordLayer, record: &[u8]) -> Result<Opened, RecordError> {
    layer.open_into(record, &mut [0; MAX_OPENED_LEN])
}

#[test]
fn a_change_of_any_byte_is_noticed_and_final() {
    for suite in ALL {
        let len = {
            let (mut client, _) = pair(suite);
            seal(&mut client, b"16 bytes or more").len()
        };
        for at in 0..len {
            let (mut client, mut server) = pair(suite);
            let honest = seal(&mut client, b"16 bytes or more");
            let mut changed = honest.clone();
            changed[at] ^= 0x04;
            // A longer record is no record yet; cut or completed it is a wrong one.
            changed.resize(HEADER_LEN + usize::from(changed[3]) * 256 + usize::from(changed[4]), 0);
            let error = open_one(&mut server, &changed).unwrap_err();
            if at >= HEADER_LEN {
                assert_eq!(error, RecordError::BadMac, "{suite:?} byte {at}");
            }
            assert_eq!(open_one(&mut server, &honest), Err(error), "no second chance");
        }
    }
}

#[test]
fn a_record_twice_or_out_of_order_is_noticed() {
    for suite in ALL {
        let (mut client, mut server) = pair(suite);
        let (first, second) = (seal(&mut client, b"1"), seal(&mut client, b"2"));
        assert_eq!(open_one(&mut server, &first), Ok(Opened::Data { len: 1 }));
        assert_eq!(open_one(&mut server, &first), Err(RecordError::BadMac), "{suite:?} replayed");

        let (mut client, mut server) = pair(suite);
        let _lost = seal(&mut client, b"1");
        let second_only = seal(&mut client, b"2");
        assert_eq!(second.len(), second_only.len());
        assert_eq!(open_one(&mut server, &second_only), Err(RecordError::BadMac), "{suite:?} lost");
    }
}

#[test]
fn a_record_too_short_for_its_tag_is_not_authentic() {
    for suite in ALL {
        let (client, _) = pair(suite);
        let shortest = client.sealed_len(0) - HEADER_LEN;
        for payload_len in 0..shortest {
            let (_, mut server) = pair(suite);
            let mut record = vec![DATA, 3, 3, 0, u8::try_from(payload_len).unwrap()];
            record.resize(HEADER_LEN + payload_len, 7);
            assert_eq!(open_one(&mut server, &record), Err(RecordError::BadMac));
        }
    }
}

#[test]
fn the_largest_record_is_opened_and_a_larger_one_is_not() {
    for suite in ALL {
        let (mut client, mut server) = pair(suite);
        let largest = forge(&mut client, DATA, &pattern(MAX_PLAINTEXT_LEN));
        assert!(largest.len() <= RECORD_SLOT_LEN);
        assert_eq!(open(&mut server, &largest).unwrap().data, pattern(MAX_PLAINTEXT_LEN));
        for over in [1, 2, 100, 255] {
            let (mut client, mut server) = pair(suite);
            let larger = forge(&mut client, DATA, &pattern(MAX_PLAINTEXT_LEN + over));
            let error = open(&mut server, &larger).unwrap_err();
            assert_eq!(error, RecordError::Oversized, "{suite:?} {over}");
            assert_eq!(error.alert(), Some(alert::RECORD_OVERFLOW));
        }
        let mut buf = vec![0; 2 * RECORD_SLOT_LEN];
        let too_much = client.seal_in_place(&mut buf, MAX_PLAINTEXT_LEN + 1);
        assert_eq!(too_much, Err(RecordError::Oversized), "and we send none");
    }
}

#[test]
fn padding_is_stripped_and_counts_towards_the_size() {
    let (mut client, mut server) = pair(TLS13);
    for (content, zeros) in [(&b"padded"[..], 1), (b"padded", 5000), (b"", 300), (b"\0\0", 3)] {
        let inner = [content, &[DATA], &vec![0; zeros]].concat();
        let record = forge_inner(&mut client, &inner);
        let received = open(&mut server, &record).unwrap();
        assert_eq!(received.data, content, "zeros of the content stay");
    }
    let alert_padded = forge_inner(&mut client, &[1, 0, ALERT, 0, 0, 0]);
    let full = [&pattern(MAX_PLAINTEXT_LEN)[..], &[DATA, 0]].concat();
    let (mut other_client, mut other_server) = pair(TLS13);
    let over = forge_inner(&mut other_client, &full);
    assert_eq!(open_one(&mut other_server, &over), Err(RecordError::Oversized));
    assert_eq!(open_one(&mut server, &alert_padded), Ok(Opened::CloseNotify));
}

#[test]
fn inner_plaintext_without_a_known_type_is_refused() {
    let nothing: [&[u8]; 6] = [b"", &[0], &[0; 400], b"data\x18", b"data\xff\0\0", b"data\x14"];
    for inner in nothing {
        let (mut client, mut server) = pair(TLS13);
        let record = forge_inner(&mut client, inner);
        assert_eq!(open_one(&mut server, &record), Err(RecordError::UnexpectedMessage));
    }
}

#[test]
fn only_protected_records_of_this_version_come_after_the_handshake() {
    for kind in [CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE] {
        let (_, mut server) = pair(TLS13);
        let bare = [kind, 3, 3, 0, 2, 1, 0];
        assert_eq!(open_one(&mut server, &bare), Err(RecordError::UnexpectedMessage), "{kind}");
    }
    for suite in ALL {
        let (mut client, mut server) = pair(suite);
        let record = forge(&mut client, CHANGE_CIPHER_SPEC, &[1]);
        assert_eq!(open_one(&mut server, &record), Err(RecordError::UnexpectedMessage));

        let (mut client, mut server) = pair(suite);
        let mut record = seal(&mut client, b"old version");
        record[2] = 1;
        assert_eq!(open_one(&mut server, &record), Err(RecordError::WrongVersion));
    }
}

#[test]
fn alerts_of_wrong_length_are_refused() {
    for suite in ALL {
        for (content, error) in [
            (&[][..], RecordError::UnexpectedMessage),
            (&[1], RecordError::Decode),
            (&[1, 0, 1, 0], RecordError::Decode),
        ] {
            let (mut client, mut server) = pair(suite);
            let record = forge(&mut client, ALERT, content);
            assert_eq!(open_one(&mut server, &record), Err(error), "{suite:?} {content:?}");
        }
    }
}

#[test]
fn the_level_of_an_alert_counts_under_tls12_only() {
    let warning = [alert::LEVEL_WARNING, alert::NO_RENEGOTIATION];
    let (mut client, mut server) = pair(TLS13);
    let record = forge(&mut client, ALERT, &warning);
    let [level, description] = warning;
    assert_eq!(open_one(&mut server, &record), Ok(Opened::Alert { level, description }));

    let (mut client, mut server) = pair(TLS12);
    let record = forge(&mut client, ALERT, &warning);
    assert_eq!(open_one(&mut server, &record), Ok(Opened::Control));

    for suite in ALL {
        let (mut client, mut server) = pair(suite);
        let record = forge(&mut client, ALERT, &[1, alert::USER_CANCELED]);
        assert_eq!(open_one(&mut server, &record), Ok(Opened::Control), "{suite:?}");
        let record = forge(&mut client, ALERT, &[2, alert::CLOSE_NOTIFY]);
        assert_eq!(open_one(&mut server, &record), Ok(Opened::CloseNotify), "{suite:?}");
        let late = seal(&mut client, b"ignored");
        assert_eq!(open_one(&mut server, &late), Ok(Opened::CloseNotify), "{suite:?}");
    }
}

#[test]
fn a_flood_without_data_ends_the_connection() {
    for suite in ALL {
        for (kind, content, allowed, opened) in [
            (DATA, &[][..], MAX_EMPTY_IN_A_ROW, Opened::Data { len: 0 }),
            (ALERT, &[1, alert::USER_CANCELED], MAX_CONTROL_UNPAID, Opened::Control),
        ] {
            let (mut client, mut server) = pair(suite);
            for _ in 0..2 {
                for _ in 0..allowed {
                    let record = forge(&mut client, kind, content);
                    assert_eq!(open_one(&mut server, &record), Ok(opened));
                }
                // Enough data starts the count anew.
                let chunk = [7; DATA_PER_CONTROL_BYTES];
                for _ in 0..MAX_CONTROL_UNPAID {
                    let data = seal(&mut client, &chunk);
                    assert!(matches!(open_one(&mut server, &data), Ok(Opened::Data { .. })));
                }
            }
            for _ in 0..allowed {
                let record = forge(&mut client, kind, content);
                assert_eq!(open_one(&mut server, &record), Ok(opened));
            }
            let record = forge(&mut client, kind, content);
            assert_eq!(open_one(&mut server, &record), Err(RecordError::TooManyWithoutData));
        }
    }
}

#[test]
fn a_flood_of_key_updates_ends_the_connection() {
    let (mut client, mut server) = pair(TLS13);
    for _ in 0..MAX_CONTROL_UNPAID {
        let record = control(|out| client.seal_key_update(out, false));
        assert_eq!(open_one(&mut server, &record), Ok(Opened::Control));
    }
    for pittance in [&b""[..], b"a byte"] {
        let record = seal(&mut client, pittance);
        let len = pittance.len();
        assert_eq!(open_one(&mut server, &record), Ok(Opened::Data { len }), "pays for nothing");
    }
    let record = control(|out| client.seal_key_update(out, false));
    assert_eq!(open_one(&mut server, &record), Err(RecordError::TooManyWithoutData));
}

#[test]
fn a_key_update_may_be_cut_but_nothing_may_come_between() {
    let (mut client, mut server) = pair(TLS13);
    let (head, tail) = ([24, 0, 0], [1, 1]);
    for part in [&head[..], &tail] {
        let record = forge(&mut client, HANDSHAKE, part);
        assert_eq!(open_one(&mut server, &record), Ok(Opened::Control));
    }
    assert!(server.key_update_owed());
    *client.sealer.protection() = client.kernel.next_tx().unwrap();
    let record = seal(&mut client, b"new key");
    assert_eq!(open_one(&mut server, &record), Ok(Opened::Data { len: 7 }));

    for between in [DATA, ALERT] {
        let (mut client, mut server) = pair(TLS13);
        let record = forge(&mut client, HANDSHAKE, &head);
        assert_eq!(open_one(&mut server, &record), Ok(Opened::Control));
        let record = forge(&mut client, between, &[1, 0]);
        assert_eq!(open_one(&mut server, &record), Err(RecordError::UnexpectedMessage));
    }
}

#[test]
fn handshake_messages_after_the_handshake_are_refused() {
    let hello = [1, 0, 0, 40, 3, 3];
    let (mut client, mut server) = pair(TLS13);
    let record = forge(&mut client, HANDSHAKE, &hello);
    assert_eq!(open_one(&mut server, &record), Err(RecordError::UnexpectedMessage));

    let (mut client, mut server) = pair(TLS12);
    let record = forge(&mut client, HANDSHAKE, &hello);
    let error = open_one(&mut server, &record).unwrap_err();
    assert_eq!(error, RecordError::Renegotiation);
    let refusal = control(|out| server.seal_alert(out, error.alert().unwrap()));
    assert_eq!(open_one(&mut client, &refusal), Ok(Opened::Control), "a warning");
    assert!(server.closed());
}

#[test]
fn a_buffer_that_is_too_small_changes_nothing() {
    for suite in ALL {
        let (mut client, mut server) = pair(suite);
        let mut buf = vec![0; client.sealed_len(10) - 1];
        assert_eq!(client.seal_in_place(&mut buf, 10), Err(RecordError::BufferTooSmall));
        let record = seal(&mut client, b"ten  bytes");
        assert_eq!(server.open_into(&record, &mut [0; 9]), Err(RecordError::BufferTooSmall));
        assert_eq!(open_one(&mut server, &record), Ok(Opened::Data { len: 10 }), "{suite:?}");
    }
}

#[test]
fn keys_are_renewed_before_their_limit_and_not_used_beyond_it() {
    let limit = 1 << 24;
    let (mut client, mut server) = pair(TLS13);
    let at = |layer: &mut RecordLayer, peer: &mut RecordLayer, sequence| {
        layer.sealer.protection().set_sequence(sequence);
        peer.opener.protection().set_sequence(sequence);
    };
    at(&mut client, &mut server, limit - REKEY_MARGIN - 1);
    assert!(!client.wants_key_update());
    let record = seal(&mut client, b"still fresh");
    assert!(open_one(&mut server, &record).is_ok());
    assert!(client.wants_key_update() && !client.key_update_owed());
    let record = control(|out| client.seal_key_update(out, false));
    assert_eq!(open_one(&mut server, &record), Ok(Opened::Control));
    assert!(!client.wants_key_update());
    assert_eq!((client.sequences().1, server.sequences().0), (0, 0));
    let record = seal(&mut client, b"fresh again");
    assert!(open_one(&mut server, &record).is_ok());

    for suite in [TLS13, TLS12] {
        let (mut client, mut server) = pair(suite);
        at(&mut client, &mut server, limit - 1);
        let last = seal(&mut client, b"the last");
        assert!(open_one(&mut server, &last).is_ok());
        let mut buf = [0; RECORD_SLOT_LEN];
        assert_eq!(client.seal_in_place(&mut buf, 1), Err(RecordError::LimitReached));
        assert_eq!(client.wants_key_update(), suite == TLS13);
        let bye = control(|out| client.seal_close_notify(out));
        assert_eq!(open_one(&mut server, &bye), Ok(Opened::CloseNotify), "a clean end is possible");
    }

    for suite in [ALL[2], ALL[5]] {
        let (mut client, mut server) = pair(suite);
        at(&mut client, &mut server, limit);
        let record = seal(&mut client, b"ChaCha20 has no such limit");
        assert!(open_one(&mut server, &record).is_ok() && !client.wants_key_update());
    }
}

/// The relay's whole movement: open into the other leg's slot, seal there.
#[test]
fn records_are_relayed_in_place_between_any_two_suites() {
    for from_suite in ALL {
        for to_suite in ALL {
            let (mut sender, mut leg_a) = pair(from_suite);
            let (mut receiver, mut leg_b) = pair(to_suite);
            for len in [0, 1, 100, 4096, MAX_PLAINTEXT_LEN] {
                let received = seal(&mut sender, &pattern(len));
                let mut slot = [0xEE; RECORD_SLOT_LEN];
                let place = &mut slot[leg_b.plaintext_offset()..];
                assert_eq!(leg_a.open_into(&received, place), Ok(Opened::Data { len }));
                let sealed = leg_b.seal_in_place(&mut slot, len).unwrap();
                assert!(slot[sealed..].iter().all(|&byte| byte == 0xEE));
                let arrived = open(&mut receiver, &slot[..sealed]).unwrap();
                assert_eq!(arrived.data, pattern(len), "{from_suite:?} to {to_suite:?}");
            }
        }
    }
}

/// The same in the buffer that was received into: at the record's own place or
/// before it, as far as there is room for what the other leg puts around it.
#[test]
fn records_are_relayed_where_they_lie_between_any_two_suites() {
    for (from_suite, to_suite) in ALL.iter().flat_map(|from| ALL.map(|to| (*from, to))) {
        for lead in [0, 1, 8, 40, 2_000] {
            let (mut sender, mut leg_a) = pair(from_suite);
            let (mut receiver, mut leg_b) = pair(to_suite);
            for len in [0, 1, 100, 4096, MAX_PLAINTEXT_LEN] {
                let received = seal(&mut sender, &pattern(len));
                let out_at = leg_b.plaintext_offset();
                let mut buf = [&vec![0xEE; lead][..], &received].concat();
                if out_at > lead + leg_a.plaintext_offset() {
                    let opened = leg_a.open_within(&mut buf, lead, out_at);
                    assert_eq!(opened, Err(RecordError::BufferTooSmall));
                    continue;
                }
                let opened = leg_a.open_within(&mut buf, lead, out_at);
                assert_eq!(opened, Ok(Opened::Data { len }));
                assert_eq!(&buf[out_at..out_at + len], pattern(len));
                // One that is longer on this leg has no place within it.
                buf.resize(buf.len().max(leg_b.sealed_len(len)), 0);
                let sealed = leg_b.seal_in_place(&mut buf, len).unwrap();
                let arrived = open(&mut receiver, &buf[..sealed]).unwrap();
                assert_eq!(arrived.data, pattern(len), "{from_suite:?} to {to_suite:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_panic_an_opener(
        suite in 0..ALL.len(),
        mut record in proptest::collection::vec(any::<u8>(), 0..200),
        well_framed in any::<bool>(),
        out_len in 0..300_usize,
    ) {
        let (_, mut server) = pair(ALL[suite]);
        if well_framed && record.len() >= HEADER_LEN {
            let payload_len = u8::try_from(record.len() - HEADER_LEN).unwrap();
            record[..HEADER_LEN].copy_from_slice(&[DATA, 3, 3, 0, payload_len]);
        }
        prop_assert!(server.open_into(&record, &mut vec![0; out_len]).is_err());
    }

    #[test]
    fn arbitrary_content_under_the_right_key_never_panics_an_opener(
        suite in 0..ALL.len(),
        records in proptest::collection::vec(
            (20..25_u8, proptest::collection::vec(any::<u8>(), 0..12)), 1..20),
    ) {
        let (mut client, mut server) = pair(ALL[suite]);
        for (kind, content) in records {
            let record = forge(&mut client, kind, &content);
            let Ok(opened) = open_one(&mut server, &record) else { break };
            if let Opened::Data { len } = opened {
                prop_assert!(kind == DATA && len == content.len());
            }
        }
    }
}
