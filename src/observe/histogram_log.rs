//! The text form of histograms: HdrHistogram's interval log, version 1.3
//! (`.hlog`), which its tools for other languages read too. A line is the
//! histogram of one measure of one thread over one interval.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag,
};
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use hdrhistogram::{AdditionError, Histogram};

use super::histograms::Merged;

/// First word of a histogram that is compressed, and of one that is not.
const COMPRESSED_COOKIE: [u8; 4] = [0x1c, 0x84, 0x93, 0x14];
const PLAIN_COOKIE: [u8; 4] = [0x1c, 0x84, 0x93, 0x13];
/// Cookie and length.
const PREFIX_BYTES: usize = 8;
/// Head of an uncompressed histogram, with cookie and length.
const PLAIN_HEAD_BYTES: usize = 40;
/// Uncompressed histogram. With three digits and every 64-bit value told apart
/// there are 56 000 counters of at most 9 bytes.
const PLAIN_BYTES_MAX: u64 = 1024 * 1024;
const LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";

/// Why a histogram or log is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("line {line} is not one of a histogram log")]
    Line { line: usize },
    #[error("a histogram of {tag:?} cannot be read: {problem}")]
    Histogram { tag: String, problem: String },
    #[error("there is no histogram in it")]
    Empty,
}

/// What was measured in one interval.
#[derive(Clone, Debug)]
pub struct Interval {
    pub start: SystemTime,
    pub length: Duration,
    /// `THREAD/MEASURE` and its values.
    pub histograms: Vec<(String, Histogram<u64>)>,
}

/// The first lines of a log whose first interval starts at `start`. Times of
/// intervals count from there.
#[must_use]
pub fn head(writer: &str, start: SystemTime) -> Vec<u8> {
    let mut text = Vec::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment(&format!("[Logged by {writer}; all values are microseconds]"));
    builder.add_comment("[Histogram log format version 1.3]");
    builder.with_start_time(start).with_base_time(start);
    // Writing to memory cannot fail.
    let _ = builder.begin_log_with(&mut text, &mut V2DeflateSerializer::new()).map(drop);
    text.extend_from_slice(LEGEND.as_bytes());
    text
}

/// The lines of one interval that begins `since_base` after the log's start.
#[must_use]
pub fn lines(interval: &Interval, since_base: Duration) -> Vec<u8> {
    let mut text = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let log = IntervalLogWriterBuilder::new().begin_log_with(&mut text, &mut serializer);
    if let Ok(mut log) = log {
        for (tag, values) in &interval.histograms {
            let tag = Tag::new(tag);
            // Neither writing to memory nor counts of ours can fail.
            let _ = log.write_histogram(values, since_base, interval.length, tag);
        }
    }
    text
}

/// One histogram as in a log.
#[must_use]
pub fn encode(values: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    // Neither writing to memory nor counts of ours can fail.
    let _ = V2DeflateSerializer::new().serialize(values, &mut bytes);
    STANDARD.encode(bytes)
}

/// # Errors
/// When it is not one, or is larger than any of ours.
pub fn decode(text: &str) -> Result<Histogram<u64>, String> {
    let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
    let plain = match bytes.split_at_checked(PREFIX_BYTES) {
        Some((prefix, deflated)) if prefix.starts_with(&COMPRESSED_COOKIE) => inflate(deflated)?,
        _ => bytes,
    };
    // The library believes the length that it reads, and makes room for it.
    let length = plain.get(4..PREFIX_BYTES).and_then(|length| length.try_into().ok());
    let length = length.map(u32::from_be_bytes).and_then(|length| usize::try_from(length).ok());
    if !plain.starts_with(&PLAIN_COOKIE)
        || length.is_none_or(|length| plain.len() != PLAIN_HEAD_BYTES.saturating_add(length))
    {
        return Err("it is not a histogram in version 2".into());
    }
    Deserializer::new().deserialize(&mut plain.as_slice()).map_err(|error| error.to_string())
}

fn inflate(deflated: &[u8]) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut plain = Vec::new();
    let mut reader = ZlibDecoder::new(deflated).take(PLAIN_BYTES_MAX);
    reader.read_to_end(&mut plain).map_err(|error| error.to_string())?;
    Ok(plain)
}

/// Adds a log's histograms by what they measure, whichever thread and interval
/// they are of. Returns how many there were.
///
/// A last line without its end was being written when the machine stopped: it
/// is left out.
///
/// # Errors
/// Names the line or histogram that cannot be read.
pub fn merge(log: &[u8], merged: &mut Merged) -> Result<usize, LogError> {
    let whole = log.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let log = log.get(..whole).unwrap_or_default();
    let mut count = 0;
    for entry in IntervalLogIterator::new(log) {
        let interval = match entry {
            Ok(LogEntry::Interval(interval)) => interval,
            Ok(_) => continue,
            Err(hdrhistogram::serialization::interval_log::LogIteratorError::ParseError {
                offset,
            }) => {
                let before = log.get(..offset).unwrap_or_default();
                let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
                return Err(LogError::Line { line });
            }
        };
        let tag = interval.tag().map_or_else(String::new, |tag| tag.as_str().to_owned());
        let bad = |problem| LogError::Histogram { tag: tag.clone(), problem };
        let values = decode(interval.encoded_histogram()).map_err(bad)?;
        let overflows = |_: AdditionError| bad("its counts are too high to add".into());
        merged.add(measure_of(&tag), &values).map_err(overflows)?;
        count += 1;
    }
    if count == 0 { Err(LogError::Empty) } else { Ok(count) }
}

/// `relay-0/relay_up` is `relay_up` of the thread `relay-0`.
fn measure_of(tag: &str) -> &str {
    match tag.rsplit('/').next() {
        None | Some("") => "untagged",
        Some(measure) => measure,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::observe::histograms::latency;

    fn of(values: &[u64]) -> Histogram<u64> {
        let mut histogram = latency();
        for value in values {
            histogram.saturating_record(*value);
        }
        histogram
    }

    fn log() -> Vec<u8> {
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let mut text = head("ringway 0, gateway gw", start);
        let histograms = vec![
            ("relay-0/relay_up".to_owned(), of(&[5, 5, 90])),
            ("relay-1/relay_up".to_owned(), of(&[7])),
            ("control/place".to_owned(), of(&[1_500])),
        ];
        let interval = Interval { start, length: Duration::from_millis(1_500), histograms };
        text.extend(lines(&interval, Duration::ZERO));
        text.extend(lines(&interval, Duration::from_millis(1_500)));
        text
    }

    #[test]
    fn a_log_has_the_standard_form() {
        let text = String::from_utf8(log()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "#[Logged by ringway 0, gateway gw; all values are microseconds]",
                "#[Histogram log format version 1.3]",
                "#[StartTime: 1700000000.250 (seconds since epoch)]",
                "#[BaseTime: 1700000000.250 (seconds since epoch)]",
                LEGEND.trim_end(),
            ]
        );
        assert!(
            lines[5].starts_with("Tag=relay-0/relay_up,0.000,1.500,90.000,HIST"),
            "{}",
            lines[5]
        );
        assert!(
            lines[8].starts_with("Tag=relay-0/relay_up,1.500,1.500,90.000,HIST"),
            "{}",
            lines[8]
        );
        assert_eq!(lines.len(), 11);
    }

    #[test]
    fn a_log_merges_by_measure_and_a_torn_line_is_left_out() {
        let mut text = log();
        let mut merged = Merged::default();
        assert_eq!(merge(&text, &mut merged).unwrap(), 6);
        text.extend_from_slice(b"Tag=relay-0/relay_up,3.000,1.500,90.000,HISTFAAA");
        assert_eq!(merge(&text, &mut merged).unwrap(), 6);
        let up = merged.get("relay_up").unwrap();
        assert_eq!((up.len(), up.max()), (16, 90));
        assert_eq!(merged.get("place").unwrap().len(), 4);
    }

    #[test]
    fn what_is_no_log_is_told_by_its_line() {
        let mut text = log();
        text.extend_from_slice(b"what is this\n");
        let mut merged = Merged::default();
        assert_eq!(
            merge(&text, &mut merged).unwrap_err().to_string(),
            "line 12 is not one of a histogram log"
        );
        assert!(matches!(merge(b"", &mut merged), Err(LogError::Empty)));
        let bad = b"Tag=a,0.000,1.500,90.000,HISTFAAA\n";
        assert!(matches!(merge(bad, &mut merged), Err(LogError::Histogram { .. })));
    }

    #[test]
    fn a_length_that_lies_takes_no_memory() {
        let mut bytes = PLAIN_COOKIE.to_vec();
        bytes.extend_from_slice(&u32::MAX.to_be_bytes());
        bytes.extend_from_slice(&[0; 40]);
        assert!(decode(&STANDARD.encode(bytes)).is_err());
    }

    proptest! {
        #[test]
        fn encoding_loses_nothing(values in prop::collection::vec(0_u64..100_000_000, 0..200)) {
            let histogram = of(&values);
            prop_assert_eq!(decode(&encode(&histogram)).unwrap(), histogram);
        }

        #[test]
        fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&STANDARD.encode(bytes)).is_err());
        }
    }
}
