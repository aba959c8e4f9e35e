//! A worker's thread: wait, let the relay handle what completed, do what was
//! asked, submit.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TrySendError};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::engine::Relay;
use super::ring::{Arena, Completion, Doorbell, Ring, RingError, take_short_turns};
use super::{Command, Event, WorkerSettings, WorkerStats};

/// Longest sleep: how late a timer may be noticed.
const TICK: Duration = Duration::from_millis(250);

/// The worker's ends of what connects it to the other threads.
pub(super) struct Ends {
    pub inbox: Receiver<Command>,
    pub bell: Arc<Doorbell>,
    pub events: Sender<Event>,
    pub events_bell: Arc<Doorbell>,
    pub stats: Arc<WorkerStats>,
}

pub(super) struct Worker {
    relay: Relay<Ring>,
    ends: Ends,
    epoch: Instant,
    next_tick_us: u64,
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
        if let Err(error) = take_short_turns() {
            tracing::debug!(%error, "The scheduler gives a relay worker turns of its own choice");
        }
        let mut ring = Ring::new(settings.ring)?;
        ring.watch(&ends.bell);
        let arena = Arena::new(settings.output_slots)
            .map_err(RingError::at("a relay worker's output slots"))?;
        let relay = Relay::new(ring, arena, settings, Arc::clone(&ends.stats));
        Ok(Self { relay, ends, epoch: Instant::now(), next_tick_us: 0 })
    }

    pub fn run(&mut self) {
        self.turn_until_done();
        // What it measured since it was asked last.
        self.relay.exchange_histograms(Box::default());
        self.send_events();
    }

    fn turn_until_done(&mut self) {
        while !self.relay.is_done() {
            // Starved legs have bytes waiting: look after them without sleeping.
            let patience = if self.relay.starved.is_empty() { TICK } else { Duration::ZERO };
            if let Err(error) = self.relay.kernel.submit_and_wait(patience) {
                tracing::error!(%error, "The relay ring failed; its sessions end");
                self.relay.abandon_all(&error.to_string());
                self.send_events();
                return;
            }
            let now_us = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.relay.now_us = now_us;
            let completed = self.relay.kernel.collect();
            self.ends.stats.enters.fetch_add(1, Relaxed);
            self.ends.stats.completions.fetch_add(completed as u64, Relaxed);
            while let Some(completion) = self.relay.kernel.next() {
                match completion {
                    Completion::Rung => self.take_commands(),
                    other => self.relay.on_completion(other),
                }
            }
            if now_us >= self.next_tick_us {
                self.next_tick_us = now_us + u64::try_from(TICK.as_micros()).unwrap_or(0);
                self.relay.check_deadlines();
            }
            self.relay.end_turn();
            self.send_events();
        }
    }

    fn take_commands(&mut self) {
        self.ends.bell.hush();
        self.relay.kernel.watch(&self.ends.bell);
        while let Ok(command) = self.ends.inbox.try_recv() {
            match command {
                Command::Start(session) => self.relay.start(*session),
                Command::End { session, reason } => self.relay.end_session(session, reason),
                Command::Notice(text) => self.relay.notify_all(&text),
                Command::Reauthenticate { session, context } => {
                    self.relay.ask_to_reauthenticate(session, context);
                }
                Command::ExchangeHistograms(empty) => self.relay.exchange_histograms(empty),
                Command::Stop(reason) => self.relay.stop(reason),
            }
        }
    }

    fn send_events(&mut self) {
        let mut sent = false;
        while let Some(event) = self.relay.events.pop_front() {
            match self.ends.events.try_send(event) {
                Ok(()) => sent = true,
                Err(TrySendError::Full(event)) => {
                    self.relay.events.push_front(event);
                    break;
                }
                // Nobody is left to tell.
                Err(TrySendError::Disconnected(_)) => self.relay.events.clear(),
            }
        }
        if sent {
            self.ends.events_bell.ring();
        }
    }
}
