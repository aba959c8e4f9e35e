//! The relay (steps 11 and 12): one pinned thread per core, one ring each.
//!
//! A worker has sessions, not tasks. It waits for completions, turns each
//! received buffer into records for the other leg, and sends those. It takes
//! no lock, allocates nothing per chunk and logs nothing per chunk; the rest of
//! the gateway meets it through two bounded queues and a doorbell each way.
//! `LIFECYCLE.md` has the states of a session and who may move them.

mod closing;
mod engine;
mod flow;
pub mod framing;
mod kernel;
mod leg;
pub mod ring;
pub mod session;
#[cfg(test)]
mod simulation;
mod within;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use self::ring::{Doorbell, Features, RingError, RingSettings};
pub use self::session::{ClosedSession, Leg, Session, SessionCounters};
pub use self::within::WithinSettings;
use crate::config::gateway::GatewayLimits;
use crate::core::ids::SessionId;
use crate::observe::close_reason::CloseReason;
use crate::observe::histograms::RelayHistograms;

/// Commands that may wait for one worker. New sessions are refused beyond it.
const COMMANDS_MAX: usize = 1_024;
/// Events that may wait for the control thread.
const EVENTS_MAX: usize = 16_384;

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// Relay this session from now on.
    Start(Box<Session>),
    /// End a session. Unknown ones are ignored: it may just have ended.
    End { session: SessionId, reason: CloseReason },
    /// Show this to the people whose clients can show it.
    Notice(Arc<str>),
    /// Ask the client to authenticate this tunnel again (MS-TSGU 2.2.10.12).
    Reauthenticate { session: SessionId, context: u64 },
    /// Give out what was measured so far, go on with this empty set.
    ExchangeHistograms(Box<RelayHistograms>),
    /// End all sessions for this reason, deliver what is queued, stop.
    Stop(CloseReason),
}

/// What a worker tells.
#[derive(Debug)]
pub enum Event {
    Closed(ClosedSession),
    Histograms { worker: usize, part: Box<RelayHistograms> },
}

/// Counters of one worker, written by it and read by anybody.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Sessions that it has or is about to get. Placement reads it.
    pub sessions: AtomicU64,
    pub bytes_up: AtomicU64,
    pub bytes_down: AtomicU64,
    /// System calls, and completions they brought.
    pub enters: AtomicU64,
    pub completions: AtomicU64,
    /// Receives that found no free buffer.
    pub starved: AtomicU64,
    /// Output slots that had to be allocated because the arena was empty.
    pub arena_overflows: AtomicU64,
    /// Output slots of the arena that hold bytes: none when all readers keep up.
    pub slots_used: AtomicU64,
    /// Times a fast sender was held back for a slow reader.
    pub held_back: AtomicU64,
}

/// What all workers of a gateway share with its control thread.
#[derive(Clone, Debug)]
pub struct Events {
    pub receiver: Receiver<Event>,
    sender: Sender<Event>,
    pub bell: Arc<Doorbell>,
}

impl Events {
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> std::io::Result<Self> {
        let (sender, receiver) = bounded(EVENTS_MAX);
        Ok(Self { receiver, sender, bell: Arc::new(Doorbell::new()?) })
    }
}

/// How a worker is made.
#[derive(Clone, Copy, Debug)]
pub struct WorkerSettings {
    pub index: usize,
    /// Core to pin to.
    pub core: Option<usize>,
    pub ring: RingSettings,
    pub output_slots: usize,
    pub within: WithinSettings,
    pub limits: GatewayLimits,
}

/// A running worker.
#[derive(Debug)]
pub struct RelayWorker {
    commands: Sender<Command>,
    bell: Arc<Doorbell>,
    pub stats: Arc<WorkerStats>,
    pub features: Features,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl RelayWorker {
    /// Starts a worker and waits until its ring works.
    ///
    /// # Errors
    /// Why the ring cannot be made.
    pub fn start(settings: WorkerSettings, events: &Events) -> Result<Self, RingError> {
        let failed = RingError::at("a relay worker");
        let (commands, inbox) = bounded(COMMANDS_MAX);
        let bell = Arc::new(Doorbell::new().map_err(&failed)?);
        let stats = Arc::new(WorkerStats::default());
        let (ready, is_ready) = bounded(1);
        let ends = worker::Ends {
            inbox,
            bell: Arc::clone(&bell),
            events: events.sender.clone(),
            events_bell: Arc::clone(&events.bell),
            stats: Arc::clone(&stats),
        };
        let thread = std::thread::Builder::new()
            .name(format!("relay-{}", settings.index))
            .spawn(move || match worker::Worker::new(settings, ends) {
                Ok(mut worker) => {
                    let _ = ready.send(Ok(()));
                    worker.run();
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })
            .map_err(&failed)?;
        match is_ready.recv() {
            Ok(Ok(())) => Ok(Self {
                commands,
                bell,
                stats,
                features: settings.ring.features,
                thread: Mutex::new(Some(thread)),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(failed(std::io::Error::other("the worker thread ended at once"))),
        }
    }

    /// Hands a command over and wakes the worker. Never blocks.
    ///
    /// # Errors
    /// Gives the command back when the queue is full or the worker is gone.
    pub fn tell(&self, command: Command) -> Result<(), Command> {
        let starts = matches!(command, Command::Start(_));
        if starts {
            // Counted before the worker has it, so that two legs arriving
            // together do not both pick the same worker.
            self.stats.sessions.fetch_add(1, Ordering::Relaxed);
        }
        match self.commands.try_send(command) {
            Ok(()) => {
                self.bell.ring();
                Ok(())
            }
            Err(TrySendError::Full(command) | TrySendError::Disconnected(command)) => {
                if starts {
                    self.stats.sessions.fetch_sub(1, Ordering::Relaxed);
                }
                Err(command)
            }
        }
    }

    /// The thread has ended: after [`Command::Stop`], or because its ring
    /// failed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the thread.
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("A relay worker panicked");
        }
    }
}

impl Drop for RelayWorker {
    /// Nobody is left to tell it anything: a gateway that could not start, or
    /// one that stopped, when this says nothing new.
    fn drop(&mut self) {
        let _ = self.tell(Command::Stop(CloseReason::GatewayShutdown));
    }
}

/// The worker with the fewest sessions among those that live: one that has
/// ended has fewest of all.
#[must_use]
pub fn least_loaded(workers: &[RelayWorker]) -> Option<&RelayWorker> {
    let living = workers.iter().filter(|worker| !worker.is_finished());
    living.min_by_key(|worker| worker.stats.sessions.load(Ordering::Relaxed))
}
