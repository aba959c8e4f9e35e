//! Reads the interval logs that `ringway bench --hlog` writes.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

/// Tags of the relayed messages. Handshakes and the generator's own delays have
/// others.
const DIRECTIONS: [&str; 2] = ["up", "down"];
/// Of a percentile plot: the quiet half, then nine tenths of the rest again and
/// again.
const QUANTILES: [f64; 13] =
    [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995, 0.9999];

/// Quantile and value, microseconds, of all that a log holds.
///
/// # Errors
/// When the file is no such log or empty.
pub fn curve(file: &Path) -> anyhow::Result<Vec<(f64, f64)>> {
    let log = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let whole = merged(&log).with_context(|| format!("in {}", file.display()))?;
    anyhow::ensure!(!whole.is_empty(), "{} has no values", file.display());
    let point = |quantile: &f64| (*quantile, whole.value_at_quantile(*quantile) as f64);
    Ok(QUANTILES.iter().map(point).collect())
}

/// Both directions in one.
fn merged(log: &[u8]) -> anyhow::Result<Histogram<u64>> {
    let mut deserializer = Deserializer::new();
    let mut merged: Option<Histogram<u64>> = None;
    for entry in IntervalLogIterator::new(log) {
        let entry = entry.map_err(|_| anyhow!("not an interval log"))?;
        let LogEntry::Interval(interval) = entry else { continue };
        if interval.tag().is_some_and(|tag| !DIRECTIONS.contains(&tag.as_str())) {
            continue;
        }
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(interval.encoded_histogram())
            .context("an interval is not base64")?;
        let histogram = deserializer
            .deserialize(&mut bytes.as_slice())
            .map_err(|_| anyhow!("an interval is no histogram"))?;
        match &mut merged {
            Some(sum) => sum.add(&histogram).context("intervals do not fit together")?,
            None => merged = Some(histogram),
        }
    }
    merged.context("the log has no interval")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hdrhistogram::serialization::V2DeflateSerializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

    use super::*;

    fn log(intervals: &[(Option<&'static str>, u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut writer =
            IntervalLogWriterBuilder::new().begin_log_with(&mut out, &mut serializer).unwrap();
        for (tag, value) in intervals {
            let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).unwrap();
            histogram.record_n(*value, 100).unwrap();
            let tag = tag.and_then(Tag::new);
            writer
                .write_histogram(&histogram, Duration::ZERO, Duration::from_secs(1), tag)
                .unwrap();
        }
        out
    }

    #[test]
    fn both_directions_are_merged_and_nothing_else() {
        let log = log(&[(Some("up"), 10), (Some("handshake"), 1000), (Some("down"), 30)]);
        let merged = merged(&log).unwrap();
        assert_eq!((merged.len(), merged.max()), (200, 30));
    }

    #[test]
    fn an_interval_without_a_tag_counts() {
        let merged = merged(&log(&[(None, 10), (None, 20)])).unwrap();
        assert_eq!((merged.len(), merged.min(), merged.max()), (200, 10, 20));
    }

    #[test]
    fn a_curve_rises_and_an_empty_log_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.hlog");
        fs::write(&file, log(&[(None, 10), (None, 500)])).unwrap();
        let curve = curve(&file).unwrap();
        assert_eq!((curve[0].1, curve[12].1), (10.0, 500.0));
        assert!(curve.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        fs::write(&file, "").unwrap();
        assert!(super::curve(&file).is_err());
    }
}
