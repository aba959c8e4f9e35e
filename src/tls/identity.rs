//! Certificates, keys and trust roots in PEM files.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The CAs that this system trusts, where Debian and its kin keep them.
pub const SYSTEM_ROOTS_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why a PEM file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path} holds no usable {what}: {error}")]
    Content { path: PathBuf, what: &'static str, error: String },
}

fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    std::fs::read(path).map_err(|error| PemError::Read { path: path.into(), error })
}

/// All certificates of a PEM file, leaf first.
///
/// # Errors
/// When the file cannot be read or holds none.
pub fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let content =
        |error: String| PemError::Content { path: path.into(), what: "certificate", error };
    let pem = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(error.to_string()))?;
    if chain.is_empty() { Err(content("no certificate in it".into())) } else { Ok(chain) }
}

/// The private key of a PEM file.
///
/// # Errors
/// When the file cannot be read or holds none.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let pem = zeroize::Zeroizing::new(read(path)?);
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| PemError::Content {
        path: path.into(),
        what: "private key",
        error: error.to_string(),
    })
}

/// Trust roots: those of a PEM file, or the public web's when there is none.
///
/// # Errors
/// When the file cannot be read or holds no usable certificate.
pub fn read_roots(path: Option<&Path>) -> Result<RootCertStore, PemError> {
    let Some(path) = path else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(path)? {
        roots.add(certificate).map_err(|error| PemError::Content {
            path: path.into(),
            what: "CA certificate",
            error: error.to_string(),
        })?;
    }
    Ok(roots)
}
