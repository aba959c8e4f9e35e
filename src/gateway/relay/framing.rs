//! How the bytes of a session lie in a leg's plaintext: as they are, in
//! WebSocket frames, or in MS-TSGU packets within those or within HTTP chunks.
//!
//! Both directions work in place: what was decrypted into the outgoing buffer
//! is stripped there, and the place for what goes before it is left free.

use crate::observe::close_reason::CloseReason;
use crate::wire::framing_error::FramingError;
use crate::wire::in_place::InPlace;
use crate::wire::rdp_stream::RdpDown;
use crate::wire::websocket::{self, ControlPayload, Opcode};
use crate::wire::{chunked, tsgu};

/// What a leg's peer sends.
#[derive(Debug, Default)]
pub enum Deframer {
    /// Session bytes as they are.
    #[default]
    Raw,
    WebSocket(Box<websocket::Decoder>),
    TsguWebSocket(Box<(websocket::Decoder, tsgu::Decoder)>),
    /// The IN channel of a client with two.
    TsguChunks(Box<(chunked::Decoder, tsgu::Decoder)>),
    /// Nothing may come: the OUT channel of a client with two.
    Silent,
}

/// What a leg's peer is sent.
#[derive(Debug, Default)]
pub enum Framer {
    #[default]
    Raw,
    WebSocket(Box<RdpDown>),
    TsguWebSocket(Agreed),
    /// The OUT channel of a client with two: packets without anything around.
    TsguHttp(Agreed),
    /// Nothing may go: the IN channel of a client with two.
    Silent,
}

/// What a client and its gateway agreed on for a tunnel (MS-TSGU 2.2.5.3.9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// It knows a status for the end of a session that took too long.
    pub timeouts: bool,
    /// It shows service messages.
    pub notices: bool,
}

/// What became of one piece of a leg's plaintext.
#[derive(Debug, Default)]
pub(super) struct Deframed {
    /// Session bytes, now at the front of the piece.
    pub len: usize,
    /// Of several pings the last: a peer that does not wait for answers gets
    /// one (RFC 6455 5.5.3).
    pub ping: Option<ControlPayload>,
    /// The peer takes its leave within the framing. What follows is void.
    pub leave: Option<Leave>,
}

/// A leave that is answered in kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    WebSocket(Option<u16>),
    /// MS-TSGU 2.2.10.23: answered with HTTP_CLOSE_CHANNEL_RESPONSE.
    TsguChannel,
    /// The answer to ours, or the last chunk: nothing to say to it.
    Quiet,
}

impl Deframer {
    #[must_use]
    pub fn websocket() -> Self {
        Self::WebSocket(Box::default())
    }

    /// Strips one piece, which may begin and end anywhere.
    pub(super) fn strip(&mut self, piece: &mut [u8]) -> Result<Deframed, FramingError> {
        let mut stripped = Deframed::default();
        match self {
            Self::Raw => stripped.len = piece.len(),
            Self::WebSocket(frames) => stripped.len = strip_frames(frames, piece, &mut stripped)?,
            Self::TsguWebSocket(both) => {
                let (frames, packets) = &mut **both;
                let len = strip_frames(frames, piece, &mut stripped)?;
                let piece = piece.get_mut(..len).unwrap_or_default();
                stripped.len = strip_packets(packets, piece, &mut stripped)?;
            }
            Self::TsguChunks(both) => {
                let (chunks, packets) = &mut **both;
                let mut input = InPlace::new(piece);
                if chunks.decode(&mut input)?.is_some() {
                    stripped.leave = Some(Leave::Quiet);
                }
                let len = input.written();
                let piece = piece.get_mut(..len).unwrap_or_default();
                stripped.len = strip_packets(packets, piece, &mut stripped)?;
            }
            Self::Silent if piece.is_empty() => {}
            Self::Silent => return Err(FramingError::NothingExpected),
        }
        Ok(stripped)
    }
}

fn strip_frames(
    frames: &mut websocket::Decoder,
    piece: &mut [u8],
    stripped: &mut Deframed,
) -> Result<usize, FramingError> {
    let mut input = InPlace::new(piece);
    while let Some(control) = frames.decode(&mut input)? {
        match control {
            websocket::Control::Ping(payload) => stripped.ping = Some(payload),
            websocket::Control::Pong => {}
            websocket::Control::Close(code) => {
                stripped.leave = Some(Leave::WebSocket(code));
                break;
            }
        }
    }
    Ok(input.written())
}

fn strip_packets(
    packets: &mut tsgu::Decoder,
    piece: &mut [u8],
    stripped: &mut Deframed,
) -> Result<usize, FramingError> {
    let mut input = InPlace::new(piece);
    while let Some(control) = packets.decode(&mut input)? {
        match control {
            // Either end sends them when it likes; none is an answer.
            tsgu::Control::KeepAlive | tsgu::Control::Reauth => {}
            tsgu::Control::CloseChannel(_) => {
                stripped.leave = Some(Leave::TsguChannel);
                break;
            }
            tsgu::Control::CloseChannelResponse(_) => {
                stripped.leave = Some(Leave::Quiet);
                break;
            }
        }
    }
    Ok(input.written())
}

/// The most that goes before one record's worth of session bytes.
pub(super) const HEADER_LEN_MAX: usize = websocket::SERVER_HEADER_LEN_MAX + tsgu::DATA_HEADER_LEN;

impl Framer {
    #[must_use]
    pub fn websocket() -> Self {
        Self::WebSocket(Box::default())
    }

    /// Bytes to leave free before session bytes of unknown length.
    pub(super) const fn room_before(&self) -> usize {
        match self {
            Self::Raw | Self::Silent => 0,
            Self::WebSocket(_) => websocket::SERVER_HEADER_LEN_MAX,
            Self::TsguWebSocket(_) => HEADER_LEN_MAX,
            Self::TsguHttp(_) => tsgu::DATA_HEADER_LEN,
        }
    }

    /// Wraps `len` session bytes that begin at [`Framer::room_before`] in
    /// `place`. Returns how many bytes, from the front of `place`, are the
    /// outcome. The bytes are moved only when they are so few that their
    /// header is shorter than it might have been.
    pub(super) fn wrap(&mut self, place: &mut [u8], len: usize) -> Result<usize, FramingError> {
        if len == 0 {
            return Ok(0);
        }
        let room = self.room_before();
        match self {
            Self::Raw => Ok(len),
            Self::Silent => Err(FramingError::NothingExpected),
            Self::WebSocket(host) => {
                host.observe(place.get(room..room + len).unwrap_or_default());
                frame(place, room, len)
            }
            Self::TsguHttp(_) => {
                packet(place, 0, len)?;
                Ok(room + len)
            }
            Self::TsguWebSocket(_) => {
                let at = websocket::SERVER_HEADER_LEN_MAX;
                packet(place, at, len)?;
                frame(place, at, tsgu::DATA_HEADER_LEN + len)
            }
        }
    }

    /// The peer notices the end of the session by what the framing says of it
    /// and not by the end of the stream.
    pub(super) const fn says_goodbye(&self) -> bool {
        !matches!(self, Self::Raw | Self::Silent)
    }

    /// What ends the session for this peer, in its framing.
    pub(super) fn farewell(&self, reason: CloseReason) -> Vec<u8> {
        let mut words = Vec::new();
        match self {
            Self::Raw | Self::Silent => {}
            Self::WebSocket(host) => {
                let mut fatal = Vec::new();
                host.farewell(&mut fatal);
                for piece in fatal.chunks(usize::from(u16::MAX)) {
                    append_frame(&mut words, piece);
                }
            }
            Self::TsguHttp(agreed) | Self::TsguWebSocket(agreed) => {
                let status = status(reason, *agreed);
                words.extend(self.packet(&tsgu::response::close_channel(status)));
            }
        }
        if self.has_frames() {
            words.extend(websocket::close_frame(close_code(reason)).as_slice());
        }
        words
    }

    /// The answer to a peer that takes its leave.
    pub(super) fn answer(&self, leave: Leave) -> Vec<u8> {
        let mut words = Vec::new();
        let code = match leave {
            Leave::WebSocket(code) => code,
            Leave::Quiet => None,
            Leave::TsguChannel => {
                words.extend(self.packet(&tsgu::response::close_channel_response(0)));
                None
            }
        };
        if self.has_frames() {
            let code = code.unwrap_or(websocket::CLOSE_NORMAL);
            words.extend(websocket::close_frame(code).as_slice());
        }
        words
    }

    /// A pong, where this leg has such a thing.
    pub(super) fn pong(&self, payload: &ControlPayload) -> Vec<u8> {
        if self.has_frames() {
            websocket::control_frame(Opcode::Pong, payload.as_slice()).as_slice().to_vec()
        } else {
            Vec::new()
        }
    }

    /// The peer is sent WebSocket frames.
    const fn has_frames(&self) -> bool {
        matches!(self, Self::WebSocket(_) | Self::TsguWebSocket(_))
    }

    /// A text for the person at the client, where the protocol has such a
    /// thing (MS-TSGU 2.2.10.17).
    pub(super) fn notice(&self, text: &str) -> Vec<u8> {
        match self {
            Self::TsguHttp(agreed) | Self::TsguWebSocket(agreed) if agreed.notices => {
                self.packet(&tsgu::response::service_message(text))
            }
            _ => Vec::new(),
        }
    }

    /// What asks the client to authenticate again (MS-TSGU 2.2.10.12).
    pub(super) fn reauthentication(&self, context: u64) -> Vec<u8> {
        self.packet(&tsgu::response::reauth(context))
    }

    /// A packet of MS-TSGU for a peer that is sent such.
    fn packet(&self, packet: &[u8]) -> Vec<u8> {
        match self {
            Self::TsguHttp(_) => packet.to_vec(),
            Self::TsguWebSocket(_) => {
                let mut words = Vec::new();
                append_frame(&mut words, packet);
                words
            }
            Self::Raw | Self::WebSocket(_) | Self::Silent => Vec::new(),
        }
    }
}

/// Puts a frame's header before `len` bytes at `at`.
fn frame(place: &mut [u8], at: usize, len: usize) -> Result<usize, FramingError> {
    let header = websocket::server_header_len(len);
    if header < at {
        // At most 125 bytes.
        place.copy_within(at..at + len, header);
    }
    websocket::write_server_header(place, len).ok_or(FramingError::FrameTooLong)?;
    Ok(header + len)
}

/// Puts a data packet's header at `at`, before `len` bytes.
fn packet(place: &mut [u8], at: usize, len: usize) -> Result<(), FramingError> {
    let short = u16::try_from(len).map_err(|_| FramingError::FrameTooLong)?;
    let header = place.get_mut(at..at + tsgu::DATA_HEADER_LEN).ok_or(FramingError::FrameTooLong)?;
    header.copy_from_slice(&tsgu::data_header(short));
    Ok(())
}

fn append_frame(words: &mut Vec<u8>, payload: &[u8]) {
    let mut header = [0; websocket::SERVER_HEADER_LEN_MAX];
    if let Some(len) = websocket::write_server_header(&mut header, payload.len()) {
        words.extend(header.get(..len).unwrap_or_default());
        words.extend(payload);
    }
}

/// RFC 6455 7.4.1.
const fn close_code(reason: CloseReason) -> u16 {
    match reason {
        CloseReason::ClientClosed | CloseReason::HostClosed => websocket::CLOSE_NORMAL,
        CloseReason::GatewayFault => websocket::CLOSE_INTERNAL,
        CloseReason::ClientFramingError => websocket::CLOSE_PROTOCOL_ERROR,
        _ => websocket::CLOSE_GOING_AWAY,
    }
}

/// MS-TSGU 2.2.6: the bare codes, which belong into HTTP_CLOSE_CHANNEL.
const fn status(reason: CloseReason, agreed: Agreed) -> u32 {
    match reason {
        CloseReason::ClientClosed | CloseReason::HostClosed => 0,
        CloseReason::IdleTimeout | CloseReason::LifetimeReached if agreed.timeouts => {
            tsgu::status::CLOSE_SESSION_TIMEOUT
        }
        CloseReason::HostTruncated | CloseReason::HostReset | CloseReason::HostTlsError => {
            tsgu::status::CLOSE_TARGET_CLOSED
        }
        CloseReason::NotReauthenticated => tsgu::status::CLOSE_REAUTH_LOGON_FAILED,
        CloseReason::Disconnected | CloseReason::GatewayShutdown => tsgu::status::CLOSE_GRACEFUL,
        _ => tsgu::status::CLOSE_ABORTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knows_no_timeouts_is_told_that_the_session_was_aborted() {
        let told = |framer: Framer, reason| framer.farewell(reason)[8..12].to_vec();
        for (timeouts, bytes) in [(true, [0xF6, 0x59, 0, 0]), (false, [0xD4, 0x04, 0, 0])] {
            let agreed = Agreed { timeouts, notices: true };
            for reason in [CloseReason::IdleTimeout, CloseReason::LifetimeReached] {
                assert_eq!(told(Framer::TsguHttp(agreed), reason), bytes);
            }
            let graceful = told(Framer::TsguHttp(agreed), CloseReason::Disconnected);
            assert_eq!(graceful, [0xCA, 0x04, 0, 0]);
        }
    }
}
