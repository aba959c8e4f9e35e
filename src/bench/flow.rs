//! One direction of one session: what is to be sent, what was, what arrived,
//! and how long each message took. Decides only; the clock is an argument.

use std::collections::VecDeque;

use super::framing::RECORD_DATA_MAX;
use super::pattern;

/// What is wrong with what arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The byte at this position is not the one that was sent.
    Byte(u64),
    /// There is a byte at this position, and none was sent.
    Extra(u64),
}

/// A message on its way.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Position after its last byte.
    end: u64,
    /// When it was meant to be sent. What it waited for its turn counts: a
    /// stalled relay must not be asked fewer questions (coordinated omission).
    intended_ns: u64,
}

/// A direction.
#[derive(Debug, Default)]
pub struct Flow {
    /// Number of the pattern.
    stream: u64,
    /// Send as much as fits, whatever was added.
    endless: bool,
    /// Positions: up to where the schedule wants bytes sent, up to where they
    /// were, and up to where they arrived.
    owed: u64,
    sent: u64,
    received: u64,
    /// Ends of messages that were not sent whole, oldest first.
    unsent_ends: VecDeque<u64>,
    /// Messages that have not arrived whole, oldest first.
    marks: VecDeque<Mark>,
}

impl Flow {
    #[must_use]
    pub fn new(stream: u64) -> Self {
        Self { stream, ..Self::default() }
    }

    /// A message of this many bytes was to be sent at this moment.
    pub fn add(&mut self, bytes: u64, intended_ns: u64) {
        self.owed += bytes;
        self.unsent_ends.push_back(self.owed);
        self.marks.push_back(Mark { end: self.owed, intended_ns });
    }

    pub fn set_endless(&mut self, endless: bool) {
        self.endless = endless;
        self.owed = self.owed.max(self.sent);
    }

    /// The next bytes to send, as long as one record and within one message.
    #[must_use]
    pub fn next_piece(&self) -> &'static [u8] {
        let end = match self.unsent_ends.front() {
            Some(end) => *end,
            None if self.endless => u64::MAX,
            None => return &[],
        };
        let length = usize::try_from(end - self.sent).unwrap_or(usize::MAX);
        pattern::piece(self.stream, self.sent, length.min(RECORD_DATA_MAX))
    }

    /// That many bytes of the piece are on their way.
    pub fn mark_sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        while self.unsent_ends.front().is_some_and(|end| *end <= self.sent) {
            self.unsent_ends.pop_front();
        }
    }

    /// Checks what arrived; `on_message` hears the age of every message that
    /// is whole now.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn arrive(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        mut on_message: impl FnMut(u64),
    ) -> Result<(), Wrong> {
        let after = self.received + bytes.len() as u64;
        if after > self.sent {
            return Err(Wrong::Extra(self.sent));
        }
        pattern::compare(self.stream, self.received, bytes).map_err(Wrong::Byte)?;
        self.received = after;
        while let Some(mark) = self.marks.front().filter(|mark| mark.end <= after) {
            on_message(now_ns.saturating_sub(mark.intended_ns));
            self.marks.pop_front();
        }
        Ok(())
    }

    /// Everything that was to be sent has arrived.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        !self.endless && self.received == self.sent && self.sent >= self.owed
    }

    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Bytes that are owed or under way.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.owed.max(self.sent) - self.received
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_wrong_is_named_with_its_position() {
        let mut flow = Flow::new(3);
        flow.add(100, 5);
        let piece = flow.next_piece();
        flow.mark_sent(piece.len());
        let mut bytes = piece.to_vec();
        bytes[40] ^= 0x80;
        assert_eq!(flow.arrive(&bytes, 9, |_| {}), Err(Wrong::Byte(40)));
        let mut more = piece.to_vec();
        more.push(0);
        assert_eq!(flow.arrive(&more, 9, |_| {}), Err(Wrong::Extra(100)));
        assert_eq!(flow.arrive(piece, 9, |_| {}), Ok(()));
        assert!(flow.is_settled());
    }

    #[test]
    fn a_message_is_as_old_as_the_moment_it_was_meant_for() {
        let mut flow = Flow::new(0);
        flow.add(10, 1_000);
        flow.add(10, 1_500);
        let mut ages: Vec<u64> = Vec::new();
        flow.mark_sent(20);
        let bytes = pattern::piece(0, 0, 20);
        flow.arrive(&bytes[..9], 2_000, |age| ages.push(age)).unwrap();
        assert!(ages.is_empty());
        flow.arrive(&bytes[9..], 3_000, |age| ages.push(age)).unwrap();
        assert_eq!(ages, [2_000, 1_500]);
    }

    #[test]
    fn an_endless_flow_ends_where_it_was_stopped() {
        let mut flow = Flow::new(1);
        flow.set_endless(true);
        for _ in 0..3 {
            assert_eq!(flow.next_piece().len(), RECORD_DATA_MAX);
            flow.mark_sent(RECORD_DATA_MAX);
        }
        flow.set_endless(false);
        assert!(flow.next_piece().is_empty() && !flow.is_settled());
        assert_eq!(flow.missing(), 3 * RECORD_DATA_MAX as u64);
    }

    proptest! {
        /// However messages are cut on the way, all of them arrive once.
        #[test]
        fn every_byte_of_every_message_is_accounted_for(
            sizes in prop::collection::vec(1_u64..40_000, 1..30),
            cuts in prop::collection::vec(1_usize..20_000, 1..50),
        ) {
            let mut flow = Flow::new(9);
            sizes.iter().for_each(|size| flow.add(*size, 0));
            let (mut wire, mut whole) = (Vec::new(), 0);
            while !flow.next_piece().is_empty() {
                let piece = flow.next_piece();
                wire.extend_from_slice(piece);
                flow.mark_sent(piece.len());
            }
            let mut rest = wire.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*cut));
                prop_assert!(flow.arrive(now, 0, |_| whole += 1).is_ok());
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(flow.is_settled());
            prop_assert_eq!(whole, sizes.len());
        }
    }
}
