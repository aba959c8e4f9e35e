//! What a session host sends, watched so that its client can be told of an end
//! that it would not notice.
//!
//! FreeRDP 3 ignores the end of its WebSocket, but not what is fatal to RDP
//! itself. What that is depends on how far RDP has come and on whether a unit of
//! it is under way: that must be filled up first, or the farewell would be taken
//! for a part of it. Only headers are looked at.
//!
//! Seen with FreeRDP 3.15 and 3.32, which leave within a tenth of a second. One
//! gap is theirs: a fault inside of the server's first flight of TLS 1.3, between
//! `ServerHello` and `Finished`, makes them spin, and nothing that we tried ends
//! that.

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
#[derive(Clone, Copy, Debug)]
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
        Self { layer: Layer::Negotiation, front: [0; CONFIRM_LEN], front_len: 0, left: 0 }
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
    /// 64 KiB, and a few bytes when nothing is under way. Nothing after what is
    /// not RDP.
    pub fn farewell(&self, out: &mut Vec<u8>) {
        let under_way = self.front.get(..self.front_len).unwrap_or_default();
        let missing: &[u8] = match (self.layer, under_way) {
            (Layer::Unknown, _) | (_, []) => &[],
            (Layer::Tls, _) => [0, 3, 3, 0, 0].get(under_way.len()..).unwrap_or_default(),
            (_, [TPKT_VERSION, ..]) => [0, 0, 0, 7].get(under_way.len()..).unwrap_or_default(),
            // A fast-path length of one byte, or the second of two.
            (_, [_]) => &[2],
            (_, _) => &[3],
        };
        let front = [under_way, missing].concat();
        let unit_len = self.layer.unit_len(&front).unwrap_or_default();
        let mut filling = missing.to_vec();
        filling.resize(missing.len() + self.left + unit_len.saturating_sub(front.len()), 0);
        let mut filled = *self;
        filled.observe(&filling);
        out.extend(filling);
        match filled.layer {
            Layer::Tls => out.extend(ALERT),
            Layer::Unknown => {}
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A Connection Confirm that selects this protocol.
    fn confirm(protocol: u8) -> Vec<u8> {
        vec![3, 0, 0, 19, 14, 0xD0, 0, 0, 0x12, 0x34, 0, 2, 0x1F, 8, 0, protocol, 0, 0, 0]
    }

    fn record(kind: u8, payload_len: u16) -> Vec<u8> {
        let mut record = vec![kind, 3, 3];
        record.extend(payload_len.to_be_bytes());
        record.resize(5 + usize::from(payload_len), 0xAA);
        record
    }

    fn tpkt(len: u16) -> Vec<u8> {
        let mut pdu = vec![3, 0];
        pdu.extend(len.to_be_bytes());
        pdu.resize(usize::from(len), 0xAA);
        pdu
    }

    fn fast_path(len: u16) -> Vec<u8> {
        let [high, low] = len.to_be_bytes();
        let mut pdu = match len {
            0..0x80 => vec![0, low],
            _ => vec![0, 0x80 | high, low],
        };
        pdu.resize(usize::from(len), 0xAA);
        pdu
    }

    fn farewell_after(bytes: &[u8]) -> Vec<u8> {
        let (mut down, mut out) = (RdpDown::new(), Vec::new());
        down.observe(bytes);
        down.farewell(&mut out);
        out
    }

    #[test]
    fn a_host_that_says_nothing_is_excused_with_an_ultimatum() {
        assert_eq!(farewell_after(b""), ULTIMATUM);
    }

    #[test]
    fn between_records_the_alert_follows_at_once() {
        for protocol in [1, 2, 4, 8, 16] {
            assert_eq!(farewell_after(&confirm(protocol)), ALERT, "{protocol}");
            let hello = [confirm(protocol), record(22, 90), record(23, 16_401)].concat();
            assert_eq!(farewell_after(&hello), ALERT, "{protocol}");
        }
    }

    #[test]
    fn without_tls_the_ultimatum_follows_at_once() {
        let old_confirm = vec![3, 0, 0, 11, 6, 0xD0, 0, 0, 0x12, 0x34, 0];
        let failure = vec![3, 0, 0, 19, 14, 0xD0, 0, 0, 0, 0, 0, 3, 0, 8, 0, 1, 0, 0, 0];
        for first in [confirm(0), old_confirm, failure] {
            assert_eq!(farewell_after(&first), ULTIMATUM);
            let more = [first, tpkt(4_000), fast_path(90), fast_path(300), tpkt(7)].concat();
            assert_eq!(farewell_after(&more), ULTIMATUM);
        }
    }

    #[test]
    fn a_record_under_way_is_filled_up_first() {
        let half = [confirm(1), record(23, 1_000)[..405].to_vec()].concat();
        assert_eq!(farewell_after(&half), [&[0; 600][..], &ALERT].concat());
        // A header that was cut gets a length that can be kept.
        let after = |header: &[u8]| farewell_after(&[&confirm(1), header].concat());
        assert_eq!(after(&[23]), [&[3, 3, 0, 0][..], &ALERT].concat());
        assert_eq!(after(&[23, 3, 3]), [&[0, 0][..], &ALERT].concat());
        assert_eq!(after(&[23, 3, 3, 1]), [&[0; 1 + 256][..], &ALERT].concat());
    }

    #[test]
    fn a_pdu_under_way_is_filled_up_first() {
        let after = |pdu: &[u8]| farewell_after(&[&confirm(0), pdu].concat());
        assert_eq!(after(&tpkt(1_000)[..400]), [&[0; 600][..], &ULTIMATUM].concat());
        assert_eq!(after(&fast_path(1_000)[..400]), [&[0; 600][..], &ULTIMATUM].concat());
        assert_eq!(after(&[3]), [&[0, 0, 7, 0, 0, 0][..], &ULTIMATUM].concat());
        assert_eq!(after(&[3, 0, 1]), [&[7][..], &[0; 0x107 - 4], &ULTIMATUM].concat());
        assert_eq!(after(&[0]), [&[2][..], &ULTIMATUM].concat());
        assert_eq!(after(&[0, 0x81]), [&[3][..], &[0; 0x103 - 3], &ULTIMATUM].concat());
    }

    #[test]
    fn a_connection_confirm_under_way_is_filled_up_first() {
        assert_eq!(farewell_after(&confirm(1)[..6]), [&[0; 13][..], &ULTIMATUM].concat());
        assert_eq!(farewell_after(&confirm(1)[..16]), [&[0; 3][..], &ALERT].concat());
    }

    #[test]
    fn tls_without_negotiation_is_recognised_and_anything_else_gets_nothing() {
        assert_eq!(farewell_after(&record(22, 70)), ALERT);
        assert_eq!(farewell_after(&record(22, 70)[..70]), [&[0; 5][..], &ALERT].concat());
        assert!(farewell_after(b"SSH-2.0").is_empty());
        assert!(farewell_after(&[3, 0, 0, 3, 9]).is_empty(), "a TPKT shorter than its header");
    }

    fn units(tls: bool) -> impl Strategy<Value = Vec<Vec<u8>>> {
        let unit = (0..3_u8, 7..600_u16).prop_map(move |(kind, len)| match kind {
            _ if tls => record(20 + kind, len),
            0 => tpkt(len),
            _ => fast_path(len),
        });
        prop::collection::vec(unit, 0..12)
    }

    proptest! {
        #[test]
        fn whatever_is_under_way_is_filled_up_and_no_more(
            (tls, units) in any::<bool>().prop_flat_map(|tls| (Just(tls), units(tls))),
            until in any::<prop::sample::Index>(),
            piece_len in 1..700_usize,
        ) {
            let units = [vec![confirm(u8::from(tls))], units].concat();
            let bytes = units.concat();
            let until = until.index(bytes.len() + 1);
            let ends = units.iter().scan(0, |end, unit| {
                *end += unit.len();
                Some(*end)
            });
            // The border at or behind the cut, and how much of the unit before it is there.
            let (end, unit_len) = ends.zip(units.iter().map(Vec::len)).find(|(end, _)| *end >= until).unwrap();
            let there = until - (end - unit_len);

            let (mut down, mut out) = (RdpDown::new(), Vec::new());
            bytes[..until].chunks(piece_len).for_each(|piece| down.observe(piece));
            down.farewell(&mut out);
            let last: &[u8] = if tls && until >= 16 { &ALERT } else { &ULTIMATUM };
            prop_assert!(out.ends_with(last), "{:02x?}", out);
            let filling = &out[..out.len() - last.len()];
            if there == 0 || there >= 5 {
                prop_assert_eq!(filling.len(), if there == 0 { 0 } else { unit_len - there });
                prop_assert!(filling.iter().all(|byte| *byte == 0));
            }
            // In any case nothing is under way behind it.
            down.observe(&out);
            out.clear();
            down.farewell(&mut out);
            prop_assert!(out == ALERT || out == ULTIMATUM, "{:02x?}", out);
        }

        #[test]
        fn any_bytes_in_any_pieces_have_one_farewell(
            mut bytes in prop::collection::vec(any::<u8>(), 1..200),
            first in prop::sample::select(vec![3, 22, 0]),
            pieces in prop::collection::vec(0..40_usize, 0..10),
        ) {
            bytes[0] = first;
            let whole = farewell_after(&bytes);
            prop_assert!(whole.len() <= 70_000);
            let (mut down, mut out, mut rest) = (RdpDown::new(), Vec::new(), bytes.as_slice());
            for len in pieces {
                let (piece, more) = rest.split_at(len.min(rest.len()));
                down.observe(piece);
                rest = more;
            }
            down.observe(rest);
            down.farewell(&mut out);
            prop_assert_eq!(out, whole);
        }
    }
}
