//! TLS from its first byte: strangers' bytes, and genuine peers whose bytes
//! are cut up anywhere or changed on their way.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use ringway::tls::handshake::{ClientHandshake, ServerHandshake, TlsError};
use ringway::tls::record::{Framed, MAX_CONTROL_UNPAID, next_record};
use ringway::tls::settings::TlsSettings;
use rustls::crypto::{CryptoProvider, aws_lc_rs, aws_lc_rs::cipher_suite as suite};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedCipherSuite};

use super::Script;

/// Every record protection that there is.
pub(super) const SUITES: [SupportedCipherSuite; 6] = [
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The two handshakes share no trait that could be named here.
macro_rules! feed_strangers_bytes {
    ($ours:ident, $bytes:expr, $chunk_len:expr) => {
        let mut bytes = $bytes;
        while !bytes.is_empty() {
            let room = $ours.room();
            assert!(room > 0, "alive, and nothing can be fed any more");
            let (chunk, rest) = bytes.split_at($chunk_len.min(room).min(bytes.len()));
            bytes = rest;
            let verdict = $ours.feed(chunk);
            assert!(!$ours.is_established(), "a stranger guessed the keys");
            assert!($ours.plaintext().is_empty() && !$ours.peer_closed());
            assert_whole_records(&$ours.take_outgoing());
            if verdict.is_err() {
                assert!(matches!($ours.feed(b"more"), Err(TlsError::Ended)));
                assert!(!$ours.has_outgoing(), "an alert was sent twice");
                break;
            }
        }
        assert!(matches!($ours.into_keys(), Err(TlsError::NotEstablished)));
    };
}

/// `[chunk][bytes…]`: a stranger's bytes, in chunks of so many (0: all at once).
/// With the highest bit set we are the client that a stranger answers.
pub fn greeting(input: &[u8]) {
    let mut script = Script(input);
    let mode = script.byte();
    let chunk_len = match usize::from(mode & 0x7f) {
        0 => usize::MAX,
        len => len,
    };
    if mode & 0x80 == 0 {
        let mut server = ServerHandshake::new(server()).unwrap();
        feed_strangers_bytes!(server, script.0, chunk_len);
    } else {
        let mut client = ClientHandshake::new(client(SUITES[0]), localhost()).unwrap();
        assert_whole_records(&client.take_outgoing());
        feed_strangers_bytes!(client, script.0, chunk_len);
    }
}

/// `[suite][chunk][faults]([place][place][xor])…[writes…]`: a genuine client
/// talks to our server through a network that cuts and changes. Whatever it
/// does, what comes out is the beginning of what the client wrote; when it
/// changes nothing, all of it.
pub fn conversation(input: &[u8]) {
    let mut script = Script(input);
    let suite = SUITES[usize::from(script.byte()) % SUITES.len()];
    let chunk_len = usize::from(script.byte()).wrapping_sub(1).min(0xfff).saturating_add(1);
    let mut faults: Vec<(usize, u8)> =
        (0..script.byte() % 4).map(|_| (script.number() % 4_096, script.byte())).collect();
    faults.retain(|(_, xor)| *xor != 0);
    let mut wire = Wire { chunk_len, faults: &faults, carried: 0, changed: false };

    let mut client = ClientConnection::new(client(suite), localhost()).unwrap();
    let mut server = ServerHandshake::new(server()).unwrap();
    let (mut written, mut received) = (Vec::new(), Vec::new());
    // Fewer than are refused when no data pays for them.
    let mut updates_left = MAX_CONTROL_UNPAID;
    // Enough turns for a handshake and its tickets.
    for _ in 0..4 {
        if wire.carry(&mut client, &mut server, &mut received).is_err() {
            assert!(wire.changed, "a genuine client was refused");
            return;
        }
    }
    // A change can leave both sides waiting for more.
    assert!(server.is_established() || wire.changed);
    while !script.is_over() && server.is_established() {
        let len = script.number() % 20_000;
        let filler = script.byte();
        let data: Vec<u8> = (0..len).map(|at| filler ^ at.to_le_bytes()[0]).collect();
        client.writer().write_all(&data).unwrap();
        if filler == 0 && updates_left > 0 && suite.tls13().is_some() {
            client.refresh_traffic_keys().unwrap();
            updates_left -= 1;
        }
        written.extend(data);
        let verdict = wire.carry(&mut client, &mut server, &mut received);
        assert!(written.starts_with(&received), "other bytes came out than went in");
        if verdict.is_err() {
            assert!(wire.changed, "genuine records were refused: {verdict:?}");
            return;
        }
    }
    client.send_close_notify();
    let verdict = wire.carry(&mut client, &mut server, &mut received);
    assert!(written.starts_with(&received));
    if !wire.changed {
        verdict.unwrap();
        assert!(server.peer_closed() && received == written, "the end was lost");
        assert!(server.take_outgoing().is_empty());
        server.into_keys().unwrap();
    }
}

struct Wire<'a> {
    chunk_len: usize,
    /// Places in the client's bytes, and what to change there.
    faults: &'a [(usize, u8)],
    carried: usize,
    changed: bool,
}

impl Wire<'_> {
    /// Carries what both sides want to send, once.
    fn carry(
        &mut self,
        client: &mut ClientConnection,
        server: &mut ServerHandshake,
        received: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        for (place, xor) in self.faults {
            if let Some(byte) = place.checked_sub(self.carried).and_then(|at| bytes.get_mut(at)) {
                *byte ^= xor;
                self.changed = true;
            }
        }
        self.carried += bytes.len();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let len = self.chunk_len.min(server.room()).min(rest.len());
            let (chunk, more) = rest.split_at(len);
            rest = more;
            let verdict = server.feed(chunk);
            received.extend_from_slice(server.plaintext());
            server.consume_plaintext(usize::MAX);
            if verdict.is_err() {
                assert_whole_records(&server.take_outgoing());
                return verdict;
            }
            assert!(server.room() > 0);
        }
        // What was held back while plaintext waited.
        server.feed(&[])?;
        received.extend_from_slice(server.plaintext());
        server.consume_plaintext(usize::MAX);

        let answer = server.take_outgoing();
        assert_whole_records(&answer);
        let mut answer = answer.as_slice();
        while !answer.is_empty() {
            client.read_tls(&mut answer).unwrap();
            let Ok(state) = client.process_new_packets() else {
                assert!(self.changed, "a genuine client refuses our answer");
                return Err(TlsError::ClosedInHandshake);
            };
            let mut data = vec![0; state.plaintext_bytes_to_read()];
            client.reader().read_exact(&mut data).unwrap();
            assert!(data.is_empty(), "we sent nothing");
        }
        Ok(())
    }
}

/// Whatever happens, what we send is TLS.
fn assert_whole_records(mut outgoing: &[u8]) {
    while !outgoing.is_empty() {
        let Ok(Framed::Complete { total_len, .. }) = next_record(outgoing) else {
            panic!("we send what is not a record: {outgoing:?}");
        };
        outgoing = &outgoing[total_len..];
    }
}

pub(super) fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

fn identity() -> &'static (CertificateDer<'static>, PrivateKeyDer<'static>) {
    static IDENTITY: OnceLock<(CertificateDer<'static>, PrivateKeyDer<'static>)> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        (made.cert.der().clone(), key)
    })
}

/// The gateway's own configuration, with all suites. Nothing is resumed, so
/// that an input means the same every time.
pub(super) fn server() -> Arc<ServerConfig> {
    static SERVER: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    let made = SERVER.get_or_init(|| {
        let (certificate, key) = identity();
        let settings = TlsSettings { chacha20: true, ..TlsSettings::default() };
        let mut config = settings.server(vec![certificate.clone()], key.clone_key()).unwrap();
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.key_log = Arc::new(super::records::Secrets);
        Arc::new(config)
    });
    Arc::clone(made)
}

/// A client that offers one suite and nothing else.
pub(super) fn client(suite: SupportedCipherSuite) -> Arc<ClientConfig> {
    static CLIENTS: OnceLock<Vec<Arc<ClientConfig>>> = OnceLock::new();
    let clients = CLIENTS.get_or_init(|| SUITES.into_iter().map(make_client).collect());
    let place = SUITES.iter().position(|known| *known == suite).unwrap();
    Arc::clone(&clients[place])
}

fn make_client(suite: SupportedCipherSuite) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(identity().0.clone()).unwrap();
    let provider = CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    config.resumption = rustls::client::Resumption::disabled();
    config.key_log = Arc::new(super::records::Secrets);
    Arc::new(config)
}
