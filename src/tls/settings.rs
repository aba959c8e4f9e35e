//! Suites, versions and key exchange groups of every outer leg, and the
//! configurations built from them.
//!
//! The default is what Azure Front Door offers and rustls has: TLS 1.3
//! AES-256-GCM and AES-128-GCM; TLS 1.2 ECDHE with the same two; X25519,
//! P-256, P-384. ChaCha20-Poly1305 is off unless switched on.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use serde::{Deserialize, Serialize};

use super::live_certificate::LiveCertificate;

/// What an operator can choose about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// Oldest version that is accepted.
    pub minimum_version: MinimumVersion,
    /// Offer ChaCha20-Poly1305 after the AES suites.
    pub chacha20: bool,
    /// AES-128-GCM before AES-256-GCM: about a fifth less CPU per byte.
    pub prefer_aes128: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self { minimum_version: MinimumVersion::Tls12, chacha20: false, prefer_aes128: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MinimumVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

impl TlsSettings {
    /// The provider with exactly these suites and groups, in this order.
    #[must_use]
    pub fn provider(self) -> Arc<CryptoProvider> {
        use aws_lc_rs::{cipher_suite as suite, kx_group};
        let mut cipher_suites = vec![
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ];
        if self.prefer_aes128 {
            cipher_suites.sort_by_key(|s| !format!("{:?}", s.suite()).contains("AES_128"));
        }
        if self.chacha20 {
            cipher_suites.extend([
                suite::TLS13_CHACHA20_POLY1305_SHA256,
                suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ]);
        }
        Arc::new(CryptoProvider {
            cipher_suites,
            kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
            ..aws_lc_rs::default_provider()
        })
    }

    fn versions(self) -> Vec<&'static SupportedProtocolVersion> {
        match self.minimum_version {
            MinimumVersion::Tls12 => vec![&rustls::version::TLS13, &rustls::version::TLS12],
            MinimumVersion::Tls13 => vec![&rustls::version::TLS13],
        }
    }

    /// A certificate that servers and clients can show and exchange.
    ///
    /// # Errors
    /// When the key is not the certificate's.
    pub fn certificate(
        self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<LiveCertificate>, rustls::Error> {
        LiveCertificate::new(chain, key, &self.provider())
    }

    /// A server that asks for no client certificate. Secret extraction is on:
    /// a gateway's relay takes the keys over after the handshake.
    ///
    /// # Errors
    /// When key and certificate do not fit together.
    pub fn server(
        self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ServerConfig, rustls::Error> {
        self.server_showing(self.certificate(chain, key)?)
    }

    /// The same with a certificate that can be exchanged.
    ///
    /// # Errors
    /// When no version and suite fit together.
    pub fn server_showing(
        self,
        certificate: Arc<LiveCertificate>,
    ) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&self.versions())?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        config.enable_secret_extraction = true;
        // A resumed handshake saves a server little (RFC 8446 4.6.1: the key
        // exchange stays), and the tickets for it cost every handshake a tenth.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// A server that asks for a client certificate of `client_ca` and lets
    /// those without one in as well: the request handler decides what they may
    /// do (enrol, read the feed).
    ///
    /// # Errors
    /// When the CA cannot be used.
    pub fn server_asking_for_client_certificate(
        self,
        certificate: Arc<LiveCertificate>,
        client_ca: RootCertStore,
    ) -> Result<ServerConfig, rustls::Error> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(client_ca), self.provider())
                .allow_unauthenticated()
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(ServerConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&self.versions())?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(certificate))
    }

    /// A client that trusts `roots` and shows no certificate.
    ///
    /// # Errors
    /// When no version and suite fit together.
    pub fn client(self, roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
        Ok(ClientConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&self.versions())?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }

    /// A client that trusts `roots` and shows its own certificate.
    ///
    /// # Errors
    /// When key and certificate do not fit together.
    pub fn client_with_certificate(
        self,
        roots: RootCertStore,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ClientConfig, rustls::Error> {
        self.client_showing(roots, self.certificate(chain, key)?)
    }

    /// The same with a certificate that can be exchanged.
    ///
    /// # Errors
    /// When no version and suite fit together.
    pub fn client_showing(
        self,
        roots: RootCertStore,
        certificate: Arc<LiveCertificate>,
    ) -> Result<ClientConfig, rustls::Error> {
        Ok(ClientConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&self.versions())?
            .with_root_certificates(roots)
            .with_client_cert_resolver(certificate))
    }
}
