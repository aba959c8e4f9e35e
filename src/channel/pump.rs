//! Drives one established channel WebSocket, at either end: encodes and
//! decodes envelopes, beats and answers beats, keeps the deadlines and limits,
//! and says why it ended.
//!
//! The owner talks to it through an [`Outbox`] (messages out) and the queue
//! that it handed in (messages in). Neither grows: an outbox that is full
//! closes the channel, because a channel that loses single messages would be
//! worse than one that is re-opened and reconciled by its hello.

use std::fmt;
use std::time::Duration;

use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::core::codes::Refusal;
use crate::core::heartbeat::{Beat, Heartbeat};
use crate::wire::channel::{Envelope, MESSAGE_LENGTH_MAX};

/// Answers to beats that may wait for the socket. A peer that beats faster
/// than it reads is cut off here.
const ANSWERS_WAITING_MAX: usize = 32;

/// Limits and rhythm of one channel.
#[derive(Clone, Copy, Debug)]
pub struct PumpRules {
    pub heartbeat_interval_ms: u64,
    /// Each beat must be answered within this.
    pub heartbeat_timeout_ms: u64,
    /// One message must leave within this.
    pub write_timeout_ms: u64,
    /// The owner must take one message within this.
    pub inbound_timeout_ms: u64,
    /// Longer messages, in bytes, close the channel. Give the WebSocket the
    /// same limit, so that it is kept before the message is assembled.
    pub message_length_max: usize,
}

impl Default for PumpRules {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 5_000,
            heartbeat_timeout_ms: 10_000,
            write_timeout_ms: 5_000,
            inbound_timeout_ms: 5_000,
            message_length_max: MESSAGE_LENGTH_MAX,
        }
    }
}

/// Why a channel ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PumpEnd {
    /// The other end closed without a goodbye.
    #[error("the other end closed the channel")]
    PeerClosed,
    /// The other end said why it closes.
    #[error("the other end closed the channel: {0}")]
    PeerSaidGoodbye(Refusal),
    /// [`Outbox::close`] was called, and the goodbye was sent.
    #[error("closed here: {0}")]
    ClosedHere(Refusal),
    /// Every [`Outbox`] or the receiver of inbound messages is gone.
    #[error("nobody here uses the channel any more")]
    Abandoned,
    #[error("the other end did not answer beat {seq} in time")]
    HeartbeatLost { seq: u64 },
    #[error("the other end reads too slowly: the queue of outgoing messages is full")]
    OutboxFull,
    #[error("a message could not be written in time")]
    WriteTimeout,
    #[error("this end takes messages too slowly")]
    InboundStalled,
    #[error("a message of {length} bytes is too long")]
    MessageTooLong { length: usize },
    #[error("a message was not understood: {error}")]
    MessageMalformed { error: String },
    #[error("the connection failed: {error}")]
    Transport { error: String },
}

/// The sending half that the owner of a channel keeps. Cheap to clone.
pub struct Outbox<Out> {
    queue: mpsc::Sender<Envelope<Out>>,
    overflow: watch::Sender<bool>,
}

/// What [`drive`] takes messages from.
pub struct OutboxQueue<Out> {
    queue: mpsc::Receiver<Envelope<Out>>,
    overflow: watch::Receiver<bool>,
}

/// A new outbox for one channel; `capacity` messages may wait in it.
#[must_use]
pub fn outbox<Out>(capacity: usize) -> (Outbox<Out>, OutboxQueue<Out>) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    let (overflow, overflowed) = watch::channel(false);
    (Outbox { queue: sender, overflow }, OutboxQueue { queue: receiver, overflow: overflowed })
}

impl<Out> Outbox<Out> {
    /// Queues a message without waiting. `false` when the channel is over, or
    /// is over now because the queue was full.
    pub fn post(&self, message: Out) -> bool {
        self.enqueue(Envelope::Body { body: message })
    }

    /// Sends what is queued, then a goodbye, then closes.
    pub fn close(&self, refusal: Refusal) {
        self.enqueue(Envelope::Goodbye { refusal });
    }

    /// Resolves when the channel is over and nothing more is sent.
    pub async fn ended(&self) {
        self.queue.closed().await;
    }

    fn enqueue(&self, envelope: Envelope<Out>) -> bool {
        match self.queue.try_send(envelope) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.overflow.send_replace(true);
                false
            }
        }
    }
}

#[cfg(test)]
impl<Out> OutboxQueue<Out> {
    /// The next message, for a test that is the socket.
    pub(crate) fn try_next(&mut self) -> Option<Envelope<Out>> {
        self.queue.try_recv().ok()
    }
}

impl<Out> Clone for Outbox<Out> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), overflow: self.overflow.clone() }
    }
}

impl<Out> fmt::Debug for Outbox<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("room", &self.queue.capacity()).finish()
    }
}

impl<Out> fmt::Debug for OutboxQueue<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxQueue").field("waiting", &self.queue.len()).finish()
    }
}

/// What the pump needs to know about a WebSocket library's message type.
pub trait Frame: Sized {
    fn from_text(text: String) -> Self;
    fn into_content(self) -> Content;
}

/// A WebSocket message as the pump sees it.
#[derive(Debug)]
pub enum Content {
    Text(String),
    /// Ping or pong: the library answers them itself.
    Control,
    Binary,
    Close,
}

/// Runs the channel until it ends. Decoded messages go to `inbound`.
///
/// `socket` is axum's `WebSocket` or tokio-tungstenite's `WebSocketStream`,
/// after its handshake.
pub async fn drive<S, M, E, In, Out>(
    socket: S,
    rules: PumpRules,
    outbox: OutboxQueue<Out>,
    inbound: mpsc::Sender<In>,
) -> PumpEnd
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E>,
    M: Frame,
    E: fmt::Display,
    In: DeserializeOwned,
    Out: Serialize,
{
    let (mut sink, stream) = socket.split();
    let (beats, beats_to_write) = mpsc::channel(ANSWERS_WAITING_MAX);
    let end = tokio::select! {
        end = read(stream, rules, beats, inbound) => end,
        end = write(&mut sink, rules, outbox, beats_to_write) => end,
    };
    // The other end learns at once; if it does not read any more, it does not
    // matter how this ends.
    let _best_effort =
        timeout(Duration::from_millis(rules.write_timeout_ms.min(1_000)), sink.close()).await;
    end
}

/// Beats and answers, on their way from the reading to the writing half. They
/// have a queue of their own, ahead of the owner's messages.
enum Pulse {
    Beat(u64),
    Answer(u64),
}

async fn read<M, E, In>(
    mut stream: impl Stream<Item = Result<M, E>> + Unpin,
    rules: PumpRules,
    pulses: mpsc::Sender<Pulse>,
    inbound: mpsc::Sender<In>,
) -> PumpEnd
where
    M: Frame,
    E: fmt::Display,
    In: DeserializeOwned,
{
    let started = Instant::now();
    let now = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut heartbeat =
        Heartbeat::new(rules.heartbeat_interval_ms, rules.heartbeat_timeout_ms, now());
    loop {
        let wake_at = match heartbeat.poll(now()) {
            Beat::Send(seq) => match pulses.try_send(Pulse::Beat(seq)) {
                Ok(()) => continue,
                Err(_) => return PumpEnd::OutboxFull,
            },
            Beat::WaitUntil(at) => started + Duration::from_millis(at),
            Beat::Dead { seq } => return PumpEnd::HeartbeatLost { seq },
        };
        let message = tokio::select! {
            message = stream.next() => message,
            () = sleep_until(wake_at) => continue,
            () = inbound.closed() => return PumpEnd::Abandoned,
        };
        let text = match message {
            None => return PumpEnd::PeerClosed,
            Some(Err(error)) => return PumpEnd::Transport { error: error.to_string() },
            Some(Ok(frame)) => match frame.into_content() {
                Content::Text(text) => text,
                Content::Control => continue,
                Content::Close => return PumpEnd::PeerClosed,
                Content::Binary => {
                    return PumpEnd::MessageMalformed { error: "binary, not text".into() };
                }
            },
        };
        if text.len() > rules.message_length_max {
            return PumpEnd::MessageTooLong { length: text.len() };
        }
        match serde_json::from_str::<Envelope<In>>(&text) {
            Err(error) => return PumpEnd::MessageMalformed { error: error.to_string() },
            Ok(Envelope::Beat { seq }) => {
                if pulses.try_send(Pulse::Answer(seq)).is_err() {
                    return PumpEnd::OutboxFull;
                }
            }
            Ok(Envelope::Answer { seq }) => heartbeat.on_answer(seq, now()),
            Ok(Envelope::Goodbye { refusal }) => {
                return PumpEnd::PeerSaidGoodbye(refusal.curbed());
            }
            Ok(Envelope::Body { body }) => {
                let patience = Duration::from_millis(rules.inbound_timeout_ms);
                match inbound.send_timeout(body, patience).await {
                    Ok(()) => {}
                    Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                        return PumpEnd::InboundStalled;
                    }
                    Err(mpsc::error::SendTimeoutError::Closed(_)) => return PumpEnd::Abandoned,
                }
            }
        }
    }
}

async fn write<M, E, Out>(
    sink: &mut (impl Sink<M, Error = E> + Unpin),
    rules: PumpRules,
    mut outbox: OutboxQueue<Out>,
    mut pulses: mpsc::Receiver<Pulse>,
) -> PumpEnd
where
    M: Frame,
    E: fmt::Display,
    Out: Serialize,
{
    let patience = Duration::from_millis(rules.write_timeout_ms);
    loop {
        let envelope = tokio::select! {
            biased;
            Ok(()) = outbox.overflow.changed() => return PumpEnd::OutboxFull,
            pulse = pulses.recv() => match pulse {
                Some(Pulse::Beat(seq)) => Envelope::Beat { seq },
                Some(Pulse::Answer(seq)) => Envelope::Answer { seq },
                None => return PumpEnd::Abandoned,
            },
            message = outbox.queue.recv() => match message {
                Some(envelope) => envelope,
                None => return PumpEnd::Abandoned,
            },
        };
        let text = match serde_json::to_string(&envelope) {
            Ok(text) if text.len() <= rules.message_length_max => text,
            Ok(text) => return PumpEnd::MessageTooLong { length: text.len() },
            Err(error) => return PumpEnd::MessageMalformed { error: error.to_string() },
        };
        match timeout(patience, sink.send(M::from_text(text))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return PumpEnd::Transport { error: error.to_string() },
            Err(_elapsed) => return PumpEnd::WriteTimeout,
        }
        if let Envelope::Goodbye { refusal } = envelope {
            return PumpEnd::ClosedHere(refusal);
        }
    }
}

impl Frame for axum::extract::ws::Message {
    fn from_text(text: String) -> Self {
        Self::Text(text.into())
    }

    fn into_content(self) -> Content {
        match self {
            Self::Text(text) => Content::Text(text.as_str().to_owned()),
            Self::Binary(_) => Content::Binary,
            Self::Ping(_) | Self::Pong(_) => Content::Control,
            Self::Close(_) => Content::Close,
        }
    }
}

impl Frame for tokio_tungstenite::tungstenite::Message {
    fn from_text(text: String) -> Self {
        Self::Text(text.into())
    }

    fn into_content(self) -> Content {
        match self {
            Self::Text(text) => Content::Text(text.as_str().to_owned()),
            Self::Binary(_) => Content::Binary,
            Self::Ping(_) | Self::Pong(_) | Self::Frame(_) => Content::Control,
            Self::Close(_) => Content::Close,
        }
    }
}

#[cfg(test)]
mod tests;
