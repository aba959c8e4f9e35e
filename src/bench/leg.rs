//! One end of a session as the bench plays it: a socket, TLS, a greeting, and
//! then data. Bytes in, bytes out; the engine does the reading and writing.

use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use crate::tls::handshake::{ClientHandshake, EstablishedTls, ServerHandshake, TlsError};
use crate::tls::record::{
    CONTROL_RECORD_LEN, Framed, MAX_OPENED_LEN, MAX_PLAINTEXT_LEN, MAX_RECORD_LEN, Opened,
    RecordError, RecordLayer, next_record,
};
use crate::wire::relay_answer::{self, Answer};

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
    #[error("the socket: {0}")]
    Socket(#[from] std::io::Error),
    #[error("the stream was cut off")]
    Cut,
}

/// What follows a handshake before a leg carries data.
#[derive(Debug)]
pub enum Greeting {
    /// Nothing.
    None,
    /// A request for the relay, answered with `101`.
    Relay(String),
    /// A request that is answered, whatever with; then the leg is done.
    Once(String),
}

enum Stage {
    Client(Box<ClientHandshake>, Greeting),
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
            leg.stage = Stage::Client(Box::new(handshake), greeting);
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
                let before = handshake.is_established();
                let fed = handshake.feed(bytes);
                if fed.is_ok() && handshake.is_established() && !before {
                    match greeting {
                        Greeting::None => {}
                        Greeting::Relay(request) | Greeting::Once(request) => {
                            handshake.send(request.as_bytes())?;
                        }
                    }
                }
                self.unsent.append(&mut handshake.take_outgoing());
                fed?;
                match greeting {
                    Greeting::None => handshake.is_established(),
                    Greeting::Relay(_) => is_let_in(handshake)?,
                    Greeting::Once(_) => {
                        progress.answered |= !handshake.plaintext().is_empty();
                        let read = handshake.plaintext().len();
                        handshake.consume_plaintext(read);
                        false
                    }
                }
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
            Stage::Client(handshake, _) => handshake.into_keys()?,
            Stage::Server(handshake) => handshake.into_keys()?,
            Stage::Open(_) => return Ok(()),
        };
        let EstablishedTls { records, leftover_ciphertext, leftover_plaintext, .. } = established;
        self.stage = Stage::Open(Some(Box::new(records)));
        progress.opened = true;
        if !leftover_plaintext.is_empty() {
            data(&leftover_plaintext);
        }
        progress.closed |= self.open(&leftover_ciphertext, scratch, data)?;
        Ok(())
    }

    /// Opens whole records and keeps the rest. Says whether the peer closed.
    fn open(
        &mut self,
        mut bytes: &[u8],
        scratch: &mut Scratch,
        data: &mut impl FnMut(&[u8]),
    ) -> Result<bool, LegError> {
        let Stage::Open(Some(records)) = &mut self.stage else {
            if !bytes.is_empty() {
                data(bytes);
            }
            return Ok(false);
        };
        while !self.partial.is_empty() && !bytes.is_empty() {
            let Framed::Incomplete { needed } = next_record(&self.partial)? else { break };
            let (now, rest) = bytes.split_at(bytes.len().min(needed - self.partial.len()));
            self.partial.extend_from_slice(now);
            bytes = rest;
            if let Framed::Complete { .. } = next_record(&self.partial)? {
                let record = std::mem::take(&mut self.partial);
                if open_record(records, &record, scratch, data)? {
                    return Ok(true);
                }
            }
        }
        while !bytes.is_empty() {
            match next_record(bytes)? {
                Framed::Complete { total_len, .. } => {
                    let (record, rest) = bytes.split_at(total_len);
                    if open_record(records, record, scratch, data)? {
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

    /// Appends data to `out` as one record (at most 16 KiB of it).
    ///
    /// # Errors
    /// When the leg is not open, or its key is used up.
    pub fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), LegError> {
        let Stage::Open(records) = &mut self.stage else {
            return Err(LegError::Tls(TlsError::NotEstablished));
        };
        let Some(records) = records else {
            out.extend_from_slice(data);
            return Ok(());
        };
        if records.wants_key_update() {
            append(out, CONTROL_RECORD_LEN, |room| records.seal_key_update(room, false))?;
        }
        append(out, records.sealed_len(data.len()), |room| {
            let offset = records.plaintext_offset();
            room.get_mut(offset..offset + data.len())
                .ok_or(RecordError::BufferTooSmall)?
                .copy_from_slice(data);
            records.seal_in_place(room, data.len())
        })
    }

    /// Appends the end of our stream to `out`.
    ///
    /// # Errors
    /// When it was said already.
    pub fn seal_close(&mut self, out: &mut Vec<u8>) -> Result<(), LegError> {
        match &mut self.stage {
            Stage::Open(Some(records)) => {
                append(out, CONTROL_RECORD_LEN, |room| records.seal_close_notify(room))
            }
            _ => Ok(()),
        }
    }

    /// TLS tells a cut stream from an ended one; a plain leg cannot.
    #[must_use]
    pub const fn can_tell_a_cut(&self) -> bool {
        matches!(self.stage, Stage::Open(Some(_)))
    }
}

/// Longest plaintext that [`Leg::seal`] takes.
pub const RECORD_DATA_MAX: usize = MAX_PLAINTEXT_LEN;

fn is_let_in(handshake: &mut ClientHandshake) -> Result<bool, LegError> {
    match relay_answer::parse(handshake.plaintext()).map_err(LegError::Answer)? {
        None => Ok(false),
        Some(Answer::Switched { head_length }) => {
            handshake.consume_plaintext(head_length);
            Ok(true)
        }
        Some(Answer::Refused { head_length, status, body_length }) => {
            let body = handshake.plaintext().get(head_length..).unwrap_or_default();
            if body_length.is_some_and(|length| body.len() < length) {
                return Ok(false);
            }
            Err(LegError::Refused(status, String::from_utf8_lossy(body).into_owned()))
        }
    }
}

/// Opens one record. Says whether it was `close_notify`.
fn open_record(
    records: &mut RecordLayer,
    record: &[u8],
    scratch: &mut Scratch,
    data: &mut impl FnMut(&[u8]),
) -> Result<bool, LegError> {
    match records.open_into(record, scratch)? {
        Opened::Data { len } => data(scratch.get(..len).unwrap_or_default()),
        Opened::CloseNotify => return Ok(true),
        Opened::Alert { description, .. } => return Err(LegError::Alert(description)),
        Opened::Control => {}
    }
    Ok(false)
}

fn append(
    out: &mut Vec<u8>,
    room: usize,
    seal: impl FnOnce(&mut [u8]) -> Result<usize, RecordError>,
) -> Result<(), LegError> {
    let start = out.len();
    out.resize(start + room, 0);
    let sealed = seal(out.get_mut(start..).unwrap_or_default());
    out.truncate(start + sealed.unwrap_or(0));
    sealed?;
    Ok(())
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
