//! The broker's turn: the entry gateway's order, with the counts of the one
//! through whom every place goes.

use super::{Candidate, Explain, ExplainLine, Remark, Verdict, Way, mark, select};
use crate::core::ids::{GatewayId, SessionId};

/// What the broker knows of a gateway at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub connections: u32,
    /// Placed there and not in `connections` yet.
    pub in_flight: u32,
    pub capacity: u32,
    pub draining: bool,
}

/// Chooses again among the gateways of `proposal`, of which the round trips
/// are believed and nothing else. `load` is `None` for a gateway that is not
/// connected; `home` is where the user's session is, or was a moment ago.
///
/// What the proposal left out had no room in its eyes, or is in no lower group
/// than what it lists: a higher group is not chosen while a lower one has room.
#[must_use]
pub fn settle(
    proposal: &Explain,
    load: impl Fn(&GatewayId) -> Option<Load>,
    session: SessionId,
    home: Option<&GatewayId>,
) -> (Option<GatewayId>, Explain) {
    let known: Vec<(&GatewayId, Candidate)> = proposal
        .lines
        .iter()
        .filter_map(|line| {
            let Load { connections, in_flight, capacity, draining } = load(&line.gateway)?;
            let (mark, way) = (mark(&line.gateway), way(line));
            let candidate = Candidate { mark, way, connections, in_flight, capacity, draining };
            Some((&line.gateway, candidate))
        })
        .collect();
    let name = |index: usize| known.get(index).map(|(gateway, _)| (*gateway).clone());
    let home = home.and_then(|home| known.iter().position(|(gateway, _)| *gateway == home));
    let selection = select(known.iter().map(|(_, candidate)| *candidate), session, home);
    let mut explain = selection.explain(name);
    let gone = u32::try_from(proposal.lines.len() - known.len()).unwrap_or(u32::MAX);
    explain.left_out = explain.left_out.saturating_add(proposal.left_out).saturating_add(gone);
    (selection.chosen().and_then(name), explain)
}

/// What the entry gateway knew of the way.
fn way(line: &ExplainLine) -> Way {
    match (line.rtt, line.verdict) {
        (rtt, _) if line.remark == Some(Remark::Unreachable) => Way::Unreachable(rtt),
        (None, _) => Way::Unmeasured,
        (Some(rtt), Verdict::Stale) => Way::Stale(rtt),
        (Some(rtt), _) if line.group.is_none() => Way::Stale(rtt),
        (Some(rtt), _) => Way::Measured(rtt),
    }
}
