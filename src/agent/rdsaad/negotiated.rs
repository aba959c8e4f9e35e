//! A stream whose beginning was dealt with before the RDP server gets it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::x224::CONFIRM_BYTES_MAX;

/// To its server it begins with a request. Where TLS is up already, the
/// server's answer goes nowhere: the client has had one.
pub struct Negotiated<S> {
    stream: S,
    /// What is still to be read before the rest.
    request: io::Cursor<Vec<u8>>,
    /// What is still to be written before anything is sent.
    answer_bytes_left: usize,
}

impl<S> Negotiated<S> {
    /// Gives these bytes back.
    pub(super) const fn replaying(stream: S, received: Vec<u8>) -> Self {
        Self { stream, request: io::Cursor::new(received), answer_bytes_left: 0 }
    }

    /// Begins as if the client offered what stands in `request`, to a server
    /// that answers with a negotiation.
    pub(super) const fn negotiating(stream: S, request: Vec<u8>) -> Self {
        let request = io::Cursor::new(request);
        Self { stream, request, answer_bytes_left: CONFIRM_BYTES_MAX }
    }
}

impl<S> fmt::Debug for Negotiated<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Negotiated").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Negotiated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.request).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Negotiated<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let unsent = self.answer_bytes_left.min(buf.len());
        if unsent > 0 {
            self.answer_bytes_left -= unsent;
            return Poll::Ready(Ok(unsent));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
