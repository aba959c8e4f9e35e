//! Waiting for a condition, with a deadline. Nothing sleeps and hopes.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks until there is something to return. `None` when the deadline passed.
pub fn poll<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
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

/// Whether somebody accepts connections there before the deadline.
pub fn listens(address: SocketAddr, limit: Duration) -> bool {
    poll(limit, || TcpStream::connect_timeout(&address, INTERVAL).ok()).is_some()
}
