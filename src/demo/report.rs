//! What `ringway demo` prints: the twelve steps with their durations, the
//! gateway choice with its reasons, the session's numbers and the relay's
//! latency - for people, or as JSON. Numbers in, text out.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::style::Style;
use crate::core::ids::GatewayId;
use crate::core::selection::{Explain, ExplainLine, GROUP_WIDTH_US, Remark, RttSource, Verdict};

/// Who acts in each of the twelve steps, and what happens.
pub const STEPS: [(&str, &str); 12] = [
    ("client", "subscribes to the workspace"),
    ("identity", "authenticates the user"),
    ("client", "passes the token to the feed"),
    ("feed", "validates the token"),
    ("feed", "returns signed connections"),
    ("client", "stores them as .rdp files"),
    ("gateway", "is selected for the client"),
    ("gateway", "validates and asks the broker"),
    ("broker", "picks and orders the host"),
    ("host", "dials the same gateway"),
    ("gateway", "relays"),
    ("client", "starts RDP with the host"),
];

/// One run through all twelve steps. Its serialization is the contract of
/// `ringway demo --once --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    steps: Vec<TimedStep>,
    pub gateway: GatewayChoice,
    pub session: SessionNumbers,
    pub relay_latency_us: RelayLatency,
}

#[derive(Clone, Debug, Serialize)]
struct TimedStep {
    step: usize,
    name: String,
    #[serde(rename = "ms", serialize_with = "as_ms")]
    took: Duration,
}

/// Which gateway carried the session, and why.
#[derive(Clone, Debug, Serialize)]
pub struct GatewayChoice {
    pub chosen: GatewayId,
    #[serde(serialize_with = "as_lines")]
    pub explain: Explain,
}

/// What the session came to.
#[derive(Clone, Debug, Serialize)]
pub struct SessionNumbers {
    /// Client to host.
    pub bytes_up: u64,
    /// Host to client.
    pub bytes_down: u64,
    pub pixels_verified: bool,
    pub close_reason: String,
}

/// Added by the relay: from the completion of a receive to that of the send.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RelayLatency {
    /// Client to host.
    pub up: Percentiles,
    /// Host to client.
    pub down: Percentiles,
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    pub p50: u64,
    pub p99: u64,
}

impl Report {
    /// `durations` are those of steps 1 to 12, in order.
    #[must_use]
    pub fn new(
        durations: [Duration; 12],
        gateway: GatewayChoice,
        session: SessionNumbers,
        relay_latency_us: RelayLatency,
    ) -> Self {
        let steps = STEPS.iter().zip(durations).enumerate();
        let steps = steps.map(|(index, ((who, what), took))| TimedStep {
            step: index + 1,
            name: format!("{who} {what}"),
            took,
        });
        Self { steps: steps.collect(), gateway, session, relay_latency_us }
    }

    /// One line of JSON.
    ///
    /// # Errors
    /// None that this type can cause; the serializer's are passed on.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Everything, for people: the steps, then [`Report::summary`].
    #[must_use]
    pub fn timeline(&self, style: Style) -> String {
        let mut text = heading(style);
        for step in &self.steps {
            text += &step_line(step.step, step.took, style);
        }
        let total: Duration = self.steps.iter().map(|step| step.took).sum();
        let _infallible = writeln!(
            text,
            "      {:<WHO$} {:<WHAT$} {}",
            "",
            "all twelve",
            style.bold(&format!("{:>TOOK$}", milliseconds(total)))
        );
        text + &self.summary(style)
    }

    /// What comes after the steps; for a caller that printed each as it
    /// happened.
    #[must_use]
    pub fn summary(&self, style: Style) -> String {
        let chosen = &self.gateway.chosen;
        format!(
            "\n{}\n{}\n{}\n{}\n{}\n{}",
            style.bold(&format!("Gateway {chosen} was chosen")),
            explain_table(&self.gateway.explain, style),
            style.bold("Session"),
            self.session.lines(style),
            style.bold("Latency added by the relay"),
            self.relay_latency_us.lines(style),
        )
    }
}

const WHO: usize = 9;
const WHAT: usize = 30;
const TOOK: usize = 11;
const BAR_WIDTH_MAX: usize = 24;

/// The line above the steps.
#[must_use]
pub fn heading(style: Style) -> String {
    let line = format!("step  {:<WHO$} {:<WHAT$} {:>TOOK$}", "who", "what happens", "took");
    format!("{}\n", style.faint(&line))
}

/// The line of one step, numbered from 1, ending in a line break. A number
/// that is no step gives nothing.
#[must_use]
pub fn step_line(step: usize, took: Duration, style: Style) -> String {
    let Some((who, what)) = step.checked_sub(1).and_then(|index| STEPS.get(index)) else {
        return String::new();
    };
    let took_text = format!("{:>TOOK$}", milliseconds(took));
    let bar = style.accent(&"▪".repeat(bar_length(took)));
    let line = format!("{step:>4}  {} {what:<WHAT$} {took_text}  {bar}", padded_who(who, style));
    format!("{}\n", line.trim_end())
}

/// Padded first: a terminal counts no escape codes, `format!` does.
fn padded_who(who: &str, style: Style) -> String {
    let padded = format!("{who:<WHO$}");
    let code = match who {
        "client" => "34",
        "identity" => "35",
        "gateway" => "33",
        "host" => "32",
        _ => "36",
    };
    style.paint(code, &padded)
}

/// Logarithmic, a mark per factor of two from half a millisecond: steps differ
/// by three orders of magnitude.
fn bar_length(took: Duration) -> usize {
    let halves = took.as_micros() / 500;
    let marks = u128::BITS - halves.leading_zeros();
    usize::try_from(marks).unwrap_or(BAR_WIDTH_MAX).min(BAR_WIDTH_MAX)
}

fn explain_table(explain: &Explain, style: Style) -> String {
    let name_width = explain.lines.iter().map(|line| line.gateway.as_str().len()).max();
    let name_width = name_width.unwrap_or(0).max("gateway".len());
    let head = format!(
        "    {:<name_width$}  {:>11}  {:<11}  {:>11}  why",
        "gateway", "round trip", "group", "sessions"
    );
    let mut table = format!("{}\n", style.faint(&head));
    for line in &explain.lines {
        table += &explain_line(line, name_width, style);
    }
    table
}

fn explain_line(line: &ExplainLine, name_width: usize, style: Style) -> String {
    let round_trip = line
        .rtt
        .map_or_else(|| "unknown".to_owned(), |rtt| milliseconds(Duration::from_micros(rtt.us)));
    let group = line.group.map_or_else(String::new, |group| {
        let width_ms = GROUP_WIDTH_US / 1000;
        format!("{}-{} ms", group * width_ms, (group + 1) * width_ms)
    });
    let sessions = format!("{}/{}", line.connections, line.capacity);
    let text = format!(
        "{:<name_width$}  {round_trip:>11}  {group:<11}  {sessions:>11}  {}",
        line.gateway.as_str(),
        why(line)
    );
    match line.verdict {
        Verdict::Chosen => format!("  {} {text}\n", style.good("✓")),
        _ => format!("    {}\n", style.faint(&text)),
    }
}

fn why(line: &ExplainLine) -> String {
    let measured = match line.rtt.map(|rtt| rtt.source) {
        Some(RttSource::Client) => ", measured by the client",
        Some(RttSource::Probe) => ", probed between gateways",
        Some(RttSource::Entry) => ", asked by the client",
        None => "",
    };
    match line.verdict {
        _ if line.remark == Some(Remark::Unreachable) => "unreachable when last tried".to_owned(),
        _ if line.remark == Some(Remark::Stays) => {
            format!("passed over: the session stays where it was{measured}")
        }
        Verdict::Chosen => format!("lowest group, fewest sessions{measured}"),
        Verdict::MoreConnections => {
            format!("same group, more sessions or behind on the tie{measured}")
        }
        Verdict::HigherGroup => format!("higher latency group{measured}"),
        Verdict::Full => "full".to_owned(),
        Verdict::Draining => "draining".to_owned(),
        Verdict::Unmeasured => "no round trip known".to_owned(),
        Verdict::Stale => "round trip too old".to_owned(),
    }
}

impl SessionNumbers {
    fn lines(&self, style: Style) -> String {
        let pixels =
            if self.pixels_verified { style.good("verified") } else { style.bad("not verified") };
        format!(
            "    pixels         {pixels}\n    client → host  {}\n    host → client  {}\n    closed         {}\n",
            bytes(self.bytes_up),
            bytes(self.bytes_down),
            self.close_reason
        )
    }
}

impl RelayLatency {
    fn lines(&self, style: Style) -> String {
        let line = |name: &str, p: Percentiles| {
            format!("    {name:<13}  {:>8} µs  {:>8} µs\n", p.p50, p.p99)
        };
        let head = format!("    {:<13}  {:>11}  {:>11}", "", "p50", "p99");
        format!(
            "{}\n{}{}",
            style.faint(&head),
            line("client → host", self.up),
            line("host → client", self.down)
        )
    }
}

/// `12.345 ms`: three digits, because a relay step takes microseconds.
fn milliseconds(duration: Duration) -> String {
    let us = duration.as_micros();
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

/// `1.2 MiB`: one digit after the point, bytes exactly below 1 KiB.
fn bytes(count: u64) -> String {
    let (unit, name) = match count {
        0..0x400 => return format!("{count} B"),
        0x400..0x10_0000 => (0x400, "KiB"),
        0x10_0000..0x4000_0000 => (0x10_0000, "MiB"),
        _ => (0x4000_0000_u64, "GiB"),
    };
    format!("{}.{} {name}", count / unit, count % unit * 10 / unit)
}

fn as_ms<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Whole microseconds, so that no digits are printed that nobody measured.
    let us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    serializer.serialize_f64(f64::from(us) / 1000.0)
}

fn as_lines<S: Serializer>(explain: &Explain, serializer: S) -> Result<S::Ok, S::Error> {
    explain.lines.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::core::ids::SessionId;
    use crate::core::selection::{Candidate, Rtt, Way, select};

    fn candidate(us: u64, connections: u32) -> Candidate {
        Candidate {
            mark: us,
            way: Way::Measured(Rtt { us, age_ms: 10, source: RttSource::Client }),
            connections,
            in_flight: 0,
            capacity: 1000,
            draining: false,
        }
    }

    fn report() -> Report {
        let names = ["gw-1", "gw-2", "gw-far-away"];
        let unmeasured = Candidate { way: Way::Unmeasured, ..candidate(0, 0) };
        let candidates = [candidate(212, 3), candidate(180, 7), unmeasured];
        let selection = select(candidates, SessionId([1; 16]), None);
        let explain = selection.explain(|index| names[index].parse().ok());
        let mut durations = [Duration::from_micros(1_250); 12];
        durations[10] = Duration::from_micros(38);
        durations[11] = Duration::from_millis(143);
        Report::new(
            durations,
            GatewayChoice { chosen: "gw-1".parse().unwrap(), explain },
            SessionNumbers {
                bytes_up: 2_877,
                bytes_down: 1_317_431,
                pixels_verified: true,
                close_reason: "client_closed".into(),
            },
            RelayLatency {
                up: Percentiles { p50: 12, p99: 40 },
                down: Percentiles { p50: 14, p99: 210 },
            },
        )
    }

    #[test]
    fn the_timeline_is_aligned() {
        let expected = "\
step  who       what happens                          took
   1  client    subscribes to the workspace       1.250 ms  ▪▪
   2  identity  authenticates the user            1.250 ms  ▪▪
   3  client    passes the token to the feed      1.250 ms  ▪▪
   4  feed      validates the token               1.250 ms  ▪▪
   5  feed      returns signed connections        1.250 ms  ▪▪
   6  client    stores them as .rdp files         1.250 ms  ▪▪
   7  gateway   is selected for the client        1.250 ms  ▪▪
   8  gateway   validates and asks the broker     1.250 ms  ▪▪
   9  broker    picks and orders the host         1.250 ms  ▪▪
  10  host      dials the same gateway            1.250 ms  ▪▪
  11  gateway   relays                            0.038 ms
  12  client    starts RDP with the host        143.000 ms  ▪▪▪▪▪▪▪▪▪
                all twelve                      155.538 ms

Gateway gw-1 was chosen
    gateway       round trip  group           sessions  why
  ✓ gw-1            0.212 ms  0-10 ms           3/1000  lowest group, fewest sessions, measured by the client
    gw-2            0.180 ms  0-10 ms           7/1000  same group, more sessions or behind on the tie, measured by the client
    gw-far-away      unknown                    0/1000  no round trip known

Session
    pixels         verified
    client → host  2.8 KiB
    host → client  1.2 MiB
    closed         client_closed

Latency added by the relay
                           p50          p99
    client → host        12 µs        40 µs
    host → client        14 µs       210 µs
";
        assert_eq!(report().timeline(Style::PLAIN), expected);
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let coloured = report().timeline(Style::for_output(true, None));
        assert!(coloured.contains("\x1b[1;32mverified\x1b[0m"));
        let mut plain = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once("\x1b[") {
            plain += before;
            rest = after.split_once('m').unwrap().1;
        }
        plain += rest;
        assert_eq!(plain, report().timeline(Style::PLAIN));
    }

    #[test]
    fn the_json_is_the_contract() {
        let value: Value = serde_json::from_str(&report().json().unwrap()).unwrap();
        let steps = value["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 12);
        assert_eq!(
            steps[11],
            json!({"step": 12, "name": "client starts RDP with the host", "ms": 143.0})
        );
        assert_eq!(steps[10]["ms"], 0.038);
        assert!(steps.iter().zip(1..).all(|(step, number)| step["step"] == number));
        assert_eq!(value["gateway"]["chosen"], "gw-1");
        let explain = value["gateway"]["explain"].as_array().unwrap();
        assert_eq!(
            explain[0],
            json!({
                "gateway": "gw-1",
                "rtt": {"us": 212, "age_ms": 10, "source": "client"},
                "group": 0,
                "connections": 3,
                "in_flight": 0,
                "capacity": 1000,
                "verdict": "chosen",
            })
        );
        assert_eq!(
            value["session"],
            json!({
                "bytes_up": 2_877,
                "bytes_down": 1_317_431,
                "pixels_verified": true,
                "close_reason": "client_closed",
            })
        );
        assert_eq!(
            value["relay_latency_us"],
            json!({"up": {"p50": 12, "p99": 40}, "down": {"p50": 14, "p99": 210}})
        );
        assert_eq!(value.as_object().unwrap().len(), 4);
    }

    #[test]
    fn a_failed_check_is_not_painted_as_a_success() {
        let mut failed = report();
        failed.session.pixels_verified = false;
        assert!(failed.timeline(Style::PLAIN).contains("pixels         not verified\n"));
    }

    #[test]
    fn sizes_keep_one_digit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1023.9 KiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn there_is_no_step_0_and_no_step_13() {
        assert_eq!(step_line(0, Duration::ZERO, Style::PLAIN), "");
        assert_eq!(step_line(13, Duration::ZERO, Style::PLAIN), "");
    }
}
