//! The record layer behind a handshake: an input is a script for a peer that
//! holds the right keys and misuses them. Random bytes alone would never pass
//! the first authentication.

use std::cell::RefCell;
use std::collections::HashMap;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305};
use aws_lc_rs::aead::{LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use ringway::tls::handshake::{ClientHandshake, ServerHandshake};
use ringway::tls::record::{
    CONTROL_RECORD_LEN, MAX_OPENED_LEN, MAX_PLAINTEXT_LEN, Opened, RECORD_SLOT_LEN, RecordError,
    RecordLayer,
};
use rustls::{
    ClientConnection, Connection, ConnectionTrafficSecrets, ServerConnection, SupportedCipherSuite,
};

use super::Script;
use super::handshakes::{SUITES, client, localhost, server};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// `[suite, highest bit: we are the client]` and then steps, see [`World::step`].
pub fn record_layer(input: &[u8]) {
    let mut script = Script(input);
    let setup = script.byte();
    let suite = SUITES[usize::from(setup & 0x7f) % SUITES.len()];
    let mut world = if setup & 0x80 == 0 { World::serving(suite) } else { World::calling(suite) };
    while !script.is_over() {
        world.step(&mut script);
    }
}

/// Our record layer, and what its peer knows of the keys.
struct World {
    layer: RecordLayer,
    from_peer: Direction,
    to_peer: Direction,
    /// How receiving ended, which it then does for good.
    end: Option<Result<Opened, RecordError>>,
}

impl World {
    fn serving(suite: SupportedCipherSuite) -> Self {
        let mut ours = ServerHandshake::new(server()).unwrap();
        let mut peer = ClientConnection::new(client(suite), localhost()).unwrap().into();
        while !ours.is_established() {
            ours.feed(&sent_by(&mut peer)).unwrap();
            receive(&mut peer, &ours.take_outgoing());
        }
        Self::new(ours.into_keys().unwrap().records, peer, suite, ["CLIENT", "SERVER"])
    }

    fn calling(suite: SupportedCipherSuite) -> Self {
        let mut ours = ClientHandshake::new(client(suite), localhost()).unwrap();
        let mut peer = ServerConnection::new(server()).unwrap().into();
        while !ours.is_established() || ours.has_outgoing() {
            receive(&mut peer, &ours.take_outgoing());
            ours.feed(&sent_by(&mut peer)).unwrap();
        }
        ours.feed(&sent_by(&mut peer)).unwrap();
        Self::new(ours.into_keys().unwrap().records, peer, suite, ["SERVER", "CLIENT"])
    }

    fn new(
        layer: RecordLayer,
        peer: Connection,
        suite: SupportedCipherSuite,
        [peer_name, our_name]: [&str; 2],
    ) -> Self {
        let keys = peer.dangerous_extract_secrets().unwrap();
        Self {
            layer,
            from_peer: Direction::new(suite, keys.tx, Secrets::take(peer_name)),
            to_peer: Direction::new(suite, keys.rx, Secrets::take(our_name)),
            end: None,
        }
    }

    /// One step of the peer's or ours.
    fn step(&mut self, script: &mut Script<'_>) {
        let kind = script.byte();
        let cramped = kind & 0x80 != 0;
        match kind & 0x0f {
            // Data, in large and small records.
            0 | 1 => {
                let len = if kind & 1 == 0 { usize::from(script.byte()) } else { script.number() };
                self.take_data(&pattern(len % (MAX_PLAINTEXT_LEN + 1), script.byte()), cramped);
            }
            // An authentic record of any content: under TLS 1.3 the inner
            // plaintext with its type, under TLS 1.2 the type outside.
            2 => {
                let (outer, len) = (self.outer(script), usize::from(script.byte()));
                let record = self.from_peer.forge(outer, script.bytes(len));
                self.open(&record, true, cramped);
            }
            // A large one, up to more than TLS allows, with padding.
            3 => {
                let outer = self.outer(script);
                let mut inner = pattern(script.number() % 17_000, script.byte());
                inner.push(script.byte());
                inner.resize(inner.len() + script.number() % 17_000, 0);
                inner.truncate(17_000);
                let record = self.from_peer.forge(outer, &inner);
                self.open(&record, true, cramped);
            }
            // A handshake message, or part of one.
            4 => {
                let len = usize::from(script.byte());
                let record = self.from_peer.typed(HANDSHAKE, script.bytes(len));
                self.open(&record, true, cramped);
            }
            5 => {
                let record = self.from_peer.typed(ALERT, &[script.byte(), script.byte()]);
                self.open(&record, true, cramped);
            }
            6 => {
                let record = self.from_peer.typed(HANDSHAKE, &[24, 0, 0, 1, script.byte() & 1]);
                self.open(&record, true, cramped);
            }
            // Authentic, then changed at one place or cut short.
            7 => {
                let mut record = self.from_peer.typed(DATA, &pattern(40, script.byte()));
                let (place, xor) = (usize::from(script.byte()) % record.len(), script.byte());
                if xor == 0 {
                    record.truncate(place);
                } else if let Some(byte) = record.get_mut(place) {
                    *byte ^= xor;
                }
                self.open(&record, false, cramped);
            }
            // Whatever a stranger on the path may insert: with a header that
            // fits, or nothing that does.
            8 => {
                let (outer, len) = (script.byte(), usize::from(script.byte()));
                let payload = script.bytes(len);
                let header = [outer, 3, 3, 0, payload.len().to_le_bytes()[0]];
                self.open(&[&header, payload].concat(), false, cramped);
            }
            9 => {
                let len = usize::from(script.byte());
                self.open(script.bytes(len), false, cramped);
            }
            10 | 11 => {
                let len = if kind & 1 == 0 { usize::from(script.byte()) } else { script.number() };
                self.send_data(&pattern(len % (MAX_PLAINTEXT_LEN + 64), script.byte()));
            }
            12 => self.renew_key(script.byte() & 1 == 1),
            13 => self.send_alert(script.byte()),
            // The same data record twice: a replay.
            14 => {
                let record = self.from_peer.typed(DATA, &pattern(8, script.byte()));
                self.open(&record, true, cramped);
                self.open(&record, false, cramped);
            }
            // A record is lost.
            _ => {
                let _lost = self.from_peer.typed(DATA, b"lost");
                let record = self.from_peer.typed(DATA, b"kept");
                self.open(&record, false, cramped);
            }
        }
    }

    /// Mostly the outer type that TLS 1.3 has, so that scripts get further.
    fn outer(&self, script: &mut Script<'_>) -> u8 {
        let outer = script.byte();
        if self.from_peer.tls13 && outer < 0xf0 { DATA } else { outer }
    }

    fn take_data(&mut self, data: &[u8], cramped: bool) {
        let ended = self.end.is_some();
        let record = self.from_peer.typed(DATA, data);
        let (verdict, out) = self.opened(&record, true, cramped);
        match verdict {
            _ if ended => {}
            Ok(Opened::Data { len }) => assert!(out.get(..len) == Some(data), "other data"),
            // In the middle of a handshake message.
            Err(RecordError::UnexpectedMessage) => {}
            Err(RecordError::TooManyWithoutData) => assert!(data.is_empty()),
            other => panic!("{} bytes of data: {other:?}", data.len()),
        }
    }

    fn open(&mut self, record: &[u8], authentic: bool, cramped: bool) {
        let _checked = self.opened(record, authentic, cramped);
    }

    /// Opens, and checks what holds for every record.
    fn opened(
        &mut self,
        record: &[u8],
        authentic: bool,
        cramped: bool,
    ) -> (Result<Opened, RecordError>, Vec<u8>) {
        let before = self.layer.sequences();
        let mut out = vec![0xee; MAX_OPENED_LEN];
        let mut verdict = Err(RecordError::BufferTooSmall);
        if cramped {
            verdict = self.layer.open_into(record, &mut out[..record.len() / 2]);
        }
        if verdict == Err(RecordError::BufferTooSmall) {
            assert_eq!(self.layer.sequences(), before, "a refusal for want of room changed state");
            verdict = self.layer.open_into(record, &mut out);
        }
        assert_ne!(verdict, Err(RecordError::BufferTooSmall), "this much room always suffices");
        if let Some(end) = self.end {
            assert_eq!(verdict, end, "an end is not final");
            assert_eq!(self.layer.sequences(), before);
            return (verdict, out);
        }
        match verdict {
            Ok(Opened::Data { len }) => {
                assert!(authentic, "forged data was believed");
                assert!(len <= MAX_PLAINTEXT_LEN);
            }
            Ok(Opened::Control) => assert!(authentic, "a forged message was believed"),
            Ok(Opened::CloseNotify | Opened::Alert { .. }) => {
                assert!(authentic, "a forged alert was believed");
                self.end = Some(verdict);
            }
            Err(_) => self.end = Some(verdict),
        }
        assert_eq!(self.layer.peer_closed(), verdict == Ok(Opened::CloseNotify));
        if verdict.is_ok() {
            let (now, _) = self.layer.sequences();
            if now == 0 {
                assert!(verdict == Ok(Opened::Control) && self.from_peer.tls13);
                self.from_peer.renew();
            } else {
                assert_eq!(now, before.0 + 1);
            }
        }
        (verdict, out)
    }

    fn send_data(&mut self, data: &[u8]) {
        let mut buf = vec![0; RECORD_SLOT_LEN + 64];
        let offset = self.layer.plaintext_offset();
        buf[offset..][..data.len()].copy_from_slice(data);
        if self.layer.key_update_owed() && !self.layer.closed() {
            let early = self.layer.seal_in_place(&mut buf, data.len());
            assert_eq!(early, Err(RecordError::KeyUpdateOwed));
        }
        if self.layer.wants_key_update() {
            self.renew_key(false);
            assert!(!self.layer.wants_key_update());
        }
        let sealed = self.layer.seal_in_place(&mut buf, data.len());
        if self.layer.closed() {
            assert_eq!(sealed, Err(RecordError::Closed));
        } else if data.len() > MAX_PLAINTEXT_LEN {
            assert_eq!(sealed, Err(RecordError::Oversized));
        } else {
            let len = sealed.unwrap();
            assert_eq!(len, self.layer.sealed_len(data.len()));
            assert!(len <= RECORD_SLOT_LEN);
            let (kind, opened) = self.to_peer.open(&buf[..len]);
            assert!(kind == DATA && opened == data, "the peer reads something else");
        }
    }

    fn renew_key(&mut self, request: bool) {
        let mut out = [0; CONTROL_RECORD_LEN];
        let closed = self.layer.closed();
        match self.layer.seal_key_update(&mut out, request) {
            Ok(len) => {
                assert!(!closed && self.to_peer.tls13);
                let told = self.to_peer.open(&out[..len]);
                assert_eq!(told, (HANDSHAKE, vec![24, 0, 0, 1, u8::from(request)]));
                self.to_peer.renew();
                assert!(!self.layer.key_update_owed());
            }
            Err(RecordError::Closed) => assert!(closed),
            Err(error) => assert!(error == RecordError::Keys && !self.to_peer.tls13),
        }
    }

    fn send_alert(&mut self, description: u8) {
        let mut out = [0; CONTROL_RECORD_LEN];
        let closed = self.layer.closed();
        match self.layer.seal_alert(&mut out, description) {
            Ok(len) => {
                let (kind, told) = self.to_peer.open(&out[..len]);
                assert!(kind == ALERT && matches!(*told, [1 | 2, told] if told == description));
            }
            Err(error) => assert!(closed && error == RecordError::Closed),
        }
        assert!(self.layer.closed());
    }
}

fn pattern(len: usize, filler: u8) -> Vec<u8> {
    (0..len).map(|at| filler ^ at.to_le_bytes()[0]).collect()
}

fn sent_by(peer: &mut Connection) -> Vec<u8> {
    let mut wire = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut wire).unwrap();
    }
    wire
}

fn receive(peer: &mut Connection, mut wire: &[u8]) {
    while !wire.is_empty() {
        peer.read_tls(&mut wire).unwrap();
        peer.process_new_packets().unwrap();
    }
}

/// What protects one direction, from RFC 8446 and RFC 5246 once more: the
/// record layer under test must not be its own judge.
struct Direction {
    tls13: bool,
    explicit_nonce_len: usize,
    algorithm: &'static aws_lc_rs::aead::Algorithm,
    hkdf: hkdf::Algorithm,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    secret: Vec<u8>,
}

impl Direction {
    fn new(
        suite: SupportedCipherSuite,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
        secret: Vec<u8>,
    ) -> Self {
        let (algorithm, hkdf, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
                (&AES_128_GCM, hkdf::HKDF_SHA256, key, iv)
            }
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
                (&AES_256_GCM, hkdf::HKDF_SHA384, key, iv)
            }
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&CHACHA20_POLY1305, hkdf::HKDF_SHA256, key, iv)
            }
            _ => panic!("another suite"),
        };
        let tls13 = suite.tls13().is_some();
        let explicit_nonce_len = if tls13 || algorithm == &CHACHA20_POLY1305 { 0 } else { 8 };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).unwrap());
        let iv = iv.as_ref().try_into().unwrap();
        Self { tls13, explicit_nonce_len, algorithm, hkdf, key, iv, sequence, secret }
    }

    /// A record with this content, of the type that belongs to it.
    fn typed(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        if self.tls13 {
            self.forge(DATA, &[content, &[kind]].concat())
        } else {
            self.forge(kind, content)
        }
    }

    fn forge(&mut self, outer: u8, inner: &[u8]) -> Vec<u8> {
        let nonce = self.nonce();
        let explicit = nonce[4..][..self.explicit_nonce_len].to_vec();
        let header = header(outer, explicit.len() + inner.len() + 16);
        let aad = self.aad(header, inner.len());
        let mut sealed = inner.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).unwrap();
        self.sequence += 1;
        [&header[..], &explicit, &sealed].concat()
    }

    /// What a record of ours says; panics when it says nothing.
    fn open(&mut self, record: &[u8]) -> (u8, Vec<u8>) {
        let (head, payload) = record.split_first_chunk::<5>().unwrap();
        assert_eq!(*head, header(head[0], payload.len()), "the header does not fit");
        let (explicit, sealed) = payload.split_at(self.explicit_nonce_len);
        let mut nonce = self.nonce();
        nonce[4..][..explicit.len()].copy_from_slice(explicit);
        let aad = self.aad(*head, sealed.len() - 16);
        let mut inner = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let mut opened = self
            .key
            .open_in_place(nonce, Aad::from(aad), &mut inner)
            .expect("the peer cannot open what we sealed")
            .to_vec();
        self.sequence += 1;
        let kind = if self.tls13 { opened.pop().unwrap() } else { head[0] };
        (kind, opened)
    }

    /// RFC 8446 7.2.
    fn renew(&mut self) {
        self.secret = self.expand(b"traffic upd", self.secret.len());
        let key = self.expand(b"key", self.algorithm.key_len());
        self.key = LessSafeKey::new(UnboundKey::new(self.algorithm, &key).unwrap());
        self.iv = self.expand(b"iv", 12).try_into().unwrap();
        self.sequence = 0;
    }

    /// HKDF-Expand-Label without context (RFC 8446 7.1).
    fn expand(&self, label: &[u8], len: usize) -> Vec<u8> {
        struct Len(usize);
        impl hkdf::KeyType for Len {
            fn len(&self) -> usize {
                self.0
            }
        }
        let len_bytes = u16::try_from(len).unwrap().to_be_bytes();
        let label_len = [u8::try_from(6 + label.len()).unwrap()];
        let info = [&len_bytes[..], &label_len, b"tls13 ", label, &[0]];
        let mut expanded = vec![0; len];
        let secret = hkdf::Prk::new_less_safe(self.hkdf, &self.secret);
        secret.expand(&info, Len(len)).unwrap().fill(&mut expanded).unwrap();
        expanded
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce.iter_mut().skip(4).zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    fn aad(&self, head: [u8; 5], plaintext_len: usize) -> Vec<u8> {
        if self.tls13 {
            head.to_vec()
        } else {
            [&self.sequence.to_be_bytes()[..], &header(head[0], plaintext_len)].concat()
        }
    }
}

fn header(outer: u8, len: usize) -> [u8; 5] {
    let [high, low] = u16::try_from(len).unwrap().to_be_bytes();
    [outer, 3, 3, high, low]
}

/// Keeps this thread's newest traffic secrets of TLS 1.3.
#[derive(Debug)]
pub(super) struct Secrets;

thread_local! {
    static NEWEST: RefCell<HashMap<String, Vec<u8>>> = RefCell::default();
}

impl Secrets {
    /// Empty under TLS 1.2.
    fn take(side: &str) -> Vec<u8> {
        let label = format!("{side}_TRAFFIC_SECRET_0");
        NEWEST.with_borrow_mut(|newest| newest.remove(&label)).unwrap_or_default()
    }
}

impl rustls::KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        NEWEST.with_borrow_mut(|newest| newest.insert(label.to_owned(), secret.to_vec()));
    }
}
