//! Handshake messages after the handshake: put together from records, without a
//! buffer, because the only one that is understood is five bytes long.

use super::protection::Scheme;
use super::{RecordError, Role};

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Longest `NewSessionTicket` that a client skips over, in bytes.
const MAX_TICKET_LEN: u32 = 1 << 16;

/// A peer's `KeyUpdate` (RFC 8446 4.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyUpdate {
    /// It wants one in return.
    pub(super) requested: bool,
}

/// The message under way, if any.
#[derive(Default)]
pub(super) struct Messages {
    header: [u8; 4],
    header_len: usize,
    body_left: u32,
}

impl Messages {
    /// A message has begun and not ended; no other record may come in between
    /// (RFC 8446 5.1).
    pub(super) const fn is_partial(&self) -> bool {
        self.header_len > 0
    }

    /// Takes the content of one handshake record.
    pub(super) fn take(
        &mut self,
        role: Role,
        scheme: Scheme,
        mut content: &[u8],
    ) -> Result<Option<KeyUpdate>, RecordError> {
        if content.is_empty() {
            // RFC 8446 5.1: no zero-length fragments of handshake messages.
            return Err(RecordError::UnexpectedMessage);
        }
        while let Some((&byte, rest)) = content.split_first() {
            if self.header_len < self.header.len() {
                content = rest;
                self.take_header(role, scheme, byte)?;
                continue;
            }
            let [kind, ..] = self.header;
            if kind == KEY_UPDATE {
                *self = Self::default();
                // RFC 8446 5.1: nothing follows it under the old key.
                return match (byte, rest) {
                    (0, []) => Ok(Some(KeyUpdate { requested: false })),
                    (1, []) => Ok(Some(KeyUpdate { requested: true })),
                    (0 | 1, _) => Err(RecordError::UnexpectedMessage),
                    _ => Err(RecordError::IllegalKeyUpdate),
                };
            }
            let skipped = content.len().min(usize::try_from(self.body_left).unwrap_or(usize::MAX));
            content = content.get(skipped..).unwrap_or_default();
            self.body_left -= u32::try_from(skipped).unwrap_or(self.body_left);
            if self.body_left == 0 {
                *self = Self::default();
            }
        }
        Ok(None)
    }

    fn take_header(&mut self, role: Role, scheme: Scheme, byte: u8) -> Result<(), RecordError> {
        if self.header_len == 0 {
            Self::admit(role, scheme, byte)?;
        }
        if let Some(place) = self.header.get_mut(self.header_len) {
            *place = byte;
        }
        self.header_len += 1;
        if self.header_len < self.header.len() {
            return Ok(());
        }
        let [kind, high, middle, low] = self.header;
        self.body_left = u32::from_be_bytes([0, high, middle, low]);
        let sane = match kind {
            KEY_UPDATE => self.body_left == 1,
            _ => (1..=MAX_TICKET_LEN).contains(&self.body_left),
        };
        if sane { Ok(()) } else { Err(RecordError::Decode) }
    }

    /// Whether a message of this type may come at all.
    fn admit(role: Role, scheme: Scheme, kind: u8) -> Result<(), RecordError> {
        match (scheme, role, kind) {
            (Scheme::Tls13, _, KEY_UPDATE) | (Scheme::Tls13, Role::Client, NEW_SESSION_TICKET) => {
                Ok(())
            }
            (Scheme::Tls12Gcm | Scheme::Tls12ChaCha, Role::Server, CLIENT_HELLO)
            | (Scheme::Tls12Gcm | Scheme::Tls12ChaCha, Role::Client, HELLO_REQUEST) => {
                Err(RecordError::Renegotiation)
            }
            _ => Err(RecordError::UnexpectedMessage),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASK: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 1];
    const TELL: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

    fn server(records: &[&[u8]]) -> Result<Option<KeyUpdate>, RecordError> {
        take(Role::Server, Scheme::Tls13, records)
    }

    fn take(
        role: Role,
        scheme: Scheme,
        records: &[&[u8]],
    ) -> Result<Option<KeyUpdate>, RecordError> {
        let mut messages = Messages::default();
        let mut last = None;
        for record in records {
            last = messages.take(role, scheme, record)?;
            assert!(!(last.is_some() && messages.is_partial()), "a whole message leaves nothing");
        }
        Ok(last)
    }

    #[test]
    fn a_key_update_is_understood_however_it_is_cut() {
        for cut in 1..ASK.len() {
            let (head, tail) = ASK.split_at(cut);
            assert_eq!(server(&[head, tail]), Ok(Some(KeyUpdate { requested: true })), "{cut}");
        }
        assert_eq!(server(&[&TELL]), Ok(Some(KeyUpdate { requested: false })));
        let bytes: Vec<&[u8]> = ASK.chunks(1).collect();
        assert_eq!(server(&bytes), Ok(Some(KeyUpdate { requested: true })));
    }

    #[test]
    fn a_key_update_is_the_last_message_of_its_record() {
        let two = [ASK, TELL].concat();
        assert_eq!(server(&[&two]), Err(RecordError::UnexpectedMessage));
    }

    #[test]
    fn a_key_update_of_wrong_length_or_content_is_refused() {
        assert_eq!(server(&[&[KEY_UPDATE, 0, 0, 2, 0, 0]]), Err(RecordError::Decode));
        assert_eq!(server(&[&[KEY_UPDATE, 0, 0, 0]]), Err(RecordError::Decode));
        assert_eq!(server(&[&[KEY_UPDATE, 0, 0, 1, 2]]), Err(RecordError::IllegalKeyUpdate));
    }

    #[test]
    fn a_server_takes_nothing_else() {
        for kind in (0..=255).filter(|&kind| kind != KEY_UPDATE) {
            assert_eq!(server(&[&[kind]]), Err(RecordError::UnexpectedMessage), "{kind}");
        }
        assert_eq!(server(&[&[]]), Err(RecordError::UnexpectedMessage));
    }

    #[test]
    fn a_client_skips_tickets_before_a_key_update() {
        let ticket = [&[NEW_SESSION_TICKET, 0, 1, 0][..], &[7; 256]].concat();
        let both = [&ticket[..], &ticket, &ASK].concat();
        let want = Ok(Some(KeyUpdate { requested: true }));
        assert_eq!(take(Role::Client, Scheme::Tls13, &[&both]), want);
        for cut in 1..both.len() {
            let (head, tail) = both.split_at(cut);
            assert_eq!(take(Role::Client, Scheme::Tls13, &[head, tail]), want, "{cut}");
        }
        let endless = [NEW_SESSION_TICKET, 0xff, 0xff, 0xff];
        assert_eq!(take(Role::Client, Scheme::Tls13, &[&endless]), Err(RecordError::Decode));
    }

    #[test]
    fn tls12_renegotiation_is_refused_whoever_asks() {
        let gcm = Scheme::Tls12Gcm;
        let refused = Err(RecordError::Renegotiation);
        assert_eq!(take(Role::Server, gcm, &[&[CLIENT_HELLO, 0, 0, 9]]), refused);
        assert_eq!(take(Role::Client, gcm, &[&[HELLO_REQUEST, 0, 0, 0]]), refused);
        assert_eq!(take(Role::Server, gcm, &[&ASK]), Err(RecordError::UnexpectedMessage));
    }

    proptest! {
        #[test]
        fn arbitrary_fragments_never_panic(
            records in proptest::collection::vec(
                proptest::collection::vec(
                    prop_oneof![Just(NEW_SESSION_TICKET), Just(KEY_UPDATE), Just(0), Just(1), any::<u8>()],
                    0..12,
                ),
                0..12,
            )
        ) {
            let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            for role in [Role::Client, Role::Server] {
                let _any = take(role, Scheme::Tls13, &records);
            }
        }
    }
}
