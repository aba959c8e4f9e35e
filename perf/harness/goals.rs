//! What the relay has to reach, and whether it did: ratios within one run.

use crate::engines::Engine;
use crate::legs::Leg;
use crate::results::Row;
use crate::works::Work;

/// What is held against a goal.
#[derive(Clone, Copy, Debug)]
enum Measure {
    /// Ringway divided by another.
    RatioTo(Engine),
    /// A client's framing divided by none.
    RatioToRaw,
    /// Ringway's own number.
    Own,
}

/// The better side of a goal.
#[derive(Clone, Copy, Debug)]
enum Better {
    Below,
    Above,
}

struct Goal {
    works: &'static [Work],
    measure: Measure,
    better: Better,
    must: f64,
    aim: f64,
}

const LATENCY: &[Work] = &[Work::LatencyP50, Work::LatencyP99, Work::LatencyP999];

const FRAMING: &[Work] = &[Work::FramingBulkDown, Work::FramingBulkUp];

const GOALS: [Goal; 10] = [
    Goal::of(&[Work::Bulk], Measure::RatioTo(Engine::Haproxy), Better::Below, 0.38, 0.30),
    Goal::of(&[Work::Bulk], Measure::RatioTo(Engine::Floor), Better::Below, 1.3, 1.1),
    Goal::of(&[Work::Mix], Measure::RatioTo(Engine::Haproxy), Better::Below, 0.75, 0.6),
    Goal::of(&[Work::Ping], Measure::RatioTo(Engine::Haproxy), Better::Above, 1.7, 2.0),
    Goal::of(LATENCY, Measure::RatioTo(Engine::Haproxy), Better::Below, 1.0, 0.5),
    Goal::of(LATENCY, Measure::RatioTo(Engine::Nginx), Better::Below, 1.0, 0.5),
    Goal::of(&[Work::StormP99], Measure::Own, Better::Below, 1.5, 1.0),
    Goal::of(&[Work::IdleRss], Measure::Own, Better::Below, 12_000.0, 8_000.0),
    Goal::of(&[Work::Handshake], Measure::RatioTo(Engine::Haproxy), Better::Above, 2.0, 2.5),
    Goal::of(FRAMING, Measure::RatioToRaw, Better::Below, 1.15, 1.05),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Aim,
    Must,
    Missed,
    /// There is no number to judge.
    Open,
}

impl Verdict {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Aim => "aim reached",
            Self::Must => "reached",
            Self::Missed => "**missed**",
            Self::Open => "no number",
        }
    }
}

/// A goal beside what was measured.
pub struct Judged {
    pub work: Work,
    pub sessions: u32,
    pub measure: String,
    pub must: String,
    pub aim: String,
    pub value: Option<f64>,
    /// What the floor itself comes to by the same measure.
    pub floor: Option<f64>,
    pub verdict: Verdict,
}

impl Goal {
    const fn of(
        works: &'static [Work],
        measure: Measure,
        better: Better,
        must: f64,
        aim: f64,
    ) -> Self {
        Self { works, measure, better, must, aim }
    }

    fn judge(&self, row: &Row) -> Judged {
        let (measure, value) = match self.measure {
            Measure::RatioTo(other) => (format!("ratio to {}", other.title()), row.ratio(other)),
            Measure::RatioToRaw => {
                let leg = row.leg.map_or("", |(leg, _)| leg.key());
                (format!("{leg}, ratio to raw"), row.ratio_raw())
            }
            Measure::Own => {
                let value = row.value(Engine::Ringway).map(|summary| summary.median);
                (row.work.unit().to_owned(), value)
            }
        };
        let sign = match self.better {
            Better::Below => '≤',
            Better::Above => '≥',
        };
        let reaches = |value: f64, goal: f64| match self.better {
            Better::Below => value <= goal,
            Better::Above => value >= goal,
        };
        let floor = match self.measure {
            Measure::RatioTo(Engine::Floor) | Measure::RatioToRaw | Measure::Own => None,
            Measure::RatioTo(other) => row.ratio_of(Engine::Floor, other),
        };
        let verdict = match value {
            None => Verdict::Open,
            Some(value) if reaches(value, self.aim) => Verdict::Aim,
            Some(value) if reaches(value, self.must) => Verdict::Must,
            Some(_) => Verdict::Missed,
        };
        let goal = |goal: f64| format!("{sign} {goal}");
        let (must, aim) = (goal(self.must), goal(self.aim));
        Judged { work: row.work, sessions: row.sessions, measure, must, aim, value, floor, verdict }
    }
}

/// Every goal with each row that it is about.
pub fn judge(rows: &[Row]) -> Vec<Judged> {
    let about = |goal: &'static Goal| {
        let is_raw = |row: &Row| row.leg.is_some_and(|(leg, _)| leg == Leg::Raw);
        let about = rows.iter().filter(move |row| goal.works.contains(&row.work) && !is_raw(row));
        about.map(|row| goal.judge(row))
    };
    GOALS.iter().flat_map(about).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Runs, tests::runs};
    use crate::works::tests::plan;

    #[test]
    fn goals_are_held_against_the_rows_they_are_about() {
        let plan = plan(true, &[]);
        let runs = runs(&plan);
        let judged = judge(&Runs(&runs).rows(&plan));
        let verdict = |work: Work, measure: &str| {
            let found = judged.iter().find(|j| j.work == work && j.measure.contains(measure));
            found.unwrap().verdict
        };
        // Ringway costs a third of HAProxy and 1.25 times the floor here.
        assert_eq!(verdict(Work::Bulk, "HAProxy"), Verdict::Must);
        assert_eq!(verdict(Work::Bulk, "floor"), Verdict::Must);
        assert_eq!(verdict(Work::Mix, "HAProxy"), Verdict::Aim);
        assert_eq!(verdict(Work::Ping, "HAProxy"), Verdict::Aim);
        assert_eq!(verdict(Work::LatencyP99, "HAProxy"), Verdict::Aim);
        assert_eq!(verdict(Work::IdleRss, "rss"), Verdict::Aim);
        assert_eq!(verdict(Work::StormP99, "p99_ratio"), Verdict::Aim);
        assert_eq!(verdict(Work::FramingBulkUp, "websocket"), Verdict::Must);
        assert_eq!(verdict(Work::FramingBulkUp, "tsgu,"), Verdict::Aim);
        assert_eq!(verdict(Work::FramingBulkDown, "tsgu-http"), Verdict::Missed);
        assert!(!judged.iter().any(|judged| judged.measure.starts_with("raw")));
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let plan = plan(true, &[Work::Handshake]);
        let judged = judge(&Runs(&[]).rows(&plan));
        assert_eq!(judged.len(), 1);
        assert_eq!(judged[0].verdict, Verdict::Open);
    }

    #[test]
    fn what_the_floor_would_reach_stands_beside_ratios_to_others() {
        let plan = plan(true, &[Work::Bulk, Work::Handshake]);
        let runs = runs(&plan);
        for judged in judge(&Runs(&runs).rows(&plan)) {
            // There is a floor for bulk alone, and no floor of the floor.
            let expected = judged.work == Work::Bulk && judged.measure.contains("HAProxy");
            assert_eq!(
                judged.floor.is_some(),
                expected,
                "{} {}",
                judged.work.key(),
                judged.measure
            );
            if let (Some(floor), Some(value)) = (judged.floor, judged.value) {
                // Ringway costs 1.25 times the floor here.
                assert!((value / floor - 1.25).abs() < 0.01, "{value} {floor}");
            }
        }
    }
}
