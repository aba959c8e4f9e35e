//! What the kernel can do beyond Linux 6.1, whose features are all that the
//! ring needs. A feature is found by using it once: distributions carry
//! features back to older kernels, so a version number says little.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{Completion, Ring, RingError, RingSettings, Token};

/// Longest wait for bytes that are there already.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Bytes after which the receive that tries it out has to end.
const BOUND_TRIED: u32 = 16;

/// What is used of newer kernels; each of it because it was measured to help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// A multishot receive ends after a number of bytes: one fast sender does
    /// not fill all receive buffers before the worker has looked.
    pub bounded_receive: bool,
}

impl Features {
    /// What works everywhere.
    pub const LINUX_6_1: Self = Self { bounded_receive: false };

    /// Tries out what this kernel can do.
    ///
    /// # Errors
    /// When it cannot even make a ring.
    pub fn probe() -> Result<Self, RingError> {
        Ok(Self { bounded_receive: ends_receives_at_a_bound()? })
    }
}

/// Older kernels refuse the field that carries the bound (`EINVAL`).
fn ends_receives_at_a_bound() -> Result<bool, RingError> {
    let settings = RingSettings {
        submission_entries: 8,
        completion_entries: 16,
        rx_buffers: 2,
        features: Features::LINUX_6_1,
    };
    let mut ring = Ring::new(settings)?;
    ring.receive_bytes_max = BOUND_TRIED;
    let failed = RingError::at("trying out a bounded receive");
    let (near, mut far) = UnixStream::pair().map_err(&failed)?;
    far.write_all(&[0; 4 * BOUND_TRIED as usize]).map_err(&failed)?;
    ring.receive(near.as_fd(), Token::NONE);
    let deadline = Instant::now() + ANSWER_MAX;
    while Instant::now() < deadline {
        ring.submit_and_wait(ANSWER_MAX / 10).map_err(&failed)?;
        ring.collect();
        while let Some(completion) = ring.next() {
            match completion {
                Completion::Received { bytes, armed, .. } => {
                    ring.recycle(bytes);
                    if !armed {
                        return Ok(true);
                    }
                }
                Completion::ReceiveEnded { .. } => return Ok(false),
                Completion::Sent { .. } | Completion::Rung => {}
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_says_the_same_every_time() {
        assert_eq!(Features::probe().unwrap(), Features::probe().unwrap());
    }
}
