//! The broker's own certificate authority: made at first start, issues
//! certificates to machines, to the broker's port and for signing .rdp files.

use std::time::Duration;

use aws_lc_rs::digest;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::config::state_dir::{StateDir, StateError};
use crate::core::clock::UnixMillis;
use crate::tls::pinned_ca::CaPin;
use crate::wire::enroll::MachineRole;

const DAY: Duration = Duration::from_secs(24 * 3_600);
const CA_VALID: Duration = DAY.saturating_mul(20 * 365);
const MACHINE_VALID: Duration = DAY.saturating_mul(365);
/// Issued anew at every start.
const SERVER_VALID: Duration = DAY.saturating_mul(825);
const SIGNING_VALID: Duration = DAY.saturating_mul(5 * 365);
/// Machines whose clocks are behind can use a certificate at once.
const BACKDATED: Duration = DAY;

const CA_CERTIFICATE_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca.key";
const SIGNING_CERTIFICATE_FILE: &str = "rdp-signing.pem";
const SIGNING_KEY_FILE: &str = "rdp-signing.key";

/// Remote Desktop document signing, what Windows names this purpose.
const DOCUMENT_SIGNING_OID: [u64; 10] = [1, 3, 6, 1, 4, 1, 311, 54, 1, 2];

/// Why the CA did not issue.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{file} in the state directory is damaged ({problem}); restore it from a backup")]
    Damaged { file: &'static str, problem: String },
    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("certificate cannot be read: {0}")]
    Parse(#[from] x509_cert::der::Error),
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct PemPair {
    pub certificate_pem: String,
    pub key_pem: zeroize::Zeroizing<String>,
}

impl std::fmt::Debug for PemPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PemPair").finish_non_exhaustive()
    }
}

/// The authority. Its key stays in here and in a file of mode 0600.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    /// The authority of this state directory, made when there is none.
    ///
    /// # Errors
    /// When the files are damaged, or cannot be read or written.
    pub fn open(state: &StateDir, workspace: &str, now: UnixMillis) -> Result<Self, CaError> {
        if state.read(CA_CERTIFICATE_FILE)?.is_none() {
            Self::make(state, workspace, now)?;
        }
        let damaged = |file, problem: String| CaError::Damaged { file, problem };
        let pem = read_text(state, CA_CERTIFICATE_FILE)?;
        let key = read_text(state, CA_KEY_FILE)?;
        let key = KeyPair::from_pem(&key).map_err(|e| damaged(CA_KEY_FILE, e.to_string()))?;
        let certificate = first_certificate(&pem)
            .ok_or_else(|| damaged(CA_CERTIFICATE_FILE, "no certificate in it".into()))?;
        let parsed = x509_cert::Certificate::from_der(&certificate)?;
        let own_key = parsed.tbs_certificate.subject_public_key_info.to_der()?;
        if own_key != key.subject_public_key_info() {
            return Err(damaged(CA_KEY_FILE, "it is not the key of ca.pem".into()));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { issuer, certificate, pem: pem.to_string() })
    }

    fn make(state: &StateDir, workspace: &str, now: UnixMillis) -> Result<(), CaError> {
        let key = KeyPair::generate()?;
        let mut params = params(&format!("Ringway CA of {workspace}"), now, CA_VALID);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = false;
        let certificate = params.self_signed(&key)?;
        // The key first: a certificate without a key could not be repaired.
        state.write(CA_KEY_FILE, zeroize::Zeroizing::new(key.serialize_pem()).as_bytes())?;
        state.write(CA_CERTIFICATE_FILE, certificate.pem().as_bytes())?;
        tracing::info!("Made the certificate authority");
        Ok(())
    }

    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What an enrolment token pins.
    #[must_use]
    pub fn pin(&self) -> CaPin {
        CaPin::of(&self.certificate)
    }

    /// Trust in the machines that were enrolled here.
    ///
    /// # Errors
    /// When the CA certificate cannot be a trust root.
    pub fn roots(&self) -> Result<RootCertStore, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        Ok(roots)
    }

    /// A certificate for a machine's key: client authentication, and the
    /// server side as well for a gateway.
    ///
    /// # Errors
    /// When the request is not a PKCS#10 with a valid signature, or a server
    /// name is no DNS name or address.
    pub fn issue_machine(
        &self,
        role: MachineRole,
        name: &str,
        csr_pem: &str,
        server_names: &[String],
        now: UnixMillis,
    ) -> Result<CertificateDer<'static>, CaError> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)?;
        let mut params = params(name, now, MACHINE_VALID);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let uri = format!("ringway:{}/{name}", role.as_str());
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
        if role == MachineRole::Gateway {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params
                .subject_alt_names
                .extend(CertificateParams::new(server_names)?.subject_alt_names);
        }
        Ok(params.signed_by(&request.public_key, &self.issuer)?.der().clone())
    }

    /// Chain (with the CA, so that an enrolling machine can pin it) and key
    /// for the broker's own port.
    ///
    /// # Errors
    /// When a server name is no DNS name or address.
    pub fn issue_server(
        &self,
        server_names: &[String],
        now: UnixMillis,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CaError> {
        let key = KeyPair::generate()?;
        let mut params = params("Ringway broker", now, SERVER_VALID);
        params.subject_alt_names = CertificateParams::new(server_names)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((vec![certificate.der().clone(), self.certificate.clone()], key.into()))
    }

    /// The certificate (with the CA's) and key that sign .rdp files, kept in
    /// the state directory because clients remember whom they trusted.
    ///
    /// # Errors
    /// When it cannot be issued, read or written.
    pub fn signing_pair(&self, state: &StateDir, now: UnixMillis) -> Result<PemPair, CaError> {
        if state.read(SIGNING_CERTIFICATE_FILE)?.is_none() {
            // Stock clients verify RSA signatures; not all of them ECDSA.
            let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)?;
            let mut params = params("Ringway .rdp signing", now, SIGNING_VALID);
            params.extended_key_usages = vec![
                ExtendedKeyUsagePurpose::CodeSigning,
                ExtendedKeyUsagePurpose::Other(DOCUMENT_SIGNING_OID.to_vec()),
            ];
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            let certificate = params.signed_by(&key, &self.issuer)?;
            state
                .write(SIGNING_KEY_FILE, zeroize::Zeroizing::new(key.serialize_pem()).as_bytes())?;
            let chain = format!("{}{}", certificate.pem(), self.pem);
            state.write(SIGNING_CERTIFICATE_FILE, chain.as_bytes())?;
        }
        Ok(PemPair {
            certificate_pem: read_text(state, SIGNING_CERTIFICATE_FILE)?.to_string(),
            key_pem: read_text(state, SIGNING_KEY_FILE)?,
        })
    }
}

/// Who a client certificate of our CA says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineIdentity {
    pub role: MachineRole,
    pub name: String,
    /// SHA-256 of the public key.
    pub key_sha256: Vec<u8>,
}

/// Reads the machine out of a certificate that TLS has verified.
///
/// # Errors
/// When it cannot be parsed. `None` when it names no machine.
pub fn machine_identity(certificate: &[u8]) -> Result<Option<MachineIdentity>, CaError> {
    let certificate = x509_cert::Certificate::from_der(certificate)?;
    let tbs = &certificate.tbs_certificate;
    let key = tbs.subject_public_key_info.to_der()?;
    let key_sha256 = digest::digest(&digest::SHA256, &key).as_ref().to_vec();
    let Some((_critical, names)) = tbs.get::<SubjectAltName>()? else { return Ok(None) };
    Ok(names.0.iter().find_map(|name| {
        let GeneralName::UniformResourceIdentifier(uri) = name else { return None };
        let (role, name) = uri.as_str().strip_prefix("ringway:")?.split_once('/')?;
        let role = [MachineRole::Agent, MachineRole::Gateway]
            .into_iter()
            .find(|known| known.as_str() == role)?;
        Some(MachineIdentity { role, name: name.to_owned(), key_sha256: key_sha256.clone() })
    }))
}

/// A PEM block of a certificate.
#[must_use]
pub fn to_pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn params(common_name: &str, now: UnixMillis, valid: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_millis(now.0);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now.saturating_add(valid);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params
}

fn read_text(state: &StateDir, file: &'static str) -> Result<zeroize::Zeroizing<String>, CaError> {
    let bytes = state
        .read(file)?
        .ok_or_else(|| CaError::Damaged { file, problem: "it is missing".into() })?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| CaError::Damaged { file, problem: error.to_string() })?;
    Ok(zeroize::Zeroizing::new(text.to_owned()))
}

fn first_certificate(pem: &str) -> Option<CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}
