//! Whether every thread of the gateway still does its work. One that ends or
//! hangs takes nobody along: without a look at it, its share of the sessions
//! would be lost for good and nothing would say so.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::shared::lock;

/// Looks without a turn of a worker after which it counts as stuck. A worker
/// wakes four times a second; looks are a second apart. Counting looks instead
/// of time, a machine that was asleep is nobody's fault.
const STILL_LOOKS_MAX: u32 = 20;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ailment {
    WorkerEnded { worker: usize },
    WorkerStuck { worker: usize },
    LobbyEnded,
    ControlEnded,
}

impl fmt::Display for Ailment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WorkerEnded { worker } => write!(f, "relay worker {worker} has ended"),
            Self::WorkerStuck { worker } => write!(f, "relay worker {worker} does not turn"),
            Self::LobbyEnded => f.write_str("a lobby thread has ended"),
            Self::ControlEnded => f.write_str("the control thread has ended"),
        }
    }
}

/// What is known about the threads that do not speak for themselves.
#[derive(Debug, Default)]
pub struct Health {
    lobby_alive: Arc<AtomicUsize>,
    workers: Mutex<Vec<Turns>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Turns {
    seen: u64,
    still_looks: u32,
}

impl Health {
    /// Held by a lobby thread for as long as it works; dropped also when it
    /// panics.
    #[must_use]
    pub fn lobby_enters(&self) -> LobbyAlive {
        self.lobby_alive.fetch_add(1, Ordering::SeqCst);
        LobbyAlive(Arc::clone(&self.lobby_alive))
    }

    #[must_use]
    pub fn lobby_alive(&self) -> usize {
        self.lobby_alive.load(Ordering::SeqCst)
    }

    /// A look at how often each worker has turned so far.
    pub fn look(&self, turns: impl Iterator<Item = u64>) {
        let mut workers = lock(&self.workers);
        for (index, now) in turns.enumerate() {
            if workers.len() <= index {
                workers.push(Turns { seen: now, still_looks: 0 });
            } else if let Some(turns) = workers.get_mut(index) {
                let still_looks = if now == turns.seen { turns.still_looks + 1 } else { 0 };
                *turns = Turns { seen: now, still_looks };
            }
        }
    }

    /// A worker that has not turned for too many looks.
    #[must_use]
    pub fn stuck_worker(&self) -> Option<usize> {
        lock(&self.workers).iter().position(|turns| turns.still_looks >= STILL_LOOKS_MAX)
    }
}

/// See [`Health::lobby_enters`].
#[derive(Debug)]
pub struct LobbyAlive(Arc<AtomicUsize>);

impl Drop for LobbyAlive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_stuck_after_enough_looks_and_well_again_with_one_turn() {
        let health = Health::default();
        for look in 0..=u64::from(STILL_LOOKS_MAX) {
            assert_eq!(health.stuck_worker(), None);
            health.look([look, 7].into_iter());
        }
        assert_eq!(health.stuck_worker(), Some(1));
        health.look([100, 8].into_iter());
        assert_eq!(health.stuck_worker(), None);
    }

    #[test]
    fn a_lobby_thread_that_panics_is_missed() {
        let health = Arc::new(Health::default());
        let alive = health.lobby_enters();
        assert_eq!(health.lobby_alive(), 1);
        let thread = std::thread::spawn(move || {
            let _alive = alive;
            panic!("as a test");
        });
        assert!(thread.join().is_err());
        assert_eq!(health.lobby_alive(), 0);
    }
}
