//! Is the other end of a channel still there? One machine for both ends.
//!
//! Each beat is numbered and each answer is held against the deadline of the
//! beat that it answers: a peer that answers old beats late cannot keep a dead
//! channel looking alive.

use std::collections::VecDeque;

/// Beats that may be unanswered at once before the oldest must have expired.
const OUTSTANDING_MAX: usize = 16;

/// What the caller has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Send a beat with this number, then ask again.
    Send(u64),
    /// Nothing until this time (ms on the caller's clock).
    WaitUntil(u64),
    /// Beat `seq` was not answered within its deadline: close the channel.
    Dead { seq: u64 },
}

/// Heartbeats of one end of one channel. All times are milliseconds on one
/// monotonic clock of the caller's.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    interval_ms: u64,
    timeout_ms: u64,
    next_seq: u64,
    next_send_at: u64,
    outstanding: VecDeque<(u64, u64)>,
}

impl Heartbeat {
    /// The first beat is due at once, so that a channel is known to work both
    /// ways before anything relies on it.
    #[must_use]
    pub fn new(interval_ms: u64, timeout_ms: u64, now: u64) -> Self {
        Self {
            interval_ms: interval_ms.max(1),
            timeout_ms: timeout_ms.max(1),
            next_seq: 1,
            next_send_at: now,
            outstanding: VecDeque::new(),
        }
    }

    pub fn poll(&mut self, now: u64) -> Beat {
        if let Some(&(seq, deadline)) = self.outstanding.front()
            && now >= deadline
        {
            return Beat::Dead { seq };
        }
        if now >= self.next_send_at && self.outstanding.len() < OUTSTANDING_MAX {
            let seq = self.next_seq;
            self.next_seq += 1;
            self.next_send_at = now.saturating_add(self.interval_ms);
            self.outstanding.push_back((seq, now.saturating_add(self.timeout_ms)));
            return Beat::Send(seq);
        }
        let answer_by = self.outstanding.front().map_or(u64::MAX, |&(_, deadline)| deadline);
        let send_at =
            if self.outstanding.len() < OUTSTANDING_MAX { self.next_send_at } else { u64::MAX };
        Beat::WaitUntil(answer_by.min(send_at))
    }

    /// An answer to beat `seq` arrived. Answers come in order on one stream,
    /// so it answers every earlier beat as well; an answer after its own
    /// deadline, or to a beat never sent, changes nothing.
    pub fn on_answer(&mut self, seq: u64, now: u64) {
        let in_time = self.outstanding.iter().any(|&(s, deadline)| s == seq && now < deadline);
        if in_time {
            self.outstanding.retain(|&(s, _)| s > seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answered_channel_lives() {
        let mut beat = Heartbeat::new(100, 50, 0);
        for round in 0..1_000_u64 {
            let now = round * 100;
            assert_eq!(beat.poll(now), Beat::Send(round + 1));
            assert_eq!(beat.poll(now), Beat::WaitUntil(now + 50));
            beat.on_answer(round + 1, now + 49);
            assert_eq!(beat.poll(now + 49), Beat::WaitUntil(now + 100));
        }
    }

    #[test]
    fn a_late_answer_does_not_count() {
        let mut beat = Heartbeat::new(10, 50, 0);
        assert_eq!(beat.poll(0), Beat::Send(1));
        assert_eq!(beat.poll(10), Beat::Send(2));
        beat.on_answer(1, 50);
        assert_eq!(beat.poll(50), Beat::Dead { seq: 1 });
    }

    #[test]
    fn an_answer_to_nothing_changes_nothing() {
        let mut beat = Heartbeat::new(100, 50, 0);
        assert_eq!(beat.poll(0), Beat::Send(1));
        beat.on_answer(99, 10);
        assert_eq!(beat.poll(50), Beat::Dead { seq: 1 });
    }
}
