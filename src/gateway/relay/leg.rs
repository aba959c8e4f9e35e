//! A leg while a worker has it: what it still owes its peer, whether it is
//! read, and how far it has closed.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::framing::{Deframer, Framer};
use super::kernel::Kernel;
use super::ring::{Arena, Slot, Token};
use super::session::Leg;
use crate::tls::record::{
    CONTROL_RECORD_LEN, MAX_OVERHEAD, MAX_PLAINTEXT_LEN, RecordError, RecordLayer,
};

/// Whether the kernel has a multishot receive of this leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Off,
    Armed,
    /// A stop was asked for and has not taken effect.
    Stopping,
}

/// How far what we send on this leg has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutputEnd {
    Open,
    /// `close_notify` is queued; nothing may follow.
    Finishing,
    /// `close_notify` is sent and the socket is shut down for writing.
    Finished,
}

#[derive(Debug)]
pub(super) struct LiveLeg<S> {
    pub socket: S,
    pub peer: SocketAddr,
    pub records: RecordLayer,
    pub deframer: Deframer,
    pub framer: Framer,
    pub token: Token,
    /// The first part of a record whose rest has not arrived. Empty, and
    /// without memory, in an idle leg.
    pub partial: Vec<u8>,
    /// Slots to send, oldest first; the last is still being filled. The one
    /// being sent is the ring's and not in here.
    pub output: VecDeque<Slot>,
    /// Bytes in `output` and in the send in flight.
    pub output_bytes: usize,
    pub sending: bool,
    pub receiving: Receiving,
    /// Not read because the other leg's output is at its cap.
    pub held_back: bool,
    /// Out of receive buffers: armed again at the end of the turn.
    pub starved: bool,
    /// In the list of legs to flush at the end of the turn.
    pub dirty: bool,
    /// The peer sent `close_notify`.
    pub input_closed: bool,
    pub output_end: OutputEnd,
    /// Operations in the kernel that name this leg's socket.
    pub operations: u32,
}

impl<S> LiveLeg<S> {
    pub fn new(leg: Leg<S>, token: Token) -> Self {
        Self {
            socket: leg.socket,
            peer: leg.peer,
            records: leg.records,
            deframer: leg.deframer,
            framer: leg.framer,
            token,
            partial: Vec::new(),
            output: VecDeque::new(),
            output_bytes: 0,
            sending: false,
            receiving: Receiving::Off,
            held_back: false,
            starved: false,
            dirty: false,
            input_closed: false,
            output_end: OutputEnd::Open,
            operations: 0,
        }
    }

    /// Makes sure that the last slot has room for `bytes` more.
    pub fn ensure_room(&mut self, bytes: usize, arena: &mut Arena, now_us: u64) {
        let fits = self.output.back().is_some_and(|slot| slot.room_bytes() >= bytes);
        if !fits {
            let mut slot = arena.take(bytes);
            slot.first_received_us = now_us;
            self.output.push_back(slot);
        }
    }

    /// Seals `length` bytes of plaintext, already in place in the last slot's
    /// room, as one record.
    pub fn seal(&mut self, length: usize) -> Result<(), RecordError> {
        let Some(slot) = self.output.back_mut() else { return Err(RecordError::BufferTooSmall) };
        let sealed = self.records.seal_in_place(slot.room(), length)?;
        slot.commit(sealed);
        self.output_bytes += sealed;
        Ok(())
    }

    /// Seals `length` bytes that lie in place, in as many records as they need:
    /// what was put before one record's worth may make it more than one.
    pub fn seal_all(&mut self, length: usize) -> Result<(), RecordError> {
        let Some(over) = length.checked_sub(MAX_PLAINTEXT_LEN).filter(|over| *over > 0) else {
            return self.seal(length);
        };
        // Sealing writes the tag where they are.
        let mut rest = [0; super::framing::HEADER_LEN_MAX];
        let offset = self.records.plaintext_offset();
        let room = self.output.back_mut().map(Slot::room).unwrap_or_default();
        let end = room.get(offset + MAX_PLAINTEXT_LEN..offset + length);
        let (Some(rest), Some(end)) = (rest.get_mut(..over), end) else {
            return Err(RecordError::BufferTooSmall);
        };
        rest.copy_from_slice(end);
        self.seal(MAX_PLAINTEXT_LEN)?;
        self.append_here(rest)
    }

    /// Queues a record with these bytes, for which there is room.
    fn append_here(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        let offset = self.records.plaintext_offset();
        let room = self.output.back_mut().map(Slot::room).unwrap_or_default();
        let place = room.get_mut(offset..offset + bytes.len());
        place.ok_or(RecordError::BufferTooSmall)?.copy_from_slice(bytes);
        self.seal(bytes.len())
    }

    /// Queues bytes that are ours, framed already: answers and farewells.
    pub fn append_words(
        &mut self,
        arena: &mut Arena,
        now_us: u64,
        words: &[u8],
    ) -> Result<(), RecordError> {
        for piece in words.chunks(MAX_PLAINTEXT_LEN) {
            self.update_key_if_due(arena, now_us)?;
            self.ensure_room(piece.len() + MAX_OVERHEAD, arena, now_us);
            self.append_here(piece)?;
        }
        Ok(())
    }

    /// Ends what we send, with these last words and `close_notify`.
    pub fn finish(
        &mut self,
        arena: &mut Arena,
        now_us: u64,
        words: &[u8],
    ) -> Result<(), RecordError> {
        if self.output_end != OutputEnd::Open {
            return Ok(());
        }
        self.output_end = OutputEnd::Finishing;
        self.append_words(arena, now_us, words)?;
        self.append_control(arena, now_us, |records, out| records.seal_close_notify(out))
    }

    /// Queues a record that is not data: an alert, `close_notify`, a key update.
    pub fn append_control(
        &mut self,
        arena: &mut Arena,
        now_us: u64,
        seal: impl FnOnce(&mut RecordLayer, &mut [u8]) -> Result<usize, RecordError>,
    ) -> Result<(), RecordError> {
        self.ensure_room(CONTROL_RECORD_LEN, arena, now_us);
        let Some(slot) = self.output.back_mut() else { return Err(RecordError::BufferTooSmall) };
        let sealed = seal(&mut self.records, slot.room())?;
        slot.commit(sealed);
        self.output_bytes += sealed;
        Ok(())
    }

    /// Queues a key update when the peer is owed one, or when our key has
    /// protected almost as many records as it may.
    pub fn update_key_if_due(&mut self, arena: &mut Arena, now_us: u64) -> Result<(), RecordError> {
        if !self.records.wants_key_update() {
            return Ok(());
        }
        self.append_control(arena, now_us, |records, out| records.seal_key_update(out, false))
    }

    /// Hands the oldest slot to the kernel unless a send is under way: at most
    /// one at a time keeps the bytes in order.
    pub fn flush(&mut self, kernel: &mut impl Kernel<Socket = S>, arena: &mut Arena) {
        if self.sending {
            return;
        }
        while let Some(slot) = self.output.pop_front() {
            if !slot.is_empty() {
                self.send(kernel, slot);
                return;
            }
            // Made for a record that turned out to carry no data.
            arena.put(slot);
        }
    }

    pub fn send(&mut self, kernel: &mut impl Kernel<Socket = S>, slot: Slot) {
        self.sending = true;
        self.operations += 1;
        kernel.send(&self.socket, self.token, slot);
    }

    /// Everything that was queued has been taken by the kernel.
    pub fn is_drained(&self) -> bool {
        !self.sending && self.output.is_empty()
    }
}
