//! What the kernel knows about a connection that no safe call tells.

use std::os::fd::{AsFd, AsRawFd as _};

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
