//! `ringway bench disconnect`: how long it takes from an administrator's order
//! until the clients see the end, while many other sessions stay.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::deployment::Marks;
use super::framing::ClientLeg;
use super::options::{Direction, DisconnectArgs};
use super::profile::Profile;
use super::run::{Bench, run_for};
use super::sample::{CoreTime, Machine};
use crate::cli::ctl;
use crate::observe::histograms::{Percentiles, latency};
use crate::wire::admin::{AdminResponse, BrokerRequest, Whom};

/// Descriptors of a process that are not legs.
const OTHER_DESCRIPTORS: u64 = 512;
/// All clients of a round have seen the end by then.
const ROUND_LIMIT: Duration = Duration::from_secs(10);
/// Between two rounds, so that none is in the other's way.
const PAUSE_SECONDS: f64 = 0.5;

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct DisconnectReport {
    pub bench: &'static str,
    pub machine: Machine,
    pub leg: ClientLeg,
    /// As many as the limit of descriptors allows.
    pub sessions: u32,
    pub sessions_asked: u32,
    pub rounds: u32,
    /// Sessions that one order ends.
    pub ended_each: u32,
    /// From the start of the command to the close_notify at the client.
    pub close_us: Percentiles,
    /// From the start of the command to its answer.
    pub answer_us: Percentiles,
    pub faults: Vec<String>,
}

impl DisconnectReport {
    #[must_use]
    pub fn render(&self) -> String {
        let Self { sessions, sessions_asked, rounds, ended_each, close_us, answer_us, .. } = self;
        let ms = |us: u64| us as f64 / 1_000.0;
        let mut text = format!(
            "{sessions} sessions live, {rounds} orders that end {ended_each} of them each\n\
             close at the client  p50 {:.1} ms  p99 {:.1} ms  max {:.1} ms  ({} sessions)\n\
             answer               p50 {:.1} ms  max {:.1} ms\n",
            ms(close_us.p50),
            ms(close_us.p99),
            ms(close_us.max),
            close_us.count,
            ms(answer_us.p50),
            ms(answer_us.max),
        );
        if sessions < sessions_asked {
            text += &format!(
                "{sessions_asked} sessions were asked for; the limit of descriptors allows {sessions}\n"
            );
        }
        self.faults.iter().for_each(|fault| text += &format!("fault: {fault}\n"));
        text
    }
}

/// # Errors
/// When the run cannot be made. What went wrong in it is in the report.
pub fn run(args: &DisconnectArgs) -> anyhow::Result<DisconnectReport> {
    anyhow::ensure!(
        args.common.through.is_none(),
        "only our own broker takes the order: leave --through out"
    );
    let marks = Marks { users: args.rounds, sessions_each: args.end };
    let leg = args.clients.leg;
    let sessions = args.sessions.min(room_for_sessions(leg));
    anyhow::ensure!(
        marks.sessions() <= sessions,
        "{} sessions are too few for {} orders that end {} each",
        sessions,
        args.rounds,
        args.end
    );
    let mut bench = Bench::start_marked(&args.common, leg, sessions, Direction::Down, marks)?;
    let admin = bench.target.broker_socket().context("there is no broker of ours")?;
    bench.open(vec![Profile::Idle; sessions as usize])?;
    bench.engine.start_traffic();
    run_for(&mut bench.engine, "warming up", args.warm_up_seconds)?;

    let began = CoreTime::now();
    let (mut close_us, mut answer_us) = (latency(), latency());
    for round in 0..args.rounds {
        let numbers = marks.numbers_of(round);
        for number in numbers.clone() {
            bench.engine.expect_end(number);
        }
        let (admin, whom) = (admin.clone(), Whom::User { user: Marks::user(round) });
        let order = move || -> anyhow::Result<(Instant, Duration, u32)> {
            let began = Instant::now();
            match ctl::ask(&admin, &BrokerRequest::Disconnect { whom })? {
                AdminResponse::Disconnected { live, .. } => Ok((began, began.elapsed(), live)),
                other => anyhow::bail!("the broker answered {other:?}"),
            }
        };
        let ordering = std::thread::spawn(order);
        let ends = |engine: &super::engine::Engine| -> Vec<Instant> {
            let session = |number: u32| engine.sessions().get(number as usize);
            numbers.clone().filter_map(|number| session(number)?.ended_at).collect()
        };
        bench.engine.run(ROUND_LIMIT, |engine| ends(engine).len() == args.end as usize)?;
        let ordered = ordering.join().map_err(|_| anyhow::anyhow!("the order panicked"))?;
        let (began, took, live) = ordered?;
        let ends = ends(&bench.engine);
        if (ends.len(), live) != (args.end as usize, args.end) {
            bench.engine.faults.add(format!(
                "order {round} ended {live} sessions, {} of {} clients saw it",
                ends.len(),
                args.end
            ));
        }
        record(&mut answer_us, took);
        ends.into_iter().for_each(|end| record(&mut close_us, end.duration_since(began)));
        run_for(&mut bench.engine, "pausing", PAUSE_SECONDS)?;
    }
    let stolen_percent = CoreTime::now().stolen_percent_since(&began);
    bench.settle()?;
    bench.close()?;
    Ok(DisconnectReport {
        bench: "disconnect",
        machine: Machine::here(bench.engine.congestion_control(), stolen_percent),
        leg,
        sessions,
        sessions_asked: args.sessions,
        rounds: args.rounds,
        ended_each: args.end,
        close_us: Percentiles::of(&close_us),
        answer_us: Percentiles::of(&answer_us),
        faults: bench.engine.faults.list(),
    })
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

/// Both ends are ours: two legs each, or three.
fn room_for_sessions(leg: ClientLeg) -> u32 {
    let legs = if leg == ClientLeg::TsguHttp { 3 } else { 2 };
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    u32::try_from(most.saturating_sub(OTHER_DESCRIPTORS) / legs).unwrap_or(u32::MAX)
}
