//! Whether a session host is fit to take users: what its agent checks, what a
//! broker makes of it, and how a check keeps from flapping.

use serde::{Deserialize, Serialize};

/// The outcome of one check, as an agent reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCheck {
    pub name: String,
    /// Whether a host that fails this must get nobody new.
    pub fatal: bool,
    pub ok: bool,
    /// What was seen, for an operator.
    pub detail: String,
}

/// How much of an agent's words is kept and shown.
pub const CHECKS_MAX: usize = 16;
const NAME_CHARS_MAX: usize = 32;
const DETAIL_CHARS_MAX: usize = 200;

impl HostCheck {
    /// What another machine said, fit for a table: short, and nothing that a
    /// terminal would obey.
    #[must_use]
    pub fn curbed(self) -> Self {
        let curb = |text: String, chars_max: usize| -> String {
            text.chars().take(chars_max).map(|c| if c.is_control() { ' ' } else { c }).collect()
        };
        Self {
            name: curb(self.name, NAME_CHARS_MAX),
            detail: curb(self.detail, DETAIL_CHARS_MAX),
            ..self
        }
    }
}

/// What placement makes of a host's checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fitness {
    /// Nothing speaks against it, or nothing was said.
    #[default]
    Good,
    /// A check fails that is not fatal: others go first.
    Impaired,
    /// A fatal check fails: it gets nobody new.
    Unfit,
}

impl Fitness {
    #[must_use]
    pub fn of(checks: &[HostCheck]) -> Self {
        let failing = checks.iter().filter(|check| !check.ok);
        let worst = failing.map(|check| if check.fatal { Self::Unfit } else { Self::Impaired });
        worst.max().unwrap_or_default()
    }
}

/// How many outcomes in a row change what is believed.
#[derive(Clone, Copy, Debug)]
pub struct SteadyRules {
    pub failures_until_bad: u32,
    pub successes_until_good: u32,
}

/// What is believed of one check: its first outcome, and from then on the
/// other one only when it came several times in a row. One slow answer changes
/// nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Steady {
    believed: Option<bool>,
    /// Outcomes in a row that say otherwise.
    against: u32,
}

impl Steady {
    /// Takes in one outcome, and says what is believed now.
    pub fn observe(&mut self, ok: bool, rules: SteadyRules) -> bool {
        let Some(believed) = self.believed.filter(|believed| *believed != ok) else {
            *self = Self { believed: Some(ok), against: 0 };
            return ok;
        };
        self.against = self.against.saturating_add(1);
        let needed = if ok { rules.successes_until_good } else { rules.failures_until_bad };
        if self.against < needed {
            return believed;
        }
        *self = Self { believed: Some(ok), against: 0 };
        ok
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: SteadyRules = SteadyRules { failures_until_bad: 3, successes_until_good: 2 };

    fn check(fatal: bool, ok: bool) -> HostCheck {
        HostCheck { name: "x".into(), fatal, ok, detail: String::new() }
    }

    #[test]
    fn the_worst_failing_check_decides() {
        assert_eq!(Fitness::of(&[]), Fitness::Good);
        assert_eq!(Fitness::of(&[check(true, true), check(false, true)]), Fitness::Good);
        assert_eq!(Fitness::of(&[check(true, true), check(false, false)]), Fitness::Impaired);
        assert_eq!(Fitness::of(&[check(true, false), check(false, false)]), Fitness::Unfit);
    }

    #[test]
    fn one_slow_answer_changes_nothing_and_a_row_of_them_does() {
        let mut steady = Steady::default();
        let outcomes = [true, false, false, true, false, false, false, true, false, true, true];
        let believed = outcomes.map(|ok| steady.observe(ok, RULES));
        assert_eq!(
            believed,
            [true, true, true, true, true, true, false, false, false, false, true]
        );
    }

    #[test]
    fn the_first_outcome_is_believed_at_once() {
        assert!(!Steady::default().observe(false, RULES));
        assert!(Steady::default().observe(true, RULES));
    }

    #[test]
    fn the_words_of_an_agent_are_curbed() {
        let long =
            HostCheck { name: "n".repeat(99), detail: "\x1b[2J".repeat(99), ..check(true, true) };
        let curbed = long.curbed();
        assert_eq!((curbed.name.len(), curbed.detail.chars().count()), (32, 200));
        assert!(!curbed.detail.contains(char::is_control));
    }

    proptest! {
        #[test]
        fn what_is_believed_changes_only_after_as_many_in_a_row_as_it_takes(
            outcomes in prop::collection::vec(any::<bool>(), 1..80),
        ) {
            let mut steady = Steady::default();
            let mut before = steady.observe(outcomes[0], RULES);
            for (index, ok) in outcomes.iter().enumerate().skip(1) {
                let now = steady.observe(*ok, RULES);
                if now != before {
                    let needed = if now { 2 } else { 3 };
                    prop_assert!(outcomes[(index + 1).saturating_sub(needed)..=index].iter().all(|o| *o == now));
                }
                before = now;
            }
        }
    }
}
