//! A certificate with its key that can be exchanged under a running server or
//! client. New handshakes show the new one; connections that are there go on.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, SignatureScheme};

use crate::config::current::Current;

/// One lock is read per handshake, none afterwards.
#[derive(Debug)]
pub struct LiveCertificate(Current<CertifiedKey>);

impl LiveCertificate {
    /// # Errors
    /// When the key is not that of the first certificate.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self(Current::new(CertifiedKey::from_der(chain, key, provider)?))))
    }

    /// From now on shows what the other one shows.
    pub fn become_like(&self, other: &Self) {
        let CertifiedKey { cert, key, ocsp } = &*other.0.get();
        let mut copy = CertifiedKey::new(cert.clone(), Arc::clone(key));
        copy.ocsp.clone_from(ocsp);
        self.0.replace(copy);
    }

    /// Leaf first.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.get().cert.clone()
    }
}

impl ResolvesServerCert for LiveCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get())
    }
}

impl ResolvesClientCert for LiveCertificate {
    fn resolve(
        &self,
        _acceptable_issuers: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.get();
        shown.key.choose_scheme(schemes).is_some().then_some(shown)
    }

    fn has_certs(&self) -> bool {
        true
    }
}
