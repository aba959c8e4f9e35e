//! The control thread: the broker channel, the gateway table and its probes,
//! selection, tickets' keys, what the workers report, the admin socket.
//!
//! One small tokio thread that owns its state; lobby and workers reach it
//! through bounded queues. It decides nothing itself: [`table`] and
//! [`crate::core::selection`] do.

mod digests;
mod histograms;
mod placing;
mod probes;
mod reauthentication;
mod sessions;
#[cfg(test)]
mod simulation;
pub mod table;
mod tokens;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::histograms::Histograms;
use self::placing::Pending;
use self::reauthentication::Reauthentications;
use self::table::{ClientView, GatewayTable, TableRules};
use self::tokens::Asker;
use super::dumps::DumpWriter;
use super::lobby::LobbyMeters;
use super::relay::Events;
use super::relay::ring::bell_readiness;
use super::shared::{Phase, Request, Requests, Shared, lock};
use crate::channel::client::{self, ChannelEvent, ChannelHandle, ChannelSettings};
use crate::core::codes::Code;
use crate::core::ids::SessionId;
use crate::core::selection::Explain;
use crate::core::tickets::{PublishedKey, TicketVerifier};
use crate::dial::Dialer;
use crate::observe::close_reason::CloseReason;
use crate::observe::histograms::{Merged, record};
use crate::wire::channel::{BrokerToGateway, GatewayToBroker, VERSION};

/// How often the broker is told our load, and old questions are given up.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Probe results that may wait.
const PROBE_RESULTS_MAX: usize = 256;

/// What the control thread needs to start.
#[derive(Debug)]
pub struct Parts {
    pub shared: Arc<Shared>,
    pub requests: Requests,
    pub questions: mpsc::Receiver<Question>,
    pub events: Events,
    pub meters: LobbyMeters,
    pub dumps: DumpWriter,
    pub channel: ChannelSettings,
    /// Reaches the other gateways' TLS ports.
    pub prober: Dialer,
    /// Turned by the owner of the gateway handle; `Stopped` ends the thread.
    pub phase_changes: mpsc::Receiver<Phase>,
    pub phase: tokio::sync::watch::Sender<Phase>,
}

/// A question that only the control thread can answer.
#[derive(Debug)]
pub enum Question {
    /// Everything that was measured since the start.
    Histograms(oneshot::Sender<Merged>),
    /// Write what was measured since the last dump.
    DumpHistograms,
    /// What would be chosen for a client right beside this gateway, and why.
    Judged(oneshot::Sender<Explain>),
    /// How sessions ended so far.
    CloseReasons(oneshot::Sender<HashMap<&'static str, u64>>),
}

struct Control {
    shared: Arc<Shared>,
    table: GatewayTable,
    broker: ChannelHandle<GatewayToBroker>,
    broker_checks_tokens: bool,
    broker_compares_users: bool,
    reauthentications: Reauthentications,
    pending: Pending,
    histograms: Histograms,
    closed_by_reason: HashMap<&'static str, u64>,
    /// Sessions to end whose worker's queue was full.
    ends_unsaid: HashMap<SessionId, CloseReason>,
    started: Instant,
}

/// Runs until the phase is `Stopped` and every worker has said goodbye.
///
/// # Errors
/// When the admin socket or the workers' bell cannot be watched.
pub async fn run(mut parts: Parts) -> anyhow::Result<()> {
    let shared = Arc::clone(&parts.shared);
    let hello_of = Arc::clone(&parts.shared);
    let (broker, mut from_broker) =
        client::spawn::<BrokerToGateway, GatewayToBroker>(parts.channel, move || {
            sessions::hello(&hello_of)
        });
    let bell = bell_readiness(Arc::clone(&parts.events.bell))?;
    let (probed, mut probe_results) = mpsc::channel(PROBE_RESULTS_MAX);
    let mut probes = probes::Probes::new(
        parts.prober,
        Duration::from_millis(shared.config().threads.probe_interval_ms),
        probed,
    );

    let dump_interval = shared.config().histograms.interval();
    let workers = shared.workers.len();
    let histograms = Histograms::new(workers, parts.meters.ask, dump_interval, parts.dumps);
    let mut control = Control {
        shared: Arc::clone(&shared),
        table: GatewayTable::new(shared.id.clone(), TableRules::from(&shared.config().limits)),
        broker,
        broker_checks_tokens: false,
        broker_compares_users: false,
        reauthentications: Reauthentications::default(),
        pending: Pending::default(),
        histograms,
        closed_by_reason: HashMap::new(),
        ends_unsaid: HashMap::new(),
        started: Instant::now(),
    };
    let mut report = interval(REPORT_INTERVAL);
    report.set_missed_tick_behavior(MissedTickBehavior::Delay);

    loop {
        tokio::select! {
            Some(request) = parts.requests.recv() => control.on_request(request),
            Some(event) = from_broker.recv() => match event {
                ChannelEvent::Message(message) => {
                    let is_table = matches!(message, BrokerToGateway::Gateways { .. });
                    control.on_broker(message);
                    if is_table {
                        probes.follow(control.table.entries(), &shared.id);
                    }
                }
                ChannelEvent::Up => {
                    shared.broker_connected.store(true, Relaxed);
                    tracing::info!("Connected to the broker");
                }
                ChannelEvent::Down { reason, retry_in_ms, .. } => {
                    shared.broker_connected.store(false, Relaxed);
                    tracing::warn!(%reason, retry_in_ms, "Lost the broker; live sessions go on");
                    control.pending.broker_is_gone(&shared);
                }
            },
            ready = bell.readable() => {
                if let Ok(mut ready) = ready {
                    parts.events.bell.hush();
                    ready.clear_ready();
                }
                control.on_workers(&parts.events);
                // A worker that tells something has read its queue.
                control.retry_ends();
            }
            Some(part) = parts.meters.parts.recv() => control.on_lobby(part),
            Some(result) = probe_results.recv() => {
                if let Some(rtt_us) = result.rtt_us {
                    control.histograms.own.probe_rtt_us.saturating_record(rtt_us);
                }
                let now_ms = control.now_ms();
                control.table.record_probe(result.gateway, result.rtt_us, now_ms);
                shared.gateways_measured.store(control.table.measured(), Relaxed);
            }
            Some(question) = parts.questions.recv() => control.on_question(question),
            _ = report.tick() => control.on_tick(),
            Some(phase) = parts.phase_changes.recv() => {
                if phase == Phase::Stopped {
                    // While the lobby is there to be asked.
                    control.dump_the_last(&parts.events, &mut parts.meters.parts).await;
                }
                let _ = parts.phase.send(phase);
                control.report_load();
                if phase == Phase::Stopped {
                    break;
                }
            }
        }
    }
    control.on_workers(&parts.events);
    while let Ok(request) = parts.requests.try_recv() {
        control.on_request(request);
    }
    control.broker.shutdown(Code::GatewayDraining.into()).await;
    control.histograms.finish();
    Ok(())
}

impl Control {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// All gateways in order, by the rules in force.
    fn judged(&mut self, client: ClientView<'_>, session: SessionId) -> Explain {
        self.table.set_rules(TableRules::from(&self.shared.config().limits));
        self.table.explain(&self.table.select(client, session, self.now_ms()))
    }

    /// This gateway alone, for a client that has no choice.
    fn judged_alone(&self, client: ClientView<'_>, session: SessionId) -> Explain {
        self.table.explain_own(client, session, self.now_ms())
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Place { question, answer } => self.place(question, answer),
            Request::List { bearer, client_rtt_us, answer } => {
                self.check_token(bearer, Asker::List { answer, client_rtt_us });
            }
            Request::CheckToken { bearer, answer } => {
                self.check_token(bearer, Asker::Verdict(answer));
            }
            Request::Reauthenticate { context, bearer, answer } => {
                self.reauthenticate(context, bearer, answer);
            }
            Request::Orchestrate { session } => self.orchestrate(session),
            Request::Started { session } => self.on_started(session),
            Request::GaveUp { session, code } => {
                self.tell_broker(GatewayToBroker::SessionEnded {
                    session,
                    close_reason: code.to_string(),
                    bytes_up: 0,
                    bytes_down: 0,
                    duration_ms: 0,
                });
            }
        }
    }

    fn on_broker(&mut self, message: BrokerToGateway) {
        match message {
            BrokerToGateway::Welcome {
                version,
                gateway,
                ticket_keys,
                checks_tokens,
                compares_users,
            } => {
                if version != VERSION || gateway != self.shared.id {
                    tracing::error!(version, %gateway, "The broker takes us for something else");
                }
                self.broker_checks_tokens = checks_tokens;
                self.broker_compares_users = compares_users;
                self.install_keys(&ticket_keys);
                self.report_load();
            }
            BrokerToGateway::Gateways { gateways, ticket_keys } => {
                self.install_keys(&ticket_keys);
                self.table.replace(gateways);
                self.shared.gateways_known.store(self.table.entries().len(), Relaxed);
            }
            BrokerToGateway::Placed { request, placement } => {
                if let Some((gateway, asked)) = self.pending.placed(request, placement) {
                    self.table.count_placement(&gateway);
                    record(&mut self.histograms.own.place_us, asked.elapsed());
                }
            }
            BrokerToGateway::PlaceRefused { request, refusal } => {
                if let Some(asked) = self.pending.place_refused(request, refusal) {
                    record(&mut self.histograms.own.place_us, asked.elapsed());
                }
            }
            BrokerToGateway::TokenChecked { request, refusal } => {
                self.token_checked(request, refusal);
            }
            BrokerToGateway::Orchestrated { request } => {
                self.orchestrated(request);
            }
            BrokerToGateway::OrchestrateRefused { request, refusal } => {
                if let Some(session) = self.orchestrated(request) {
                    self.shared.refuse_waiting(session, refusal);
                }
            }
            BrokerToGateway::Cancel { session, refusal } => self.cancel(session, refusal),
            BrokerToGateway::Revoked { sessions } => self.revoke(&sessions),
        }
    }

    fn install_keys(&self, keys: &[PublishedKey]) {
        let mut verifier = self.shared.tickets.write().unwrap_or_else(PoisonError::into_inner);
        *verifier = TicketVerifier::new(keys);
    }

    fn tell_broker(&self, message: GatewayToBroker) {
        if let Err(error) = self.broker.send(message) {
            // Sessions are told again in the hello of the next connection.
            tracing::debug!(%error, "The broker was not told");
        }
    }

    fn report_load(&self) {
        // Those that it was told have started, and no more: it counts the others
        // as on their way, and a gateway that is almost full would look full.
        let told = lock(&self.shared.live).values().filter(|entry| entry.announced).count();
        let connections = u32::try_from(told).unwrap_or(u32::MAX);
        let waiting = lock(&self.shared.pairing).len();
        self.tell_broker(GatewayToBroker::Load {
            connections,
            waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
            draining: self.shared.is_draining(),
        });
    }

    fn on_question(&mut self, question: Question) {
        match question {
            Question::Histograms(answer) => {
                self.histograms.answer(answer, &self.shared.workers);
            }
            Question::DumpHistograms => self.histograms.dump(&self.shared.workers),
            Question::Judged(answer) => {
                // Any session will do: the id only breaks ties.
                let session = SessionId([0; 16]);
                let _ = answer.send(self.judged(ClientView::default(), session));
            }
            Question::CloseReasons(answer) => {
                let _ = answer.send(self.closed_by_reason.clone());
            }
        }
    }

    fn on_tick(&mut self) {
        self.pending.expire(&self.shared, Instant::now());
        self.retry_unsaid();
        self.see_to_reauthentications();
        self.histograms.tick(&self.shared.workers);
        self.shared.health.look(self.shared.workers.iter().map(|w| w.stats.enters.load(Relaxed)));
        if self.shared.broker_connected.load(Relaxed) {
            self.report_load();
        }
    }
}
