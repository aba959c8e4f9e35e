//! Keeps a machine's channel to its broker open: dials, says hello, carries
//! messages, and dials again whenever it ends, for as long as the process
//! lives. The agent and the gateway's control thread both use it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error as WebSocketError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::pump::{self, Outbox, PumpEnd, PumpRules};
use crate::core::backoff::Backoff;
use crate::core::codes::{Refusal, Retry};
use crate::dial::http::refusal_of;
use crate::dial::{DialError, DialErrorKind, Dialer, Endpoint, Phase, Purpose};
use crate::wire::enroll::MachineRole;

/// Our goodbye may take this long to reach the broker.
const GOODBYE: Duration = Duration::from_secs(2);

/// Where a channel leads and how it is kept.
#[derive(Clone, Debug)]
pub struct ChannelSettings {
    pub broker: Endpoint,
    /// Shows the machine's certificate.
    pub dialer: Dialer,
    pub role: MachineRole,
    pub rules: PumpRules,
    /// Messages that may wait for the socket, and for the owner.
    pub queue_length: usize,
    pub backoff_base_ms: u64,
    pub backoff_cap_ms: u64,
    /// A channel that lived this long starts the backoff over. One that is
    /// closed as soon as it opens does not, or a broker that turns machines
    /// away would be dialled without pause.
    pub stable_after_ms: u64,
}

impl ChannelSettings {
    #[must_use]
    pub fn new(broker: Endpoint, dialer: Dialer, role: MachineRole) -> Self {
        Self {
            broker,
            dialer,
            role,
            rules: PumpRules::default(),
            queue_length: 1_024,
            backoff_base_ms: 200,
            backoff_cap_ms: 30_000,
            stable_after_ms: 10_000,
        }
    }

    const fn path(&self) -> &'static str {
        match self.role {
            MachineRole::Agent => "/channel/agent",
            MachineRole::Gateway => "/channel/gateway",
        }
    }
}

/// What the owner of a channel hears.
#[derive(Clone, Debug, PartialEq)]
pub enum ChannelEvent<In> {
    /// The channel is open and the hello is on its way.
    Up,
    Message(In),
    /// It ended, or could not be opened; it is tried again by itself.
    Down {
        reason: String,
        /// The broker's own words, when it gave any.
        refusal: Option<Refusal>,
        retry_in_ms: u64,
    },
}

/// The message was not sent because there is no channel now. The next one
/// starts with a fresh hello, which must tell the broker what it missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the channel to the broker is not open; it is being opened again")]
pub struct NotConnected;

/// Starts a channel on the current tokio runtime. It ends when every handle
/// or the receiver is dropped, or with [`ChannelHandle::shutdown`].
///
/// `make_hello` makes the first messages of every connection. It is called
/// while [`ChannelHandle::send`] waits, so that nothing falls between the
/// state that a hello shows and the messages after it; it must not send.
pub fn spawn<In, Out>(
    settings: ChannelSettings,
    make_hello: impl FnMut() -> Vec<Out> + Send + 'static,
) -> (ChannelHandle<Out>, mpsc::Receiver<ChannelEvent<In>>)
where
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + Send + 'static,
{
    let (events, receiver) = mpsc::channel(settings.queue_length.max(1));
    let (stop, stopping) = watch::channel(None);
    let (over, ended) = watch::channel(());
    let current = Arc::new(Mutex::new(None));
    let keeper = Keeper { settings, make_hello, current: Arc::clone(&current), events, stopping };
    tokio::spawn(async move {
        keeper.keep_open().await;
        drop(over);
    });
    (ChannelHandle { current, stop, ended }, receiver)
}

/// The sending side of a channel. Cheap to clone.
pub struct ChannelHandle<Out> {
    current: Arc<Mutex<Option<Outbox<Out>>>>,
    stop: watch::Sender<Option<Refusal>>,
    ended: watch::Receiver<()>,
}

impl<Out> ChannelHandle<Out> {
    /// Queues a message without waiting.
    ///
    /// # Errors
    /// When there is no channel now. A queue that is full closes the channel:
    /// the broker reads too slowly, and a hello repairs what it missed.
    pub fn send(&self, message: Out) -> Result<(), NotConnected> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match current.as_ref() {
            Some(outbox) if outbox.post(message) => Ok(()),
            _ => Err(NotConnected),
        }
    }

    /// Sends what is queued and a goodbye, and ends the channel for good.
    pub async fn shutdown(&self, goodbye: Refusal) {
        self.stop.send_replace(Some(goodbye));
        let mut ended = self.ended.clone();
        // Nothing is ever sent: this waits for the keeper's end.
        let _in_time = timeout(2 * GOODBYE, async { while ended.changed().await.is_ok() {} }).await;
    }
}

impl<Out> Clone for ChannelHandle<Out> {
    fn clone(&self) -> Self {
        Self {
            current: Arc::clone(&self.current),
            stop: self.stop.clone(),
            ended: self.ended.clone(),
        }
    }
}

impl<Out> fmt::Debug for ChannelHandle<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelHandle").finish_non_exhaustive()
    }
}

/// What runs behind a handle.
struct Keeper<In, Out, Hello> {
    settings: ChannelSettings,
    make_hello: Hello,
    current: Arc<Mutex<Option<Outbox<Out>>>>,
    events: mpsc::Sender<ChannelEvent<In>>,
    stopping: watch::Receiver<Option<Refusal>>,
}

impl<In, Out, Hello> Keeper<In, Out, Hello>
where
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + Send + 'static,
    Hello: FnMut() -> Vec<Out> + Send + 'static,
{
    async fn keep_open(mut self) {
        let mut backoff = Backoff::new(self.settings.backoff_base_ms, self.settings.backoff_cap_ms);
        let mut stopping = self.stopping.clone();
        loop {
            let opened = tokio::select! {
                opened = open(&self.settings) => opened,
                _ = stopping.changed() => return,
            };
            let (reason, refusal) = match opened {
                Ok(socket) => {
                    let since = Instant::now();
                    let end = self.carry(socket).await;
                    if self.is_over(&end) {
                        return;
                    }
                    if since.elapsed() >= Duration::from_millis(self.settings.stable_after_ms) {
                        backoff.reset();
                    }
                    let refusal = match &end {
                        PumpEnd::PeerSaidGoodbye(refusal) => Some(refusal.clone()),
                        _ => None,
                    };
                    (end.to_string(), refusal)
                }
                Err(error) => (error.to_string(), error.refusal().cloned()),
            };
            let wish = refusal.as_ref().and_then(|r| r.retry_after_ms);
            let retry_in_ms = backoff.next_delay_ms(draw(), wish);
            self.report_down(reason, refusal, retry_in_ms).await;
            tokio::select! {
                () = sleep(Duration::from_millis(retry_in_ms)) => {}
                _ = stopping.changed() => return,
                () = self.events.closed() => return,
            }
        }
    }

    /// One connection, from its hello to its end.
    async fn carry(&mut self, socket: WebSocketStream<TlsStream<TcpStream>>) -> PumpEnd {
        let (outbox, queue) = pump::outbox(self.settings.queue_length);
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            for message in (self.make_hello)() {
                outbox.post(message);
            }
            *current = Some(outbox.clone());
        }
        tracing::info!(broker = %self.settings.broker, "Opened the channel");
        let (inbound, mut messages) = mpsc::channel(self.settings.queue_length.max(1));
        let mut stopping = self.stopping.clone();
        let events = self.events.clone();
        // A failed send means that the owner is gone: `messages` is dropped
        // and the pump notices. An owner that only is slow ends the channel
        // (the pump's queue is full for too long), and it is not opened again
        // before the owner has taken what was in it.
        let forward = async {
            if events.send(ChannelEvent::Up).await.is_ok() {
                while let Some(message) = messages.recv().await {
                    if events.send(ChannelEvent::Message(message)).await.is_err() {
                        break;
                    }
                }
            }
            drop(messages);
        };
        let say_goodbye = async {
            let handles_left = stopping.changed().await.is_ok();
            let goodbye = stopping.borrow().clone();
            match goodbye {
                Some(goodbye) if handles_left => {
                    outbox.close(goodbye);
                    sleep(GOODBYE).await;
                    PumpEnd::WriteTimeout
                }
                _ => PumpEnd::Abandoned,
            }
        };
        let driven = pump::drive(socket, self.settings.rules, queue, inbound);
        let (end, ()) = tokio::join!(
            async {
                tokio::select! {
                    end = driven => end,
                    end = say_goodbye => end,
                }
            },
            forward
        );
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        end
    }

    /// Whether an end was meant, here, and not an accident.
    fn is_over(&self, end: &PumpEnd) -> bool {
        matches!(end, PumpEnd::Abandoned | PumpEnd::ClosedHere(_))
            || self.stopping.borrow().is_some()
            || self.events.is_closed()
    }

    async fn report_down(&mut self, reason: String, refusal: Option<Refusal>, retry_in_ms: u64) {
        match &refusal {
            Some(said) if said.code.facts().retry == Retry::Never => {
                tracing::error!(code = %said.code, retry_in_ms, "Turned away by the broker: {said}");
            }
            _ => tracing::warn!(retry_in_ms, "Lost the channel: {reason}"),
        }
        let down = ChannelEvent::Down { reason, refusal, retry_in_ms };
        let patience = Duration::from_millis(self.settings.rules.inbound_timeout_ms);
        if self.events.send_timeout(down, patience).await.is_err() {
            tracing::warn!("Nobody took the news that the channel is down");
        }
    }
}

/// Dials the broker and turns the connection into a WebSocket.
async fn open(
    settings: &ChannelSettings,
) -> Result<WebSocketStream<TlsStream<TcpStream>>, DialError> {
    let fail = |kind| DialError::new(Purpose::MANAGE, &settings.broker, kind);
    let stream = settings.dialer.connect(&settings.broker, Purpose::MANAGE).await?;
    let limit = settings.rules.message_length_max;
    let config = WebSocketConfig::default()
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit))
        .max_write_buffer_size(limit.saturating_mul(2).saturating_add(256 * 1024));
    let url = format!("wss://{}{}", settings.broker.authority(), settings.path());
    let after_ms = settings.dialer.limits().answer_timeout_ms;
    let handshake = client_async_with_config(url, stream, Some(config));
    match timeout(Duration::from_millis(after_ms), handshake).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(error)) => Err(fail(not_a_channel(error))),
        Err(_elapsed) => Err(fail(DialErrorKind::Deadline { phase: Phase::Answer, after_ms })),
    }
}

fn not_a_channel(error: WebSocketError) -> DialErrorKind {
    match error {
        WebSocketError::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            refusal_of(response.status().as_u16(), body)
        }
        WebSocketError::Io(error) => DialErrorKind::Transport { error },
        other => DialErrorKind::Protocol { what: other.to_string() },
    }
}

/// A random number for the jitter. Without randomness the whole bound is
/// waited, which is late but never a storm.
pub(crate) fn draw() -> u64 {
    let mut bytes = [0; 8];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => u64::MAX,
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
