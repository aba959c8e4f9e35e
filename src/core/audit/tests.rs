//! Whatever is done to a chain is found, and where.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn chain(length: usize) -> Vec<Record> {
    let mut head = Head::EMPTY;
    let entry = |number: usize| {
        let at = UnixMillis(1_800_000_000_000 + number as u64);
        Entry::new(at, Action::Closed, number, &json!({ "bytes_up": number }))
    };
    (1..=length).map(|number| head.append(entry(number))).collect()
}

fn head_of(records: &[Record]) -> Head {
    records.last().map_or(Head::EMPTY, |last| Head { number: last.number, hash: last.hash })
}

fn verify(records: &[Record], kept: Head) -> Result<Head, Broken> {
    let mut verifier = Verifier::new(vec![kept]);
    for record in records {
        verifier.check(record)?;
    }
    verifier.finish()
}

/// Gives the records from `first` on (an index) the hashes that fit what they
/// say now, as a forger would.
fn forge(records: &mut [Record], first: usize) {
    for index in first..records.len() {
        let previous = index.checked_sub(1).map_or(Hash([0; 32]), |before| records[before].hash);
        records[index].hash = hash(previous, &records[index]);
    }
}

#[derive(Clone, Copy, Debug)]
enum Field {
    At,
    Action,
    Subject,
    Detail,
    Hash,
}

fn change(record: &mut Record, field: Field) {
    match field {
        Field::At => record.at.0 ^= 1,
        Field::Action => record.action.push('x'),
        Field::Subject => record.subject.insert(0, '1'),
        Field::Detail => record.detail.push(' '),
        Field::Hash => record.hash.0[31] ^= 1,
    }
}

fn any_field() -> impl Strategy<Value = Field> {
    prop_oneof![
        Just(Field::At),
        Just(Field::Action),
        Just(Field::Subject),
        Just(Field::Detail),
        Just(Field::Hash)
    ]
}

proptest! {
    #[test]
    fn a_changed_record_is_named(length in 1_usize..40, at in any::<prop::sample::Index>(), field in any_field()) {
        let mut records = chain(length);
        let (index, kept) = (at.index(length), head_of(&records));
        change(&mut records[index], field);
        let number = index as u64 + 1;
        prop_assert_eq!(verify(&records, kept), Err(Broken::Changed { number }));
    }

    /// The hash of the changed record fits again: the next one tells.
    #[test]
    fn a_changed_record_with_a_hash_that_fits_is_told_by_the_next(
        length in 1_usize..40, at in any::<prop::sample::Index>(),
    ) {
        let mut records = chain(length);
        let (index, kept) = (at.index(length), head_of(&records));
        change(&mut records[index], Field::Subject);
        forge(&mut records[..=index], index);
        let number = index as u64 + 1;
        let expected = if index + 1 == length {
            Broken::OtherHead { number }
        } else {
            Broken::Changed { number: number + 1 }
        };
        prop_assert_eq!(verify(&records, kept), Err(expected));
    }

    #[test]
    fn a_deleted_record_is_named(length in 1_usize..40, at in any::<prop::sample::Index>()) {
        let mut records = chain(length);
        let (index, kept) = (at.index(length), head_of(&records));
        records.remove(index);
        let number = index as u64 + 1;
        prop_assert_eq!(verify(&records, kept), Err(Broken::Missing { number }));
        // Those behind it moved up: one that is not what stood there.
        for (number, record) in (1..).zip(&mut records) {
            record.number = number;
        }
        let expected = if index + 1 == length {
            Broken::Missing { number }
        } else {
            Broken::Changed { number }
        };
        prop_assert_eq!(verify(&records, kept), Err(expected));
    }

    #[test]
    fn an_inserted_record_is_named(length in 1_usize..40, at in any::<prop::sample::Index>()) {
        let mut records = chain(length);
        let (index, kept) = (at.index(length), head_of(&records));
        let mut forged = records[index].clone();
        forged.subject = "forged".into();
        records.insert(index, forged);
        // Its own hash fits what is before it.
        forge(&mut records[..=index], index);
        let number = index as u64 + 1;
        let expected = if index + 1 == length {
            Broken::OtherHead { number }
        } else {
            Broken::Misplaced { number, expected: number + 1 }
        };
        let found = verify(&records, kept).unwrap_err();
        prop_assert!(found == expected || found == Broken::OtherHead { number }, "{found:?}");
        prop_assert_eq!(found.number(), number);
        // All behind it moved down.
        for (number, record) in (1..).zip(&mut records) {
            record.number = number;
        }
        prop_assert!(verify(&records, kept).unwrap_err().number() <= number + 1);
    }

    #[test]
    fn swapped_records_are_named(
        length in 2_usize..40, one in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(),
    ) {
        let mut records = chain(length);
        let (one, other, kept) = (one.index(length), other.index(length), head_of(&records));
        prop_assume!(one != other);
        records.swap(one, other);
        let first = one.min(other) as u64 + 1;
        let found = verify(&records, kept).unwrap_err();
        prop_assert_eq!(found, Broken::Missing { number: first });
        // With each other's numbers, as an update in the database would do it.
        for (number, record) in (1..).zip(&mut records) {
            record.number = number;
        }
        prop_assert_eq!(verify(&records, kept), Err(Broken::Changed { number: first }));
    }

    /// Nobody can rewrite history behind a head that was kept elsewhere.
    #[test]
    fn a_forged_rest_is_found_by_the_kept_head(length in 1_usize..40, at in any::<prop::sample::Index>()) {
        let mut records = chain(length);
        let (index, kept) = (at.index(length), head_of(&records));
        change(&mut records[index], Field::Detail);
        forge(&mut records, index);
        let number = length as u64;
        prop_assert_eq!(verify(&records, kept), Err(Broken::OtherHead { number }));
    }

    #[test]
    fn what_belongs_to_one_field_is_not_taken_for_the_next(subject in "[a-z]{0,3}", detail in "[a-z]{1,3}") {
        let record = |subject: String, detail: String| Record { subject, detail, ..chain(1).remove(0) };
        let moved = format!("{subject}{}", &detail[..1]);
        let (whole, shifted) =
            (record(subject, detail.clone()), record(moved, detail[1..].to_owned()));
        prop_assert_ne!(hash(Hash([0; 32]), &whole), hash(Hash([0; 32]), &shifted));
    }
}

#[test]
fn a_whole_chain_is_whole_and_goes_through_earlier_heads() {
    let records = chain(20);
    assert_eq!(verify(&records, head_of(&records)), Ok(head_of(&records)));
    assert_eq!(verify(&records, head_of(&records[..7])), Ok(head_of(&records)));
    assert_eq!(verify(&[], Head::EMPTY), Ok(Head::EMPTY));
    let cut = verify(&records[..19], head_of(&records));
    assert_eq!(cut, Err(Broken::Missing { number: 20 }));
}

#[test]
fn the_encoding_is_the_one_that_the_module_describes() {
    // printf with the bytes of the description, through sha256sum.
    let mut head = Head::EMPTY;
    let entry = Entry::new(UnixMillis(1), Action::Drained, "host-1", &json!({}));
    let record = head.append(entry);
    let mut bytes = b"ringway audit 1\0".to_vec();
    bytes.extend([0; 32]);
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    bytes.extend(b"\0\0\0\0\0\0\0\x07drained\0\0\0\0\0\0\0\x06host-1\0\0\0\0\0\0\0\x02{}");
    let expected = aws_lc_rs::digest::digest(&SHA256, &bytes);
    assert_eq!(record.hash.0.as_slice(), expected.as_ref());
    assert_eq!(head.to_string().parse::<Head>(), Ok(head));
    assert_eq!("1".parse::<Head>(), Err(NotAHead));
}

#[test]
fn the_words_of_others_are_cut_and_cannot_command_a_terminal() {
    let detail = json!({ "x": "y".repeat(10_000) });
    let entry = Entry::new(UnixMillis(1), Action::SignIn, "\x1b[2J".repeat(100), &detail);
    assert_eq!(entry.subject.chars().count(), SUBJECT_CHARS_MAX);
    assert!(!entry.subject.contains('\x1b'));
    assert_eq!(entry.detail, r#"{"left_out_bytes":10008}"#);
}
