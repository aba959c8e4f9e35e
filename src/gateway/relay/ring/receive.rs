//! The provided-buffer ring: receive buffers that the kernel picks from when
//! bytes arrive, so that an idle session owns none.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use io_uring::{Submitter, squeue};

use super::pages::Pages;

/// Size of one receive buffer. Up to here larger batches cost a relay less CPU
/// per byte; beyond, the fewer of them that fit the cache cost small messages
/// more, of which each takes a whole one.
pub const RX_BUFFER_BYTES: usize = RX_BUFFER_LENGTH as usize;
/// The same, as the kernel wants it.
const RX_BUFFER_LENGTH: u32 = 128 * 1024;

/// What a bounded receive brings before it has to be armed again: as much of
/// one sender as fits an output slot, and less than all buffers.
pub const RECEIVE_BYTES_MAX: u32 = 2 * RX_BUFFER_LENGTH;

/// The one buffer group.
pub const GROUP: u16 = 0;

/// Where `struct io_uring_sqe` has `optlen`, for which the crate has no setter.
const OPTLEN_OFFSET: usize = 44;

/// A receive buffer that holds bytes. Exactly one exists per buffer that the
/// kernel has handed over; consuming it is the only way to give it back.
#[derive(Debug)]
#[must_use = "a receive buffer that is not recycled is lost"]
pub struct Filled {
    id: u16,
    length: usize,
}

impl Filled {
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn into_id(self) -> u16 {
        self.id
    }
}

/// Has a multishot receive end after this many bytes.
pub fn bound(entry: &mut squeue::Entry, bytes: u32) {
    const { assert!(size_of::<squeue::Entry>() == 64) };
    let start = std::ptr::from_mut(entry).cast::<u8>();
    // SAFETY: an entry has 64 bytes, so its bytes 44 to 48 are inside.
    let optlen = unsafe { start.add(OPTLEN_OFFSET) };
    // SAFETY: the entry is borrowed for writing and is a C struct of integers
    // alone, of which every bit pattern is valid.
    unsafe { optlen.cast::<u32>().write_unaligned(bytes) };
}

/// All receive buffers of one ring.
pub struct ReceiveBuffers {
    /// What the kernel reads: entries that describe free buffers.
    entries: Pages,
    memory: Pages,
    count: u16,
    tail: u16,
}

impl ReceiveBuffers {
    /// Registers `count` buffers (rounded up to a power of two) and gives all
    /// of them to the kernel.
    pub fn register(submitter: &Submitter<'_>, count: u16) -> io::Result<Self> {
        let count = count.clamp(1, 1_024).next_power_of_two();
        let entries = Pages::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Pages::new(usize::from(count) * RX_BUFFER_BYTES)?;
        let address = entries.start().as_ptr() as u64;
        // SAFETY: `entries` is page-aligned, large enough for `count` entries,
        // and outlives the ring: `Ring` drops the ring first.
        unsafe { submitter.register_buf_ring_with_flags(address, count, GROUP, 0) }?;
        let mut buffers = Self { entries, memory, count, tail: 0 };
        for id in 0..count {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    /// The handle for a buffer that a completion named. `None` when the kernel
    /// names one that does not exist or claims more bytes than fit, which a
    /// correct kernel never does.
    pub fn filled(&self, id: u16, length: usize) -> Option<Filled> {
        (id < self.count && length <= RX_BUFFER_BYTES).then_some(Filled { id, length })
    }

    pub fn bytes(&mut self, filled: &Filled) -> &mut [u8] {
        let offset = usize::from(filled.id) * RX_BUFFER_BYTES;
        // SAFETY: `filled` was made by `filled()`, so id and length are in
        // bounds of `memory`.
        let start = unsafe { self.memory.start().as_ptr().add(offset) };
        // SAFETY: the bytes are initialised (zeroed, then written by the
        // kernel). The kernel gave this buffer up when it named it and gets it
        // back only through `give_back`, which consumes the one `Filled` of
        // this id; `&mut self` keeps any other slice from existing.
        unsafe { std::slice::from_raw_parts_mut(start, filled.length) }
    }

    /// Publishes buffer `id` to the kernel. Called once per named buffer.
    pub fn give_back(&mut self, id: u16) {
        if id >= self.count {
            return;
        }
        let index = usize::from(self.tail & (self.count - 1));
        let base = self.entries.start().as_ptr().cast::<BufRingEntry>();
        // SAFETY: `id` is below `count`, so the offset is inside `memory`.
        let buffer = unsafe { self.memory.start().as_ptr().add(usize::from(id) * RX_BUFFER_BYTES) };
        // SAFETY: `index` is below `count`, so the entry is inside `entries`.
        let entry = unsafe { base.add(index) };
        // SAFETY: the entry at the tail is ours until the tail is stored; the
        // block is aligned, initialised memory that only we write.
        let entry = unsafe { &mut *entry };
        entry.set_addr(buffer as u64);
        entry.set_len(RX_BUFFER_LENGTH);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` is the start of a registered buffer ring.
        let tail = unsafe { BufRingEntry::tail(base) }.cast_mut();
        // SAFETY: the tail word lives as long as `entries`, is two-byte
        // aligned, and is written by nobody but this thread.
        let tail = unsafe { AtomicU16::from_ptr(tail) };
        // Release: the kernel must see the entry before the tail that covers it.
        tail.store(self.tail, Ordering::Release);
    }

    /// Leaves the memory to the kernel for good.
    pub fn leak(&mut self) {
        self.entries.leak();
        self.memory.leak();
    }
}
