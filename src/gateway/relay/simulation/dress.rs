//! A client's own idea of the framings, written apart from ours: what it puts
//! around what it sends, and what it takes off what it gets.

use crate::core::random::Random;
use crate::gateway::relay::framing::{Agreed, Deframer, Framer};
use crate::wire::websocket::tests::{Form, client_frame};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dress {
    Raw,
    WebSocket,
    TsguWebSocket,
    /// It sends in chunks on one connection and receives on another.
    TsguChannels,
}

impl Dress {
    pub fn any(random: &mut Random) -> Self {
        [Self::Raw, Self::WebSocket, Self::TsguWebSocket, Self::TsguChannels][random.below(4)]
    }

    pub fn deframer(self) -> Deframer {
        match self {
            Self::Raw => Deframer::Raw,
            Self::WebSocket => Deframer::websocket(),
            Self::TsguWebSocket => Deframer::TsguWebSocket(Box::default()),
            Self::TsguChannels => Deframer::TsguChunks(Box::default()),
        }
    }

    pub fn framer(self) -> Framer {
        match self {
            Self::Raw => Framer::Raw,
            Self::WebSocket => Framer::websocket(),
            Self::TsguWebSocket => Framer::TsguWebSocket(Agreed { timeouts: true, notices: true }),
            Self::TsguChannels => Framer::TsguHttp(Agreed { timeouts: true, notices: true }),
        }
    }

    /// `payload` as this client sends it, in pieces of its own choice, with
    /// things in between that are nobody's data.
    pub fn put_on(self, payload: &[u8], random: &mut Random) -> Vec<u8> {
        match self {
            Self::Raw => payload.to_vec(),
            Self::WebSocket => frames(payload, random),
            Self::TsguWebSocket => frames(&packets(payload, random), random),
            Self::TsguChannels => chunks(&packets(payload, random), random),
        }
    }

    /// How it takes its leave.
    pub fn leave(self, random: &mut Random) -> Vec<u8> {
        let close_channel = [0x10, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0];
        match self {
            Self::Raw => Vec::new(),
            Self::WebSocket => frame(8, true, &[3, 232], random),
            Self::TsguWebSocket => frames(&close_channel, random),
            Self::TsguChannels => chunks(&close_channel, random),
        }
    }

    /// What no client may send.
    pub fn broken(self) -> Vec<u8> {
        match self {
            Self::Raw => Vec::new(),
            // Not masked.
            Self::WebSocket | Self::TsguWebSocket => vec![0x82, 5, 1, 2, 3, 4, 5],
            Self::TsguChannels => b"\r\nno size\r\n".to_vec(),
        }
    }
}

fn frames(payload: &[u8], random: &mut Random) -> Vec<u8> {
    let (mut out, mut rest, mut first) = (Vec::new(), payload, true);
    while first || !rest.is_empty() {
        let (now, later) = rest.split_at(random.spread(0, rest.len()).min(rest.len()));
        let is_last = later.is_empty();
        out.extend(frame(if first { 2 } else { 0 }, is_last, now, random));
        (rest, first) = (later, false);
        if random.chance(5) {
            out.extend(frame(9, true, b"there?", random));
        }
        if random.chance(5) {
            // FreeRDP 3 sends such.
            out.extend(frame(10, true, &[7; 1_024], random));
        }
    }
    out
}

fn frame(opcode: u8, fin: bool, payload: &[u8], random: &mut Random) -> Vec<u8> {
    let [a, b, c, d, ..] = random.next().to_le_bytes();
    let first = opcode | if fin { 0x80 } else { 0 };
    client_frame(first, payload, [a, b, c, d], Form::Shortest)
}

fn packets(payload: &[u8], random: &mut Random) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), payload);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(random.spread(1, rest.len().min(65_535)));
        out.extend([0x0a, 0, 0, 0]);
        out.extend(u32::try_from(10 + now.len()).unwrap().to_le_bytes());
        out.extend(u16::try_from(now.len()).unwrap().to_le_bytes());
        out.extend(now);
        rest = later;
        if random.chance(10) {
            out.extend([0x0d, 0, 0, 0, 8, 0, 0, 0]);
        }
    }
    out
}

fn chunks(payload: &[u8], random: &mut Random) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), payload);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(random.spread(1, rest.len()));
        out.extend(format!("{:x}\r\n", now.len()).into_bytes());
        out.extend(now);
        out.extend(b"\r\n");
        rest = later;
    }
    out
}

/// Takes off what the gateway puts around what it sends.
#[derive(Debug, Default)]
pub struct Undress {
    frames: Vec<u8>,
    packets: Vec<u8>,
    /// The gateway said goodbye in the framing.
    pub goodbye: bool,
    pub pongs: usize,
}

impl Undress {
    pub fn take_off(&mut self, dress: Dress, bytes: &[u8]) -> Vec<u8> {
        match dress {
            Dress::Raw => bytes.to_vec(),
            Dress::WebSocket => self.unframe(bytes),
            Dress::TsguWebSocket => {
                let packets = self.unframe(bytes);
                self.unpack(&packets)
            }
            Dress::TsguChannels => self.unpack(bytes),
        }
    }

    fn unframe(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.frames.extend(bytes);
        let mut out = Vec::new();
        loop {
            let all = &self.frames;
            if all.len() < 2 {
                return out;
            }
            assert_eq!(all[1] & 0x80, 0, "a masked frame from a server");
            let (at, len) = match all[1] {
                126 if all.len() >= 4 => (4, usize::from(u16::from_be_bytes([all[2], all[3]]))),
                126 => return out,
                len @ ..=125 => (2, usize::from(len)),
                _ => panic!("a frame of more than 64 KiB"),
            };
            assert!(at == 2 || len > 125, "a length that is not the shortest");
            if all.len() < at + len {
                return out;
            }
            let payload = all[at..at + len].to_vec();
            match all[0] {
                0x82 => out.extend(payload),
                0x88 => self.goodbye = true,
                0x8a => {
                    assert_eq!(payload, b"there?");
                    self.pongs += 1;
                }
                other => panic!("a frame that begins with {other:x}"),
            }
            self.frames.drain(..at + len);
        }
    }

    fn unpack(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.packets.extend(bytes);
        let mut out = Vec::new();
        loop {
            let all = &self.packets;
            if all.len() < 8 {
                return out;
            }
            let len = u32::from_le_bytes(all[4..8].try_into().unwrap()) as usize;
            if all.len() < len {
                return out;
            }
            match u16::from_le_bytes([all[0], all[1]]) {
                0x0a => {
                    let data = usize::from(u16::from_le_bytes([all[8], all[9]]));
                    assert_eq!(len, 10 + data);
                    out.extend(&all[10..len]);
                }
                0x10 | 0x11 => self.goodbye = true,
                other => panic!("a packet of type {other:x}"),
            }
            self.packets.drain(..len);
        }
    }
}
