//! From what was written to the structs of [`super`], and everything that does
//! not fit on the way: missing, unknown and mistyped settings.
//!
//! serde stops at the first mistake. So what is wrong is noted and repaired,
//! taken out or filled in with something of the right type, and the whole is
//! read again until it can be read. Whoever uses the result must look at the
//! findings first.

use std::collections::HashMap;

use serde::de::DeserializeOwned;

use super::document::{Node, Value, joined};
use super::findings::Findings;
use super::reader::{Fault, FaultKind, Reader};

/// A file with more mistakes is told about so many, and then again.
const MISTAKES_MAX: usize = 100;

/// Stand-ins for a setting that is missing, whatever its type.
const STAND_INS: [fn() -> Value; 7] = [
    || Value::Text("x".into()),
    || Value::Text("127.0.0.1:1".into()),
    || Value::Integer(1),
    || Value::Boolean(false),
    || Value::Float(0.5),
    || Value::List(Vec::new()),
    || Value::Table(std::collections::BTreeMap::new()),
];

/// Reads as much as can be read. `None` when even repairs did not help; what
/// is wrong is among the findings in any case.
pub(super) fn read<T: DeserializeOwned>(written: &Node, found: &mut Findings) -> Option<T> {
    let mut repaired = written.clone();
    let mut stand_ins: HashMap<String, usize> = HashMap::new();
    for _ in 0..MISTAKES_MAX * STAND_INS.len() {
        let Fault { key, kind } = match T::deserialize(Reader::of(&repaired)) {
            Ok(whole) => return Some(whole),
            Err(fault) => fault,
        };
        let next_stand_in = match kind {
            FaultKind::Missing(name) => {
                let key = joined(&key, name);
                if !found.has(&key) {
                    found.add(&key, "is missing", "add it; the example files show how");
                }
                Some((key, 0))
            }
            FaultKind::Unknown { known } => {
                let name = key.rsplit('.').next().unwrap_or(&key).to_owned();
                found.add(&key, "is not a setting", instead_of(&name, known, ""));
                repaired.remove(&key)?;
                None
            }
            FaultKind::Variant { text, known } => match stand_ins.get(&key) {
                Some(tried) => Some((key, tried + 1)),
                None => {
                    let remedy = instead_of(&text, known, "\"");
                    found.add(&key, format!("{text:?} is not one of its values"), remedy);
                    repaired.remove(&key)?;
                    None
                }
            },
            FaultKind::Value { problem, remedy } => match stand_ins.get(&key) {
                Some(tried) => Some((key, tried + 1)),
                None => {
                    found.add(&key, problem, remedy);
                    repaired.remove(&key)?;
                    None
                }
            },
        };
        if let Some((key, number)) = next_stand_in {
            repaired.insert(&key, STAND_INS.get(number)?());
            stand_ins.insert(key, number);
        }
    }
    None
}

/// What to write for something that is not known.
fn instead_of(text: &str, known: &[&str], quote: &str) -> String {
    if let Some(meant) = closest(text, known) {
        return format!("did you mean {quote}{meant}{quote}?");
    }
    if known.is_empty() {
        return "remove it".into();
    }
    let known: Vec<_> = known.iter().map(|one| format!("{quote}{one}{quote}")).collect();
    format!("write one of {}, or remove it", known.join(", "))
}

/// The one that somebody meant who mistyped it: at most a third of it differs.
fn closest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    let distances = known.iter().map(|one| (distance(text, one), *one));
    let (distance, closest) = distances.min()?;
    (distance * 3 <= text.chars().count().max(3)).then_some(closest)
}

/// Letters to insert, remove, replace or swap (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<_>, Vec<_>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let replaced = at(&last, j) + usize::from(from != to);
            let mut least = replaced.min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(to) && b.get(j - 1) == Some(from);
            if swapped {
                least = least.min(at(&before, j - 1) + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::super::document::parse;
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        listen: std::net::SocketAddr,
        name: String,
        #[serde(default)]
        fill: Fill,
        #[serde(default)]
        users: Vec<String>,
        #[serde(default)]
        limits: Limits,
        #[serde(default)]
        pools: Vec<Pool>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Fill {
        #[default]
        BreadthFirst,
        DepthFirst,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Limits {
        waiting_max: u32,
        waiting_timeout_ms: u64,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pool {
        size: u8,
    }

    fn problems(text: &str) -> Vec<String> {
        let written = parse(text).unwrap();
        let mut found = Findings::default();
        let _repaired: Option<Sample> = read(&written, &mut found);
        let problems = found.locate(std::path::Path::new("f"), &written);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_is_wrong_with_a_right_file() {
        let text = "listen = '[::]:1'\nname = 'n'\nfill = 'depth_first'\nusers = ['a']\n\
                    limits = { waiting_max = 7 }\npools = [{ size = 3 }]";
        let written = parse(text).unwrap();
        let mut found = Findings::default();
        let sample: Sample = read(&written, &mut found).unwrap();
        assert!(found.is_empty(), "{found:?}");
        assert_eq!((sample.listen.port(), sample.name.as_str()), (1, "n"));
        assert!(matches!(sample.fill, Fill::DepthFirst));
        assert_eq!((sample.users, sample.pools[0].size), (vec!["a".to_owned()], 3));
        assert_eq!((sample.limits.waiting_max, sample.limits.waiting_timeout_ms), (7, 0));
    }

    #[test]
    fn all_mistakes_are_found_in_one_go() {
        let text = "lisen = '[::]:1'\nname = 5\nfill = 'depth-first'\nusers = ['a', 1, true]\n\
                    [limits]\nwaiting_max = -1\nwaiting_timout_ms = 5\nhuh = 1\n\
                    [[pools]]\nsize = 256\n[[pools]]\n[[pools]]\nsize = 2024-01-01\n";
        assert_eq!(
            problems(text),
            [
                "f:1: lisen: is not a setting; did you mean listen?",
                "f:1: listen: is missing; add it; the example files show how",
                "f:2: name: is the number 5; write a text in quotes",
                "f:3: fill: \"depth-first\" is not one of its values; did you mean \"depth_first\"?",
                "f:4: users[1]: is the number 1; write a text in quotes",
                "f:4: users[2]: is true; write a text in quotes",
                "f:6: limits.waiting_max: is the number -1; write a whole number from 0 to 4294967295",
                "f:7: limits.waiting_timout_ms: is not a setting; did you mean waiting_timeout_ms?",
                "f:8: limits.huh: is not a setting; write one of waiting_max, waiting_timeout_ms, \
                 or remove it",
                "f:10: pools[0].size: is the number 256; write a whole number from 0 to 255",
                "f:11: pools[1].size: is missing; add it; the example files show how",
                "f:13: pools[2].size: is a date or time; write a whole number from 0 to 255",
            ]
        );
    }

    #[test]
    fn tables_and_single_values_are_told_apart() {
        let found = problems("listen = 'x'\nname = 'n'\nlimits = 3\npools = { size = 1 }\n");
        assert_eq!(
            found,
            [
                "f:1: listen: invalid socket address syntax; write address:port, such as [::]:443",
                "f:3: limits: is the number 3; write a table",
                "f:4: pools: is a table; write a list",
            ]
        );
    }

    proptest! {
        /// The distance is one: symmetric, and 0 for equal texts alone.
        #[test]
        fn distances_are_distances(a in "[a-c_]{0,8}", b in "[a-c_]{0,8}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert!(distance(&a, &b) <= a.len().max(b.len()));
        }

        /// Whatever is written: reading ends, and what cannot be used has a
        /// finding.
        #[test]
        fn what_cannot_be_read_has_a_reason(
            keys in prop::collection::vec(("listen|name|fill|users|limits|pools|[a-z]{1,6}", 0..6_usize), 0..8)
        ) {
            let values = ["1", "'x'", "[]", "{}", "'127.0.0.1:5'", "[{ size = 1 }, 2]"];
            let mut seen = std::collections::HashSet::new();
            let lines = keys.iter().filter(|(key, _)| seen.insert(key.clone()));
            let text: String = lines.map(|(key, n)| format!("{key} = {}\n", values[*n])).collect();
            let plain = toml::from_str::<Sample>(&text).is_ok();
            let mut found = Findings::default();
            let read: Option<Sample> = read(&parse(&text).unwrap(), &mut found);
            prop_assert_eq!(found.is_empty(), plain, "{} {:?}", text, found);
            prop_assert!(read.is_some() || !plain);
        }
    }
}
