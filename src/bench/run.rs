//! The three benches, from the first session to the report.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::{Duration, Instant, SystemTime};

use super::deployment::Marks;
use super::engine::{Engine, Pace};
use super::framing::ClientLeg;
use super::options::{Common, Direction, HandshakeArgs, RelayArgs, SessionsArgs};
use super::profile::{Mix, Profile};
use super::progress;
use super::report::{Asked, Measured, Report, Window};
use super::sample::{CoreTime, Machine, Sample};
use super::session::{Session, State};
use super::storm::Storm;
use super::tally::Tally;
use super::target::Target;

/// All sessions together may take this long to open, and a bit for each.
const OPEN_LIMIT: Duration = Duration::from_secs(20);
const OPEN_LIMIT_EACH: Duration = Duration::from_millis(20);
/// What is under way when the load stops has this long to arrive.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);
const CLOSE_LIMIT: Duration = Duration::from_secs(15);
/// A process gives memory and descriptors back a moment after the last session.
const REST: Duration = Duration::from_millis(1_500);
/// On a busy machine it takes longer; what it has not given back by then it keeps.
const REST_LIMIT: Duration = Duration::from_secs(12);
/// How often memory and descriptors are looked at while sessions come and go.
const LOOK_AT_PEAK: Duration = Duration::from_millis(500);
/// What is due while the relay is looked at is late; by then it has arrived.
const AFTER_LOOK_S: f64 = 0.1;
/// With the default of 50 µs every sleep of the generator ends late.
const TIMER_SLACK_NS: u64 = 1;

/// A run that was made.
#[derive(Debug)]
pub struct Outcome {
    pub report: Report,
    pub tally: Tally,
    pub began: SystemTime,
    pub elapsed: Duration,
}

/// What a bench goes along with.
pub(super) struct Bench<'a> {
    common: &'a Common,
    pub(super) target: Target,
    pub(super) engine: Engine,
    before_sessions: Moment,
}

/// What was used until one moment.
#[derive(Clone, Copy, Debug)]
struct Moment {
    relay: Option<Sample>,
    ourselves: Sample,
    machine: CoreTime,
}

impl Moment {
    fn now(target: &Target, common: &Common) -> Self {
        let mut relay = target.sample(common);
        if let (Some(relay), Some(slots)) = (&mut relay, target.slots_used()) {
            relay.output_slots = slots;
        }
        Self { relay, ourselves: Sample::of_ourselves(), machine: CoreTime::now() }
    }

    /// The most of everything: times only grow, memory and descriptors peak.
    fn or_more(self, later: Self) -> Self {
        let relay = self.relay.zip(later.relay).map(|(one, other)| one.or_more(other));
        Self { relay, ourselves: self.ourselves.or_more(later.ourselves), machine: later.machine }
    }
}

impl<'a> Bench<'a> {
    fn start(
        common: &'a Common,
        leg: ClientLeg,
        sessions_max: u32,
        bulk: Direction,
    ) -> anyhow::Result<Self> {
        Self::start_marked(common, leg, sessions_max, bulk, Marks::default())
    }

    pub(super) fn start_marked(
        common: &'a Common,
        leg: ClientLeg,
        sessions_max: u32,
        bulk: Direction,
        marks: Marks,
    ) -> anyhow::Result<Self> {
        raise_descriptor_limit();
        let target = Target::start(common, sessions_max, marks)?;
        let engine = target.engine(common, leg, bulk)?;
        rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NS))?;
        let before_sessions = Moment::now(&target, common);
        Ok(Self { common, target, engine, before_sessions })
    }

    fn now(&self) -> Moment {
        Moment::now(&self.target, self.common)
    }

    /// Begins what is measured. Looking at everything takes milliseconds in which
    /// nothing is sent, so it is done just before; times are taken again.
    fn begin(&mut self) -> anyhow::Result<(SystemTime, Instant, Moment)> {
        let mut begin = self.now();
        self.engine.run(Duration::from_secs_f64(AFTER_LOOK_S), |_| false)?;
        let (began, since) = (SystemTime::now(), Instant::now());
        self.engine.tally.restart();
        if let Some(relay) = &mut begin.relay {
            relay.cpu_ns = self.target.cpu_ns(self.common);
        }
        begin.ourselves.cpu_ns = Sample::cpu_ns_of(&[std::process::id()]);
        begin.machine = CoreTime::now();
        Ok((began, since, begin))
    }

    /// Opens sessions until that many are live.
    pub(super) fn open(&mut self, profiles: Vec<Profile>) -> anyhow::Result<()> {
        let wanted = u32::try_from(profiles.len())?;
        let bar = progress("opening sessions", u64::from(wanted));
        for profile in profiles {
            self.engine.open(profile);
        }
        let limit = OPEN_LIMIT + OPEN_LIMIT_EACH * wanted;
        let all = self.engine.run(limit, |engine| {
            bar.set_position(u64::from(engine.census.opened));
            engine.census.opened >= wanted || engine.faults.count() > 0
        })?;
        bar.finish_and_clear();
        let faults = self.engine.faults.list();
        let log = self.target.log();
        anyhow::ensure!(faults.is_empty(), "sessions did not open: {}{log}", faults.join("; "));
        anyhow::ensure!(
            all,
            "only {} of {wanted} sessions opened in time",
            self.engine.census.opened
        );
        Ok(())
    }

    /// Stops the load, waits for what is under way, and names what is missing.
    pub(super) fn settle(&mut self) -> anyhow::Result<()> {
        self.engine.stop_traffic();
        let is_settled = |session: &Session| session.state != State::Live || session.is_settled();
        self.engine.run(SETTLE_LIMIT, |engine| engine.sessions().iter().all(is_settled))?;
        let missing: Vec<String> = self
            .engine
            .sessions()
            .iter()
            .enumerate()
            .filter(|(_, session)| !is_settled(session))
            .map(|(number, session)| {
                format!(
                    "session {number}: {} bytes up are missing from offset {}, {} bytes down from offset {}",
                    session.up.missing(), session.up.received(), session.down.missing(), session.down.received()
                )
            })
            .collect();
        missing.into_iter().for_each(|fault| self.engine.faults.add(fault));
        Ok(())
    }

    pub(super) fn close(&mut self) -> anyhow::Result<()> {
        for number in 0..self.engine.census.asked {
            self.engine.retire(number);
        }
        let all = self.engine.run(CLOSE_LIMIT, |engine| engine.live() == 0)?;
        if !all {
            let left = self.engine.live();
            self.engine.faults.add(format!("{left} sessions did not end in time"));
        }
        Ok(())
    }

    fn finish(
        mut self,
        asked: Asked,
        began: SystemTime,
        elapsed: Duration,
        tally: Tally,
        (begin, end): (Moment, Moment),
    ) -> anyhow::Result<Outcome> {
        let before = self.before_sessions;
        let descriptors = |moment: &Moment| moment.relay.map_or(0, |relay| relay.descriptors);
        let rests_since = Instant::now();
        let after = loop {
            self.engine.run(REST, |_| false)?;
            let now = self.now();
            if descriptors(&now) <= descriptors(&before) || rests_since.elapsed() > REST_LIMIT {
                break now;
            }
        };
        let window = |before_sessions, begin, end, after_sessions| Window {
            before_sessions,
            begin,
            end,
            after_sessions,
        };
        let relay = match (before.relay, begin.relay, end.relay, after.relay) {
            (Some(before), Some(begin), Some(end), Some(after)) => {
                Some(window(before, begin, end, after))
            }
            _ => None,
        };
        let ourselves = window(before.ourselves, begin.ourselves, end.ourselves, after.ourselves);
        let stolen_percent = end.machine.stolen_percent_since(&begin.machine);
        let machine = Machine::here(self.engine.congestion_control(), stolen_percent);
        let measured = Measured { tally: &tally, elapsed, relay, ourselves };
        let report = Report::of(asked, &measured, machine, &self.engine.faults);
        Ok(Outcome { report, tally, began, elapsed })
    }
}

/// # Errors
/// When the run cannot be made. What went wrong in it is in the report.
pub fn relay(args: &RelayArgs) -> anyhow::Result<Outcome> {
    let mix = args.users.mix();
    let all = args.sessions + args.stalled;
    let mut bench = Bench::start(&args.common, args.clients.leg, all, args.direction)?;
    let mut profiles: Vec<Profile> =
        (0..args.sessions as usize).map(|index| mix.profile_of(index)).collect();
    profiles.resize(all as usize, Profile::Bulk);
    bench.open(profiles)?;

    bench.engine.stall_from(args.sessions, true);
    bench.engine.start_traffic();
    run_for(&mut bench.engine, "warming up", args.warm_up_seconds)?;
    let (began, since, begin) = bench.begin()?;
    let storm = (args.storm > 0.0)
        .then(|| Storm::begin(&bench.target, bench.common, args.storm))
        .transpose()?;
    run_for(&mut bench.engine, "measuring", args.seconds)?;
    let (elapsed, end) = (since.elapsed(), bench.now());
    let mut tally = std::mem::take(&mut bench.engine.tally);

    if let Some(storm) = storm {
        storm.calm(&mut tally, &mut bench.engine.faults)?;
    }
    bench.engine.stall_from(args.sessions, false);
    bench.settle()?;
    bench.close()?;
    let asked = Asked {
        bench: "relay",
        target: bench.target.to_string(),
        leg: args.clients.leg,
        profile: mix.to_string(),
        sessions: args.sessions,
        is_open_loop: mix.is_open_loop(),
    };
    bench.finish(asked, began, elapsed, tally, (begin, end))
}

/// # Errors
/// When the run cannot be made.
pub fn sessions(args: &SessionsArgs) -> anyhow::Result<Outcome> {
    if args.idle { idle(args) } else { come_and_go(args) }
}

/// All of them, silent.
fn idle(args: &SessionsArgs) -> anyhow::Result<Outcome> {
    let leg = args.clients.leg;
    let mut bench = Bench::start(&args.common, leg, args.sessions, Direction::Down)?;
    bench.open(vec![Profile::Idle; args.sessions as usize])?;
    bench.engine.start_traffic();
    // Each has sent and been sent something by then: heartbeats.
    run_for(&mut bench.engine, "warming up", 6.0)?;
    let (began, since, begin) = bench.begin()?;
    run_for(&mut bench.engine, "measuring", args.hold_seconds)?;
    let (elapsed, end) = (since.elapsed(), bench.now());
    let tally = std::mem::take(&mut bench.engine.tally);
    bench.settle()?;
    bench.close()?;
    let asked = Asked {
        bench: "sessions",
        target: bench.target.to_string(),
        leg,
        profile: Mix::of(Profile::Idle).to_string(),
        sessions: args.sessions,
        is_open_loop: true,
    };
    bench.finish(asked, began, elapsed, tally, (begin, end))
}

/// Sessions arrive at a fixed rate, stay a while, and leave.
fn come_and_go(args: &SessionsArgs) -> anyhow::Result<Outcome> {
    let mix = args.users.mix();
    anyhow::ensure!(mix.is_open_loop(), "bulk and ping do not come and go; use bench relay");
    let leg = args.clients.leg;
    let sessions_max = args.sessions.min(args.concurrent + 1_000);
    let mut bench = Bench::start(&args.common, leg, sessions_max, Direction::Down)?;
    let bar = progress("sessions over", u64::from(args.sessions));
    let (began, since) = (SystemTime::now(), Instant::now());
    let begin = bench.now();
    bench.engine.start_traffic();
    let hold = Duration::from_secs_f64(args.hold_seconds);
    let mut leaving: VecDeque<(Instant, u32)> = VecDeque::new();
    let limit = OPEN_LIMIT
        + OPEN_LIMIT_EACH * args.sessions
        + hold
        + Duration::from_secs(u64::from(args.sessions / args.rate.max(1)));
    let (target, common) = (&bench.target, bench.common);
    let (mut peak, mut look_at) = (begin, since);
    let done = bench.engine.run(limit, |engine| {
        let census = engine.census;
        let (over, now) = (census.closed + census.failed, Instant::now());
        bar.set_position(u64::from(over));
        let due = now.duration_since(since).as_millis() * u128::from(args.rate) / 1_000;
        let due = u32::try_from(due).unwrap_or(u32::MAX).min(args.sessions);
        let room = (over + args.concurrent).min(due);
        for number in census.asked..room {
            engine.open(mix.profile_of(number as usize));
            leaving.push_back((now + hold, number));
        }
        while let Some((at, number)) = leaving.front().copied().filter(|(at, _)| *at <= now) {
            leaving.pop_front();
            let is_opening = |session: &Session| session.state == State::Opening;
            if engine.sessions().get(number as usize).is_some_and(is_opening) {
                leaving.push_back((at + hold, number));
            } else {
                engine.retire(number);
            }
        }
        if now >= look_at {
            look_at = now + LOOK_AT_PEAK;
            peak = peak.or_more(Moment::now(target, common));
        }
        over >= args.sessions
    })?;
    bar.finish_and_clear();
    if !done {
        let over = bench.engine.census.closed;
        bench
            .engine
            .faults
            .add(format!("only {over} of {} sessions came and went in time", args.sessions));
    }
    let (elapsed, end) = (since.elapsed(), peak.or_more(bench.now()));
    let tally = std::mem::take(&mut bench.engine.tally);
    let asked = Asked {
        bench: "sessions",
        target: bench.target.to_string(),
        leg,
        profile: mix.to_string(),
        sessions: args.sessions,
        is_open_loop: true,
    };
    bench.finish(asked, began, elapsed, tally, (begin, end))
}

/// # Errors
/// When the run cannot be made.
pub fn handshake(args: &HandshakeArgs) -> anyhow::Result<Outcome> {
    let mut bench = Bench::start(&args.common, ClientLeg::Raw, 64, Direction::Down)?;
    let pace = args.rate.map_or(Pace::AtOnce(args.concurrent), Pace::PerSecond);
    bench.engine.shake(pace);
    run_for(&mut bench.engine, "warming up", args.warm_up_seconds)?;
    let (began, since, begin) = bench.begin()?;
    run_for(&mut bench.engine, "measuring", args.seconds)?;
    let (elapsed, end) = (since.elapsed(), bench.now());
    let tally = std::mem::take(&mut bench.engine.tally);
    bench.engine.shake(Pace::Off);
    let asked = Asked {
        bench: "handshake",
        target: bench.target.to_string(),
        leg: ClientLeg::Raw,
        profile: "a full TLS 1.3 handshake and one answered request".into(),
        sessions: 0,
        is_open_loop: args.rate.is_some(),
    };
    bench.finish(asked, began, elapsed, tally, (begin, end))
}

pub(super) fn run_for(engine: &mut Engine, what: &'static str, seconds: f64) -> anyhow::Result<()> {
    anyhow::ensure!(
        (0.0..=86_400.0).contains(&seconds),
        "{seconds} seconds is not a time to run for"
    );
    let (since, total) = (Instant::now(), Duration::from_secs_f64(seconds));
    let bar = progress(what, u64::try_from(total.as_millis()).unwrap_or(u64::MAX));
    engine.run(total, |_| {
        bar.set_position(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
        false
    })?;
    bar.finish_and_clear();
    Ok(())
}

/// Two descriptors a session, and as many as may be had.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Too few show when a socket cannot be made.
    let _ = setrlimit(Resource::Nofile, limit);
}
