//! Enrolment with right, wrong and borrowed CAs, and what it leaves on disk.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rcgen::CertificateSigningRequestParams;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::core::codes::Code;
use crate::dial::testing::{TestCa, TestServer, read_head, short_limits};
use crate::wire::arm::RefusalBody;

/// A broker that certifies whoever comes with this token, and nobody else.
async fn broker(ca: &Arc<TestCa>, token: &str) -> TestServer {
    let (authority, token) = (Arc::clone(ca), token.to_owned());
    TestServer::start(ca.server(), move |mut stream| {
        let (authority, token) = (Arc::clone(&authority), token.clone());
        async move {
            let head = read_head(&mut stream).await.to_ascii_lowercase();
            assert!(head.starts_with("post /enroll http/1.1\r\n"), "{head}");
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).await.unwrap();
            let request: EnrolRequest = serde_json::from_slice(&body).unwrap();
            let (status, body) = if request.token.expose() == token {
                let csr = CertificateSigningRequestParams::from_pem(&request.csr_pem).unwrap();
                let leaf = csr.signed_by(authority.issuer()).unwrap();
                let answer = EnrolResponse {
                    name: request.name,
                    pool: Some("pool-1".parse().unwrap()),
                    certificate_pem: leaf.pem() + &authority.pem(),
                    ca_pem: authority.pem(),
                };
                (200, serde_json::to_string(&answer).unwrap())
            } else {
                let facts = Code::EnrolTokenUsedUp.facts();
                let refusal = RefusalBody {
                    code: facts.name.into(),
                    number: facts.number,
                    message: facts.advice.into(),
                    step: facts.step,
                    refusal: facts.code.into(),
                };
                (facts.http_status, serde_json::to_string(&refusal).unwrap())
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    })
    .await
}

fn token(pinned: &TestCa) -> String {
    format!("rwe_{}_{}", "5a".repeat(16), CaPin::of(&pinned.der()))
}

fn settings(broker: &TestServer, token: &str, dir: &Path) -> EnrolSettings {
    EnrolSettings {
        broker: broker.url().parse().unwrap(),
        token: token.parse().unwrap(),
        role: MachineRole::Agent,
        state_dir: dir.into(),
        name: "host-1".into(),
        server_names: Vec::new(),
        ca: None,
        force: false,
        limits: short_limits(),
    }
}

#[tokio::test]
async fn a_machine_that_knows_only_its_token_is_certified() {
    let ca = Arc::new(TestCa::new());
    let token = token(&ca);
    let broker = broker(&ca, &token).await;
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    let settings = settings(&broker, &token, &dir);

    let enrolment = enroll(&settings).await.unwrap();
    assert_eq!(enrolment.record.name, "host-1");
    assert_eq!(enrolment.record.pool.as_ref().unwrap().as_str(), "pool-1");
    assert_eq!(enrolment.record.broker_url, broker.url());
    assert!(!enrolment.is_expired(UnixMillis::now()));
    let days_before = |days: u64| UnixMillis(enrolment.expires_at.0 - days * 24 * 3_600_000);
    assert_eq!(enrolment.ends_within_days(days_before(31)), None);
    assert_eq!(enrolment.ends_within_days(days_before(29)), Some(29));
    assert_eq!(enrolment.ends_within_days(enrolment.expires_at.plus_ms(1)), Some(0));

    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in [KEY_FILE, CERTIFICATE_FILE, CA_FILE, RECORD_FILE] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }

    // What was stored opens a mutually authenticated connection.
    let server = rustls::ServerConnection::new(Arc::new(ca.server())).unwrap();
    let client = rustls::ClientConnection::new(
        Arc::new(Enrolment::load(&dir).unwrap().client_tls(TlsSettings::default()).unwrap()),
        ServerName::try_from("localhost").unwrap(),
    )
    .unwrap();
    let shown = client_certificate(client, server);
    assert_eq!(shown, enrolment.chain);
}

/// Runs a handshake in memory; returns what the server saw of the client.
fn client_certificate(
    mut client: rustls::ClientConnection,
    mut server: rustls::ServerConnection,
) -> Vec<CertificateDer<'static>> {
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
        wire.clear();
    }
    server.peer_certificates().unwrap().to_vec()
}

#[tokio::test]
async fn a_broker_of_another_ca_gets_no_token() {
    let (ours, theirs) = (Arc::new(TestCa::new()), Arc::new(TestCa::new()));
    let token = token(&ours);
    let impostor = broker(&theirs, &token).await;
    let temp = tempfile::tempdir().unwrap();
    let error = enroll(&settings(&impostor, &token, temp.path())).await.unwrap_err();
    assert!(matches!(error, EnrolError::Dial(_)), "{error:?}");
    assert!(matches!(Enrolment::load(temp.path()), Err(EnrolmentError::NotEnrolled(_))));

    // Not even when the operator trusts its TLS certificate: the CA that it
    // would hand out is not the one that the token names.
    let ca_file = temp.path().join("theirs.pem");
    std::fs::write(&ca_file, theirs.pem()).unwrap();
    let with_ca = EnrolSettings { ca: Some(ca_file), ..settings(&impostor, &token, temp.path()) };
    let error = enroll(&with_ca).await.unwrap_err();
    assert!(matches!(error, EnrolError::Answer(_)), "{error:?}");
    assert!(matches!(Enrolment::load(temp.path()), Err(EnrolmentError::NotEnrolled(_))));
}

#[tokio::test]
async fn a_valid_enrolment_is_kept_unless_forced_and_survives_a_refusal() {
    let ca = Arc::new(TestCa::new());
    let token = token(&ca);
    let broker = broker(&ca, &token).await;
    let temp = tempfile::tempdir().unwrap();
    let first = settings(&broker, &token, temp.path());
    let enrolled = enroll(&first).await.unwrap();

    let error = enroll(&first).await.unwrap_err();
    assert!(matches!(error, EnrolError::Exists(_)), "{error:?}");

    let used_up = format!("rwe_{}_{}", "00".repeat(16), CaPin::of(&ca.der()));
    let forced = EnrolSettings { force: true, ..settings(&broker, &used_up, temp.path()) };
    let EnrolError::Dial(error) = enroll(&forced).await.unwrap_err() else { panic!() };
    assert_eq!(error.refusal().unwrap().code, Code::EnrolTokenUsedUp);
    assert_eq!(Enrolment::load(temp.path()).unwrap().chain, enrolled.chain);

    let forced = EnrolSettings { force: true, ..first };
    let again = enroll(&forced).await.unwrap();
    assert_ne!(again.chain, enrolled.chain);
    assert!(matches!(
        Enrolment::load_as(temp.path(), MachineRole::Gateway),
        Err(EnrolmentError::OtherRole { .. })
    ));
}

#[test]
fn host_names_become_names() {
    assert_eq!(cleaned_name("DESK-07.Corp.Example"), "desk-07.corp.example");
    assert_eq!(cleaned_name("büro pc"), "b-ro-pc");
    assert!(cleaned_name(&"x".repeat(200)).parse::<HostId>().is_ok());
}
