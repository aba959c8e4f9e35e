//! Reads an `.rdp` file and decides whether it may say where to connect
//! (step 6, second half).

use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::wire::rdp_file::{FILE_BYTES_MAX, RdpFile, RdpFileError};
use crate::wire::rdp_signature::{self, SignatureError};

/// What our connector takes from a file. All of it must be signed.
const USED_SETTINGS: [&str; 3] = ["gatewayhostname", "loadbalanceinfo", "remoteapplicationprogram"];

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum RdpTrustError {
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path} is not an .rdp file: {error}")]
    Parse { path: PathBuf, error: RdpFileError },
    #[error(
        "whose signature to trust is not known; name the broker's CA with --ca or the signer \
         with --trust-signer"
    )]
    NoTrust,
    #[error("{path} is not trusted: {error}")]
    Signature { path: PathBuf, error: SignatureError },
    #[error("{path} is not trusted: its signature does not cover {setting}")]
    NotCovered { path: PathBuf, setting: &'static str },
}

impl RdpTrustError {
    #[must_use]
    pub fn to_refusal(&self) -> Refusal {
        Refusal::with_detail(Code::RdpFileUntrusted, self)
    }
}

/// Who may sign `.rdp` files.
#[derive(Clone, Debug)]
pub enum Trust {
    /// These issuers, or these signers themselves.
    Signers(Vec<CertificateDer<'static>>),
    /// Anyone: the file is believed as it is.
    Anyone,
}

/// Reads a file, and with [`Trust::Signers`] verifies it. Returns the signer's
/// name as well.
///
/// # Errors
/// Says why the file is not used.
pub fn read_trusted(
    path: &Path,
    trust: &Trust,
    now: UnixMillis,
) -> Result<(RdpFile, Option<String>), RdpTrustError> {
    let bytes =
        read_bounded(path).map_err(|error| RdpTrustError::Read { path: path.into(), error })?;
    let file = RdpFile::parse(&bytes)
        .map_err(|error| RdpTrustError::Parse { path: path.into(), error })?;
    let signer = verify(&file, path, trust, now)?;
    Ok((file, signer))
}

fn verify(
    file: &RdpFile,
    path: &Path,
    trust: &Trust,
    now: UnixMillis,
) -> Result<Option<String>, RdpTrustError> {
    let roots = match trust {
        Trust::Anyone => return Ok(None),
        Trust::Signers(roots) if roots.is_empty() => return Err(RdpTrustError::NoTrust),
        Trust::Signers(roots) => roots,
    };
    let verified = rdp_signature::verify(file, roots, now)
        .map_err(|error| RdpTrustError::Signature { path: path.into(), error })?;
    match USED_SETTINGS.into_iter().find(|setting| !verified.covers(setting)) {
        None => Ok(Some(verified.signer_subject)),
        Some(setting) => Err(RdpTrustError::NotCovered { path: path.into(), setting }),
    }
}

/// One byte more than is allowed is enough to see that it is too much.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
