//! `.rdp` files: one `name:type:value` per line.
//!
//! The reader is stricter than any RDP client, on purpose. A signature is only
//! worth something when every reader of a file sees the same settings, so what
//! two clients could read differently (a lone carriage return, a control
//! character, blanks around a name) is either treated as the strictest of them
//! does or refused.

use std::fmt;

/// Largest file that is read.
pub const FILE_BYTES_MAX: usize = 256 * 1024;
/// Most settings in one file.
pub const SETTINGS_MAX: usize = 1000;
/// Longest setting name.
pub const NAME_LENGTH_MAX: usize = 64;

/// Settings whose values give access; never printed or logged.
const SECRET_NAMES: &[&str] = &["gatewayaccesstoken", "password 51"];

/// Why bytes are not a `.rdp` file. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RdpFileError {
    #[error("the file has {0} bytes, more than the {FILE_BYTES_MAX} that are read")]
    TooLarge(usize),
    #[error("the file has more than {SETTINGS_MAX} lines")]
    TooManyLines,
    #[error(
        "the file is neither UTF-8 nor UTF-16LE with a byte order mark; save it as one of them"
    )]
    Encoding,
    #[error("line {0} is not of the form name:type:value")]
    Form(usize),
    #[error("line {0} has a name that is empty, too long, or not plain ASCII")]
    Name(usize),
    #[error("line {0} has a type other than s, i or b")]
    Kind(usize),
    #[error("line {0} holds a control character")]
    ControlCharacter(usize),
}

/// Text encoding of a file, kept when it is written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Utf8,
    /// Little-endian with a byte order mark: what Windows tools write.
    Utf16,
}

/// The letter between the colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    String,
    Integer,
    Binary,
}

impl Kind {
    const fn letter(self) -> char {
        match self {
            Self::String => 's',
            Self::Integer => 'i',
            Self::Binary => 'b',
        }
    }
}

/// One line, exactly as written.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    name: String,
    kind: Kind,
    value: String,
}

impl Setting {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The value for people and logs: secrets are replaced by their length.
    #[must_use]
    pub fn printable_value(&self) -> String {
        if SECRET_NAMES.iter().any(|secret| self.is_named(secret)) {
            format!("({} characters, not shown)", self.value.chars().count())
        } else {
            self.value.clone()
        }
    }

    /// Whether this is its name, ASCII case aside.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The line without its end, byte for byte as it was read.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{}:{}:{}", self.name, self.kind.letter(), self.value)
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.name, self.kind.letter(), self.printable_value())
    }
}

/// A file's settings in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdpFile {
    settings: Vec<Setting>,
    encoding: Encoding,
}

impl RdpFile {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads UTF-8 (with or without byte order mark) or UTF-16LE with one.
    ///
    /// # Errors
    /// Names the line and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, RdpFileError> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err(RdpFileError::TooLarge(bytes.len()));
        }
        let (text, encoding) = decode(bytes)?;
        let mut settings = Vec::new();
        // A lone CR ends a line too: FreeRDP splits there, and a setting
        // hidden in another one's value must not escape the signature check.
        let lines = text.split('\n').flat_map(|line| {
            let line = line.strip_suffix('\r').unwrap_or(line);
            line.split('\r')
        });
        for (index, line) in lines.enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            if settings.len() == SETTINGS_MAX {
                return Err(RdpFileError::TooManyLines);
            }
            settings.push(parse_line(line, index.saturating_add(1))?);
        }
        Ok(Self { settings, encoding })
    }

    /// Sets a text value. Control characters are dropped: a line end inside a
    /// value would add settings.
    pub fn set_string(&mut self, name: &str, value: &str) {
        self.set(name, Kind::String, value.chars().filter(|c| !c.is_control()).collect());
    }

    pub fn set_integer(&mut self, name: &str, value: i64) {
        self.set(name, Kind::Integer, value.to_string());
    }

    /// The first text value of that name.
    #[must_use]
    pub fn string(&self, name: &str) -> Option<&str> {
        self.first(name, Kind::String).map(Setting::value)
    }

    /// The first number of that name; `None` also when it is not a number.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.first(name, Kind::Integer).and_then(|setting| setting.value.trim().parse().ok())
    }

    /// All settings in file order, duplicates included.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.settings.iter()
    }

    /// Drops every setting of that name.
    pub fn remove(&mut self, name: &str) {
        self.settings.retain(|setting| !setting.is_named(name));
    }

    /// The file as text with CRLF line ends.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.settings.iter().flat_map(|setting| [setting.line(), "\r\n".into()]).collect()
    }

    /// The file as bytes, in the encoding it was read in.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.encoding {
            Encoding::Utf8 => self.to_text().into_bytes(),
            Encoding::Utf16 => {
                let units = std::iter::once(0xfeff)
                    .chain(self.to_text().encode_utf16().collect::<Vec<_>>());
                units.flat_map(u16::to_le_bytes).collect()
            }
        }
    }

    #[must_use]
    pub const fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub const fn set_encoding(&mut self, encoding: Encoding) {
        self.encoding = encoding;
    }

    fn first(&self, name: &str, kind: Kind) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.kind == kind && setting.is_named(name))
    }

    /// Keeps the place of the first setting of that name and drops the others.
    fn set(&mut self, name: &str, kind: Kind, value: String) {
        let name: String = name.chars().filter(|c| !c.is_control() && *c != ':').collect();
        let place = self.settings.iter().position(|setting| setting.is_named(&name));
        let name = match place.and_then(|place| self.settings.get(place)) {
            Some(setting) => setting.name.clone(),
            None => name,
        };
        self.remove(&name);
        let place = place.unwrap_or(self.settings.len());
        self.settings.insert(place, Setting { name, kind, value });
    }
}

fn decode(bytes: &[u8]) -> Result<(String, Encoding), RdpFileError> {
    if let Some(utf16) = bytes.strip_prefix(&[0xff, 0xfe]) {
        let (pairs, odd) = utf16.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(RdpFileError::Encoding);
        }
        let units = pairs.iter().map(|pair| u16::from_le_bytes(*pair));
        let text: Result<String, _> = char::decode_utf16(units).collect();
        return Ok((text.map_err(|_| RdpFileError::Encoding)?, Encoding::Utf16));
    }
    // UTF-16 without its mark would pass for UTF-8 full of NULs.
    if bytes.iter().take(2).any(|byte| *byte == 0) {
        return Err(RdpFileError::Encoding);
    }
    let utf8 = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
    let text = std::str::from_utf8(utf8).map_err(|_| RdpFileError::Encoding)?;
    Ok((text.to_owned(), Encoding::Utf8))
}

fn parse_line(line: &str, number: usize) -> Result<Setting, RdpFileError> {
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err(RdpFileError::ControlCharacter(number));
    }
    let mut parts = line.splitn(3, ':');
    let (Some(name), Some(kind), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(RdpFileError::Form(number));
    };
    let plain = |c: char| c == ' ' || c.is_ascii_graphic();
    if name.is_empty()
        || name.len() > NAME_LENGTH_MAX
        || name.trim() != name
        || !name.chars().all(plain)
    {
        return Err(RdpFileError::Name(number));
    }
    let kind = match kind {
        "s" => Kind::String,
        "i" => Kind::Integer,
        "b" => Kind::Binary,
        _ => return Err(RdpFileError::Kind(number)),
    };
    Ok(Setting { name: name.to_owned(), kind, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keeps_order_and_text_as_written() {
        let text = "Full Address:s:host:3389\r\nscreen mode id:i:02\r\npassword 51:b:AA\r\n";
        let file = RdpFile::parse(text.as_bytes()).unwrap();
        assert_eq!(file.to_text(), text);
        assert_eq!(file.string("full address"), Some("host:3389"));
        assert_eq!(file.integer("SCREEN MODE ID"), Some(2));
        assert_eq!(file.string("screen mode id"), None, "types do not mix");
        assert_eq!(file.settings().nth(2).unwrap().kind(), Kind::Binary);
    }

    #[test]
    fn line_ends_of_every_kind_end_a_line() {
        let file = RdpFile::parse(b"a:s:1\nb:s:2\r\n\r\nc:s:3\rfull address:s:evil").unwrap();
        let names: Vec<_> = file.settings().map(Setting::name).collect();
        assert_eq!(names, ["a", "b", "c", "full address"]);
    }

    #[test]
    fn refuses_what_clients_read_differently() {
        let refused: [(&[u8], RdpFileError); 9] = [
            (b"a:s:1\nno colons", RdpFileError::Form(2)),
            (b"a:s", RdpFileError::Form(1)),
            (b":s:1", RdpFileError::Name(1)),
            (b" full address:s:1", RdpFileError::Name(1)),
            ("\u{212a}dcproxyname:s:x".as_bytes(), RdpFileError::Name(1)),
            (b"a:x:1", RdpFileError::Kind(1)),
            (b"a:s:1\0", RdpFileError::ControlCharacter(1)),
            (b"\xff\xfea", RdpFileError::Encoding),
            (b"a:s:\xff", RdpFileError::Encoding),
        ];
        for (bytes, error) in refused {
            assert_eq!(RdpFile::parse(bytes).unwrap_err(), error, "{bytes:?}");
        }
    }

    #[test]
    fn both_encodings_are_known_by_their_mark() {
        let text = "full address:s:bücher\r\n";
        let utf16 =
            |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<_>>();
        let (little, big) = (utf16(u16::to_le_bytes), utf16(u16::to_be_bytes));
        for readable in [
            text.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            [&b"\xff\xfe"[..], &little].concat(),
        ] {
            assert_eq!(RdpFile::parse(&readable).unwrap().to_text(), text, "{readable:?}");
        }
        for unreadable in [little, big.clone(), [&b"\xfe\xff"[..], &big].concat()] {
            assert_eq!(RdpFile::parse(&unreadable).unwrap_err(), RdpFileError::Encoding);
        }
    }

    #[test]
    fn limits_hold() {
        for large in [FILE_BYTES_MAX + 1, 10 * 1024 * 1024] {
            let large = vec![b'\n'; large];
            assert_eq!(RdpFile::parse(&large).unwrap_err(), RdpFileError::TooLarge(large.len()));
        }
        let most = "a:s:1\n".repeat(SETTINGS_MAX);
        assert!(RdpFile::parse(most.as_bytes()).is_ok());
        let more = format!("{most}a:s:1");
        assert_eq!(RdpFile::parse(more.as_bytes()).unwrap_err(), RdpFileError::TooManyLines);
    }

    #[test]
    fn set_replaces_in_place_and_cannot_add_lines() {
        let mut file = RdpFile::parse(b"A:s:1\nb:s:2\na:i:3").unwrap();
        file.set_string("a", "x\r\nfull address:s:evil\0");
        assert_eq!(file.to_text(), "A:s:xfull address:s:evil\r\nb:s:2\r\n");
        file.set_integer("c", -1);
        assert_eq!(file.integer("C"), Some(-1));
    }

    #[test]
    fn secrets_are_not_printed() {
        let file = RdpFile::parse(b"GatewayAccessToken:s:hunter2\na:s:shown").unwrap();
        let printed = format!("{file:?}");
        assert!(!printed.contains("hunter2") && printed.contains("shown"), "{printed}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            if let Ok(file) = RdpFile::parse(&bytes) {
                prop_assert_eq!(RdpFile::parse(&file.to_bytes()).unwrap(), file);
            }
        }

        #[test]
        fn what_looks_like_a_file_is_stable(text in "([a-zA-Z ]{1,9}:[sibx]:[^\\x00]{0,12}(\r\n|\n|\r)?){0,8}") {
            if let Ok(file) = RdpFile::parse(text.as_bytes()) {
                prop_assert_eq!(RdpFile::parse(file.to_text().as_bytes()).unwrap(), file);
            }
        }

        #[test]
        fn both_encodings_carry_the_same_settings(values in proptest::collection::vec(any::<String>(), 0..8)) {
            let mut file = RdpFile::new();
            for (index, value) in values.iter().enumerate() {
                file.set_string(&format!("name {index}"), value);
            }
            let utf8 = RdpFile::parse(&file.to_bytes()).unwrap();
            file.set_encoding(Encoding::Utf16);
            let bytes = file.to_bytes();
            prop_assert_eq!(&bytes[..2], &[0xff, 0xfe]);
            let utf16 = RdpFile::parse(&bytes).unwrap();
            prop_assert_eq!(utf16.encoding(), Encoding::Utf16);
            prop_assert_eq!(utf16.to_text(), utf8.to_text());
        }
    }
}
