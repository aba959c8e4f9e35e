//! Names that cross process borders, checked once where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name is 1 to 63 characters of `a-z 0-9 . _ -`, so that it can stand in a
/// certificate, a URL, a file name and a log line without quoting.
pub const NAME_LENGTH_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("a name needs 1 to {NAME_LENGTH_MAX} characters, this one has {0}")]
    Length(usize),
    #[error("character {0:?} is not allowed in a name (use a-z, 0-9, dot, dash, underscore)")]
    Character(char),
    #[error("a session id is 32 hexadecimal digits")]
    SessionId,
}

fn check_name(text: &str) -> Result<(), IdError> {
    if text.is_empty() || text.len() > NAME_LENGTH_MAX {
        return Err(IdError::Length(text.len()));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    match text.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(IdError::Character(c)),
        None => Ok(()),
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                check_name(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                check_name(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

names! {
    /// A gateway instance, as enrolled.
    GatewayId,
    /// A session host, as enrolled.
    HostId,
    /// What operators call a set of session hosts: a rack, an image, a site.
    Label,
    /// A pool of interchangeable session hosts.
    PoolId,
    /// A desktop or application that users are given.
    ResourceId,
}

/// 128 random bits that name one session in every component's log lines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// A hash that spreads sessions evenly; the id is random already.
    #[must_use]
    pub fn spread(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

impl FromStr for SessionId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError::SessionId)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for SessionId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_needs_quoting() {
        assert!("host-1.example_2".parse::<HostId>().is_ok());
        assert_eq!("".parse::<HostId>(), Err(IdError::Length(0)));
        assert_eq!("Host".parse::<HostId>(), Err(IdError::Character('H')));
        assert_eq!("a/b".parse::<HostId>(), Err(IdError::Character('/')));
        assert_eq!("x".repeat(64).parse::<HostId>(), Err(IdError::Length(64)));
    }

    #[test]
    fn session_ids_survive_their_text() {
        let id = SessionId([7; 16]);
        assert_eq!(id.to_string().parse::<SessionId>(), Ok(id));
        assert_eq!("07".parse::<SessionId>(), Err(IdError::SessionId));
    }
}
