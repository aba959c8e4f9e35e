//! What the relay asks of a kernel: the whole interface between its state
//! machine and the outside. [`Ring`] is the real one; the simulation has one
//! that completes late, short, in any order, or not at all.

use std::fmt;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::net::{Shutdown, shutdown};

use super::ring::{Arena, Filled, Ring, Slot, Token};

/// Operations are asked for here and complete later, as
/// [`Completion`](super::ring::Completion)s.
pub trait Kernel {
    /// A connection; closed when dropped.
    type Socket: fmt::Debug;
    /// A receive buffer that holds bytes; given back with [`Kernel::recycle`].
    type Bytes: fmt::Debug;

    /// Arms a multishot receive. The socket stays open until it has ended.
    fn receive(&mut self, socket: &Self::Socket, token: Token);
    /// Asks for the end of the receive that was armed with this token.
    fn stop_receiving(&mut self, token: Token);
    /// Sends the unsent bytes of a slot, which comes back with the completion.
    fn send(&mut self, socket: &Self::Socket, token: Token, slot: Slot);
    /// Shuts a socket down at once; operations in flight complete.
    fn shutdown(&mut self, socket: &Self::Socket, how: Shutdown);
    fn bytes(&mut self, bytes: &Self::Bytes) -> &mut [u8];
    fn recycle(&mut self, bytes: Self::Bytes);
    /// Receive buffers that there are for the next turn.
    fn receives_at_once(&mut self) -> usize;
    /// Makes an output slot of a receive buffer; gives it back as it was when
    /// that cannot be.
    fn take_over(&mut self, bytes: Self::Bytes, arena: &mut Arena) -> Result<Slot, Self::Bytes>;
}

impl Kernel for Ring {
    type Socket = OwnedFd;
    type Bytes = Filled;

    fn receive(&mut self, socket: &OwnedFd, token: Token) {
        Self::receive(self, socket.as_fd(), token);
    }

    fn stop_receiving(&mut self, token: Token) {
        Self::stop_receiving(self, token);
    }

    fn send(&mut self, socket: &OwnedFd, token: Token, slot: Slot) {
        Self::send(self, socket.as_fd(), token, slot);
    }

    fn shutdown(&mut self, socket: &OwnedFd, how: Shutdown) {
        // Fails only when the peer has reset already: shut down enough.
        let _ = shutdown(socket, how);
    }

    fn bytes(&mut self, filled: &Filled) -> &mut [u8] {
        Self::bytes(self, filled)
    }

    fn recycle(&mut self, filled: Filled) {
        Self::recycle(self, filled);
    }

    fn receives_at_once(&mut self) -> usize {
        Self::receives_at_once(self)
    }

    fn take_over(&mut self, filled: Filled, arena: &mut Arena) -> Result<Slot, Filled> {
        Self::take_over(self, filled, arena)
    }
}
