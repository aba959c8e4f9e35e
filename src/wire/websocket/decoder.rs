//! What the other end sends, taken apart in place.

use super::{CONTROL_LEN_ACCEPTED_MAX, CONTROL_LEN_MAX, FRAME_LEN_MAX};
use crate::wire::framing_error::FramingError;
use crate::wire::in_place::InPlace;

/// Opcode and flags, 64-bit length, mask (RFC 6455 5.2).
const HEADER_LEN_MAX: usize = 2 + 8 + MASK_LEN;
const MASK_LEN: usize = 4;

/// A control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Answered with a pong of the same payload.
    Ping(ControlPayload),
    Pong,
    /// With the status code that it gave, if any.
    Close(Option<u16>),
}

/// What a ping carries, and its pong gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlPayload {
    bytes: [u8; CONTROL_LEN_MAX],
    len: usize,
}

impl ControlPayload {
    const EMPTY: Self = Self { bytes: [0; CONTROL_LEN_MAX], len: 0 };

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Takes the byte while there is room.
    fn push(&mut self, byte: u8) {
        if let Some(free) = self.bytes.get_mut(self.len) {
            *free = byte;
            self.len += 1;
        }
    }
}

/// Takes the frames of one end apart, wherever they are cut.
#[derive(Debug)]
pub struct Decoder {
    sender: Sender,
    /// The front of a header that was cut.
    cut: [u8; HEADER_LEN_MAX],
    cut_len: usize,
    /// The frame whose payload is under way.
    frame: Option<Frame>,
    /// The message whose fragments are under way.
    message: Option<Message>,
    control: ControlPayload,
}

/// Whose frames they are: a client's are masked, a server's are not (RFC 6455 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Client,
    Server,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: Kind,
    /// Bytes of payload that are still to come.
    left: usize,
    /// Turned to the byte that comes next. Of a server: zeros.
    mask: [u8; MASK_LEN],
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Data(Message),
    Ping,
    Pong,
    Close,
}

#[derive(Clone, Copy, Debug)]
enum Message {
    Binary,
    /// Dropped: no client that we know sends text and means it.
    Text,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// For what a client sends.
    #[must_use]
    pub const fn new() -> Self {
        Self::of(Sender::Client)
    }

    /// For what a server sends.
    #[must_use]
    pub const fn of_server() -> Self {
        Self::of(Sender::Server)
    }

    const fn of(sender: Sender) -> Self {
        Self {
            sender,
            cut: [0; HEADER_LEN_MAX],
            cut_len: 0,
            frame: None,
            message: None,
            control: ControlPayload::EMPTY,
        }
    }

    /// Appends the payload of binary frames to the front of `input`. `None` when
    /// `input` is exhausted; a control frame that ended before that is returned,
    /// and the next call goes on behind it.
    ///
    /// # Errors
    /// [`FramingError`], at the first byte that is wrong; the connection ends.
    pub fn decode(&mut self, input: &mut InPlace<'_>) -> Result<Option<Control>, FramingError> {
        loop {
            let mut frame = match self.frame {
                Some(frame) => frame,
                None => match self.next_frame(input)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            match frame.kind {
                Kind::Data(Message::Binary) if self.sender == Sender::Server => {
                    frame.left -= input.keep(frame.left);
                }
                Kind::Data(Message::Binary) => {
                    frame.left -= input.keep_unmasked(frame.left, &mut frame.mask);
                }
                Kind::Ping | Kind::Close => self.collect(&mut frame, input),
                Kind::Data(Message::Text) | Kind::Pong => frame.left -= input.skip(frame.left),
            }
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
            self.frame = None;
            if let Some(control) = self.ended(frame.kind) {
                return Ok(Some(control));
            }
        }
    }

    /// Reads a header; `None` when it is not all there yet.
    fn next_frame(&mut self, input: &mut InPlace<'_>) -> Result<Option<Frame>, FramingError> {
        if self.cut_len == 0
            && let Some(header) = Header::parse(self.sender, input.unread())?
        {
            input.skip(header.len);
            return self.begin(header).map(Some);
        }
        while let Some(byte) = input.take() {
            if let Some(free) = self.cut.get_mut(self.cut_len) {
                *free = byte;
                self.cut_len += 1;
            }
            let so_far = self.cut.get(..self.cut_len).unwrap_or_default();
            if let Some(header) = Header::parse(self.sender, so_far)? {
                self.cut_len = 0;
                return self.begin(header).map(Some);
            }
        }
        Ok(None)
    }

    /// What the frame is in the light of those before it (RFC 6455 5.4).
    fn begin(&mut self, header: Header) -> Result<Frame, FramingError> {
        let kind = match header.opcode {
            CONTINUATION => Kind::Data(self.message.ok_or(FramingError::NothingToContinue)?),
            CLOSE => Kind::Close,
            PING => Kind::Ping,
            PONG => Kind::Pong,
            _ if self.message.is_some() => return Err(FramingError::MessageInMessage),
            TEXT => Kind::Data(Message::Text),
            _ => Kind::Data(Message::Binary),
        };
        if let Kind::Data(message) = kind {
            self.message = if header.is_final { None } else { Some(message) };
        }
        self.control = ControlPayload::EMPTY;
        Ok(Frame { kind, left: header.payload_len, mask: header.mask })
    }

    fn collect(&mut self, frame: &mut Frame, input: &mut InPlace<'_>) {
        while frame.left > 0 && self.control.len < CONTROL_LEN_MAX {
            let Some(byte) = input.take() else { return };
            let [mask, ..] = frame.mask;
            self.control.push(byte ^ mask);
            frame.mask.rotate_left(1);
            frame.left -= 1;
        }
        frame.left -= input.skip(frame.left);
    }

    fn ended(&self, kind: Kind) -> Option<Control> {
        match kind {
            Kind::Data(_) => None,
            Kind::Ping => Some(Control::Ping(self.control)),
            Kind::Pong => Some(Control::Pong),
            Kind::Close => {
                let code = self.control.as_slice().first_chunk::<2>();
                Some(Control::Close(code.copied().map(u16::from_be_bytes)))
            }
        }
    }
}

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

#[derive(Clone, Copy, Debug)]
struct Header {
    is_final: bool,
    opcode: u8,
    payload_len: usize,
    mask: [u8; MASK_LEN],
    /// Bytes of the header itself.
    len: usize,
}

impl Header {
    /// Reads a header from the front of `bytes`; `None` when it goes on.
    fn parse(sender: Sender, bytes: &[u8]) -> Result<Option<Self>, FramingError> {
        let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
        let (is_final, opcode) = (first & 0x80 != 0, first & 0x0F);
        if first & 0x70 != 0 || !matches!(opcode, CONTINUATION..=BINARY | CLOSE..=PONG) {
            return Err(FramingError::ReservedBits);
        }
        let is_control = opcode >= CLOSE;
        if is_control && !is_final {
            return Err(FramingError::FragmentedControl);
        }
        let Some((second, rest)) = rest.split_first() else { return Ok(None) };
        match (sender, second & 0x80) {
            (Sender::Client, 0) => return Err(FramingError::Unmasked),
            (Sender::Client, _) | (Sender::Server, 0) => {}
            (Sender::Server, _) => return Err(FramingError::Masked),
        }
        let (payload_len, length_len) = match second & 0x7F {
            126 => match rest.first_chunk::<2>() {
                Some(length) => (u64::from(u16::from_be_bytes(*length)), 2),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(length) => (u64::from_be_bytes(*length), 8),
                None => return Ok(None),
            },
            short => (u64::from(short), 0),
        };
        let (payload_len_max, too_long) = match opcode {
            PING => (CONTROL_LEN_MAX, FramingError::ControlTooLong),
            CLOSE | PONG => (CONTROL_LEN_ACCEPTED_MAX, FramingError::ControlTooLong),
            _ => (FRAME_LEN_MAX, FramingError::FrameTooLong),
        };
        let payload_len = usize::try_from(payload_len).map_err(|_| too_long)?;
        if payload_len > payload_len_max {
            return Err(too_long);
        }
        let len = 2 + length_len;
        if sender == Sender::Server {
            let mask = [0; MASK_LEN];
            return Ok(Some(Self { is_final, opcode, payload_len, mask, len }));
        }
        let mask = rest.get(length_len..).and_then(|rest| rest.first_chunk::<MASK_LEN>());
        let len = len + MASK_LEN;
        Ok(mask.map(|mask| Self { is_final, opcode, payload_len, mask: *mask, len }))
    }
}
