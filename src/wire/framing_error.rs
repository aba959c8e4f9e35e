//! What is wrong with the framing in which a session is sent.

/// Each one ends the leg; what was decoded before it is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    #[error("a WebSocket frame is not masked, as those of a client must be")]
    Unmasked,
    #[error("a WebSocket frame is masked, as those of a server must not be")]
    Masked,
    #[error("a WebSocket frame uses bits or an opcode that no extension was agreed for")]
    ReservedBits,
    #[error("a WebSocket control frame is fragmented")]
    FragmentedControl,
    #[error("a WebSocket control frame is too long")]
    ControlTooLong,
    #[error("a WebSocket frame continues a message that did not begin")]
    NothingToContinue,
    #[error("a WebSocket message begins inside of another")]
    MessageInMessage,
    #[error("a WebSocket frame is longer than is accepted")]
    FrameTooLong,
    #[error("a chunk does not begin with its size, or does not end where it says")]
    MalformedChunk,
    #[error("a chunk is longer than is accepted")]
    ChunkTooLong,
    #[error("the line with a chunk's size, or the trailer section, is longer than is accepted")]
    ChunkLineTooLong,
    #[error("an RD Gateway packet is longer than is accepted")]
    PacketTooLong,
    #[error("an RD Gateway packet contradicts its own lengths")]
    PacketLengths,
    #[error("data came on a connection that carries none in that direction")]
    NothingExpected,
    #[error("an RD Gateway packet holds what its type does not allow")]
    MalformedPacket,
}

impl FramingError {
    /// The status code to close a WebSocket with (RFC 6455 7.4.1).
    #[must_use]
    pub const fn websocket_close_code(self) -> u16 {
        match self {
            Self::FrameTooLong | Self::PacketTooLong => 1009,
            _ => 1002,
        }
    }
}
