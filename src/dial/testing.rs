//! For the tests of both ends: a CA and TLS servers that a test scripts.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{DialLimits, Dialer};
use crate::tls::settings::TlsSettings;

/// A certificate authority for one test.
pub(crate) struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Ringway test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    pub(crate) fn issuer(&self) -> &CertifiedIssuer<'static, KeyPair> {
        &self.issuer
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        roots
    }

    /// A leaf for `name`, followed by the CA, and its key.
    pub(crate) fn issue(
        &self,
        name: &str,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![leaf.der().clone(), self.der()], key)
    }

    /// What `ringway enroll` would have stored for an agent of this broker.
    pub(crate) fn enrol_agent(&self, state_dir: &std::path::Path, broker_url: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(Vec::<String>::new()).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let record = format!(
            r#"{{"broker_url":"{broker_url}","name":"host-1","role":"agent","pool":"pool-1"}}"#
        );
        for (name, content) in [
            ("machine.key.pem", key.serialize_pem()),
            ("machine.crt.pem", leaf.pem() + &self.pem()),
            ("broker-ca.pem", self.pem()),
            ("enrolment.json", record),
        ] {
            std::fs::write(state_dir.join(name), content).unwrap();
        }
    }

    /// Signs .rdp files with a certificate of this CA.
    pub(crate) fn rdp_signer(&self) -> crate::wire::rdp_signature::Signer {
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        crate::wire::rdp_signature::Signer::from_pem(&leaf.pem(), &key.serialize_pem()).unwrap()
    }

    /// For "localhost"; asks for a client certificate and does without one.
    pub(crate) fn server(&self) -> ServerConfig {
        let (chain, key) = self.issue("localhost");
        let tls = TlsSettings::default();
        let certificate = tls.certificate(chain, key).unwrap();
        tls.server_asking_for_client_certificate(certificate, self.roots()).unwrap()
    }

    pub(crate) fn client(&self) -> ClientConfig {
        TlsSettings::default().client(self.roots()).unwrap()
    }

    pub(crate) fn dialer(&self) -> Dialer {
        Dialer::new(self.client(), short_limits())
    }
}

/// Long enough for a busy machine; tests of a deadline shorten one of them.
pub(crate) fn short_limits() -> DialLimits {
    DialLimits {
        connect_timeout_ms: 10_000,
        handshake_timeout_ms: 10_000,
        answer_timeout_ms: 10_000,
    }
}

/// A TLS server on a port of the kernel's choice. `serve` handles each
/// connection in its own task; dropping the server ends it.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl TestServer {
    pub(crate) async fn start<F, S>(config: ServerConfig, serve: F) -> Self
    where
        F: Fn(TlsStream<TcpStream>) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let accepting = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                if let Ok(tls) = acceptor.accept(tcp).await {
                    serving.spawn(serve(tls));
                }
            }
        });
        Self { address, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Reads an HTTP head; what follows it stays in the stream.
pub(crate) async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Waits for a condition; fails the test when it does not come true.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("did not happen in 10 s: {what}");
}
