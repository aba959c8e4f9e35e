//! The charts of the report, from rows and from the recorded latencies.

use std::path::Path;

use crate::engines::Engine;
use crate::hlog;
use crate::plot::{Chart, Scale, Series};
use crate::results::Row;
use crate::works::Work;

/// A chart with the name of its file.
pub struct Drawn {
    pub file: String,
    pub title: String,
    pub svg: String,
}

/// Every chart for which there are numbers. `kept` has the recorded latencies:
/// sessions, engine and file.
pub fn draw(rows: &[Row], kept: &[(u32, Engine, &Path)]) -> anyhow::Result<Vec<Drawn>> {
    let mut drawn = Vec::new();
    drawn.extend(bulk(rows).and_then(|chart| finish("bulk", chart)));
    let mut sessions: Vec<_> = kept.iter().map(|(sessions, _, _)| *sessions).collect();
    sessions.dedup();
    for sessions in sessions {
        let own = kept.iter().filter(|(of, _, _)| *of == sessions);
        let series = own.map(|(_, engine, file)| percentiles(*engine, file));
        let chart = latency(sessions, series.collect::<anyhow::Result<_>>()?);
        drawn.extend(finish(&format!("latency-{sessions}"), chart));
    }
    Ok(drawn)
}

fn finish(name: &str, chart: Chart) -> Option<Drawn> {
    let svg = chart.svg()?;
    Some(Drawn { file: format!("{name}.svg"), title: chart.title, svg })
}

/// CPU per GB against sessions.
fn bulk(rows: &[Row]) -> Option<Chart> {
    let bulk: Vec<_> = rows.iter().filter(|row| row.work == Work::Bulk).collect();
    let series = Engine::COMPARED.into_iter().filter_map(|engine| {
        let point = |row: &&Row| Some((f64::from(row.sessions), row.value(engine)?.median));
        let points: Vec<_> = bulk.iter().filter_map(point).collect();
        (!points.is_empty()).then(|| Series { name: engine.title().to_owned(), points })
    });
    let tick = |row: &&Row| (f64::from(row.sessions), row.sessions.to_string());
    (!bulk.is_empty()).then(|| Chart {
        title: "Bulk: CPU of the relay per GB".to_owned(),
        x_label: "sessions".to_owned(),
        y_label: "CPU seconds per GB".to_owned(),
        x_ticks: bulk.iter().map(tick).collect(),
        y_scale: Scale::Linear,
        series: series.collect(),
    })
}

/// The usual axis of latency plots: each step to the right is one nine more.
fn latency(sessions: u32, series: Vec<Series>) -> Chart {
    let ticks = [(0.0, "0 %"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %")];
    let last = (0.9999, "99.99 %");
    Chart {
        title: format!("RDP mix, {sessions} sessions: latency end to end"),
        x_label: "percentile".to_owned(),
        y_label: "microseconds".to_owned(),
        x_ticks: ticks
            .into_iter()
            .chain([last])
            .map(|(quantile, text)| (nines(quantile), text.to_owned()))
            .collect(),
        y_scale: Scale::Logarithmic,
        series,
    }
}

fn percentiles(engine: Engine, file: &Path) -> anyhow::Result<Series> {
    let points = hlog::curve(file)?.into_iter().map(|(quantile, us)| (nines(quantile), us));
    Ok(Series { name: engine.title().to_owned(), points: points.collect() })
}

fn nines(quantile: f64) -> f64 {
    1.0 / (1.0 - quantile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Runs, tests::runs};
    use crate::works::tests::plan;

    #[test]
    fn bulk_is_drawn_for_every_engine_that_has_numbers() {
        let plan = plan(true, &[Work::Bulk]);
        let runs = runs(&plan);
        let drawn = draw(&Runs(&runs).rows(&plan), &[]).unwrap();
        assert_eq!(drawn.len(), 1);
        assert_eq!(drawn[0].file, "bulk.svg");
        // rathole failed in these runs.
        assert_eq!(drawn[0].svg.matches("<polyline").count(), Engine::COMPARED.len() - 1);
    }

    #[test]
    fn without_numbers_nothing_is_drawn() {
        assert!(draw(&[], &[]).unwrap().is_empty());
    }
}
