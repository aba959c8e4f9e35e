//! `ringway ctl histograms`: merges what gateways and their logs have, and draws
//! it: a table of percentiles, and each distribution as bars on a common
//! logarithmic scale.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use hdrhistogram::Histogram;

use super::ask;
use super::reach::default_gateway_socket;
use crate::demo::style::Style;
use crate::observe::histogram_log;
use crate::observe::histograms::{Measure, Merged, Percentiles};
use crate::wire::admin::{AdminRequest, AdminResponse, HistogramsView};

/// A longer log is not read: gateways write none.
const LOG_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Of the longest bar.
const BAR_CELLS: i32 = 48;
/// Drawn if enough values were measured to tell.
const QUANTILES: [(f64, &str); 8] = [
    (0.25, "25 %"),
    (0.5, "50 %"),
    (0.75, "75 %"),
    (0.9, "90 %"),
    (0.99, "99 %"),
    (0.999, "99.9 %"),
    (0.9999, "99.99 %"),
    (0.999_99, "99.999 %"),
];

/// # Errors
/// When a socket does not answer or a file is no log: percentiles of what
/// happens to be readable would be taken for those of all.
pub(crate) fn run(sockets: &[PathBuf], logs: &[PathBuf], json: bool) -> anyhow::Result<ExitCode> {
    let default = [default_gateway_socket()];
    let sockets = if sockets.is_empty() && logs.is_empty() { &default } else { sockets };
    let mut merged = Merged::default();
    for socket in sockets {
        add_gateway(socket, &mut merged).with_context(|| format!("from {}", socket.display()))?;
    }
    for log in logs {
        add_log(log, &mut merged).with_context(|| format!("from {}", log.display()))?;
    }
    if json {
        let response = AdminResponse::Histograms(HistogramsView::of(&merged));
        println!("{}", serde_json::to_string(&response)?);
        return Ok(ExitCode::SUCCESS);
    }
    let no_color = std::env::var_os("NO_COLOR");
    let style = Style::for_output(std::io::stdout().is_terminal(), no_color.as_deref());
    if sockets.len() + logs.len() > 1 {
        let sources = format!("of {} gateways and {} logs\n\n", sockets.len(), logs.len());
        print!("{}", style.faint(&sources));
    }
    print!("{}", render(&merged, style));
    Ok(ExitCode::SUCCESS)
}

fn add_gateway(socket: &Path, merged: &mut Merged) -> anyhow::Result<()> {
    let AdminResponse::Histograms(view) = ask(socket, &AdminRequest::Histograms)? else {
        anyhow::bail!("the answer is about something else; is this a gateway?");
    };
    anyhow::ensure!(
        !view.measured.is_empty(),
        "this gateway is too old to send its histograms; upgrade it"
    );
    for one in view.measured {
        let values = histogram_log::decode(&one.histogram).map_err(anyhow::Error::msg)?;
        merged.add(&one.measure, &values)?;
    }
    Ok(())
}

fn add_log(path: &Path, merged: &mut Merged) -> anyhow::Result<()> {
    let mut log = Vec::new();
    File::open(path)?.take(LOG_BYTES_MAX).read_to_end(&mut log)?;
    histogram_log::merge(&log, merged)?;
    Ok(())
}

fn render(merged: &Merged, style: Style) -> String {
    let rows = merged.iter().map(|(measure, values)| (measure, Percentiles::of(values)));
    let mut text = table(rows, style);
    let longest = merged.iter().map(|(_, values)| values.max()).max().unwrap_or(0);
    for (measure, values) in merged.iter().filter(|(_, values)| !values.is_empty()) {
        let meaning = Measure::ALL.iter().find(|(_, name, ..)| *name == measure);
        let meaning = meaning.map_or("", |(_, _, _, meaning)| *meaning);
        let _cannot_fail = writeln!(text, "\n{}  {}", style.bold(measure), style.faint(meaning));
        text.push_str(&drawing(values, longest, style));
    }
    if longest > 0 {
        let scale = format!("\nbars: 1 µs to {}, logarithmic\n", duration(longest));
        text.push_str(&style.faint(&scale));
    }
    text
}

/// One line per measure, numbers aligned at their right.
pub(crate) fn table<'a>(
    rows: impl Iterator<Item = (&'a str, Percentiles)>,
    style: Style,
) -> String {
    let head = ["MEASURE", "STEP", "COUNT", "P50", "P90", "P99", "P99.9", "MAX"].map(String::from);
    let mut lines = vec![head];
    lines.extend(rows.map(|(measure, p)| {
        let step = Measure::ALL.iter().find(|(_, name, ..)| *name == measure);
        let step = step.map_or("-", |(_, _, step, _)| *step).to_owned();
        let [p50, p90, p99, p999, max] = [p.p50, p.p90, p.p99, p.p999, p.max]
            .map(|us| if p.count == 0 { "-".to_owned() } else { duration(us) });
        [measure.to_owned(), step, p.count.to_string(), p50, p90, p99, p999, max]
    }));
    let mut widths = [0; 8];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column < 2 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(&if number == 0 { style.bold(&line) } else { line });
        text.push('\n');
    }
    text
}

fn drawing(values: &Histogram<u64>, longest: u64, style: Style) -> String {
    // A quantile that less than one value lies beyond is the maximum.
    let told_apart = |quantile: f64| (1.0 - quantile) * as_float(values.len()) >= 1.0;
    let quantiles = QUANTILES.into_iter().filter(|(quantile, _)| told_apart(*quantile));
    let lines = quantiles.map(|(quantile, name)| (name, values.value_at_quantile(quantile)));
    lines.chain([("max", values.max())]).fold(String::new(), |mut text, (name, us)| {
        let bar = style.accent(&bar(us, longest));
        let _cannot_fail = writeln!(text, "{name:>10}  {:>8}  {bar}", duration(us));
        text
    })
}

/// One cell for 1 µs, all of them for the longest, in between by orders of
/// magnitude.
fn bar(us: u64, longest: u64) -> String {
    let (us, longest) = (as_float(us.max(1)), as_float(longest.max(2)));
    let reaches = |cell: &i32| {
        longest.powf(f64::from(*cell) / f64::from(BAR_CELLS - 1))
            <= us * (1.0 + f64::EPSILON * 64.0)
    };
    (0..BAR_CELLS).take_while(reaches).map(|_| '█').collect()
}

/// Three digits and a unit.
fn duration(us: u64) -> String {
    let three = |value: f64| match value {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..999_500 => format!("{} ms", three(as_float(us) / 1e3)),
        _ => format!("{} s", three(as_float(us) / 1e6)),
    }
}

/// For drawing, where the last digits of huge numbers do not matter.
fn as_float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::histograms::latency;

    fn merged() -> Merged {
        let mut up = latency();
        for us in 1..=1_000 {
            up.saturating_record(us);
        }
        let mut handshake = latency();
        handshake.saturating_record(2_500);
        let mut merged = Merged::default();
        merged.add("relay_up", &up).unwrap();
        merged.add("handshake", &handshake).unwrap();
        merged.add("place", &latency()).unwrap();
        merged
    }

    #[test]
    fn the_table_is_aligned_and_in_the_order_of_the_steps() {
        let text = render(&merged(), Style::PLAIN);
        let table: Vec<_> = text.lines().take(4).collect();
        assert_eq!(
            table,
            [
                "MEASURE    STEP    COUNT      P50      P90      P99    P99.9      MAX",
                "handshake  7, 10       1  2.50 ms  2.50 ms  2.50 ms  2.50 ms  2.50 ms",
                "place      7           0        -        -        -        -        -",
                "relay_up   11, 12   1000   500 µs   900 µs   990 µs   999 µs  1.00 ms",
            ]
        );
    }

    #[test]
    fn the_drawing_shows_what_can_be_told_apart_on_one_scale() {
        let text = render(&merged(), Style::PLAIN);
        let of = |measure: &str| -> Vec<(String, usize)> {
            let drawings = text.split_once("\n\n").unwrap().1;
            let lines = drawings.lines().skip_while(|line| !line.starts_with(measure));
            let lines = lines.skip(1).take_while(|line| line.starts_with(' '));
            lines
                .map(|line| {
                    let name = line[..10].trim().to_owned();
                    (name, line.chars().filter(|c| *c == '█').count())
                })
                .collect()
        };
        let up = of("relay_up");
        let (names, bars): (Vec<_>, Vec<_>) = of("relay_up").into_iter().unzip();
        assert_eq!(names, ["25 %", "50 %", "75 %", "90 %", "99 %", "99.9 %", "max"]);
        assert!(bars.is_sorted() && bars[0] > 1, "{bars:?}");
        assert_eq!(of("handshake"), [("max".to_owned(), BAR_CELLS as usize)]);
        assert!(up[6].1 < BAR_CELLS as usize);
        assert!(text.ends_with("\nbars: 1 µs to 2.50 ms, logarithmic\n"), "{text}");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn durations_have_three_digits() {
        let texts = [0, 999, 1_000, 9_994, 99_940, 123_456, 999_600, 61_000_000].map(duration);
        let right =
            ["0 µs", "999 µs", "1.00 ms", "9.99 ms", "99.9 ms", "123 ms", "1.00 s", "61.0 s"];
        assert_eq!(texts, right);
    }
}
