//! The relay as a state machine: completions and orders in, operations and
//! events out. It owns no thread, reads no clock and makes no system call, so
//! that the simulation can put it before a kernel that does its worst.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use slab::Slab;

use super::closing::Ending;
use super::framing::Framer;
use super::kernel::Kernel;
use super::leg::{LiveLeg, OutputEnd, Receiving};
use super::ring::{Arena, Completion, ReceiveEnd, Token};
use super::session::{Leg, Session, SessionCounters, Side};
use super::{Event, WorkerSettings, WorkerStats};
use crate::core::ids::{HostId, SessionId};
use crate::observe::close_reason::CloseReason;
use crate::observe::histograms::RelayHistograms;

/// Events kept when the control thread does not take them; more are dropped,
/// and the log says so.
const EVENTS_UNSENT_MAX: usize = 65_536;
/// Places in the table of tokens for one session: two legs, and the second
/// connection of some clients.
const LEGS_PER_SESSION: u32 = 4;

pub(super) struct LiveSession<S> {
    pub id: SessionId,
    pub host_id: HostId,
    pub client: LiveLeg<S>,
    pub host: LiveLeg<S>,
    /// Where the client sends, if it does not where it receives.
    pub inbound: Option<Box<LiveLeg<S>>>,
    pub counters: Arc<SessionCounters>,
    pub started_us: u64,
    pub last_activity_us: u64,
    pub first_to_close: Option<Side>,
    pub ending: Option<Ending>,
}

impl<S> LiveSession<S> {
    /// The sides that there are.
    pub fn sides(&self) -> &'static [Side] {
        match self.inbound {
            None => &[Side::Client, Side::Host],
            Some(_) => &[Side::Client, Side::Host, Side::Inbound],
        }
    }

    /// Sides of which it is asked are among [`LiveSession::sides`].
    pub fn leg(&mut self, side: Side) -> &mut LiveLeg<S> {
        match (side, self.inbound.as_deref_mut()) {
            (Side::Host, _) => &mut self.host,
            (Side::Inbound, Some(inbound)) => inbound,
            (Side::Client | Side::Inbound, _) => &mut self.client,
        }
    }

    /// The leg on `side`, then the one that gets what comes there.
    pub fn legs(&mut self, side: Side) -> (&mut LiveLeg<S>, &mut LiveLeg<S>) {
        match (side, self.inbound.as_deref_mut()) {
            (Side::Host, _) => (&mut self.host, &mut self.client),
            (Side::Inbound, Some(inbound)) => (inbound, &mut self.host),
            (Side::Client | Side::Inbound, _) => (&mut self.client, &mut self.host),
        }
    }

    /// Who sends to the leg on `side`.
    pub fn senders_to(&self, side: Side) -> &'static [Side] {
        match (side, &self.inbound) {
            (Side::Host, None) => &[Side::Client],
            (Side::Host, Some(_)) => &[Side::Client, Side::Inbound],
            (Side::Client, _) => &[Side::Host],
            (Side::Inbound, _) => &[],
        }
    }

    /// Whether a condition holds for every leg.
    pub fn all_legs(&self, holds: impl Fn(&LiveLeg<S>) -> bool) -> bool {
        holds(&self.client) && holds(&self.host) && self.inbound.as_deref().is_none_or(holds)
    }
}

/// The sessions of one worker and everything that relaying them needs.
pub(super) struct Relay<K: Kernel> {
    pub kernel: K,
    pub arena: Arena,
    pub sessions: Slab<LiveSession<K::Socket>>,
    /// Where a session is, for who names one. Chunks know their place.
    pub index_of: HashMap<SessionId, usize>,
    /// Memory for partial records, reused.
    pub partials: Vec<Vec<u8>>,
    /// Legs to flush and legs to arm again at the end of this turn.
    pub dirty: Vec<(usize, Side)>,
    pub starved: VecDeque<(usize, Side)>,
    pub histograms: Box<RelayHistograms>,
    pub settings: WorkerSettings,
    pub stats: Arc<WorkerStats>,
    /// Monotonic microseconds, set once a turn.
    pub now_us: u64,
    /// What the control thread has to be told.
    pub events: VecDeque<Event>,
    generation: u32,
    stopping: bool,
}

impl<K: Kernel> Relay<K> {
    pub fn new(kernel: K, arena: Arena, settings: WorkerSettings, stats: Arc<WorkerStats>) -> Self {
        Self {
            kernel,
            arena,
            sessions: Slab::with_capacity(1_024),
            index_of: HashMap::with_capacity(1_024),
            partials: Vec::with_capacity(1_024),
            dirty: Vec::with_capacity(1_024),
            starved: VecDeque::with_capacity(1_024),
            histograms: Box::new(RelayHistograms::new()),
            settings,
            stats,
            now_us: 0,
            events: VecDeque::new(),
            generation: 0,
            stopping: false,
        }
    }

    /// Nothing is left to do, ever.
    pub fn is_done(&self) -> bool {
        self.stopping && self.sessions.is_empty() && self.events.is_empty()
    }

    /// After all completions of a turn: arm who waited for a buffer, send.
    pub fn end_turn(&mut self) {
        self.arm_starved();
        self.flush_dirty();
        self.stats.arena_overflows.store(self.arena.overflows, Relaxed);
        let used = self.arena.total_slots().saturating_sub(self.arena.free_slots());
        self.stats.slots_used.store(used as u64, Relaxed);
    }

    pub fn on_completion(&mut self, completion: Completion<K::Bytes>) {
        match completion {
            Completion::Received { token, bytes, armed } => match self.locate(token) {
                Some((index, side)) => self.on_received(index, side, bytes, armed),
                None => self.kernel.recycle(bytes),
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
            // The worker's own; see there.
            Completion::Rung => {}
        }
    }

    /// Which leg a completion belongs to; none when its session is gone.
    fn locate(&self, token: Token) -> Option<(usize, Side)> {
        let index = (token.leg / LEGS_PER_SESSION) as usize;
        let side = match token.leg % LEGS_PER_SESSION {
            0 => Side::Client,
            1 => Side::Host,
            _ => Side::Inbound,
        };
        let session = self.sessions.get(index)?;
        (session.client.token.generation == token.generation).then_some((index, side))
    }

    /// Ends one session politely. Unknown ones are ignored: it may just have
    /// ended by itself.
    pub fn end_session(&mut self, session: SessionId, reason: CloseReason) {
        if let Some(index) = self.index_of.get(&session) {
            self.end_politely(*index, reason);
        }
    }

    /// Ends all sessions politely, those that are still to be started too.
    pub fn stop(&mut self, reason: CloseReason) {
        self.stopping = true;
        let all: Vec<usize> = self.sessions.iter().map(|(index, _)| index).collect();
        for index in all {
            self.end_politely(index, reason);
        }
    }

    /// Shows a text where the client's protocol has such a thing.
    pub fn notify_all(&mut self, text: &str) {
        let indices: Vec<usize> = self.sessions.iter().map(|(index, _)| index).collect();
        for index in indices {
            self.tell_client(index, |framer| framer.notice(text));
        }
    }

    /// Sends one client what asks it to authenticate again.
    pub fn ask_to_reauthenticate(&mut self, session: SessionId, context: u64) {
        if let Some(index) = self.index_of.get(&session) {
            self.tell_client(*index, |framer| framer.reauthentication(context));
        }
    }

    /// Words between the host's, in the client's framing.
    fn tell_client(&mut self, index: usize, words: impl FnOnce(&Framer) -> Vec<u8>) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let client = &mut session.client;
        let words = words(&client.framer);
        if words.is_empty() || client.output_end != OutputEnd::Open {
            return;
        }
        // A key that is used up ends the session with the next data.
        let _ = client.append_words(&mut self.arena, self.now_us, &words);
        self.mark_dirty(index, Side::Client);
    }

    /// Gives out what was measured, goes on with an empty set.
    pub fn exchange_histograms(&mut self, empty: Box<RelayHistograms>) {
        let part = std::mem::replace(&mut self.histograms, empty);
        self.tell(Event::Histograms { worker: self.settings.index, part });
    }

    pub fn start(&mut self, mut session: Session<K::Socket>) {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.sessions.vacant_entry();
        let index = entry.key();
        // Session limits are far below what a token can name.
        let leg = u32::try_from(index * LEGS_PER_SESSION as usize).unwrap_or(u32::MAX);
        let mut inbound = session.client.inbound.take();
        let mut early = Vec::new();
        let mut keep_early = |side, leg: &mut Leg<K::Socket>| {
            let plaintext = std::mem::take(&mut leg.early_plaintext);
            early.push((side, plaintext, std::mem::take(&mut leg.early_ciphertext)));
        };
        keep_early(Side::Client, &mut session.client);
        keep_early(Side::Host, &mut session.host);
        if let Some(inbound) = &mut inbound {
            keep_early(Side::Inbound, inbound);
        }
        self.index_of.insert(session.id, index);
        entry.insert(LiveSession {
            id: session.id,
            host_id: session.host_id,
            client: LiveLeg::new(session.client, Token::new(leg, self.generation)),
            host: LiveLeg::new(session.host, Token::new(leg + 1, self.generation)),
            inbound: inbound.map(|inbound| {
                Box::new(LiveLeg::new(*inbound, Token::new(leg + 2, self.generation)))
            }),
            counters: session.counters,
            started_us: self.now_us,
            last_activity_us: self.now_us,
            first_to_close: None,
            ending: None,
        });
        for (side, plaintext, ciphertext) in early {
            self.relay_early(index, side, &plaintext, &ciphertext);
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
                    self.starved.push_back((index, side));
                }
                self.stats.starved.fetch_add(1, Relaxed);
            }
            ReceiveEnd::Stopped => self.regulate(index, side),
            ReceiveEnd::EndOfStream => self.on_end_of_stream(index, side),
            ReceiveEnd::Failed(errno) => self.on_socket_failure(index, side, errno),
        }
        self.reap(index);
    }

    /// Arms as many starved legs as there are buffers, oldest first: more would
    /// only starve again, a system call and a completion each.
    fn arm_starved(&mut self) {
        for _ in 0..self.kernel.receives_at_once() {
            let Some((index, side)) = self.starved.pop_front() else { return };
            if let Some(session) = self.sessions.get_mut(index) {
                session.leg(side).starved = false;
                self.regulate(index, side);
            }
        }
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
            self.stats.held_back.fetch_add(1, Relaxed);
        }
        let wanted = !ending && !leg.input_closed && !leg.held_back && !leg.starved;
        match (leg.receiving, wanted) {
            (Receiving::Off, true) => {
                leg.receiving = Receiving::Armed;
                leg.operations += 1;
                self.kernel.receive(&leg.socket, leg.token);
            }
            (Receiving::Armed, false) if !leg.starved => {
                leg.receiving = Receiving::Stopping;
                self.kernel.stop_receiving(leg.token);
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
                leg.flush(&mut self.kernel, &mut self.arena);
                // Giving back an unused slot may have been all that an end
                // was waiting for.
                if leg.output_end != OutputEnd::Open || session.ending.is_some() {
                    self.after_output(index, side);
                    self.reap(index);
                }
            }
        }
        self.dirty = dirty;
    }

    pub fn tell(&mut self, event: Event) {
        if self.events.len() >= EVENTS_UNSENT_MAX {
            tracing::error!("The control thread does not keep up; an event is lost");
            return;
        }
        self.events.push_back(event);
    }
}
