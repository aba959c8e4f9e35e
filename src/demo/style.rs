//! Colours on a terminal, plain text elsewhere.

use std::ffi::OsStr;

/// Colours or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    coloured: bool,
}

impl Style {
    pub const PLAIN: Self = Self { coloured: false };

    /// Colours for a terminal, unless the user set `NO_COLOR` to anything.
    #[must_use]
    pub fn for_output(is_terminal: bool, no_color: Option<&OsStr>) -> Self {
        Self { coloured: is_terminal && no_color.is_none_or(OsStr::is_empty) }
    }

    /// `code` is an SGR parameter list (ECMA-48 8.3.117).
    #[must_use]
    pub fn paint(self, code: &str, text: &str) -> String {
        if self.coloured && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    #[must_use]
    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    #[must_use]
    pub fn accent(self, text: &str) -> String {
        self.paint("36", text)
    }

    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.paint("1;32", text)
    }

    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_user_wants_them() {
        assert!(Style::for_output(true, Some(OsStr::new(""))).coloured);
        assert_eq!(Style::for_output(false, None), Style::PLAIN);
        assert_eq!(Style::for_output(true, Some(OsStr::new("1"))), Style::PLAIN);
    }
}
