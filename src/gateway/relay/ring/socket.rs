//! What the standard library and tokio have no safe call for: readiness of a
//! descriptor that something else owns, and the kernel's view of a connection.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_uring::net::TcpStream;

use super::doorbell::Doorbell;

/// Readiness of a lobby's stream. Unlike a read it takes no buffer and nothing
/// from the socket, so that it can be given up at any moment.
///
/// # Errors
/// When epoll has no room left.
pub fn stream_readiness(stream: TcpStream) -> io::Result<AsyncFd<TcpStream>> {
    // SAFETY: the stream owns its descriptor, returns the same one every time,
    // and keeps it open until it is dropped; inside `AsyncFd` it is never
    // replaced.
    unsafe { AsyncFd::register(stream) }.map_err(io::Error::from)
}

/// Readiness of a lobby's listener.
///
/// # Errors
/// When epoll has no room left.
pub fn listener_readiness(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: the listener owns its descriptor, returns the same one every time,
    // and keeps it open until it is dropped; inside `AsyncFd` it is never
    // replaced.
    unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }
        .map_err(io::Error::from)
}

/// Readiness of a bell for a tokio thread.
///
/// # Errors
/// When epoll has no room left.
pub fn bell_readiness(bell: Arc<Doorbell>) -> io::Result<AsyncFd<Arc<Doorbell>>> {
    // SAFETY: the bell owns its eventfd for as long as it lives and never
    // replaces it; the `Arc` keeps it alive.
    unsafe { AsyncFd::register(bell) }.map_err(io::Error::from)
}

/// The kernel's smoothed round-trip time of a TCP connection, microseconds.
#[must_use]
pub fn round_trip_us(socket: &impl AsFd) -> Option<u64> {
    // SAFETY: tcp_info is a C struct of integers; all zero is a valid value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: `info` and `length` are live, writable and of the stated size
    // for the whole call; the descriptor is borrowed.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    (outcome == 0 && info.tcpi_rtt > 0).then(|| u64::from(info.tcpi_rtt))
}
