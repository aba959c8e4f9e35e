//! The audit trail as a chain: every record carries the hash of itself and of
//! the hash before it, so that nothing in the middle can be changed, taken out,
//! put in or moved without every later hash telling.
//!
//! The hash is SHA-256 over [`DOMAIN`], the previous hash (32 bytes, zeros
//! before the first), number and time (8 bytes each, big-endian), and action,
//! subject and detail, each after its length in bytes (8 bytes, big-endian).
//!
//! A chain proves order and content, not its own end: whoever can write the
//! database can cut the end off and forge a new one. [`Head`] is what to keep
//! elsewhere against that.

pub mod repeats;

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::clock::UnixMillis;

/// Says what is hashed, so that the hash of nothing else can be taken for one.
const DOMAIN: &[u8] = b"ringway audit 1\0";
/// A subject's length. Names of users come from elsewhere.
const SUBJECT_CHARS_MAX: usize = 128;
/// A detail's length in bytes; a longer one is replaced by a note.
const DETAIL_BYTES_MAX: usize = 4_096;

macro_rules! actions {
    ($($variant:ident $name:literal $doc:literal;)+) => {
        /// What can be recorded. The names are stored: they never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Action {
            $(#[doc = $doc] $variant,)+
        }

        impl Action {
            /// All of them with name and meaning; `README.md` ("Audit") has the
            /// same table, and a test compares.
            pub const ALL: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$variant, $name, $doc),)+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

actions! {
    ChainBegan "chain_began" "The chain began. Records before it are from an older version; nothing protected them until then.";
    SignIn "sign_in" "A user's token was accepted (again within an hour: counted in `repeated`).";
    SignInRefused "sign_in_refused" "A token was refused, with the code (again within a minute: counted in `repeated`).";
    Placed "placed" "A user got a place on a host for a session.";
    PlaceRefused "place_refused" "A user got no place, with the code.";
    Connected "connected" "The session is live: client and host are joined.";
    Closed "closed" "The session is over: why, and how many bytes went each way.";
    OperatorAsked "operator_asked" "An operator, known by account or admin token, asked for a change; what it came to has a record of its own.";
    Disconnected "disconnected" "An administrator ended sessions.";
    Drained "drained" "A host takes no new users.";
    Undrained "undrained" "A host takes new users again.";
    LabelDrained "label_drained" "Hosts with a label take no new users.";
    LabelUndrained "label_undrained" "Hosts with a label take new users again.";
    Assigned "assigned" "A host of a personal pool was given to a user.";
    Unassigned "unassigned" "A host of a personal pool was taken away from its user.";
    EnrolTokenCreated "enrol_token_created" "An enrolment token was made.";
    Enrolled "enrolled" "A machine got its certificate.";
    Revoked "revoked" "A machine lost its right to connect.";
    Forgotten "forgotten" "A revoked machine may enrol again.";
    KeyAnnounced "key_announced" "The next ticket key is published; it does not sign yet.";
    KeySigns "key_signs" "A ticket key began to sign.";
    KeyRetired "key_retired" "A ticket key is published no more.";
    RecordsLost "records_lost" "So many records could not be kept: the disk failed or was too slow.";
}

impl Action {
    /// For how long the same record again is counted instead of kept. Whoever
    /// asks without pause must not fill the disk.
    #[must_use]
    pub const fn counted_for_ms(self) -> Option<u64> {
        match self {
            Self::SignIn => Some(3_600_000),
            Self::SignInRefused => Some(60_000),
            _ => None,
        }
    }
}

/// Something that happened and has no place in the chain yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub at: UnixMillis,
    pub action: Action,
    /// Whom or what it is about: a user, a machine, a session.
    pub subject: String,
    /// A JSON object.
    pub detail: String,
}

impl Entry {
    /// A subject that is too long is cut, control characters become spaces;
    /// `detail` is a JSON object.
    #[must_use]
    pub fn new(
        at: UnixMillis,
        action: Action,
        subject: impl fmt::Display,
        detail: &serde_json::Value,
    ) -> Self {
        let subject = subject.to_string();
        let subject = subject.chars().take(SUBJECT_CHARS_MAX);
        let detail = detail.to_string();
        Self {
            at,
            action,
            subject: subject.map(|c| if c.is_control() { ' ' } else { c }).collect(),
            detail: if detail.len() > DETAIL_BYTES_MAX {
                format!("{{\"left_out_bytes\":{}}}", detail.len())
            } else {
                detail
            },
        }
    }
}

/// SHA-256, shown in hex.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for Hash {
    type Error = NotAHead;
    fn try_from(text: String) -> Result<Self, NotAHead> {
        text.parse()
    }
}

impl FromStr for Hash {
    type Err = NotAHead;
    fn from_str(text: &str) -> Result<Self, NotAHead> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAHead)?;
        Ok(Self(bytes))
    }
}

/// One record of the chain, as it is stored. Action, subject and detail are
/// whatever the database holds: they are hashed before they are believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// 1, 2, 3 … without a gap.
    pub number: u64,
    pub at: UnixMillis,
    pub action: String,
    pub subject: String,
    pub detail: String,
    pub hash: Hash,
}

/// The last record of a chain: where the next one is fastened. Written down
/// elsewhere, it proves everything up to it. Text: `NUMBER:HASH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub number: u64,
    pub hash: Hash,
}

/// The text is no `NUMBER:HASH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write NUMBER:HASH, as ringway ctl status shows it")]
pub struct NotAHead;

impl Head {
    /// Of the empty chain.
    pub const EMPTY: Self = Self { number: 0, hash: Hash([0; 32]) };

    /// Fastens an entry to the chain, whose head is its record from then on.
    pub fn append(&mut self, entry: Entry) -> Record {
        let mut record = Record {
            number: self.number.saturating_add(1),
            at: entry.at,
            action: entry.action.as_str().to_owned(),
            subject: entry.subject,
            detail: entry.detail,
            hash: Hash([0; 32]),
        };
        record.hash = hash(self.hash, &record);
        *self = Self { number: record.number, hash: record.hash };
        record
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.hash)
    }
}

impl FromStr for Head {
    type Err = NotAHead;
    fn from_str(text: &str) -> Result<Self, NotAHead> {
        let (number, hash) = text.split_once(':').ok_or(NotAHead)?;
        Ok(Self { number: number.parse().map_err(|_| NotAHead)?, hash: hash.parse()? })
    }
}

/// Where a chain is broken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("record {number} is missing")]
    Missing { number: u64 },
    #[error("record {number} stands where {expected} belongs: it was put in or moved")]
    Misplaced { number: u64, expected: u64 },
    #[error("record {number} is not what was written, or the one before it is not")]
    Changed { number: u64 },
    #[error("record {number} is another one than the head that was kept")]
    OtherHead { number: u64 },
}

impl Broken {
    /// The first record that is not as it was written.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Missing { number } | Self::Changed { number } | Self::OtherHead { number } => {
                number
            }
            Self::Misplaced { number, expected } => {
                if number < expected {
                    number
                } else {
                    expected
                }
            }
        }
    }
}

/// Follows a chain from its first record.
#[derive(Clone, Debug)]
pub struct Verifier {
    reached: Head,
    kept: Vec<Head>,
}

impl Verifier {
    /// `kept` are heads that are known from elsewhere: the chain must go
    /// through each of them.
    #[must_use]
    pub const fn new(kept: Vec<Head>) -> Self {
        Self { reached: Head::EMPTY, kept }
    }

    /// # Errors
    /// When the record does not follow those before it.
    pub fn check(&mut self, record: &Record) -> Result<(), Broken> {
        let (number, expected) = (record.number, self.reached.number.saturating_add(1));
        if number > expected {
            return Err(Broken::Missing { number: expected });
        }
        if number < expected {
            return Err(Broken::Misplaced { number, expected });
        }
        if hash(self.reached.hash, record) != record.hash {
            return Err(Broken::Changed { number });
        }
        self.reached = Head { number, hash: record.hash };
        match self.kept.iter().find(|kept| kept.number == number) {
            Some(kept) if kept.hash != record.hash => Err(Broken::OtherHead { number }),
            _ => Ok(()),
        }
    }

    /// After the last record.
    ///
    /// # Errors
    /// When a head that was kept is further on.
    pub fn finish(self) -> Result<Head, Broken> {
        match self.kept.iter().map(|kept| kept.number).max() {
            Some(kept) if kept > self.reached.number => {
                Err(Broken::Missing { number: self.reached.number.saturating_add(1) })
            }
            _ => Ok(self.reached),
        }
    }
}

fn hash(previous: Hash, record: &Record) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(DOMAIN);
    context.update(&previous.0);
    context.update(&record.number.to_be_bytes());
    context.update(&record.at.0.to_be_bytes());
    for text in [&record.action, &record.subject, &record.detail] {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    let mut hash = [0; 32];
    // SHA-256 has 32 bytes.
    hash.copy_from_slice(context.finish().as_ref());
    Hash(hash)
}

#[cfg(test)]
mod tests;
