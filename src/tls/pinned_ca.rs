//! Trust in one CA of which only a fingerprint is known: how a machine that
//! knows nothing but its enrolment token recognises its broker.
//!
//! The server shows its CA certificate along with its own. The one whose
//! SHA-256 starts with the pin becomes the only trust root, and everything
//! else (chain, name, time, purpose, signature of the handshake) is verified
//! as ever. A CA certificate is public, so showing it proves nothing: what
//! counts is that the server's certificate was signed by it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::settings::TlsSettings;

/// Bytes of the fingerprint that a token carries: finding another certificate
/// with the same 128 bits is out of reach.
const PIN_LENGTH: usize = 16;

/// The first half of the SHA-256 of a CA certificate in DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaPin([u8; PIN_LENGTH]);

/// Why a text is not a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a CA fingerprint is {} hexadecimal digits", 2 * PIN_LENGTH)]
pub struct CaPinError;

impl CaPin {
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut pin = [0; PIN_LENGTH];
        let hash = digest(&SHA256, certificate);
        pin.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        Self(pin)
    }

    /// A TLS client that trusts the pinned CA only and shows no certificate.
    ///
    /// # Errors
    /// When no version and suite fit together.
    pub fn client(self, settings: TlsSettings) -> Result<ClientConfig, Error> {
        let mut config = settings.client(RootCertStore::empty())?;
        let verifier = PinnedCaVerifier { pin: self, provider: settings.provider() };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Ok(config)
    }
}

impl FromStr for CaPin {
    type Err = CaPinError;
    fn from_str(text: &str) -> Result<Self, CaPinError> {
        let mut pin = [0; PIN_LENGTH];
        hex::decode_to_slice(text, &mut pin).map_err(|_| CaPinError)?;
        Ok(Self(pin))
    }
}

impl fmt::Display for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[derive(Debug)]
struct PinnedCaVerifier {
    pin: CaPin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCaVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| CaPin::of(certificate) == self.pin)
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::testing::TestCa;

    fn verify(pin: CaPin, chain: &[CertificateDer<'static>], name: &str) -> Result<(), Error> {
        let verifier = PinnedCaVerifier { pin, provider: TlsSettings::default().provider() };
        let (leaf, rest) = chain.split_first().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::now()).map(|_| ())
    }

    #[test]
    fn the_pinned_ca_vouches_for_its_own_server_and_name_only() {
        let (ours, other) = (TestCa::new(), TestCa::new());
        let pin = CaPin::of(&ours.der());
        let (chain, _) = ours.issue("broker.example");
        assert_eq!(verify(pin, &chain, "broker.example"), Ok(()));
        assert!(verify(pin, &chain, "other.example").is_err());

        let (foreign, _) = other.issue("broker.example");
        assert!(verify(pin, &foreign, "broker.example").is_err());
        // Showing our CA next to a certificate that it did not sign is no proof.
        let borrowed = [foreign[0].clone(), ours.der()];
        assert!(verify(pin, &borrowed, "broker.example").is_err());
    }

    #[test]
    fn a_chain_without_the_ca_is_refused_even_when_the_leaf_is_its_own() {
        let ca = TestCa::new();
        let (chain, _) = ca.issue("broker.example");
        assert!(verify(CaPin::of(&ca.der()), &chain[..1], "broker.example").is_err());
        // A leaf is no CA, whatever the pin says.
        let leaf_pin = CaPin::of(&chain[0]);
        let twice = [chain[0].clone(), chain[0].clone()];
        assert!(verify(leaf_pin, &twice, "broker.example").is_err());
    }

    #[test]
    fn pins_survive_their_text() {
        let pin = CaPin::of(&TestCa::new().der());
        assert_eq!(pin.to_string().parse(), Ok(pin));
        assert_eq!("12".parse::<CaPin>(), Err(CaPinError));
    }
}
