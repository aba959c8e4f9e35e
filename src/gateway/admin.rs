//! What a gateway answers on its admin socket.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};

use super::control::Question;
use super::shared::{Shared, lock};
use crate::config::gateway::RingFeatures;
use crate::wire::admin::{
    AdminRequest, AdminResponse, GatewayStatusView, HistogramsView, RelayedView, RingView,
    WorkerView,
};

/// Answers questions about one gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk {
    shared: Arc<Shared>,
    questions: mpsc::Sender<Question>,
}

impl Desk {
    pub(super) fn new(shared: Arc<Shared>, questions: mpsc::Sender<Question>) -> Self {
        Self { shared, questions }
    }

    /// Asks the control thread.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> anyhow::Result<T> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(question(answer)).await.context("the control thread has ended")?;
        answered.await.context("the control thread has ended")
    }

    pub async fn answer(&self, request: AdminRequest) -> AdminResponse {
        let answered = match request {
            AdminRequest::Status => self.status().await,
            AdminRequest::Sessions => Ok(self.relayed()),
            AdminRequest::Gateways => self.judged().await,
            AdminRequest::Histograms => self.histograms().await.map(AdminResponse::Histograms),
            AdminRequest::Hosts
            | AdminRequest::Explain { .. }
            | AdminRequest::Drain { .. }
            | AdminRequest::CreateToken { .. }
            | AdminRequest::Tokens => {
                Ok(AdminResponse::Invalid { problem: "ask the broker: this is a gateway".into() })
            }
        };
        answered.unwrap_or_else(|error| AdminResponse::Invalid { problem: error.to_string() })
    }

    /// What was measured since the start.
    ///
    /// # Errors
    /// When the control thread has ended.
    pub async fn histograms(&self) -> anyhow::Result<HistogramsView> {
        let all = self.ask(Question::Histograms).await?;
        Ok(HistogramsView::of(&all))
    }

    /// Has what was measured since the last dump written to the disk.
    ///
    /// # Errors
    /// When the control thread has ended.
    pub async fn dump_histograms(&self) -> anyhow::Result<()> {
        self.questions.send(Question::DumpHistograms).await.context("the control thread has ended")
    }

    async fn status(&self) -> anyhow::Result<AdminResponse> {
        let close_reasons = self.ask(Question::CloseReasons).await?;
        let shared = &self.shared;
        let counters = &shared.counters;
        let refusals = lock(&counters.refusals);
        Ok(AdminResponse::GatewayStatus(Box::new(GatewayStatusView {
            gateway: shared.id.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            url: shared.config().url.clone(),
            started_at: shared.started_at,
            broker_connected: shared.broker_connected.load(Relaxed),
            draining: shared.is_draining(),
            ailment: shared.ailment().map(|ailment| ailment.to_string()),
            config: shared.config_status.view(),
            sessions: shared.sessions(),
            waiting: lock(&shared.pairing).len() as u64,
            lobby_connections: counters.connections_now.load(Relaxed),
            accepted: counters.accepted.load(Relaxed),
            accept_pauses: counters.accept_pauses.load(Relaxed),
            turned_away: counters.turned_away.load(Relaxed),
            handshakes: counters.handshakes.load(Relaxed),
            handshakes_failed: counters.handshakes_failed.load(Relaxed),
            timeouts: counters.timeouts.load(Relaxed),
            refusals: refusals.iter().map(|(code, n)| (code.to_string(), *n)).collect(),
            close_reasons: close_reasons.into_iter().map(|(r, n)| (r.to_owned(), n)).collect(),
            ring: RingView {
                kernel: super::kernel(),
                masked: shared.config().threads.ring_features == RingFeatures::Linux61,
                bounded_receive: shared.workers.iter().any(|w| w.features.bounded_receive),
            },
            workers: shared.workers.iter().map(|worker| view(&worker.stats)).collect(),
        })))
    }

    fn relayed(&self) -> AdminResponse {
        let live = lock(&self.shared.live);
        let mut sessions: Vec<RelayedView> = live
            .iter()
            .map(|(session, entry)| {
                let (bytes_up, bytes_down) = entry.counters.read();
                RelayedView {
                    session: *session,
                    host: entry.host.clone(),
                    client_address: entry.client.to_string(),
                    worker: entry.worker,
                    started_at: entry.started_at,
                    bytes_up,
                    bytes_down,
                }
            })
            .collect();
        sessions.sort_by_key(|session| session.started_at);
        AdminResponse::Relayed { sessions }
    }

    async fn judged(&self) -> anyhow::Result<AdminResponse> {
        let explain = self.ask(Question::Judged).await?;
        Ok(AdminResponse::Judged { explain })
    }
}

fn view(stats: &super::relay::WorkerStats) -> WorkerView {
    WorkerView {
        sessions: stats.sessions.load(Relaxed),
        bytes_up: stats.bytes_up.load(Relaxed),
        bytes_down: stats.bytes_down.load(Relaxed),
        enters: stats.enters.load(Relaxed),
        completions: stats.completions.load(Relaxed),
        starved: stats.starved.load(Relaxed),
        held_back: stats.held_back.load(Relaxed),
        arena_overflows: stats.arena_overflows.load(Relaxed),
        slots_used: stats.slots_used.load(Relaxed),
    }
}
