//! The machines' side of the channel: reconnects, hellos, deadlines, goodbyes.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::core::clock::UnixMillis;
use crate::core::codes::Code;
use crate::dial::testing::{TestCa, TestServer, eventually, read_head};
use crate::wire::channel::Envelope;

type Text = Envelope<String>;

fn settings(ca: &TestCa, broker: &TestServer) -> ChannelSettings {
    settings_for(ca, &broker.url())
}

fn settings_for(ca: &TestCa, url: &str) -> ChannelSettings {
    ChannelSettings {
        backoff_base_ms: 5,
        backoff_cap_ms: 20,
        ..ChannelSettings::new(url.parse().unwrap(), ca.dialer(), MachineRole::Agent)
    }
}

/// A channel whose hellos are "hello 1", "hello 2", …
fn start(
    settings: ChannelSettings,
) -> (ChannelHandle<String>, mpsc::Receiver<ChannelEvent<String>>) {
    let hellos = AtomicU32::new(0);
    spawn(settings, move || vec![format!("hello {}", hellos.fetch_add(1, Ordering::Relaxed) + 1)])
}

/// The next message that is not a heartbeat.
async fn next_body<S>(socket: &mut S) -> String
where
    S: futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        let message = socket.next().await.unwrap().unwrap();
        match serde_json::from_str::<Text>(message.to_text().unwrap()).unwrap() {
            Envelope::Body { body } => return body,
            Envelope::Goodbye { refusal } => return format!("goodbye {}", refusal.code),
            Envelope::Beat { .. } | Envelope::Answer { .. } => {}
        }
    }
}

fn text(envelope: &Text) -> Message {
    Message::text(serde_json::to_string(envelope).unwrap())
}

/// Takes one event, whatever else is going on.
async fn next_event(events: &mut mpsc::Receiver<ChannelEvent<String>>) -> ChannelEvent<String> {
    timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap()
}

/// A broker that answers every first message with "welcome to <it>", then
/// hangs up when it is told to "hang up".
async fn polite_broker(ca: &TestCa) -> TestServer {
    TestServer::start(ca.server(), |stream| async move {
        let mut socket = accept_async(stream).await.unwrap();
        let hello = next_body(&mut socket).await;
        let welcome = Envelope::Body { body: format!("welcome to {hello}") };
        socket.send(text(&welcome)).await.unwrap();
        while next_body(&mut socket).await != "hang up" {}
    })
    .await
}

#[tokio::test]
async fn every_connection_starts_with_a_fresh_hello() {
    let ca = TestCa::new();
    let broker = polite_broker(&ca).await;
    let (channel, mut events) = start(settings(&ca, &broker));
    for round in 1..=3 {
        assert_eq!(next_event(&mut events).await, ChannelEvent::Up);
        let welcome = format!("welcome to hello {round}");
        assert_eq!(next_event(&mut events).await, ChannelEvent::Message(welcome));
        channel.send("hang up".into()).unwrap();
        let down = next_event(&mut events).await;
        assert!(matches!(down, ChannelEvent::Down { refusal: None, .. }), "{down:?}");
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there_yet_is_waited_for() {
    let ca = TestCa::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let (channel, mut events) = start(settings_for(&ca, &url));
    // Something is at the port, but no broker: it hangs up at once.
    let (tcp, _) = listener.accept().await.unwrap();
    drop(tcp);
    let down = next_event(&mut events).await;
    assert!(matches!(down, ChannelEvent::Down { .. }), "{down:?}");
    assert_eq!(channel.send("lost".into()), Err(NotConnected));

    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(ca.server()));
    let (tcp, _) = timeout(Duration::from_secs(10), listener.accept()).await.unwrap().unwrap();
    let mut socket = accept_async(acceptor.accept(tcp).await.unwrap()).await.unwrap();
    assert_eq!(next_body(&mut socket).await, "hello 1");
    loop {
        match next_event(&mut events).await {
            ChannelEvent::Up => break,
            ChannelEvent::Down { .. } => {}
            ChannelEvent::Message(message) => panic!("{message}"),
        }
    }
}

#[tokio::test]
async fn a_goodbye_says_when_to_come_back() {
    const WISH_MS: u64 = 150;
    let ca = TestCa::new();
    let (arrivals, mut arrived) = mpsc::unbounded_channel();
    let broker = TestServer::start(ca.server(), move |stream| {
        arrivals.send(UnixMillis::now()).unwrap();
        async move {
            let mut socket = accept_async(stream).await.unwrap();
            next_body(&mut socket).await;
            let refusal =
                Refusal { retry_after_ms: Some(WISH_MS), ..Refusal::new(Code::BrokerOverloaded) };
            socket.send(text(&Envelope::Goodbye { refusal })).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        }
    })
    .await;
    let (_channel, mut events) = start(settings(&ca, &broker));
    assert_eq!(next_event(&mut events).await, ChannelEvent::Up);
    let ChannelEvent::Down { refusal: Some(refusal), retry_in_ms, .. } =
        next_event(&mut events).await
    else {
        panic!("no goodbye")
    };
    assert_eq!(refusal.code, Code::BrokerOverloaded);
    assert!(retry_in_ms >= WISH_MS, "{retry_in_ms}");
    let first = arrived.recv().await.unwrap();
    let second = timeout(Duration::from_secs(10), arrived.recv()).await.unwrap().unwrap();
    assert!(second.since_ms(first) >= WISH_MS);
}

#[tokio::test]
async fn a_refused_handshake_keeps_its_code_and_its_wish() {
    let ca = TestCa::new();
    let broker = TestServer::start(ca.server(), |mut stream| async move {
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("GET /channel/agent HTTP/1.1\r\n"), "{head}");
        let refusal = Refusal { retry_after_ms: Some(40), ..Refusal::new(Code::MachineUnknown) };
        let body = serde_json::to_string(&refusal).unwrap();
        let length = body.len();
        let answer = format!("HTTP/1.1 503 x\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    let (_channel, mut events) = start(settings(&ca, &broker));
    for _ in 0..2 {
        let down = next_event(&mut events).await;
        let ChannelEvent::Down { refusal: Some(refusal), retry_in_ms, .. } = down else {
            panic!("{down:?}")
        };
        assert_eq!(refusal.code, Code::MachineUnknown);
        assert!(retry_in_ms >= 40);
    }
}

#[tokio::test]
async fn a_broker_that_answers_no_beat_is_left() {
    let ca = TestCa::new();
    let broker = TestServer::start(ca.server(), |stream| async move {
        let mut socket = accept_async(stream).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    let mut settings = settings(&ca, &broker);
    settings.rules =
        PumpRules { heartbeat_interval_ms: 20, heartbeat_timeout_ms: 60, ..settings.rules };
    let (_channel, mut events) = start(settings);
    assert_eq!(next_event(&mut events).await, ChannelEvent::Up);
    let down = next_event(&mut events).await;
    let ChannelEvent::Down { reason, .. } = &down else { panic!("{down:?}") };
    assert!(reason.contains("beat 1"), "{reason}");
}

#[tokio::test]
async fn a_shutdown_sends_what_is_queued_and_a_goodbye_and_stays_down() {
    let ca = TestCa::new();
    let (lines, mut said) = mpsc::unbounded_channel();
    let broker = TestServer::start(ca.server(), move |stream| {
        let lines = lines.clone();
        async move {
            let mut socket = accept_async(stream).await.unwrap();
            loop {
                let body = next_body(&mut socket).await;
                let last = body.starts_with("goodbye");
                lines.send(body).unwrap();
                if last {
                    break;
                }
            }
        }
    })
    .await;
    let (channel, mut events) = start(settings(&ca, &broker));
    assert_eq!(next_event(&mut events).await, ChannelEvent::Up);
    channel.send("last words".into()).unwrap();
    channel.shutdown(Refusal::new(Code::HostDraining)).await;
    for expected in ["hello 1", "last words", "goodbye host_draining"] {
        assert_eq!(said.recv().await.unwrap(), expected);
    }
    assert_eq!(channel.send("too late".into()), Err(NotConnected));
    assert_eq!(timeout(Duration::from_secs(10), events.recv()).await, Ok(None));
}

#[tokio::test]
async fn dropping_every_handle_ends_the_channel() {
    let ca = TestCa::new();
    let broker = polite_broker(&ca).await;
    let (channel, mut events) = start(settings(&ca, &broker));
    assert_eq!(next_event(&mut events).await, ChannelEvent::Up);
    drop(channel);
    eventually("the channel ends", || {
        matches!(events.try_recv(), Err(mpsc::error::TryRecvError::Disconnected))
    })
    .await;
}
