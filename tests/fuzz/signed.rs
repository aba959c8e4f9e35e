//! What carries a signature: an attacker may change every byte of it and must
//! not be believed. And behind the signature, because its owner can be wrong
//! too: inputs that are signed here with the right key.

use std::sync::OnceLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ringway::agent::rdsaad::judge::{LogonRules, ProviderNonce, judge as judge_logon};
use ringway::broker::ca::{Authority, machine_identity};
use ringway::broker::feed::cookie::{CookieKey, Purpose, cookie_in};
use ringway::broker::identity::jwt::{self, JwtRules};
use ringway::config::state_dir::StateDir;
use ringway::core::clock::UnixMillis;
use ringway::core::codes::Code;
use ringway::core::ids::GatewayId;
use ringway::core::tickets::{Claims, LIFETIME_MS_MAX, Role, TEXT_LENGTH_MAX};
use ringway::core::tickets::{TicketSigner, TicketVerifier, UsedTickets};
use ringway::wire::enroll::MachineRole;
use ringway::wire::rdp_file::{RdpFile, Setting};
use ringway::wire::rdp_signature::{SIGNABLE, SignatureError, Verified, verify};
use ringway::wire::rdsaad::{Assertion, LogonResult, NotAnAssertion, TEXT_BYTES_MAX};
use rustls::pki_types::CertificateDer;

use super::{Script, enrol_messages};

/// 2027-01-15, while everything below is valid.
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const NOW_S: u64 = NOW.0 / 1_000;

/// A file signed by `ringway rdp sign`, its signer (RSA, for code signing) and
/// who issued that (ECDSA P-256), made with OpenSSL; the keys are gone.
const SIGNED_FILE: &[u8] = include_bytes!("fixtures/signed.rdp");
const SIGNER: &[u8] = include_bytes!("fixtures/signer.der");
const ISSUER: &[u8] = include_bytes!("fixtures/ca.der");

/// Anyone can hand a user a `.rdp` file.
pub fn rdp_file(input: &[u8]) {
    let Ok(file) = RdpFile::parse(input) else { return };
    assert_eq!(RdpFile::parse(&file.to_bytes()).as_ref(), Ok(&file));
    judge(&file);
}

/// The CMS inside a signature, without its base64 armour.
pub fn rdp_signature(input: &[u8]) {
    let Ok(length) = u32::try_from(input.len()) else { return };
    let header = [1, 0, 1, 0, 1, 0, 0, 0];
    let value = STANDARD.encode([&header[..], &length.to_le_bytes(), input].concat());
    let mut file = RdpFile::parse(SIGNED_FILE).unwrap();
    file.set_string("signature", &value);
    judge(&file);
}

/// A file that is believed says what the signer signed, and nothing more is
/// believed of it.
fn judge(file: &RdpFile) {
    let original = RdpFile::parse(SIGNED_FILE).unwrap();
    for root in [SIGNER, ISSUER] {
        match verify(file, &[CertificateDer::from(root)], NOW) {
            Ok(verified) => assert_as_signed(file, &original, &verified),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let alone = verify(file, &[], NOW);
    assert!(!matches!(alone, Ok(_) | Err(SignatureError::Expired)), "believed without a root");
}

fn assert_as_signed(file: &RdpFile, original: &RdpFile, verified: &Verified) {
    assert_eq!(verified.signer_subject, "CN=Fuzzing signer");
    assert_eq!(Some(verified.scope.join(",").as_str()), original.string("signscope"));
    let named = |file: &RdpFile, name: &str| -> Vec<String> {
        file.settings().filter(|s| s.is_named(name)).map(Setting::line).collect()
    };
    for name in &verified.scope {
        assert!(SIGNABLE.iter().any(|known| known == name) && verified.covers(name));
        assert_eq!(named(file, name), named(original, name), "a signed setting was changed");
    }
    for setting in file.settings() {
        let own = setting.is_named("signscope") || setting.is_named("signature");
        let outside = verified.outside_scope.contains(setting);
        assert!(own || outside != verified.covers(setting.name()), "{setting:?}");
    }
}

/// `[mode][…]`: a ticket's text, or (bit 0) claims that the broker signs; bit 1
/// is the role that the leg claims.
pub fn ticket(input: &[u8]) {
    let mut script = Script(input);
    let mode = script.byte();
    let signed = mode & 1 == 1;
    let role = if mode & 2 == 0 { Role::Client } else { Role::Host };
    let signer = ticket_signer();
    let text = if signed {
        let text =
            format!("rw1.{}.{}", signer.published().key_id, URL_SAFE_NO_PAD.encode(script.0));
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(key().sign(text.as_bytes())))
    } else {
        let Ok(text) = std::str::from_utf8(script.0) else { return };
        text.to_owned()
    };
    let gateway: GatewayId = "gw-1".parse().unwrap();
    let verifier = TicketVerifier::new(&[signer.published()]);
    let claims = match verifier.verify(&text, &gateway, role, NOW) {
        Ok(claims) => claims,
        Err(code) => {
            assert!((2_000..3_000).contains(&code.facts().number), "{code:?} is about no ticket");
            assert!(!signed || code != Code::TicketBadSignature);
            return;
        }
    };
    assert!(text.len() <= TEXT_LENGTH_MAX);
    assert_eq!((&claims.gateway, claims.role), (&gateway, role));
    assert!(claims.expires_at > NOW && claims.issued_at.plus_ms(LIFETIME_MS_MAX) > NOW);
    if signed {
        assert_eq!(serde_json::from_slice::<Claims>(script.0).unwrap(), claims);
    } else {
        assert_eq!(signer.sign(&claims), text, "believed, and nobody signed it");
    }
    let mut used = UsedTickets::new(4, UnixMillis(0));
    assert_eq!(used.consume(&claims, NOW), Ok(()));
    assert_eq!(used.consume(&claims, NOW), Err(Code::TicketUsed));
}

/// What an RDP client asserts that logs on by token. Nobody is believed here:
/// there is no identity provider.
pub fn rdsaad(input: &[u8]) {
    match Assertion::parse(input) {
        Ok(None) => assert!(input.len() < TEXT_BYTES_MAX, "it waits for ever"),
        Ok(Some(assertion)) => {
            let (end, text) = input.split_last().unwrap();
            assert!(*end == 0 && input.len() <= TEXT_BYTES_MAX);
            for cut in [0, text.len() / 2, text.len()] {
                assert_eq!(Assertion::parse(&input[..cut]), Ok(None));
            }
            let message: serde_json::Value = serde_json::from_slice(text).unwrap();
            let (signed, signature) = assertion.signed();
            assert_eq!(message["rdp_assertion"], format!("{signed}.{signature}"));
            assert_eq!(assertion.key.thumbprint().len(), 43);
            let names = vec!["desk-7".to_owned()];
            let rules = LogonRules { host_names: names, provider_nonce: ProviderNonce::Opaque };
            let verdict = judge_logon(&assertion, "n-1", &rules, &token_rules(), &[], NOW_S);
            let code = verdict.expect_err("believed, and nobody vouched for it");
            assert_ne!(LogonResult::of(code), LogonResult::OK);
        }
        Err(NotAnAssertion) => {
            let longer = [input, &[0; 64]].concat();
            assert_eq!(Assertion::parse(&longer), Err(NotAnAssertion));
        }
    }
}

fn token_rules() -> JwtRules {
    JwtRules {
        issuer: "https://issuer.example".into(),
        audience: "ringway".into(),
        algorithms: vec!["EdDSA".parse().unwrap(), "RS256".parse().unwrap()],
        user_claim: "sub".into(),
        display_claim: None,
        groups_claim: "groups".into(),
        leeway_s: 60,
    }
}

/// `[mode][…]`: a bearer token's text, or (bit 0) header and claims, a line
/// each, that the identity provider signs.
pub fn identity_token(input: &[u8]) {
    let mut script = Script(input);
    let signed = script.byte() & 1 == 1;
    let Ok(text) = std::str::from_utf8(script.0) else { return };
    let token = match text.split_once('\n') {
        Some((header, claims)) if signed => {
            let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
            let message = format!("{header}.{claims}");
            let signature = URL_SAFE_NO_PAD.encode(key().sign(message.as_bytes()));
            format!("{message}.{signature}")
        }
        _ => text.to_owned(),
    };
    let x = URL_SAFE_NO_PAD.encode(key().public_key().as_ref());
    let jwk = format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"key-1","x":"{x}"}}"#);
    match jwt::verify(&token, &token_rules(), &[serde_json::from_str(&jwk).unwrap()], NOW_S) {
        Ok(user) => {
            assert!(!user.name.is_empty() && !user.name.chars().any(char::is_control));
            let (message, signature) = token.rsplit_once('.').unwrap();
            let ours = URL_SAFE_NO_PAD.encode(key().sign(message.as_bytes()));
            assert_eq!(signature, ours, "believed, and nobody signed it");
        }
        Err(code) => assert!((6_000..7_000).contains(&code.facts().number), "{code:?}"),
    }
}

/// A whole `Cookie` header; the broker signed the one in the corpus.
pub fn feed_cookie(input: &[u8]) {
    let Ok(header) = std::str::from_utf8(input) else { return };
    let Some(value) = cookie_in(header, ".ASPXAUTH") else { return };
    assert!(!value.contains(';') && header.contains(".ASPXAUTH="));
    let key = CookieKey::new(&[7; 32]);
    let opened = key.open::<serde_json::Value>(Purpose::Feed, value, NOW);
    assert!(key.open::<serde_json::Value>(Purpose::SignIn, value, NOW).is_err() || opened.is_err());
    match opened {
        Ok(content) => {
            let signed = r#"{"groups":["staff"],"user":"ann"}"#;
            assert_eq!(content.to_string(), signed, "believed, and nobody signed it");
        }
        Err(code) => assert!((6_000..7_000).contains(&code.facts().number), "{code:?}"),
    }
}

/// `[mode][…]`: a machine's request as JSON, a certificate signing request in
/// DER (1), or a certificate as TLS hands it over (2).
pub fn enrol_request(input: &[u8]) {
    let mut script = Script(input);
    let mode = script.byte() % 3;
    let (role, name, csr_pem, server_names) = match mode {
        0 => {
            let Some(request) = enrol_messages(script.0) else { return };
            (request.role, request.name, request.csr_pem, request.server_names)
        }
        1 => {
            let body = STANDARD.encode(script.0);
            let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
            let marks =
                ["BEGIN", "END"].map(|mark| format!("-----{mark} CERTIFICATE REQUEST-----"));
            let pem = format!("{}\n{}\n{}\n", marks[0], lines.join("\n"), marks[1]);
            (MachineRole::Gateway, "gw-1".to_owned(), pem, vec!["gw-1.example".to_owned()])
        }
        _ => {
            let _any = machine_identity(script.0);
            return;
        }
    };
    if name.parse::<GatewayId>().is_err() {
        return;
    }
    let issued = authority().issue_machine(role, &name, &csr_pem, &server_names, NOW);
    let Ok(certificate) = issued else { return };
    let identity = machine_identity(&certificate).unwrap().expect("we name every machine");
    assert_eq!((identity.role, identity.name), (role, name));
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(&directory.path().join("state")).unwrap();
        Authority::open(&state, "Fuzzing", NOW).unwrap()
    })
}

/// The same key in every process: corpora hold what it signed.
fn key() -> &'static Ed25519KeyPair {
    static KEY: OnceLock<Ed25519KeyPair> = OnceLock::new();
    KEY.get_or_init(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap())
}

fn ticket_signer() -> &'static TicketSigner {
    static SIGNER: OnceLock<TicketSigner> = OnceLock::new();
    SIGNER.get_or_init(|| TicketSigner::from_pkcs8(key().to_pkcs8().unwrap().as_ref()).unwrap())
}
