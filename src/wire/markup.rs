//! Text inside XML and HTML: what an operator wrote as a title stays a title.

use std::borrow::Cow;

/// A text that can stand between tags and inside quoted attributes, in XML 1.0
/// as well as in HTML. Characters that XML cannot carry at all (XML 1.0 2.2)
/// and line ends, which attributes lose, become blanks.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| replacement(c).is_some()) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match replacement(c) {
            Some(instead) => escaped.push_str(instead),
            None => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

const fn replacement(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        '\'' => Some("&#39;"),
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => Some(" "),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_markup_reads_is_left() {
        assert!(matches!(escape("Büro 日本 (1)"), Cow::Borrowed("Büro 日本 (1)")));
        assert_eq!(escape("<a b=\"c\" d='e'>&"), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;");
        assert_eq!(escape("a\r\nb\0c\u{85}\u{ffff}"), "a  b c  ");
    }
}
