//! Waiting for something to become true, never for time to pass.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Longer than anything takes on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until `condition` holds; fails the test when it never does.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "did not happen within {PATIENCE:?}: {what}");
        sleep(LOOK_EVERY).await;
    }
}

/// Waits for a future; fails the test when it does not end.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("did not end within {PATIENCE:?}: {what}"),
    }
}
