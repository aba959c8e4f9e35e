//! `ringway rdp sign|verify` as a user runs it (steps 5 and 6).

use std::path::Path;
use std::process::{Command, Output};

use crate::support::programs::{available, ringway, said};

const UNTRUSTED: Option<i32> = Some(3);

fn certificate(folder: &Path) {
    let request = "req -x509 -newkey rsa:2048 -nodes -days 30 -keyout key.pem -out cert.pem \
                   -subj /CN=Signer -addext extendedKeyUsage=codeSigning";
    let output = Command::new("openssl")
        .args(request.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

fn run(folder: &Path, arguments: &str) -> Output {
    ringway().args(arguments.split_whitespace()).current_dir(folder).output().unwrap()
}

#[test]
fn step06_a_signed_file_is_trusted_until_it_is_changed() {
    if !available(&["openssl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certificate(folder);
    let unsigned = "full address:s:desk-1\r\ngatewayaccesstoken:s:hunter2\r\nusername:s:ann\r\n";
    std::fs::write(folder.join("a.rdp"), unsigned).unwrap();
    let verify = "rdp verify b.rdp --ca cert.pem --json";

    let output = run(folder, "rdp sign a.rdp --cert cert.pem --key key.pem --out b.rdp");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(folder.join("a.rdp")).unwrap(), unsigned, "left alone");

    let output = run(folder, verify);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("hunter2"), "a secret was printed");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["valid"], true);
    assert_eq!(report["signer"], "CN=Signer");
    assert_eq!(report["scope"][0], "Full Address");
    assert_eq!(report["outside_scope"][1]["value"], "ann");

    let text = std::fs::read_to_string(folder.join("b.rdp")).unwrap();
    std::fs::write(folder.join("b.rdp"), text.replacen("desk-1", "desk-2", 1)).unwrap();
    let output = run(folder, verify);
    assert_eq!(output.status.code(), UNTRUSTED);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["error"], "wrong");

    let output = run(folder, "rdp verify a.rdp --ca cert.pem");
    assert_eq!(output.status.code(), UNTRUSTED);
    assert!(said(&output).contains("not signed"), "{}", said(&output));
}

/// A file signed with `cert.pem` in a folder of its own, and its text.
fn signed(folder: &Path) -> String {
    certificate(folder);
    let unsigned = "full address:s:desk-1\r\ngatewayhostname:s:gw:443\r\n\
                    loadbalanceinfo:s:ringway:a/b\r\nremoteapplicationprogram:s:||b\r\n\
                    screen mode id:i:2\r\n";
    std::fs::write(folder.join("a.rdp"), unsigned).unwrap();
    let output = run(folder, "rdp sign a.rdp --cert cert.pem --key key.pem");
    assert!(output.status.success(), "{}", said(&output));
    std::fs::read_to_string(folder.join("a.rdp")).unwrap()
}

#[test]
fn verify_names_what_is_wrong_with_each_bad_file() {
    if !available(&["openssl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let text = signed(folder);
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bytes = |text: String| text.into_bytes();
    for (name, file, code, word) in [
        ("as it was", bytes(text.clone()), Some(0), "\"valid\":true"),
        ("utf-8 with mark", [b"\xef\xbb\xbf", text.as_bytes()].concat(), Some(0), "true"),
        ("utf-16 with mark", [&b"\xff\xfe"[..], &utf16].concat(), Some(0), "true"),
        ("utf-16 without", utf16, Some(1), "neither UTF-8 nor UTF-16LE"),
        ("changed inside", bytes(text.replace("gw:443", "gw:444")), UNTRUSTED, "\"wrong\""),
        ("changed outside", bytes(text.replace("id:i:2", "id:i:1")), Some(0), "\"value\":\"1\""),
        ("added outside", bytes(format!("{text}username:s:eve\r\n")), Some(0), "\"eve\""),
        ("twice", bytes(format!("{text}gatewayhostname:s:evil\r\n")), UNTRUSTED, "\"scope\""),
        (
            "injected",
            bytes(text.replace("id:i:2", "id:i:2\rfull address:s:evil")),
            UNTRUSTED,
            "\"scope\"",
        ),
        (
            "alternate added",
            bytes(format!("alternate full address:s:evil\r\n{text}")),
            UNTRUSTED,
            "\"scope\"",
        ),
        ("10 MB", bytes(text.repeat(10 * 1024 * 1024 / text.len())), Some(1), "more than"),
        ("control character", bytes(text.replace("desk-1", "desk\0-1")), Some(1), "control"),
    ] {
        std::fs::write(folder.join("b.rdp"), file).unwrap();
        let output = run(folder, "rdp verify b.rdp --ca cert.pem --json");
        assert_eq!(output.status.code(), code, "{name}: {}", said(&output));
        assert!(said(&output).contains(word), "{name}: {}", said(&output));
    }
    let output = run(folder, "rdp verify a.rdp --ca cert.pem");
    for line in ["signer   CN=Signer", "expires  20", "covers   Full Address", "screen mode id: 2"]
    {
        assert!(said(&output).contains(line), "no {line} in {}", said(&output));
    }
}

#[test]
fn connect_refuses_a_bad_signature_and_a_stranger_as_signer() {
    if !available(&["openssl"]) {
        return;
    }
    let (folder, stranger) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let text = signed(folder.path());
    certificate(stranger.path());
    let other = stranger.path().join("cert.pem").display().to_string();
    std::fs::write(folder.path().join("b.rdp"), text.replace("gw:443", "evil:443")).unwrap();
    for (file, ca, word) in
        [("b.rdp", "cert.pem", "changed after it was signed"), ("a.rdp", &other, "is not trusted")]
    {
        let output = run(folder.path(), &format!("connect {file} --ca {ca} --token t --once"));
        assert_eq!(output.status.code(), Some(1), "{file}: {}", said(&output));
        let said = said(&output);
        assert!(said.contains("rdp_file_untrusted") && said.contains(word), "{file}: {said}");
    }
}
