//! One end of a session as the bench plays it: a socket, TLS, a greeting, and
//! then data. Bytes in, bytes out; the engine does the reading and writing.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use super::framing::Framing;
use super::greeting::Greeting;
use crate::tls::handshake::{ClientHandshake, EstablishedTls, ServerHandshake, TlsError};
use crate::tls::record::{
    CONTROL_RECORD_LEN, Framed, MAX_OPENED_LEN, MAX_RECORD_LEN, Opened, RecordError, RecordLayer,
    next_record,
};
use crate::wire::framing_error::FramingError;

/// Where a record is opened into.
pub type Scratch = [u8; MAX_OPENED_LEN];

/// Why a leg is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LegError {
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("a record: {0}")]
    Record(#[from] RecordError),
    #[error("the peer gave up with TLS alert {0}")]
    Alert(u8),
    #[error("refused with HTTP status {0}: {1}")]
    Refused(u16, String),
    #[error("the answer is not understood: {0}")]
    Answer(String),
    #[error("its framing: {0}")]
    Framing(#[from] FramingError),
    #[error("the socket: {0}")]
    Socket(#[from] std::io::Error),
    #[error("the stream was cut off")]
    Cut,
}

enum Stage {
    Client(Box<ClientHandshake>, Box<Greeting>),
    Server(Box<ServerHandshake>),
    Open(Option<Box<RecordLayer>>),
}

/// What a batch of input led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The leg carries data from now on.
    pub opened: bool,
    /// A [`Greeting::Once`] was answered.
    pub answered: bool,
    /// So many times the client's other connection may go on with its greeting.
    pub prompts: u32,
    /// The peer said `close_notify`.
    pub closed: bool,
}

/// A leg.
pub struct Leg {
    pub socket: TcpStream,
    stage: Stage,
    /// Bytes that the socket did not take yet.
    pub unsent: Vec<u8>,
    /// The socket takes nothing now.
    pub blocked: bool,
    /// The end of its stream has arrived, behind what is still to be read.
    pub hung_up: bool,
    /// Not read, on purpose.
    pub stalled: bool,
    partial: Vec<u8>,
    framing: Framing,
    /// The peer has taken its leave in its framing; what it still says is void.
    has_left: bool,
    /// What is still to be said of the greeting, framed.
    unprompted: VecDeque<Vec<u8>>,
}

impl Leg {
    /// A leg that dials: TLS when there is a configuration.
    ///
    /// # Errors
    /// When TLS cannot begin.
    pub fn dialling(
        socket: TcpStream,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
        greeting: Greeting,
    ) -> Result<Self, LegError> {
        let mut leg = Self::with(socket, Stage::Open(None));
        if let Some((config, name)) = tls {
            let mut handshake = ClientHandshake::new(config, name)?;
            leg.unsent = handshake.take_outgoing();
            leg.stage = Stage::Client(Box::new(handshake), Box::new(greeting));
        }
        // Until it is connected.
        leg.blocked = true;
        Ok(leg)
    }

    /// A leg that was accepted.
    ///
    /// # Errors
    /// When TLS cannot begin.
    pub fn accepted(socket: TcpStream, tls: Option<Arc<ServerConfig>>) -> Result<Self, LegError> {
        let stage = match tls {
            Some(config) => Stage::Server(Box::new(ServerHandshake::new(config)?)),
            None => Stage::Open(None),
        };
        Ok(Self::with(socket, stage))
    }

    fn with(socket: TcpStream, stage: Stage) -> Self {
        Self {
            socket,
            stage,
            unsent: Vec::new(),
            blocked: false,
            hung_up: false,
            stalled: false,
            partial: Vec::new(),
            framing: Framing::default(),
            has_left: false,
            unprompted: VecDeque::new(),
        }
    }

    /// Data can be sent.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Takes received bytes; `data` is given what they carry, in pieces.
    ///
    /// # Errors
    /// Whatever makes the leg useless.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        scratch: &mut Scratch,
        data: &mut impl FnMut(&[u8]),
    ) -> Result<Progress, LegError> {
        let mut progress = Progress::default();
        while !self.is_open() && !bytes.is_empty() {
            let room = match &self.stage {
                Stage::Client(handshake, _) => handshake.room(),
                Stage::Server(handshake) => handshake.room(),
                Stage::Open(_) => 0,
            };
            let (now, rest) = bytes.split_at(bytes.len().min(room.max(1)));
            bytes = rest;
            self.shake(now, scratch, data, &mut progress)?;
        }
        if !bytes.is_empty() {
            progress.closed |= self.open(bytes, scratch, data)?;
        }
        Ok(progress)
    }

    fn shake(
        &mut self,
        bytes: &[u8],
        scratch: &mut Scratch,
        data: &mut impl FnMut(&[u8]),
        progress: &mut Progress,
    ) -> Result<(), LegError> {
        let is_ready = match &mut self.stage {
            Stage::Client(handshake, greeting) => {
                let is_first = !handshake.is_established();
                let heard = handshake.feed(bytes).map_err(LegError::from);
                let heard = heard.and_then(|()| converse(handshake, greeting, is_first, progress));
                // An alert of ours, if that failed.
                self.unsent.append(&mut handshake.take_outgoing());
                heard?
            }
            Stage::Server(handshake) => {
                let fed = handshake.feed(bytes);
                self.unsent.append(&mut handshake.take_outgoing());
                fed?;
                handshake.is_established()
            }
            Stage::Open(_) => false,
        };
        if !is_ready {
            return Ok(());
        }
        let established = match std::mem::replace(&mut self.stage, Stage::Open(None)) {
            Stage::Client(handshake, greeting) => {
                (self.framing, self.unprompted) = greeting.into_framing();
                handshake.into_keys()?
            }
            Stage::Server(handshake) => handshake.into_keys()?,
            Stage::Open(_) => return Ok(()),
        };
        let EstablishedTls { records, leftover_ciphertext, mut leftover_plaintext, .. } =
            established;
        self.stage = Stage::Open(Some(Box::new(records)));
        progress.opened = true;
        if !leftover_plaintext.is_empty() {
            self.hear(&mut leftover_plaintext, data)?;
        }
        progress.closed |= self.open(&leftover_ciphertext, scratch, data)?;
        Ok(())
    }

    /// Takes plaintext of an open leg out of its framing.
    fn hear(&mut self, plaintext: &mut [u8], data: &mut impl FnMut(&[u8])) -> Result<(), LegError> {
        if self.has_left {
            return Ok(());
        }
        let stripped = self.framing.strip(plaintext)?;
        self.has_left = stripped.is_last;
        if stripped.len > 0 {
            data(plaintext.get(..stripped.len).unwrap_or_default());
        }
        Ok(())
    }

    /// Opens whole records and keeps the rest. Says whether the peer closed.
    fn open(
        &mut self,
        mut bytes: &[u8],
        scratch: &mut Scratch,
        data: &mut impl FnMut(&[u8]),
    ) -> Result<bool, LegError> {
        if let Stage::Open(None) = self.stage {
            if !bytes.is_empty() {
                data(bytes);
            }
            return Ok(false);
        }
        while !self.partial.is_empty() && !bytes.is_empty() {
            let Framed::Incomplete { needed } = next_record(&self.partial)? else { break };
            let (now, rest) = bytes.split_at(bytes.len().min(needed - self.partial.len()));
            self.partial.extend_from_slice(now);
            bytes = rest;
            if let Framed::Complete { .. } = next_record(&self.partial)? {
                let record = std::mem::take(&mut self.partial);
                if self.open_record(&record, scratch, data)? {
                    return Ok(true);
                }
            }
        }
        while !bytes.is_empty() {
            match next_record(bytes)? {
                Framed::Complete { total_len, .. } => {
                    let (record, rest) = bytes.split_at(total_len);
                    if self.open_record(record, scratch, data)? {
                        return Ok(true);
                    }
                    bytes = rest;
                }
                Framed::Incomplete { .. } => {
                    self.partial = Vec::with_capacity(MAX_RECORD_LEN.min(bytes.len() * 2 + 64));
                    self.partial.extend_from_slice(bytes);
                    break;
                }
            }
        }
        Ok(false)
    }

    /// Opens one record. Says whether it was `close_notify`.
    fn open_record(
        &mut self,
        record: &[u8],
        scratch: &mut Scratch,
        data: &mut impl FnMut(&[u8]),
    ) -> Result<bool, LegError> {
        let Stage::Open(Some(records)) = &mut self.stage else { return Ok(false) };
        match records.open_into(record, scratch)? {
            Opened::Data { len } => self.hear(scratch.get_mut(..len).unwrap_or_default(), data)?,
            Opened::CloseNotify => return Ok(true),
            Opened::Alert { description, .. } => return Err(LegError::Alert(description)),
            Opened::Control => {}
        }
        Ok(false)
    }

    /// Appends data to `out` as one record (at most [`RECORD_DATA_MAX`] of it), in
    /// the leg's framing.
    ///
    /// [`RECORD_DATA_MAX`]: super::framing::RECORD_DATA_MAX
    ///
    /// # Errors
    /// When the leg is not open, or its key is used up.
    pub fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), LegError> {
        let (stage, framing) = (&mut self.stage, &mut self.framing);
        seal_with(stage, framing.dressed_len(data.len()), out, |place| {
            Ok(framing.dress(data, place)?)
        })
    }

    /// Goes on with the greeting, where the peer has prompted it on another
    /// connection.
    ///
    /// # Errors
    /// When the leg is not open, or its key is used up.
    pub fn go_on(&mut self) -> Result<(), LegError> {
        let Some(words) = self.unprompted.pop_front() else { return Ok(()) };
        let mut unsent = std::mem::take(&mut self.unsent);
        let sealed = self.seal_words(&words, &mut unsent);
        self.unsent = unsent;
        sealed
    }

    /// Appends the end of our stream to `out`: what the framing has for it, then
    /// `close_notify`.
    ///
    /// # Errors
    /// When it was said already.
    pub fn seal_close(&mut self, out: &mut Vec<u8>) -> Result<(), LegError> {
        let farewell = self.framing.farewell();
        if !farewell.is_empty() {
            self.seal_words(&farewell, out)?;
        }
        match &mut self.stage {
            Stage::Open(Some(records)) => {
                append(out, CONTROL_RECORD_LEN, |room| Ok(records.seal_close_notify(room)?))
            }
            _ => Ok(()),
        }
    }

    /// Appends what is framed already.
    fn seal_words(&mut self, words: &[u8], out: &mut Vec<u8>) -> Result<(), LegError> {
        seal_with(&mut self.stage, words.len(), out, |place| {
            place.copy_from_slice(words);
            Ok(())
        })
    }

    /// TLS tells a cut stream from an ended one; a plain leg cannot.
    #[must_use]
    pub const fn can_tell_a_cut(&self) -> bool {
        matches!(self.stage, Stage::Open(Some(_)))
    }
}

/// Goes on with a greeting as far as what came allows. Says whether it is over.
fn converse(
    handshake: &mut ClientHandshake,
    greeting: &mut Greeting,
    is_first: bool,
    progress: &mut Progress,
) -> Result<bool, LegError> {
    if !handshake.is_established() {
        return Ok(false);
    }
    if is_first {
        handshake.send(greeting.opening())?;
    }
    loop {
        let heard = greeting.hear(handshake.plaintext())?;
        handshake.consume_plaintext(heard.used);
        handshake.send(&heard.say)?;
        progress.prompts += heard.prompts;
        progress.answered |= heard.answered;
        if heard.is_over || heard.used == 0 {
            return Ok(heard.is_over);
        }
    }
}

/// Appends one record, whose `len` bytes of plaintext `write` puts in place.
fn seal_with(
    stage: &mut Stage,
    len: usize,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut [u8]) -> Result<(), LegError>,
) -> Result<(), LegError> {
    let Stage::Open(records) = stage else {
        return Err(LegError::Tls(TlsError::NotEstablished));
    };
    let Some(records) = records else {
        return append(out, len, |place| write(place).map(|()| len));
    };
    if records.wants_key_update() {
        append(out, CONTROL_RECORD_LEN, |room| Ok(records.seal_key_update(room, false)?))?;
    }
    append(out, records.sealed_len(len), |room| {
        let offset = records.plaintext_offset();
        let place = room.get_mut(offset..offset + len).ok_or(RecordError::BufferTooSmall)?;
        write(place)?;
        Ok(records.seal_in_place(room, len)?)
    })
}

fn append(
    out: &mut Vec<u8>,
    room: usize,
    write: impl FnOnce(&mut [u8]) -> Result<usize, LegError>,
) -> Result<(), LegError> {
    let start = out.len();
    out.resize(start + room, 0);
    let written = write(out.get_mut(start..).unwrap_or_default());
    out.truncate(start + written.as_ref().copied().unwrap_or(0));
    written.map(drop)
}

impl std::fmt::Debug for Leg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leg")
            .field("socket", &self.socket)
            .field("open", &self.is_open())
            .field("unsent", &self.unsent.len())
            .finish_non_exhaustive()
    }
}
