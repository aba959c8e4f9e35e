//! The record layer against peers that are not ours (rustls, OpenSSL) and
//! against forged records. Here: how the tests shake hands and move bytes.

mod forged;
mod handshake;
mod openssl_peer;
mod openssl_server_peer;
mod rustls_peer;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs, aws_lc_rs::cipher_suite as suite};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedCipherSuite,
    SupportedProtocolVersion,
};

use super::*;
use crate::tls::handshake::{ClientHandshake, EstablishedTls, ServerHandshake};
use crate::tls::settings::TlsSettings;

/// Every record protection that there is.
pub const ALL: [SupportedCipherSuite; 6] = [
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];
pub const TLS13: SupportedCipherSuite = suite::TLS13_AES_256_GCM_SHA384;
pub const TLS12: SupportedCipherSuite = suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;

/// A certificate for `localhost` that signs itself, and its key.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        Self {
            certificate: made.cert.der().clone(),
            key: PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
        }
    }

    /// The gateway's own configuration, with all suites, and with tickets, which
    /// take sequence numbers before the keys are taken.
    pub fn server(&self) -> Arc<ServerConfig> {
        let settings = TlsSettings { chacha20: true, ..TlsSettings::default() };
        let chain = vec![self.certificate.clone()];
        let mut config = settings.server(chain, self.key.clone_key()).unwrap();
        config.send_tls13_tickets = 2;
        Arc::new(config)
    }

    /// A client that offers one suite and nothing else.
    pub fn client(&self, suite: SupportedCipherSuite) -> ClientConfig {
        let versions: &[&'static SupportedProtocolVersion] = match suite {
            SupportedCipherSuite::Tls13(_) => &[&rustls::version::TLS13],
            SupportedCipherSuite::Tls12(_) => &[&rustls::version::TLS12],
        };
        let provider =
            CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() };
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_secret_extraction = true;
        config
    }
}

pub fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// What a rustls client wants to send now.
pub fn from_client(client: &mut ClientConnection) -> Vec<u8> {
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).unwrap();
    }
    wire
}

/// Gives bytes to a rustls client; returns the data that came out.
pub fn to_client(client: &mut ClientConnection, mut wire: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    let mut data = Vec::new();
    while !wire.is_empty() {
        client.read_tls(&mut wire).unwrap();
        let state = client.process_new_packets()?;
        let start = data.len();
        data.resize(start + state.plaintext_bytes_to_read(), 0);
        std::io::Read::read_exact(&mut client.reader(), &mut data[start..]).unwrap();
    }
    Ok(data)
}

/// A rustls client and our server, handshake done, keys taken.
pub fn joined(suite: SupportedCipherSuite) -> (ClientConnection, RecordLayer) {
    let identity = Identity::new();
    let (client, ours) = join(Arc::new(identity.client(suite)), identity.server());
    (client, ours.records)
}

pub fn join(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (ClientConnection, EstablishedTls) {
    let mut client = ClientConnection::new(client, localhost()).unwrap();
    let mut server = ServerHandshake::new(server).unwrap();
    while !server.is_established() || client.is_handshaking() {
        server.feed(&from_client(&mut client)).unwrap();
        assert!(to_client(&mut client, &server.take_outgoing()).unwrap().is_empty());
    }
    (client, server.into_keys().unwrap())
}

/// Our own client and server, both with their keys taken: what one forges
/// reaches the other as if it came from a bad peer.
pub fn pair(suite: SupportedCipherSuite) -> (RecordLayer, RecordLayer) {
    let identity = Identity::new();
    let mut client = ClientHandshake::new(Arc::new(identity.client(suite)), localhost()).unwrap();
    let mut server = ServerHandshake::new(identity.server()).unwrap();
    while !server.is_established() || !client.is_established() {
        server.feed(&client.take_outgoing()).unwrap();
        client.feed(&server.take_outgoing()).unwrap();
    }
    let (client, server) = (client.into_keys().unwrap(), server.into_keys().unwrap());
    assert!(client.leftover_ciphertext.is_empty(), "the tickets were skipped");
    (client.records, server.records)
}

/// Seals data as the relay does: plaintext first, then the record around it.
pub fn seal(layer: &mut RecordLayer, plaintext: &[u8]) -> Vec<u8> {
    let mut buf = vec![0; layer.sealed_len(plaintext.len())];
    let offset = layer.plaintext_offset();
    buf[offset..offset + plaintext.len()].copy_from_slice(plaintext);
    assert_eq!(layer.seal_in_place(&mut buf, plaintext.len()), Ok(buf.len()));
    buf
}

/// A control record that `seal` writes.
pub fn control(seal: impl FnOnce(&mut [u8]) -> Result<usize, RecordError>) -> Vec<u8> {
    let mut buf = vec![0; CONTROL_RECORD_LEN];
    let len = seal(&mut buf).unwrap();
    buf.truncate(len);
    buf
}

/// What came out of a stretch of ciphertext.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub data: Vec<u8>,
    pub events: Vec<Opened>,
}

/// The receiving loop of a relay: whole records out of a growing buffer.
pub struct Receiver {
    buffer: Vec<u8>,
    out: Vec<u8>,
}

impl Receiver {
    pub fn new() -> Self {
        Self { buffer: Vec::new(), out: vec![0; MAX_OPENED_LEN] }
    }

    pub fn take(
        &mut self,
        layer: &mut RecordLayer,
        wire: &[u8],
        into: &mut Received,
    ) -> Result<(), RecordError> {
        self.buffer.extend_from_slice(wire);
        let mut done = 0;
        while let Framed::Complete { total_len, .. } = next_record(&self.buffer[done..])? {
            let record = &self.buffer[done..done + total_len];
            match layer.open_into(record, &mut self.out)? {
                Opened::Data { len } => into.data.extend_from_slice(&self.out[..len]),
                event => into.events.push(event),
            }
            done += total_len;
        }
        self.buffer.drain(..done);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// Opens everything in `wire`, which ends with a whole record.
pub fn open(layer: &mut RecordLayer, wire: &[u8]) -> Result<Received, RecordError> {
    let mut received = Received::default();
    let mut receiver = Receiver::new();
    receiver.take(layer, wire, &mut received)?;
    assert!(receiver.is_empty(), "a record is incomplete");
    Ok(received)
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn a_record_layer_can_be_moved_to_a_relay_worker() {
    fn assert_send<T: Send>() {}
    assert_send::<RecordLayer>();
    assert_send::<EstablishedTls>();
    assert_send::<ServerHandshake>();
}
