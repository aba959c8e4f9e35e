//! What a run found, for programs and for people.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::framing::ClientLeg;
use super::sample::{Machine, Sample};
use super::tally::{Faults, Tally};
use crate::observe::histogram_log::{self, Interval};
use crate::observe::histograms::Percentiles;

/// From here on the tail of a latency says more about the host than the relay.
const STOLEN_PERCENT_SHOWN: f64 = 1.0;

/// A number of each direction.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BothWays<T> {
    pub up: T,
    pub down: T,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latencies {
    pub up: Percentiles,
    pub down: Percentiles,
    pub all: Percentiles,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Generator {
    pub cpu_s: f64,
    /// How late it was with sending.
    pub late_us: Percentiles,
}

/// At three moments: before the first session, with all of them, after the last.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Moments {
    pub before: u64,
    pub during: u64,
    pub after: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Process {
    pub cpu_s: f64,
    pub rss_bytes: Moments,
    pub descriptors: Moments,
    /// Output slots that hold bytes; of a gateway of the bench's own.
    pub output_slots: Moments,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Handshakes {
    pub count: u64,
    pub failed: u64,
    pub per_s: f64,
    pub per_s_per_core: Option<f64>,
    pub latency_us: Percentiles,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub bench: &'static str,
    pub machine: Machine,
    pub target: String,
    pub leg: ClientLeg,
    pub profile: String,
    pub sessions: u32,
    pub seconds: f64,
    pub arrival: &'static str,
    pub latency_basis: &'static str,
    pub messages: BothWays<u64>,
    pub bytes: BothWays<u64>,
    pub offered_messages_per_s: f64,
    pub delivered_messages_per_s: f64,
    pub latency_us: Latencies,
    pub generator: Generator,
    pub process: Option<Process>,
    pub cpu_s_per_gb: Option<f64>,
    pub cpu_us_per_message: Option<f64>,
    pub messages_per_s_per_core: Option<f64>,
    pub handshakes: Option<Handshakes>,
    pub rss_bytes_per_session: Option<u64>,
    pub verified_bytes: u64,
    pub faults: Vec<String>,
}

/// What was measured between two samples.
#[derive(Debug)]
pub struct Measured<'a> {
    pub tally: &'a Tally,
    pub elapsed: Duration,
    /// Of the relay's processes; absent when there are none to sample.
    pub relay: Option<Window>,
    pub ourselves: Window,
}

/// Samples around and outside what was measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    pub before_sessions: Sample,
    pub begin: Sample,
    pub end: Sample,
    pub after_sessions: Sample,
}

impl Window {
    fn cpu_s(&self) -> f64 {
        seconds(self.end.cpu_ns.saturating_sub(self.begin.cpu_ns))
    }

    const fn moments(&self, of: fn(&Sample) -> u64) -> BothMoments {
        BothMoments { window: *self, of }
    }
}

struct BothMoments {
    window: Window,
    of: fn(&Sample) -> u64,
}

impl From<BothMoments> for Moments {
    fn from(BothMoments { window, of }: BothMoments) -> Self {
        Self {
            before: of(&window.before_sessions),
            during: of(&window.end),
            after: of(&window.after_sessions),
        }
    }
}

/// What a run was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub bench: &'static str,
    pub target: String,
    pub leg: ClientLeg,
    pub profile: String,
    pub sessions: u32,
    pub is_open_loop: bool,
}

impl Report {
    #[must_use]
    pub fn of(asked: Asked, measured: &Measured<'_>, machine: Machine, faults: &Faults) -> Self {
        let tally = measured.tally;
        let elapsed_s = measured.elapsed.as_secs_f64().max(1e-9);
        let messages = BothWays { up: tally.messages_up, down: tally.messages_down };
        let bytes = BothWays { up: tally.bytes_up, down: tally.bytes_down };
        let relay = measured.relay;
        let per = |amount: f64, scale: f64| {
            relay.map(|relay| relay.cpu_s() * scale / amount).filter(|_| amount > 0.0)
        };
        let all_messages = float(messages.up + messages.down);
        let count = tally.handshake_us.len();
        let used_s = relay.map(|relay| relay.cpu_s()).filter(|used| *used > 0.0);
        let handshakes = (count + tally.handshakes_failed > 0).then(|| Handshakes {
            count,
            failed: tally.handshakes_failed,
            per_s: float(count) / elapsed_s,
            per_s_per_core: used_s.map(|used_s| float(count) / used_s),
            latency_us: Percentiles::of(&tally.handshake_us),
        });
        Self {
            bench: asked.bench,
            machine,
            target: asked.target,
            leg: asked.leg,
            profile: asked.profile,
            sessions: asked.sessions,
            seconds: elapsed_s,
            arrival: if asked.is_open_loop {
                "open loop: messages are sent when they are due, whatever became of those before"
            } else {
                "closed loop: as fast as it goes"
            },
            latency_basis: if asked.is_open_loop {
                "from the moment a message was due to the arrival of its last byte (corrected for coordinated omission)"
            } else {
                "from the moment a message could be sent to the arrival of its last byte"
            },
            messages,
            bytes,
            offered_messages_per_s: float(tally.messages_planned) / elapsed_s,
            delivered_messages_per_s: all_messages / elapsed_s,
            latency_us: Latencies {
                up: Percentiles::of(&tally.up_us),
                down: Percentiles::of(&tally.down_us),
                all: Percentiles::of(&all(tally)),
            },
            generator: Generator {
                cpu_s: measured.ourselves.cpu_s(),
                late_us: Percentiles::of(&tally.late_us),
            },
            process: relay.map(|relay| Process {
                cpu_s: relay.cpu_s(),
                rss_bytes: relay.moments(|sample| sample.rss_bytes).into(),
                descriptors: relay.moments(|sample| sample.descriptors).into(),
                output_slots: relay.moments(|sample| sample.output_slots).into(),
            }),
            cpu_s_per_gb: per(float(bytes.up + bytes.down), 1e9),
            cpu_us_per_message: per(all_messages, 1e6),
            messages_per_s_per_core: used_s.map(|used_s| all_messages / used_s),
            handshakes,
            rss_bytes_per_session: relay.and_then(|relay| {
                let grown = relay.end.rss_bytes.saturating_sub(relay.before_sessions.rss_bytes);
                grown.checked_div(u64::from(asked.sessions))
            }),
            verified_bytes: bytes.up + bytes.down,
            faults: faults.list(),
        }
    }

    /// A table for people.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "  {name:<22} {value}");
        };
        line("through", self.target.clone());
        line("clients' legs", self.leg.to_string());
        line("sessions", format!("{} ({})", self.sessions, self.profile));
        line("time", format!("{:.1} s, {}", self.seconds, self.arrival));
        line("messages", format!("{} up, {} down", self.messages.up, self.messages.down));
        line(
            "messages per second",
            format!(
                "{:.0} offered, {:.0} delivered",
                self.offered_messages_per_s, self.delivered_messages_per_s
            ),
        );
        line(
            "bytes",
            format!(
                "{:.1} MB up, {:.1} MB down, every one compared",
                float(self.bytes.up) / 1e6,
                float(self.bytes.down) / 1e6
            ),
        );
        if let Some(handshakes) = &self.handshakes {
            line(
                "handshakes",
                format!(
                    "{} ({:.0} per second), {} failed",
                    handshakes.count, handshakes.per_s, handshakes.failed
                ),
            );
            if let Some(rate) = handshakes.per_s_per_core {
                line("", format!("{rate:.0} per second of relay CPU"));
            }
        }
        if let Some(process) = &self.process {
            line("relay CPU", format!("{:.3} s", process.cpu_s));
            if let Some(cost) =
                self.cpu_s_per_gb.filter(|_| self.bytes.up + self.bytes.down > 1_000_000)
            {
                line("", format!("{cost:.3} s per GB"));
            }
            if let Some(cost) = self.cpu_us_per_message {
                line("", format!("{cost:.2} µs per message"));
            }
            let mb = |moments: Moments| {
                [moments.before, moments.during, moments.after]
                    .map(|bytes| format!("{:.1}", float(bytes) / 1e6))
                    .join(" / ")
            };
            line("relay memory", format!("{} MB before / during / after", mb(process.rss_bytes)));
            let Moments { before, during, after } = process.descriptors;
            line("relay descriptors", format!("{before} / {during} / {after}"));
            let Moments { before, during, after } = process.output_slots;
            line("relay output slots", format!("{before} / {during} / {after}"));
        }
        line(
            "generator",
            format!(
                "{:.2} s of CPU, late p99 {} µs",
                self.generator.cpu_s, self.generator.late_us.p99
            ),
        );
        if self.machine.stolen_percent >= STOLEN_PERCENT_SHOWN {
            line(
                "machine",
                format!(
                    "{:.0} % of it went to other guests of its host: latencies are theirs",
                    self.machine.stolen_percent
                ),
            );
        }
        let _ = writeln!(
            out,
            "\n  {:<12} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "latency, µs", "count", "p50", "p90", "p99", "p99.9", "max"
        );
        let rows = [
            ("up", Some(self.latency_us.up)),
            ("down", Some(self.latency_us.down)),
            ("handshake", self.handshakes.map(|handshakes| handshakes.latency_us)),
        ];
        for (name, percentiles) in rows {
            let Some(p) = percentiles.filter(|percentiles| percentiles.count > 0) else { continue };
            let _ = writeln!(
                out,
                "  {name:<12} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
                p.count, p.p50, p.p90, p.p99, p.p999, p.max
            );
        }
        for fault in &self.faults {
            let _ = writeln!(out, "\n  FAULT: {fault}");
        }
        out
    }
}

/// Both directions together.
fn all(tally: &Tally) -> Histogram<u64> {
    let mut all = tally.up_us.clone();
    // The bounds are the same: adding cannot fail.
    let _ = all.add(&tally.down_us);
    all
}

/// Writes what was measured as a standard HdrHistogram log (values in µs),
/// with a tag for each histogram.
///
/// # Errors
/// When the file cannot be written.
pub fn write_hlog(
    path: &Path,
    tally: &Tally,
    began: SystemTime,
    elapsed: Duration,
) -> anyhow::Result<()> {
    let histograms = [
        ("up", &tally.up_us),
        ("down", &tally.down_us),
        ("handshake", &tally.handshake_us),
        ("generator_late", &tally.late_us),
    ];
    let histograms = histograms.into_iter().filter(|(_, values)| !values.is_empty());
    let histograms = histograms.map(|(tag, values)| (tag.to_owned(), values.clone())).collect();
    let mut bytes = histogram_log::head("ringway bench", began);
    let interval = Interval { start: began, length: elapsed, histograms };
    bytes.extend_from_slice(&histogram_log::lines(&interval, Duration::ZERO));
    std::fs::write(path, bytes)?;
    Ok(())
}

fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}

/// Counts of a run are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
const fn float(count: u64) -> f64 {
    count as f64
}
