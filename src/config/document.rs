//! A configuration file as it was written: each value with its line, so that
//! a problem can be pointed at, and two files can be compared key by key.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and the line where it, or the key before it, stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Counted from 1.
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Text(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    /// Dates and times, which no setting is.
    Moment,
    /// With the places at which they were written: taking one out moves none.
    List(Vec<(usize, Node)>),
    Table(BTreeMap<String, Node>),
}

/// Why a text is not TOML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub line: usize,
    pub message: String,
}

/// Reads a text.
///
/// # Errors
/// Everything that is not TOML in it.
pub fn parse(text: &str) -> Result<Node, Vec<SyntaxError>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(Node { line: 1, value: of_table(table.into_inner(), text) });
    }
    let errors = errors.iter().map(|error| SyntaxError {
        line: line_at(text, error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    });
    let mut errors: Vec<_> = errors.collect();
    errors.sort_by_key(|error| error.line);
    Err(errors)
}

fn of_table(table: DeTable<'_>, text: &str) -> Value {
    let entries = table.into_iter().map(|(key, value)| {
        let line = line_at(text, key.span().start);
        (key.into_inner().into_owned(), Node { line, value: of_value(value.into_inner(), text) })
    });
    Value::Table(entries.collect())
}

fn of_value(value: DeValue<'_>, text: &str) -> Value {
    match value {
        DeValue::String(value) => Value::Text(value.into_owned()),
        DeValue::Integer(value) => {
            // What does not fit is out of every setting's range.
            let number = i128::from_str_radix(value.as_str(), value.radix());
            Value::Integer(number.unwrap_or(i128::MAX))
        }
        DeValue::Float(value) => Value::Float(value.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(_) => Value::Moment,
        DeValue::Array(values) => {
            let values = values.into_iter().map(|value: Spanned<DeValue<'_>>| Node {
                line: line_at(text, value.span().start),
                value: of_value(value.into_inner(), text),
            });
            Value::List(values.enumerate().collect())
        }
        DeValue::Table(table) => of_table(table, text),
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.split(|byte| *byte == b'\n').count()
}

impl Node {
    /// The line of `a.b[2].c`; of what is not there, the line of the innermost
    /// table or list that is.
    #[must_use]
    pub fn line_of(&self, key: &str) -> usize {
        let mut here = self;
        for step in steps(key) {
            match here.child(step) {
                Some(child) => here = child,
                None => break,
            }
        }
        here.line
    }

    /// Takes a value out. `None` when it is not there.
    pub fn remove(&mut self, key: &str) -> Option<Self> {
        let (around, last) = self.around(key)?;
        match &mut around.value {
            Value::Table(table) => table.remove(last),
            Value::List(values) => {
                let place: usize = last.parse().ok()?;
                let at = values.iter().position(|(written_at, _)| *written_at == place)?;
                Some(values.remove(at).1)
            }
            _ => None,
        }
    }

    /// Puts a value into a table that is there.
    pub fn insert(&mut self, key: &str, value: Value) {
        if let Some((around, last)) = self.around(key)
            && let Value::Table(table) = &mut around.value
        {
            table.insert(last.to_owned(), Self { line: around.line, value });
        }
    }

    /// Every single setting, in a form that says whether two are equal.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        self.collect("", &mut settings);
        settings
    }

    fn collect(&self, key: &str, settings: &mut BTreeMap<String, String>) {
        match &self.value {
            Value::Table(table) => {
                for (name, node) in table {
                    node.collect(&joined(key, name), settings);
                }
            }
            Value::List(values) if values.iter().any(|(_, node)| node.is_table()) => {
                for (place, node) in values {
                    node.collect(&format!("{key}[{place}]"), settings);
                }
            }
            Value::List(values) => {
                let values: Vec<_> = values.iter().map(|(_, node)| &node.value).collect();
                settings.insert(key.to_owned(), format!("{values:?}"));
            }
            value => {
                settings.insert(key.to_owned(), format!("{value:?}"));
            }
        }
    }

    const fn is_table(&self) -> bool {
        matches!(self.value, Value::Table(_))
    }

    fn child(&self, step: &str) -> Option<&Self> {
        match &self.value {
            Value::Table(table) => table.get(step),
            Value::List(values) => {
                let place: usize = step.parse().ok()?;
                values.iter().find(|(written_at, _)| *written_at == place).map(|(_, node)| node)
            }
            _ => None,
        }
    }

    /// What holds the last step of a key.
    fn around<'k>(&mut self, key: &'k str) -> Option<(&mut Self, &'k str)> {
        let mut steps: Vec<_> = steps(key).collect();
        let last = steps.pop()?;
        let mut here = self;
        for step in steps {
            here = match &mut here.value {
                Value::Table(table) => table.get_mut(step)?,
                Value::List(values) => {
                    let place: usize = step.parse().ok()?;
                    &mut values.iter_mut().find(|(written_at, _)| *written_at == place)?.1
                }
                _ => return None,
            };
        }
        Some((here, last))
    }
}

/// The key of something in a table.
pub(super) fn joined(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

/// `a.b[2].c` in steps: `a`, `b`, `2`, `c`.
fn steps(key: &str) -> impl Iterator<Item = &str> {
    key.split(['.', '[', ']']).filter(|step| !step.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# a comment\n[broker]\nlisten = \"[::]:443\"\n\n[[broker.pools]]\n\
                        name = \"a\"\n[[broker.pools]]\nname = \"b\"\n[broker.limits]\n\
                        hosts = [\n  1,\n  2,\n]\n";

    #[test]
    fn every_key_has_its_line_and_a_missing_one_that_of_its_table() {
        let written = parse(TEXT).unwrap();
        for (key, line) in [
            ("broker", 2),
            ("broker.listen", 3),
            ("broker.public_url", 2),
            ("broker.pools[0].name", 6),
            ("broker.pools[1]", 7),
            ("broker.pools[1].name", 8),
            ("broker.pools[1].placement", 7),
            ("broker.limits", 9),
            ("broker.limits.hosts[1]", 12),
            ("gateway", 1),
        ] {
            assert_eq!(written.line_of(key), line, "{key}");
        }
    }

    #[test]
    fn what_is_taken_out_moves_nothing() {
        let mut written = parse(TEXT).unwrap();
        assert!(written.remove("broker.pools[0]").is_some());
        assert!(written.remove("broker.pools[0]").is_none());
        assert_eq!(written.line_of("broker.pools[1].name"), 8);
        written.insert("broker.pools[1].placement", Value::Boolean(true));
        assert!(written.settings().contains_key("broker.pools[1].placement"));
    }

    #[test]
    fn files_are_equal_whatever_their_layout() {
        let settings = |text: &str| parse(text).unwrap().settings();
        let one = settings("[a]\nb = 1\nc = [ 1, 2 ]\n");
        assert_eq!(one, settings("# moved\n\na = { c = [1,\n2], b = 0x1 }"));
        assert_ne!(one, settings("[a]\nb = 1\nc = [ 2, 1 ]\n"));
    }

    #[test]
    fn all_syntax_errors_are_found_at_once() {
        let errors = parse("a = \nb = 1\nc = 2 3\n").unwrap_err();
        let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [1, 3], "{errors:?}");
    }
}
