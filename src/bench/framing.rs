//! How a client's leg reaches the gateway, and how the bytes of its session then
//! lie in the leg's plaintext: seen from the client, as FreeRDP does it.

use crate::core::random::Random;
use crate::dial::relay::HOST_RECORD_DATA_MAX;
use crate::tls::record::MAX_PLAINTEXT_LEN;
use crate::wire::framing_error::FramingError;
use crate::wire::in_place::InPlace;
use crate::wire::websocket::{
    self, CLIENT_HEADER_LEN_MAX, CLOSE_NORMAL, client_close_frame, client_frame_len,
    write_client_frame,
};
use crate::wire::{chunked, tsgu};

/// How the clients' legs reach the gateway. Session hosts' are always raw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientLeg {
    /// As our own connector: the bytes as they are
    #[default]
    Raw,
    /// AVD mode: binary WebSocket frames
    Websocket,
    /// RD Gateway (MS-TSGU): packets in WebSocket frames
    Tsgu,
    /// RD Gateway over two HTTP channels: packets in chunks up, bare down
    TsguHttp,
}

impl ClientLeg {
    /// Nobody asks for a place before such a client comes: the gateway does, and
    /// only it knows whose session the host is ordered for.
    #[must_use]
    pub const fn is_placed_by_gateway(self) -> bool {
        matches!(self, Self::Tsgu | Self::TsguHttp)
    }
}

impl std::fmt::Display for ClientLeg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Websocket => "websocket",
            Self::Tsgu => "tsgu",
            Self::TsguHttp => "tsgu-http",
        })
    }
}

/// Longest piece of a session that is sent at once, either way and whatever the
/// client's leg is: framed, it fits one record. What the agent sends is no longer.
pub const RECORD_DATA_MAX: usize = MAX_PLAINTEXT_LEN - OVERHEAD_MAX;

/// A frame's header and a packet's, or those of a chunk and a packet.
const OVERHEAD_MAX: usize = CLIENT_HEADER_LEN_MAX + tsgu::DATA_HEADER_LEN;
const _: () = assert!(RECORD_DATA_MAX <= HOST_RECORD_DATA_MAX, "longer than what agents send");
const _: () = assert!(OVERHEAD_MAX >= 2 * CHUNK_END.len() + 4 + tsgu::DATA_HEADER_LEN, "a chunk");

/// Behind a chunk's size, and behind the chunk (RFC 9112 7.1).
const CHUNK_END: &[u8] = b"\r\n";

/// What a client's connection hears and says.
#[derive(Debug, Default)]
pub enum Framing {
    #[default]
    Raw,
    WebSocket(Box<Frames>),
    Tsgu(Box<(Frames, tsgu::Decoder)>),
    /// Of two channels the one that is heard on.
    TsguOut(Box<tsgu::Decoder>),
    /// Of two channels the one that is spoken on.
    TsguIn,
}

/// Frames in both directions.
#[derive(Debug)]
pub struct Frames {
    heard: websocket::Decoder,
    masks: Random,
}

impl Frames {
    /// Masks follow from the seed; here they need not surprise anybody.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { heard: websocket::Decoder::of_server(), masks: Random::new(seed) }
    }

    const fn next_mask(&mut self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.masks.next().to_ne_bytes();
        [a, b, c, d]
    }

    /// One frame with these bytes, of which there are few.
    pub fn frame(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; client_frame_len(bytes.len())];
        let mask = self.next_mask();
        let written = write_client_frame(&mut frame, &[bytes], mask);
        frame.truncate(written.unwrap_or_default());
        frame
    }

    /// Strips frames; whether one of them says goodbye.
    ///
    /// # Errors
    /// [`FramingError`].
    pub fn strip(&mut self, piece: &mut [u8]) -> Result<Stripped, FramingError> {
        let mut input = InPlace::new(piece);
        while let Some(control) = self.heard.decode(&mut input)? {
            if let websocket::Control::Close(_) = control {
                return Ok(Stripped { len: input.written(), is_last: true });
            }
        }
        Ok(Stripped { len: input.written(), is_last: false })
    }
}

/// What became of a piece of plaintext.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stripped {
    /// Bytes of the session, now at the front of the piece.
    pub len: usize,
    /// The gateway has taken its leave; what follows is void.
    pub is_last: bool,
}

impl Framing {
    /// Length of so many bytes of a session when they are framed.
    #[must_use]
    pub fn dressed_len(&self, len: usize) -> usize {
        let packet = tsgu::DATA_HEADER_LEN + len;
        match self {
            Self::Raw | Self::TsguOut(_) => len,
            Self::WebSocket(_) => client_frame_len(len),
            Self::Tsgu(_) => client_frame_len(packet),
            Self::TsguIn => chunk_front(packet).len() + packet + CHUNK_END.len(),
        }
    }

    /// Writes these bytes framed to `place`, which is as long as they are then.
    ///
    /// # Errors
    /// When they are too many, or nothing is said on this connection.
    pub fn dress(&mut self, data: &[u8], place: &mut [u8]) -> Result<(), FramingError> {
        let packet = |data: &[u8]| Ok(tsgu::data_header(short(data)?));
        let written = match self {
            Self::Raw => write_all(place, &[data]),
            Self::TsguOut(_) => return Err(FramingError::NothingExpected),
            Self::WebSocket(frames) => write_client_frame(place, &[data], frames.next_mask()),
            Self::Tsgu(both) => {
                write_client_frame(place, &[&packet(data)?, data], both.0.next_mask())
            }
            Self::TsguIn => {
                let header = packet(data)?;
                let front = chunk_front(header.len() + data.len());
                write_all(place, &[front.as_bytes(), &header, data, CHUNK_END])
            }
        };
        written.map(drop).ok_or(FramingError::FrameTooLong)
    }

    /// Strips a piece of what was heard, in place.
    ///
    /// # Errors
    /// [`FramingError`].
    pub fn strip(&mut self, piece: &mut [u8]) -> Result<Stripped, FramingError> {
        match self {
            Self::Raw => Ok(Stripped { len: piece.len(), is_last: false }),
            Self::WebSocket(frames) => frames.strip(piece),
            Self::Tsgu(both) => {
                let (frames, packets) = &mut **both;
                let Stripped { len, is_last } = frames.strip(piece)?;
                let piece = piece.get_mut(..len).unwrap_or_default();
                let stripped = strip_packets(packets, piece)?;
                Ok(Stripped { is_last: is_last || stripped.is_last, ..stripped })
            }
            Self::TsguOut(packets) => strip_packets(packets, piece),
            Self::TsguIn if piece.is_empty() => Ok(Stripped::default()),
            Self::TsguIn => Err(FramingError::NothingExpected),
        }
    }

    /// How the client takes its leave before `close_notify`.
    #[must_use]
    pub fn farewell(&mut self) -> Vec<u8> {
        let packet = tsgu::response::close_channel(tsgu::status::SUCCESS);
        match self {
            Self::Raw | Self::TsguOut(_) => Vec::new(),
            Self::WebSocket(frames) => client_close_frame(CLOSE_NORMAL, frames.next_mask()),
            Self::Tsgu(both) => both.0.frame(&packet),
            Self::TsguIn => chunk(&packet),
        }
    }
}

fn strip_packets(packets: &mut tsgu::Decoder, piece: &mut [u8]) -> Result<Stripped, FramingError> {
    use tsgu::Control::{CloseChannel, CloseChannelResponse};
    let mut input = InPlace::new(piece);
    while let Some(control) = packets.decode(&mut input)? {
        if let CloseChannel(_) | CloseChannelResponse(_) = control {
            return Ok(Stripped { len: input.written(), is_last: true });
        }
    }
    Ok(Stripped { len: input.written(), is_last: false })
}

/// One chunk of a body, of few bytes.
#[must_use]
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [chunk_front(bytes.len()).as_bytes(), bytes, CHUNK_END].concat()
}

fn chunk_front(len: usize) -> String {
    debug_assert!(len <= chunked::CHUNK_LEN_MAX, "a chunk that nobody accepts");
    format!("{len:X}\r\n")
}

fn short(data: &[u8]) -> Result<u16, FramingError> {
    u16::try_from(data.len()).map_err(|_| FramingError::FrameTooLong)
}

/// One piece behind the other; their length.
fn write_all(place: &mut [u8], pieces: &[&[u8]]) -> Option<usize> {
    let mut at = 0;
    for piece in pieces {
        place.get_mut(at..at + piece.len())?.copy_from_slice(piece);
        at += piece.len();
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEGS: [ClientLeg; 4] =
        [ClientLeg::Raw, ClientLeg::Websocket, ClientLeg::Tsgu, ClientLeg::TsguHttp];

    /// What a client says and hears on.
    fn client(leg: ClientLeg) -> (Framing, Framing) {
        let frames = || Frames::new(1);
        let of = || match leg {
            ClientLeg::Raw => Framing::Raw,
            ClientLeg::Websocket => Framing::WebSocket(Box::new(frames())),
            _ => Framing::Tsgu(Box::new((frames(), tsgu::Decoder::new()))),
        };
        match leg {
            ClientLeg::TsguHttp => (Framing::TsguIn, Framing::TsguOut(Box::default())),
            _ => (of(), of()),
        }
    }

    /// What the gateway hears, and whether its client took its leave.
    fn heard_by_gateway(leg: ClientLeg, mut bytes: Vec<u8>, cuts: &[usize]) -> (Vec<u8>, bool) {
        let (mut frames, mut packets) = (websocket::Decoder::new(), tsgu::Decoder::new());
        let (mut chunks, mut heard, mut has_left) = (chunked::Decoder::new(), Vec::new(), false);
        for piece in cut(&mut bytes, cuts) {
            let mut len = piece.len();
            if let ClientLeg::Websocket | ClientLeg::Tsgu = leg {
                let mut input = InPlace::new(piece);
                has_left |= frames.decode(&mut input).unwrap().is_some();
                len = input.written();
            }
            if leg == ClientLeg::TsguHttp {
                let mut input = InPlace::new(piece);
                assert_eq!(chunks.decode(&mut input), Ok(None));
                len = input.written();
            }
            if leg.is_placed_by_gateway() {
                let mut input = InPlace::new(&mut piece[..len]);
                has_left |= packets.decode(&mut input).unwrap().is_some();
                len = input.written();
            }
            heard.extend(&piece[..len]);
        }
        (heard, has_left)
    }

    fn said_by_gateway(leg: ClientLeg, data: &[u8]) -> Vec<u8> {
        let mut packet = data.to_vec();
        if leg.is_placed_by_gateway() {
            let header = tsgu::data_header(data.len().try_into().unwrap());
            packet.splice(..0, header);
        }
        if let ClientLeg::Websocket | ClientLeg::Tsgu = leg {
            let mut header = [0; websocket::SERVER_HEADER_LEN_MAX];
            let len = websocket::write_server_header(&mut header, packet.len()).unwrap();
            packet.splice(..0, header[..len].iter().copied());
        }
        packet
    }

    fn cut<'a>(mut bytes: &'a mut [u8], lens: &[usize]) -> Vec<&'a mut [u8]> {
        let mut pieces = Vec::new();
        for len in lens.iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let (now, rest) = bytes.split_at_mut((*len).min(bytes.len()));
            pieces.push(now);
            bytes = rest;
        }
        pieces
    }

    fn dressed(framing: &mut Framing, data: &[u8]) -> Vec<u8> {
        let mut place = vec![0; framing.dressed_len(data.len())];
        framing.dress(data, &mut place).unwrap();
        place
    }

    proptest! {
        /// However it is cut, the gateway reads what its client says, and the
        /// client what its gateway says.
        #[test]
        fn the_gateway_and_its_client_understand_each_other(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..700), 1..8),
            cuts in prop::collection::vec(1..900_usize, 1..20),
        ) {
            let session = pieces.concat();
            for leg in LEGS {
                let (mut says, mut hears) = client(leg);
                let (mut up, mut down) = (Vec::new(), Vec::new());
                for piece in &pieces {
                    up.extend(dressed(&mut says, piece));
                    down.extend(said_by_gateway(leg, piece));
                }
                up.extend(says.farewell());
                prop_assert_eq!(
                    heard_by_gateway(leg, up, &cuts),
                    (session.clone(), leg != ClientLeg::Raw)
                );
                let mut arrived: Vec<u8> = Vec::new();
                for piece in cut(&mut down, &cuts) {
                    let stripped = hears.strip(piece).unwrap();
                    arrived.extend(&piece[..stripped.len]);
                    prop_assert!(!stripped.is_last);
                }
                prop_assert_eq!(&arrived, &session);
            }
        }
    }

    #[test]
    fn the_longest_piece_fits_one_record_in_every_framing() {
        let data = vec![5; RECORD_DATA_MAX];
        for leg in LEGS {
            let (mut says, _) = client(leg);
            assert!(dressed(&mut says, &data).len() <= MAX_PLAINTEXT_LEN, "{leg}");
            assert!(said_by_gateway(leg, &data).len() <= MAX_PLAINTEXT_LEN, "{leg}");
        }
    }

    #[test]
    fn the_gateways_goodbye_is_heard_in_every_framing_that_has_one() {
        let packet = tsgu::response::close_channel(tsgu::status::CLOSE_GRACEFUL);
        let close = websocket::close_frame(CLOSE_NORMAL);
        let in_frame = said_by_gateway(ClientLeg::Websocket, &packet);
        for (leg, words) in [
            (ClientLeg::Websocket, close.as_slice()),
            (ClientLeg::Tsgu, close.as_slice()),
            (ClientLeg::Tsgu, &in_frame),
            (ClientLeg::TsguHttp, &packet),
        ] {
            let stripped = client(leg).1.strip(&mut words.to_vec());
            assert_eq!(stripped, Ok(Stripped { len: 0, is_last: true }), "{leg}");
        }
    }
}
