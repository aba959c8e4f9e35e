//! A client or a session host of the simulation: its own TLS, a stream of
//! known bytes to send, and a way to end.

use super::dress::{Dress, Undress};
use super::kernel::{SimKernel, Wire};
use crate::core::random::Random;
use crate::tls::record::{
    CONTROL_RECORD_LEN, Framed, MAX_OPENED_LEN, MAX_PLAINTEXT_LEN, Opened, RecordLayer, next_record,
};

/// How a peer ends its stream once it has sent everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// `close_notify`, then FIN.
    Clean,
    /// FIN without a word.
    Cut,
    Reset,
    /// A record that no key has sealed.
    Forge,
    /// What its framing does not allow.
    Garble,
}

/// A connection of a peer.
#[derive(Debug)]
pub struct Line {
    pub records: RecordLayer,
    pub wire: usize,
}

#[derive(Debug)]
pub struct Peer {
    /// What it gets comes here, and what it sends goes here.
    line: Line,
    /// Unless it sends on a connection of its own.
    sending: Option<Line>,
    dress: Dress,
    undress: Undress,
    /// Dressed and not sealed yet.
    dressed: Vec<u8>,
    /// Tells the streams of all peers apart.
    stream: u64,
    to_send: usize,
    pub sent: usize,
    pub ending: Ending,
    pub ended: bool,
    took_leave: bool,
    received: Vec<u8>,
    /// Plaintext bytes that arrived, all of them as they were sent.
    pub got: usize,
    /// What came after them, made by the gateway to end an RDP client.
    pub got_poison: usize,
    pub got_close: bool,
    pub got_fin: bool,
    pub got_alert: bool,
    /// Reads nothing until this step.
    pub stalled_until: u64,
}

/// Byte `position` of a stream.
fn pattern(stream: u64, position: usize) -> u8 {
    let mixed = (position as u64 ^ stream.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Not the beginning of an RDP stream, which the gateway would follow.
    if position == 0 { 0xee } else { mixed.to_le_bytes()[6] }
}

impl Peer {
    pub fn new(
        line: Line,
        sending: Option<Line>,
        dress: Dress,
        stream: u64,
        to_send: usize,
        ending: Ending,
    ) -> Self {
        Self {
            line,
            sending,
            dress,
            undress: Undress::default(),
            dressed: Vec::new(),
            stream,
            to_send,
            sent: 0,
            ending,
            ended: false,
            took_leave: false,
            received: Vec::new(),
            got: 0,
            got_poison: 0,
            got_close: false,
            got_fin: false,
            got_alert: false,
            stalled_until: 0,
        }
    }

    pub fn stream(&self) -> u64 {
        self.stream
    }

    pub fn dress(&self) -> Dress {
        self.dress
    }

    fn sender(&mut self) -> &mut Line {
        self.sending.as_mut().unwrap_or(&mut self.line)
    }

    /// Sends a little more, or ends. Whether anything happened.
    pub fn act(&mut self, kernel: &mut SimKernel, random: &mut Random) -> bool {
        let line = self.sending.as_mut().unwrap_or(&mut self.line);
        let wire = &mut kernel.wires[line.wire];
        if self.ended || wire.reset || wire.inbound.len() > 64 * 1024 {
            return false;
        }
        if line.records.wants_key_update() {
            line.key_update(wire, false);
        }
        // Every key update is paid for by data.
        let can_pay = self.dressed.len() > 8 * 1024;
        if can_pay && random.chance(3) && line.records.version() == rustls::ProtocolVersion::TLSv1_3
        {
            line.key_update(wire, random.chance(50));
        }
        if self.dressed.is_empty() && self.sent < self.to_send {
            let length = random.spread(1, (self.to_send - self.sent).min(40_000));
            let data: Vec<u8> =
                (self.sent..self.sent + length).map(|at| pattern(self.stream, at)).collect();
            self.dressed = self.dress.put_on(&data, random);
            self.sent += length;
        }
        if self.dressed.is_empty() && !self.took_leave {
            self.took_leave = true;
            match self.ending {
                Ending::Clean => self.dressed = self.dress.leave(random),
                Ending::Garble => self.dressed = self.dress.broken(),
                Ending::Cut | Ending::Reset | Ending::Forge => {}
            }
        }
        if !self.dressed.is_empty() {
            let length = random.spread(1, self.dressed.len().min(MAX_PLAINTEXT_LEN));
            let piece: Vec<u8> = self.dressed.drain(..length).collect();
            let line = self.sender();
            line.data(&mut kernel.wires[line.wire], &piece);
            return true;
        }
        self.ended = true;
        self.end(kernel);
        true
    }

    fn end(&mut self, kernel: &mut SimKernel) {
        let lines = [Some(&mut self.line), self.sending.as_mut()];
        for line in lines.into_iter().flatten() {
            let wire = &mut kernel.wires[line.wire];
            match self.ending {
                Ending::Clean => {
                    let mut record = [0; CONTROL_RECORD_LEN];
                    let length = line.records.seal_close_notify(&mut record).unwrap();
                    wire.inbound.extend(&record[..length]);
                    wire.inbound_fin = true;
                }
                Ending::Cut => wire.inbound_fin = true,
                Ending::Reset => wire.reset = true,
                Ending::Forge => {
                    wire.inbound.extend([23, 3, 3, 0, 40]);
                    wire.inbound.extend([0; 40]);
                }
                Ending::Garble => {}
            }
        }
    }

    /// Reads what has arrived from `other`, who has sent `sent` bytes; fails
    /// the test when it is not exactly that. Whether anything happened.
    pub fn read(
        &mut self,
        kernel: &mut SimKernel,
        (other, sent): (u64, usize),
        step: u64,
        random: &mut Random,
    ) -> bool {
        let wire = &mut kernel.wires[self.line.wire];
        if step < self.stalled_until || wire.reset {
            return false;
        }
        if wire.outbound.is_empty() {
            let fin = wire.outbound_fin && !self.got_fin;
            self.got_fin |= fin;
            return fin;
        }
        let length = random.spread(1, wire.outbound.len());
        self.received.extend(wire.outbound.drain(..length));
        wire.window += length;
        let mut at = 0;
        while let Framed::Complete { total_len, .. } = next_record(&self.received[at..]).unwrap() {
            let mut out = [0; MAX_OPENED_LEN];
            let record = &self.received[at..at + total_len];
            match self.line.records.open_into(record, &mut out).unwrap() {
                Opened::Data { len } => {
                    assert!(!self.got_close, "data after close_notify");
                    let data = self.undress.take_off(self.dress, &out[..len]);
                    self.take(&data, other, sent);
                }
                Opened::CloseNotify => self.got_close = true,
                Opened::Alert { .. } => self.got_alert = true,
                Opened::Control => {}
            }
            at += total_len;
        }
        self.received.drain(..at);
        true
    }

    fn take(&mut self, data: &[u8], other: u64, sent: usize) {
        for byte in data {
            let refusal = self.got == 0 && *byte == 3;
            let after_all = self.got == sent || self.got_poison > 0 || refusal;
            if self.dress == Dress::WebSocket && after_all {
                self.got_poison += 1;
                continue;
            }
            assert_eq!(*byte, pattern(other, self.got), "byte {} of {other:x}", self.got);
            self.got += 1;
        }
    }

    /// It was told of the end in a way that it understands.
    pub fn was_told(&self) -> bool {
        self.got_close && (self.dress == Dress::Raw || self.undress.goodbye)
    }
}

impl Line {
    fn data(&mut self, wire: &mut Wire, data: &[u8]) {
        let mut record = vec![0; self.records.sealed_len(data.len())];
        let offset = self.records.plaintext_offset();
        record[offset..offset + data.len()].copy_from_slice(data);
        let sealed = self.records.seal_in_place(&mut record, data.len()).unwrap();
        wire.inbound.extend(&record[..sealed]);
    }

    fn key_update(&mut self, wire: &mut Wire, request: bool) {
        let mut record = [0; CONTROL_RECORD_LEN];
        let length = self.records.seal_key_update(&mut record, request).unwrap();
        wire.inbound.extend(&record[..length]);
    }
}
