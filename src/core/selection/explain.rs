//! Why a session is at its gateway: kept with it, shown by `ringway ctl explain`.

use serde::{Deserialize, Serialize};

use super::{GROUP_WIDTH_US, Rtt};
use crate::core::ids::GatewayId;

/// Why a candidate was passed over, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Chosen,
    /// In the chosen group, but with more connections, or behind on the tie.
    MoreConnections,
    HigherGroup,
    Full,
    Draining,
    /// No round trip is known, or nobody gets there: see [`Remark`].
    Unmeasured,
    /// The round trip is older than it may be.
    Stale,
}

/// What there is to say besides the verdict. Older versions do not know of it,
/// and a verdict that they do not know either would break their channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remark {
    /// The last who tried did not get there: the last resort.
    Unreachable,
    /// It comes before the chosen one, at which the session was already.
    Stays,
}

/// One line of the explain record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainLine {
    pub gateway: GatewayId,
    pub rtt: Option<Rtt>,
    /// `floor(rtt / 10 ms)`.
    pub group: Option<u64>,
    /// Reported connections and in-flight placements together.
    pub connections: u32,
    /// How many of those are placements.
    #[serde(default)]
    pub in_flight: u32,
    pub capacity: u32,
    pub verdict: Verdict,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<Remark>,
}

impl ExplainLine {
    /// Verdict and remark in a few words.
    #[must_use]
    pub const fn words(&self) -> &'static str {
        match (self.verdict, self.remark) {
            (Verdict::Chosen, _) => "chosen",
            (Verdict::Draining, _) => "draining",
            (_, Some(Remark::Unreachable)) => "unreachable",
            (_, Some(Remark::Stays)) => "better, but the session stays",
            (Verdict::MoreConnections, None) => "more connections",
            (Verdict::HigherGroup, None) => "higher group",
            (Verdict::Full, None) => "full",
            (Verdict::Unmeasured, None) => "unmeasured",
            (Verdict::Stale, None) => "stale",
        }
    }

    /// The group in milliseconds, first and last.
    #[must_use]
    pub fn group_ms(&self) -> Option<(u64, u64)> {
        let width_ms = GROUP_WIDTH_US / 1_000;
        let from_ms = self.group?.saturating_mul(width_ms);
        Some((from_ms, from_ms.saturating_add(width_ms - 1)))
    }
}

/// Why this gateway. The chosen one comes first, then what would have been
/// next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explain {
    pub lines: Vec<ExplainLine>,
    /// Candidates that came after these lines.
    #[serde(default)]
    pub left_out: u32,
}

impl Explain {
    #[must_use]
    pub fn chosen(&self) -> Option<&ExplainLine> {
        self.lines.iter().find(|line| line.verdict == Verdict::Chosen)
    }

    /// Keeps the first lines.
    pub fn shorten(&mut self, lines_max: usize) {
        let over = self.lines.len().saturating_sub(lines_max);
        self.lines.truncate(lines_max);
        self.left_out = self.left_out.saturating_add(u32::try_from(over).unwrap_or(u32::MAX));
    }

    /// The choice in one line.
    #[must_use]
    pub fn reason(&self) -> String {
        let Some(chosen) = self.chosen() else {
            return "no gateway has room".to_owned();
        };
        let gateway = &chosen.gateway;
        let connections = match chosen.connections {
            0 => "no connection".to_owned(),
            1 => "1 connection".to_owned(),
            n => format!("{n} connections"),
        };
        if self.lines.iter().any(|line| line.remark == Some(Remark::Stays)) {
            return format!(
                "{gateway}: the session is there or was a moment ago, at most one group above \
                 the best"
            );
        }
        if chosen.remark == Some(Remark::Unreachable) {
            return format!("{gateway}: unreachable when last tried, but no other has room");
        }
        let Some((from_ms, to_ms)) = chosen.group_ms() else {
            return format!(
                "{gateway}: no gateway with a fresh round trip has room; {connections}, the \
                 fewest of the rest"
            );
        };
        let here = |line: &&ExplainLine| {
            line.group == chosen.group
                && matches!(line.verdict, Verdict::Chosen | Verdict::MoreConnections)
        };
        let group = self.lines.iter().filter(here).count();
        let equal = self.lines.iter().filter(here);
        let equal = equal.filter(|line| line.connections == chosen.connections).count();
        let lowest = format!("{gateway}: lowest group with room ({from_ms}-{to_ms} ms)");
        match (group, equal) {
            (..=1, _) => format!("{lowest}, the only one there"),
            (_, ..=1) => format!("{lowest}, fewest of {group} there ({connections})"),
            _ => format!("{lowest}, {connections} like {} more: drawn by lot", equal - 1),
        }
    }
}
