//! The folder that a gateway's histograms are dumped to: `.hlog` files that are
//! only appended to, begun anew at a size, the oldest removed beyond a number.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::histogram_log::{self, Interval};

const EXTENSION: &str = ".hlog";

/// Where dumps go. Touches the disk only when something is appended.
#[derive(Debug)]
pub struct HistogramFolder {
    path: PathBuf,
    /// Begins the name of each file: gateways may share a folder.
    gateway: String,
    file_bytes_max: u64,
    files_max: usize,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    file: File,
    path: PathBuf,
    base: SystemTime,
    bytes: u64,
}

impl HistogramFolder {
    #[must_use]
    pub fn new(path: PathBuf, gateway: &str, file_bytes_max: u64, files_max: usize) -> Self {
        Self { path, gateway: gateway.to_owned(), file_bytes_max, files_max, current: None }
    }

    /// Appends one interval, in one write, and returns the file that has it.
    ///
    /// # Errors
    /// When it cannot be written; then no part of it stays.
    pub fn append(&mut self, interval: &Interval) -> io::Result<PathBuf> {
        if let Some(current) = self.current.take()
            && let Some(current) = current.append(interval, self.file_bytes_max)?
        {
            return Ok(self.current.insert(current).path.clone());
        }
        let current = self.begin(interval)?;
        self.remove_oldest(&current.path);
        Ok(self.current.insert(current).path.clone())
    }

    /// A new file with this interval in it. Every run begins one: what the last
    /// one left may end in half a line.
    fn begin(&self, interval: &Interval) -> io::Result<Current> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        let mut name_time = interval.start;
        let (file, path) = loop {
            let path = self.path.join(self.file_name(name_time));
            let mut options = OpenOptions::new();
            match options.append(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => break (file, path),
                // Only when the clock was set back.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    name_time += Duration::from_millis(1);
                }
                Err(error) => return Err(error),
            }
        };
        let writer = format!("ringway {}, gateway {}", env!("CARGO_PKG_VERSION"), self.gateway);
        let mut text = histogram_log::head(&writer, interval.start);
        text.extend(histogram_log::lines(interval, Duration::ZERO));
        let mut current = Current { file, path, base: interval.start, bytes: 0 };
        // Its name is on the disk only when its folder is.
        let written = current.write(&text).and_then(|()| File::open(&self.path)?.sync_all());
        match written {
            Ok(()) => Ok(current),
            Err(error) => {
                let _ = std::fs::remove_file(&current.path);
                Err(error)
            }
        }
    }

    /// `GATEWAY-20260131T235959.123Z.hlog`: sorted by name is sorted by time.
    fn file_name(&self, time: SystemTime) -> String {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = since_epoch.subsec_millis();
        let date = der::DateTime::from_unix_duration(since_epoch).map_or_else(
            |_| format!("{:015}", since_epoch.as_secs()),
            |at| {
                format!(
                    "{:04}{:02}{:02}T{:02}{:02}{:02}",
                    at.year(),
                    at.month(),
                    at.day(),
                    at.hour(),
                    at.minutes(),
                    at.seconds()
                )
            },
        );
        format!("{}-{date}.{millis:03}Z{EXTENSION}", self.gateway)
    }

    fn is_ours(&self, name: &str) -> bool {
        let time = name.strip_prefix(&self.gateway).and_then(|rest| rest.strip_prefix('-'));
        let time = time.and_then(|rest| rest.strip_suffix(EXTENSION));
        time.is_some_and(|time| {
            time.len() == 20 && time.chars().all(|c| c.is_ascii_digit() || "T.Z".contains(c))
        })
    }

    fn remove_oldest(&self, current: &Path) {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return };
        let mut ours: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_str().is_some_and(|name| self.is_ours(name)))
            .map(|entry| entry.path())
            .filter(|path| path != current)
            .collect();
        ours.sort();
        let surplus = (ours.len() + 1).saturating_sub(self.files_max.max(1));
        for path in ours.iter().take(surplus) {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "An old histogram log stays");
            }
        }
    }
}

impl Current {
    /// `None`, with nothing written, when a new file is due.
    fn append(mut self, interval: &Interval, bytes_max: u64) -> io::Result<Option<Self>> {
        // Set back by so much that times would be negative, or removed by
        // somebody who needed the room.
        let since_base = interval.start.duration_since(self.base);
        let (Ok(since_base), Ok(true)) = (since_base, self.path.try_exists()) else {
            return Ok(None);
        };
        let text = histogram_log::lines(interval, since_base);
        if self.bytes.saturating_add(text.len() as u64) > bytes_max {
            return Ok(None);
        }
        self.write(&text).map(|()| Some(self))
    }

    /// All of it or nothing; and on the disk, for what is looked at after a
    /// crash.
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(text) {
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.bytes += text.len() as u64;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::histograms::{Merged, latency};

    fn interval(at_s: u64) -> Interval {
        let mut values = latency();
        values.saturating_record(at_s + 1);
        Interval {
            start: UNIX_EPOCH + Duration::from_secs(1_700_000_000 + at_s),
            length: Duration::from_secs(1),
            histograms: vec![("relay-0/relay_up".into(), values)],
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_begun_at_a_size_and_the_oldest_go() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("histograms");
        let other =
            ["gw-b-20200101T000000.000Z.hlog", "gw-notes.hlog", "gw-20200101T000000.000Z.txt"];
        std::fs::create_dir(&path).unwrap();
        for name in other {
            std::fs::write(path.join(name), "not ours").unwrap();
        }
        let bytes_max = 1_024;
        let mut folder = HistogramFolder::new(path.clone(), "gw", bytes_max, 3);
        for at_s in 0..100 {
            let file = folder.append(&interval(at_s)).unwrap();
            assert!(file.metadata().unwrap().len() <= bytes_max);
        }
        let mut left = names(&path);
        left.retain(|name| !other.contains(&name.as_str()));
        assert_eq!((left.len(), names(&path).len()), (3, 6), "{left:?}");
        assert!(left[0].starts_with("gw-20231114T"), "{left:?}");
        // The newest are the ones that stayed.
        let mut merged = Merged::default();
        let mut intervals = 0;
        for name in left {
            let log = std::fs::read(path.join(name)).unwrap();
            intervals += histogram_log::merge(&log, &mut merged).unwrap() as u64;
        }
        let values = merged.get("relay_up").unwrap();
        assert_eq!((values.len(), values.max()), (intervals, 100));
        assert_eq!(values.min(), 101 - intervals);
    }

    #[test]
    fn a_run_never_appends_to_what_another_left() {
        let temporary = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut folder = HistogramFolder::new(temporary.path().into(), "gw", 1 << 20, 8);
            folder.append(&interval(5)).unwrap();
            folder.append(&interval(6)).unwrap();
        }
        let names = names(temporary.path());
        assert_eq!(names, ["gw-20231114T221325.000Z.hlog", "gw-20231114T221325.001Z.hlog"],);
        for name in names {
            let log = std::fs::read(temporary.path().join(name)).unwrap();
            assert_eq!(histogram_log::merge(&log, &mut Merged::default()).unwrap(), 2);
        }
    }

    #[test]
    fn a_file_that_was_removed_and_a_clock_set_back_begin_a_new_one() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("deep").join("down");
        let mut folder = HistogramFolder::new(path.clone(), "gw", 1 << 20, 8);
        let first = folder.append(&interval(50)).unwrap();
        assert_eq!(folder.append(&interval(51)).unwrap(), first);
        std::fs::remove_dir_all(&path).unwrap();
        let second = folder.append(&interval(52)).unwrap();
        assert_ne!(second, first);
        let third = folder.append(&interval(10)).unwrap();
        assert_eq!(names(&path).len(), 2);
        assert!(third < second);
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_the_next_is_tried_anew() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("histograms");
        std::fs::write(&path, "in the way").unwrap();
        let mut folder = HistogramFolder::new(path.clone(), "gw", 1 << 20, 8);
        assert!(folder.append(&interval(1)).is_err());
        std::fs::remove_file(&path).unwrap();
        folder.append(&interval(2)).unwrap();
        assert_eq!(names(&path).len(), 1);
    }
}
