//! Whose is this token? The broker is asked before a user is shown the gateways
//! (before step 7), before an RD Gateway client gets its tunnel (step 8), and
//! when it authenticates that again (step 11).

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Control;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::SessionId;
use crate::core::secret::Secret;
use crate::wire::arm::GatewayList;
use crate::wire::channel::GatewayToBroker;

/// A token that the broker has not judged.
#[derive(Debug)]
pub(super) struct OpenCheck {
    pub asker: Asker,
    pub deadline: Instant,
}

/// Who waits to be told.
#[derive(Debug)]
pub(super) enum Asker {
    /// The gateways, if it is a user's.
    List {
        answer: oneshot::Sender<Result<GatewayList, Refusal>>,
        client_rtt_us: Option<u64>,
    },
    Verdict(oneshot::Sender<Result<(), Refusal>>),
    /// The client of this session, if it is that user's.
    Reauthentication {
        session: SessionId,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
}

impl Asker {
    /// One that left meanwhile needs no answer.
    pub(super) fn refuse(self, refusal: Refusal) {
        match self {
            Self::List { answer, .. } => drop(answer.send(Err(refusal))),
            Self::Verdict(answer) | Self::Reauthentication { answer, .. } => {
                drop(answer.send(Err(refusal)));
            }
        }
    }

    /// Whose user alone will do.
    const fn session(&self) -> Option<SessionId> {
        match self {
            Self::Reauthentication { session, .. } => Some(*session),
            Self::List { .. } | Self::Verdict(_) => None,
        }
    }
}

impl Control {
    pub(super) fn check_token(&mut self, bearer: Secret, asker: Asker) {
        if !self.broker_checks_tokens {
            // It would not understand the question.
            return match asker {
                // The client does without.
                asker @ Asker::List { .. } => asker.refuse(Code::NotFound.into()),
                // It judges the token when it is asked for a place.
                Asker::Verdict(answer) => drop(answer.send(Ok(()))),
                asker @ Asker::Reauthentication { .. } => asker.refuse(Code::Internal.into()),
            };
        }
        let session = asker.session();
        if session.is_some() && !self.broker_compares_users {
            // It would take anybody's.
            return asker.refuse(Code::Internal.into());
        }
        let asked = self.pending.number().and_then(|request| {
            let message = GatewayToBroker::CheckToken { request, bearer, session };
            self.broker.send(message).map_err(|_| Code::BrokerUnreachable)?;
            Ok(request)
        });
        match asked {
            Ok(request) => {
                let deadline = Instant::now() + self.broker_timeout();
                self.pending.checks.insert(request, OpenCheck { asker, deadline });
            }
            Err(code) => asker.refuse(code.into()),
        }
    }

    pub(super) fn token_checked(&mut self, request: u64, refusal: Option<Refusal>) {
        let Some(OpenCheck { asker, .. }) = self.pending.checks.remove(&request) else { return };
        match (refusal, asker) {
            (Some(refusal), asker) => asker.refuse(refusal),
            (None, Asker::Verdict(answer)) => drop(answer.send(Ok(()))),
            (None, Asker::Reauthentication { session, answer }) => {
                drop(answer.send(self.reauthenticated(session)));
            }
            (None, Asker::List { answer, client_rtt_us }) => {
                let gateways = self.table.listed(client_rtt_us, self.now_ms());
                drop(answer.send(Ok(GatewayList { gateways })));
            }
        }
    }
}
