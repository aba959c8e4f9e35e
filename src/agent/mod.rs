//! The agent: runs on a session host, or beside it. Keeps a channel to the
//! broker; on an order it connects the host's RDP server with the gateway that
//! the order names (steps 9 to 11). It only dials; nothing listens.

mod front;
mod health;
mod orders;
pub mod rdsaad;
mod reload;
mod seats;
mod target;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::channel::client::{self, ChannelEvent, ChannelHandle, ChannelSettings};
use crate::channel::enroll::{Enrolment, EnrolmentError};
use crate::config::agent::AgentConfig;
use crate::config::reload::{ConfigStatus, Reloader};
use crate::core::codes::{Code, Refusal};
use crate::core::ids::SessionId;
use crate::dial::endpoint::EndpointError;
use crate::dial::{Dialer, Endpoint};
use crate::observe::service;
use crate::observe::timeline::{Teller, Timeline};
use crate::tls::identity::{self, PemError};
use crate::tls::live_certificate::LiveCertificate;
use crate::wire::channel::{AgentToBroker, BrokerToAgent, VERSION};
use crate::wire::enroll::MachineRole;

use health::{Findings, Watch};
use orders::Desk;
use seats::Seats;
pub use target::{Connecting, Target, TargetStream, TcpTarget};

/// Sessions that are told to end may take this long over it.
const ENDING: Duration = Duration::from_secs(3);

/// Runs an agent until SIGTERM or SIGINT.
pub fn run(config: &Path) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (reloader, config) = Reloader::start::<AgentConfig>(config).await?;
        let agent = Agent::start(&config, Arc::new(tcp_target(&config)?), None)?;
        let serving = service::run_until_stopped(async || agent.answers().await);
        // Nobody can ask an agent for its status: its log says it.
        let status = ConfigStatus::default();
        let reloading = reloader.run(&status, async |new| agent.adopt(new).await);
        tokio::select! {
            stopped = serving => stopped?,
            never = reloading => match never {},
        }
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            () = agent.shutdown() => {}
            // Asked twice: at once.
            _ = interrupt.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The target that a configuration names.
///
/// # Errors
/// When it is not `host:port`.
fn tcp_target(config: &AgentConfig) -> Result<TcpTarget, AgentError> {
    let (host, port) =
        config.target_parts().ok_or_else(|| AgentError::Target(config.target.clone()))?;
    Ok(TcpTarget::new(host, port, config.limits.target_timeout_ms))
}

/// Reaches gateways: under the configured CA, or the broker's.
fn gateway_dialer(config: &AgentConfig, enrolment: &Enrolment) -> Result<Dialer, AgentError> {
    let roots = match &config.gateway_ca {
        Some(path) => identity::read_roots(Some(path))?,
        None => enrolment.roots.clone(),
    };
    Ok(Dialer::of_host(config.tls.client(roots)?, config.limits.dial()))
}

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Enrolment(#[from] EnrolmentError),
    #[error("the enrolment in {path} names a broker that cannot be dialled: {error}")]
    Broker { path: PathBuf, error: EndpointError },
    #[error("the target {0:?} is not host:port")]
    Target(String),
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A running agent. Dropping it ends everything at once; see
/// [`Agent::shutdown`] for the polite way.
pub struct Agent {
    config: AgentConfig,
    enrolment: Enrolment,
    /// Shown to the broker.
    certificate: Arc<LiveCertificate>,
    seats: Arc<Seats>,
    connected: watch::Receiver<bool>,
    requests: mpsc::Sender<Request>,
    task: JoinHandle<()>,
    health: JoinHandle<()>,
}

enum Request {
    Answer(oneshot::Sender<()>),
    Adopt(Box<reload::Changes>, oneshot::Sender<()>),
    Shutdown,
}

impl Agent {
    /// Starts on the current tokio runtime. The channel is dialled in the
    /// background, for as long as it takes.
    ///
    /// # Errors
    /// When the machine is not enrolled or a file cannot be used.
    pub fn start(
        config: &AgentConfig,
        target: Arc<dyn Target>,
        timeline: Option<Timeline>,
    ) -> Result<Self, AgentError> {
        let enrolment = Enrolment::load_as(&config.state_dir, MachineRole::Agent)?;
        let broker: Endpoint = enrolment
            .record
            .broker_url
            .parse()
            .map_err(|error| AgentError::Broker { path: config.state_dir.clone(), error })?;
        let certificate = enrolment.certificate(config.tls)?;
        let tls = config.tls.client_showing(enrolment.roots.clone(), Arc::clone(&certificate))?;
        let to_broker = Dialer::new(tls, config.limits.dial());

        let seats = Seats::new(config.sessions_max);
        let (hello_seats, capacity) = (Arc::clone(&seats), config.sessions_max);
        let findings = Findings::default();
        let (hello_findings, labels) = (findings.clone(), config.labels.clone());
        let settings = ChannelSettings {
            rules: config.limits.channel(),
            backoff_base_ms: config.limits.reconnect_base_ms,
            backoff_cap_ms: config.limits.reconnect_cap_ms,
            ..ChannelSettings::new(broker, to_broker, MachineRole::Agent)
        };
        let (channel, events) = client::spawn(settings, move || {
            let hello = AgentToBroker::Hello {
                version: VERSION,
                software: concat!("ringway ", env!("CARGO_PKG_VERSION")).into(),
                live: hello_seats.live(),
                capacity,
                labels: labels.clone(),
                checks: hello_findings.checks(),
            };
            std::iter::once(hello).chain(hello_findings.certificate()).collect()
        });
        let watch = Watch {
            settings: config.health.clone(),
            rdsaad: config.rdsaad,
            target: Arc::clone(&target),
            seats: Arc::clone(&seats),
            channel: channel.clone(),
            findings: findings.clone(),
        };
        let desk = Arc::new(Desk {
            seats: Arc::clone(&seats),
            target,
            findings,
            first_pdu_timeout_ms: config.limits.first_pdu_timeout_ms,
            target_timeout_ms: config.limits.target_timeout_ms,
            dialer: gateway_dialer(config, &enrolment)?,
            pipe: config.limits.pipe(),
            channel: channel.clone(),
            teller: Teller::new("agent", timeline),
        });
        let (requests, asked) = mpsc::channel(8);
        let (connected, connection) = watch::channel(false);
        let grace = Duration::from_millis(config.limits.shutdown_grace_ms);
        let service = Service { desk, channel, events, asked, connected, grace };
        tracing::info!(name = %enrolment.record.name, rdp_server = %config.target, "Started the agent");
        let (task, health) = (tokio::spawn(service.run()), tokio::spawn(watch.run()));
        Ok(Self {
            config: config.clone(),
            enrolment,
            certificate,
            seats,
            connected: connection,
            requests,
            task,
            health,
        })
    }

    /// Waits until the broker has welcomed this agent.
    pub async fn connected(&self) {
        let mut connected = self.connected.clone();
        let _ended = connected.wait_for(|connected| *connected).await;
    }

    /// Sessions that were accepted and are not over.
    #[must_use]
    pub fn live_sessions(&self) -> Vec<SessionId> {
        self.seats.live()
    }

    /// Takes no more orders, lets live sessions go on for the grace period,
    /// ends them, says goodbye to the broker.
    pub async fn shutdown(mut self) {
        if self.requests.send(Request::Shutdown).await.is_ok() {
            let _ended = (&mut self.task).await;
        }
    }

    /// Returns once the agent's task has shown that it does its work; never
    /// when it does not any more.
    async fn answers(&self) {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request::Answer(answer)).await.is_err() || answered.await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
        self.health.abort();
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("seats", &self.seats).finish_non_exhaustive()
    }
}

/// The agent's one task: hears the broker and starts sessions.
struct Service {
    desk: Arc<Desk>,
    channel: ChannelHandle<AgentToBroker>,
    events: mpsc::Receiver<ChannelEvent<BrokerToAgent>>,
    asked: mpsc::Receiver<Request>,
    connected: watch::Sender<bool>,
    grace: Duration,
}

impl Service {
    async fn run(mut self) {
        // Ends with this task, and all sessions with it.
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.hear(event, &mut sessions),
                    None => return,
                },
                request = self.asked.recv() => match request {
                    Some(Request::Answer(answer)) => { let _gone = answer.send(()); }
                    Some(Request::Adopt(changes, done)) => {
                        self.adopt(*changes);
                        let _gone = done.send(());
                    }
                    Some(Request::Shutdown) | None => break,
                },
                Some(_) = sessions.join_next() => {}
            }
        }
        self.wind_down(&mut sessions).await;
    }

    fn hear(&self, event: ChannelEvent<BrokerToAgent>, sessions: &mut JoinSet<()>) {
        match event {
            ChannelEvent::Up => {}
            ChannelEvent::Down { .. } => {
                self.connected.send_replace(false);
            }
            ChannelEvent::Message(BrokerToAgent::Welcome { version, host, draining }) => {
                if version != VERSION {
                    tracing::warn!(
                        theirs = version,
                        ours = VERSION,
                        "The broker speaks another version"
                    );
                }
                tracing::info!(%host, draining, "The broker knows this host");
                self.connected.send_replace(true);
                if self.desk.seats.is_closed() {
                    self.desk.say(AgentToBroker::Draining);
                }
            }
            ChannelEvent::Message(BrokerToAgent::Order(order)) => {
                let session = order.session;
                tracing::info!(step = 9, %session, gateway = %order.gateway, "Got an order");
                sessions.spawn(Arc::clone(&self.desk).serve(order));
            }
            ChannelEvent::Message(BrokerToAgent::Cancel { session, refusal }) => {
                let known = self.desk.seats.end(session, refusal.clone());
                tracing::info!(%session, %refusal, known, "The broker cancelled a session");
            }
        }
    }

    /// From the next order on.
    fn adopt(&mut self, changes: reload::Changes) {
        let reload::Changes { target, limits, dialer, pipe, grace } = changes;
        let desk = &self.desk;
        self.desk = Arc::new(Desk {
            seats: Arc::clone(&desk.seats),
            target,
            findings: desk.findings.clone(),
            first_pdu_timeout_ms: limits.first_pdu_timeout_ms,
            target_timeout_ms: limits.target_timeout_ms,
            dialer,
            pipe,
            channel: desk.channel.clone(),
            teller: desk.teller.clone(),
        });
        self.grace = grace;
    }

    /// Orders are still heard, and refused, while live sessions come to their
    /// end.
    async fn wind_down(mut self, sessions: &mut JoinSet<()>) {
        let seats = Arc::clone(&self.desk.seats);
        seats.close();
        self.desk.say(AgentToBroker::Draining);
        tracing::info!(live = seats.live().len(), "Shutting down");
        let over = async {
            if timeout(self.grace, seats.empty()).await.is_err() {
                seats.end_all(&Refusal::with_detail(Code::HostDraining, "the agent is stopping"));
                let _in_time = timeout(ENDING, seats.empty()).await;
            }
        };
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => break,
                event = self.events.recv() => match event {
                    Some(event) => self.hear(event, sessions),
                    None => break,
                },
                Some(Request::Answer(answer)) = self.asked.recv() => {
                    let _gone = answer.send(());
                }
                Some(_) = sessions.join_next() => {}
            }
        }
        // A session's last word to the broker comes after its seat is free.
        let last_words = async { while sessions.join_next().await.is_some() {} };
        let _in_time = timeout(ENDING, last_words).await;
        self.channel.shutdown(Refusal::with_detail(Code::HostDraining, "the agent stops")).await;
    }
}

#[cfg(test)]
mod tests;
