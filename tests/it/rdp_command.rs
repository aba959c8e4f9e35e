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
