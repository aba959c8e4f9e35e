//! Asking a fake gateway for a leg: answers, refusals, silence, early bytes.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::core::codes::{Code, Refusal};
use crate::dial::DialLimits;
use crate::dial::testing::{TestCa, TestServer, read_head, short_limits};
use crate::wire::arm::RefusalBody;

const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ringway-relay\r\n\r\n";

/// A gateway that answers every leg with these bytes and then echoes.
async fn gateway(ca: &TestCa, answer: Vec<u8>) -> TestServer {
    TestServer::start(ca.server(), move |mut stream| {
        let answer = answer.clone();
        async move {
            read_head(&mut stream).await;
            if stream.write_all(&answer).await.is_ok() {
                let (mut read, mut write) = tokio::io::split(stream);
                let _until_the_end = tokio::io::copy(&mut read, &mut write).await;
                let _best_effort = write.shutdown().await;
            }
        }
    })
    .await
}

async fn open(ca: &TestCa, answer: impl Into<Vec<u8>>) -> Result<RelayLeg, DialError> {
    let gateway = gateway(ca, answer.into()).await;
    open_leg(&ca.dialer(), &gateway.url(), Role::Client, "rw1.a.b.c").await
}

#[tokio::test]
async fn asks_for_its_role_with_its_ticket() {
    let ca = TestCa::new();
    let (heads, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let gateway = TestServer::start(ca.server(), move |mut stream| {
        let heads = heads.clone();
        async move {
            heads.send(read_head(&mut stream).await).unwrap();
            stream.write_all(SWITCHED.as_bytes()).await.unwrap();
        }
    })
    .await;
    let url = gateway.url();
    open_leg(&ca.dialer(), &url, Role::Host, "rw1.k.c.s").await.unwrap();
    let head = asked.recv().await.unwrap();
    assert!(head.starts_with("GET /relay/host HTTP/1.1\r\n"), "{head}");
    let port = gateway.address.port();
    for line in [
        &format!("Host: localhost:{port}"),
        "Connection: Upgrade",
        "Upgrade: ringway-relay",
        "Ringway-Ticket: rw1.k.c.s",
    ] {
        assert!(head.lines().any(|l| l == line), "{line} is not in {head}");
    }
}

#[tokio::test]
async fn what_followed_the_answer_comes_first() {
    let ca = TestCa::new();
    let gateway = gateway(&ca, format!("{SWITCHED}first bytes, ").into()).await;
    let opened = open_leg(&ca.dialer(), &gateway.url(), Role::Client, "rw1.a.b.c").await;
    let mut leg = opened.unwrap();
    leg.write_all(b"then an echo").await.unwrap();
    leg.shutdown().await.unwrap();
    let mut all = String::new();
    leg.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "first bytes, then an echo");
}

#[tokio::test]
async fn a_refusal_keeps_its_code() {
    let ca = TestCa::new();
    let refusal = Refusal {
        retry_after_ms: Some(250),
        ..Refusal::with_detail(Code::TicketUsed, "second time")
    };
    let facts = refusal.code.facts();
    let body = serde_json::to_string(&RefusalBody {
        code: facts.name.into(),
        number: facts.number,
        message: facts.advice.into(),
        step: facts.step,
        refusal: refusal.clone(),
    })
    .unwrap();
    let answer = format!("HTTP/1.1 409 x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let error = open(&ca, answer).await.unwrap_err();
    assert_eq!(error.refusal(), Some(&refusal));
    assert_eq!(error.to_refusal(Code::HostDialFailed), refusal);
    assert_eq!(error.purpose, Purpose::CLIENT_LEG);
}

#[tokio::test]
async fn an_answer_that_is_no_relay_is_named() {
    let ca = TestCa::new();
    for (answer, expected) in [
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno", "HTTP 502"),
        ("HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", "something else"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "not an HTTP answer"),
    ] {
        let error = open(&ca, answer).await.unwrap_err();
        assert!(matches!(error.kind, DialErrorKind::Protocol { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.to_refusal(Code::HostDialFailed).code, Code::HostDialFailed);
    }
}

#[tokio::test]
async fn an_endless_head_is_cut_off() {
    let ca = TestCa::new();
    let endless = format!("HTTP/1.1 101 x\r\nX: {}", "x".repeat(2 * HEAD_LENGTH_MAX));
    let error = open(&ca, endless).await.unwrap_err();
    assert!(error.to_string().contains("longer than 16384 bytes"), "{error}");
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let ca = TestCa::new();
    let gateway = gateway(&ca, Vec::new()).await;
    let limits = DialLimits { answer_timeout_ms: 50, ..short_limits() };
    let dialer = Dialer::new(ca.client(), limits);
    let error = open_leg(&dialer, &gateway.url(), Role::Host, "t").await.unwrap_err();

    assert!(
        matches!(error.kind, DialErrorKind::Deadline { phase: Phase::Answer, after_ms: 50 }),
        "{error:?}"
    );
    assert!(error.to_string().contains("(step 10): the answer took longer than 50 ms"), "{error}");
}

#[tokio::test]
async fn a_peer_that_never_starts_tls_ends_at_the_deadline() {
    let ca = TestCa::new();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", silent.local_addr().unwrap().port());
    let limits = DialLimits { handshake_timeout_ms: 50, ..short_limits() };
    let error =
        open_leg(&Dialer::new(ca.client(), limits), &url, Role::Client, "t").await.unwrap_err();
    assert!(matches!(error.kind, DialErrorKind::Deadline { phase: Phase::Tls, .. }), "{error:?}");
}

#[tokio::test]
async fn another_ca_is_not_trusted() {
    let ca = TestCa::new();
    let gateway = gateway(&ca, SWITCHED.into()).await;
    let error =
        open_leg(&TestCa::new().dialer(), &gateway.url(), Role::Client, "t").await.unwrap_err();
    assert!(matches!(error.kind, DialErrorKind::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn a_ticket_cannot_write_headers() {
    let ca = TestCa::new();
    let dialer = ca.dialer();
    for ticket in ["a\r\nX: y", "a b", "ä", &"x".repeat(TEXT_LENGTH_MAX + 1)] {
        let error =
            open_leg(&dialer, "https://localhost:1", Role::Client, ticket).await.unwrap_err();
        assert!(matches!(error.kind, DialErrorKind::Protocol { .. }), "{error:?}");
    }
}

/// Full ones would not fit one record once they are framed for a stock client.
#[test]
fn the_records_of_a_session_host_leave_room_for_its_clients_framing() {
    use std::io::Write as _;

    let ca = TestCa::new();
    let tls = Dialer::of_host(ca.client(), short_limits()).tls;
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut host = rustls::ClientConnection::new(tls, name).unwrap();
    let mut gateway = rustls::ServerConnection::new(ca.server().into()).unwrap();
    let mut wire = Vec::new();
    while host.is_handshaking() {
        host.write_tls(&mut wire).unwrap();
        gateway.read_tls(&mut std::mem::take(&mut wire).as_slice()).unwrap();
        gateway.process_new_packets().unwrap();
        gateway.write_tls(&mut wire).unwrap();
        while !wire.is_empty() {
            let read = host.read_tls(&mut wire.as_slice()).unwrap();
            wire.drain(..read);
            host.process_new_packets().unwrap();
        }
    }
    while host.wants_write() {
        host.write_tls(&mut Vec::new()).unwrap();
    }
    host.set_buffer_limit(None);
    host.writer().write_all(&vec![7; 4 * HOST_RECORD_DATA_MAX]).unwrap();
    while host.wants_write() {
        host.write_tls(&mut wire).unwrap();
    }
    // Header, content type, tag (RFC 8446 5.2).
    assert_eq!(wire.len(), 4 * (5 + HOST_RECORD_DATA_MAX + 1 + 16));
}
