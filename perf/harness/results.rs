//! From runs to rows: which number of which run makes a line of the result, and
//! the object that `--json` prints.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::engines::Engine;
use crate::legs::Leg;
use crate::measure::{Measured, Percentiles};
use crate::statistics::{Summary, ratio};
use crate::works::{Plan, Scenario, Work};

/// One run that was made.
pub struct Run {
    pub scenario: Scenario,
    pub engine: Engine,
    pub round: usize,
    /// Or why there is nothing.
    pub outcome: Result<Measured, String>,
}

/// One line of the result.
pub struct Row {
    pub work: Work,
    pub sessions: u32,
    pub values: BTreeMap<Engine, Summary>,
    /// Why an engine has no value.
    pub missing: BTreeMap<Engine, String>,
    /// What `values` was made of, or what belongs beside it: key, unit, numbers.
    pub beside: Option<(&'static str, BTreeMap<Engine, Summary>)>,
    /// Where clients' framings are compared: which one, and what Ringway has for
    /// raw legs.
    pub leg: Option<(Leg, Option<Summary>)>,
}

impl Row {
    pub fn value(&self, engine: Engine) -> Option<Summary> {
        self.values.get(&engine).copied()
    }

    /// Ringway against another.
    pub fn ratio(&self, other: Engine) -> Option<f64> {
        self.ratio_of(Engine::Ringway, other)
    }

    pub fn ratio_of(&self, engine: Engine, other: Engine) -> Option<f64> {
        ratio(self.value(engine), self.value(other))
    }

    /// A framing against none.
    pub fn ratio_raw(&self) -> Option<f64> {
        ratio(self.value(Engine::Ringway), self.leg?.1)
    }

    fn json(&self) -> Value {
        let mut row = Map::new();
        row.insert("work".to_owned(), self.work.key().into());
        row.insert("sessions".to_owned(), self.sessions.into());
        row.insert("unit".to_owned(), self.work.unit().into());
        for engine in Engine::COMPARED {
            let value = self.value(engine).map(|summary| rounded(summary.median));
            row.insert(engine.key().to_owned(), value.into());
        }
        for other in [Engine::Haproxy, Engine::Nginx, Engine::Floor] {
            let value = self.ratio(other).map(rounded);
            row.insert(format!("ratio_{}", other.key()), value.into());
        }
        let spread = |(engine, summary): (&Engine, &Summary)| {
            (engine.key().to_owned(), json!([rounded(summary.low), rounded(summary.high)]))
        };
        let spread: Map<_, _> = self.values.iter().map(spread).collect();
        row.insert("spread".to_owned(), spread.into());
        if let Some((leg, _)) = self.leg {
            row.insert("leg".to_owned(), leg.key().into());
            row.insert("ratio_raw".to_owned(), self.ratio_raw().map(rounded).into());
        }
        if let Some((key, values)) = &self.beside {
            let values: Map<_, _> = values
                .iter()
                .map(|(engine, summary)| (engine.key().to_owned(), rounded(summary.median).into()))
                .collect();
            row.insert((*key).to_owned(), values.into());
        }
        Value::Object(row)
    }
}

/// All that a comparison came to, as `--json` prints it.
pub fn json(machine: Value, rows: &[Row]) -> Value {
    json!({ "machine": machine, "rows": rows.iter().map(Row::json).collect::<Vec<_>>() })
}

/// Four digits that count are more than the rounds agree on.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a power of ten")]
    let scale = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// The runs of a comparison, to be asked for their numbers.
pub struct Runs<'a>(pub &'a [Run]);

impl Runs<'_> {
    fn of(&self, scenario: Scenario, engine: Engine, round: usize) -> Option<&Measured> {
        let is_it = |run: &&Run| (run.scenario, run.engine, run.round) == (scenario, engine, round);
        self.0.iter().find(is_it)?.outcome.as_ref().ok()
    }

    fn rounds(&self) -> BTreeSet<usize> {
        self.0.iter().map(|run| run.round).collect()
    }

    /// One number from each round.
    fn summary(&self, number: impl Fn(usize) -> Option<f64>) -> Option<Summary> {
        Summary::of(self.rounds().into_iter().filter_map(number))
    }

    fn each(
        &self,
        number: impl Fn(Engine, usize) -> Option<f64>,
        engines: &[Engine],
    ) -> BTreeMap<Engine, Summary> {
        let of = |engine: &Engine| Some((*engine, self.summary(|round| number(*engine, round))?));
        engines.iter().filter_map(of).collect()
    }

    /// Every row of the works of a plan.
    pub fn rows(&self, plan: &Plan) -> Vec<Row> {
        let of_work = |work: &Work| {
            let own = work.scenarios(plan);
            // The last of them is measured, the others it is compared with.
            let measured = match work {
                Work::Bulk => own.iter().skip(1).copied().collect(),
                Work::StalledReader | Work::StormP99 => own.last().copied().into_iter().collect(),
                _ => own,
            };
            measured.into_iter().map(|scenario| self.row(*work, scenario)).collect::<Vec<_>>()
        };
        plan.works.iter().flat_map(of_work).collect()
    }

    fn row(&self, work: Work, scenario: Scenario) -> Row {
        let values = self
            .each(|engine, round| self.number(work, scenario, engine, round), &Engine::COMPARED);
        let leg = match scenario {
            Scenario::Framed(load, leg) => {
                let raw = Scenario::Framed(load, Leg::Raw);
                let raw = |round| self.number(work, raw, Engine::Ringway, round);
                Some((leg, self.summary(raw)))
            }
            _ => None,
        };
        let missing = Engine::COMPARED
            .into_iter()
            .filter(|engine| !values.contains_key(engine))
            // That the others have no such clients is said once, with the table.
            .filter(|engine| leg.is_none() || *engine == Engine::Ringway)
            .map(|engine| (engine, self.reason(scenario, engine)))
            .collect();
        let with_baselines = [&Engine::COMPARED[..], &[Engine::Direct, Engine::DirectTcp]].concat();
        let beside = match work {
            Work::LatencyP50 | Work::LatencyP99 | Work::LatencyP999 => {
                let raw = |engine, round| {
                    Some(percentile(work, self.of(scenario, engine, round)?.latency()?))
                };
                Some(("raw_us", self.each(raw, &with_baselines)))
            }
            Work::StalledReader => {
                let growth = |engine, round| self.of(scenario, engine, round)?.rss_growth_bytes();
                Some(("rss_growth_bytes", self.each(growth, &Engine::COMPARED)))
            }
            _ => None,
        };
        Row { work, sessions: scenario.sessions(), values, missing, beside, leg }
    }

    fn number(&self, work: Work, scenario: Scenario, engine: Engine, round: usize) -> Option<f64> {
        if engine == Engine::Floor && work == Work::Bulk {
            return self.of(Scenario::Floor, engine, round)?.cpu_s_per_gb;
        }
        let own = self.of(scenario, engine, round)?;
        match work {
            Work::Bulk | Work::FramingBulkDown | Work::FramingBulkUp => own.cpu_s_per_gb,
            Work::Mix | Work::FramingMix => own.cpu_us_per_message,
            Work::Ping => own.messages_per_s_per_core,
            Work::LatencyP50 | Work::LatencyP99 | Work::LatencyP999 => {
                let direct = self.of(scenario, engine.without_relay()?, round)?;
                Some(percentile(work, own.latency()?) - percentile(work, direct.latency()?))
            }
            Work::IdleRss => own.rss_bytes_per_session,
            Work::Handshake => own.handshakes.as_ref()?.per_s_per_core,
            Work::StalledReader | Work::StormP99 => {
                let quiet = match work {
                    Work::StormP99 => Scenario::Mix(scenario.sessions()),
                    _ => Scenario::Busy(scenario.sessions()),
                };
                let quiet = self.of(quiet, engine, round)?.latency()?.p99;
                (quiet > 0.0).then_some(own.latency()?.p99 / quiet)
            }
        }
    }

    /// Why an engine has no number.
    fn reason(&self, scenario: Scenario, engine: Engine) -> String {
        if let Some(reason) = scenario.does_not_apply(engine) {
            return reason.to_owned();
        }
        let own = self.0.iter().filter(|run| (run.scenario, run.engine) == (scenario, engine));
        let failure = own.filter_map(|run| run.outcome.as_ref().err()).next();
        failure.cloned().unwrap_or_else(|| "the bench gave no number, or its baseline none".into())
    }
}

const fn percentile(work: Work, of: Percentiles) -> f64 {
    match work {
        Work::LatencyP50 => of.p50,
        Work::LatencyP999 => of.p999,
        _ => of.p99,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::measure::{BeforeDuring, Handshakes, Latencies, Process};
    use crate::works::tests::plan;

    /// What a bench might have said, scaled so that engines and rounds differ.
    fn measured(scale: f64) -> Measured {
        let all = Percentiles { p50: 40.0 * scale, p99: 200.0 * scale, p999: 900.0 * scale };
        let rss = BeforeDuring { before: 1000.0, during: 1000.0 + 500.0 * scale };
        Measured {
            latency_us: Some(Latencies { all: Some(all) }),
            process: Some(Process { rss_bytes: Some(rss) }),
            cpu_s_per_gb: Some(0.3 * scale),
            cpu_us_per_message: Some(10.0 * scale),
            messages_per_s_per_core: Some(100_000.0 / scale),
            handshakes: Some(Handshakes { per_s_per_core: Some(5_000.0 / scale) }),
            rss_bytes_per_session: Some(8_000.0 * scale),
            ..Measured::default()
        }
    }

    /// Runs of a whole plan: HAProxy costs three times as much as Ringway.
    pub fn runs(plan: &Plan) -> Vec<Run> {
        let run = |round: usize, (scenario, engine): (Scenario, Engine)| {
            let scale = match engine {
                Engine::Direct | Engine::DirectTcp => 0.5,
                Engine::Floor => 0.8,
                Engine::Haproxy => 3.0,
                _ => match scenario {
                    Scenario::Framed(_, Leg::Websocket) => 1.1,
                    Scenario::Framed(_, Leg::TsguHttp) => 1.2,
                    _ => 1.0,
                },
            };
            let outcome = match engine {
                Engine::Rathole => Err("it broke".to_owned()),
                _ => Ok(measured(scale * [1.0, 1.1, 0.9][round % 3])),
            };
            Run { scenario, engine, round, outcome }
        };
        (0..plan.rounds)
            .flat_map(|round| plan.runs(round).into_iter().map(move |pair| run(round, pair)))
            .collect()
    }

    fn find(rows: &[Row], work: Work, sessions: u32) -> &Row {
        rows.iter().find(|row| row.work == work && row.sessions == sessions).unwrap()
    }

    #[test]
    fn rows_have_medians_and_ratios() {
        let plan = plan(false, &[]);
        let runs = runs(&plan);
        let rows = Runs(&runs).rows(&plan);
        let bulk = find(&rows, Work::Bulk, 64);
        assert_eq!(bulk.value(Engine::Ringway).unwrap().median, 0.3);
        assert!((bulk.ratio(Engine::Haproxy).unwrap() - 1.0 / 3.0).abs() < 1e-9);
        assert!((bulk.ratio(Engine::Floor).unwrap() - 1.25).abs() < 1e-9);
        assert_eq!(find(&rows, Work::Ping, 64).ratio(Engine::Haproxy).unwrap().round(), 3.0);
        assert!(bulk.missing[&Engine::Rathole].contains("broke"));
    }

    #[test]
    fn added_latency_is_without_what_the_path_costs_anyway() {
        let plan = plan(true, &[Work::LatencyP50]);
        let runs = runs(&plan);
        let rows = Runs(&runs).rows(&plan);
        let row = find(&rows, Work::LatencyP50, 300);
        assert_eq!(row.value(Engine::Ringway).unwrap().median, 20.0);
        let (_, raw) = row.beside.as_ref().unwrap();
        assert_eq!((raw[&Engine::Ringway].median, raw[&Engine::Direct].median), (40.0, 20.0));
        assert!(!row.values.contains_key(&Engine::Direct));
    }

    #[test]
    fn the_json_has_every_work_and_every_side() {
        let plan = plan(true, &[]);
        let runs = runs(&plan);
        let object = json(json!({"cores": 2}), &Runs(&runs).rows(&plan));
        let rows = object["rows"].as_array().unwrap();
        for work in Work::ALL {
            let row = rows.iter().find(|row| row["work"] == work.key());
            let row = row.unwrap_or_else(|| panic!("no row for {}", work.key()));
            let is_framing = work.key().starts_with("framing");
            let all = ["ringway", "haproxy", "ratio_haproxy"];
            for key in all.into_iter().filter(|key| !is_framing || *key == "ringway") {
                assert!(row[key].is_f64(), "{key} in {row}");
            }
            for key in ["sessions", "unit", "nginx", "rathole", "epoll", "floor", "ratio_floor"] {
                assert!(row.get(key).is_some(), "{key} in {row}");
            }
        }
        let sessions = |work: &str| {
            let own = rows.iter().filter(|row| row["work"] == work);
            own.map(|row| row["sessions"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(sessions("bulk"), [1, 8, 64]);
        assert_eq!(sessions("mix"), [300, 1000]);
        assert_eq!(sessions("storm_p99"), [300]);
        let framing = |work: &str, leg: &str| {
            let is_it = |row: &&Value| row["work"] == work && row["leg"] == leg;
            rows.iter().find(is_it).unwrap()["ratio_raw"].as_f64()
        };
        for work in ["framing_bulk_down", "framing_bulk_up", "framing_mix"] {
            let ratios = Leg::ALL.map(|leg| framing(work, leg.key()));
            assert_eq!(ratios, [Some(1.0), Some(1.1), Some(1.0), Some(1.2)], "{work}");
        }
        assert!(rows.iter().all(|row| row.get("leg").is_some() == row.get("ratio_raw").is_some()));
        let handshake = rows.iter().find(|row| row["work"] == "handshake").unwrap();
        assert!(handshake["epoll"].is_null() && handshake["ratio_floor"].is_null());
        let stalled = rows.iter().find(|row| row["work"] == "stalled_reader").unwrap();
        assert_eq!(stalled["rss_growth_bytes"]["ringway"], 500.0);
        assert!(!object.to_string().contains('\n'));
    }

    #[test]
    fn four_digits_are_kept() {
        assert_eq!(rounded(0.123_456), 0.1235);
        assert_eq!(rounded(123_456.0), 123_500.0);
        assert_eq!(rounded(-2.0), -2.0);
        assert_eq!(rounded(0.0), 0.0);
    }
}
