//! A client or a session host of the simulation: its own TLS, a stream of
//! known bytes to send, and a way to end.

use super::kernel::Wire;
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
}

#[derive(Debug)]
pub struct Peer {
    records: RecordLayer,
    /// Tells the streams of all peers apart.
    stream: u64,
    to_send: usize,
    pub sent: usize,
    pub ending: Ending,
    pub ended: bool,
    received: Vec<u8>,
    /// Plaintext bytes that arrived, all of them as they were sent.
    pub got: usize,
    pub got_close: bool,
    pub got_fin: bool,
    pub got_alert: bool,
    /// Reads nothing until this step.
    pub stalled_until: u64,
}

/// Byte `position` of a stream.
fn pattern(stream: u64, position: usize) -> u8 {
    let mixed = (position as u64 ^ stream.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_le_bytes()[6]
}

impl Peer {
    pub fn new(records: RecordLayer, stream: u64, to_send: usize, ending: Ending) -> Self {
        Self {
            records,
            stream,
            to_send,
            sent: 0,
            ending,
            ended: false,
            received: Vec::new(),
            got: 0,
            got_close: false,
            got_fin: false,
            got_alert: false,
            stalled_until: 0,
        }
    }

    pub fn stream(&self) -> u64 {
        self.stream
    }

    /// Sends a little more, or ends. Whether anything happened.
    pub fn act(&mut self, wire: &mut Wire, random: &mut Random) -> bool {
        if self.ended || wire.reset || wire.inbound.len() > 64 * 1024 {
            return false;
        }
        if self.records.wants_key_update() {
            self.key_update(wire, false);
        }
        if self.sent < self.to_send {
            if random.chance(3) && self.records.version() == rustls::ProtocolVersion::TLSv1_3 {
                self.key_update(wire, random.chance(50));
            }
            let most = (self.to_send - self.sent).min(MAX_PLAINTEXT_LEN);
            let length = random.spread(1, most);
            self.data(wire, length);
            return true;
        }
        self.ended = true;
        match self.ending {
            Ending::Clean => {
                let mut record = [0; CONTROL_RECORD_LEN];
                let length = self.records.seal_close_notify(&mut record).unwrap();
                wire.inbound.extend(&record[..length]);
                wire.inbound_fin = true;
            }
            Ending::Cut => wire.inbound_fin = true,
            Ending::Reset => wire.reset = true,
            Ending::Forge => {
                wire.inbound.extend([23, 3, 3, 0, 40]);
                wire.inbound.extend([0; 40]);
            }
        }
        true
    }

    fn data(&mut self, wire: &mut Wire, length: usize) {
        let mut record = vec![0; self.records.sealed_len(length)];
        let offset = self.records.plaintext_offset();
        for (index, byte) in record[offset..offset + length].iter_mut().enumerate() {
            *byte = pattern(self.stream, self.sent + index);
        }
        let sealed = self.records.seal_in_place(&mut record, length).unwrap();
        wire.inbound.extend(&record[..sealed]);
        self.sent += length;
    }

    fn key_update(&mut self, wire: &mut Wire, request: bool) {
        let mut record = [0; CONTROL_RECORD_LEN];
        let length = self.records.seal_key_update(&mut record, request).unwrap();
        wire.inbound.extend(&record[..length]);
    }

    /// Reads what has arrived from `other`; fails the test when it is not
    /// exactly what was sent. Whether anything happened.
    pub fn read(&mut self, wire: &mut Wire, other: u64, step: u64, random: &mut Random) -> bool {
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
            match self.records.open_into(record, &mut out).unwrap() {
                Opened::Data { len } => {
                    assert!(!self.got_close, "data after close_notify");
                    for (index, byte) in out[..len].iter().enumerate() {
                        let position = self.got + index;
                        assert_eq!(*byte, pattern(other, position), "byte {position} of {other:x}");
                    }
                    self.got += len;
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
}
