//! Which sessions an agent has, how many it may have, and how one is told to
//! end. A session holds a [`Seat`]; dropping it gives the place back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::core::codes::{Code, Refusal};
use crate::core::ids::SessionId;

/// All sessions of one agent.
#[derive(Debug)]
pub struct Seats {
    capacity: usize,
    table: Mutex<Table>,
    /// How many there are, for who waits for none to be left.
    taken: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Table {
    closing: bool,
    sessions: HashMap<SessionId, Occupied>,
}

#[derive(Debug)]
struct Occupied {
    /// The order was accepted: the broker counts on this session.
    accepted: bool,
    end: watch::Sender<Option<Refusal>>,
}

/// Why an order gets no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSeat {
    Full,
    Closing,
    /// The same session was ordered before.
    Duplicate,
}

impl NoSeat {
    /// What the broker is told; nothing about a duplicate, whose first order
    /// is being answered.
    #[must_use]
    pub const fn code(self) -> Option<Code> {
        match self {
            Self::Full => Some(Code::HostBusy),
            Self::Closing => Some(Code::HostDraining),
            Self::Duplicate => None,
        }
    }
}

impl Seats {
    #[must_use]
    pub fn new(capacity: u32) -> Arc<Self> {
        Arc::new(Self {
            capacity: usize::try_from(capacity).unwrap_or(usize::MAX),
            table: Mutex::default(),
            taken: watch::Sender::new(0),
        })
    }

    /// A seat for one order.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(self: &Arc<Self>, session: SessionId) -> Result<Seat, NoSeat> {
        let mut table = self.lock();
        if table.closing {
            return Err(NoSeat::Closing);
        }
        let taken = table.sessions.len();
        match table.sessions.entry(session) {
            Entry::Occupied(_) => Err(NoSeat::Duplicate),
            Entry::Vacant(_) if taken >= self.capacity => Err(NoSeat::Full),
            Entry::Vacant(entry) => {
                let (end, ending) = watch::channel(None);
                entry.insert(Occupied { accepted: false, end });
                self.taken.send_replace(taken + 1);
                Ok(Seat { seats: Arc::clone(self), session, ending })
            }
        }
    }

    /// As [`take`](Self::take), from an agent that may be full for no more than
    /// a moment: the broker gives a place to the next as soon as it is told that
    /// a session is over, and that may be by the gateway, or its own decision.
    ///
    /// # Errors
    /// When there is none, at the end of `patience` at the latest.
    pub async fn take_within(
        self: &Arc<Self>,
        session: SessionId,
        patience: Duration,
    ) -> Result<Seat, NoSeat> {
        let mut taken = self.taken.subscribe();
        let taking = async {
            loop {
                match self.take(session) {
                    Err(NoSeat::Full) if taken.changed().await.is_ok() => {}
                    outcome => return outcome,
                }
            }
        };
        timeout(patience, taking).await.unwrap_or(Err(NoSeat::Full))
    }

    /// The accepted sessions: what a hello tells the broker.
    #[must_use]
    pub fn live(&self) -> Vec<SessionId> {
        let table = self.lock();
        table.sessions.iter().filter(|(_, o)| o.accepted).map(|(session, _)| *session).collect()
    }

    /// Tells one session to end. `false` when there is no such session.
    pub fn end(&self, session: SessionId, why: Refusal) -> bool {
        let table = self.lock();
        table.sessions.get(&session).is_some_and(|o| {
            o.end.send_replace(Some(why));
            true
        })
    }

    pub fn end_all(&self, why: &Refusal) {
        for occupied in self.lock().sessions.values() {
            occupied.end.send_replace(Some(why.clone()));
        }
    }

    /// Seats that nobody has, and all there are.
    #[must_use]
    pub fn free(&self) -> (usize, usize) {
        let taken = self.lock().sessions.len();
        (self.capacity.saturating_sub(taken), self.capacity)
    }

    /// No seat is given any more.
    pub fn close(&self) {
        self.lock().closing = true;
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().closing
    }

    /// Waits until nobody sits any more.
    pub async fn empty(&self) {
        let mut taken = self.taken.subscribe();
        // The sender lives in self: waiting cannot fail.
        let _never_closed = taken.wait_for(|taken| *taken == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A table behind a panic elsewhere is still a table.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session's place.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    session: SessionId,
    ending: watch::Receiver<Option<Refusal>>,
}

impl Seat {
    /// From now on a hello names this session.
    pub fn mark_accepted(&self) {
        if let Some(occupied) = self.seats.lock().sessions.get_mut(&self.session) {
            occupied.accepted = true;
        }
    }

    /// Resolves when the session is told to end.
    pub async fn told_to_end(&self) -> Refusal {
        let mut ending = self.ending.clone();
        let told = match ending.wait_for(Option::is_some).await {
            Ok(refusal) => refusal.clone(),
            Err(_closed) => None,
        };
        told.unwrap_or_else(|| Refusal::new(Code::SessionUnknown))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.seats.lock();
        table.sessions.remove(&self.session);
        self.seats.taken.send_replace(table.sessions.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId([1; 16]);
    const B: SessionId = SessionId([2; 16]);

    #[test]
    fn seats_are_counted_and_given_back() {
        let seats = Seats::new(1);
        let seat = seats.take(A).unwrap();
        assert_eq!(seats.take(A).unwrap_err(), NoSeat::Duplicate);
        assert_eq!(seats.take(B).unwrap_err(), NoSeat::Full);
        assert_eq!(seats.live(), []);
        seat.mark_accepted();
        assert_eq!(seats.live(), [A]);
        drop(seat);
        assert_eq!(seats.live(), []);
        let _other = seats.take(B).unwrap();
        seats.close();
        assert_eq!(seats.take(A).unwrap_err(), NoSeat::Closing);
    }

    #[tokio::test]
    async fn a_seat_is_given_on_as_soon_as_it_is_free() {
        let seats = Seats::new(1);
        let seat = seats.take(A).unwrap();
        let refused = seats.take_within(B, Duration::from_millis(1)).await;
        assert_eq!(refused.unwrap_err(), NoSeat::Full);
        let waiting = seats.take_within(B, Duration::from_secs(30));
        let (next, ()) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            drop(seat);
        });
        assert!(next.is_ok());
        assert_eq!(seats.take(A).unwrap_err(), NoSeat::Full);
    }

    #[tokio::test]
    async fn a_session_hears_its_own_end_and_the_last_one_out_is_noticed() {
        let seats = Seats::new(2);
        let (a, b) = (seats.take(A).unwrap(), seats.take(B).unwrap());
        assert!(seats.end(A, Refusal::new(Code::HostGone)));
        assert_eq!(a.told_to_end().await.code, Code::HostGone);
        drop(a);
        assert!(!seats.end(A, Refusal::new(Code::HostGone)));
        seats.end_all(&Refusal::new(Code::HostDraining));
        assert_eq!(b.told_to_end().await.code, Code::HostDraining);
        let (_, ()) = tokio::join!(async { drop(b) }, seats.empty());
    }
}
