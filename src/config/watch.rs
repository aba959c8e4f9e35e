//! Notices that a role should look at its files again: SIGHUP, or one of them
//! changed.
//!
//! Files are looked at once a second: that also sees a link that leads
//! elsewhere, as certificate managers lay them, and costs a call to the kernel
//! a file. A change counts when the next look finds it unchanged: whoever
//! writes may take their time.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why it is time to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Signal,
    FileChanged,
}

impl Why {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "SIGHUP",
            Self::FileChanged => "a file changed",
        }
    }
}

/// What tells one state of a file from another; nothing when there is none.
type Print = Option<(u64, u64, u64, i64, i64)>;

#[derive(Debug)]
pub struct Watch {
    hangups: Signal,
    looks: Interval,
    files: Vec<(PathBuf, Print)>,
    /// What the last look found, if it was not what is known.
    pending: Option<Vec<Print>>,
}

impl Watch {
    /// From here on SIGHUP does not end the process any more. Call this before
    /// the files are read.
    ///
    /// # Errors
    /// When signals cannot be watched.
    pub async fn start(file: PathBuf) -> io::Result<Self> {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let hangups = signal(SignalKind::hangup())?;
        let print = print(&file).await;
        Ok(Self { hangups, looks, files: vec![(file, print)], pending: None })
    }

    /// Also watches these, instead of those of an earlier call. Call it before
    /// they are read.
    pub async fn follow(&mut self, more: Vec<PathBuf>) {
        self.files.truncate(1);
        for file in more {
            let print = print(&file).await;
            self.files.push((file, print));
        }
        self.pending = None;
    }

    /// Waits for SIGHUP or for a change.
    pub async fn changed(&mut self) -> Why {
        loop {
            tokio::select! {
                Some(()) = self.hangups.recv() => {
                    let now = self.look().await;
                    self.know(now);
                    return Why::Signal;
                }
                _ = self.looks.tick() => {
                    let now = self.look().await;
                    if self.settles(now) {
                        return Why::FileChanged;
                    }
                }
            }
        }
    }

    async fn look(&self) -> Vec<Print> {
        let mut prints = Vec::with_capacity(self.files.len());
        for (file, _) in &self.files {
            prints.push(print(file).await);
        }
        prints
    }

    /// Whether a look found, the second time, something else than is known.
    fn settles(&mut self, now: Vec<Print>) -> bool {
        if self.files.iter().map(|(_, known)| *known).eq(now.iter().copied()) {
            self.pending = None;
            return false;
        }
        if self.pending.as_ref() == Some(&now) {
            self.know(now);
            return true;
        }
        self.pending = Some(now);
        false
    }

    fn know(&mut self, now: Vec<Print>) {
        for ((_, known), print) in self.files.iter_mut().zip(now) {
            *known = print;
        }
        self.pending = None;
    }
}

async fn print(file: &PathBuf) -> Print {
    let found = tokio::fs::metadata(file).await.ok()?;
    Some((found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_counts_once_and_when_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let (config, link) = (folder.path().join("a.toml"), folder.path().join("key"));
        std::fs::write(&config, "1").unwrap();
        let mut watch = Watch::start(config.clone()).await.unwrap();
        watch.follow(vec![link.clone()]).await;
        let mut look = async || {
            let now = watch.look().await;
            watch.settles(now)
        };
        assert!(!look().await && !look().await, "nothing has changed");
        std::fs::write(&config, "12").unwrap();
        assert!(!look().await, "somebody may still write");
        std::fs::write(&config, "123").unwrap();
        assert!(!look().await, "indeed");
        assert!(look().await && !look().await, "once");
        // A file that comes, or is another one behind the same name.
        std::fs::write(folder.path().join("k1"), "x").unwrap();
        std::os::unix::fs::symlink("k1", &link).unwrap();
        assert!(!look().await && look().await);
        std::fs::write(folder.path().join("k2"), "y").unwrap();
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("k2", &link).unwrap();
        assert!(!look().await && look().await);
        std::fs::remove_file(&link).unwrap();
        assert!(!look().await && look().await && !look().await, "and one that goes");
    }
}
