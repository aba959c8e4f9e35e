//! Joins two streams until both directions are over.
//!
//! A direction that ends cleanly is closed on the other side as well and the
//! opposite one goes on (half-close). A direction that breaks ends both, and
//! neither side is told a clean end: what was cut off must look cut off.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::time::{sleep, timeout};

/// How long a stream may take over its last words when we end the session.
const FAREWELL: Duration = Duration::from_secs(1);

/// Limits of one pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipeLimits {
    /// Per direction.
    pub buffer_bytes: usize,
    /// After one direction ended, the other is ended too when it carries
    /// nothing for this long. There is no idle timeout before that.
    pub half_closed_idle_ms: u64,
}

impl Default for PipeLimits {
    fn default() -> Self {
        Self { buffer_bytes: 64 * 1024, half_closed_idle_ms: 60_000 }
    }
}

/// How one direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfEnd {
    /// The source said that it is done.
    Clean,
    /// The source vanished without saying so (no TLS `close_notify`).
    Truncated,
    /// Reading failed in another way.
    ReadFailed(io::ErrorKind),
    /// The destination took no more.
    WriteFailed(io::ErrorKind),
    /// The opposite direction had ended and nothing came for too long.
    HalfClosedIdle,
    /// We ended it, or the opposite direction broke.
    Stopped,
}

/// What a pipe carried and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipeReport {
    pub bytes_a_to_b: u64,
    pub bytes_b_to_a: u64,
    pub a_to_b: HalfEnd,
    pub b_to_a: HalfEnd,
}

impl PipeReport {
    /// Both sides said that they were done.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.a_to_b == HalfEnd::Clean && self.b_to_a == HalfEnd::Clean
    }
}

/// Carries bytes both ways until both directions are over or `stop` resolves.
pub async fn pipe<A, B>(
    a: A,
    b: B,
    limits: PipeLimits,
    stop: impl Future<Output = ()>,
) -> PipeReport
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (mut a_read, mut a_write) = split(a);
    let (mut b_read, mut b_write) = split(b);
    let (a_to_b_bytes, b_to_a_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let (mut a_to_b, mut b_to_a, mut stopped) = (None, None, false);
    {
        let mut forth = pin!(carry(&mut a_read, &mut b_write, limits, &a_to_b_bytes));
        let mut back = pin!(carry(&mut b_read, &mut a_write, limits, &b_to_a_bytes));
        let mut stop = pin!(stop);
        let carried = || {
            let (forth, back) = (&a_to_b_bytes, &b_to_a_bytes);
            forth.load(Ordering::Relaxed).wrapping_add(back.load(Ordering::Relaxed))
        };
        let mut carried_before = u64::MAX;
        loop {
            let half_closed = a_to_b.is_some() || b_to_a.is_some();
            tokio::select! {
                end = &mut forth, if a_to_b.is_none() => a_to_b = Some(end),
                end = &mut back, if b_to_a.is_none() => b_to_a = Some(end),
                () = &mut stop => { stopped = true; break }
                () = sleep(Duration::from_millis(limits.half_closed_idle_ms)), if half_closed => {
                    if carried() == carried_before {
                        a_to_b.get_or_insert(HalfEnd::HalfClosedIdle);
                        b_to_a.get_or_insert(HalfEnd::HalfClosedIdle);
                    }
                    carried_before = carried();
                }
            }
            let broke = |end: &Option<HalfEnd>| end.is_some_and(|end| end != HalfEnd::Clean);
            if (a_to_b.is_some() && b_to_a.is_some()) || broke(&a_to_b) || broke(&b_to_a) {
                break;
            }
        }
    }
    if stopped {
        // We end it on purpose: both sides are told so.
        let _best_effort = timeout(FAREWELL, async {
            let _both = tokio::join!(a_write.shutdown(), b_write.shutdown());
        })
        .await;
    }
    PipeReport {
        bytes_a_to_b: a_to_b_bytes.into_inner(),
        bytes_b_to_a: b_to_a_bytes.into_inner(),
        a_to_b: a_to_b.unwrap_or(HalfEnd::Stopped),
        b_to_a: b_to_a.unwrap_or(HalfEnd::Stopped),
    }
}

/// One direction. Counts what the destination took.
async fn carry(
    source: &mut (impl AsyncRead + Unpin),
    destination: &mut (impl AsyncWrite + Unpin),
    limits: PipeLimits,
    bytes: &AtomicU64,
) -> HalfEnd {
    let mut buffer = vec![0; limits.buffer_bytes.max(1)];
    loop {
        let length = match source.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return HalfEnd::Truncated;
            }
            Err(error) => return HalfEnd::ReadFailed(error.kind()),
        };
        let chunk = buffer.get(..length).unwrap_or_default();
        let written = async {
            destination.write_all(chunk).await?;
            // TLS keeps what the socket did not take; nobody else pushes it.
            destination.flush().await
        };
        if let Err(error) = written.await {
            return HalfEnd::WriteFailed(error.kind());
        }
        bytes.fetch_add(u64::try_from(length).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
    match destination.shutdown().await {
        // The destination may have gone first, and then has nothing to be told.
        Ok(()) => HalfEnd::Clean,
        Err(error) if error.kind() == io::ErrorKind::NotConnected => HalfEnd::Clean,
        Err(error) => HalfEnd::WriteFailed(error.kind()),
    }
}

#[cfg(test)]
#[path = "pipe_tests.rs"]
mod tests;
