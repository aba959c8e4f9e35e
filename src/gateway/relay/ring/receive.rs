//! The provided-buffer ring: receive buffers that the kernel picks from when
//! bytes arrive, so that an idle session owns none.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use io_uring::{Submitter, squeue};

use super::arena::{Arena, HEADROOM_BYTES, SLOT_BYTES, Slot};
use super::pages::Pages;

/// Size of one receive buffer. Up to here larger batches cost a relay less CPU
/// per byte.
pub const RX_BUFFER_BYTES: usize = RX_BUFFER_LENGTH as usize;
/// The same, as the kernel wants it.
const RX_BUFFER_LENGTH: u32 = 256 * 1024;
const _: () = assert!(HEADROOM_BYTES + RX_BUFFER_BYTES <= SLOT_BYTES);

/// What a bounded receive brings before it has to be armed again: a buffer.
pub const RECEIVE_BYTES_MAX: u32 = RX_BUFFER_LENGTH;

/// Bytes that the kernel may receive before they are looked at, if it has
/// buffers enough: what a small L2 cache holds.
const WORKING_SET_BYTES: usize = 512 * 1024;
/// One to look at and one to receive into.
const OFFERED_MIN: u16 = 2;

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
    /// By id. Each is as large as an output slot, which it may become.
    buffers: Vec<Pages>,
    tail: u16,
    /// Buffers that the kernel has.
    offered: u16,
    /// Buffers that it shall have.
    wanted: u16,
    /// Free buffers that it does not have.
    withheld: Vec<u16>,
    turn: Turn,
}

/// What was received since the last look.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    receives: usize,
    bytes: usize,
}

impl ReceiveBuffers {
    /// Registers `count` buffers (rounded up to a power of two) and gives all
    /// of them to the kernel.
    pub fn register(submitter: &Submitter<'_>, count: u16) -> io::Result<Self> {
        let count = count.clamp(1, 1_024).next_power_of_two();
        let entries = Pages::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let buffers = std::iter::repeat_with(|| Pages::new(SLOT_BYTES)).take(usize::from(count));
        let buffers = buffers.collect::<io::Result<_>>()?;
        let address = entries.start().as_ptr() as u64;
        // SAFETY: `entries` is page-aligned, large enough for `count` entries,
        // and outlives the ring: `Ring` drops the ring first.
        unsafe { submitter.register_buf_ring_with_flags(address, count, GROUP, 0) }?;
        let mut buffers = Self {
            entries,
            buffers,
            tail: 0,
            offered: 0,
            wanted: count,
            withheld: Vec::with_capacity(usize::from(count)),
            turn: Turn::default(),
        };
        for id in 0..count {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    /// A power of two, and at most 1,024.
    fn count(&self) -> u16 {
        u16::try_from(self.buffers.len()).unwrap_or(u16::MAX)
    }

    /// The handle for a buffer that a completion named. `None` when the kernel
    /// names one that does not exist or claims more bytes than fit, which a
    /// correct kernel never does.
    pub fn filled(&mut self, id: u16, length: usize) -> Option<Filled> {
        self.offered = self.offered.saturating_sub(1);
        self.turn.receives += 1;
        self.turn.bytes += length;
        (id < self.count() && length <= RX_BUFFER_BYTES).then_some(Filled { id, length })
    }

    pub fn bytes(&mut self, filled: &Filled) -> &mut [u8] {
        let Some(buffer) = self.buffers.get(usize::from(filled.id)) else { return &mut [] };
        let start = after_headroom(buffer);
        // SAFETY: `filled` was made by `filled()`, so that at most
        // `RX_BUFFER_BYTES` are asked for. The bytes are initialised (zeroed, then written by the
        // kernel). The kernel gave this buffer up when it named it and gets it
        // back only through `give_back`, which consumes the one `Filled` of
        // this id; `&mut self` keeps any other slice from existing.
        unsafe { std::slice::from_raw_parts_mut(start, filled.length) }
    }

    /// Makes an output slot of a buffer, of which the kernel has given up all;
    /// it gets a free slot's memory in its place. Without one nothing changes.
    pub fn take_over(&mut self, filled: Filled, arena: &mut Arena) -> Result<Slot, Filled> {
        let Some(buffer) = self.buffers.get_mut(usize::from(filled.id)) else { return Err(filled) };
        let Some(fresh) = arena.exchange() else { return Err(filled) };
        let taken = std::mem::replace(buffer, fresh);
        let slot = Slot::received(taken, filled.length);
        self.give_back(filled.into_id());
        Ok(slot)
    }

    /// Says how many buffers the kernel shall have from now on: as many as make
    /// up [`WORKING_SET_BYTES`] if all get as much as they did since this was last asked.
    /// What it receives before we see any of it then stays in the cache until it
    /// is sent on.
    pub fn adapt(&mut self) -> u16 {
        let Turn { receives, bytes } = std::mem::take(&mut self.turn);
        if receives > 0 {
            let fits = WORKING_SET_BYTES * receives / bytes.max(1);
            let fits = u16::try_from(fits).unwrap_or(u16::MAX);
            self.wanted = fits.clamp(OFFERED_MIN, self.count().max(OFFERED_MIN));
        }
        while self.offered < self.wanted
            && let Some(id) = self.withheld.pop()
        {
            self.publish(id);
        }
        self.wanted
    }

    /// Takes a buffer back that a completion has named, for the kernel to have
    /// now or later. Called once per named buffer.
    pub fn give_back(&mut self, id: u16) {
        if self.offered < self.wanted {
            self.publish(id);
        } else {
            self.withheld.push(id);
        }
    }

    fn publish(&mut self, id: u16) {
        let Some(buffer) = self.buffers.get(usize::from(id)) else { return };
        let index = usize::from(self.tail & (self.count() - 1));
        let base = self.entries.start().as_ptr().cast::<BufRingEntry>();
        let start = after_headroom(buffer);
        // SAFETY: `index` is below the count, so the entry is inside `entries`.
        let entry = unsafe { base.add(index) };
        // SAFETY: the entry at the tail is ours until the tail is stored; the
        // block is aligned, initialised memory that only we write.
        let entry = unsafe { &mut *entry };
        entry.set_addr(start as u64);
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
        self.offered += 1;
    }

    /// Leaves the memory to the kernel for good.
    pub fn leak(&mut self) {
        self.entries.leak();
        self.buffers.iter_mut().for_each(Pages::leak);
    }
}

/// Where the kernel writes in a buffer: at `RX_BUFFER_BYTES` that are inside it.
fn after_headroom(buffer: &Pages) -> *mut u8 {
    // SAFETY: every buffer has `SLOT_BYTES`, which are more than the headroom.
    unsafe { buffer.start().as_ptr().add(HEADROOM_BYTES) }
}
