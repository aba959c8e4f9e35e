//! The thread that writes histograms to the disk, which may be slow or full:
//! nobody waits for it but a gateway that ends, and that not for long.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::observe::histogram_folder::HistogramFolder;
use crate::observe::histogram_log::Interval;

/// Intervals that may wait for the disk.
const INTERVALS_MAX: usize = 2;
/// What the last ones may take.
const FINISH_MAX: Duration = Duration::from_secs(2);

/// The control thread's end.
#[derive(Debug)]
pub struct DumpWriter {
    intervals: Sender<Interval>,
    /// Says nothing; closed when the thread has ended.
    ended: Receiver<Infallible>,
}

impl DumpWriter {
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(mut folder: HistogramFolder) -> io::Result<Self> {
        let (intervals, to_write) = bounded(INTERVALS_MAX);
        let (alive, ended) = bounded(0);
        std::thread::Builder::new().name("histograms".to_owned()).spawn(move || {
            let _alive = alive;
            for interval in to_write {
                write(&mut folder, &interval);
            }
        })?;
        Ok(Self { intervals, ended })
    }

    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.intervals.is_full()
    }

    /// Has an interval written, unless there is no room.
    pub fn write(&self, interval: Interval) {
        let _ = self.intervals.try_send(interval);
    }

    /// Waits until all is written, but not for a disk that hangs.
    pub fn finish(self) {
        drop(self.intervals);
        if self.ended.recv_timeout(FINISH_MAX) == Err(crossbeam::channel::RecvTimeoutError::Timeout)
        {
            tracing::warn!("The last histograms are not written: the disk does not take them");
        }
    }
}

fn write(folder: &mut HistogramFolder, interval: &Interval) {
    let (histograms, length_ms) = (interval.histograms.len(), interval.length.as_millis());
    if histograms == 0 {
        tracing::debug!("Nothing was measured since the last dump");
        return;
    }
    match folder.append(interval) {
        Ok(path) => {
            tracing::debug!(path = %path.display(), histograms, length_ms, "Dumped histograms");
        }
        Err(error) => {
            tracing::warn!(%error, histograms, "Cannot dump histograms; check [gateway.histograms] folder and its free space");
        }
    }
}

#[cfg(test)]
impl DumpWriter {
    /// One without a thread: the test takes the intervals, or leaves them.
    pub fn for_test() -> (Self, Receiver<Interval>) {
        let (intervals, to_write) = bounded(INTERVALS_MAX);
        let (_, ended) = bounded(0);
        (Self { intervals, ended }, to_write)
    }
}
