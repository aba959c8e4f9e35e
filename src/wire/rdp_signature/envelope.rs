//! The value of a `signature` line: base64 of a 12-byte header and a CMS
//! `SignedData` (RFC 5652 5.1), detached, without signed attributes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cms::cert::{CertificateChoices, IssuerAndSerialNumber};
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{
    CertificateSet, EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos,
};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5911::{ID_DATA, ID_SIGNED_DATA};
use const_oid::db::rfc5912::{ID_SHA_256, RSA_ENCRYPTION, SHA_256_WITH_RSA_ENCRYPTION};
use der::asn1::{OctetString, SetOfVec};
use der::{Any, Decode as _, Encode as _};
use x509_cert::Certificate;
use x509_cert::spki::AlgorithmIdentifierOwned;

/// Two version numbers, 0x10001 and 1, little-endian; the length of the DER
/// follows. Every value therefore starts with `AQABAAEAAA`.
const HEADER: [u8; 8] = [1, 0, 1, 0, 1, 0, 0, 0];
/// Most certificates in one signature.
const CERTIFICATES_MAX: usize = 16;

/// What a signature carries.
pub(super) struct Envelope {
    pub(super) leaf: Certificate,
    pub(super) others: Vec<Certificate>,
    /// RSA PKCS#1 v1.5 over SHA-256.
    pub(super) signature: Vec<u8>,
}

impl Envelope {
    pub(super) fn to_text(&self) -> Result<String, der::Error> {
        let certificates: Vec<_> = std::iter::once(&self.leaf)
            .chain(&self.others)
            .cloned()
            .map(CertificateChoices::Certificate)
            .collect();
        let tbs = &self.leaf.tbs_certificate;
        let signer = SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: tbs.issuer.clone(),
                serial_number: tbs.serial_number.clone(),
            }),
            digest_alg: algorithm(ID_SHA_256),
            signed_attrs: None,
            signature_algorithm: algorithm(RSA_ENCRYPTION),
            signature: OctetString::new(self.signature.as_slice())?,
            unsigned_attrs: None,
        };
        let signed = SignedData {
            version: CmsVersion::V1,
            digest_algorithms: SetOfVec::try_from(vec![algorithm(ID_SHA_256)])?,
            encap_content_info: EncapsulatedContentInfo { econtent_type: ID_DATA, econtent: None },
            certificates: Some(CertificateSet(SetOfVec::try_from(certificates)?)),
            crls: None,
            signer_infos: SignerInfos(SetOfVec::try_from(vec![signer])?),
        };
        let content =
            ContentInfo { content_type: ID_SIGNED_DATA, content: Any::encode_from(&signed)? };
        let der = content.to_der()?;
        let length = u32::try_from(der.len()).map_err(|_| der::ErrorKind::Overflow)?;
        let bytes = [HEADER.as_slice(), &length.to_le_bytes(), &der].concat();
        Ok(STANDARD.encode(bytes))
    }

    /// Takes a value apart. The error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let signed = signed_data(text)?;
        if signed.encap_content_info.econtent.is_some() {
            return Err("the signature carries its own content instead of the file's".into());
        }
        let [signer] = signed.signer_infos.0.as_slice() else {
            return Err(format!("{} signers instead of one", signed.signer_infos.0.len()));
        };
        if signer.signed_attrs.is_some() {
            return Err("signed attributes are not part of this format".into());
        }
        if signer.digest_alg.oid != ID_SHA_256 {
            return Err(format!("digest {} instead of SHA-256", signer.digest_alg.oid));
        }
        let algorithm = signer.signature_algorithm.oid;
        if ![RSA_ENCRYPTION, SHA_256_WITH_RSA_ENCRYPTION].contains(&algorithm) {
            return Err(format!("signature algorithm {algorithm} instead of RSA"));
        }
        let SignerIdentifier::IssuerAndSerialNumber(id) = &signer.sid else {
            return Err("the signer is not named by issuer and serial number".into());
        };
        let mut others = certificates(signed.certificates)?;
        let place = others
            .iter()
            .position(|certificate| {
                let tbs = &certificate.tbs_certificate;
                tbs.issuer == id.issuer && tbs.serial_number == id.serial_number
            })
            .ok_or("the signer's certificate is not embedded")?;
        let leaf = others.remove(place);
        Ok(Self { leaf, others, signature: signer.signature.as_bytes().to_vec() })
    }
}

fn signed_data(text: &str) -> Result<SignedData, String> {
    // Microsoft's signer breaks the text into groups separated by blanks.
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bytes = STANDARD.decode(text).map_err(|error| format!("not base64: {error}"))?;
    let rest = bytes.strip_prefix(&HEADER).ok_or("unknown header")?;
    let (length, der) = rest.split_first_chunk::<4>().ok_or("cut short")?;
    if usize::try_from(u32::from_le_bytes(*length)) != Ok(der.len()) {
        return Err(format!("{} bytes where the header announces another number", der.len()));
    }
    let content = ContentInfo::from_der(der).map_err(|error| format!("not CMS: {error}"))?;
    if content.content_type != ID_SIGNED_DATA {
        return Err(format!("content type {} instead of SignedData", content.content_type));
    }
    content.content.decode_as().map_err(|error| format!("not SignedData: {error}"))
}

fn certificates(set: Option<CertificateSet>) -> Result<Vec<Certificate>, String> {
    let choices = set.map(|set| set.0.into_vec()).unwrap_or_default();
    if choices.len() > CERTIFICATES_MAX {
        return Err(format!("more than {CERTIFICATES_MAX} certificates"));
    }
    let x509 = |choice| match choice {
        CertificateChoices::Certificate(certificate) => Some(certificate),
        CertificateChoices::Other(_) => None,
    };
    Ok(choices.into_iter().filter_map(x509).collect())
}

/// With explicit NULL parameters, as Microsoft's signer writes both.
fn algorithm(oid: ObjectIdentifier) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid, parameters: Some(Any::null()) }
}
