//! How the kernel's scheduler treats a relay worker.

use std::io;
use std::time::Duration;

/// How long a relay worker that has waited may have to wait on for somebody who
/// runs: about this. The kernel's own slice is some milliseconds.
const SLICE: Duration = Duration::from_micros(100);

/// Asks for short turns (Linux 6.12). A worker runs for microseconds at a time,
/// and with a short slice the kernel lets it in before whoever runs has used up
/// theirs: a lobby thread in the middle of a handshake. Its share of the core
/// stays what it was, and no privilege is needed.
///
/// # Errors
/// When the kernel does not let the thread look at itself; older kernels ignore
/// the slice.
pub fn take_short_turns() -> io::Result<()> {
    // SAFETY: sched_attr is a C struct of integers; all zero is a valid value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `size` bytes to `attributes`, which is
    // live and as large; 0 is the calling thread.
    let got =
        unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0_u32) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.size = size;
    attributes.sched_runtime = u64::try_from(SLICE.as_nanos()).unwrap_or(0);
    // SAFETY: the kernel reads `size` bytes of `attributes`, which is live and
    // initialised.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0_u32) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_always_ask_for_short_turns() {
        std::thread::spawn(take_short_turns).join().unwrap().unwrap();
    }
}
