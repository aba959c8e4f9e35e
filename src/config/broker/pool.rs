//! `[[broker.pools]]`: whose the session hosts are, how they are filled, and
//! how one that is off is started.

use serde::Deserialize;

use crate::config::Findings;
use crate::core::ids::PoolId;
use crate::core::placement::{AssignmentRule, FillOrder, PoolKind, PoolRules};

/// Session hosts that are declared together.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub name: PoolId,
    #[serde(default)]
    pub kind: Kind,
    /// Of a pooled one. Default: breadth first.
    pub placement: Option<FillOrder>,
    /// Of a personal one, which must say.
    pub assignment: Option<AssignmentRule>,
    /// In a personal pool all of them are the same user's.
    #[serde(default = "default_sessions_per_host_max")]
    pub sessions_per_host_max: u32,
    /// Run when a user has no host that is connected: a program and its
    /// arguments, in which `{pool}`, `{host}` and `{user}` are replaced. No
    /// shell reads it.
    #[serde(default)]
    pub start_command: Vec<String>,
    /// The command is killed after this.
    #[serde(default = "default_start_timeout_ms")]
    pub start_timeout_ms: u64,
    /// How long the host may take to connect, from the start of the command;
    /// after that it is run again for whoever asks.
    #[serde(default = "default_start_patience_ms")]
    pub start_patience_ms: u64,
    /// When clients are told to try again.
    #[serde(default = "default_start_retry_ms")]
    pub start_retry_ms: u64,
    /// How users must have signed in (RFC 8176): all of these must be in the
    /// token's `amr`.
    #[serde(default)]
    pub require_amr: Vec<String>,
    /// One of these must be the token's `acr`.
    #[serde(default)]
    pub require_acr: Vec<String>,
}

/// Whose the hosts of a pool are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A user gets whichever has room.
    #[default]
    Pooled,
    /// A user has one, and nobody else gets it.
    Personal,
}

const fn default_sessions_per_host_max() -> u32 {
    10
}

const fn default_start_timeout_ms() -> u64 {
    30_000
}

const fn default_start_patience_ms() -> u64 {
    300_000
}

const fn default_start_retry_ms() -> u64 {
    5_000
}

/// What can stand between the braces of an argument.
const PLACEHOLDERS: [&str; 3] = ["{pool}", "{host}", "{user}"];

impl Pool {
    /// Whether it matters how its users signed in.
    #[must_use]
    pub fn asks_for_strength(&self) -> bool {
        !self.require_amr.is_empty() || !self.require_acr.is_empty()
    }

    #[must_use]
    pub fn rules(&self) -> PoolRules {
        let kind = match (self.kind, self.assignment) {
            (Kind::Pooled, _) => PoolKind::Pooled(self.placement.unwrap_or_default()),
            (Kind::Personal, Some(rule)) => PoolKind::Personal(rule),
            // The check refuses it; the rule that gives nothing away is safe.
            (Kind::Personal, None) => PoolKind::Personal(AssignmentRule::Direct),
        };
        let starts = !self.start_command.is_empty();
        PoolRules {
            kind,
            sessions_per_host_max: self.sessions_per_host_max,
            start_patience_ms: starts.then_some(self.start_patience_ms),
        }
    }

    /// The start command for this host and user.
    #[must_use]
    pub fn start_command_for(&self, host: &str, user: &str) -> Vec<String> {
        let replace = |argument: &String| substitute(argument, self.name.as_str(), host, user);
        self.start_command.iter().map(replace).collect()
    }

    /// Finds every key that cannot be used, says why and what to do. `table`
    /// is the pool's, such as `broker.pools[0]`.
    pub(super) fn check(&self, table: &str, found: &mut Findings) {
        if self.sessions_per_host_max == 0 {
            found.add(
                format!("{table}.sessions_per_host_max"),
                "is 0",
                "allow at least one session, or drain the hosts",
            );
        }
        match (self.kind, self.placement, self.assignment) {
            // What it should be is not known.
            _ if !found.is_sound(&format!("{table}.kind")) => {}
            (Kind::Personal, _, None) => found.add(
                format!("{table}.assignment"),
                "is missing",
                "a personal pool needs it: write \"automatic\" (a user gets a free host at their first connect) or \
                 \"direct\" (ringway ctl assign)",
            ),
            (Kind::Personal, Some(_), _) => found.add(
                format!("{table}.placement"),
                "is set for a personal pool",
                "leave it out: each user has a host of their own",
            ),
            (Kind::Pooled, _, Some(_)) => found.add(
                format!("{table}.assignment"),
                "is set for a pool whose hosts are anybody's",
                "leave it out, or set kind = \"personal\"",
            ),
            (Kind::Pooled, _, None) | (Kind::Personal, None, Some(_)) => {}
        }
        self.check_start(table, found);
    }

    fn check_start(&self, table: &str, found: &mut Findings) {
        found.add_zeros(
            table,
            [
                ("start_timeout_ms", self.start_timeout_ms),
                ("start_patience_ms", self.start_patience_ms),
                ("start_retry_ms", self.start_retry_ms),
            ],
        );
        if self.start_patience_ms < self.start_timeout_ms {
            found.add(
                format!("{table}.start_patience_ms"),
                format!("is below start_timeout_ms ({})", self.start_timeout_ms),
                "make it the larger of the two: a host connects after its command",
            );
        }
        let Some(program) = self.start_command.first() else { return };
        if !program.starts_with('/') {
            found.add(
                format!("{table}.start_command"),
                format!("{program:?} is not the full path of a program"),
                "write the program and its arguments as a list, the program with its full path; \
                 no shell reads it",
            );
        }
        for (i, argument) in self.start_command.iter().enumerate() {
            let known = PLACEHOLDERS.iter().fold(argument.clone(), |a, p| a.replace(p, ""));
            if known.contains(['{', '}']) {
                found.add(
                    format!("{table}.start_command[{i}]"),
                    format!("{argument:?} has braces around something else"),
                    "only {pool}, {host} and {user} are replaced",
                );
            }
        }
    }
}

/// One pass over the argument: what is put in is not looked at again.
fn substitute(argument: &str, pool: &str, host: &str, user: &str) -> String {
    let (mut text, mut rest) = (String::new(), argument);
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        let found = PLACEHOLDERS.iter().zip([pool, host, user]);
        match found.into_iter().find_map(|(p, value)| Some((from.strip_prefix(p)?, value))) {
            Some((after, value)) => {
                text.push_str(value);
                rest = after;
            }
            None => {
                text.push('{');
                rest = from.get(1..).unwrap_or_default();
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> Pool {
        toml::from_str(&format!("name = 'office'\n{text}")).unwrap()
    }

    #[test]
    fn a_name_is_a_pooled_pool_that_is_filled_breadth_first() {
        let office = pool("");
        assert!(Findings::of(|found| office.check("broker.pools[0]", found)).is_empty());
        let rules = office.rules();
        assert_eq!(rules.kind, PoolKind::Pooled(FillOrder::BreadthFirst));
        assert_eq!((rules.sessions_per_host_max, rules.start_patience_ms), (10, None));
        let own = pool("kind = 'personal'\nassignment = 'automatic'").rules();
        assert_eq!(own.kind, PoolKind::Personal(AssignmentRule::Automatic));
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        for (text, key) in [
            ("sessions_per_host_max = 0", "sessions_per_host_max"),
            ("kind = 'personal'", "assignment"),
            ("kind = 'personal'\nassignment = 'direct'\nplacement = 'depth_first'", "placement"),
            ("assignment = 'automatic'", "assignment"),
            ("start_command = ['start-host']", "start_command"),
            ("start_command = ['/bin/start', '{vm}']", "start_command[1]"),
            ("start_retry_ms = 0", "start_retry_ms"),
            ("start_patience_ms = 10", "start_patience_ms"),
        ] {
            let found = Findings::of(|found| pool(text).check("broker.pools[0]", found));
            assert!(found.has(&format!("broker.pools[0].{key}")), "{text}: {found:?}");
        }
        for wrong in ["kind = 'private'", "assignment = 'manual'", "start_command = 'sh -c x'"] {
            assert!(toml::from_str::<Pool>(&format!("name = 'p'\n{wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_put_into_an_argument_is_not_replaced_again() {
        let office = pool("start_command = ['/bin/start', '--user={user}', '{pool}/{host}', '{']");
        let command = office.start_command_for("host-1", "{pool}; rm -rf $HOME");
        assert_eq!(command, ["/bin/start", "--user={pool}; rm -rf $HOME", "office/host-1", "{"]);
        let rules = office.rules();
        assert_eq!(rules.start_patience_ms, Some(300_000));
    }
}
