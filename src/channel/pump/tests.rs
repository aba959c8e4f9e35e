//! Channels over in-memory WebSockets.

use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::core::codes::Code;

type Socket = WebSocketStream<DuplexStream>;

/// Beats often, gives up late: for tests in which the peer is well.
const LIVELY: PumpRules = PumpRules {
    heartbeat_interval_ms: 5,
    heartbeat_timeout_ms: 60_000,
    write_timeout_ms: 60_000,
    inbound_timeout_ms: 60_000,
    message_length_max: MESSAGE_LENGTH_MAX,
};

async fn sockets(buffer: usize) -> (Socket, Socket) {
    let (a, b) = tokio::io::duplex(buffer);
    (
        WebSocketStream::from_raw_socket(a, Role::Client, None).await,
        WebSocketStream::from_raw_socket(b, Role::Server, None).await,
    )
}

struct Running {
    outbox: Outbox<String>,
    inbound: mpsc::Receiver<String>,
    end: tokio::task::JoinHandle<PumpEnd>,
}

fn run(socket: Socket, rules: PumpRules, capacity: usize) -> Running {
    let (outbox, queue) = outbox(capacity);
    let (sender, inbound) = mpsc::channel(4);
    Running { outbox, inbound, end: tokio::spawn(drive(socket, rules, queue, sender)) }
}

#[tokio::test]
async fn carries_messages_both_ways_and_lives_through_many_beats() {
    let (a, b) = sockets(4_096).await;
    let (mut a, mut b) = (run(a, LIVELY, 8), run(b, LIVELY, 8));
    for round in 0..50 {
        assert!(a.outbox.post(format!("to b {round}")));
        assert!(b.outbox.post(format!("to a {round}")));
        assert_eq!(b.inbound.recv().await.unwrap(), format!("to b {round}"));
        assert_eq!(a.inbound.recv().await.unwrap(), format!("to a {round}"));
        // Gives beats a chance to be among the messages; nothing depends on it.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(!a.end.is_finished() && !b.end.is_finished());
    a.outbox.post("last words".into());
    a.outbox.close(Refusal::new(Code::ChannelReplaced));
    assert_eq!(b.inbound.recv().await.unwrap(), "last words");
    let why = Refusal::new(Code::ChannelReplaced);
    assert_eq!(a.end.await.unwrap(), PumpEnd::ClosedHere(why.clone()));
    assert_eq!(b.end.await.unwrap(), PumpEnd::PeerSaidGoodbye(why));
}

#[tokio::test]
async fn a_peer_that_does_not_answer_beats_is_dead() {
    let (a, mut b) = sockets(65_536).await;
    let a = run(a, PumpRules { heartbeat_timeout_ms: 50, ..LIVELY }, 8);
    let reads_but_does_not_answer =
        tokio::spawn(async move { while let Some(Ok(_)) = b.next().await {} });
    assert_eq!(a.end.await.unwrap(), PumpEnd::HeartbeatLost { seq: 1 });
    reads_but_does_not_answer.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_cut_off() {
    let (a, _b) = sockets(64).await;
    let rules = PumpRules { write_timeout_ms: 50, ..LIVELY };
    let stuck = run(a, rules, 2);
    stuck.outbox.post("x".repeat(1_000));
    assert_eq!(stuck.end.await.unwrap(), PumpEnd::WriteTimeout);

    let (a, _b) = sockets(64).await;
    let crowded = run(a, rules, 2);
    while crowded.outbox.post("x".repeat(1_000)) {}
    // The write that is under way ends first, by its own deadline or not.
    let end = crowded.end.await.unwrap();
    assert!(matches!(end, PumpEnd::OutboxFull | PumpEnd::WriteTimeout), "{end:?}");
    assert!(!crowded.outbox.post("too late".into()));
}

#[tokio::test]
async fn nonsense_and_excess_close_the_channel() {
    let rules = PumpRules { message_length_max: 200, ..LIVELY };
    let body = |length: usize| {
        let body: Envelope<String> = Envelope::Body { body: "x".repeat(length) };
        serde_json::to_string(&body).unwrap()
    };
    for (message, expected) in [
        (Message::text("{"), "malformed"),
        (Message::binary(vec![1]), "malformed"),
        (Message::text(body(300)), "too long"),
        (Message::Close(None), "closed"),
    ] {
        let (a, mut b) = sockets(65_536).await;
        let a = run(a, rules, 2);
        b.send(message).await.unwrap();
        let end = a.end.await.unwrap();
        assert!(
            match expected {
                "malformed" => matches!(end, PumpEnd::MessageMalformed { .. }),
                "too long" => matches!(end, PumpEnd::MessageTooLong { .. }),
                _ => end == PumpEnd::PeerClosed,
            },
            "{expected}: {end:?}"
        );
    }
}

#[tokio::test]
async fn an_owner_that_does_not_take_messages_stalls_its_own_channel_only() {
    let (a, b) = sockets(65_536).await;
    let (a, b) = (run(a, LIVELY, 64), run(b, PumpRules { inbound_timeout_ms: 50, ..LIVELY }, 64));
    for _ in 0..10 {
        assert!(a.outbox.post("x".into()));
    }
    assert_eq!(b.end.await.unwrap(), PumpEnd::InboundStalled);
    assert!(matches!(a.end.await.unwrap(), PumpEnd::PeerClosed | PumpEnd::Transport { .. }));
}

#[tokio::test]
async fn dropping_the_owner_ends_the_channel() {
    let (a, _b) = sockets(65_536).await;
    let Running { outbox, inbound, end } = run(a, LIVELY, 2);
    drop(outbox);
    assert_eq!(end.await.unwrap(), PumpEnd::Abandoned);
    drop(inbound);
}
