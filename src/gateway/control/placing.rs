//! Steps 7 to 9 as the control thread sees them: select, ask the broker, give
//! the answer back; each question with a deadline.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Control;
use super::table::ClientView;
use super::tokens::OpenCheck;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{GatewayId, SessionId};
use crate::core::selection::{Explain, Verdict};
use crate::gateway::shared::{PlaceQuestion, Placed, Shared};
use crate::observe::histograms::record;
use crate::wire::channel::{GatewayToBroker, PlaceRequest, Placement, Settled};

/// Questions to the broker that may be open at once.
const OPEN_MAX: usize = 8_192;

/// Questions that the broker has not answered.
#[derive(Debug, Default)]
pub(super) struct Pending {
    next: u64,
    places: HashMap<u64, OpenPlace>,
    pub(super) checks: HashMap<u64, OpenCheck>,
    orchestrations: HashMap<u64, OpenOrchestration>,
}

#[derive(Debug)]
struct OpenPlace {
    answer: oneshot::Sender<Result<Placed, Refusal>>,
    gateway: GatewayId,
    explain: Explain,
    asked: Instant,
    deadline: Instant,
}

#[derive(Debug)]
struct OpenOrchestration {
    session: SessionId,
    asked: Instant,
    deadline: Instant,
}

impl Pending {
    pub(super) fn number(&mut self) -> Result<u64, Code> {
        if self.places.len() + self.checks.len() + self.orchestrations.len() >= OPEN_MAX {
            return Err(Code::BrokerOverloaded);
        }
        self.next += 1;
        Ok(self.next)
    }

    /// The broker found a place. Returns where, and when it was asked: only now
    /// it counts there, for whoever asks without being entitled must not make a
    /// gateway look full.
    pub fn placed(
        &mut self,
        request: u64,
        mut placement: Placement,
    ) -> Option<(GatewayId, Instant)> {
        let OpenPlace { answer, gateway, explain, asked, .. } = self.places.remove(&request)?;
        // A broker of before it chose among ours takes what we chose.
        let Settled { gateway, explain } =
            placement.settled.take().unwrap_or(Settled { gateway, explain });
        // A client that left meanwhile: its reservation expires.
        let _ = answer.send(Ok(Placed { placement, gateway: gateway.clone(), explain }));
        Some((gateway, asked))
    }

    /// Returns when the broker was asked.
    pub fn place_refused(&mut self, request: u64, refusal: Refusal) -> Option<Instant> {
        let open = self.places.remove(&request)?;
        let _ = open.answer.send(Err(refusal));
        Some(open.asked)
    }

    /// Nothing that is open will be answered any more.
    pub fn broker_is_gone(&mut self, shared: &Shared) {
        self.give_up(shared, |_| true);
    }

    pub fn expire(&mut self, shared: &Shared, now: Instant) {
        self.give_up(shared, |deadline| deadline <= now);
    }

    fn give_up(&mut self, shared: &Shared, which: impl Fn(Instant) -> bool) {
        for (_, open) in self.places.extract_if(|_, open| which(open.deadline)) {
            let _ = open.answer.send(Err(Code::BrokerUnreachable.into()));
        }
        for (_, open) in self.checks.extract_if(|_, open| which(open.deadline)) {
            open.asker.refuse(Code::BrokerUnreachable.into());
        }
        for (_, open) in self.orchestrations.extract_if(|_, open| which(open.deadline)) {
            shared.refuse_waiting(open.session, Code::BrokerUnreachable.into());
        }
    }
}

impl Control {
    pub(super) fn place(
        &mut self,
        question: PlaceQuestion,
        answer: oneshot::Sender<Result<Placed, Refusal>>,
    ) {
        if let Err(refusal) = self.try_place(question, answer) {
            let (answer, refusal) = *refusal;
            let _ = answer.send(Err(refusal));
        }
    }

    #[expect(clippy::type_complexity, reason = "the sender comes back with the refusal")]
    fn try_place(
        &mut self,
        question: PlaceQuestion,
        answer: oneshot::Sender<Result<Placed, Refusal>>,
    ) -> Result<(), Box<(oneshot::Sender<Result<Placed, Refusal>>, Refusal)>> {
        let session = match random_session() {
            Ok(session) => session,
            Err(code) => return Err(Box::new((answer, code.into()))),
        };
        let client = ClientView {
            rtt_us: question.client_rtt_us,
            samples: &question.samples,
            unreachable: &question.unreachable,
        };
        let here_only = question.here_only;
        let explain = if here_only {
            self.judged_alone(client, session)
        } else {
            self.judged(client, session)
        };
        let Some(chosen) = explain.chosen() else {
            let code = match explain.lines.first().map(|own| own.verdict) {
                Some(Verdict::Draining) if here_only => Code::GatewayDraining,
                Some(_) if here_only => Code::GatewayFull,
                _ => Code::NoGateway,
            };
            return Err(Box::new((answer, code.into())));
        };
        let gateway = chosen.gateway.clone();
        let candidates = self.table.entries().len();
        tracing::info!(step = 7, %session, chosen = %gateway, candidates, "Selected a gateway");
        self.shared.teller.tell(7, Some(session), format!("{gateway} selected of {candidates}"));
        let number = match self.pending.number() {
            Ok(number) => number,
            Err(code) => return Err(Box::new((answer, code.into()))),
        };
        let message = GatewayToBroker::Place(PlaceRequest {
            request: number,
            bearer: question.bearer,
            application: question.application,
            load_balance_info: question.load_balance_info,
            client_address: question.client.to_string(),
            gateway: gateway.clone(),
            explain: explain.clone(),
            session,
            here_only,
        });
        if self.broker.send(message).is_err() {
            return Err(Box::new((answer, Code::BrokerUnreachable.into())));
        }
        let asked = Instant::now();
        let deadline = asked + self.broker_timeout();
        let open = OpenPlace { answer, gateway, explain, asked, deadline };
        self.pending.places.insert(number, open);
        Ok(())
    }

    /// Step 8: the client is here, send the host.
    pub(super) fn orchestrate(&mut self, session: SessionId) {
        let asked = self.pending.number().and_then(|request| {
            let message = GatewayToBroker::Orchestrate { request, session };
            self.broker.send(message).map_err(|_| Code::BrokerUnreachable)?;
            let asked = Instant::now();
            let deadline = asked + self.broker_timeout();
            let open = OpenOrchestration { session, asked, deadline };
            self.pending.orchestrations.insert(request, open);
            Ok(())
        });
        if let Err(code) = asked {
            self.shared.refuse_waiting(session, code.into());
        }
    }

    /// The broker has answered. Returns which session it is about.
    pub(super) fn orchestrated(&mut self, request: u64) -> Option<SessionId> {
        let open = self.pending.orchestrations.remove(&request)?;
        record(&mut self.histograms.own.orchestrate_us, open.asked.elapsed());
        Some(open.session)
    }

    pub(super) fn broker_timeout(&self) -> Duration {
        Duration::from_millis(self.shared.config().limits.broker_timeout_ms)
    }
}

fn random_session() -> Result<SessionId, Code> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Code::Internal)?;
    Ok(SessionId(bytes))
}
