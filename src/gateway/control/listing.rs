//! Which gateways a user may measure the way to, before step 7. The broker is
//! asked whether it is a user.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Control;
use crate::core::codes::{Code, Refusal};
use crate::core::secret::Secret;
use crate::wire::arm::GatewayList;
use crate::wire::channel::GatewayToBroker;

/// A user who waits to be told.
#[derive(Debug)]
pub(super) struct OpenList {
    pub answer: oneshot::Sender<Result<GatewayList, Refusal>>,
    pub deadline: Instant,
    client_rtt_us: Option<u64>,
}

impl Control {
    pub(super) fn list(
        &mut self,
        bearer: Secret,
        client_rtt_us: Option<u64>,
        answer: oneshot::Sender<Result<GatewayList, Refusal>>,
    ) {
        let asked = self.pending.number().and_then(|request| {
            if !self.broker_checks_tokens {
                // It would not understand the question. The client does without.
                return Err(Code::NotFound);
            }
            let message = GatewayToBroker::CheckToken { request, bearer };
            self.broker.send(message).map_err(|_| Code::BrokerUnreachable)?;
            Ok(request)
        });
        match asked {
            Ok(request) => {
                let deadline = Instant::now() + self.broker_timeout();
                let open = OpenList { answer, deadline, client_rtt_us };
                self.pending.lists.insert(request, open);
            }
            // A client that left meanwhile needs no list.
            Err(code) => drop(answer.send(Err(code.into()))),
        }
    }

    pub(super) fn token_checked(&mut self, request: u64, refusal: Option<Refusal>) {
        let Some(open) = self.pending.lists.remove(&request) else { return };
        let listed = match refusal {
            Some(refusal) => Err(refusal),
            None => {
                Ok(GatewayList { gateways: self.table.listed(open.client_rtt_us, self.now_ms()) })
            }
        };
        drop(open.answer.send(listed));
    }
}
