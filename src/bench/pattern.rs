//! Bytes that say where in which stream they belong: a lost, doubled or swapped
//! piece is noticed whatever its size.

use std::sync::OnceLock;

/// A prime, so that the pattern does not repeat in step with records, buffers
/// or slots.
const PERIOD: usize = 1_048_573;
/// Longest piece that [`piece`] gives out.
pub const PIECE_MAX: usize = 64 * 1024;
/// How far apart two streams begin.
const STREAM_STEP: u64 = 4_099;

/// `length` bytes (at most [`PIECE_MAX`]) of stream number `stream` from
/// position `at` on.
#[must_use]
pub fn piece(stream: u64, at: u64, length: usize) -> &'static [u8] {
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
    let start = at.wrapping_add(stream.wrapping_mul(STREAM_STEP)) % PERIOD as u64;
    let start = usize::try_from(start).unwrap_or(0);
    table.get(start..start + length.min(PIECE_MAX)).unwrap_or_default()
}

/// Compares what arrived at position `at` of a stream with what should have.
///
/// # Errors
/// The position of the first byte that differs.
pub fn compare(stream: u64, mut at: u64, mut bytes: &[u8]) -> Result<(), u64> {
    while !bytes.is_empty() {
        let (now, rest) = bytes.split_at(bytes.len().min(PIECE_MAX));
        let expected = piece(stream, at, now.len());
        if now != expected {
            let wrong = now.iter().zip(expected).take_while(|(got, want)| got == want).count();
            return Err(at + wrong as u64);
        }
        at += now.len() as u64;
        bytes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wrong_byte_is_named() {
        let mut bytes = piece(7, 5_000_000, PIECE_MAX).to_vec();
        bytes.extend_from_slice(piece(7, 5_000_000 + PIECE_MAX as u64, 1_000));
        assert_eq!(compare(7, 5_000_000, &bytes), Ok(()));
        bytes[PIECE_MAX + 10] ^= 1;
        assert_eq!(compare(7, 5_000_000, &bytes), Err(5_000_000 + PIECE_MAX as u64 + 10));
    }

    #[test]
    fn a_lost_byte_and_another_stream_are_noticed_soon() {
        for stream in 0..100 {
            let lost = piece(stream, 1, 256);
            assert!(compare(stream, 0, lost).is_err_and(|at| at < 32));
            assert!(compare(stream + 1, 1, lost).is_err_and(|at| at < 40));
        }
    }
}
