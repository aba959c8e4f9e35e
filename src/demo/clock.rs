//! Turns the step events of all roles into twelve durations.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::report;
use super::style::Style;
use crate::observe::timeline::{StepEvent, Timeline};

const STEPS: usize = 12;

/// Collects when each step was done. A step is done at the last event that
/// names it before a later step begins, and lasts from the end of the step before it.
#[derive(Debug)]
pub struct StepClock {
    state: Mutex<State>,
    /// Prints each step as it happens.
    telling: Option<Style>,
}

#[derive(Debug, Default)]
struct State {
    started_us: u64,
    done_us: [Option<u64>; STEPS],
    /// Steps that have been printed.
    told: usize,
    /// Further sessions do not change the first one's timeline.
    frozen: bool,
}

impl StepClock {
    #[must_use]
    pub fn silent() -> Self {
        Self { state: Mutex::default(), telling: None }
    }

    #[must_use]
    pub fn telling(style: Style) -> Self {
        Self { telling: Some(style), ..Self::silent() }
    }

    /// Where the roles send their events.
    #[must_use]
    pub fn timeline(self: &std::sync::Arc<Self>) -> Timeline {
        let clock = std::sync::Arc::clone(self);
        std::sync::Arc::new(move |event: StepEvent| clock.note(event.step, event.at_unix_us))
    }

    /// The twelve steps begin now.
    pub fn start(&self, now_us: u64) {
        *self.lock() = State { started_us: now_us, ..State::default() };
    }

    /// The first session is through: its times stay.
    pub fn freeze(&self) {
        let mut state = self.lock();
        state.frozen = true;
        self.tell(&mut state, STEPS);
    }

    fn note(&self, step: u8, at_us: u64) {
        let mut state = self.lock();
        if state.frozen {
            return;
        }
        // A role may come back to an earlier step (the feed is read after
        // signing in): what is done stays done.
        let later = state.done_us.iter().skip(usize::from(step)).any(Option::is_some);
        if later {
            return;
        }
        if let Some(done) = state.done_us.get_mut(usize::from(step).wrapping_sub(1)) {
            *done = Some(at_us);
            // A later step began, so the earlier ones are done.
            self.tell(&mut state, usize::from(step) - 1);
        }
    }

    /// The durations of steps 1 to 12.
    #[must_use]
    pub fn durations(&self) -> [Duration; STEPS] {
        self.lock().durations()
    }

    fn tell(&self, state: &mut State, up_to: usize) {
        let Some(style) = self.telling else { return };
        let durations = state.durations();
        while state.told < up_to {
            let took = durations.get(state.told).copied().unwrap_or_default();
            state.told += 1;
            print!("{}", report::step_line(state.told, took, style));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn durations(&self) -> [Duration; STEPS] {
        let mut end_us = self.started_us;
        self.done_us.map(|done| {
            let done = done.unwrap_or(end_us).max(end_us);
            let took = done - end_us;
            end_us = done;
            Duration::from_micros(took)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_lasts_from_the_end_of_the_one_before() {
        let clock = StepClock::silent();
        clock.start(1_000);
        for (step, at_us) in
            [(1, 1_500), (2, 2_000), (2, 2_500), (1, 2_600), (3, 3_000), (4, 4_000)]
        {
            clock.note(step, at_us);
        }
        clock.note(13, 9_999);
        clock.note(0, 9_999);
        let durations = clock.durations().map(|d| d.as_micros());
        assert_eq!(durations, [500, 1_000, 500, 1_000, 0, 0, 0, 0, 0, 0, 0, 0]);
        clock.freeze();
        clock.note(1, 99_000);
        assert_eq!(clock.durations().map(|d| d.as_micros()), durations);
    }
}
