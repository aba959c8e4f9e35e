//! Signing (step 5).

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use der::{Decode as _, Encode as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use zeroize::Zeroize as _;

use super::envelope::Envelope;
use super::scope::{self, SCOPE_NAME, SIGNATURE_NAME, ScopeProblem};
use crate::wire::rdp_file::RdpFile;

/// Why a file cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("no usable certificate in the PEM text: {0}")]
    Certificate(String),
    #[error("no usable private key in the PEM text: {0}")]
    Key(String),
    #[error(
        "the private key is not RSA with 2048 bits or more, which RDP clients need; use such a key"
    )]
    NotRsa,
    #[error(
        "the private key does not belong to the first certificate; put the signer's certificate first"
    )]
    KeyMismatch,
    #[error("the file has no setting that can be signed")]
    NothingToSign,
    #[error("the settings cannot be signed as they are: {0}")]
    Scope(#[from] ScopeProblem),
    #[error("cannot assemble the signature: {0}")]
    Encode(#[from] der::Error),
    #[error("the RSA operation failed")]
    Rsa,
}

/// A certificate chain and its RSA key.
pub struct Signer {
    leaf: Certificate,
    others: Vec<Certificate>,
    certificate_sha256: String,
    /// Freed with zeroes by aws-lc.
    key: RsaKeyPair,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.leaf.tbs_certificate.subject)
    }
}

impl Signer {
    /// Takes the signer's certificate, then its issuers', and the key
    /// (PKCS#8 or PKCS#1). The whole chain travels in every signature.
    ///
    /// # Errors
    /// When one of them cannot be read, or they do not belong together.
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Self, SignError> {
        let mut others = Vec::new();
        for der in CertificateDer::pem_slice_iter(chain_pem.as_bytes()) {
            let der = der.map_err(|error| SignError::Certificate(error.to_string()))?;
            others.push(parse_certificate(&der)?);
        }
        if others.is_empty() {
            return Err(SignError::Certificate("there is none".into()));
        }
        let leaf = others.remove(0);
        let key = rsa_key(key_pem)?;
        let public = leaf.tbs_certificate.subject_public_key_info.subject_public_key.raw_bytes();
        if public != key.public_key().as_ref() {
            return Err(SignError::KeyMismatch);
        }
        let certificate_sha256 = hex::encode(digest(&SHA256, &leaf.to_der()?));
        Ok(Self { leaf, others, certificate_sha256, key })
    }

    /// RFC 4514 name of the signer.
    #[must_use]
    pub fn subject(&self) -> String {
        self.leaf.tbs_certificate.subject.to_string()
    }

    /// SHA-256 of the signer's certificate, in hex. A file that is signed again
    /// by the same certificate is the same, byte for byte.
    #[must_use]
    pub fn certificate_sha256(&self) -> &str {
        &self.certificate_sha256
    }

    /// A copy of the file with a new signature over every setting that can be
    /// signed. An older signature is dropped.
    ///
    /// # Errors
    /// When nothing can be signed, or a setting occurs twice.
    pub fn sign(&self, file: &RdpFile) -> Result<RdpFile, SignError> {
        let mut signed = file.clone();
        signed.remove(SCOPE_NAME);
        signed.remove(SIGNATURE_NAME);
        guard_address(&mut signed);
        let names: Vec<_> =
            signed.settings().filter_map(|setting| scope::display_name(setting.name())).collect();
        if names.is_empty() {
            return Err(SignError::NothingToSign);
        }
        for name in &names {
            scope::only(&signed, name)?;
        }
        let names = names.join(",");
        let message = scope::message(&scope::select(&signed, &names)?, &names);
        let envelope = Envelope {
            leaf: self.leaf.clone(),
            others: self.others.clone(),
            signature: self.sign_bytes(&message)?,
        };
        let signature = envelope.to_text()?;
        signed.set_string(SCOPE_NAME, &names);
        signed.set_string(SIGNATURE_NAME, &signature);
        Ok(signed)
    }

    fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| SignError::Rsa)?;
        Ok(signature)
    }
}

/// Clients prefer the alternate address; signing it keeps anyone from adding
/// one later.
fn guard_address(file: &mut RdpFile) {
    if let Some(address) = file.string("full address").map(ToOwned::to_owned)
        && !file.settings().any(|setting| setting.is_named("alternate full address"))
    {
        file.set_string("alternate full address", &address);
    }
}

fn parse_certificate(der: &[u8]) -> Result<Certificate, SignError> {
    let refuse = |error: &dyn fmt::Display| SignError::Certificate(error.to_string());
    let certificate = Certificate::from_der(der).map_err(|error| refuse(&error))?;
    // The signature carries the certificate encoded anew; another form of the
    // same content would not match its issuer's signature any more.
    let again = certificate.to_der().map_err(|error| refuse(&error))?;
    if again == der { Ok(certificate) } else { Err(refuse(&"not in canonical DER")) }
}

fn rsa_key(pem: &str) -> Result<RsaKeyPair, SignError> {
    let mut der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| SignError::Key(error.to_string()))?;
    let key = match &der {
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        _ => return Err(SignError::NotRsa),
    };
    der.zeroize();
    key.map_err(|_| SignError::NotRsa)
}
