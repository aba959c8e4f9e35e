//! Runs the same work through Ringway and the others, in alternation, and writes
//! what came out. `perf/compare` builds everything, makes the private network
//! and starts this in it; `perf/README.md` says how to read the result.

mod charts;
mod engines;
mod goals;
mod hlog;
mod legs;
mod machine;
mod measure;
mod plot;
mod report;
mod results;
mod rivals;
mod statistics;
mod works;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser;
use rustix::process::{Resource, getrlimit};

use crate::engines::Engine;
use crate::machine::Machine;
use crate::measure::{Measured, Programs};
use crate::report::Report;
use crate::results::{Run, Runs};
use crate::rivals::Rivals;
use crate::works::{Load, Plan, Scenario, Work};

/// Charts and histograms lie in a folder of this name beside the report.
const FOLDER: &str = "report";

#[derive(Debug, Parser)]
#[command(name = "compare", about = "Compares relays; perf/compare starts it in the right place")]
struct Args {
    /// Once and short: done within 8 minutes
    #[arg(long)]
    quick: bool,
    /// Print the result as one JSON object, in the last line
    #[arg(long)]
    json: bool,
    /// How often everything is measured
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100))]
    rounds: Option<usize>,
    /// Only these works
    #[arg(long, value_name = "WORK", value_delimiter = ',')]
    only: Vec<Work>,
    /// How long the stalled reader stalls, in seconds
    #[arg(long, value_name = "S")]
    stalled_seconds: Option<u32>,
    /// Where report.md goes, and the folder `report` beside it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the other relays are installed
    #[arg(long, value_name = "DIR")]
    rivals: PathBuf,
    /// Scratch for configurations and logs
    #[arg(long, value_name = "DIR")]
    scratch: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match compare(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("compare: Ringway failed in some runs; the report says how");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all of Ringway's runs succeeded.
fn compare(args: &Args) -> anyhow::Result<bool> {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let descriptors = u32::try_from(descriptors).unwrap_or(u32::MAX);
    let plan = Plan::new(args.quick, args.rounds, &args.only, descriptors)
        .with_stalled_seconds(args.stalled_seconds);
    // This program lies among the examples, `ringway` one folder up.
    let own = std::env::current_exe()?;
    let examples = own.parent().context("this program has no folder")?.to_owned();
    let ringway = examples.parent().context("examples have no folder above")?.join("ringway");
    let programs = Programs { ringway, examples, folder: args.scratch.clone() };
    let rivals = Rivals::prepare(&args.rivals, &programs.examples, &args.scratch, descriptors)?;
    let mut machine = Machine::look(&plan, &rivals.versions());
    let folder = args.out.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;

    let runs = run_all(&plan, &programs, &rivals, &folder);
    machine.saw(&runs);
    let rows = Runs(&runs).rows(&plan);
    let kept = kept(&runs, &folder);
    let paths: Vec<_> =
        kept.iter().map(|(sessions, engine, path)| (*sessions, *engine, &**path)).collect();
    let charts = charts::draw(&rows, &paths)?;
    for chart in &charts {
        fs::write(folder.join(&chart.file), &chart.svg)?;
    }
    let file_name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
    let histograms: Vec<_> = kept.iter().filter_map(|(_, _, path)| file_name(path)).collect();
    let report = Report {
        plan: &plan,
        machine: &machine,
        rows: &rows,
        runs: &runs,
        charts: &charts,
        folder: FOLDER,
        histograms: &histograms,
    };
    let markdown = report.markdown();
    let path = args.out.join("report.md");
    fs::write(&path, &markdown).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("the report is {}", path.display());
    if args.json {
        println!("{}", results::json(machine.json(), &rows));
    } else {
        println!("{markdown}");
    }
    Ok(runs.iter().all(|run| run.engine != Engine::Ringway || run.outcome.is_ok()))
}

fn run_all(plan: &Plan, programs: &Programs, rivals: &Rivals, folder: &Path) -> Vec<Run> {
    let planned: Vec<_> = (0..plan.rounds)
        .flat_map(|round| plan.runs(round).into_iter().map(move |pair| (round, pair)))
        .collect();
    let expected_s = |from: usize| -> u32 {
        planned.iter().skip(from).map(|(_, (scenario, _))| plan.estimate_s(*scenario)).sum()
    };
    let begun = Instant::now();
    let mut runs = Vec::new();
    for (number, (round, (scenario, engine))) in planned.iter().copied().enumerate() {
        let outcome = run(plan, programs, rivals, folder, (scenario, engine))
            .map_err(|error| format!("{error:#}"));
        eprintln!(
            "[{}/{}] {} of about {}: round {}, {}, {}: {}",
            number + 1,
            planned.len(),
            clock(begun.elapsed().as_secs()),
            clock(begun.elapsed().as_secs() + u64::from(expected_s(number + 1))),
            round + 1,
            scenario.key(),
            engine.title(),
            match &outcome {
                Ok(measured) => headline(scenario, measured),
                Err(problem) => format!("failed: {problem}"),
            }
        );
        runs.push(Run { scenario, engine, round, outcome });
    }
    runs
}

fn run(
    plan: &Plan,
    programs: &Programs,
    rivals: &Rivals,
    folder: &Path,
    (scenario, engine): (Scenario, Engine),
) -> anyhow::Result<Measured> {
    let running =
        rivals.start(engine).with_context(|| format!("cannot start {}", engine.title()))?;
    let target = running.target(engine);
    let hlog = scenario.keeps_histogram().then(|| histogram(folder, scenario, engine));
    let measured = programs.run((scenario, engine), target.as_ref(), hlog.as_deref(), plan);
    running.stop();
    measured
}

fn histogram(folder: &Path, scenario: Scenario, engine: Engine) -> PathBuf {
    folder.join(format!("{}-{}.hlog", scenario.key(), engine.key()))
}

/// The histograms that these runs left, each once.
fn kept(runs: &[Run], folder: &Path) -> Vec<(u32, Engine, PathBuf)> {
    let mut kept: Vec<_> = runs
        .iter()
        .filter(|run| run.scenario.keeps_histogram() && run.outcome.is_ok())
        .map(|run| {
            let path = histogram(folder, run.scenario, run.engine);
            (run.scenario.sessions(), run.engine, path)
        })
        .collect();
    kept.sort();
    kept.dedup();
    kept
}

/// The number that a run was made for, for those who watch.
fn headline(scenario: Scenario, measured: &Measured) -> String {
    let (value, unit) = match scenario {
        Scenario::Floor | Scenario::Bulk(_) | Scenario::Framed(Load::Down | Load::Up, _) => {
            (measured.cpu_s_per_gb, "CPU s/GB")
        }
        Scenario::Framed(Load::Mix, _) => (measured.cpu_us_per_message, "CPU µs/message"),
        Scenario::Ping(_) => (measured.messages_per_s_per_core, "messages/s per core"),
        Scenario::Idle(_) => (measured.rss_bytes_per_session, "bytes per pair"),
        Scenario::Handshake => {
            let handshakes = measured.handshakes.as_ref();
            (handshakes.and_then(|handshakes| handshakes.per_s_per_core), "handshakes/s per core")
        }
        Scenario::Mix(_) | Scenario::Storm(_) | Scenario::Busy(_) | Scenario::Stalled(_) => {
            (measured.latency().map(|latency| latency.p99), "µs p99")
        }
    };
    value.map_or_else(|| "done".to_owned(), |value| format!("{value:.3} {unit}"))
}

fn clock(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
