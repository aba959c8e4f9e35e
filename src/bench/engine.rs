//! The load engine: one thread, one epoll, both ends of every session, so that
//! one clock times a message from end to end.
//!
//! Arrival is open-loop: messages have a time at which they are to be sent,
//! whatever became of those before, and their age counts from then.

mod io;
mod plan;
mod shakes;
mod unclaimed;

use std::collections::{BinaryHeap, VecDeque};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::OwnedSemaphorePermit;

use self::plan::Due;
pub use self::shakes::Pace;
use self::shakes::Shakes;
use self::unclaimed::Unclaimed;
use super::greeting::Greeting;
use super::leg::{Leg, LegError, Scratch};
use super::profile::Profile;
use super::session::{Later, Session, State, Wire};
use super::tally::{Faults, Tally};
use crate::core::random::Random;
use crate::core::tickets::Role;
use crate::gateway::relay::ring::Doorbell;
use crate::tls::record::MAX_OPENED_LEN;

/// Read and written at once. Larger than a socket's usual fill.
const BATCH_BYTES: usize = 256 * 1024;
/// Turns of one leg before the others have theirs.
const TURNS_IN_A_ROW: usize = 4;
/// How often [`Engine::run`] looks whether it is done, at least.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const EVENTS_AT_ONCE: usize = 1_024;
const BACKLOG: i32 = 4_096;
/// What a client sends first when the far relay knows no sessions: its number.
const HELLO_BYTES: usize = 8;

/// Asks somebody to bring a session about; both legs come as [`Command`]s.
pub type Opener = Box<dyn FnMut(u32)>;

/// What the engine is told from outside.
#[derive(Debug)]
pub enum Command {
    /// Dial this leg of a session.
    Dial {
        session: u32,
        side: Role,
        address: SocketAddr,
        name: ServerName<'static>,
        greeting: Greeting,
        /// Of a client that is placed by the gateway.
        placed: Option<PlacedByGateway>,
    },
    /// Dial a host's leg of a session whose client is going to tell it which.
    DialHost { address: SocketAddr, name: ServerName<'static>, greeting: Greeting },
    /// A session will not come about.
    Failed { session: u32, why: String },
}

/// What belongs to a client whose session nobody but the gateway can name.
#[derive(Debug)]
pub struct PlacedByGateway {
    /// Its second connection, for when the first has been answered.
    pub second: Option<Greeting>,
    /// Given back when its session is open.
    pub turn: OwnedSemaphorePermit,
}

/// How sessions come about.
#[expect(missing_debug_implementations, reason = "an opener is a closure")]
pub enum Route {
    /// Somebody arranges them and says where to dial.
    Arranged { opener: Opener, commands: Receiver<Command>, bell: Arc<Doorbell> },
    /// The client dials this relay, which dials our sink.
    Through { relay: SocketAddr, sink: SocketAddr, sink_tls: Option<Arc<ServerConfig>> },
    /// There are none, handshakes alone.
    Nowhere,
}

/// What an engine is made of.
#[expect(missing_debug_implementations, reason = "a route is none")]
pub struct EngineSettings {
    pub route: Route,
    /// For every leg that dials; absent: without TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// Where handshakes without a session go.
    pub shake_at: Option<(SocketAddr, ServerName<'static>)>,
    pub seed: u64,
    /// Which ways bulk goes.
    pub bulk: (bool, bool),
}

/// Whom a readiness is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Leg(u32, Wire),
    Unclaimed(usize),
    Shake(usize),
    Listener,
    Bell,
}

impl Target {
    fn pack(self) -> EventData {
        let (kind, key) = match self {
            Self::Leg(session, Wire::Client) => (0, u64::from(session)),
            Self::Leg(session, Wire::Host) => (1, u64::from(session)),
            Self::Unclaimed(key) => (2, key as u64),
            Self::Shake(key) => (3, key as u64),
            Self::Listener => (4, 0),
            Self::Bell => (5, 0_u64),
            Self::Leg(session, Wire::ClientIn) => (6, u64::from(session)),
        };
        EventData::new_u64(kind << 56 | key)
    }

    fn unpack(data: u64) -> Self {
        let key = data & ((1 << 56) - 1);
        // Packed from these very types.
        let (session, index) =
            (u32::try_from(key).unwrap_or(u32::MAX), usize::try_from(key).unwrap_or(usize::MAX));
        match data >> 56 {
            0 => Self::Leg(session, Wire::Client),
            1 => Self::Leg(session, Wire::Host),
            2 => Self::Unclaimed(index),
            3 => Self::Shake(index),
            4 => Self::Listener,
            6 => Self::Leg(session, Wire::ClientIn),
            _ => Self::Bell,
        }
    }
}

/// Sessions by what became of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Census {
    pub asked: u32,
    pub opened: u32,
    pub closed: u32,
    pub failed: u32,
}

/// See the module.
pub struct Engine {
    epoll: OwnedFd,
    epoch: Instant,
    route: Route,
    listener: Option<TcpListener>,
    tls: Option<Arc<ClientConfig>>,
    bulk: (bool, bool),
    /// By number.
    sessions: Vec<Session>,
    unclaimed: Slab<Unclaimed>,
    shakes: Shakes,
    due: BinaryHeap<Due>,
    /// Legs that were interrupted in the middle of their work.
    ready: VecDeque<(u32, Wire)>,
    random: Random,
    is_traffic_on: bool,
    congestion_control: Option<String>,
    input: Vec<u8>,
    output: Vec<u8>,
    scratch: Box<Scratch>,
    pub tally: Tally,
    pub faults: Faults,
    pub census: Census,
}

impl Engine {
    /// # Errors
    /// When the sink cannot be opened, or no descriptor is left.
    pub fn new(settings: EngineSettings) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut listener = None;
        match &settings.route {
            Route::Arranged { bell, .. } => {
                epoll::add(&epoll, bell.as_fd(), Target::Bell.pack(), EventFlags::IN)?;
            }
            Route::Through { sink, .. } => {
                let socket =
                    Socket::new(Domain::for_address(*sink), Type::STREAM, Some(Protocol::TCP))?;
                socket.set_reuse_address(true)?;
                socket.set_nonblocking(true)?;
                socket.bind(&(*sink).into())?;
                socket.listen(BACKLOG)?;
                epoll::add(&epoll, &socket, Target::Listener.pack(), EventFlags::IN)?;
                listener = Some(TcpListener::from(socket));
            }
            Route::Nowhere => {}
        }
        Ok(Self {
            epoll,
            epoch: Instant::now(),
            route: settings.route,
            listener,
            shakes: Shakes::new(settings.shake_at),
            tls: settings.tls,
            bulk: settings.bulk,
            sessions: Vec::new(),
            unclaimed: Slab::new(),
            due: BinaryHeap::new(),
            ready: VecDeque::new(),
            random: Random::new(settings.seed),
            is_traffic_on: false,
            congestion_control: None,
            input: vec![0; BATCH_BYTES],
            output: Vec::with_capacity(2 * BATCH_BYTES),
            scratch: Box::new([0; MAX_OPENED_LEN]),
            tally: Tally::new(),
            faults: Faults::default(),
            census: Census::default(),
        })
    }

    /// Begins one more session.
    pub fn open(&mut self, profile: Profile) {
        let number = self.census.asked;
        self.census.asked += 1;
        self.sessions.push(Session::new(number, profile));
        match &mut self.route {
            Route::Arranged { opener, .. } => opener(number),
            Route::Through { relay, .. } => {
                let relay = *relay;
                let name = ServerName::from(relay.ip());
                let first = Later { address: relay, name, greeting: Greeting::None };
                self.tell_host(number);
                self.dial(number, Wire::Client, first);
            }
            Route::Nowhere => self.fail(number, "there is nowhere to open it"),
        }
    }

    /// Has the clients of all sessions from this number on not read.
    pub fn stall_from(&mut self, number: u32, stalled: bool) {
        for (index, session) in (0_u32..).zip(&mut self.sessions).skip(number as usize) {
            if let Some(client) = &mut session.client {
                client.stalled = stalled;
            }
            if !stalled {
                self.ready.push_back((index, Wire::Client));
            }
        }
    }

    /// The end of this session will be no fault.
    pub fn expect_end(&mut self, number: u32) {
        if let Some(session) = self.sessions.get_mut(number as usize) {
            session.is_doomed = true;
        }
    }

    /// What the first leg that was opened has.
    #[must_use]
    pub fn congestion_control(&self) -> Option<String> {
        self.congestion_control.clone()
    }

    #[must_use]
    pub fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    /// Sessions that have opened and are not over.
    #[must_use]
    pub const fn live(&self) -> u32 {
        let Census { opened, closed, failed, .. } = self.census;
        opened.saturating_sub(closed).saturating_sub(failed)
    }

    /// Runs until it is done or the time is up; `look` is asked again and
    /// again and may change things. Says whether it was done.
    ///
    /// # Errors
    /// When the machine gives out.
    pub fn run(
        &mut self,
        at_most: Duration,
        mut look: impl FnMut(&mut Self) -> bool,
    ) -> anyhow::Result<bool> {
        let until_ns = self.now_ns().saturating_add(nanos(at_most));
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut next_look_ns = 0;
        loop {
            let now_ns = self.now_ns();
            if now_ns >= next_look_ns {
                next_look_ns = now_ns + nanos(LOOK_INTERVAL);
                if look(self) {
                    return Ok(true);
                }
                if now_ns >= until_ns {
                    return Ok(false);
                }
            }
            let wake_ns = next_look_ns.min(until_ns).min(self.next_due_ns());
            let pause = if self.ready.is_empty() { wake_ns.saturating_sub(now_ns) } else { 0 };
            let timeout = Timespec::try_from(Duration::from_nanos(pause))?;
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&timeout),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                self.on_ready(Target::unpack(event.data.u64()), event.flags);
            }
            self.send_due();
            self.shake_due();
            for _ in 0..self.ready.len() {
                if let Some((session, wire)) = self.ready.pop_front() {
                    self.advance(session, wire);
                }
            }
        }
    }

    fn now_ns(&self) -> u64 {
        nanos(self.epoch.elapsed())
    }

    fn on_ready(&mut self, target: Target, flags: EventFlags) {
        match target {
            Target::Leg(session, wire) => {
                if let Some(session) = self.sessions.get_mut(session as usize)
                    && let Some(leg) = session.leg(wire)
                {
                    leg.blocked &= !flags.contains(EventFlags::OUT);
                    let end = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
                    leg.hung_up |= flags.intersects(end);
                }
                self.advance(session, wire);
            }
            Target::Unclaimed(key) => self.hear_hello(key),
            Target::Shake(key) => self.advance_shake(key),
            Target::Listener => self.accept(),
            Target::Bell => self.take_commands(),
        }
    }

    fn take_commands(&mut self) {
        let Route::Arranged { commands, bell, .. } = &self.route else { return };
        bell.hush();
        let all: Vec<Command> = commands.try_iter().collect();
        for command in all {
            match command {
                Command::Dial { session, side, address, name, greeting, placed } => {
                    let wire = if side == Role::Host { Wire::Host } else { Wire::Client };
                    if let Some(PlacedByGateway { second, turn }) = placed {
                        self.tell_host(session);
                        if let Some(session) = self.sessions.get_mut(session as usize) {
                            session.turn = Some(turn);
                            let name = name.clone();
                            session.client_in_later =
                                second.map(|greeting| Later { address, name, greeting });
                        }
                    }
                    self.dial(session, wire, Later { address, name, greeting });
                }
                Command::DialHost { address, name, greeting } => {
                    self.dial_unclaimed(Later { address, name, greeting });
                }
                Command::Failed { session, why } => self.fail(session, &why),
            }
        }
    }

    /// The client of this session is to say whose session it is.
    fn tell_host(&mut self, number: u32) {
        if let Some(session) = self.sessions.get_mut(number as usize) {
            session.is_told = true;
        }
    }

    fn dial(&mut self, number: u32, wire: Wire, to: Later) {
        let dialled = self.begin_leg(Target::Leg(number, wire), to);
        match (dialled, self.sessions.get_mut(number as usize)) {
            (Ok(leg), Some(session)) => {
                // Without TLS there is nothing to wait for.
                let is_open = leg.is_open();
                *session.leg(wire) = Some(leg);
                if is_open {
                    self.on_leg_open(number, wire);
                }
            }
            (Err(error), _) => self.fail(number, &error.to_string()),
            (Ok(_), None) => {}
        }
    }

    fn begin_leg(&self, target: Target, to: Later) -> Result<Leg, LegError> {
        let tls = self.tls.clone().map(|config| (config, to.name));
        let socket = dial(to.address)?;
        self.watch(&socket, target)?;
        Leg::dialling(socket, tls, to.greeting)
    }

    fn watch(&self, socket: &TcpStream, target: Target) -> Result<(), std::io::Error> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, target.pack(), flags)?)
    }

    /// Takes a session out with a fault.
    fn fail(&mut self, number: u32, why: &str) {
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        if session.is_over() {
            return;
        }
        let state = session.state;
        session.drop_legs();
        session.state = State::Failed;
        // What opened counts as live until it is over.
        if state == State::Opening {
            self.census.opened += 1;
        }
        self.census.failed += 1;
        self.faults.add(format!("session {number} ({state:?}): {why}"));
    }
}

/// Begins to connect.
fn dial(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("census", &self.census).finish_non_exhaustive()
    }
}
