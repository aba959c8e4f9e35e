//! Bytes in, records out: the path of every relayed byte.

use std::sync::atomic::Ordering::Relaxed;

use super::WorkerStats;
use super::engine::Relay;
use super::framing::Leave;
use super::kernel::Kernel;
use super::leg::{LiveLeg, OutputEnd};
use super::ring::{Arena, Slot};
use super::session::{SessionCounters, Side};

use crate::tls::record::{
    Framed, MAX_OVERHEAD, MAX_PLAINTEXT_LEN, MAX_RECORD_LEN, Opened, RecordError, next_record,
};
use crate::wire::framing_error::FramingError;

/// Pings are answered while less than this is queued for who sent them.
const PONGS_UP_TO_BYTES: usize = 64 * 1024;

/// What a batch of input came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// The stream goes on.
    Open,
    /// The sender said `close_notify`.
    Closed,
    /// The sender took its leave in its framing.
    Left(Leave),
}

/// Why a batch could not be relayed, and whose fault it is.
#[derive(Debug)]
pub(super) enum FlowError {
    /// What the sender sent is not acceptable.
    Sender(RecordError),
    /// The sender sent a fatal alert.
    Alert(u8),
    /// What the sender sent is not framed as agreed.
    Framing(FramingError),
    /// The receiver's records cannot be made any more.
    Receiver(RecordError),
}

impl<K: Kernel> Relay<K> {
    pub fn on_received(&mut self, index: usize, side: Side, filled: K::Bytes, armed: bool) {
        let Some(session) = self.sessions.get_mut(index) else {
            self.kernel.recycle(filled);
            return;
        };
        session.last_activity_us = self.now_us;
        let ending = session.ending.is_some();
        let counters = std::sync::Arc::clone(&session.counters);
        let (from, to) = session.legs(side);
        let queued = to.sending || !to.output.is_empty();
        if !armed {
            from.receiving = super::leg::Receiving::Off;
            from.operations = from.operations.saturating_sub(1);
        }
        // Once a session ends, or its sender has closed, what still comes is
        // read to get it out of the way.
        let outcome = if ending || from.input_closed {
            self.kernel.recycle(filled);
            Ok(Flow::Open)
        } else {
            let within = self.settings.within;
            let bytes_min = if queued { within.queued_bytes_min } else { within.bytes_min };
            let length = self.kernel.bytes(&filled).len();
            let filled = if length >= bytes_min && !self.arena.is_scarce() {
                self.kernel.take_over(filled, &mut self.arena)
            } else {
                Err(filled)
            };
            let mut path = Path {
                from,
                to,
                arena: &mut self.arena,
                partials: &mut self.partials,
                now_us: self.now_us,
                lead_bytes: within.lead_bytes,
                bytes: 0,
            };
            let outcome = match filled {
                Ok(slot) => path.relay_within(slot),
                Err(filled) => {
                    let outcome = path.relay(self.kernel.bytes(&filled));
                    self.kernel.recycle(filled);
                    outcome
                }
            };
            count(path.bytes, side, &counters, &self.stats);
            outcome
        };
        self.after_input(index, side, outcome);
        self.reap(index);
    }

    /// What arrived before the session was the worker's.
    pub fn relay_early(&mut self, index: usize, side: Side, plaintext: &[u8], ciphertext: &[u8]) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let counters = std::sync::Arc::clone(&session.counters);
        let (from, to) = session.legs(side);
        let mut path = Path {
            from,
            to,
            arena: &mut self.arena,
            partials: &mut self.partials,
            now_us: self.now_us,
            lead_bytes: self.settings.within.lead_bytes,
            bytes: 0,
        };
        let outcome = path.relay_plaintext(plaintext).and_then(|flow| match flow {
            Flow::Open => path.relay(ciphertext),
            over => Ok(over),
        });
        count(path.bytes, side, &counters, &self.stats);
        self.after_input(index, side, outcome);
    }

    fn after_input(&mut self, index: usize, side: Side, outcome: Result<Flow, FlowError>) {
        match outcome {
            Ok(Flow::Open) => {}
            Ok(Flow::Closed) => self.on_closed_by(index, side),
            Ok(Flow::Left(leave)) => self.on_leave(index, side, leave),
            Err(error) => self.on_flow_error(index, side, &error),
        }
        // The other leg has data to send; this one may owe an answer.
        self.mark_dirty(index, side);
        self.mark_dirty(index, side.other());
        self.regulate(index, side);
    }

    pub fn on_sent(
        &mut self,
        index: usize,
        side: Side,
        mut slot: Slot,
        outcome: Result<usize, i32>,
    ) {
        let Some(session) = self.sessions.get_mut(index) else {
            self.arena.put(slot);
            return;
        };
        let leg = session.leg(side);
        leg.sending = false;
        leg.operations = leg.operations.saturating_sub(1);
        match outcome {
            Ok(sent) if sent > 0 => {
                slot.mark_sent(sent);
                leg.output_bytes = leg.output_bytes.saturating_sub(sent);
                if slot.is_empty() {
                    let added_us = self.now_us.saturating_sub(slot.first_received_us);
                    let histogram = if side.is_client() {
                        &mut self.histograms.down_us
                    } else {
                        &mut self.histograms.up_us
                    };
                    histogram.saturating_record(added_us);
                    self.arena.put(slot);
                    leg.flush(&mut self.kernel, &mut self.arena);
                    if leg.is_drained() {
                        // An answer that waited for its turn. Its failure is met
                        // again, and reported, by the next data.
                        let _ = leg.update_key_if_due(&mut self.arena, self.now_us);
                        leg.flush(&mut self.kernel, &mut self.arena);
                    }
                } else {
                    // Short: the rest goes before anything else.
                    leg.send(&mut self.kernel, slot);
                }
                let senders = session.senders_to(side);
                for sender in senders {
                    self.regulate(index, *sender);
                }
            }
            Ok(_) => {
                self.arena.put(slot);
                self.on_socket_failure(index, side, 0);
            }
            Err(errno) => {
                self.arena.put(slot);
                self.on_socket_failure(index, side, errno);
            }
        }
        self.after_output(index, side);
        self.reap(index);
    }
}

/// Keeps the part of a record whose rest has not arrived.
pub(super) fn keep<S>(part: &[u8], from: &mut LiveLeg<S>, partials: &mut Vec<Vec<u8>>) {
    let mut memory = partials.pop().unwrap_or_else(|| Vec::with_capacity(MAX_RECORD_LEN));
    memory.extend_from_slice(part);
    from.partial = memory;
}

/// Bytes that `side` sent.
fn count(bytes: u64, side: Side, session: &SessionCounters, worker: &WorkerStats) {
    let (of_session, of_worker) = if side.is_client() {
        (&session.bytes_up, &worker.bytes_up)
    } else {
        (&session.bytes_down, &worker.bytes_down)
    };
    of_session.fetch_add(bytes, Relaxed);
    of_worker.fetch_add(bytes, Relaxed);
}

/// One direction of one session for the length of one batch.
pub(super) struct Path<'a, S> {
    pub from: &'a mut LiveLeg<S>,
    pub to: &'a mut LiveLeg<S>,
    pub arena: &'a mut Arena,
    pub partials: &'a mut Vec<Vec<u8>>,
    pub now_us: u64,
    /// See `WithinSettings`.
    pub lead_bytes: usize,
    /// Plaintext bytes relayed.
    bytes: u64,
}

impl<S> Path<'_, S> {
    /// Relays all whole records of `input`, together with the part kept from
    /// before, and keeps the part of a record at the end.
    pub(super) fn relay(&mut self, mut input: &[u8]) -> Result<Flow, FlowError> {
        if !self.from.partial.is_empty() {
            input = self.complete_partial(input)?;
            if !self.from.partial.is_empty() {
                match self.relay_partial()? {
                    Some(Flow::Open) => {}
                    Some(over) => return Ok(over),
                    None => return Ok(Flow::Open),
                }
            }
        }
        while !input.is_empty() {
            match next_record(input).map_err(FlowError::Sender)? {
                Framed::Complete { total_len, .. } => {
                    let Some((record, rest)) = input.split_at_checked(total_len) else { break };
                    match self.relay_record(record)? {
                        Flow::Open => input = rest,
                        over => return Ok(over),
                    }
                }
                Framed::Incomplete { .. } => {
                    keep(input, self.from, self.partials);
                    break;
                }
            }
        }
        Ok(Flow::Open)
    }

    /// Moves as many bytes from `input` to the partial record as it lacks.
    fn complete_partial<'i>(&mut self, mut input: &'i [u8]) -> Result<&'i [u8], FlowError> {
        while let Framed::Incomplete { needed } =
            next_record(&self.from.partial).map_err(FlowError::Sender)?
        {
            let missing = needed.saturating_sub(self.from.partial.len()).min(input.len());
            if missing == 0 {
                break;
            }
            let (lacking, rest) = input.split_at(missing);
            self.from.partial.extend_from_slice(lacking);
            input = rest;
        }
        Ok(input)
    }

    /// Relays the kept record if it is whole now, and gives its memory back.
    fn relay_partial(&mut self) -> Result<Option<Flow>, FlowError> {
        if let Framed::Incomplete { .. } =
            next_record(&self.from.partial).map_err(FlowError::Sender)?
        {
            return Ok(None);
        }
        let mut record = std::mem::take(&mut self.from.partial);
        let flow = self.relay_record(&record);
        record.clear();
        self.partials.push(record);
        flow.map(Some)
    }

    /// Opens one record straight into the place where the other leg's record
    /// wants its plaintext, and seals it there.
    fn relay_record(&mut self, record: &[u8]) -> Result<Flow, FlowError> {
        self.rekey_if_due()?;
        let offset = self.make_room(record.len());
        let room = self.to.output.back_mut().map(Slot::room).unwrap_or_default();
        let place = room.get_mut(offset..).unwrap_or_default();
        let opened = self.from.records.open_into(record, place);
        self.pass_on_opened(opened, offset)
    }

    /// Does with what was opened to `offset` of the last slot's room what has to
    /// be done with it.
    pub(super) fn pass_on_opened(
        &mut self,
        opened: Result<Opened, RecordError>,
        offset: usize,
    ) -> Result<Flow, FlowError> {
        match opened.map_err(FlowError::Sender)? {
            Opened::Data { len: 0 } => Ok(Flow::Open),
            Opened::Data { len } => self.pass_on(offset, len),
            Opened::CloseNotify => Ok(Flow::Closed),
            Opened::Alert { description, .. } => Err(FlowError::Alert(description)),
            Opened::Control => self.answer_key_update().map(|()| Flow::Open),
        }
    }

    fn relay_plaintext(&mut self, plaintext: &[u8]) -> Result<Flow, FlowError> {
        for chunk in plaintext.chunks(MAX_PLAINTEXT_LEN) {
            self.rekey_if_due()?;
            let offset = self.make_room(chunk.len());
            let room = self.to.output.back_mut().map(Slot::room).unwrap_or_default();
            if let Some(place) = room.get_mut(offset..offset + chunk.len()) {
                place.copy_from_slice(chunk);
            }
            match self.pass_on(offset, chunk.len())? {
                Flow::Open => {}
                over => return Ok(over),
            }
        }
        Ok(Flow::Open)
    }

    /// Makes room for what a record of this length may come to. Returns where
    /// its plaintext has to be, so that headers fit before it.
    fn make_room(&mut self, record_len: usize) -> usize {
        let before = self.to.framer.room_before();
        // Headers may make it two records.
        let overhead = if before == 0 { MAX_OVERHEAD } else { before + 2 * MAX_OVERHEAD };
        self.to.ensure_room(record_len + overhead, self.arena, self.now_us);
        self.to.records.plaintext_offset() + before
    }

    /// Strips what the sender put around the `len` bytes at `offset`, puts the
    /// receiver's around them, seals.
    fn pass_on(&mut self, offset: usize, len: usize) -> Result<Flow, FlowError> {
        let room = self.to.output.back_mut().map(Slot::room).unwrap_or_default();
        let (piece, before) = (offset..offset + len, self.to.framer.room_before());
        let piece = room.get_mut(piece).ok_or(FlowError::Receiver(RecordError::BufferTooSmall))?;
        let stripped = self.from.deframer.strip(piece).map_err(FlowError::Framing)?;
        if stripped.len > 0 {
            let place = room.get_mut(offset - before..).unwrap_or_default();
            let wrapped = self.to.framer.wrap(place, stripped.len).map_err(FlowError::Framing)?;
            self.to.seal_all(wrapped).map_err(FlowError::Receiver)?;
            self.bytes += stripped.len as u64;
        }
        // A peer that pings and does not read is owed nothing.
        if let Some(ping) = stripped.ping
            && self.from.output_bytes < PONGS_UP_TO_BYTES
            && self.from.output_end == OutputEnd::Open
        {
            let pong = self.from.framer.pong(&ping);
            let queued = self.from.append_words(self.arena, self.now_us, &pong);
            queued.map_err(FlowError::Sender)?;
        }
        Ok(stripped.leave.map_or(Flow::Open, Flow::Left))
    }

    /// The sender changed its key and asks for ours (RFC 8446 4.6.3). With
    /// output queued the answer waits for its turn, and then answers for all
    /// that was asked meanwhile: a sender that never reads gains nothing by
    /// asking again and again.
    fn answer_key_update(&mut self) -> Result<(), FlowError> {
        if self.from.output_bytes > 0 {
            return Ok(());
        }
        self.from.update_key_if_due(self.arena, self.now_us).map_err(FlowError::Sender)
    }

    /// Changes the receiver's key before it has protected too many records.
    pub(super) fn rekey_if_due(&mut self) -> Result<(), FlowError> {
        self.to.update_key_if_due(self.arena, self.now_us).map_err(FlowError::Receiver)
    }
}
