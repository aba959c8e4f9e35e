//! The part of systemd that a `Type=notify` unit talks to.

use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait::poll;

/// What a unit's `WatchdogSec=` would be, short so that a test sees it fed.
pub const WATCHDOG: Duration = Duration::from_secs(1);

/// Listens where `NOTIFY_SOCKET` points. It reads all the time, as systemd
/// does: after ten messages that nobody reads, a service blocks.
pub struct ServiceManager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl ServiceManager {
    pub fn listen(folder: &Path, name: &str) -> Self {
        let path = folder.join(format!("{name}.notify"));
        // Of the same service, when it ran before.
        std::fs::remove_file(&path).ok();
        let socket = UnixDatagram::bind(&path).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (ear, notes) = (socket.try_clone().unwrap(), Arc::clone(&heard));
        let reader = Some(std::thread::spawn(move || {
            let mut message = [0; 1024];
            while let Ok(length @ 1..) = ear.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                notes.lock().unwrap().extend(text.lines().map(ToOwned::to_owned));
            }
        }));
        Self { socket, path, heard, reader }
    }

    /// Environment of the service.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let watchdog_us = WATCHDOG.as_micros().to_string();
        [("NOTIFY_SOCKET", self.path.display().to_string()), ("WATCHDOG_USEC", watchdog_us)]
    }

    /// Whether the service has said this, such as `READY=1`.
    pub fn has_heard(&self, state: &str) -> bool {
        self.heard.lock().unwrap().iter().any(|line| line == state)
    }

    /// Whether it says so from now on, before the deadline.
    pub fn hears_again(&self, state: &str, limit: Duration) -> bool {
        let before = self.heard.lock().unwrap().len();
        let look = || self.heard.lock().unwrap()[before..].iter().any(|l| l == state).then_some(());
        poll(limit, look).is_some()
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        // Ends the reader's wait.
        self.socket.shutdown(Shutdown::Both).ok();
        self.reader.take().map(JoinHandle::join);
    }
}
