//! What an enrolled machine keeps in its state directory, and reads at start.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use x509_cert::der::Decode as _;
use zeroize::Zeroizing;

use crate::config::state_dir::{StateDir, StateError};
use crate::core::clock::UnixMillis;
use crate::core::ids::PoolId;
use crate::tls::identity::{self, PemError};
use crate::tls::live_certificate::LiveCertificate;
use crate::tls::settings::TlsSettings;
use crate::wire::enroll::MachineRole;

pub const KEY_FILE: &str = "machine.key.pem";
pub const CERTIFICATE_FILE: &str = "machine.crt.pem";
pub const CA_FILE: &str = "broker-ca.pem";
/// Written last and removed first: without it, the rest does not count.
pub const RECORD_FILE: &str = "enrolment.json";

const DAY_MS: u64 = 24 * 3_600_000;
/// A warning at every start from then on.
const WARN_DAYS: u64 = 30;

/// Why a machine has no usable enrolment.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    #[error("{0} holds no enrolment; run ringway enroll first")]
    NotEnrolled(PathBuf),
    #[error("{dir} was enrolled as {found:?}, not as {wanted:?}; use another state_dir")]
    OtherRole { dir: PathBuf, found: MachineRole, wanted: MachineRole },
    #[error("{path} is damaged: {error}; run ringway enroll --force")]
    Damaged { path: PathBuf, error: String },
    #[error(
        "key and certificate in {dir} do not fit together: {error}; run ringway enroll --force"
    )]
    Mismatch { dir: PathBuf, error: rustls::Error },
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error(transparent)]
    State(#[from] StateError),
}

/// [`RECORD_FILE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub broker_url: String,
    pub name: String,
    pub role: MachineRole,
    pub pool: Option<PoolId>,
}

/// An enrolled machine: whose it is, who it is, and its key.
#[derive(Clone)]
pub struct Enrolment {
    pub record: Record,
    /// The broker's CA: what the broker's certificate, and those of gateways
    /// without one of their own, are checked against.
    pub roots: RootCertStore,
    /// The machine's certificate, then the CA's.
    pub chain: Vec<CertificateDer<'static>>,
    pub expires_at: UnixMillis,
    key_pem: Zeroizing<Vec<u8>>,
}

impl Enrolment {
    /// Reads what [`super::enroll`] stored.
    ///
    /// # Errors
    /// Says which file is missing or damaged and what to do.
    pub fn load(state_dir: &Path) -> Result<Self, EnrolmentError> {
        let missing = || EnrolmentError::NotEnrolled(state_dir.into());
        if !state_dir.is_dir() {
            return Err(missing());
        }
        let dir = StateDir::open(state_dir)?;
        let record = dir.read(RECORD_FILE)?.ok_or_else(missing)?;
        let damaged = |name, error| EnrolmentError::Damaged { path: state_dir.join(name), error };
        let record: Record = serde_json::from_slice(&record)
            .map_err(|error| damaged(RECORD_FILE, error.to_string()))?;
        let roots = identity::read_roots(Some(&dir.file(CA_FILE)))?;
        let chain = identity::read_chain(&dir.file(CERTIFICATE_FILE))?;
        let expires_at = chain
            .first()
            .and_then(|leaf| expiry(leaf))
            .ok_or_else(|| damaged(CERTIFICATE_FILE, "no certificate".into()))?;
        let key_pem = dir.read(KEY_FILE)?.ok_or_else(missing)?;
        let key = PrivateKeyDer::from_pem_slice(&key_pem)
            .map_err(|error| damaged(KEY_FILE, error.to_string()))?;
        drop(key);
        let enrolment = Self { record, roots, chain, expires_at, key_pem };
        enrolment
            .client_tls(TlsSettings::default())
            .map_err(|error| EnrolmentError::Mismatch { dir: state_dir.into(), error })?;
        Ok(enrolment)
    }

    /// [`Enrolment::load`], for one role only.
    ///
    /// # Errors
    /// Also when the machine was enrolled for another role.
    pub fn load_as(state_dir: &Path, role: MachineRole) -> Result<Self, EnrolmentError> {
        let enrolment = Self::load(state_dir)?;
        enrolment.warn_when_it_ends(UnixMillis::now());
        if enrolment.record.role == role {
            Ok(enrolment)
        } else {
            let found = enrolment.record.role;
            Err(EnrolmentError::OtherRole { dir: state_dir.into(), found, wanted: role })
        }
    }

    /// The machine's certificate and key, to show and to exchange later.
    ///
    /// # Errors
    /// When they do not fit together.
    pub fn certificate(
        &self,
        settings: TlsSettings,
    ) -> Result<Arc<LiveCertificate>, rustls::Error> {
        settings.certificate(self.chain.clone(), self.key()?)
    }

    /// Whether this is the same machine of the same broker, whatever its key
    /// and certificate.
    #[must_use]
    pub fn is_same_machine(&self, other: &Self) -> bool {
        self.record == other.record && self.roots.roots == other.roots.roots
    }

    /// A TLS client that trusts the broker's CA and shows this machine's
    /// certificate.
    ///
    /// # Errors
    /// When key and certificate do not fit together.
    pub fn client_tls(&self, settings: TlsSettings) -> Result<ClientConfig, rustls::Error> {
        settings.client_with_certificate(self.roots.clone(), self.chain.clone(), self.key()?)
    }

    /// The machine's private key; a gateway may serve its TLS port with it.
    ///
    /// # Errors
    /// Not after [`Enrolment::load`], which has read it once.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, rustls::Error> {
        PrivateKeyDer::from_pem_slice(&self.key_pem)
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn warn_when_it_ends(&self, now: UnixMillis) {
        if let Some(days) = self.ends_within_days(now) {
            tracing::warn!(
                name = %self.record.name,
                days,
                "The machine's certificate ends soon; get a token and run ringway enroll --force"
            );
        }
    }

    /// Whole days that are left, when it is time to think of that.
    pub(super) fn ends_within_days(&self, now: UnixMillis) -> Option<u64> {
        let days = self.expires_at.0.saturating_sub(now.0) / DAY_MS;
        (days < WARN_DAYS).then_some(days)
    }

    #[must_use]
    pub fn is_expired(&self, now: UnixMillis) -> bool {
        self.expires_at <= now
    }
}

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolment").field("record", &self.record).finish_non_exhaustive()
    }
}

/// `notAfter` of a certificate.
fn expiry(certificate: &[u8]) -> Option<UnixMillis> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let at = certificate.tbs_certificate.validity.not_after.to_unix_duration();
    u64::try_from(at.as_millis()).ok().map(UnixMillis)
}
