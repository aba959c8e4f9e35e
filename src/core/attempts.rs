//! How often one address may be wrong about a secret before it is not listened
//! to for a while: who guesses gets nowhere, and costs nothing.

use std::collections::HashMap;
use std::net::IpAddr;

use super::per_address::origin;

#[derive(Clone, Copy, Debug)]
pub struct AttemptRules {
    /// Wrong ones within the window.
    pub wrong_max: u32,
    /// From the first wrong one.
    pub window_ms: u64,
    /// Addresses that are remembered. When there are more, none that is new is
    /// listened to: whoever has so many may not use them.
    pub origins_max: usize,
}

/// Wrong attempts by origin (see [`super::per_address`]). All times are
/// milliseconds on one clock of the caller's.
#[derive(Debug)]
pub struct Attempts {
    rules: AttemptRules,
    wrong: HashMap<IpAddr, Wrong>,
}

#[derive(Clone, Copy, Debug)]
struct Wrong {
    times: u32,
    forgotten_at: u64,
}

impl Attempts {
    #[must_use]
    pub fn new(rules: AttemptRules) -> Self {
        Self { rules, wrong: HashMap::new() }
    }

    /// Whether somebody is listened to.
    ///
    /// # Errors
    /// In how many milliseconds to come again.
    pub fn check(&mut self, address: IpAddr, now: u64) -> Result<(), u64> {
        match self.wrong.get(&origin(address)) {
            Some(wrong) if wrong.forgotten_at <= now => {
                self.wrong.remove(&origin(address));
                Ok(())
            }
            Some(wrong) if wrong.times >= self.rules.wrong_max => Err(wrong.forgotten_at - now),
            Some(_) => Ok(()),
            None if self.wrong.len() < self.rules.origins_max => Ok(()),
            None => {
                self.wrong.retain(|_, wrong| wrong.forgotten_at > now);
                let has_room = self.wrong.len() < self.rules.origins_max;
                if has_room { Ok(()) } else { Err(self.rules.window_ms) }
            }
        }
    }

    /// They were wrong.
    pub fn count_wrong(&mut self, address: IpAddr, now: u64) {
        let forgotten_at = now.saturating_add(self.rules.window_ms);
        let wrong = self.wrong.entry(origin(address)).or_insert(Wrong { times: 0, forgotten_at });
        wrong.times = wrong.times.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: AttemptRules = AttemptRules { wrong_max: 2, window_ms: 1_000, origins_max: 3 };

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn who_is_wrong_too_often_waits_and_others_do_not() {
        let mut attempts = Attempts::new(RULES);
        assert_eq!(attempts.check(address(1), 0), Ok(()));
        attempts.count_wrong(address(1), 0);
        assert_eq!(attempts.check(address(1), 400), Ok(()));
        attempts.count_wrong(address(1), 400);
        assert_eq!(attempts.check(address(1), 500), Err(500));
        assert_eq!(attempts.check(address(2), 500), Ok(()));
        assert_eq!(attempts.check(address(1), 1_000), Ok(()), "the window is over");
        attempts.count_wrong(address(1), 1_000);
        assert_eq!(attempts.check(address(1), 1_001), Ok(()), "and counting starts anew");
    }

    #[test]
    fn addresses_without_number_fill_no_memory() {
        let mut attempts = Attempts::new(RULES);
        for n in 0..3 {
            attempts.count_wrong(address(n), u64::from(n));
        }
        assert_eq!(attempts.check(address(9), 10), Err(1_000));
        assert_eq!(attempts.check(address(0), 10), Ok(()), "who is known may go on");
        assert_eq!(attempts.check(address(9), 1_000), Ok(()), "one place is free again");
    }

    proptest! {
        /// Nobody is heard to be wrong more than so often within a window.
        #[test]
        fn guesses_are_few(steps in prop::collection::vec((0_u8..3, 0_u64..400), 1..200)) {
            let mut attempts = Attempts::new(RULES);
            let (mut now, mut heard) = (0, Vec::new());
            for (from, pause) in steps {
                now += pause;
                if attempts.check(address(from), now).is_ok() {
                    attempts.count_wrong(address(from), now);
                    heard.push((from, now));
                }
                prop_assert!(attempts.wrong.len() <= RULES.origins_max);
            }
            for (from, start) in &heard {
                // Two windows may meet: twice as many in any span of one.
                let within = heard.iter().filter(|(f, at)| f == from && (*start..start + RULES.window_ms).contains(at));
                prop_assert!(within.count() <= 2 * RULES.wrong_max as usize);
            }
        }
    }
}
