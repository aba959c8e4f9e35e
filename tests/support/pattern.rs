//! Whole streams of the bench's pattern: a lost, doubled or swapped piece is
//! noticed whatever its size.

use ringway::bench::pattern;
pub use ringway::bench::pattern::PIECE_MAX;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// `length` bytes of stream number `stream` from position `at` on.
pub fn piece(stream: u8, at: usize, length: usize) -> &'static [u8] {
    pattern::piece(u64::from(stream), at as u64, length)
}

/// Writes positions `from..to` of a stream in pieces of `step` bytes.
pub async fn send(
    to_whom: &mut (impl AsyncWrite + Unpin),
    stream: u8,
    positions: std::ops::Range<usize>,
    step: usize,
) -> std::io::Result<()> {
    let mut at = positions.start;
    while at < positions.end {
        let length = step.min(PIECE_MAX).min(positions.end - at);
        to_whom.write_all(piece(stream, at, length)).await?;
        at += length;
    }
    to_whom.flush().await
}

/// Reads exactly positions `from..to` of a stream and compares every byte.
pub async fn expect(
    from_whom: &mut (impl AsyncRead + Unpin),
    stream: u8,
    positions: std::ops::Range<usize>,
) {
    let mut at = positions.start;
    let mut buffer = vec![0; PIECE_MAX];
    while at < positions.end {
        let wanted = PIECE_MAX.min(positions.end - at);
        let got = from_whom
            .read(&mut buffer[..wanted])
            .await
            .unwrap_or_else(|error| panic!("stream {stream} broke at {at}: {error}"));
        assert!(got > 0, "stream {stream} ended at {at} of {positions:?}");
        assert!(buffer[..got] == *piece(stream, at, got), "stream {stream} differs after {at}");
        at += got;
    }
}
