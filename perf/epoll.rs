//! A relay as one writes it first: one thread, epoll, level-triggered, one
//! buffer for everybody, no TLS. For the comparison only; it shows what the
//! kernel's TCP path costs without cryptography.
//!
//! Each connection gets one to the sink. A direction is one receive of at most
//! 256 KiB and one send; what does not fit stays with the leg, whose peer is not
//! read until it is gone. An end of stream is passed on for its direction alone.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use clap::Parser;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use slab::Slab;

const BUFFER_LEN: usize = 256 * 1024;
/// The buffer begins with a page: some processors copy thirty times slower where
/// the target lies a few bytes further into its page than the source.
const PAGE_LEN: usize = 4096;
/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
/// No pair has this number: the listener's.
const LISTENER: u64 = u64::MAX;

#[derive(Debug, Parser)]
#[command(about = "A plain epoll relay, for comparison")]
struct Args {
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Where each connection is relayed to
    #[arg(long, value_name = "ADDR")]
    sink: SocketAddr,
}

/// One of the two connections of a pair.
struct Leg {
    socket: TcpStream,
    /// What it is registered for; `None` when it is finished both ways.
    interest: Option<EventFlags>,
    ended: bool,
    shut: bool,
    /// What could not be sent yet, from `sent` on.
    pending: Vec<u8>,
    sent: usize,
}

struct Pair {
    legs: [Leg; 2],
}

struct Relay {
    epoll: OwnedFd,
    pairs: Slab<Pair>,
    sink: SocketAddr,
    memory: Vec<u8>,
    /// Where the first page in it begins: see `PAGE_LEN`.
    buffer_start: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind(args.listen)
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let memory = vec![0; BUFFER_LEN + PAGE_LEN];
    let buffer_start = memory.as_ptr().align_offset(PAGE_LEN);
    let mut relay = Relay { epoll, pairs: Slab::new(), sink: args.sink, memory, buffer_start };
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        events.clear();
        match epoll::wait(&relay.epoll, spare_capacity(&mut events), None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        for Event { flags, data } in events.iter().copied() {
            match data.u64() {
                LISTENER => relay.accept(&listener)?,
                number => relay.turn(number, flags),
            }
        }
    }
}

impl Relay {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            match listener.accept() {
                // One that cannot be relayed is closed, as any proxy would.
                Ok((client, _)) => drop(self.join(client)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn join(&mut self, client: TcpStream) -> io::Result<()> {
        // On loopback this does not wait.
        let sink = TcpStream::connect(self.sink)?;
        let slot = self.pairs.vacant_entry();
        let number = slot.key() as u64 * 2;
        for (socket, number) in [(&client, number), (&sink, number + 1)] {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            epoll::add(&self.epoll, socket, EventData::new_u64(number), EventFlags::IN)?;
        }
        slot.insert(Pair { legs: [Leg::new(client), Leg::new(sink)] });
        Ok(())
    }

    /// Serves one leg of a pair; a failed pair is closed.
    fn turn(&mut self, number: u64, flags: EventFlags) {
        let Ok(key) = usize::try_from(number / 2) else { return };
        // Gone by an earlier event of the same batch.
        let Some(Pair { legs: [client, sink] }) = self.pairs.get_mut(key) else { return };
        let (own, peer) = if number.is_multiple_of(2) { (client, sink) } else { (sink, client) };
        let goes_on = own.flush(flags).and_then(|()| {
            let buffer = self.memory.get_mut(self.buffer_start..).unwrap_or_default();
            own.pass_on(peer, flags, buffer)?;
            own.pass_end_on(peer)?;
            peer.pass_end_on(own)?;
            own.register(&self.epoll, number, peer)?;
            peer.register(&self.epoll, number ^ 1, own)?;
            Ok(own.interest.is_some() || peer.interest.is_some())
        });
        if !goes_on.unwrap_or(false) {
            self.pairs.remove(key);
        }
    }
}

impl Leg {
    const fn new(socket: TcpStream) -> Self {
        let interest = Some(EventFlags::IN);
        Self { socket, interest, ended: false, shut: false, pending: Vec::new(), sent: 0 }
    }

    /// Sends what had to wait.
    fn flush(&mut self, flags: EventFlags) -> io::Result<()> {
        if self.pending.is_empty() || !flags.contains(EventFlags::OUT) {
            return Ok(());
        }
        let rest = self.pending.get(self.sent..).unwrap_or_default();
        self.sent += send(&self.socket, rest)?;
        if self.sent == self.pending.len() {
            (self.pending, self.sent) = (Vec::new(), 0);
        }
        Ok(())
    }

    /// Receives once and sends it to the peer.
    fn pass_on(&mut self, peer: &mut Self, flags: EventFlags, buffer: &mut [u8]) -> io::Result<()> {
        let readable = EventFlags::IN | EventFlags::HUP | EventFlags::ERR;
        if self.ended || !peer.pending.is_empty() || !flags.intersects(readable) {
            return Ok(());
        }
        let length = match (&self.socket).read(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        self.ended = length == 0;
        let received = buffer.get(..length).unwrap_or_default();
        let sent = send(&peer.socket, received)?;
        peer.pending.extend_from_slice(received.get(sent..).unwrap_or_default());
        Ok(())
    }

    fn pass_end_on(&self, peer: &mut Self) -> io::Result<()> {
        if self.ended && peer.pending.is_empty() && !peer.shut {
            peer.shut = true;
            peer.socket.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// Tells the kernel what this leg waits for now, if that changed.
    fn register(&mut self, epoll: &OwnedFd, number: u64, peer: &Self) -> io::Result<()> {
        let reads = !self.ended && peer.pending.is_empty();
        let mut wanted = if reads { EventFlags::IN } else { EventFlags::empty() };
        wanted.set(EventFlags::OUT, !self.pending.is_empty());
        // Finished both ways it would report a hang-up for ever.
        let wanted = (!self.ended || !self.shut).then_some(wanted);
        if wanted == self.interest {
            return Ok(());
        }
        match wanted {
            Some(flags) => epoll::modify(epoll, &self.socket, EventData::new_u64(number), flags)?,
            None => epoll::delete(epoll, &self.socket)?,
        }
        self.interest = wanted;
        Ok(())
    }
}

/// Sends what fits now.
fn send(mut socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    match socket.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        outcome => outcome,
    }
}
