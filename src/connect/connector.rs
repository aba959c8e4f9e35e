//! Offers sessions on a loopback port: every connection that a local client
//! makes becomes a session of its own.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::local_peer;
use super::session::{ConnectError, SessionOpener, SessionSettings};
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{GatewayId, HostId, SessionId};
use crate::dial::pipe::{PipeLimits, pipe};
use crate::dial::relay::RelayLeg;
use crate::dial::tcp;
use crate::observe::timeline::Timeline;
use crate::wire::arm::RingwayDetails;

/// After an accept that failed for want of descriptors: time for others to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Sessions that are told to end may take this long over it.
const ENDING: Duration = Duration::from_secs(3);
/// Between two tries while a session host starts, whatever the broker says.
const RETRY_MS_MIN: u64 = 250;
const RETRY_MS_MAX: u64 = 30_000;
const RETRY_MS_DEFAULT: u64 = 5_000;

/// Who wants to know what becomes of local connections.
pub type OnEvent = Arc<dyn Fn(&ConnectorEvent) + Send + Sync>;

/// How sessions are offered locally.
#[derive(Clone)]
pub struct ConnectorSettings {
    pub session: SessionSettings,
    /// Port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Accept connections from other machines too: whoever reaches the port is
    /// connected as this user.
    pub allow_remote: bool,
    /// Accept connections from other users of this machine: they are connected
    /// as this user.
    pub allow_other_users: bool,
    /// Further local connections wait until a session ends.
    pub sessions_max: usize,
    /// How long a local client may wait for a session host that is being
    /// started.
    pub start_wait_ms: u64,
    pub pipe: PipeLimits,
    /// Told about every session. Called from the middle of the work: it must
    /// not block.
    pub on_event: Option<OnEvent>,
}

impl ConnectorSettings {
    /// A loopback port of the kernel's choice.
    #[must_use]
    pub fn new(session: SessionSettings) -> Self {
        Self {
            session,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            allow_remote: false,
            allow_other_users: false,
            sessions_max: 64,
            start_wait_ms: 300_000,
            pipe: PipeLimits::default(),
            on_event: None,
        }
    }
}

impl fmt::Debug for ConnectorSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorSettings")
            .field("session", &self.session)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// What becomes of a local connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ConnectorEvent {
    Started {
        session: SessionId,
        gateway: GatewayId,
        host: HostId,
    },
    /// The session host is being started: it is asked for again by itself.
    Waiting {
        refusal: Refusal,
        retry_in_ms: u64,
    },
    /// Gateway or broker said no.
    Refused {
        refusal: Refusal,
        advice: &'static str,
    },
    /// It did not come to an answer.
    Failed {
        problem: String,
    },
    Ended {
        session: SessionId,
        bytes_up: u64,
        bytes_down: u64,
        clean: bool,
    },
}

/// Why nothing is offered.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    #[error(
        "{0} is not a loopback address, and whoever reaches it would be connected as you; \
         listen on 127.0.0.1 or add --allow-remote"
    )]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// A local port behind which a desktop is. Dropping it ends everything at
/// once; see [`Connector::shutdown`] for the polite way.
#[derive(Debug)]
pub struct Connector {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Connector {
    /// Starts to listen. Nothing is dialled before a client connects.
    ///
    /// # Errors
    /// When the address is not a loopback one or cannot be bound, or TLS
    /// cannot be set up.
    pub async fn start(
        settings: ConnectorSettings,
        timeline: Option<Timeline>,
    ) -> Result<Self, ConnectorError> {
        let address = settings.listen;
        if !address.ip().is_loopback() && !settings.allow_remote {
            return Err(ConnectorError::NotLoopback(address));
        }
        let opener = SessionOpener::new(settings.session.clone(), timeline)?;
        let failed = |error| ConnectorError::Listen { address, error };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopping) = watch::channel(false);
        let offer = Arc::new(Offer {
            opener,
            start_wait: Duration::from_millis(settings.start_wait_ms),
            pipe: settings.pipe,
            on_event: settings.on_event,
            // Whoever may come from elsewhere may come from here.
            own_user_only: !settings.allow_remote && !settings.allow_other_users,
            stopping,
        });
        let task = tokio::spawn(accept(listener, offer, settings.sessions_max.max(1)));
        Ok(Self { address, stop, task })
    }

    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nothing more and ends all sessions.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        let _in_time = timeout(2 * ENDING, &mut self.task).await;
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What every local connection needs.
struct Offer {
    opener: SessionOpener,
    start_wait: Duration,
    pipe: PipeLimits,
    on_event: Option<OnEvent>,
    own_user_only: bool,
    stopping: watch::Receiver<bool>,
}

async fn accept(listener: TcpListener, offer: Arc<Offer>, sessions_max: usize) {
    let places = Arc::new(Semaphore::new(sessions_max));
    // Ends with this task, and all sessions with it.
    let mut sessions = JoinSet::new();
    loop {
        let next = async {
            // Beyond the limit, connections wait in the kernel.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            (place, accepted) = next => match accepted {
                Ok((local, _)) => {
                    let offer = Arc::clone(&offer);
                    sessions.spawn(async move {
                        offer.serve(local).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "Cannot accept a local connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            () = offer.stopped() => break,
            Some(_) = sessions.join_next() => {}
        }
    }
    drop(listener);
    let over = async { while sessions.join_next().await.is_some() {} };
    let _in_time = timeout(ENDING, over).await;
}

impl Offer {
    async fn serve(&self, local: TcpStream) {
        if self.own_user_only && !comes_from_own_user(&local).await {
            return;
        }
        if let Err(error) = tcp::tune(&local) {
            tracing::debug!(%error, "Cannot tune a local connection");
        }
        let opened = tokio::select! {
            opened = self.open() => opened,
            () = self.stopped() => return,
        };
        let (leg, details) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!("No session: {error}");
                self.report(&match error.refusal() {
                    Some(refusal) => ConnectorEvent::Refused {
                        refusal: refusal.clone(),
                        advice: refusal.code.facts().advice,
                    },
                    None => ConnectorEvent::Failed { problem: error.to_string() },
                });
                return;
            }
        };
        let session = details.session;
        self.report(&ConnectorEvent::Started {
            session,
            gateway: details.gateway,
            host: details.host,
        });
        let report = pipe(local, leg, self.pipe, self.stopped()).await;
        tracing::info!(
            step = 11,
            %session,
            bytes_up = report.bytes_a_to_b,
            bytes_down = report.bytes_b_to_a,
            from_client = ?report.a_to_b,
            from_gateway = ?report.b_to_a,
            "A session is over"
        );
        self.report(&ConnectorEvent::Ended {
            session,
            bytes_up: report.bytes_a_to_b,
            bytes_down: report.bytes_b_to_a,
            clean: report.is_clean(),
        });
    }

    /// Opens a session. While its host is being started the broker refuses; it
    /// is asked again, for as long as that may take.
    async fn open(&self) -> Result<(RelayLeg, RingwayDetails), ConnectError> {
        let give_up_at = Instant::now() + self.start_wait;
        loop {
            let error = match self.opener.open().await {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            };
            let Some(refusal) = error.refusal().filter(|r| r.code == Code::HostStarting) else {
                return Err(error);
            };
            let retry_in_ms = refusal
                .retry_after_ms
                .unwrap_or(RETRY_MS_DEFAULT)
                .clamp(RETRY_MS_MIN, RETRY_MS_MAX);
            let retry_at = Instant::now() + Duration::from_millis(retry_in_ms);
            if retry_at > give_up_at {
                return Err(error);
            }
            tracing::info!(step = 9, retry_in_ms, "The session host is being started");
            self.report(&ConnectorEvent::Waiting { refusal: refusal.clone(), retry_in_ms });
            sleep_until(retry_at).await;
        }
    }

    fn report(&self, event: &ConnectorEvent) {
        if let Some(on_event) = &self.on_event {
            on_event(event);
        }
    }

    async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // A connector that is gone has aborted this task.
        let _gone = stopping.wait_for(|stop| *stop).await;
    }
}

async fn comes_from_own_user(local: &TcpStream) -> bool {
    let (Ok(peer), Ok(address)) = (local.peer_addr(), local.local_addr()) else {
        return false; // gone already
    };
    let asked = tokio::task::spawn_blocking(move || local_peer::owner(peer, address)).await;
    let ours = rustix::process::geteuid().as_raw();
    match asked {
        Ok(Ok(Some(uid))) if local_peer::is_allowed(uid, ours) => true,
        Ok(Ok(Some(uid))) => {
            tracing::warn!(uid, "Refused another user of this machine (see --allow-other-users)");
            false
        }
        Ok(Ok(None)) => {
            tracing::debug!(%peer, "A local connection was gone at once");
            false
        }
        problem => {
            tracing::warn!(
                ?problem,
                "Cannot tell whose a local connection is, so it is refused (see --allow-other-users)"
            );
            false
        }
    }
}
