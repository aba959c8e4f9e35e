//! Signed here, checked here and by OpenSSL; every attack that the format
//! invites is refused with its own error.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::*;
use crate::core::clock::UnixMillis;
use crate::wire::rdp_file::{Encoding, RdpFile};

const FILE: &str = "full address:s:desk-1\r\nscreen mode id:i:2\r\nGatewayHostname:s:gw:443\r\n\
                    loadbalanceinfo:s:mth://pool/office\r\ngatewayaccesstoken:s:t0ken\r\n";
/// 2027-01-01, while the fixtures' certificates are valid.
const NOW: UnixMillis = UnixMillis(1_798_761_600_000);
const DAY_MS: u64 = 86_400_000;

struct World {
    ca_pem: String,
    leaf_pem: String,
    key_pem: String,
    other_ca_pem: String,
}

/// An ECDSA P-256 authority like the broker's and an RSA signer that it
/// issued. Made once: RSA keys take a while.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let (ca, ca_pem) = authority("Test CA");
        let (_, other_ca_pem) = authority("Other CA");
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let purpose = vec![ExtendedKeyUsagePurpose::CodeSigning];
        let leaf_pem = leaf(purpose).signed_by(&key, &ca).unwrap().pem();
        World { ca_pem, leaf_pem, key_pem: key.serialize_pem(), other_ca_pem }
    })
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

fn leaf(purposes: Vec<ExtendedKeyUsagePurpose>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Ringway signer");
    params.not_before = date_time_ymd(2026, 6, 1);
    params.not_after = date_time_ymd(2027, 6, 1);
    params.extended_key_usages = purposes;
    params
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

fn roots() -> Vec<CertificateDer<'static>> {
    certificates(&world().ca_pem)
}

fn signer() -> Signer {
    Signer::from_pem(&format!("{}{}", world().leaf_pem, world().ca_pem), &world().key_pem).unwrap()
}

fn signed() -> &'static RdpFile {
    static SIGNED: OnceLock<RdpFile> = OnceLock::new();
    SIGNED.get_or_init(|| signer().sign(&RdpFile::parse(FILE.as_bytes()).unwrap()).unwrap())
}

fn check_text(text: &str) -> Result<Verified, SignatureError> {
    verify(&RdpFile::parse(text.as_bytes()).unwrap(), &roots(), NOW)
}

/// The same file with one replacement, which must occur.
fn changed(from: &str, to: &str) -> String {
    let text = signed().to_text();
    assert!(text.contains(from), "{from:?} not in {text}");
    text.replacen(from, to, 1)
}

/// Signs with a certificate of one's own making and verifies.
fn check_with(
    params: &CertificateParams,
    roots_are_leaf: bool,
) -> Result<Verified, SignatureError> {
    let (ca, ca_pem) = authority("Another CA");
    let key = KeyPair::from_pem(&world().key_pem).unwrap();
    let leaf_pem = params.signed_by(&key, &ca).unwrap().pem();
    let signer = Signer::from_pem(&leaf_pem, &world().key_pem).unwrap();
    let file = signer.sign(&RdpFile::parse(FILE.as_bytes()).unwrap()).unwrap();
    verify(&file, &certificates(if roots_are_leaf { &leaf_pem } else { &ca_pem }), NOW)
}

#[test]
fn step05_signs_what_can_be_signed_and_says_what_is_not() {
    let verified = verify(signed(), &roots(), NOW).unwrap();
    let scope = ["Full Address", "GatewayHostname", "LoadBalanceInfo", "Alternate Full Address"];
    assert_eq!(verified.scope, scope);
    assert!(verified.covers("full address") && !verified.covers("gatewayaccesstoken"));
    let outside: Vec<_> = verified.outside_scope.iter().map(|s| (s.name(), s.value())).collect();
    assert_eq!(outside, [("screen mode id", "2"), ("gatewayaccesstoken", "t0ken")]);
    assert!(verified.signer_subject.contains("Ringway signer"), "{}", verified.signer_subject);
    assert_eq!(verified.not_after, UnixMillis(1_811_808_000_000), "2027-06-01");
    assert!(signed().string("signature").unwrap().starts_with("AQABAAEAAA"));
    assert_eq!(signed().string("alternate full address"), Some("desk-1"));
}

#[test]
fn signing_again_replaces_the_signature() {
    let mut file = signed().clone();
    file.set_string("full address", "desk-2");
    assert_eq!(verify(&file, &roots(), NOW), Err(SignatureError::Wrong));
    file.set_string("alternate full address", "desk-2");
    let file = signer().sign(&file).unwrap();
    assert!(verify(&file, &roots(), NOW).is_ok());
    assert_eq!(file.settings().filter(|s| s.is_named("signature")).count(), 1);
}

#[test]
fn the_encoding_of_the_file_does_not_matter() {
    let mut file = signed().clone();
    file.set_encoding(Encoding::Utf16);
    let read = RdpFile::parse(&file.to_bytes()).unwrap();
    assert_eq!(read.encoding(), Encoding::Utf16);
    assert!(verify(&read, &roots(), NOW).is_ok());
}

#[test]
fn blanks_inside_the_signature_are_ignored() {
    let mut file = signed().clone();
    let signature = file.string("signature").unwrap().to_owned();
    let grouped: Vec<_> = signature.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    file.set_string("signature", &grouped.join("  "));
    assert!(verify(&file, &roots(), NOW).is_ok());
}

#[test]
fn unsigned_settings_may_change_and_are_listed() {
    let text = changed("screen mode id:i:2", "screen mode id:i:1\r\nusername:s:eve");
    let outside = check_text(&text).unwrap().outside_scope;
    assert!(outside.iter().any(|s| s.is_named("username") && s.value() == "eve"));
    assert!(outside.iter().any(|s| s.is_named("screen mode id") && s.value() == "1"));
}

#[test]
fn a_second_value_for_a_signed_name_is_refused() {
    for extra in ["Full Address:s:evil", "full address:i:1", "gatewayhostname:s:evil:443"] {
        for text in
            [format!("{extra}\r\n{}", signed().to_text()), format!("{}{extra}", signed().to_text())]
        {
            let error = check_text(&text).unwrap_err();
            assert!(matches!(error, SignatureError::Scope(ScopeProblem::Ambiguous(_))), "{error}");
        }
    }
    let hidden = changed("screen mode id:i:2", "x:s:1\rfull address:s:evil");
    assert!(matches!(check_text(&hidden), Err(SignatureError::Scope(ScopeProblem::Ambiguous(_)))));
    for name in ["signature", "signscope"] {
        let text = format!("{}{name}:s:x\r\n", signed().to_text());
        assert!(matches!(
            check_text(&text),
            Err(SignatureError::Scope(ScopeProblem::Ambiguous(_)))
        ));
    }
}

#[test]
fn the_address_cannot_be_moved() {
    let text = changed("alternate full address:s:desk-1", "alternate full address:s:evil");
    assert_eq!(check_text(&text), Err(SignatureError::Wrong));
    // A signer that did not guard the alternate address.
    let names = "Full Address";
    let mut file = RdpFile::new();
    file.set_string("full address", "desk-1");
    let guarded = signer().sign(&file).unwrap();
    assert!(guarded.string("signscope").unwrap().contains("Alternate Full Address"));
    file.set_string("signscope", names);
    file.set_string("signature", guarded.string("signature").unwrap());
    file.set_string("alternate full address", "evil");
    let problem = ScopeProblem::AddressNotSigned("alternate full address".into());
    assert_eq!(verify(&file, &roots(), NOW), Err(SignatureError::Scope(problem)));
}

#[test]
fn each_scope_problem_has_its_error() {
    let scope = "signscope:s:Full Address,";
    let cases = [
        (
            changed(scope, "signscope:s:gatewayaccesstoken,"),
            ScopeProblem::NotSignable("gatewayaccesstoken".into()),
        ),
        (
            changed(scope, "signscope:s:Full Address,full address,"),
            ScopeProblem::NamedTwice("full address".into()),
        ),
        (changed(scope, "signscope:s:PCB,Full Address,"), ScopeProblem::Missing("PCB".into())),
        (
            changed("loadbalanceinfo:s:mth://pool/office\r\n", ""),
            ScopeProblem::Missing("LoadBalanceInfo".into()),
        ),
        (changed(scope, "signscope:s:"), ScopeProblem::AddressNotSigned("full address".into())),
        (
            changed(scope, "signscope:s:Full Address, "),
            ScopeProblem::NotSignable(" GatewayHostname".into()),
        ),
    ];
    for (text, problem) in cases {
        assert_eq!(check_text(&text), Err(SignatureError::Scope(problem)));
    }
    let empty = "full address:s:x\r\nsignscope:s:\r\nsignature:s:AQAB";
    assert_eq!(check_text(empty), Err(SignatureError::Scope(ScopeProblem::Empty)));
}

#[test]
fn missing_and_unreadable_signatures_are_told_apart() {
    assert_eq!(check_text(FILE), Err(SignatureError::Missing));
    let scope_only = format!("{FILE}signscope:s:Full Address\r\n");
    assert_eq!(check_text(&scope_only), Err(SignatureError::Missing));
    let value = signed().string("signature").unwrap();
    let bytes = STANDARD.decode(value).unwrap();
    let longer = STANDARD.encode([bytes.as_slice(), &[0]].concat());
    let shorter = STANDARD.encode(&bytes[..bytes.len() - 1]);
    let header = STANDARD.encode([&[2], &bytes[1..]].concat());
    for broken in ["", "%%%", "AQABAAEAAAAAAAAA", &longer, &shorter, &header] {
        let mut file = signed().clone();
        file.set_string("signature", broken);
        let error = verify(&file, &roots(), NOW).unwrap_err();
        assert!(matches!(error, SignatureError::Malformed(_)), "{broken:.20}: {error}");
    }
}

#[test]
fn dates_and_trust_are_checked() {
    let later = UnixMillis(1_811_808_000_000 + DAY_MS);
    assert_eq!(verify(signed(), &roots(), later), Err(SignatureError::Expired));
    let earlier = UnixMillis(NOW.0 - 365 * DAY_MS);
    assert_eq!(verify(signed(), &roots(), earlier), Err(SignatureError::NotYetValid));
    for roots in [vec![], certificates(&world().other_ca_pem)] {
        let error = verify(signed(), &roots, NOW).unwrap_err();
        assert!(matches!(error, SignatureError::Untrusted { .. }), "{error}");
    }
    let itself = certificates(&world().leaf_pem);
    assert!(verify(signed(), &itself, NOW).is_ok(), "a signer can be trusted by itself");
    assert_eq!(verify(signed(), &itself, later), Err(SignatureError::Expired));
    assert_eq!(verify(signed(), &itself, earlier), Err(SignatureError::NotYetValid));
}

#[test]
fn the_purpose_of_the_certificate_is_checked() {
    let remote_desktop = ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 311, 54, 1, 2]);
    for by_itself in [false, true] {
        for fits in
            [vec![], vec![remote_desktop.clone()], vec![ExtendedKeyUsagePurpose::CodeSigning]]
        {
            assert!(check_with(&leaf(fits.clone()), by_itself).is_ok(), "{fits:?}");
        }
        let error =
            check_with(&leaf(vec![ExtendedKeyUsagePurpose::ServerAuth]), by_itself).unwrap_err();
        assert!(matches!(error, SignatureError::Untrusted { .. }), "{error}");
    }
}

#[test]
fn a_leaf_cannot_issue_signers() {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let middle_key = KeyPair::from_pem(&world().key_pem).unwrap();
    let middle = Issuer::from_ca_cert_pem(&world().leaf_pem, middle_key).unwrap();
    let forged = leaf(vec![]).signed_by(&key, &middle).unwrap().pem();
    let chain = format!("{forged}{}", world().leaf_pem);
    let signer = Signer::from_pem(&chain, &key.serialize_pem()).unwrap();
    let file = signer.sign(&RdpFile::parse(FILE.as_bytes()).unwrap()).unwrap();
    let error = verify(&file, &roots(), NOW).unwrap_err();
    assert!(matches!(error, SignatureError::Untrusted { .. }), "{error}");
}

#[test]
fn signers_say_what_is_wrong_with_them() {
    let rsa = &world().key_pem;
    let other = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let ecdsa = KeyPair::generate().unwrap();
    let new = |key: &str| Signer::from_pem(&world().leaf_pem, key).unwrap_err();
    assert!(matches!(new(&other.serialize_pem()), SignError::KeyMismatch));
    assert!(matches!(new(&ecdsa.serialize_pem()), SignError::NotRsa));
    assert!(matches!(new("nothing"), SignError::Key(_)));
    assert!(matches!(Signer::from_pem("", rsa), Err(SignError::Certificate(_))));
    let sign = |text: &str| signer().sign(&RdpFile::parse(text.as_bytes()).unwrap()).unwrap_err();
    assert!(matches!(sign("username:s:a"), SignError::NothingToSign));
    let twice = sign("pcb:s:1\nPCB:s:2");
    assert!(matches!(twice, SignError::Scope(ScopeProblem::Ambiguous(_))), "{twice}");
}

/// OpenSSL reads our signatures as what they are: detached CMS over the text
/// that the format prescribes, written down here by hand.
#[test]
fn openssl_verifies_ours_and_refuses_a_changed_text() {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "openssl is missing; CI must install it");
        eprintln!("SKIPPED: no openssl command on this machine");
        return;
    }
    let text = "full address:s:desk-1\r\nGatewayHostname:s:gw:443\r\n\
                loadbalanceinfo:s:mth://pool/office\r\nalternate full address:s:desk-1\r\n\
                signscope:s:Full Address,GatewayHostname,LoadBalanceInfo,Alternate Full Address\r\n\0";
    let message: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut tampered = message.clone();
    tampered[30] ^= 1;
    let value = STANDARD.decode(signed().string("signature").unwrap()).unwrap();
    assert!(openssl_accepts(&value[12..], &message));
    assert!(!openssl_accepts(&value[12..], &tampered));
}

fn openssl_accepts(der: &[u8], message: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("signature.der", der);
    write("message.bin", message);
    write("ca.pem", world().ca_pem.as_bytes());
    let arguments = "cms -verify -binary -inform DER -in signature.der -content message.bin \
                     -CAfile ca.pem -purpose any -attime 1798761600 -out";
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .arg(Path::new("/dev/null"))
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || said.contains("content verify error"), "{said}");
    output.status.success()
}

/// Byte positions of the signed lines in the signed file's text.
fn signed_positions() -> Vec<usize> {
    let text = signed().to_text();
    let signed_lines = [
        "full address",
        "GatewayHostname",
        "loadbalanceinfo",
        "alternate full address",
        "signscope",
    ];
    let mut positions = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive("\r\n") {
        if signed_lines.iter().any(|name| line.starts_with(&format!("{name}:"))) {
            // The name of the scope itself is not part of the message: whichever
            // way its letters are cased, it says the same.
            let name = if line.starts_with("signscope:") { "signscope".len() } else { 0 };
            positions.extend(start + name..start + line.len() - 2);
        }
        start += line.len();
    }
    positions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_changed_byte_of_a_signed_line_is_refused(
        position in proptest::sample::select(signed_positions()),
        flip in 1_u8..=255,
    ) {
        let mut bytes = signed().to_text().into_bytes();
        bytes[position] ^= flip;
        if let Ok(file) = RdpFile::parse(&bytes) {
            prop_assert!(verify(&file, &roots(), NOW).is_err(), "{:?}", file);
        }
    }

    #[test]
    fn any_changed_byte_of_the_signature_is_refused(position in 12_usize..1200, flip in 1_u8..=255) {
        let mut file = signed().clone();
        let mut bytes = STANDARD.decode(file.string("signature").unwrap()).unwrap();
        let position = position % bytes.len();
        bytes[position] ^= flip;
        file.set_string("signature", &STANDARD.encode(bytes));
        if let Ok(verified) = verify(&file, &roots(), NOW) {
            // Only the CA's copy, which the verifier does not use, and the
            // version numbers may change; what is verified stays the same.
            prop_assert_eq!(verified, verify(signed(), &roots(), NOW).unwrap());
        }
    }

    #[test]
    fn any_signature_value_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let header = [&[1, 0, 1, 0, 1, 0, 0, 0][..], &u32::try_from(bytes.len()).unwrap().to_le_bytes()].concat();
        let mut file = signed().clone();
        file.set_string("signature", &STANDARD.encode([header, bytes].concat()));
        prop_assert!(verify(&file, &roots(), NOW).is_err());
    }
}
