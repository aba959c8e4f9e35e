//! Relaying within the buffer that was received into, which costs no copy in
//! user space and touches half the memory: records are opened and sealed where
//! they lie, and sent from there. `ring::Slot` has a picture.
//!
//! What goes around a record may be more on one leg than on the other. Then what
//! is sealed begins some way before what was received; when that is used up, the
//! rest goes to another slot.

use super::flow::{Flow, FlowError, Path, keep};
use super::ring::{HEADROOM_BYTES, RX_BUFFER_BYTES, Slot};
use crate::tls::record::{Framed, MAX_OVERHEAD, MAX_RECORD_LEN, next_record};

/// Growth of records within a slot for which there is room: some hundreds of
/// records, which even in small ones is most of a receive buffer.
const LEAD_BYTES_MAX: usize = 3 * 1024;
const _: () = assert!(MAX_RECORD_LEN + LEAD_BYTES_MAX <= HEADROOM_BYTES);

/// When a receive buffer is made an output slot, so that what was received is
/// relayed where it lies. Until it is sent it keeps a whole slot.
#[derive(Clone, Copy, Debug)]
pub struct WithinSettings {
    /// With nothing else queued for the receiver: from this many bytes on, which
    /// cost more to copy than an exchange of buffers does.
    pub bytes_min: usize,
    /// With something queued: it may wait for long, and shall not keep many
    /// times its size.
    pub queued_bytes_min: usize,
    /// How far before what was received that which is sent may begin, where
    /// records grow on their way.
    pub lead_bytes: usize,
}

impl Default for WithinSettings {
    fn default() -> Self {
        Self {
            bytes_min: 8 * 1024,
            queued_bytes_min: RX_BUFFER_BYTES / 2,
            lead_bytes: LEAD_BYTES_MAX,
        }
    }
}

impl<S> Path<'_, S> {
    /// Relays all whole records of a slot that was received into: each is opened
    /// and sealed where it lies, and the slot is the receiver's next. The part of
    /// a record from before goes in front, that at the end is kept.
    pub(super) fn relay_within(&mut self, mut slot: Slot) -> Result<Flow, FlowError> {
        slot.first_received_us = self.now_us;
        slot.begin(&self.from.partial, self.lead());
        if !self.from.partial.is_empty() {
            let mut memory = std::mem::take(&mut self.from.partial);
            memory.clear();
            self.partials.push(memory);
        }
        self.to.output.push_back(slot);
        let at = self.to.output.len() - 1;
        let outcome = self.relay_unread(at);
        if let Some(slot) = self.to.output.get_mut(at) {
            slot.forget_unread();
        }
        outcome
    }

    /// Relays what is unread in the slot at `at`, the last one.
    fn relay_unread(&mut self, at: usize) -> Result<Flow, FlowError> {
        loop {
            let unread = self.to.output.get(at).map(Slot::unread).unwrap_or_default();
            if unread.is_empty() {
                return Ok(Flow::Open);
            }
            let Framed::Complete { total_len: len, .. } =
                next_record(unread).map_err(FlowError::Sender)?
            else {
                keep(unread, self.from, self.partials);
                return Ok(Flow::Open);
            };
            self.rekey_if_due()?;
            if !self.fits_within(at, len) {
                return self.relay_elsewhere(at);
            }
            match self.relay_record_within(len)? {
                Flow::Open => {}
                over => return Ok(over),
            }
        }
    }

    /// Relays one record within the last slot, of which it is the first unread.
    fn relay_record_within(&mut self, record_len: usize) -> Result<Flow, FlowError> {
        let Some(slot) = self.to.output.back_mut() else { return Ok(Flow::Open) };
        let record_at = slot.room_bytes();
        let offset = self.to.records.plaintext_offset() + self.to.framer.room_before();
        let window = slot.room_and_unread(record_len);
        let opened = self.from.records.open_within(window, record_at, offset);
        slot.mark_read(record_len);
        self.pass_on_opened(opened, offset)
    }

    /// The slot at `at` is still the last, and what becomes of its first unread
    /// record ends before the next.
    fn fits_within(&self, at: usize, record_len: usize) -> bool {
        let (from, to) = (&self.from.records, &self.to.records);
        let before = self.to.framer.room_before();
        let Some(slot) = self.to.output.get(at) else { return false };
        let room = slot.room_bytes();
        let content_max = before + record_len.saturating_sub(from.sealed_len(0));
        // Headers may make it two records.
        let another = if before == 0 { 0 } else { MAX_OVERHEAD };
        self.to.output.len() == at + 1
            && to.sealed_len(content_max) + another <= room + record_len
            && to.plaintext_offset() + before <= room + from.plaintext_offset()
    }

    /// Room for records to grow, if the receiver's are the longer ones.
    fn lead(&self) -> usize {
        let (from, to) = (&self.from.records, &self.to.records);
        let before = self.to.framer.room_before();
        let grows = to.sealed_len(before) > from.sealed_len(0)
            || to.plaintext_offset() + before > from.plaintext_offset();
        if grows { self.lead_bytes.min(LEAD_BYTES_MAX) } else { 0 }
    }

    /// Relays what is unread in the slot at `at` into slots after it.
    fn relay_elsewhere(&mut self, at: usize) -> Result<Flow, FlowError> {
        let Some(slot) = self.to.output.remove(at) else { return Ok(Flow::Open) };
        if self.to.output.len() == at {
            // Or it would go where there is room before what is sealed already.
            let mut next = self.arena.take(slot.unread().len() + MAX_OVERHEAD);
            next.first_received_us = self.now_us;
            self.to.output.push_back(next);
        }
        let outcome = self.relay(slot.unread());
        self.to.output.insert(at, slot);
        outcome
    }
}
