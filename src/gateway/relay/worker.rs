//! The worker's loop: wait, handle what completed, do what was asked, send.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TrySendError};
use rustix::thread::{CpuSet, sched_setaffinity};
use slab::Slab;

use super::closing::Ending;
use super::leg::{LiveLeg, Receiving};
use super::ring::{Arena, Completion, Doorbell, ReceiveEnd, Ring, RingError, Token};
use super::session::{Session, SessionCounters, Side};
use super::{Command, Event, WorkerSettings, WorkerStats};
use crate::core::ids::{HostId, SessionId};
use crate::observe::close_reason::CloseReason;
use crate::observe::histograms::RelayHistograms;

/// Longest sleep: how late a timer may be noticed.
const TICK: Duration = Duration::from_millis(250);
/// Events kept when the control thread does not take them; more are dropped
/// and counted in the log.
const UNSENT_EVENTS_MAX: usize = 65_536;

/// The worker's ends of what connects it to the other threads.
pub(super) struct Ends {
    pub inbox: Receiver<Command>,
    pub bell: Arc<Doorbell>,
    pub events: Sender<Event>,
    pub events_bell: Arc<Doorbell>,
    pub stats: Arc<WorkerStats>,
}

pub(super) struct LiveSession {
    pub id: SessionId,
    pub host_id: HostId,
    pub client: LiveLeg,
    pub host: LiveLeg,
    pub counters: Arc<SessionCounters>,
    pub started_us: u64,
    pub last_activity_us: u64,
    pub first_to_close: Option<Side>,
    pub ending: Option<Ending>,
}

impl LiveSession {
    pub fn leg(&mut self, side: Side) -> &mut LiveLeg {
        match side {
            Side::Client => &mut self.client,
            Side::Host => &mut self.host,
        }
    }

    /// The leg on `side`, then the other.
    pub fn legs(&mut self, side: Side) -> (&mut LiveLeg, &mut LiveLeg) {
        match side {
            Side::Client => (&mut self.client, &mut self.host),
            Side::Host => (&mut self.host, &mut self.client),
        }
    }
}

pub(super) struct Worker {
    pub ring: Ring,
    pub arena: Arena,
    pub sessions: Slab<LiveSession>,
    /// Memory for partial records, reused.
    pub partials: Vec<Vec<u8>>,
    /// Legs to flush and legs to arm again at the end of this turn.
    pub dirty: Vec<(usize, Side)>,
    pub starved: Vec<(usize, Side)>,
    pub histograms: Box<RelayHistograms>,
    pub settings: WorkerSettings,
    /// Monotonic microseconds, read once a turn.
    pub now_us: u64,
    pub ends: Ends,
    unsent_events: VecDeque<Event>,
    epoch: Instant,
    next_tick_us: u64,
    generation: u32,
    stopping: bool,
}

impl Worker {
    pub fn new(settings: WorkerSettings, ends: Ends) -> Result<Self, RingError> {
        if let Some(core) = settings.core {
            let mut cores = CpuSet::new();
            cores.set(core);
            if let Err(error) = sched_setaffinity(None, &cores) {
                tracing::warn!(core, %error, "Could not pin a relay worker; it runs anywhere");
            }
        }
        let mut ring = Ring::new(settings.ring)?;
        ring.watch(&ends.bell);
        Ok(Self {
            ring,
            arena: Arena::new(settings.output_slots),
            sessions: Slab::with_capacity(1_024),
            partials: Vec::with_capacity(1_024),
            dirty: Vec::with_capacity(1_024),
            starved: Vec::with_capacity(1_024),
            histograms: Box::new(RelayHistograms::new()),
            settings,
            now_us: 0,
            ends,
            unsent_events: VecDeque::new(),
            epoch: Instant::now(),
            next_tick_us: 0,
            generation: 0,
            stopping: false,
        })
    }

    pub fn run(&mut self) {
        while !(self.stopping && self.sessions.is_empty() && self.unsent_events.is_empty()) {
            if let Err(error) = self.ring.submit_and_wait(TICK) {
                tracing::error!(%error, "The relay ring failed; its sessions end");
                self.abandon_all(&error.to_string());
                return;
            }
            self.now_us = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
            let completed = self.ring.collect();
            self.ends.stats.enters.fetch_add(1, Relaxed);
            self.ends.stats.completions.fetch_add(completed as u64, Relaxed);
            while let Some(completion) = self.ring.next() {
                self.on_completion(completion);
            }
            if self.now_us >= self.next_tick_us {
                self.next_tick_us = self.now_us + u64::try_from(TICK.as_micros()).unwrap_or(0);
                self.check_deadlines();
                self.send_events();
            }
            self.arm_starved();
            self.flush_dirty();
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        match completion {
            Completion::Received { token, bytes, armed } => match self.locate(token) {
                Some((index, side)) => self.on_received(index, side, bytes, armed),
                None => self.ring.recycle(bytes),
            },
            Completion::ReceiveEnded { token, end } => {
                if let Some((index, side)) = self.locate(token) {
                    self.on_receive_ended(index, side, end);
                }
            }
            Completion::Sent { token, slot, outcome } => match self.locate(token) {
                Some((index, side)) => self.on_sent(index, side, slot, outcome),
                None => self.arena.put(slot),
            },
            Completion::Rung => {
                self.ends.bell.hush();
                self.ring.watch(&self.ends.bell);
                while let Ok(command) = self.ends.inbox.try_recv() {
                    self.on_command(command);
                }
            }
        }
    }

    /// Which leg a completion belongs to; none when its session is gone.
    fn locate(&self, token: Token) -> Option<(usize, Side)> {
        let index = (token.leg / 2) as usize;
        let side = if token.leg.is_multiple_of(2) { Side::Client } else { Side::Host };
        let session = self.sessions.get(index)?;
        (session.client.token.generation == token.generation).then_some((index, side))
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Start(session) => self.start(*session),
            Command::End { session, reason } => {
                let found = self.sessions.iter().find(|(_, live)| live.id == session);
                if let Some((index, _)) = found {
                    self.end_politely(index, reason);
                }
            }
            Command::ExchangeHistograms(empty) => {
                let full = std::mem::replace(&mut self.histograms, empty);
                self.tell(Event::Histograms(full));
            }
            Command::Stop(reason) => {
                self.stopping = true;
                let all: Vec<usize> = self.sessions.iter().map(|(index, _)| index).collect();
                for index in all {
                    self.end_politely(index, reason);
                }
            }
        }
    }

    fn start(&mut self, mut session: Session) {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.sessions.vacant_entry();
        let index = entry.key();
        // Session limits are far below what a token can name.
        let leg = u32::try_from(index * 2).unwrap_or(u32::MAX);
        let early = [(Side::Client, &mut session.client), (Side::Host, &mut session.host)].map(
            |(side, leg)| {
                let plaintext = std::mem::take(&mut leg.early_plaintext);
                (side, plaintext, std::mem::take(&mut leg.early_ciphertext))
            },
        );
        entry.insert(LiveSession {
            id: session.id,
            host_id: session.host_id,
            client: LiveLeg::new(session.client, Token::new(leg, self.generation)),
            host: LiveLeg::new(session.host, Token::new(leg + 1, self.generation)),
            counters: session.counters,
            started_us: self.now_us,
            last_activity_us: self.now_us,
            first_to_close: None,
            ending: None,
        });
        for (side, plaintext, ciphertext) in early {
            self.relay_early(index, side, &plaintext, &ciphertext);
        }
        for side in [Side::Client, Side::Host] {
            self.regulate(index, side);
            self.mark_dirty(index, side);
        }
        if self.stopping {
            self.end_politely(index, CloseReason::GatewayShutdown);
        }
    }

    fn on_receive_ended(&mut self, index: usize, side: Side, end: ReceiveEnd) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let leg = session.leg(side);
        leg.receiving = Receiving::Off;
        leg.operations = leg.operations.saturating_sub(1);
        match end {
            ReceiveEnd::NoBuffer => {
                if !leg.starved {
                    leg.starved = true;
                    self.starved.push((index, side));
                }
                self.ends.stats.starved.fetch_add(1, Relaxed);
            }
            ReceiveEnd::Stopped => self.regulate(index, side),
            ReceiveEnd::EndOfStream => self.on_end_of_stream(index, side),
            ReceiveEnd::Failed(errno) => self.on_socket_failure(index, side, errno),
        }
        self.reap(index);
    }

    fn arm_starved(&mut self) {
        let mut starved = std::mem::take(&mut self.starved);
        for (index, side) in starved.drain(..) {
            if let Some(session) = self.sessions.get_mut(index) {
                session.leg(side).starved = false;
                self.regulate(index, side);
            }
        }
        self.starved = starved;
    }

    /// The one gate: every arming and every stopping of a receive is decided
    /// here, from the state alone. A leg is read while its session lives, it
    /// has not closed, and its peer's output is below the cap.
    pub fn regulate(&mut self, index: usize, side: Side) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let ending = session.ending.is_some();
        let (leg, other) = session.legs(side);
        let cap = if self.arena.is_scarce() {
            self.settings.limits.leg_output_bytes_max / 8
        } else {
            self.settings.limits.leg_output_bytes_max
        };
        let resume_at = if leg.held_back { cap / 2 } else { cap };
        let was_held_back = std::mem::replace(&mut leg.held_back, other.output_bytes > resume_at);
        if leg.held_back && !was_held_back {
            self.ends.stats.held_back.fetch_add(1, Relaxed);
        }
        let wanted = !ending && !leg.input_closed && !leg.held_back && !leg.starved;
        match (leg.receiving, wanted) {
            (Receiving::Off, true) => {
                leg.receiving = Receiving::Armed;
                leg.operations += 1;
                self.ring.receive(leg.socket.as_fd(), leg.token);
            }
            (Receiving::Armed, false) if !leg.starved => {
                leg.receiving = Receiving::Stopping;
                self.ring.stop_receiving(leg.token);
            }
            _ => {}
        }
    }

    pub fn mark_dirty(&mut self, index: usize, side: Side) {
        if let Some(session) = self.sessions.get_mut(index) {
            let leg = session.leg(side);
            if !leg.dirty {
                leg.dirty = true;
                self.dirty.push((index, side));
            }
        }
    }

    fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for (index, side) in dirty.drain(..) {
            if let Some(session) = self.sessions.get_mut(index) {
                let leg = session.leg(side);
                leg.dirty = false;
                leg.flush(&mut self.ring, &mut self.arena);
            }
        }
        self.dirty = dirty;
    }

    pub fn tell(&mut self, event: Event) {
        if self.unsent_events.len() >= UNSENT_EVENTS_MAX {
            tracing::error!("The control thread does not keep up; an event is lost");
            return;
        }
        self.unsent_events.push_back(event);
        self.send_events();
    }

    fn send_events(&mut self) {
        let mut sent = false;
        while let Some(event) = self.unsent_events.pop_front() {
            match self.ends.events.try_send(event) {
                Ok(()) => sent = true,
                Err(TrySendError::Full(event)) => {
                    self.unsent_events.push_front(event);
                    break;
                }
                // Nobody is left to tell.
                Err(TrySendError::Disconnected(_)) => self.unsent_events.clear(),
            }
        }
        if sent {
            self.ends.events_bell.ring();
        }
        self.ends.stats.arena_overflows.store(self.arena.overflows, Relaxed);
    }
}
