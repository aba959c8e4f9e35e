//! The report in Markdown: numbers in, text out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::charts::Drawn;
use crate::engines::Engine;
use crate::goals::judge;
use crate::legs::Leg;
use crate::machine::Machine;
use crate::results::{Row, Run};
use crate::statistics::Summary;
use crate::works::{Plan, Work};

/// Those that have a table together.
const FRAMINGS: [Work; 3] = [Work::FramingBulkDown, Work::FramingBulkUp, Work::FramingMix];

/// Below this share of the offered messages a run was not the same work.
const DELIVERED_MIN: f64 = 0.98;
/// Above this share of its core the generator measures itself.
const GENERATOR_BUSY_MAX: f64 = 0.95;

/// Above this share of the machine in other guests' hands, tails of latency
/// are the host's.
const STOLEN_PERCENT_MAX: f64 = 1.0;

/// All that is reported.
pub struct Report<'a> {
    pub plan: &'a Plan,
    pub machine: &'a Machine,
    pub rows: &'a [Row],
    pub runs: &'a [Run],
    pub charts: &'a [Drawn],
    /// Folder of charts and histograms, as it is linked.
    pub folder: &'a str,
    /// File names of the histograms in it.
    pub histograms: &'a [String],
}

impl Report<'_> {
    pub fn markdown(&self) -> String {
        [
            self.head(),
            self.goals(),
            self.works(),
            self.framings(),
            self.drawn(),
            self.generator(),
            self.nulls(),
            Self::engines(),
            self.raw(),
        ]
        .concat()
    }

    fn head(&self) -> String {
        let mut text = "# Ringway beside other relays\n\n\
            Written by `perf/compare`; `README.md` says how to read it and what it does not show.\n\
            Medians of the rounds, in brackets the lowest and the highest. Ratios are Ringway divided by\n\
            the other, from the same run.\n\n"
            .to_owned();
        let _ = writeln!(text, "{}.\n", self.plan.describe());
        if self.plan.quick {
            text.push_str("**A quick run: short and once. Good for orders of magnitude.**\n\n");
        }
        let stolen = self.runs.iter().filter_map(|run| run.outcome.as_ref().ok()?.stolen_percent());
        if let Some(stolen) =
            Summary::of(stolen).filter(|stolen| stolen.median > STOLEN_PERCENT_MAX)
        {
            let _ = writeln!(
                text,
                "**Other guests of this machine's host had {:.0} % of it in the median run, {:.0} % in the\n\
                 worst. CPU figures compare with caution, tails of latency do not: they are the host's.**\n",
                stolen.median, stolen.high
            );
        }
        text.push_str("| machine | |\n| --- | --- |\n");
        for (name, value) in self.machine.facts() {
            let _ = writeln!(text, "| {} | {value} |", name.replace('_', " "));
        }
        text
    }

    fn goals(&self) -> String {
        let judged = judge(self.rows);
        if judged.is_empty() {
            return String::new();
        }
        let mut text = "\n## What it has to reach\n\n\
            | work | sessions | measure | must | aim | now | the floor | |\n\
            | --- | ---: | --- | --- | --- | ---: | ---: | --- |\n"
            .to_owned();
        for goal in judged {
            let now = goal.value.map_or("–".to_owned(), shown);
            let floor = goal.floor.map_or("–".to_owned(), shown);
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {now} | {floor} | {} |",
                goal.work.key(),
                goal.sessions,
                goal.measure,
                goal.must,
                goal.aim,
                goal.verdict.text()
            );
        }
        text
    }

    fn works(&self) -> String {
        let mut text = String::new();
        for work in Work::ALL.into_iter().filter(|work| !FRAMINGS.contains(work)) {
            let rows: Vec<_> = self.rows.iter().filter(|row| row.work == work).collect();
            if rows.is_empty() {
                continue;
            }
            let (title, explained) = explain(work);
            let _ =
                writeln!(text, "\n## {title}\n\n`{}`, {}. {explained}\n", work.key(), unit(work));
            text.push_str("| sessions |");
            for engine in Engine::COMPARED {
                let _ = write!(text, " {} |", engine.title());
            }
            text.push_str(" × HAProxy | × nginx | × floor |\n| ---: |");
            text.push_str(&" ---: |".repeat(Engine::COMPARED.len() + 3));
            text.push('\n');
            for row in rows {
                text.push_str(&values(row));
                text.push_str(&beside(row));
            }
        }
        text
    }

    /// One line for each way in which a client may come.
    fn framings(&self) -> String {
        if !self.rows.iter().any(|row| row.leg.is_some()) {
            return String::new();
        }
        let mut text = "\n## Clients' framings\n\n\
            Ringway alone: the same work, while clients reach the gateway in the ways that it speaks;\n\
            session hosts stay raw. 8 sessions in bulk, 300 in the mix. Less is better.\n\n\
            | leg |"
            .to_owned();
        for work in FRAMINGS {
            let (title, _) = explain(work);
            let _ = write!(text, " {title}, {} (`{}`) | × raw |", unit(work), work.key());
        }
        text.push_str(" |\n| --- |");
        text.push_str(&" ---: | ---: |".repeat(FRAMINGS.len()));
        text.push_str(" --- |\n");
        for leg in Leg::ALL {
            let _ = write!(text, "| {} |", leg.key());
            for work in FRAMINGS {
                let is_it = |row: &&Row| {
                    row.work == work && row.leg.is_some_and(|(of_row, _)| of_row == leg)
                };
                let row = self.rows.iter().find(is_it);
                let value = row.and_then(|row| row.value(Engine::Ringway));
                let value = value.map_or("–".to_owned(), summary);
                let ratio = row.and_then(Row::ratio_raw);
                let ratio = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
                let _ = write!(text, " {value} | {ratio} |");
            }
            let _ = writeln!(text, " {} |", leg.title());
        }
        text
    }

    fn drawn(&self) -> String {
        if self.charts.is_empty() {
            return String::new();
        }
        let mut text = "\n## Charts\n".to_owned();
        for chart in self.charts {
            let _ = write!(text, "\n![{}]({}/{})\n", chart.title, self.folder, chart.file);
        }
        text
    }

    /// Whether the generator could do what it was asked for.
    fn generator(&self) -> String {
        let mut text = "\n## What the generator did\n\n\
            Where it uses its whole core, or does not deliver what it offers, the run shows the\n\
            generator's limit or the relay's, and latencies are those of an overloaded machine.\n\n\
            | run | engine | delivered of offered | generator's core | stolen | sent late, p99 µs | |\n\
            | --- | --- | ---: | ---: | ---: | ---: | --- |\n"
            .to_owned();
        let mut groups: BTreeMap<(String, Engine), Vec<&crate::measure::Measured>> =
            BTreeMap::new();
        for run in self.runs.iter().filter(|run| run.engine != Engine::Floor) {
            if let Ok(measured) = &run.outcome {
                groups.entry((run.scenario.key(), run.engine)).or_default().push(measured);
            }
        }
        for ((scenario, engine), measured) in groups {
            let delivered = Summary::of(measured.iter().filter_map(|m| m.delivered()));
            let busy = Summary::of(measured.iter().filter_map(|m| m.generator_busy()));
            let late = Summary::of(
                measured.iter().filter_map(|m| Some(m.generator.as_ref()?.late_us?.p99)),
            );
            let stolen =
                Summary::of(measured.iter().filter_map(|m| Some(m.stolen_percent()? / 100.0)));
            let percent = |share: Option<Summary>| {
                share.map_or("–".to_owned(), |share| format!("{:.0} %", share.median * 100.0))
            };
            let short = delivered.is_some_and(|share| share.low < DELIVERED_MIN);
            let full = busy.is_some_and(|share| share.high > GENERATOR_BUSY_MAX);
            let remark = match (short, full) {
                (true, _) => "not all delivered",
                // Bulk and ping are as fast as they go: one side is always full.
                (false, true) if delivered.is_some() => "generator full",
                _ => "",
            };
            let late = late.map_or("–".to_owned(), |late| shown(late.median));
            let _ = writeln!(
                text,
                "| {scenario} | {} | {} | {} | {} | {late} | {remark} |",
                engine.title(),
                percent(delivered),
                percent(busy),
                percent(stolen),
            );
        }
        text
    }

    fn nulls(&self) -> String {
        let mut reasons: BTreeMap<(&str, Engine), Vec<String>> = BTreeMap::new();
        for row in self.rows {
            for (engine, reason) in &row.missing {
                let works = reasons.entry((reason, *engine)).or_default();
                let name = format!("{} ({})", row.work.key(), row.sessions);
                works.push(name);
            }
        }
        let mut text = "\n## What has no number, and why\n\n".to_owned();
        for ((reason, engine), works) in reasons {
            let reason = reason.replace('|', "/");
            let _ = writeln!(text, "- {}: {reason}. In {}.", engine.title(), works.join(", "));
        }
        text
    }

    fn engines() -> String {
        let mut text = "\n## Who does what\n\n".to_owned();
        for engine in Engine::COMPARED {
            let _ = writeln!(text, "- **{}** {}", engine.title(), engine.does());
        }
        text
    }

    fn raw(&self) -> String {
        if self.histograms.is_empty() {
            return String::new();
        }
        let mut text = "\n## Raw histograms\n\n\
            Standard HdrHistogram interval logs of the last round, microseconds:\n"
            .to_owned();
        for file in self.histograms {
            let _ = writeln!(text, "[{file}]({}/{file})", self.folder);
        }
        text
    }
}

fn values(row: &Row) -> String {
    let mut text = format!("| {} |", row.sessions);
    for engine in Engine::COMPARED {
        let value = row.value(engine).map_or("–".to_owned(), summary);
        let _ = write!(text, " {value} |");
    }
    for other in [Engine::Haproxy, Engine::Nginx, Engine::Floor] {
        let ratio = row.ratio(other).map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        let _ = write!(text, " {ratio} |");
    }
    text.push('\n');
    text
}

/// What belongs beside a row, as a row of its own below it.
fn beside(row: &Row) -> String {
    let Some((key, numbers)) = &row.beside else { return String::new() };
    let mut text = format!("| {} |", key.replace('_', " "));
    for engine in Engine::COMPARED {
        let value = numbers.get(&engine).map_or("–".to_owned(), |number| summary(*number));
        let _ = write!(text, " {value} |");
    }
    let without = [Engine::Direct, Engine::DirectTcp].into_iter().filter_map(|engine| {
        Some(format!("{}: {}", engine.title(), shown(numbers.get(&engine)?.median)))
    });
    let without = without.collect::<Vec<_>>().join("; ");
    let _ = writeln!(text, " {without} | | |");
    text
}

fn summary(of: Summary) -> String {
    match of.rounds {
        1 => shown(of.median),
        _ => format!("{} ({}–{})", shown(of.median), shown(of.low), shown(of.high)),
    }
}

/// Three digits, or whole numbers.
fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

const fn unit(work: Work) -> &'static str {
    match work {
        Work::Bulk | Work::FramingBulkDown | Work::FramingBulkUp => "CPU seconds per GB",
        Work::Mix | Work::FramingMix => "CPU microseconds per message",
        Work::Ping => "messages per second and core",
        Work::LatencyP50 | Work::LatencyP99 | Work::LatencyP999 => "added microseconds",
        Work::IdleRss => "bytes of resident memory per pair",
        Work::Handshake => "full TLS 1.3 handshakes per second and core",
        Work::StalledReader | Work::StormP99 => "p99 divided by its quiet value",
    }
}

const fn explain(work: Work) -> (&'static str, &'static str) {
    match work {
        Work::Bulk => (
            "Bulk",
            "Downloads as fast as they go; a GB is 10⁹ bytes of plaintext. Less is better.",
        ),
        Work::Mix => (
            "RDP mix",
            "The default mix of RDP profiles at a fixed offered rate; of 1,000 users two in three are \
             away, so that the rate is about that of 300. A message is one write of a profile. Less \
             is better.",
        ),
        Work::Ping => (
            "Ping-pong",
            "64 bytes there and back on every session, again and again. More is better.",
        ),
        Work::LatencyP50 => (
            "Latency, median",
            "From the runs of the mix: the percentile end to end minus that of the same round \
             without a relay; below it the percentile as it was measured. Less is better.",
        ),
        Work::LatencyP99 => ("Latency, 99th percentile", "As above."),
        Work::LatencyP999 => ("Latency, 99.9th percentile", "As above."),
        Work::IdleRss => (
            "Idle memory",
            "All pairs open at once and silent but for heartbeats; the kernel's socket memory is not \
             in it. Less is better.",
        ),
        Work::Handshake => (
            "Handshakes",
            "Full handshake, one small HTTP request and its answer, close. HAProxy and nginx answer \
             by themselves, without a second leg. The generator verifies the first handshake of a \
             run, and believes those that show the same certificate. More is better.",
        ),
        Work::StalledReader => (
            "One reader stalls",
            "One more session whose client never reads, beside 100 that work: their p99 against the \
             same without it, and how much resident memory the run added. Unchanged is the goal.",
        ),
        Work::StormP99 => (
            "Reconnect storm",
            "500 full handshakes per second on the same port, beside the mix at 300 sessions. Those of \
             HAProxy and nginx are relayed like any connection, with a dial to the sink.",
        ),
        Work::FramingBulkDown => ("bulk down", ""),
        Work::FramingBulkUp => ("bulk up", ""),
        Work::FramingMix => ("mix", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Runs, tests::runs};
    use crate::works::tests::plan;

    fn report(plan: &Plan) -> String {
        let runs = runs(plan);
        let rows = Runs(&runs).rows(plan);
        let charts =
            [Drawn { file: "bulk.svg".to_owned(), title: "Bulk".to_owned(), svg: String::new() }];
        Report {
            plan,
            machine: &Machine::of(vec![("cpu", "a cpu".into()), ("cores", 2.into())]),
            rows: &rows,
            runs: &runs,
            charts: &charts,
            folder: "report",
            histograms: &["mix-300-ringway.hlog".to_owned()],
        }
        .markdown()
    }

    #[test]
    fn every_work_has_a_table_with_every_engine() {
        let text = report(&plan(false, &[]));
        for work in Work::ALL {
            assert!(text.contains(&format!("`{}`", work.key())), "{}", work.key());
        }
        let row = text.lines().find(|line| line.starts_with("| 64 | 0.300 (0.270–0.330)")).unwrap();
        assert!(row.contains("| 0.33 |") && row.contains("| 1.25 |"), "{row}");
        let websocket = text.lines().find(|line| line.starts_with("| websocket |")).unwrap();
        assert!(websocket.contains("| 0.330 (0.297–0.363) | 1.10 |"), "{websocket}");
        let goal = "| framing_bulk_up | 8 | tsgu-http, ratio to raw | ≤ 1.15 | ≤ 1.05 | 1.20 | – | **missed** |";
        assert!(text.contains(goal), "{text}");
        assert!(text.contains("| cpu | a cpu |"));
        assert!(text.contains("](report/bulk.svg)"));
        assert!(text.contains("](report/mix-300-ringway.hlog)"));
        assert!(text.contains(
            "| bulk | 64 | ratio to HAProxy | ≤ 0.38 | ≤ 0.3 | 0.333 | 0.267 | reached |"
        ));
    }

    #[test]
    fn tables_have_as_many_cells_in_every_row() {
        let text = report(&plan(true, &[]));
        let mut cells = None;
        for line in text.lines() {
            if line.starts_with('|') {
                let own = line.matches('|').count();
                assert_eq!(*cells.get_or_insert(own), own, "{line}");
            } else {
                cells = None;
            }
        }
    }

    #[test]
    fn an_engine_without_a_number_has_its_reason() {
        let text = report(&plan(true, &[]));
        assert!(text.contains("- rathole: it broke. In bulk (1), bulk (8), bulk (64),"), "{text}");
        assert!(text.contains("- epoll copy: its visitors come without TLS"));
        assert!(text.contains("quick run"));
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([0.1234, 1.234, 12.34, 123.4].map(shown), ["0.123", "1.23", "12.3", "123"]);
    }
}
