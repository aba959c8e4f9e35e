//! How an RDP connection begins: one PDU of the client that asks and one of the
//! server that answers, each X.224 (class 0) in TPKT (RFC 1006 6). The request
//! is MS-RDPBCGR 2.2.1.1, the answer 2.2.1.2.
//!
//! Both are read from streams that may be cut anywhere, and whatever else comes
//! first is recognised as something else as early as it can be.

use std::fmt;
use std::ops::{BitAnd, BitOr};

/// A request is no longer. Its own length field ends at 254 bytes, but FreeRDP
/// puts a long `loadbalanceinfo` into it all the same; see [`body`].
pub const REQUEST_BYTES_MAX: usize = 4_096;
/// An answer has 19 bytes, or 11 without a negotiation.
pub const CONFIRM_BYTES_MAX: usize = 19;

/// TPKT: version 3, reserved, length of all of it.
const TPKT_BYTES: usize = 4;
const TPKT_VERSION: u8 = 3;
/// Length indicator, code, two references, class.
const TPDU_BYTES: usize = 7;
const HEADER_BYTES: usize = TPKT_BYTES + TPDU_BYTES;
/// What the length indicator can say of the bytes after it; 255 is reserved
/// (X.224 13.2.1).
const INDICATED_BYTES_MAX: usize = 254;
const CONNECTION_REQUEST: u8 = 0xe0;
const CONNECTION_CONFIRM: u8 = 0xd0;
/// Each is 8 bytes: type, flags, its length in two bytes, a number in four.
const NEGOTIATION_BYTES: usize = 8;
const NEGOTIATION_REQUEST: u8 = 1;
const NEGOTIATION_RESPONSE: u8 = 2;
const NEGOTIATION_FAILURE: u8 = 3;
/// `CORRELATION_INFO_PRESENT`: 36 bytes follow (MS-RDPBCGR 2.2.1.1.2).
const CORRELATION_FLAG: u8 = 8;
const CORRELATION: u8 = 6;
const CORRELATION_BYTES: usize = 36;
/// In front of a user's name. It is for the RDP server, not for the way there.
const COOKIE_PREFIX: &[u8] = b"Cookie: mstshash=";
const LINE_END: &[u8] = b"\r\n";

/// The stream does not begin with such a PDU, whatever comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no X.224 connection PDU of RDP")]
pub struct NotX224;

/// Security protocols of RDP, as bits: what a client offers, or the one that a
/// server chose. None at all is RDP's own old encryption.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Protocols(pub u32);

impl Protocols {
    pub const RDP: Self = Self(0);
    /// TLS.
    pub const SSL: Self = Self(1);
    /// TLS with `CredSSP` (network level authentication).
    pub const HYBRID: Self = Self(2);
    pub const RDSTLS: Self = Self(4);
    pub const HYBRID_EX: Self = Self(8);
    /// TLS with a token of an identity provider.
    pub const RDSAAD: Self = Self(16);

    /// Whether all of `others` are among these.
    #[must_use]
    pub const fn contain(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

impl BitOr for Protocols {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl BitAnd for Protocols {
    type Output = Self;

    fn bitand(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }
}

impl fmt::Debug for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Why a server refuses, MS-RDPBCGR 2.2.1.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureCode(pub u32);

impl FailureCode {
    /// A client that can comes back with TLS.
    pub const SSL_REQUIRED: Self = Self(1);
    pub const SSL_NOT_ALLOWED: Self = Self(2);
    /// A client that can comes back with `CredSSP`.
    pub const HYBRID_REQUIRED: Self = Self(5);
}

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ConnectionRequest<'a> {
    /// For what stands between client and server, without its line end: the
    /// `loadbalanceinfo` of the .rdp file. May hold what is nobody else's
    /// business.
    pub routing_token: Option<&'a [u8]>,
    /// Who asks, with its prefix and without its line end.
    pub cookie: Option<&'a [u8]>,
    pub negotiation: Option<Negotiation>,
}

/// The security that a client offers. Without one it offers none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiation {
    /// Without the one that says that a correlation follows.
    pub flags: u8,
    pub protocols: Protocols,
    /// By which the logs of client and server can be matched.
    pub correlation: Option<[u8; 16]>,
}

impl<'a> ConnectionRequest<'a> {
    /// The request at the front of `bytes`, and its length. `None`: more bytes
    /// are needed.
    ///
    /// # Errors
    /// When `bytes` begin with something else.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, NotX224> {
        let Some(body) = body(bytes, CONNECTION_REQUEST, REQUEST_BYTES_MAX)? else {
            return Ok(None);
        };
        let mut request = Self { routing_token: None, cookie: None, negotiation: None };
        let mut rest = body;
        loop {
            if let Ok(negotiation) = Negotiation::parse(rest) {
                request.negotiation = negotiation;
                return Ok(Some((request, HEADER_BYTES + body.len())));
            }
            let end = rest.windows(LINE_END.len()).position(|two| two == LINE_END);
            let (line, after) = end.and_then(|end| rest.split_at_checked(end)).ok_or(NotX224)?;
            rest = after.get(LINE_END.len()..).unwrap_or_default();
            let is_cookie = line.starts_with(COOKIE_PREFIX);
            let place = if is_cookie { &mut request.cookie } else { &mut request.routing_token };
            place.get_or_insert(line);
        }
    }

    /// The request as its server gets it: the way is behind it, so without the
    /// routing token.
    #[must_use]
    pub fn for_server(&self) -> Vec<u8> {
        let mut negotiation = Vec::new();
        if let Some(asked) = &self.negotiation {
            asked.append_to(&mut negotiation);
        }
        let mut body = Vec::new();
        // One that does not fit says who asks for show: TLS comes first.
        let room = INDICATED_BYTES_MAX + 1 - TPDU_BYTES - negotiation.len() - LINE_END.len();
        if let Some(cookie) = self.cookie.filter(|cookie| cookie.len() <= room) {
            body.extend_from_slice(cookie);
            body.extend_from_slice(LINE_END);
        }
        body.append(&mut negotiation);
        pdu(CONNECTION_REQUEST, 0, &body)
    }

    /// The same, offering these protocols instead; a request that offered
    /// nothing goes on doing so.
    #[must_use]
    pub fn offering(self, protocols: Protocols) -> Self {
        let negotiation = self.negotiation.map(|asked| Negotiation { protocols, ..asked });
        Self { negotiation, ..self }
    }
}

impl fmt::Debug for ConnectionRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionRequest")
            .field("routing_token", &self.routing_token.map(<[u8]>::len))
            .field("cookie", &self.cookie.map(<[u8]>::len))
            .field("negotiation", &self.negotiation)
            .finish()
    }
}

impl Negotiation {
    /// From what is left of a request behind its lines, all of it.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, NotX224> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (first, rest) = bytes.split_first_chunk::<NEGOTIATION_BYTES>().ok_or(NotX224)?;
        let &[NEGOTIATION_REQUEST, flags, 8, 0, a, b, c, d] = first else { return Err(NotX224) };
        let correlation = if flags & CORRELATION_FLAG == 0 {
            if rest.is_empty() { None } else { return Err(NotX224) }
        } else {
            let fields: &[u8; CORRELATION_BYTES] = rest.try_into().map_err(|_| NotX224)?;
            let (&[CORRELATION, 0, 36, 0], id) = fields.split_first_chunk::<4>().ok_or(NotX224)?
            else {
                return Err(NotX224);
            };
            Some(*id.first_chunk::<16>().ok_or(NotX224)?)
        };
        Ok(Some(Self {
            flags: flags & !CORRELATION_FLAG,
            protocols: Protocols(u32::from_le_bytes([a, b, c, d])),
            correlation,
        }))
    }

    fn append_to(self, out: &mut Vec<u8>) {
        let flag = if self.correlation.is_some() { CORRELATION_FLAG } else { 0 };
        out.extend_from_slice(&[NEGOTIATION_REQUEST, self.flags | flag, 8, 0]);
        out.extend_from_slice(&self.protocols.0.to_le_bytes());
        if let Some(id) = self.correlation {
            out.extend_from_slice(&[CORRELATION, 0, 36, 0]);
            out.extend_from_slice(&id);
            out.extend_from_slice(&[0; 16]);
        }
    }
}

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionConfirm {
    /// It goes on with this one of what was offered. `flags` are those of
    /// MS-RDPBCGR 2.2.1.2.1.
    Selected {
        flags: u8,
        protocol: Protocols,
    },
    Refused(FailureCode),
    /// It knows no negotiation and goes on with RDP's old encryption.
    Plain,
}

impl ConnectionConfirm {
    /// The answer at the front of `bytes`, and its length. `None`: more bytes
    /// are needed.
    ///
    /// # Errors
    /// When `bytes` begin with something else.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, NotX224> {
        let Some(body) = body(bytes, CONNECTION_CONFIRM, CONFIRM_BYTES_MAX)? else {
            return Ok(None);
        };
        let confirm = match *body {
            [] => Self::Plain,
            [NEGOTIATION_RESPONSE, flags, 8, 0, a, b, c, d] => {
                Self::Selected { flags, protocol: Protocols(u32::from_le_bytes([a, b, c, d])) }
            }
            [NEGOTIATION_FAILURE, _, 8, 0, a, b, c, d] => {
                Self::Refused(FailureCode(u32::from_le_bytes([a, b, c, d])))
            }
            _ => return Err(NotX224),
        };
        Ok(Some((confirm, HEADER_BYTES + body.len())))
    }

    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        // Where Windows numbers its end of the connection; nobody looks.
        const SOURCE: u16 = 0x1234;
        let (kind, flags, number) = match self {
            Self::Selected { flags, protocol } => (NEGOTIATION_RESPONSE, flags, protocol.0),
            Self::Refused(code) => (NEGOTIATION_FAILURE, 0, code.0),
            Self::Plain => return pdu(CONNECTION_CONFIRM, SOURCE, &[]),
        };
        let [a, b, c, d] = number.to_le_bytes();
        pdu(CONNECTION_CONFIRM, SOURCE, &[kind, flags, 8, 0, a, b, c, d])
    }
}

/// What follows the headers of the PDU with this code at the front of `bytes`.
///
/// The length indicator counts modulo 256: FreeRDP writes the low byte of the
/// length of a request that is too long for it. TPKT has the length as well.
fn body(bytes: &[u8], code: u8, bytes_max: usize) -> Result<Option<&[u8]>, NotX224> {
    let header = bytes.get(..HEADER_BYTES.min(bytes.len())).unwrap_or_default();
    let at = |index: usize| header.get(index).copied();
    let low = at(3).unwrap_or_default();
    let length = at(2).map_or(0, |high| usize::from(u16::from_be_bytes([high, low])));
    let indicated = length.wrapping_sub(TPKT_BYTES + 1) & 0xff;
    let fits = at(0).is_none_or(|version| version == TPKT_VERSION)
        && at(2).is_none_or(|high| usize::from(high) << 8 <= bytes_max)
        && at(3).is_none_or(|_| (HEADER_BYTES..=bytes_max).contains(&length))
        && at(4).is_none_or(|indicator| usize::from(indicator) == indicated)
        // Its low half is a credit, which class 0 has not.
        && at(5).is_none_or(|found| found == code);
    if !fits {
        return Err(NotX224);
    }
    let is_whole = bytes.len() >= HEADER_BYTES && bytes.len() >= length;
    Ok(is_whole.then(|| bytes.get(HEADER_BYTES..length).unwrap_or_default()))
}

/// A PDU around this body.
fn pdu(code: u8, source: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER_BYTES + body.len()).unwrap_or(u16::MAX);
    let [high, low] = length.to_be_bytes();
    let [source_high, source_low] = source.to_be_bytes();
    let [_, indicator] = length.saturating_sub(5).to_be_bytes();
    let mut pdu = Vec::with_capacity(usize::from(length));
    pdu.extend_from_slice(&[TPKT_VERSION, 0, high, low]);
    pdu.extend_from_slice(&[indicator, code, 0, 0, source_high, source_low, 0]);
    pdu.extend_from_slice(body);
    pdu
}

#[cfg(test)]
#[path = "x224_tests.rs"]
mod tests;
