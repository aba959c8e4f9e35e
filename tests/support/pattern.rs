//! Bytes that say where in a stream they belong, so that a lost, doubled or
//! swapped piece is noticed whatever its size.

use std::sync::OnceLock;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A prime, so that the pattern does not repeat in step with records, buffers
/// or slots.
const PERIOD: usize = 1_048_573;
/// Longest piece that [`piece`] gives out.
pub const PIECE_MAX: usize = 64 * 1024;

/// `length` bytes of stream number `stream` from position `at` on.
pub fn piece(stream: u8, at: usize, length: usize) -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let period: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .take(PERIOD)
        .collect();
        period.iter().copied().cycle().take(PERIOD + PIECE_MAX).collect()
    });
    let start = (at + usize::from(stream) * 4_099) % PERIOD;
    &table[start..start + length]
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
