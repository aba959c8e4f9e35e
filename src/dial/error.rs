//! Why a dial failed: whom it was for, at which step, in which phase.

use std::fmt;
use std::io;

use crate::core::codes::{Code, Refusal, Side};

/// Whom we dial and at which of the twelve steps (0: machine management).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose {
    pub side: Side,
    pub step: u8,
}

impl Purpose {
    /// A machine opens its channel or enrols.
    pub const MANAGE: Self = Self { side: Side::Broker, step: 0 };
    /// The client asks what there is to subscribe to.
    pub const DISCOVER: Self = Self { side: Side::Broker, step: 1 };
    /// The client signs its user in at the identity provider.
    pub const SIGN_IN: Self = Self { side: Side::Identity, step: 2 };
    /// The client asks for its feed.
    pub const FEED: Self = Self { side: Side::Broker, step: 3 };
    /// The client asks the entry gateway, or joins the chosen one.
    pub const CLIENT_LEG: Self = Self { side: Side::Gateway, step: 7 };
    /// The host joins the client at its gateway.
    pub const HOST_LEG: Self = Self { side: Side::Gateway, step: 10 };
}

/// A dial that came to nothing.
#[derive(Debug)]
pub struct DialError {
    pub purpose: Purpose,
    /// `https://host:port`, or what was given in its place.
    pub endpoint: String,
    pub kind: DialErrorKind,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Resolve,
    Connect,
    Tls,
    Answer,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "name resolution",
            Self::Connect => "the TCP connection",
            Self::Tls => "the TLS handshake",
            Self::Answer => "the answer",
        })
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum DialErrorKind {
    #[error("the address cannot be used: {error}")]
    Address { error: String },
    #[error("the name does not resolve: {error}; check the name and this machine's DNS")]
    Resolve { error: io::Error },
    #[error("no TCP connection ({error}); check that it runs and that a firewall lets it through")]
    Connect { error: io::Error },
    #[error("the TLS handshake failed: {error}")]
    Tls { error: io::Error },
    #[error("{phase} took longer than {after_ms} ms")]
    Deadline { phase: Phase, after_ms: u64 },
    /// The other side said no, and why.
    #[error("{0}")]
    Refused(Refusal),
    #[error("the answer was not understood: {what}")]
    Protocol { what: String },
    #[error("the connection broke: {error}")]
    Transport { error: io::Error },
}

impl DialError {
    pub(crate) fn new(purpose: Purpose, endpoint: impl fmt::Display, kind: DialErrorKind) -> Self {
        Self { purpose, endpoint: endpoint.to_string(), kind }
    }

    /// The other side's own refusal, when it gave one.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match &self.kind {
            DialErrorKind::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether nobody was there: no name, no TCP, no TLS.
    #[must_use]
    pub const fn is_unreached(&self) -> bool {
        match &self.kind {
            DialErrorKind::Address { .. }
            | DialErrorKind::Resolve { .. }
            | DialErrorKind::Connect { .. }
            | DialErrorKind::Tls { .. } => true,
            DialErrorKind::Deadline { phase, .. } => !matches!(phase, Phase::Answer),
            _ => false,
        }
    }

    /// What a third party is told: the other side's refusal, or this failure
    /// under `code`.
    #[must_use]
    pub fn to_refusal(&self, code: Code) -> Refusal {
        match self.refusal() {
            Some(refusal) => refusal.clone(),
            None => Refusal::with_detail(code, self),
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.purpose.side {
            Side::Client => "client",
            Side::Gateway => "gateway",
            Side::Broker => "broker",
            Side::Host => "host",
            Side::Identity => "identity provider",
        };
        write!(f, "{side} {}", self.endpoint)?;
        if self.purpose.step > 0 {
            write!(f, " (step {})", self.purpose.step)?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl std::error::Error for DialError {}
