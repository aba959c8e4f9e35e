//! How the generator's clients judge a certificate: once. What they load is what
//! is measured, and a client that verifies every handshake computes for longer
//! than the server it means to keep busy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// Leaves the first handshake to another verifier, chain and signature. Those
/// after it that show the same certificate are believed.
#[derive(Debug)]
pub struct VerifiesOnce {
    inner: Arc<dyn ServerCertVerifier>,
    seen: OnceLock<CertificateDer<'static>>,
    has_signed: AtomicBool,
}

impl VerifiesOnce {
    #[must_use]
    pub fn new(inner: Arc<dyn ServerCertVerifier>) -> Self {
        Self { inner, seen: OnceLock::new(), has_signed: AtomicBool::new(false) }
    }

    fn has_seen(&self, certificate: &CertificateDer<'_>) -> bool {
        self.seen.get().is_some_and(|seen| seen == certificate)
    }

    fn believe_or(
        &self,
        certificate: &CertificateDer<'_>,
        verify: impl FnOnce() -> Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.has_seen(certificate) && self.has_signed.load(Ordering::Relaxed) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let verified = verify()?;
        if self.has_seen(certificate) {
            self.has_signed.store(true, Ordering::Relaxed);
        }
        Ok(verified)
    }
}

impl ServerCertVerifier for VerifiesOnce {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.has_seen(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        // A second certificate is verified every time.
        let _ = self.seen.set(end_entity.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.believe_or(certificate, || {
            self.inner.verify_tls12_signature(message, certificate, signed)
        })
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.believe_or(certificate, || {
            self.inner.verify_tls13_signature(message, certificate, signed)
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A rival's certificate is nobody's business here.
#[derive(Debug)]
pub struct TrustsAnyone(pub Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use rustls::client::WebPkiServerVerifier;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

    use super::*;
    use crate::dial::testing::TestCa;
    use crate::tls::settings::TlsSettings;

    type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

    /// Verifies, and counts.
    #[derive(Debug)]
    struct Counting(Arc<WebPkiServerVerifier>, Arc<AtomicUsize>);

    impl ServerCertVerifier for Counting {
        fn verify_server_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            intermediates: &[CertificateDer<'_>],
            server_name: &ServerName<'_>,
            ocsp_response: &[u8],
            now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.0.verify_tls12_signature(message, certificate, signed)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.verify_tls13_signature(message, certificate, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_verify_schemes()
        }
    }

    /// A client of that CA, and how often it has verified anything.
    fn client(ca: &TestCa) -> (Arc<ClientConfig>, Arc<AtomicUsize>) {
        let provider = TlsSettings::default().provider();
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(ca.roots()), provider)
            .build()
            .unwrap();
        let verified = Arc::new(AtomicUsize::new(0));
        let counting = Arc::new(Counting(inner, Arc::clone(&verified)));
        let mut config = ca.client();
        config.dangerous().set_certificate_verifier(Arc::new(VerifiesOnce::new(counting)));
        (Arc::new(config), verified)
    }

    fn server((chain, key): Shown) -> Arc<ServerConfig> {
        Arc::new(TlsSettings::default().server(chain, key).unwrap())
    }

    /// Shows the certificate of one, signs with the key of another.
    fn thief((chain, _): Shown, (_, key): Shown) -> Arc<ServerConfig> {
        let (own_chain, own_key) = TestCa::new().issue("localhost");
        let mut config = TlsSettings::default().server(own_chain, own_key).unwrap();
        let provider = TlsSettings::default().provider();
        let key = provider.key_provider.load_private_key(key).unwrap();
        let shown = CertifiedKey::new(chain, key);
        config.cert_resolver = Arc::new(SingleCertAndKey::from(shown));
        Arc::new(config)
    }

    fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<(), Error> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
        for _ in 0..2 {
            let mut flight = Vec::new();
            client.write_tls(&mut flight).unwrap();
            server.read_tls(&mut flight.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            flight.clear();
            server.write_tls(&mut flight).unwrap();
            client.read_tls(&mut flight.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok(())
    }

    #[test]
    fn the_first_handshake_is_verified_and_those_like_it_are_believed() {
        let ca = TestCa::new();
        let (client, verified) = client(&ca);
        let server = server(ca.issue("localhost"));
        for _ in 0..3 {
            shake(&client, &server).unwrap();
        }
        assert_eq!(verified.load(Ordering::Relaxed), 2, "a chain and a signature");
    }

    #[test]
    fn another_certificate_is_verified_whatever_came_before() {
        let (ours, other) = (TestCa::new(), TestCa::new());
        let (client, _) = client(&ours);
        let (good, bad) = (server(ours.issue("localhost")), server(other.issue("localhost")));
        shake(&client, &bad).unwrap_err();
        shake(&client, &good).unwrap();
        shake(&client, &bad).unwrap_err();
        shake(&client, &good).unwrap();
    }

    #[test]
    fn a_good_certificate_is_not_believed_before_its_key_has_signed() {
        let ca = TestCa::new();
        let (client, _) = client(&ca);
        let thief = thief(ca.issue("localhost"), ca.issue("localhost"));
        shake(&client, &thief).unwrap_err();
        shake(&client, &thief).unwrap_err();
    }
}
