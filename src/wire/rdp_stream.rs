//! What a session host sends, watched so that its client can be told of an end
//! that it would not notice.
//!
//! FreeRDP 3 ignores the end of its WebSocket, but not what is fatal to RDP
//! itself. What that is depends on how far RDP has come and on whether a unit of
//! it is under way: that must be filled up first, or the farewell would be taken
//! for a part of it. Only headers are looked at.

/// MCS Disconnect Provider Ultimatum, provider initiated (T.125; MS-RDPBCGR
/// 2.2.2.3). In place of a Connection Confirm it ends the client at once, where a
/// negotiation failure would have it come back with another protocol.
const ULTIMATUM: [u8; 9] = [0x03, 0x00, 0x00, 0x09, 0x02, 0xF0, 0x80, 0x21, 0x80];

/// A fatal alert, `internal_error`, that nothing protects (RFC 8446 6).
const ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x50];

const TPKT_VERSION: u8 = 3;
const TLS_HANDSHAKE: u8 = 22;

/// TPKT, Connection Confirm and negotiation response (MS-RDPBCGR 2.2.1.2).
const CONFIRM_LEN: usize = TPKT_HEADER_LEN + 7 + 8;
const TPKT_HEADER_LEN: usize = 4;
const TLS_HEADER_LEN: usize = 5;

/// What a session host has sent, as far as its end needs to know.
#[derive(Debug)]
pub struct RdpDown {
    layer: Layer,
    /// The front of the unit under way: a header, or the whole Connection Confirm.
    front: [u8; CONFIRM_LEN],
    front_len: usize,
    /// Bytes of the unit under way that are still to come behind its front.
    left: usize,
}

/// What the bytes are units of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// The Connection Confirm is to come.
    Negotiation,
    /// TLS records.
    Tls,
    /// TPKT and fast-path PDUs.
    Plain,
    /// Nothing that we know.
    Unknown,
}

impl Default for RdpDown {
    fn default() -> Self {
        Self::new()
    }
}

impl RdpDown {
    #[must_use]
    pub const fn new() -> Self {
        Self { layer: Layer::Negotiation, front: [0; _], front_len: 0, left: 0 }
    }

    /// Takes note of the next bytes of the host, wherever they are cut.
    pub fn observe(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() && self.layer != Layer::Unknown {
            let passed = self.left.min(rest.len());
            self.left -= passed;
            rest = rest.get(passed..).unwrap_or_default();
            let Some((byte, behind)) = rest.split_first() else { return };
            rest = behind;
            if let Some(free) = self.front.get_mut(self.front_len) {
                *free = *byte;
                self.front_len += 1;
            }
            self.consider_front();
        }
    }

    /// Appends to `out` what makes the client leave within a second: at most
    /// 64 KiB, and a few bytes when nothing is under way.
    pub fn farewell(&self, out: &mut Vec<u8>) {
        let under_way = self.front.get(..self.front_len).unwrap_or_default();
        let missing: &[u8] = match (self.layer, under_way) {
            (_, []) => &[],
            (Layer::Tls, _) => [0, 3, 3, 0, 0].get(under_way.len()..).unwrap_or_default(),
            (_, [TPKT_VERSION, ..]) => [0, 0, 0, 7].get(under_way.len()..).unwrap_or_default(),
            // A fast-path length of one byte, or the second of two.
            (_, [_]) => &[2],
            (_, _) => &[3],
        };
        let front = [under_way, missing].concat();
        let unit_len = self.layer.unit_len(&front).unwrap_or_default();
        out.extend(missing);
        out.resize(out.len() + self.left + unit_len.saturating_sub(front.len()), 0);
        match self.layer {
            Layer::Tls | Layer::Unknown => out.extend(ALERT),
            Layer::Negotiation | Layer::Plain => out.extend(ULTIMATUM),
        }
    }

    /// Goes on to what follows the front when that is complete.
    fn consider_front(&mut self) {
        let front = self.front.get(..self.front_len).unwrap_or_default();
        if self.layer == Layer::Negotiation {
            self.layer = match front.first() {
                Some(&TPKT_VERSION) => Layer::Negotiation,
                Some(&TLS_HANDSHAKE) => Layer::Tls,
                _ => Layer::Unknown,
            };
        }
        let Some(unit_len) = self.layer.unit_len(front) else { return };
        if self.layer == Layer::Negotiation {
            if front.len() < unit_len.min(CONFIRM_LEN) {
                return;
            }
            self.layer = selected_by(front);
        }
        match unit_len.checked_sub(front.len()) {
            Some(left) => (self.left, self.front_len) = (left, 0),
            None => (self.layer, self.front_len) = (Layer::Unknown, 0),
        }
    }
}

impl Layer {
    /// Length of the unit that begins with `front`, once that tells.
    fn unit_len(self, front: &[u8]) -> Option<usize> {
        match (self, front) {
            (Self::Tls, [_, _, _, high, low]) => {
                Some(TLS_HEADER_LEN + usize::from(u16::from_be_bytes([*high, *low])))
            }
            (Self::Negotiation | Self::Plain, [TPKT_VERSION, _, high, low, ..]) => {
                Some(usize::from(u16::from_be_bytes([*high, *low])))
            }
            (_, [TPKT_VERSION, ..]) => None,
            // Fast-path (MS-RDPBCGR 2.2.9.1.2).
            (Self::Plain, [_, short @ 0..0x80]) => Some(usize::from(*short)),
            (Self::Plain, [_, high, low]) => {
                Some(usize::from(u16::from_be_bytes([high & 0x7F, *low])))
            }
            _ => None,
        }
    }
}

/// What follows a Connection Confirm (MS-RDPBCGR 2.2.1.2.1): every protocol but
/// standard RDP security begins with TLS.
fn selected_by(confirm: &[u8]) -> Layer {
    const CONNECTION_CONFIRM: u8 = 0xD0;
    const NEGOTIATION_RESPONSE: u8 = 2;
    match confirm {
        [
            _,
            _,
            _,
            _,
            _,
            CONNECTION_CONFIRM,
            _,
            _,
            _,
            _,
            _,
            NEGOTIATION_RESPONSE,
            _,
            _,
            _,
            selected @ ..,
        ] if selected.iter().any(|byte| *byte != 0) => Layer::Tls,
        _ => Layer::Plain,
    }
}
