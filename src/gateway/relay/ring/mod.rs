//! The relay worker's io_uring: the only room with `unsafe` in it.
//!
//! What makes it sound, in one paragraph: memory that the kernel may touch is
//! owned by the [`Ring`] for as long as it may touch it. A [`Slot`] is moved
//! *into* the ring by [`Ring::send`] and comes back out with its completion; a
//! receive buffer belongs to the kernel until a completion names it, is then
//! represented by exactly one [`Filled`], and goes back by consuming that. No
//! caller can drop, move or write either while the kernel has it, whatever the
//! caller does with its sessions. `LIFECYCLE.md` beside this file has the
//! states.
//!
//! Set-up order follows firecracker's: created disabled, buffers registered,
//! restricted to the operations used here, then enabled. After that the ring
//! cannot be made to open files or dial out, whatever is pushed into it.

#![allow(unsafe_code, reason = "the one room where it is allowed")]

mod arena;
mod doorbell;
mod error;
mod features;
mod pages;
mod receive;
mod schedule;
mod socket;
mod token;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

pub use self::arena::{Arena, HEADROOM_BYTES, SLOT_BYTES, Slot};
pub use self::doorbell::Doorbell;
pub use self::error::RingError;
pub use self::features::Features;
pub use self::receive::{Filled, RX_BUFFER_BYTES};
pub use self::schedule::take_short_turns;
pub use self::socket::{bell_readiness, listener_readiness, round_trip_us, stream_readiness};
pub use self::token::Token;

use self::receive::ReceiveBuffers;
use self::token::Kind;

/// What a worker's ring is made of. The completion queue is several times the
/// sessions, because a multishot receive can post many before it is read.
#[derive(Clone, Copy, Debug)]
pub struct RingSettings {
    /// Submissions that fit between two system calls.
    pub submission_entries: u32,
    /// Completions that fit before the kernel has to keep overflow.
    pub completion_entries: u32,
    /// Receive buffers of [`RX_BUFFER_BYTES`] each, shared by all sessions. A
    /// power of two.
    pub rx_buffers: u16,
    /// What of newer kernels is used.
    pub features: Features,
}

impl Default for RingSettings {
    fn default() -> Self {
        Self {
            submission_entries: 1_024,
            completion_entries: 16_384,
            rx_buffers: 8,
            features: Features::LINUX_6_1,
        }
    }
}

/// How a multishot receive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveEnd {
    /// The peer sent FIN.
    EndOfStream,
    /// Every receive buffer is in use; arm again once one is back.
    NoBuffer,
    /// [`Ring::stop_receiving`] took effect.
    Stopped,
    /// The socket failed with this errno.
    Failed(i32),
}

/// What came back from the kernel.
#[derive(Debug)]
pub enum Completion<B = Filled> {
    /// Bytes. Without `armed` the multishot receive ended with them.
    Received { token: Token, bytes: B, armed: bool },
    /// No bytes, and the receive is not armed any more.
    ReceiveEnded { token: Token, end: ReceiveEnd },
    /// A send is over; the slot is the caller's again. Bytes accepted, or errno.
    Sent { token: Token, slot: Slot, outcome: Result<usize, i32> },
    /// Somebody rang the watched [`Doorbell`].
    Rung,
}

/// One worker's ring. Lives and dies on its thread (`SINGLE_ISSUER`).
///
/// Field order is drop order: the ring goes before the memory it points into.
pub struct Ring {
    ring: IoUring,
    receive: ReceiveBuffers,
    sending: Slab<Slot>,
    batch: Vec<cqueue::Entry>,
    /// Entries that did not fit into the submission queue.
    backlog: VecDeque<squeue::Entry>,
    /// Operations that the kernel has and has not finished.
    in_kernel: usize,
    /// Those of them that may write to a receive buffer.
    receiving: usize,
    /// Bytes after which a receive ends by itself; 0: never.
    receive_bytes_max: u32,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("in_kernel", &self.in_kernel)
            .field("sending", &self.sending.len())
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// Makes, fills, restricts and enables a ring for the calling thread.
    ///
    /// # Errors
    /// Names the sysctl, limit or kernel version that is in the way.
    pub fn new(settings: RingSettings) -> Result<Self, RingError> {
        let ring: IoUring = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(settings.completion_entries)
            .build(settings.submission_entries)
            .map_err(RingError::at("the ring"))?;
        let receive = ReceiveBuffers::register(&ring.submitter(), settings.rx_buffers)
            .map_err(RingError::at("registering its receive buffers"))?;

        let mut allowed = [
            Restriction::sqe_op(opcode::RecvMulti::CODE),
            Restriction::sqe_op(opcode::Send::CODE),
            Restriction::sqe_op(opcode::PollAdd::CODE),
            Restriction::sqe_op(opcode::AsyncCancel::CODE),
            Restriction::sqe_flags_allowed(squeue::Flags::BUFFER_SELECT.bits()),
        ];
        ring.submitter()
            .register_restrictions(&mut allowed)
            .map_err(RingError::at("restricting it"))?;
        ring.submitter().register_enable_rings().map_err(RingError::at("enabling it"))?;

        let batch = Vec::with_capacity(ring.params().cq_entries() as usize);
        Ok(Self {
            ring,
            receive,
            sending: Slab::with_capacity(1_024),
            batch,
            backlog: VecDeque::new(),
            in_kernel: 0,
            receiving: 0,
            receive_bytes_max: if settings.features.bounded_receive {
                receive::RECEIVE_BYTES_MAX
            } else {
                0
            },
        })
    }

    /// Arms a multishot receive. The caller keeps `socket` open until the
    /// receive has ended.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, token: Token) {
        let mut entry = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), receive::GROUP)
            .build()
            .user_data(token.pack(Kind::Receive, 0));
        if self.receive_bytes_max > 0 {
            receive::bound(&mut entry, self.receive_bytes_max);
        }
        self.receiving += 1;
        self.push(&entry);
    }

    /// Asks the kernel to end the receive armed with this token. It ends with
    /// [`ReceiveEnd::Stopped`], or on its own just before.
    pub fn stop_receiving(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(token.pack(Kind::Receive, 0))
            .build()
            .user_data(token.pack(Kind::Cancel, 0));
        self.push(&entry);
    }

    /// Sends the unsent bytes of `slot`, which is the ring's until the
    /// completion hands it back. The caller keeps `socket` open until then.
    pub fn send(&mut self, socket: BorrowedFd<'_>, token: Token, slot: Slot) {
        let unsent = slot.unsent();
        let (start, length) = (unsent.as_ptr(), unsent.len());
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        // A slot is far smaller than 4 GiB.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let key = self.sending.insert(slot);
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), start, length)
            .flags(flags)
            .build()
            .user_data(token.pack(Kind::Send, key));
        self.push(&entry);
    }

    /// Completes with [`Completion::Rung`] whenever the bell is rung.
    pub fn watch(&mut self, bell: &Doorbell) {
        let interest = u32::try_from(libc::POLLIN).unwrap_or(1);
        let entry = opcode::PollAdd::new(Fd(bell.as_fd().as_raw_fd()), interest)
            .build()
            .user_data(Token::NONE.pack(Kind::Bell, 0));
        self.push(&entry);
    }

    fn push(&mut self, entry: &squeue::Entry) {
        self.in_kernel += 1;
        if self.backlog.is_empty() && self.try_push(entry) {
            return;
        }
        // Full: hand the kernel what is there. If it takes nothing now, the
        // entry waits, in order, for the next turn.
        let _ = self.ring.submit();
        self.backlog.push_back(entry.clone());
        self.push_backlog();
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: every pointer in an entry made above is into memory that this
        // ring owns until the completion: a slot in `sending`, whose heap block
        // does not move with it, or nothing at all.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Submits everything and waits for at least one completion or `timeout`.
    ///
    /// # Errors
    /// Only those that no retry can mend.
    pub fn submit_and_wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.push_backlog();
        // With entries left over, come back for them at once.
        let timeout = if self.backlog.is_empty() { timeout } else { Duration::ZERO };
        let timeout = Timespec::from(timeout);
        let arguments = SubmitArgs::new().timespec(&timeout);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Time is up, a signal came, or completions wait to be read.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes what has completed so far; [`Ring::next`] gives it out.
    ///
    /// Collected first and handled afterwards, so that handling may push.
    pub fn collect(&mut self) -> usize {
        self.batch.clear();
        let batch = &mut self.batch;
        batch.extend(self.ring.completion());
        batch.reverse();
        batch.len()
    }

    /// The next collected completion.
    #[expect(clippy::should_implement_trait, reason = "the caller uses the ring in between")]
    pub fn next(&mut self) -> Option<Completion> {
        loop {
            let entry = self.batch.pop()?;
            if let Some(completion) = self.interpret(&entry) {
                return Some(completion);
            }
        }
    }

    fn interpret(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let (token, kind, key) = Token::unpack(entry.user_data());
        let armed = cqueue::more(entry.flags());
        if !armed {
            self.in_kernel = self.in_kernel.saturating_sub(1);
        }
        let result = entry.result();
        match kind {
            Kind::Receive => {
                if !armed {
                    self.receiving = self.receiving.saturating_sub(1);
                }
                let buffer = cqueue::buffer_select(entry.flags());
                match (usize::try_from(result), buffer) {
                    (Ok(length), Some(id)) if length > 0 => {
                        let bytes = self.receive.filled(id, length)?;
                        Some(Completion::Received { token, bytes, armed })
                    }
                    (_, buffer) => {
                        // A buffer may have been picked and nothing written into it.
                        if let Some(filled) = buffer.and_then(|id| self.receive.filled(id, 0)) {
                            self.receive.give_back(filled.into_id());
                        }
                        let end = match result {
                            0.. => ReceiveEnd::EndOfStream,
                            _ if result == -libc::ENOBUFS => ReceiveEnd::NoBuffer,
                            _ if result == -libc::ECANCELED => ReceiveEnd::Stopped,
                            _ => ReceiveEnd::Failed(-result),
                        };
                        Some(Completion::ReceiveEnded { token, end })
                    }
                }
            }
            Kind::Send => {
                let slot = self.sending.try_remove(key)?;
                let outcome = usize::try_from(result).map_err(|_| -result);
                Some(Completion::Sent { token, slot, outcome })
            }
            Kind::Bell => Some(Completion::Rung),
            Kind::Cancel => None,
        }
    }

    /// The received bytes. They may be changed in place.
    pub fn bytes(&mut self, filled: &Filled) -> &mut [u8] {
        self.receive.bytes(filled)
    }

    /// Gives a receive buffer back to the kernel.
    pub fn recycle(&mut self, filled: Filled) {
        self.receive.give_back(filled.into_id());
    }

    /// How many legs can receive before any is looked at; after each turn.
    pub fn receives_at_once(&mut self) -> usize {
        self.receive.adapt().into()
    }

    /// Makes an output slot of a receive buffer, so that what was received is
    /// relayed where it is. The kernel gets a free slot's memory instead; when
    /// there is none, nothing changes.
    ///
    /// # Errors
    /// The buffer, as it was.
    pub fn take_over(&mut self, filled: Filled, arena: &mut Arena) -> Result<Slot, Filled> {
        self.receive.take_over(filled, arena)
    }

    /// Operations that the kernel has not finished.
    #[must_use]
    pub fn in_kernel(&self) -> usize {
        self.in_kernel
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Closing a ring cancels what is in flight, but not before close()
        // returns. Memory that the kernel may still use is leaked rather than
        // freed; an orderly worker stops with only its bell in flight.
        for slot in self.sending.drain() {
            std::mem::forget(slot);
        }
        if self.receiving > 0 {
            self.receive.leak();
        }
    }
}

#[cfg(test)]
mod tests;
