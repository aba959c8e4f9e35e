//! Step 7, second half: the entry gateway has put the gateways in order, the
//! broker chooses among them. Every place goes through here, so these counts
//! are the ones that are right: what several gateways place at the same moment
//! neither fills one beyond its capacity nor heaps up on one.

use super::{Core, Judged};
use crate::core::codes::{Code, Refusal};
use crate::core::ids::GatewayId;
use crate::core::selection::{ExplainLine, Load, Verdict, settle};

/// Lines of an explain record that are kept with the session.
const RECORD_LINES_MAX: usize = 32;

impl Core {
    /// Puts what was chosen, and why, into the request. Returns its URL.
    pub(super) fn settle_gateway(&self, judged: &mut Judged) -> Result<String, Refusal> {
        if judged.explain.lines.is_empty() {
            // A gateway that does not say what else there is.
            judged.explain.lines.push(unmeasured(judged.gateway.clone()));
        }
        let home = self.records.home(&judged.user, &judged.resource);
        let load = |gateway: &GatewayId| self.load_of(gateway);
        let (chosen, mut explain) = settle(&judged.explain, load, judged.session, home);
        let chosen = chosen.ok_or_else(|| self.why_not(&judged.gateway))?;
        let url = self.gateways.get(&chosen).map(|known| known.url.clone());
        let url = url.ok_or(Code::NoGateway)?;
        if chosen != judged.gateway {
            tracing::info!(
                step = 7, session = %judged.session, proposed = %judged.gateway, %chosen,
                why = explain.reason(), "Settled on another gateway"
            );
        }
        explain.shorten(RECORD_LINES_MAX);
        judged.gateway = chosen;
        judged.explain = explain;
        Ok(url)
    }

    fn load_of(&self, gateway: &GatewayId) -> Option<Load> {
        let known = self.gateways.get(gateway)?;
        Some(Load {
            connections: known.connections,
            in_flight: known.in_flight,
            capacity: known.capacity,
            draining: known.draining,
        })
    }

    /// No gateway of the proposal can be chosen: what is wrong with the first.
    fn why_not(&self, proposed: &GatewayId) -> Refusal {
        let detail = match self.gateways.get(proposed) {
            Some(known) if known.draining => return Code::GatewayDraining.into(),
            Some(_) => format!("{proposed} is full, and so are the others"),
            None => format!("{proposed} is not connected to the broker"),
        };
        Refusal::with_detail(Code::NoGateway, detail)
    }
}

fn unmeasured(gateway: GatewayId) -> ExplainLine {
    ExplainLine {
        gateway,
        rtt: None,
        group: None,
        connections: 0,
        in_flight: 0,
        capacity: 0,
        verdict: Verdict::Unmeasured,
        remark: None,
    }
}
