//! Waiting for something to become true, never for time to pass.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
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

/// How long nothing has to move until it counts as a standstill.
const STANDSTILL: Duration = Duration::from_millis(300);

/// Waits until a count has begun to grow and then has stood still for a while;
/// gives it back.
pub async fn standstill(whose: &str, count: impl Fn() -> usize) -> usize {
    let deadline = Instant::now() + PATIENCE;
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = count();
        if now != last {
            (last, since) = (now, Instant::now());
        } else if now > 0 && since.elapsed() >= STANDSTILL {
            return now;
        }
        assert!(Instant::now() < deadline, "{whose} never stalled");
        sleep(LOOK_EVERY).await;
    }
}

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks until there is something to return. `None` when the deadline passed.
pub fn poll<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = std::time::Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if std::time::Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(INTERVAL);
    }
}

/// A port that nobody listens on at this moment, for programs that cannot be
/// asked which port the kernel gave them.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Whether somebody listens on that port of this machine. Looks into the kernel's
/// table: a trial connection would show up in the logs of what is tested.
pub fn listens(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let local = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().any(|table| {
        let table = std::fs::read_to_string(table).unwrap_or_default();
        table.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.get(1).is_some_and(|field| field.ends_with(&local))
                && fields.get(3) == Some(&LISTEN)
        })
    })
}
