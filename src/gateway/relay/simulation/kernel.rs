//! A kernel that does its worst within what io_uring allows: completes late,
//! in any order between sockets, short, with ENOBUFS, and ends a multishot
//! receive whenever it likes, and after a number of bytes where that is asked
//! for.

use std::collections::{HashMap, VecDeque};

use rustix::net::Shutdown;

use crate::core::random::Random;
use crate::gateway::relay::kernel::Kernel;
use crate::gateway::relay::ring::{Arena, Completion, ReceiveEnd, Slot, Token};

/// A socket of the model.
#[derive(Debug)]
pub struct SimSocket(pub usize);

/// A receive buffer that the relay has.
#[derive(Debug)]
pub struct SimBytes {
    id: usize,
}

/// Both directions of one connection, from the gateway's point of view.
#[derive(Debug, Default)]
pub struct Wire {
    /// Sent by the peer, not received yet.
    pub inbound: VecDeque<u8>,
    /// The peer's FIN comes after what is inbound.
    pub inbound_fin: bool,
    /// Sent by the gateway, not taken by the peer yet.
    pub outbound: VecDeque<u8>,
    pub outbound_fin: bool,
    /// What the peer's window takes beyond what is outbound.
    pub window: usize,
    pub reset: bool,
    read_shut: bool,
    write_shut: bool,
}

/// An operation that has not completed.
#[derive(Debug)]
enum Operation {
    /// `left` bytes until it ends by itself.
    Receive {
        socket: usize,
        token: Token,
        left: Option<usize>,
    },
    Send {
        socket: usize,
        token: Token,
        slot: Slot,
    },
    Stop {
        token: Token,
    },
}

#[derive(Debug)]
pub struct SimKernel {
    pub wires: Vec<Wire>,
    operations: Vec<Operation>,
    buffers: HashMap<usize, Vec<u8>>,
    free: Vec<usize>,
    buffers_total: usize,
    buffer_bytes: usize,
    /// Bytes after which every receive ends; none as on Linux 6.1.
    bound_bytes: Option<usize>,
}

impl SimKernel {
    pub fn new(buffers_total: usize, buffer_bytes: usize, bound_bytes: Option<usize>) -> Self {
        Self {
            wires: Vec::new(),
            operations: Vec::new(),
            buffers: HashMap::new(),
            free: (0..buffers_total).collect(),
            buffers_total,
            buffer_bytes,
            bound_bytes,
        }
    }

    /// Most bytes of one peer that are received before the relay sees any.
    pub fn overshoot_bytes(&self) -> usize {
        let all = self.buffers_total * self.buffer_bytes;
        self.bound_bytes.map_or(all, |bound| bound.min(all))
    }

    pub fn connect(&mut self) -> SimSocket {
        self.wires.push(Wire { window: 4_096, ..Wire::default() });
        SimSocket(self.wires.len() - 1)
    }

    /// Nothing in flight, every buffer home.
    pub fn assert_at_rest(&self) {
        // A stop that has nothing to stop any more touches no memory.
        let real = self.operations.iter().find(|op| !matches!(op, Operation::Stop { .. }));
        assert!(real.is_none(), "in flight: {real:?}");
        assert_eq!(self.free.len(), self.buffers_total, "receive buffers leaked");
    }

    /// Completes one operation that can complete, chosen at random. `None`
    /// when none can: everything waits for a peer.
    pub fn complete_one(&mut self, random: &mut Random) -> Option<Completion<SimBytes>> {
        let start = random.below(self.operations.len().max(1));
        for offset in 0..self.operations.len() {
            let index = (start + offset) % self.operations.len();
            if let Some(completion) = self.try_complete(index, random) {
                return Some(completion);
            }
            // A stop that found nothing to stop is gone without a word.
            if index >= self.operations.len() {
                return self.complete_one(random);
            }
        }
        None
    }

    fn try_complete(&mut self, index: usize, random: &mut Random) -> Option<Completion<SimBytes>> {
        match &self.operations[index] {
            Operation::Receive { socket, token, left } => {
                let (socket, token, left) = (*socket, *token, *left);
                self.complete_receive(index, socket, token, left, random)
            }
            Operation::Send { socket, .. } => {
                let socket = *socket;
                self.complete_send(index, socket, random)
            }
            Operation::Stop { token } => {
                let token = *token;
                self.operations.remove(index);
                let armed = self.operations.iter().position(
                    |op| matches!(op, Operation::Receive { token: armed, .. } if *armed == token),
                );
                match armed {
                    Some(armed) => {
                        self.operations.remove(armed);
                        Some(Completion::ReceiveEnded { token, end: ReceiveEnd::Stopped })
                    }
                    None => Some(Completion::Rung),
                }
            }
        }
    }

    fn complete_receive(
        &mut self,
        index: usize,
        socket: usize,
        token: Token,
        left: Option<usize>,
        random: &mut Random,
    ) -> Option<Completion<SimBytes>> {
        let wire = &mut self.wires[socket];
        if wire.reset {
            self.operations.remove(index);
            let end = ReceiveEnd::Failed(libc::ECONNRESET);
            return Some(Completion::ReceiveEnded { token, end });
        }
        if wire.inbound.is_empty() || wire.read_shut {
            if wire.inbound_fin || wire.read_shut {
                self.operations.remove(index);
                let end = ReceiveEnd::EndOfStream;
                return Some(Completion::ReceiveEnded { token, end });
            }
            return None;
        }
        let Some(id) = self.free.pop() else {
            self.operations.remove(index);
            return Some(Completion::ReceiveEnded { token, end: ReceiveEnd::NoBuffer });
        };
        let most = wire.inbound.len().min(self.buffer_bytes).min(left.unwrap_or(usize::MAX));
        let length = if random.chance(50) { most } else { random.spread(1, most) };
        self.buffers.insert(id, wire.inbound.drain(..length).collect());
        let left = left.map(|left| left - length);
        // The kernel may end a multishot with any completion.
        let armed = left != Some(0) && !random.chance(10);
        if armed {
            self.operations[index] = Operation::Receive { socket, token, left };
        } else {
            self.operations.remove(index);
        }
        Some(Completion::Received { token, bytes: SimBytes { id }, armed })
    }

    fn complete_send(
        &mut self,
        index: usize,
        socket: usize,
        random: &mut Random,
    ) -> Option<Completion<SimBytes>> {
        let wire = &mut self.wires[socket];
        let broken = wire.reset || wire.write_shut;
        if !broken && wire.window == 0 {
            return None;
        }
        let Operation::Send { token, slot, .. } = self.operations.remove(index) else {
            unreachable!("the caller looked")
        };
        if broken {
            return Some(Completion::Sent { token, slot, outcome: Err(libc::EPIPE) });
        }
        let unsent = slot.unsent();
        let most = unsent.len().min(wire.window);
        let length = if random.chance(60) { most } else { random.spread(1, most) };
        wire.outbound.extend(&unsent[..length]);
        wire.window -= length;
        Some(Completion::Sent { token, slot, outcome: Ok(length) })
    }
}

impl Kernel for SimKernel {
    type Socket = SimSocket;
    type Bytes = SimBytes;

    fn receive(&mut self, socket: &SimSocket, token: Token) {
        let twice = self
            .operations
            .iter()
            .any(|op| matches!(op, Operation::Receive { socket: s, .. } if *s == socket.0));
        assert!(!twice, "two receives on one socket would split its bytes");
        let receive = Operation::Receive { socket: socket.0, token, left: self.bound_bytes };
        self.operations.push(receive);
    }

    fn stop_receiving(&mut self, token: Token) {
        self.operations.push(Operation::Stop { token });
    }

    fn send(&mut self, socket: &SimSocket, token: Token, slot: Slot) {
        assert!(!slot.unsent().is_empty(), "nothing to send");
        let twice = self
            .operations
            .iter()
            .any(|op| matches!(op, Operation::Send { socket: s, .. } if *s == socket.0));
        assert!(!twice, "two sends on one socket could change places");
        self.operations.push(Operation::Send { socket: socket.0, token, slot });
    }

    fn shutdown(&mut self, socket: &SimSocket, how: Shutdown) {
        let wire = &mut self.wires[socket.0];
        if matches!(how, Shutdown::Write | Shutdown::Both) && !wire.write_shut {
            wire.write_shut = true;
            wire.outbound_fin = true;
        }
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            wire.read_shut = true;
        }
    }

    fn bytes(&mut self, bytes: &SimBytes) -> &mut [u8] {
        self.buffers.get_mut(&bytes.id).unwrap()
    }

    fn recycle(&mut self, bytes: SimBytes) {
        self.buffers.remove(&bytes.id).unwrap();
        self.free.push(bytes.id);
    }
    fn receives_at_once(&mut self) -> usize {
        self.buffers_total
    }

    fn take_over(&mut self, bytes: SimBytes, _: &mut Arena) -> Result<Slot, SimBytes> {
        // Some numbers of free slots are none.
        if bytes.id == 3 {
            return Err(bytes);
        }
        let received = self.buffers.remove(&bytes.id).unwrap();
        self.free.push(bytes.id);
        Ok(Slot::received_for_test(&received))
    }
}
