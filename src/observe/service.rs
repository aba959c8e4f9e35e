//! How a long-running role meets its service manager: ready, watchdog, stop.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

/// Tells the service manager that the role is ready, keeps its watchdog fed,
/// and returns at SIGTERM or SIGINT. Outside systemd it only waits.
///
/// The watchdog is fed only after `alive` has returned: a role that hangs is
/// restarted, even if its main thread still answers signals.
///
/// # Errors
/// When signals cannot be watched.
pub async fn run_until_stopped(alive: impl AsyncFn()) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tell(&[NotifyState::Ready]);
    // Half of the watchdog's patience, as sd_watchdog_enabled(3) advises.
    let patience = sd_notify::watchdog_enabled().unwrap_or(Duration::from_secs(60));
    let mut feed = interval((patience / 2).max(Duration::from_millis(1)));
    feed.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = async {
                feed.tick().await;
                alive().await;
            } => tell(&[NotifyState::Watchdog]),
        }
    }
    tracing::info!("Stopping");
    tell(&[NotifyState::Stopping]);
    Ok(())
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "The service manager was not told");
    }
}
