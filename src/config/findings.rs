//! What is wrong with a configuration: every problem, with its place and its
//! remedy.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::document::Node;

/// One problem of a file, for people and for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub file: PathBuf,
    /// Counted from 1. Of a key that is not there: its table's.
    pub line: Option<usize>,
    /// `broker.pools[0].name`; lists count from 0.
    pub key: Option<String>,
    pub problem: String,
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(key) = &self.key {
            write!(f, " {key}:")?;
        }
        write!(f, " {}; {}", self.problem, self.remedy)
    }
}

/// What the checkers found, in no order yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    key: String,
    problem: String,
    remedy: String,
}

impl Findings {
    /// What a checker finds in a configuration that was not read from a file.
    #[must_use]
    pub fn of(check: impl FnOnce(&mut Self)) -> Self {
        let mut found = Self::default();
        check(&mut found);
        found
    }

    /// Adds a problem, unless its key or a table around it has one already:
    /// what follows from a mistake is no second mistake.
    pub fn add(
        &mut self,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let key = key.into();
        if !self.0.iter().any(|known| is_at_or_below(&key, &known.key)) {
            self.0.push(Finding { key, problem: problem.into(), remedy: remedy.into() });
        }
    }

    /// The usual remedy for one number of many.
    pub fn add_out_of_range(&mut self, key: impl Into<String>, min: u64, max: u64, value: u64) {
        if !(min..=max).contains(&value) {
            let remedy = format!("choose {min} to {max}, or leave it out for the default");
            self.add(key, format!("is {value}"), remedy);
        }
    }

    /// Of limits and times of which 0 would let nothing through.
    pub fn add_zeros<'a>(
        &mut self,
        table: &str,
        numbers: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        for (name, _) in numbers.into_iter().filter(|(_, number)| *number == 0) {
            self.add(format!("{table}.{name}"), "is 0", "leave it out for the default");
        }
    }

    /// Whether nothing was found at this key, around it or below it: what is
    /// said about it elsewhere in the file can be judged.
    #[must_use]
    pub fn is_sound(&self, key: &str) -> bool {
        let touches = |known: &str| is_at_or_below(key, known) || is_at_or_below(known, key);
        !self.0.iter().any(|known| touches(&known.key))
    }

    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|known| known.key == key)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With their lines in the file, in the order of the file.
    #[must_use]
    pub(super) fn locate(self, file: &Path, written: &Node) -> Vec<Problem> {
        let mut problems: Vec<_> = self
            .0
            .into_iter()
            .map(|finding| Problem {
                file: file.into(),
                line: Some(written.line_of(&finding.key)),
                key: Some(finding.key),
                problem: finding.problem,
                remedy: finding.remedy,
            })
            .collect();
        problems.sort_by(|a, b| (a.line, &a.key).cmp(&(b.line, &b.key)));
        problems
    }
}

/// Whether `key` is `table` or something in it.
fn is_at_or_below(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_a_mistake_is_not_told_again() {
        let mut found = Findings::default();
        found.add("broker.pools[1]", "first", "r");
        found.add("broker.pools[1].name", "inside", "r");
        found.add("broker.pools[1]", "again", "r");
        found.add("broker.pools[10]", "another", "r");
        assert_eq!(found.0.len(), 2);
        assert!(!found.is_sound("broker.pools"), "something is wrong below it");
        assert!(!found.is_sound("broker.pools[1].name"), "something is wrong around it");
        assert!(found.is_sound("broker.pool") && found.is_sound("broker.pools[2]"));
    }

    #[test]
    fn ranges_include_their_ends() {
        let found = Findings::of(|found| {
            for value in [1, 2, 5, 6] {
                found.add_out_of_range(format!("k{value}"), 2, 5, value);
            }
            found.add_zeros("t", [("a", 0), ("b", 1)]);
        });
        assert!(["k1", "k6", "t.a"].iter().all(|key| found.has(key)));
        assert_eq!(found.0.len(), 3);
    }
}
