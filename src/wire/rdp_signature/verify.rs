//! Verification (before step 7): what a signature covers and who vouches.

use std::time::Duration;

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::ID_KP_CODE_SIGNING;
use der::Encode as _;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::aws_lc_rs as algorithms;
use webpki::{EndEntityCert, KeyUsage};
use x509_cert::Certificate;
use x509_cert::ext::pkix::ExtendedKeyUsage;
use x509_cert::time::Time;

use super::envelope::Envelope;
use super::scope::{self, SCOPE_NAME, SIGNATURE_NAME, ScopeProblem};
use crate::core::clock::UnixMillis;
use crate::wire::rdp_file::{RdpFile, Setting};

/// Certificates that say what they are for must say one of these: signing
/// code, or Windows' purpose for Remote Desktop.
static CODE_SIGNING: ObjectIdentifier = ID_KP_CODE_SIGNING;
static REMOTE_DESKTOP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.54.1.2");

/// What issuers in a chain may sign with: the broker's own CA is P-256,
/// enterprise CAs are mostly RSA.
static CHAIN_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
];

/// Why a file must not be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the file is not signed")]
    Missing,
    #[error("the signature cannot be read: {0}")]
    Malformed(String),
    #[error("the signature's scope does not fit the file: {0}")]
    Scope(#[from] ScopeProblem),
    #[error("the signature is wrong: the file was changed after it was signed")]
    Wrong,
    #[error("the signer's certificate has expired; fetch the file again")]
    Expired,
    #[error("the signer's certificate is not valid yet; check this machine's clock")]
    NotYetValid,
    #[error("the signer {signer} is not trusted: {reason}")]
    Untrusted { signer: String, reason: String },
}

/// A right signature by a trusted signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// RFC 4514 name of the signer's certificate.
    pub signer_subject: String,
    /// When that certificate expires.
    pub not_after: UnixMillis,
    /// Names of the signed settings, as the signature has them.
    pub scope: Vec<String>,
    /// Settings that anyone could have added or changed.
    pub outside_scope: Vec<Setting>,
}

impl Verified {
    /// Whether the signature vouches for that setting.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        self.scope.iter().any(|signed| signed.eq_ignore_ascii_case(name))
    }
}

/// Checks a file's signature and its signer against `roots`: certificates of
/// trusted issuers, or of trusted signers themselves.
///
/// # Errors
/// The first reason not to trust the file. The signer's standing is looked at
/// only when the signature itself is right.
pub fn verify(
    file: &RdpFile,
    roots: &[CertificateDer<'_>],
    now: UnixMillis,
) -> Result<Verified, SignatureError> {
    let signature = scope::only(file, SIGNATURE_NAME)?.ok_or(SignatureError::Missing)?;
    let names = scope::only(file, SCOPE_NAME)?.ok_or(SignatureError::Missing)?.value();
    let selected = scope::select(file, names)?;
    let envelope = Envelope::parse(signature.value()).map_err(SignatureError::Malformed)?;
    let leaf = encode(&envelope.leaf)?;
    let end_entity = EndEntityCert::try_from(&leaf).map_err(malformed)?;
    end_entity
        .verify_signature(
            algorithms::RSA_PKCS1_2048_8192_SHA256,
            &scope::message(&selected, names),
            &envelope.signature,
        )
        .map_err(|error| match error {
            webpki::Error::InvalidSignatureForPublicKey => SignatureError::Wrong,
            other => malformed(other),
        })?;
    if roots.contains(&leaf) {
        check_alone(&envelope.leaf, now)?;
    } else {
        check_chain(&envelope, &end_entity, roots, now)?;
    }
    let scope: Vec<String> = names.split(',').map(ToOwned::to_owned).collect();
    Ok(Verified {
        signer_subject: envelope.leaf.tbs_certificate.subject.to_string(),
        not_after: unix_millis(envelope.leaf.tbs_certificate.validity.not_after),
        outside_scope: outside(file, &selected),
        scope,
    })
}

fn outside(file: &RdpFile, selected: &[&Setting]) -> Vec<Setting> {
    let own = |setting: &Setting| setting.is_named(SCOPE_NAME) || setting.is_named(SIGNATURE_NAME);
    let signed = |setting: &Setting| selected.iter().any(|s| s.is_named(setting.name()));
    file.settings().filter(|s| !own(s) && !signed(s)).cloned().collect()
}

/// A signer that is trusted by itself needs no issuer, but the rest holds.
fn check_alone(leaf: &Certificate, now: UnixMillis) -> Result<(), SignatureError> {
    let validity = leaf.tbs_certificate.validity;
    if now > unix_millis(validity.not_after) {
        return Err(SignatureError::Expired);
    }
    if now < unix_millis(validity.not_before) {
        return Err(SignatureError::NotYetValid);
    }
    let usage = leaf.tbs_certificate.get::<ExtendedKeyUsage>().map_err(malformed)?;
    let fits = |usage: &ExtendedKeyUsage| {
        usage.0.contains(&CODE_SIGNING) || usage.0.contains(&REMOTE_DESKTOP)
    };
    if usage.is_none_or(|(_critical, usage)| fits(&usage)) {
        Ok(())
    } else {
        Err(untrusted(leaf, "its certificate is for other purposes"))
    }
}

fn check_chain(
    envelope: &Envelope,
    leaf: &EndEntityCert<'_>,
    roots: &[CertificateDer<'_>],
    now: UnixMillis,
) -> Result<(), SignatureError> {
    // A root that cannot be read vouches for nobody.
    let anchors: Vec<TrustAnchor<'_>> =
        roots.iter().filter_map(|root| webpki::anchor_from_trusted_cert(root).ok()).collect();
    let issuers = envelope.others.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    let time = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
    let attempt = |purpose: &'static ObjectIdentifier| {
        let usage = KeyUsage::required_if_present(purpose.as_bytes());
        leaf.verify_for_usage(CHAIN_ALGORITHMS, &anchors, &issuers, time, usage, None, None)
            .map(|_path| ())
    };
    let outcome = match attempt(&CODE_SIGNING) {
        Err(webpki::Error::RequiredEkuNotFoundContext(_)) => attempt(&REMOTE_DESKTOP),
        outcome => outcome,
    };
    outcome.map_err(|error| match error {
        webpki::Error::CertExpired { .. } => SignatureError::Expired,
        webpki::Error::CertNotValidYet { .. } => SignatureError::NotYetValid,
        webpki::Error::RequiredEkuNotFoundContext(_) => {
            untrusted(&envelope.leaf, "its certificate is for other purposes")
        }
        webpki::Error::UnknownIssuer => {
            untrusted(&envelope.leaf, "no trusted certificate issued its own")
        }
        other => untrusted(&envelope.leaf, &other.to_string()),
    })
}

fn encode(certificate: &Certificate) -> Result<CertificateDer<'static>, SignatureError> {
    certificate.to_der().map(CertificateDer::from).map_err(malformed)
}

fn unix_millis(time: Time) -> UnixMillis {
    UnixMillis(u64::try_from(time.to_unix_duration().as_millis()).unwrap_or(u64::MAX))
}

fn malformed(error: impl std::fmt::Display) -> SignatureError {
    SignatureError::Malformed(error.to_string())
}

fn untrusted(leaf: &Certificate, reason: &str) -> SignatureError {
    let signer = leaf.tbs_certificate.subject.to_string();
    SignatureError::Untrusted { signer, reason: reason.to_owned() }
}
