//! The connector against a fake gateway: many clients, refusals, trust.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::connect::trust::RdpTrustError;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::SessionId;
use crate::core::secret::Secret;
use crate::dial::testing::{TestCa, TestServer, read_head, short_limits};
use crate::wire::arm::{ConnectionRequest, ConnectionResponse, RingwayDetails};
use crate::wire::rdp_file::RdpFile;

const SESSION: SessionId = SessionId([5; 16]);
const TICKET: &str = "rw1.k.c.s";

/// An entry gateway that sends everyone with the token "alice" to itself, and
/// a host behind it that echoes. The host of "carol" is being started until she
/// asks for the third time, that of "dave" for ever.
async fn gateway(ca: &TestCa) -> TestServer {
    let asked = Arc::new(AtomicU32::new(0));
    TestServer::start(ca.server(), move |stream| answer(stream, Arc::clone(&asked))).await
}

async fn answer(mut stream: TlsStream<TcpStream>, asked: Arc<AtomicU32>) {
    let head = read_head(&mut stream).await;
    let answer = if head.starts_with("GET /relay/client HTTP/1.1\r\n") {
        assert!(head.contains(&format!("\r\nRingway-Ticket: {TICKET}\r\n")), "{head}");
        let switched = b"HTTP/1.1 101 x\r\nUpgrade: ringway-relay\r\n\r\n";
        stream.write_all(switched).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let _until_the_end = tokio::io::copy(&mut read, &mut write).await;
        let _best_effort = write.shutdown().await;
        return;
    } else if head.starts_with("GET /api/gateways HTTP/1.1\r\n") {
        // One of before clients measured.
        (404, serde_json::to_string(&Refusal::new(Code::NotFound)).unwrap())
    } else {
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("post /api/arm/v2/connections http/1.1\r\n"), "{head}");
        let header = |name: &str| head.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        let mut body = vec![0; header("content-length: ").parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        let request: ConnectionRequest = serde_json::from_slice(&body).unwrap();
        assert_eq!(request.application, "||desk");
        assert_eq!(request.load_balance_info, "mth://ws/desk");
        let bearer = header("authorization: ");
        let starting = match bearer {
            "bearer carol" => asked.fetch_add(1, Relaxed) < 2,
            _ => bearer == "bearer dave",
        };
        if starting {
            let refusal = Refusal::new(Code::HostStarting);
            let refusal = Refusal { retry_after_ms: Some(1), ..refusal };
            (503, serde_json::to_string(&refusal).unwrap())
        } else if ["bearer alice", "bearer carol"].contains(&bearer) {
            let response = ConnectionResponse {
                gateway_location: format!("https://{}/relay/client", header("host: ")).into(),
                gateway_location_pre_web_socket: None,
                redirected_server_name: "host-1".into(),
                redirected_server_cert: String::new(),
                ringway: RingwayDetails {
                    session: SESSION,
                    gateway: "gw-1".parse().unwrap(),
                    host: "host-1".parse().unwrap(),
                    ticket: TICKET.into(),
                    explain: Default::default(),
                },
            };
            (200, serde_json::to_string(&response).unwrap())
        } else {
            (401, serde_json::to_string(&Refusal::new(Code::TokenExpired)).unwrap())
        }
    };
    let (status, body) = answer;
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

fn rdp_file(gateway: &TestServer) -> RdpFile {
    let mut file = RdpFile::new();
    file.set_string("gatewayhostname", &format!("localhost:{}", gateway.address.port()));
    file.set_string("loadbalanceinfo", "mth://ws/desk");
    file.set_string("remoteapplicationprogram", "||desk");
    file
}

fn settings(ca: &TestCa, gateway: &TestServer, token: &str) -> SessionSettings {
    let token: Secret = token.parse().unwrap();
    let settings = SessionSettings::from_rdp(&rdp_file(gateway), token, ca.roots()).unwrap();
    SessionSettings { dial: short_limits(), ..settings }
}

#[tokio::test]
async fn a_session_opens_without_a_port() {
    let ca = TestCa::new();
    let gateway = gateway(&ca).await;
    let (mut leg, details) = session::open(&settings(&ca, &gateway, "alice")).await.unwrap();
    assert_eq!((details.session, details.gateway.as_str()), (SESSION, "gw-1"));
    leg.write_all(b"echo").await.unwrap();
    leg.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    leg.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, b"echo");
}

#[tokio::test]
async fn many_local_clients_have_a_session_each() {
    let ca = TestCa::new();
    let gateway = gateway(&ca).await;
    let (heard, mut events) = mpsc::unbounded_channel();
    let settings = ConnectorSettings {
        // Fewer than clients: the others wait for their turn.
        sessions_max: 2,
        on_event: Some(Arc::new(move |event| heard.send(event.clone()).unwrap())),
        ..ConnectorSettings::new(settings(&ca, &gateway, "alice"))
    };
    let connector = Connector::start(settings, None).await.unwrap();
    assert!(connector.local_addr().ip().is_loopback());
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..5_u8 {
        let address = connector.local_addr();
        clients.spawn(async move {
            let mut client = TcpStream::connect(address).await.unwrap();
            let sent = vec![n; 10_000 + usize::from(n)];
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut echoed = Vec::new();
            client.read_to_end(&mut echoed).await.unwrap();
            assert!(echoed == sent, "client {n} got something else");
        });
    }
    while let Some(done) = timeout(Duration::from_secs(20), clients.join_next()).await.unwrap() {
        done.unwrap();
    }
    connector.shutdown().await;
    let (mut started, mut bytes) = (0, 0);
    while let Ok(event) = events.try_recv() {
        match event {
            ConnectorEvent::Started { .. } => started += 1,
            ConnectorEvent::Ended { bytes_up, bytes_down, clean, .. } => {
                assert!(clean && bytes_up == bytes_down);
                bytes += bytes_up;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((started, bytes), (5, 50_010));
}

#[tokio::test]
async fn a_refusal_closes_the_local_connection_and_names_the_code() {
    let ca = TestCa::new();
    let gateway = gateway(&ca).await;
    let (heard, mut events) = mpsc::unbounded_channel();
    let settings = ConnectorSettings {
        on_event: Some(Arc::new(move |event| heard.send(event.clone()).unwrap())),
        ..ConnectorSettings::new(settings(&ca, &gateway, "mallory"))
    };
    let connector = Connector::start(settings, None).await.unwrap();
    let mut client = TcpStream::connect(connector.local_addr()).await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    let event = events.recv().await.unwrap();
    let ConnectorEvent::Refused { refusal, .. } = event else { panic!("{event:?}") };
    assert_eq!(refusal.code, Code::TokenExpired);
}

/// A client's first word is answered, or the events say why not.
async fn first_word(settings: ConnectorSettings) -> (bool, Vec<ConnectorEvent>) {
    let (heard, mut events) = mpsc::unbounded_channel();
    let settings = ConnectorSettings {
        on_event: Some(Arc::new(move |event| heard.send(event.clone()).unwrap())),
        ..settings
    };
    let connector = Connector::start(settings, None).await.unwrap();
    let mut client = TcpStream::connect(connector.local_addr()).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let echoed = client.read(&mut [0]).await.is_ok_and(|length| length == 1);
    connector.shutdown().await;
    (echoed, std::iter::from_fn(|| events.try_recv().ok()).collect())
}

#[tokio::test]
async fn a_host_that_is_being_started_is_asked_for_again_until_it_is_there() {
    let ca = TestCa::new();
    let gateway = gateway(&ca).await;
    let settings = ConnectorSettings::new(settings(&ca, &gateway, "carol"));
    let (echoed, events) = first_word(settings).await;
    let waits = |event: &ConnectorEvent| match event {
        ConnectorEvent::Waiting { refusal, retry_in_ms } => {
            refusal.code == Code::HostStarting && *retry_in_ms == 250
        }
        _ => false,
    };
    assert!(echoed && waits(&events[0]) && waits(&events[1]), "{events:?}");
    assert!(matches!(events[2], ConnectorEvent::Started { .. }), "{events:?}");
}

#[tokio::test]
async fn a_host_that_does_not_start_is_given_up_after_the_wait() {
    let ca = TestCa::new();
    let gateway = gateway(&ca).await;
    let settings = ConnectorSettings {
        start_wait_ms: 600,
        ..ConnectorSettings::new(settings(&ca, &gateway, "dave"))
    };
    let (echoed, events) = first_word(settings).await;
    assert!(!echoed);
    let Some(ConnectorEvent::Refused { refusal, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!(refusal.code, Code::HostStarting);
}

#[tokio::test]
async fn a_gateway_that_is_gone_is_a_failure_with_its_address() {
    let ca = TestCa::new();
    let gateway = gateway(&ca).await;
    let settings = settings(&ca, &gateway, "alice");
    let address = gateway.url();
    drop(gateway);
    let error = session::open(&settings).await.unwrap_err();
    assert!(error.refusal().is_none());
    assert!(error.to_string().starts_with(&format!("gateway {address}")), "{error}");
}

#[tokio::test]
async fn a_shutdown_ends_sessions_and_closes_the_port() {
    let ca = TestCa::new();
    let gateway = gateway(&ca).await;
    let settings = ConnectorSettings::new(settings(&ca, &gateway, "alice"));
    let connector = Connector::start(settings, None).await.unwrap();
    let address = connector.local_addr();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"x").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    connector.shutdown().await;
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn only_loopback_is_listened_on_unasked() {
    let ca = TestCa::new();
    let gateway = gateway(&ca).await;
    let everywhere = ConnectorSettings {
        listen: "0.0.0.0:0".parse().unwrap(),
        ..ConnectorSettings::new(settings(&ca, &gateway, "alice"))
    };
    let error = Connector::start(everywhere.clone(), None).await.unwrap_err();
    assert!(matches!(error, ConnectorError::NotLoopback(_)), "{error}");
    let asked = ConnectorSettings { allow_remote: true, ..everywhere };
    assert!(Connector::start(asked, None).await.is_ok());
}

#[test]
fn a_file_without_a_gateway_is_refused() {
    let ca = TestCa::new();
    let read = |gateway: &str| {
        let mut file = RdpFile::new();
        file.set_string("gatewayhostname", gateway);
        SessionSettings::from_rdp(&file, Secret::new("t".into()), ca.roots())
    };
    assert!(matches!(read(" ").unwrap_err(), ConnectError::NoGateway));
    assert!(matches!(read("gw:99999").unwrap_err(), ConnectError::Gateway(_)));
    assert_eq!(read("gw.example").unwrap().entry.to_string(), "https://gw.example:443");
}

#[test]
fn a_file_is_only_used_when_a_trusted_signer_vouches_for_all_of_it() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let signer = ca.rdp_signer();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("desk.rdp");
    let mut file = RdpFile::new();
    file.set_string("gatewayhostname", "gw:443");
    file.set_string("loadbalanceinfo", "mth://ws/desk");
    let now = UnixMillis::now();
    let read = |file: &RdpFile, trust: &Trust| {
        std::fs::write(&path, file.to_bytes()).unwrap();
        read_trusted(&path, trust, now)
    };
    let ours = Trust::Signers(vec![ca.der()]);

    let error = read(&file, &ours).unwrap_err();
    assert!(matches!(error, RdpTrustError::Signature { .. }), "{error}");
    assert_eq!(error.to_refusal().code, Code::RdpFileUntrusted);
    assert!(read(&file, &Trust::Anyone).is_ok());

    // Signed, but what the connector uses was added afterwards.
    let mut signed = signer.sign(&file).unwrap();
    signed.set_string("remoteapplicationprogram", "||another");
    let error = read(&signed, &ours).unwrap_err();
    assert!(matches!(error, RdpTrustError::NotCovered { .. }), "{error}");

    file.set_string("remoteapplicationprogram", "||desk");
    let mut signed = signer.sign(&file).unwrap();
    assert!(read(&signed, &ours).unwrap().1.is_some());
    let error = read(&signed, &Trust::Signers(vec![other.der()])).unwrap_err();
    assert!(matches!(error, RdpTrustError::Signature { .. }), "{error}");
    let error = read(&signed, &Trust::Signers(Vec::new())).unwrap_err();
    assert!(matches!(error, RdpTrustError::NoTrust), "{error}");
    signed.set_string("gatewayhostname", "evil:443");
    let error = read(&signed, &ours).unwrap_err();
    assert!(matches!(error, RdpTrustError::Signature { .. }), "{error}");
}

#[tokio::test]
async fn the_client_is_told_where_and_ends_the_offer() {
    let address = "127.0.0.1:4711".parse().unwrap();
    let template = "echo {addr} {host} {port}";
    assert_eq!(client_command(template, address), "echo 127.0.0.1:4711 127.0.0.1 4711");
    let code = run_client(Some("test {port} = 4711 || exit 9"), address).await.unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
    let code = run_client(Some("exit 131"), address).await.unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(131)));
}
