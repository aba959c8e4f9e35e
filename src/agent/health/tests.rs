//! RDP servers of every kind, looked at over real connections.

use std::net::SocketAddr;
use std::path::PathBuf;

use ironrdp::core::encode_vec;
use ironrdp::pdu::nego::{ConnectionConfirm, FailureCode, ResponseFlags, SecurityProtocol};
use ironrdp::pdu::x224::X224;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::super::target::TcpTarget;
use super::*;
use crate::channel::client::{self, ChannelSettings};
use crate::dial::testing::{TestCa, short_limits};
use crate::dial::{Dialer, Endpoint};
use crate::wire::channel::BrokerToAgent;
use crate::wire::enroll::MachineRole;
use crate::wire::x224;

/// An RDP server that confirms with these bytes; what comes then is up to
/// `then`.
async fn server<F, Served>(confirm: Vec<u8>, then: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Served + Send + 'static,
    Served: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 19];
            if stream.read_exact(&mut request).await.is_ok() {
                // MS-RDPBCGR 2.2.1.1: a connection request that offers TLS.
                assert_eq!((request[0], request[5], request[11]), (3, 0xe0, 1));
                assert!([3, 0x13].contains(&request[15]));
                stream.write_all(&confirm).await.unwrap();
                then(stream).await;
            }
        }
    });
    address
}

fn confirms(protocol: SecurityProtocol) -> Vec<u8> {
    encode_vec(&X224(ConnectionConfirm::Response { flags: ResponseFlags::empty(), protocol }))
        .unwrap()
}

async fn tls_server(ca: &TestCa, chosen: SecurityProtocol) -> SocketAddr {
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(ca.server()));
    server(confirms(chosen), move |stream| {
        let acceptor = acceptor.clone();
        async move { drop(acceptor.accept(stream).await) }
    })
    .await
}

fn watch(address: SocketAddr, settings: HealthSettings) -> Watch {
    let target = TcpTarget::new(&address.ip().to_string(), address.port(), 1_000);
    let dialer = Dialer::new(TestCa::new().client(), short_limits());
    let nowhere: Endpoint = "https://localhost:1".parse().unwrap();
    let settings_of_channel = ChannelSettings::new(nowhere, dialer, MachineRole::Agent);
    let (channel, _events) = client::spawn::<BrokerToAgent, _>(settings_of_channel, Vec::new);
    Watch {
        settings: HealthSettings { load_per_core_max: 0.0, ..settings },
        rdsaad: false,
        target: Arc::new(target),
        seats: Seats::new(2),
        channel,
        findings: Findings::default(),
    }
}

/// What one look says, by name.
async fn look(watch: &Watch) -> Vec<(&'static str, bool, String)> {
    let seen = watch.look().await.into_iter().map(|one| {
        let ok = one.outcome.is_ok();
        let (Ok(detail) | Err(detail)) = one.outcome;
        (one.name, ok, detail)
    });
    seen.collect()
}

#[tokio::test]
async fn an_rdp_server_with_a_certificate_is_well() {
    crate::tls::install_provider();
    let address = tls_server(&TestCa::new(), SecurityProtocol::SSL).await;
    let seen = look(&watch(address, HealthSettings::default())).await;
    let [target, certificate, places] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((target.0, target.1), ("target", true));
    assert_eq!(target.2, format!("{address} answers"));
    assert_eq!((certificate.0, certificate.1), ("certificate", true), "{certificate:?}");
    assert!(certificate.2.contains(", until "), "{certificate:?}");
    assert_eq!(*places, ("places", true, "2 of 2 free".into()));
}

#[tokio::test]
async fn logons_by_token_are_left_to_a_server_that_chooses_them_when_offered() {
    crate::tls::install_provider();
    let ca = TestCa::new();
    let (ssl, hybrid) = (x224::FailureCode::SSL_REQUIRED, x224::FailureCode::HYBRID_REQUIRED);
    for (chosen, rdsaad) in [
        (SecurityProtocol::RDSAAD, Rdsaad::Pass),
        (SecurityProtocol::SSL, Rdsaad::Decline(ssl)),
        (SecurityProtocol::HYBRID, Rdsaad::Decline(hybrid)),
    ] {
        let address = tls_server(&ca, chosen).await;
        let watch = Watch { rdsaad: true, ..watch(address, HealthSettings::default()) };
        assert_eq!(watch.findings.rdsaad(), Rdsaad::Decline(ssl), "before the first look");
        let seen = look(&watch).await;
        assert!(seen[1].1, "{seen:?}");
        assert_eq!(watch.findings.rdsaad(), rdsaad);
    }
}

#[tokio::test]
async fn an_rdp_server_without_tls_needs_no_certificate() {
    let refusal = ConnectionConfirm::Failure { code: FailureCode::SSL_NOT_ALLOWED_BY_SERVER };
    for confirm in [confirms(SecurityProtocol::empty()), encode_vec(&X224(refusal)).unwrap()] {
        let address = server(confirm, async |stream| drop(stream)).await;
        let seen = look(&watch(address, HealthSettings::default())).await;
        assert!(seen[1].1 && seen[1].2.contains("speaks no TLS"), "{seen:?}");
    }
}

#[tokio::test]
async fn what_is_no_rdp_server_answers_but_has_no_certificate() {
    for answer in [
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        vec![3, 0, 0xff, 0xff],
        vec![3, 0, 0, 0],
        vec![3, 0, 0, 19, 14, 0xd0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9],
        Vec::new(),
        // It stops in the middle.
        vec![3, 0, 0, 19, 14],
    ] {
        let address = server(answer.clone(), async |stream| drop(stream)).await;
        let seen = look(&watch(address, HealthSettings::default())).await;
        assert!(seen[0].1 && !seen[1].1, "{answer:?}: {seen:?}");
    }
}

#[tokio::test]
async fn a_server_that_stops_after_the_confirmation_has_a_deadline() {
    let address = server(confirms(SecurityProtocol::HYBRID), async |stream| {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let settings = HealthSettings { check_timeout_ms: 100, ..HealthSettings::default() };
    let seen = look(&watch(address, settings)).await;
    assert!(!seen[1].1 && seen[1].2.contains("within 100 ms"), "{seen:?}");
}

#[tokio::test]
async fn a_target_that_nobody_listens_at_is_named_with_its_reason() {
    // Bound but not listening: nobody else can get the port meanwhile.
    let deaf = tokio::net::TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = deaf.local_addr().unwrap();
    let seen = look(&watch(address, HealthSettings::default())).await;
    assert_eq!((seen[0].0, seen[0].1), ("target", false));
    assert!(seen[0].2.starts_with(&format!("{address}: ")), "{seen:?}");
    assert!(!seen[1].1, "{seen:?}");
}

#[tokio::test]
async fn a_certificate_in_a_file_is_read_instead() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| -> PathBuf { dir.path().join(name) };
    std::fs::write(file("good.pem"), TestCa::new().pem()).unwrap();
    std::fs::write(file("bad.pem"), "not a certificate").unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["rdp".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let old = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    std::fs::write(file("old.pem"), old.pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for (name, ok, says) in
        [("good.pem", true, "until"), ("bad.pem", false, "bad.pem"), ("old.pem", false, "expired")]
    {
        let certificate = Some(file(name));
        let settings = HealthSettings { certificate, ..HealthSettings::default() };
        let seen = look(&watch(address, settings)).await;
        assert_eq!((seen[1].0, seen[1].1), ("certificate", ok), "{seen:?}");
        assert!(seen[1].2.contains(says), "{seen:?}");
    }
}

#[tokio::test]
async fn taken_seats_are_counted_and_one_slow_answer_is_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let watch = watch(listener.local_addr().unwrap(), HealthSettings::default());
    let _seats = [1, 2].map(|n| watch.seats.take(crate::core::ids::SessionId([n; 16])).unwrap());
    let places = watch.look().await.pop().unwrap();
    assert_eq!(places.outcome, Err("0 of 2 free".into()));

    let mut believed = BTreeMap::new();
    let mut judge = |outcome: Result<&str, &str>| {
        let outcome = outcome.map(str::to_owned).map_err(str::to_owned);
        watch.judge(Seen { name: "target", fatal: true, outcome }, &mut believed).ok
    };
    assert_eq!([Ok(""), Err("slow"), Err("slow"), Ok("")].map(&mut judge), [true; 4]);
    assert_eq!([Err("a"), Err("b"), Err("c"), Ok("")].map(&mut judge), [true, true, false, false]);
}

#[test]
fn load_is_judged_per_core() {
    assert!(judge_load("3.90 1.00 0.50 1/234 5678\n", 1, 4.0).is_ok());
    assert!(judge_load("8.10 1.00 0.50 1/234 5678\n", 2, 4.0).is_err());
    assert!(judge_load("8.10 1.00 0.50 1/234 5678\n", 4, 4.0).is_ok());
    assert!(judge_load("", 4, 4.0).is_err());
}
