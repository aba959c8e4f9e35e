//! The record layer: what every relayed byte goes through.

use std::sync::Arc;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use ringway::tls::handshake::{ClientHandshake, ServerHandshake};
use ringway::tls::record::{Framed, MAX_OPENED_LEN, RecordLayer, next_record};
use ringway::tls::settings::TlsSettings;
use rustls::crypto::aws_lc_rs::cipher_suite as suite;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedCipherSuite};

const RECORD_BYTES: [usize; 5] = [64, 256, 1_024, 4_096, 16_384];

#[derive(Clone, Copy, Debug)]
enum Suite {
    Tls13Aes128,
    Tls13Aes256,
    Tls13ChaCha20,
    Tls12Aes128,
    Tls12Aes256,
    Tls12ChaCha20,
}

const SUITES: [Suite; 6] = [
    Suite::Tls13Aes128,
    Suite::Tls13Aes256,
    Suite::Tls13ChaCha20,
    Suite::Tls12Aes128,
    Suite::Tls12Aes256,
    Suite::Tls12ChaCha20,
];

impl Suite {
    const fn rustls(self) -> SupportedCipherSuite {
        match self {
            Self::Tls13Aes128 => suite::TLS13_AES_128_GCM_SHA256,
            Self::Tls13Aes256 => suite::TLS13_AES_256_GCM_SHA384,
            Self::Tls13ChaCha20 => suite::TLS13_CHACHA20_POLY1305_SHA256,
            Self::Tls12Aes128 => suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            Self::Tls12Aes256 => suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            Self::Tls12ChaCha20 => suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        }
    }

    /// The two ends of a finished handshake.
    fn established(self) -> (RecordLayer, RecordLayer) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate: CertificateDer<'static> = params.self_signed(&key).unwrap().der().clone();
        let settings = TlsSettings { chacha20: true, ..TlsSettings::default() };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let server = settings.server(vec![certificate.clone()], key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let mut provider = (*settings.provider()).clone();
        provider.cipher_suites = vec![self.rustls()];
        let mut client = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.enable_secret_extraction = true;

        let mut near = ServerHandshake::new(Arc::new(server)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut far = ClientHandshake::new(Arc::new(client), name).unwrap();
        for _ in 0..4 {
            near.feed(&far.take_outgoing()).unwrap();
            far.feed(&near.take_outgoing()).unwrap();
        }
        (near.into_keys().unwrap().records, far.into_keys().unwrap().records)
    }
}

fn sealed(records: &mut RecordLayer, plaintext_bytes: usize) -> Vec<u8> {
    let mut record = vec![7; records.sealed_len(plaintext_bytes)];
    assert_eq!(records.seal_in_place(&mut record, plaintext_bytes).unwrap(), record.len());
    record
}

#[divan::bench(args = SUITES, consts = RECORD_BYTES)]
fn seal<const BYTES: usize>(bencher: Bencher, suite: Suite) {
    let (mut near, _) = suite.established();
    let mut record = vec![7; near.sealed_len(BYTES)];
    bencher.counter(BytesCount::new(BYTES)).bench_local(|| {
        assert!(!near.wants_key_update());
        near.seal_in_place(&mut record, BYTES).unwrap()
    });
}

#[divan::bench(args = SUITES, consts = RECORD_BYTES)]
fn open<const BYTES: usize>(bencher: Bencher, suite: Suite) {
    let (mut near, mut far) = suite.established();
    let mut out = [0; MAX_OPENED_LEN];
    bencher
        .counter(BytesCount::new(BYTES))
        .with_inputs(|| sealed(&mut far, BYTES))
        .bench_local_refs(|record| near.open_into(record, &mut out).unwrap());
}

/// A receive buffer full of records.
#[divan::bench(consts = RECORD_BYTES)]
fn next_record_of_a_buffer<const BYTES: usize>(bencher: Bencher) {
    let (_, mut far) = Suite::Tls13Aes128.established();
    let records = 128 * 1024 / BYTES;
    let buffer: Vec<u8> = (0..records).flat_map(|_| sealed(&mut far, BYTES)).collect();
    bencher.counter(ItemsCount::new(records)).bench_local(|| {
        let mut rest = divan::black_box(buffer.as_slice());
        let mut found = 0;
        while let Ok(Framed::Complete { total_len, .. }) = next_record(rest) {
            rest = rest.get(total_len..).unwrap_or_default();
            found += 1;
        }
        assert_eq!(found, records);
    });
}
