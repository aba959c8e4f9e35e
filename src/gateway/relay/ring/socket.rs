//! Two things about sockets that the standard library has no safe call for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A second descriptor for the same socket. tokio-uring's streams cannot be
/// taken apart, so a leg leaves the lobby as a duplicate and the original is
/// closed with the stream.
///
/// # Errors
/// When no descriptor is left.
pub fn duplicate(stream: &tokio_uring::net::TcpStream) -> io::Result<OwnedFd> {
    // SAFETY: `stream` owns the descriptor and is borrowed for this call, so
    // it stays open until the duplicate is made.
    let descriptor = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    descriptor.try_clone_to_owned()
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
