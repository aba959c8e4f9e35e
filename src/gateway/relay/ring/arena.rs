//! Output slots: where records for a leg are sealed and from where they are
//! sent. A worker has one arena; idle legs own nothing of it.
//!
//! A slot may have been a receive buffer until now. What was received into it is
//! relayed within it, from front to back:
//!
//! ```text
//! |  sent  | sealed, to be sent |  room  | received, to be relayed |  unused  |
//!          ^ sent               ^ filled ^ unread.start            ^ unread.end
//! ```

use std::io;
use std::ops::Range;

use super::pages::Pages;

/// What one turn of the worker brings for a leg is sent as a whole, so a slot
/// takes several receive buffers: sends of this size are where a relay's CPU
/// per byte bottoms out, smaller ones cost up to three times as much.
pub const SLOT_BYTES: usize = 288 * 1024;

/// Room in a slot before what was received into it: for the part of a record
/// that was kept from before, and for what goes around records beyond what they
/// had around them.
pub const HEADROOM_BYTES: usize = 20 * 1024;

/// A piece of output: filled once front to back, then sent, then reused.
#[derive(Debug)]
pub struct Slot {
    memory: Memory,
    filled: usize,
    sent: usize,
    /// What was received into it and is still to be relayed; without such,
    /// empty and at its end.
    unread: Range<usize>,
    /// Monotonic microseconds at which the first byte in it was received.
    pub first_received_us: u64,
}

#[derive(Debug)]
enum Memory {
    /// The arena's, mapped until that is dropped.
    Pooled(Pages),
    /// Allocated for one use.
    Extra(Vec<u8>),
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Pooled(pages) => {
                // SAFETY: the pages are initialised and mapped as long as they
                // are borrowed. Nobody else has a pointer to them but the
                // kernel while it sends from them, and that only reads.
                unsafe { std::slice::from_raw_parts(pages.start().as_ptr(), pages.len()) }
            }
            Self::Extra(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Pooled(pages) => {
                // SAFETY: as above; and while the kernel sends from the pages
                // the ring has the slot, so that nobody can call this.
                unsafe { std::slice::from_raw_parts_mut(pages.start().as_ptr(), pages.len()) }
            }
            Self::Extra(bytes) => bytes,
        }
    }
}

impl Slot {
    fn new(memory: Memory) -> Self {
        let end = memory.bytes().len();
        Self { memory, filled: 0, sent: 0, unread: end..end, first_received_us: 0 }
    }

    /// A receive buffer with `length` bytes to relay.
    pub(super) fn received(pages: Pages, length: usize) -> Self {
        Self::holding(Memory::Pooled(pages), length)
    }

    /// The same in memory of its own, for kernels that are models.
    #[cfg(test)]
    pub fn received_for_test(bytes: &[u8]) -> Self {
        let mut memory = vec![0; HEADROOM_BYTES];
        memory.extend(bytes);
        Self::holding(Memory::Extra(memory), bytes.len())
    }

    fn holding(memory: Memory, length: usize) -> Self {
        let mut slot = Self::new(memory);
        slot.unread = HEADROOM_BYTES..HEADROOM_BYTES + length;
        (slot.filled, slot.sent) = (HEADROOM_BYTES, HEADROOM_BYTES);
        slot
    }

    /// Puts `bytes` before what was received, and lets what is sealed begin
    /// `lead` bytes before them. Both have to fit [`HEADROOM_BYTES`].
    pub fn begin(&mut self, bytes: &[u8], lead: usize) {
        let end = self.unread.start;
        let start = end.saturating_sub(bytes.len());
        if let Some(place) = self.memory.bytes_mut().get_mut(start..end)
            && place.len() == bytes.len()
        {
            place.copy_from_slice(bytes);
            self.unread.start = start;
        }
        self.filled = self.unread.start.saturating_sub(lead);
        self.sent = self.filled;
    }

    /// Received bytes that are still to be relayed.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.memory.bytes().get(self.unread.clone()).unwrap_or_default()
    }

    /// The room with the first `length` unread bytes after it.
    pub fn room_and_unread(&mut self, length: usize) -> &mut [u8] {
        let window = self.filled..self.unread.start.saturating_add(length).min(self.unread.end);
        self.memory.bytes_mut().get_mut(window).unwrap_or_default()
    }

    /// Makes the first `length` unread bytes room.
    pub fn mark_read(&mut self, length: usize) {
        self.unread.start = self.unread.start.saturating_add(length).min(self.unread.end);
    }

    /// Makes all to the end of the slot room.
    pub fn forget_unread(&mut self) {
        let end = self.memory.bytes().len();
        self.unread = end..end;
    }

    /// The unused part, to write records into; [`Slot::commit`] keeps them.
    pub fn room(&mut self) -> &mut [u8] {
        let room = self.filled..self.unread.start;
        self.memory.bytes_mut().get_mut(room).unwrap_or_default()
    }

    #[must_use]
    pub fn room_bytes(&self) -> usize {
        self.unread.start.saturating_sub(self.filled)
    }

    /// Keeps the first `length` bytes of the room.
    pub fn commit(&mut self, length: usize) {
        self.filled = self.filled.saturating_add(length).min(self.unread.start);
    }

    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        self.memory.bytes().get(self.sent..self.filled).unwrap_or_default()
    }

    /// The kernel took `length` bytes.
    pub fn mark_sent(&mut self, length: usize) {
        self.sent = self.sent.saturating_add(length).min(self.filled);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == self.sent
    }

    #[must_use]
    pub fn filled_bytes(&self) -> usize {
        self.filled
    }
}

/// A worker's slots, last in first out: the slot used next is the one still in
/// the cache.
#[derive(Debug)]
pub struct Arena {
    free: Vec<Slot>,
    total: usize,
    /// Slots made because the arena was empty; each is one allocation.
    pub overflows: u64,
}

impl Arena {
    /// An arena of `slots` slots. Their pages are touched on first use only.
    ///
    /// # Errors
    /// When there is no address space for them.
    pub fn new(slots: usize) -> io::Result<Self> {
        let pages = std::iter::repeat_with(|| Pages::new(SLOT_BYTES)).take(slots);
        let free = pages.map(|pages| Ok(Slot::new(Memory::Pooled(pages?))));
        Ok(Self { free: free.collect::<io::Result<_>>()?, total: slots, overflows: 0 })
    }

    /// A slot with room for at least `at_least` bytes. When stalled readers
    /// hold the whole arena, a small one of exactly that size is allocated:
    /// the receive gate bounds how many of those there can be.
    pub fn take(&mut self, at_least: usize) -> Slot {
        if at_least <= SLOT_BYTES
            && let Some(slot) = self.free.pop()
        {
            return slot;
        }
        self.overflows += 1;
        Slot::new(Memory::Extra(vec![0; at_least]))
    }

    pub fn put(&mut self, mut slot: Slot) {
        if matches!(slot.memory, Memory::Pooled(_)) {
            slot.filled = 0;
            slot.sent = 0;
            slot.forget_unread();
            self.free.push(slot);
        }
    }

    /// The memory of a slot that was used last, in exchange for some that comes
    /// back with [`Arena::put`].
    pub(super) fn exchange(&mut self) -> Option<Pages> {
        match self.free.pop()?.memory {
            Memory::Pooled(pages) => Some(pages),
            // None of these is ever among the free.
            Memory::Extra(_) => None,
        }
    }

    /// Less than an eighth is free: readers that lag must be held back harder.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.free.len() * 8 < self.total
    }

    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.free.len()
    }

    #[must_use]
    pub fn total_slots(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_and_overflow_is_counted_and_freed() {
        let mut arena = Arena::new(1).unwrap();
        let mut slot = arena.take(10);
        slot.room()[..3].copy_from_slice(b"abc");
        slot.commit(3);
        assert_eq!(slot.unsent(), b"abc");
        slot.mark_sent(2);
        assert_eq!(slot.unsent(), b"c");
        let extra = arena.take(100);
        assert_eq!(arena.overflows, 1);
        arena.put(extra);
        assert_eq!(arena.free_slots(), 0);
        arena.put(slot);
        assert_eq!(arena.free_slots(), 1);
        assert!(arena.take(10).is_empty());
    }

    #[test]
    fn what_was_received_is_relayed_within_the_slot() {
        let mut slot = Slot::received_for_test(b"cdef");
        slot.begin(b"ab", 3);
        assert_eq!((slot.unread(), slot.room_bytes()), (&b"abcdef"[..], 3));
        assert_eq!(&slot.room_and_unread(2)[3..], b"ab");
        slot.mark_read(2);
        slot.room().copy_from_slice(b"ABABA");
        slot.commit(4);
        assert_eq!(
            (slot.unsent(), slot.unread(), slot.room_bytes()),
            (&b"ABAB"[..], &b"cdef"[..], 1)
        );
        slot.commit(9);
        assert_eq!(slot.unsent(), b"ABABA", "what is unread is never sent");
        slot.forget_unread();
        assert_eq!((slot.unread(), slot.room_bytes()), (&b""[..], 4));
    }
}
